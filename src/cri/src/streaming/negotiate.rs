//! Which protocol a request asks to be upgraded to.

use http::header::{CONNECTION, HeaderMap, HeaderName, UPGRADE};
use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::remote_command::Version;
use super::websocket::Protocol;

pub(crate) const SPDY: &str = "SPDY/3.1";
/// Version of the port-forward protocol over SPDY.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// WebSocket messages are pieces of a SPDY connection.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const WS_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WS_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
pub(crate) const WS_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
pub(crate) const WS_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");

/// What the connection becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Exec or attach over SPDY.
    SpdyCommand(Version),
    /// Port-forward over SPDY.
    SpdyPorts,
    /// Exec, attach or port-forward over WebSocket channels.
    Channels(Protocol),
    /// Port-forward over SPDY over WebSocket.
    Tunnel,
}

/// The headers of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) upgrade: Upgrade,
    pub(crate) headers: Vec<(HeaderName, String)>,
}

/// Why a request cannot be upgraded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

/// Chooses the protocol. `ports`: the request is for port-forwarding.
pub(crate) fn negotiate(method: &Method, headers: &HeaderMap, ports: bool) -> Result<Answer, Refusal> {
    let upgrades = tokens(headers, UPGRADE);
    let asked = tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    for upgrade in upgrades.filter(|_| asked) {
        if upgrade.eq_ignore_ascii_case(SPDY) {
            return spdy(headers, ports);
        }
        if upgrade.eq_ignore_ascii_case("websocket") && method == Method::GET {
            return websocket(headers, ports);
        }
    }
    Err(Refusal(StatusCode::BAD_REQUEST, format!("this URL needs an upgrade to {SPDY} or websocket")))
}

fn spdy(headers: &HeaderMap, ports: bool) -> Result<Answer, Refusal> {
    let mut offered = tokens(headers, STREAM_PROTOCOL).peekable();
    let chosen = if ports {
        // Clients that offer nothing mean the only version there is.
        let known = offered.peek().is_none() || offered.any(|name| name == PORT_FORWARD);
        known.then_some((PORT_FORWARD, Upgrade::SpdyPorts))
    } else if offered.peek().is_none() {
        Some((Version::V1.name(), Upgrade::SpdyCommand(Version::V1)))
    } else {
        offered
            .find_map(|name| Version::ALL.into_iter().find(|version| version.name() == name))
            .map(|version| (version.name(), Upgrade::SpdyCommand(version)))
    };
    let (name, upgrade) = chosen.ok_or_else(|| no_common(headers, STREAM_PROTOCOL))?;
    let headers = vec![(UPGRADE, SPDY.to_owned()), (STREAM_PROTOCOL, name.to_owned())];
    Ok(Answer { upgrade, headers })
}

fn websocket(headers: &HeaderMap, ports: bool) -> Result<Answer, Refusal> {
    let bad = |text: &str| Refusal(StatusCode::BAD_REQUEST, text.into());
    let key = headers.get(WS_KEY).ok_or_else(|| bad("websocket request without a key"))?;
    if headers.get(WS_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("only version 13 of websocket is served"));
    }
    let mut answer = vec![(UPGRADE, "websocket".to_owned()), (WS_ACCEPT, derive_accept_key(key.as_bytes()))];
    let mut offered = tokens(headers, WS_PROTOCOL).peekable();
    let upgrade = if offered.peek().is_none() {
        Upgrade::Channels(if ports { Protocol::V4 } else { Protocol::V1 })
    } else {
        let (name, upgrade) = offered
            .find_map(|name| websocket_protocol(name, ports).map(|upgrade| (name, upgrade)))
            .ok_or_else(|| no_common(headers, WS_PROTOCOL))?;
        answer.push((WS_PROTOCOL, name.to_owned()));
        upgrade
    };
    Ok(Answer { upgrade, headers: answer })
}

fn websocket_protocol(name: &str, ports: bool) -> Option<Upgrade> {
    if ports && name == TUNNEL {
        return Some(Upgrade::Tunnel);
    }
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)?;
    let serves = !ports || matches!(protocol, Protocol::V4 | Protocol::V4Base64);
    serves.then_some(Upgrade::Channels(protocol))
}

fn no_common(headers: &HeaderMap, name: HeaderName) -> Refusal {
    let offered: Vec<_> = tokens(headers, name).take(8).collect();
    Refusal(StatusCode::FORBIDDEN, format!("none of the protocols {offered:?} is served here"))
}

/// The comma-separated values of all headers of a name.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, ports: bool, pairs: &[(&str, &str)]) -> Result<Upgrade, StatusCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        negotiate(method, &headers, ports).map(|answer| answer.upgrade).map_err(|refusal| refusal.0)
    }

    const SPDY_UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    const WS_UPGRADE: [(&str, &str); 4] = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [base, more].concat()
    }

    #[test]
    fn spdy_takes_what_the_client_prefers() {
        let name = "X-Stream-Protocol-Version";
        let v4 = with(&SPDY_UPGRADE, &[(name, "v5.channel.k8s.io"), (name, "v4.channel.k8s.io")]);
        assert_eq!(check(&Method::POST, false, &v4), Ok(Upgrade::SpdyCommand(Version::V4)));
        let v2 = with(&SPDY_UPGRADE, &[(name, "v2.channel.k8s.io, channel.k8s.io")]);
        assert_eq!(check(&Method::POST, false, &v2), Ok(Upgrade::SpdyCommand(Version::V2)));
        assert_eq!(check(&Method::POST, false, &SPDY_UPGRADE), Ok(Upgrade::SpdyCommand(Version::V1)));
        let odd = with(&SPDY_UPGRADE, &[(name, "v9.channel.k8s.io")]);
        assert_eq!(check(&Method::POST, false, &odd), Err(StatusCode::FORBIDDEN));
        let ports = with(&SPDY_UPGRADE, &[(name, "portforward.k8s.io")]);
        assert_eq!(check(&Method::POST, true, &ports), Ok(Upgrade::SpdyPorts));
        assert_eq!(check(&Method::POST, true, &v4), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn websocket_takes_what_the_client_prefers() {
        let name = "Sec-WebSocket-Protocol";
        let v5 = with(&WS_UPGRADE, &[(name, "v5.channel.k8s.io,v4.channel.k8s.io")]);
        assert_eq!(check(&Method::GET, false, &v5), Ok(Upgrade::Channels(Protocol::V5)));
        assert_eq!(check(&Method::POST, false, &v5), Err(StatusCode::BAD_REQUEST));
        assert_eq!(check(&Method::GET, false, &WS_UPGRADE), Ok(Upgrade::Channels(Protocol::V1)));
        let tunnel = with(&WS_UPGRADE, &[(name, TUNNEL)]);
        assert_eq!(check(&Method::GET, true, &tunnel), Ok(Upgrade::Tunnel));
        assert_eq!(check(&Method::GET, false, &tunnel), Err(StatusCode::FORBIDDEN));
        assert_eq!(check(&Method::GET, false, &WS_UPGRADE[..3]), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn other_requests_are_refused() {
        assert_eq!(check(&Method::GET, false, &[]), Err(StatusCode::BAD_REQUEST));
        assert_eq!(check(&Method::GET, false, &[("Upgrade", "SPDY/3.1")]), Err(StatusCode::BAD_REQUEST));
        let h2 = [("Connection", "Upgrade"), ("Upgrade", "h2c")];
        assert_eq!(check(&Method::GET, false, &h2), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        let mut headers = HeaderMap::new();
        for (name, value) in WS_UPGRADE {
            headers.insert(name, value.parse().unwrap());
        }
        let answer = negotiate(&Method::GET, &headers, false).unwrap();
        assert!(answer.headers.contains(&(WS_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into())));
    }
}
