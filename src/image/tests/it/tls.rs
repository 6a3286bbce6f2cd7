//! Who is trusted, and who we say we are.

use image::ErrorKind;
use testkit::{Access, Misdeed, Registry};

use crate::{Bench, basic, name};

fn trust(bench: &Bench, registry: &Registry, more: &str) {
    bench.hosts(&registry.address(), &format!("server = \"{}\"\n{more}", registry.url()));
    let directory = bench.path().join("certs.d").join(registry.address());
    std::fs::write(directory.join("ca.pem"), registry.ca_pem()).unwrap();
    let (certificate, key) = registry.client_pem();
    std::fs::write(directory.join("client.pem"), certificate).unwrap();
    std::fs::write(directory.join("client.key"), key).unwrap();
}

#[tokio::test]
async fn an_authority_must_be_known() {
    let (registry, bench) = (Registry::start_tls(), Bench::new());
    registry.put_image("s", "v1", &[b"layer"]);
    trust(&bench, &registry, "");
    let error = bench.pull(&name(&registry, "s:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("certificate is not trusted"), "{error}");
    assert!(registry.requests().is_empty());
    trust(&bench, &registry, "ca = \"ca.pem\"\n");
    bench.pull(&name(&registry, "s:v1")).await.unwrap();
    trust(&bench, &registry, "skip_verify = true\n");
    bench.pull(&name(&registry, "s:v1")).await.unwrap();
}

#[tokio::test]
async fn client_certificates_are_shown_to_who_wants_them() {
    let (registry, bench) = (Registry::start_mutual_tls(), Bench::new());
    registry.put_image("s", "v1", &[b"layer"]);
    trust(&bench, &registry, "ca = \"ca.pem\"\n");
    assert!(bench.pull(&name(&registry, "s:v1")).await.is_err());
    trust(&bench, &registry, "ca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\n");
    bench.pull(&name(&registry, "s:v1")).await.unwrap();
}

#[tokio::test]
async fn encryption_is_never_given_up() {
    let (registry, plain, bench) = (Registry::start_tls(), Registry::start(), Bench::new());
    let image = registry.put_image("s", "v1", &[b"layer"]);
    plain.put_blob("s", b"layer");
    trust(&bench, &registry, "ca = \"ca.pem\"\n");
    registry.misbehave(
        "GET",
        &image.layers[0].digest,
        None,
        Misdeed::Redirect(format!("{}{{path}}", plain.url())),
    );
    let error = bench.pull(&name(&registry, "s:v1")).await.unwrap_err();
    assert!(error.to_string().contains("would give up encryption"), "{error}");
    registry.behave();
    registry.set_access(Access::Token { realm: plain.token_url() });
    let error =
        Bench::pull_as(&bench, &name(&registry, "s:v1"), Some(basic("u", "p-p-p"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(plain.requests().is_empty());
}

#[tokio::test]
async fn a_token_server_over_tls_may_be_elsewhere() {
    let (registry, tokens, bench) = (Registry::start_tls(), Registry::start_tls(), Bench::new());
    registry.put_image("s", "v1", &[b"layer"]);
    tokens.add_user("user", "pass-word");
    registry.set_access(Access::Token { realm: tokens.token_url() });
    trust(&bench, &registry, "ca = [\"ca.pem\", \"tokens.pem\"]\n");
    let directory = bench.path().join("certs.d").join(registry.address());
    std::fs::write(directory.join("tokens.pem"), tokens.ca_pem()).unwrap();
    bench.pull_as(&name(&registry, "s:v1"), Some(basic("user", "pass-word"))).await.unwrap();
    assert_eq!(tokens.count("GET", "/token"), 1);
    assert!(
        registry
            .requests()
            .iter()
            .all(|r| r.header("authorization").is_none_or(|h| h.starts_with("Bearer ")))
    );
}

#[tokio::test]
async fn the_wrong_scheme_is_explained() {
    let (registry, bench) = (Registry::start(), Bench::new());
    let domain = registry.address();
    bench.hosts(&domain, &format!("server = \"https://{domain}\"\n"));
    let error = bench.pull(&name(&registry, "s:v1")).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{}", error.chain());
}
