//! Credentials: shown to whom they are meant for, and to no one else.

use image::{Auth, ErrorKind, ScopedAuth, Secret};
use serde_json::json;
use testkit::{Access, Misdeed, Registry, Request};

use crate::{Bench, amd64, assert_silent, basic, name, reference};

const SECRET: &str = "s3cr3t-w0rd";

fn authorizations(registry: &Registry) -> Vec<String> {
    let shown = |request: &Request| request.header("authorization").map(str::to_owned);
    registry.requests().iter().filter_map(shown).collect()
}

#[tokio::test]
async fn basic_after_a_challenge() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("p", "v1", &[b"layer"]);
    registry.set_access(Access::Basic("user".into(), SECRET.into()));
    let (_, layers) = bench.pull_as(&name(&registry, "p:v1"), Some(basic("user", SECRET))).await.unwrap();
    assert_eq!(layers, [b"layer"]);
    let error =
        Bench::new().pull_as(&name(&registry, "p:v1"), Some(basic("user", "wr0ng-0ne"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_silent(&error, "wr0ng-0ne");
    let error = Bench::new().pull(&name(&registry, "p:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("no credentials are configured"), "{error}");
}

#[tokio::test]
async fn one_token_serves_all_layers() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("t", "v1", &[b"a", b"b", b"c", b"d"]);
    registry.add_user("user", SECRET);
    registry.set_access(Access::Token { realm: registry.token_url() });
    bench.pull_as(&name(&registry, "t:v1"), Some(basic("user", SECRET))).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    let requests = registry.requests();
    let token = requests.iter().find(|request| request.path() == "/token").unwrap();
    assert_eq!(token.query("scope").as_deref(), Some("repository:t:pull"));
    assert_eq!(token.query("service").as_deref(), Some("test"));
    assert_eq!(token.query("account").as_deref(), Some("user"));
}

#[tokio::test]
async fn a_token_that_ended_is_replaced() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("t", "v1", &[b"a"]);
    registry.set_access(Access::Token { realm: registry.token_url() });
    let client = bench.client();
    let at = reference(&registry, "t:v1");
    client.resolve(&at, &amd64(), None).await.unwrap();
    registry.revoke_tokens();
    client.resolve(&at, &amd64(), None).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[tokio::test]
async fn identity_and_registry_tokens() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("t", "v1", &[b"a"]);
    registry.add_user("nobody", "else");
    registry.add_refresh_token(SECRET);
    registry.set_access(Access::Token { realm: registry.token_url() });
    let token = |auth: Auth| Some(ScopedAuth::from(auth));
    let identity = token(Auth::IdentityToken(Secret::new(SECRET.into())));
    bench.pull_as(&name(&registry, "t:v1"), identity).await.unwrap();
    assert_eq!((registry.count("POST", "/token"), registry.count("GET", "/token")), (1, 0));
    let direct = token(Auth::RegistryToken(Secret::new("token-0-77".into())));
    Bench::new().pull_as(&name(&registry, "t:v1"), direct).await.unwrap();
    assert_eq!(registry.count("POST", "/token"), 1);
    let wrong = token(Auth::RegistryToken(Secret::new("t0ken-that-ended".into())));
    let error = Bench::new().pull_as(&name(&registry, "t:v1"), wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_silent(&error, "t0ken-that-ended");
}

#[tokio::test]
async fn a_redirect_to_another_host_loses_everything() {
    let (registry, thief, bench) = (Registry::start(), Registry::start(), Bench::new());
    let image = registry.put_image("r", "v1", &[b"layer"]);
    thief.put_blob("r", b"layer");
    bench.hosts(
        &registry.address(),
        &format!("server = \"http://{}\"\n[header]\nx-api-key = \"{SECRET}\"\n", registry.address()),
    );
    registry.set_access(Access::Basic("user".into(), SECRET.into()));
    registry.misbehave(
        "GET",
        &image.layers[0].digest,
        None,
        Misdeed::Redirect(format!("{}{{path}}", thief.url())),
    );
    let (_, layers) = bench.pull_as(&name(&registry, "r:v1"), Some(basic("user", SECRET))).await.unwrap();
    assert_eq!(layers, [b"layer"]);
    assert_eq!(thief.requests().len(), 1);
    assert!(
        thief.requests()[0]
            .headers
            .iter()
            .all(|(key, value)| key != "authorization" && !value.contains(SECRET))
    );
    // And it gets nothing by asking for it, nor by sending us back.
    thief.set_access(Access::Basic("user".into(), SECRET.into()));
    let error =
        Bench::new().pull_as(&name(&registry, "r:v1"), Some(basic("user", SECRET))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert_eq!(authorizations(&thief), Vec::<String>::new());
    assert_silent(&error, SECRET);
    thief.misbehave("GET", "", None, Misdeed::Redirect(format!("{}{{path}}", registry.url())));
    registry.behave();
    registry.misbehave(
        "GET",
        &image.layers[0].digest,
        Some(1),
        Misdeed::Redirect(format!("{}{{path}}", thief.url())),
    );
    registry.forget_requests();
    let _ = Bench::new().pull_as(&name(&registry, "r:v1"), Some(basic("user", SECRET))).await;
    let requests = registry.requests();
    let mut back = requests.iter().filter(|request| request.path().ends_with(&image.layers[0].digest));
    assert!(back.next().unwrap().header("authorization").is_some());
    assert!(back.next().unwrap().header("authorization").is_none());
}

#[tokio::test]
async fn a_realm_elsewhere_gets_no_password_without_encryption() {
    let (registry, thief, bench) = (Registry::start(), Registry::start(), Bench::new());
    registry.put_image("r", "v1", &[b"layer"]);
    registry.set_access(Access::Token { realm: thief.token_url() });
    let error = bench.pull_as(&name(&registry, "r:v1"), Some(basic("user", SECRET))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("without encryption"), "{error}");
    assert!(thief.requests().is_empty());
    assert_silent(&error, SECRET);
    // Without credentials there is nothing to lose.
    bench.pull(&name(&registry, "r:v1")).await.unwrap();
    assert_eq!(authorizations(&thief), Vec::<String>::new());
}

#[tokio::test]
async fn urls_of_foreign_layers_are_never_asked() {
    let (registry, thief, bench) = (Registry::start(), Registry::start(), Bench::new());
    let digest = registry.put_blob("f", b"foreign");
    let layer =
        testkit::LayerBlob { digest: digest.clone(), diff_id: digest.clone(), bytes: b"foreign".to_vec() };
    let descriptors = json!([{
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest, "size": 7, "urls": [format!("{}/steal", thief.url())],
    }]);
    registry.put_image_with("f", "v1", vec![layer], &descriptors);
    registry.set_access(Access::Basic("user".into(), SECRET.into()));
    let (_, layers) = bench.pull_as(&name(&registry, "f:v1"), Some(basic("user", SECRET))).await.unwrap();
    assert_eq!(layers, [b"foreign"]);
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn signed_urls_stay_out_of_messages() {
    let (registry, storage, bench) = (Registry::start(), Registry::start(), Bench::new());
    let image = registry.put_image("s", "v1", &[b"layer"]);
    let url = format!("http://user:{SECRET}@{}/blob?sig={SECRET}", storage.address());
    registry.misbehave("GET", &image.layers[0].digest, None, Misdeed::Redirect(url));
    let said = json!({"errors": [{"code": "X", "message": format!("see {}/x?sig={SECRET}", storage.url())}]});
    storage.misbehave("GET", "/blob", None, Misdeed::Status(403, Vec::new(), said.to_string()));
    let error = bench.pull(&name(&registry, "s:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_silent(&error, SECRET);
    assert_eq!(authorizations(&storage), Vec::<String>::new());
    registry.behave();
    let said = json!({"errors": [{"code": "X", "message": format!("{SECRET} at http://h/x?sig={SECRET}")}]});
    registry.misbehave("GET", "/manifests/", None, Misdeed::Status(400, Vec::new(), said.to_string()));
    let error = Bench::new().pull_as(&name(&registry, "s:v1"), Some(basic("u", SECRET))).await.unwrap_err();
    assert_silent(&error, SECRET);
}

#[tokio::test]
async fn a_huge_token_is_refused() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.put_image("t", "v1", &[b"a"]);
    registry.set_access(Access::Token { realm: registry.token_url() });
    registry.misbehave("GET", "/token", None, Misdeed::Endless);
    let error = bench.pull(&name(&registry, "t:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("larger than the 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn logging_in() {
    let (registry, bench) = (Registry::start(), Bench::new());
    registry.set_access(Access::Basic("user".into(), SECRET.into()));
    let client = bench.client();
    client.check_auth(&registry.address(), &basic("user", SECRET)).await.unwrap();
    let error = client.check_auth(&registry.address(), &basic("user", "no")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}
