//! Exec and attach over SPDY: collects the channels that a session needs.

use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::backend::Backend;
use super::session::{Channels, Session, run as run_session};
use super::spdy::{Acceptor, Incoming};
use super::status::StatusFormat;

/// How long the client may take to open its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Versions of the protocol, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V4,
    V3,
    V2,
    V1,
}

impl Version {
    pub(crate) const ALL: [Self; 4] = [Self::V4, Self::V3, Self::V2, Self::V1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
        }
    }

    fn has_resize(self) -> bool {
        matches!(self, Self::V4 | Self::V3)
    }

    fn format(self) -> StatusFormat {
        if self == Self::V4 { StatusFormat::Json } else { StatusFormat::Text }
    }
}

#[derive(Default)]
struct Parts {
    error: Option<Incoming>,
    stdin: Option<Incoming>,
    stdout: Option<Incoming>,
    stderr: Option<Incoming>,
    resize: Option<Incoming>,
}

/// Waits for the session's channels and runs it on them.
pub(crate) async fn run(backend: &dyn Backend, session: Session, version: Version, mut streams: Acceptor) {
    let Ok(Some(parts)) = timeout(STREAMS_TIMEOUT, collect(&session, version, &mut streams)).await else {
        debug!("client did not open the streams of its session");
        return;
    };
    let Some(error) = parts.error else { return };
    // The end of our side of an input stream tells clients to send no more, so it must not come before the
    // session's.
    let (stdin, stdin_end) = parts.stdin.map(|s| (s.reader, s.writer)).unzip();
    let (resize, resize_end) = parts.resize.map(|s| (s.reader, s.writer)).unzip();
    let channels = Channels {
        error: Box::new(error.writer),
        stdin: stdin.map(|reader| Box::new(reader) as _),
        stdout: parts.stdout.map(|s| Box::new(s.writer) as _),
        stderr: parts.stderr.map(|s| Box::new(s.writer) as _),
        resize: resize.map(|reader| Box::new(reader) as _),
        format: version.format(),
        closed: streams.closed(),
    };
    // Streams beyond those of the session are taken and dropped, so that reading goes on.
    let refuse = async {
        while streams.accept().await.is_some() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = run_session(backend, session, channels) => {}
        () = refuse => {}
    }
    drop((stdin_end, resize_end));
}

/// `None`: the client left before it had opened them all.
async fn collect(session: &Session, version: Version, streams: &mut Acceptor) -> Option<Parts> {
    let set = session.streams();
    let resize = set.tty && version.has_resize();
    let mut parts = Parts::default();
    let mut missing =
        1 + usize::from(set.stdin) + usize::from(set.stdout) + usize::from(set.stderr) + usize::from(resize);
    while missing > 0 {
        let stream = streams.accept().await?;
        let (place, wanted) = match stream.headers.get("streamtype") {
            Some("error") => (&mut parts.error, true),
            Some("stdin") => (&mut parts.stdin, set.stdin),
            Some("stdout") => (&mut parts.stdout, set.stdout),
            Some("stderr") => (&mut parts.stderr, set.stderr),
            Some("resize") => (&mut parts.resize, resize),
            _ => continue,
        };
        if wanted && place.is_none() {
            *place = Some(stream);
            missing -= 1;
        }
    }
    Some(parts)
}
