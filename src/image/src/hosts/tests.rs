use std::path::Path;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn describe(entries: &[HostEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let Capabilities { pull, resolve, push } = entry.capabilities;
        let flags =
            [(pull, "pull"), (resolve, "resolve"), (push, "push"), (entry.skip_verify, "skip_verify")];
        let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        text += &format!("{} {}", entry.base, flags.join(","));
        if entry.is_server {
            text += " server";
        }
        if !entry.ca.is_empty() || !entry.client.is_empty() {
            text += &format!(" ca={:?} client={:?}", entry.ca, entry.client);
        }
        if !entry.headers.is_empty() {
            let names: Vec<_> = entry.headers.keys().map(|key| key.as_str()).collect();
            text += &format!(" header={}", names.join(","));
        }
        if let Some(timeout) = entry.connect_timeout {
            text += &format!(" dial={timeout:?}");
        }
        text.push('\n');
    }
    text
}

fn check(domain: &str, text: &str, expected: Expect) {
    let actual = match parse::parse(text, domain, Path::new("/d")) {
        Ok(entries) => describe(&entries),
        Err(reason) => format!("error: {reason}\n"),
    };
    expected.assert_eq(&actual);
}

#[test]
fn hosts_keep_their_order_and_the_server_comes_last() {
    check(
        "docker.io",
        r#"
server = "https://registry-1.docker.io"
[host."https://z.example"]
capabilities = ["pull", "resolve"]
[host."http://a.example:5000/base"]
capabilities = ["pull"]
skip_verify = true
dial_timeout = "1m500ms"
[host."https://m.example/v2/proxy"]
override_path = true
ca = ["a.pem", "/abs/b.pem"]
client = [["c.cert", "c.key"], ["d.pem", ""], "e.pem"]
[host."https://m.example/v2/proxy".header]
x-one = "1"
x-two = ["1", "2"]
"#,
        expect![[r#"
            https://z.example/v2 pull,resolve
            http://a.example:5000/base/v2 pull,skip_verify dial=60.5s
            https://m.example/v2/proxy pull,resolve,push ca=["/d/a.pem", "/abs/b.pem"] client=[("/d/c.cert", Some("/d/c.key")), ("/d/d.pem", None), ("/d/e.pem", None)] header=x-one,x-two
            https://registry-1.docker.io/v2 pull,resolve,push server
        "#]],
    );
}

#[test]
fn defaults() {
    check(
        "docker.io",
        "",
        expect![[r#"
        https://registry-1.docker.io/v2 pull,resolve,push server
    "#]],
    );
    check(
        "r.example:5000",
        "capabilities = [\"pull\"]",
        expect![[r#"
        https://r.example:5000/v2 pull server
    "#]],
    );
    check(
        "127.0.0.1:5000",
        "",
        expect![[r#"
        http://127.0.0.1:5000/v2 pull,resolve,push server
    "#]],
    );
    check(
        "localhost:5000",
        "ca = \"x.pem\"",
        expect![[r#"
        https://localhost:5000/v2 pull,resolve,push server ca=["/d/x.pem"] client=[]
    "#]],
    );
    check(
        "r.example",
        "server = \"r.example\"\n[host.\"https://r.example\"]\n",
        expect![[r#"
        https://r.example/v2 pull,resolve,push
    "#]],
    );
}

#[test]
fn mistakes_are_named() {
    check(
        "a.b",
        "[host.\"ftp://x\"]\n",
        expect![[r#"
        error: host."ftp://x": the URL's scheme is neither http nor https
    "#]],
    );
    check(
        "a.b",
        "capabilities = [\"fly\"]",
        expect![[r#"
        error: unknown capability "fly"
    "#]],
    );
    check(
        "a.b",
        "skip_verify = \"yes\"",
        expect![[r#"
        error: `skip_verify` is neither true nor false
    "#]],
    );
    check(
        "a.b",
        "server = \"https://u:secret@a.b\"",
        expect![[r#"
        error: the URL has a user, a password or a query; credentials belong in the configuration
    "#]],
    );
    check(
        "a.b",
        "dial_timeout = \"3 parsecs\"",
        expect![[r#"
        error: `dial_timeout` is not a duration such as "3s" or "500ms"
    "#]],
    );
}

#[test]
fn directories_are_found_by_host_then_default() {
    let root = tempfile::tempdir().unwrap();
    let hosts = |domain: &str| -> Vec<String> {
        load(Some(root.path()), domain).unwrap().iter().map(|endpoint| endpoint.base.to_string()).collect()
    };
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(root.path().join(name)).unwrap();
        std::fs::write(root.path().join(name).join("hosts.toml"), text).unwrap();
    };
    assert_eq!(hosts("r.example:5000"), ["https://r.example:5000/v2"]);
    write("_default", "[host.\"https://any.example\"]\n");
    assert_eq!(hosts("r.example:5000"), ["https://any.example/v2", "https://r.example:5000/v2"]);
    write("r.example:5000", "[host.\"https://colon.example\"]\n");
    assert_eq!(hosts("r.example:5000"), ["https://colon.example/v2", "https://r.example:5000/v2"]);
    write("r.example_5000_", "[host.\"https://under.example\"]\n");
    assert_eq!(hosts("r.example:5000"), ["https://under.example/v2", "https://r.example:5000/v2"]);
    write("r.example_5000_", "[host.\"https://changed.example\"]\n");
    assert_eq!(hosts("r.example:5000"), ["https://changed.example/v2", "https://r.example:5000/v2"]);
    write("r.example_5000_", "ca = \"gone.pem\"\n");
    let error = load(Some(root.path()), "r.example:5000").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config);
    assert!(error.detail.contains("gone.pem"), "{}", error.detail);
}

#[test]
fn loopback_names() {
    for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "a.localhost"] {
        assert!(is_loopback(host), "{host}");
    }
    for host in ["localhost.example", "127.0.0.1.example:80", "10.0.0.1", "[::2]", "r.example"] {
        assert!(!is_loopback(host), "{host}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_answer_or_an_error(text in ".*") {
        let _ = parse::parse(&text, "r.example", Path::new("/d"));
    }

    #[test]
    fn host_tables_come_in_file_order(names in proptest::collection::hash_set("[a-z]{1,8}", 1..6)) {
        let names: Vec<String> = names.into_iter().collect();
        let text: String = names.iter().map(|name| format!("[host.\"https://{name}.test\"]\n")).collect();
        let entries = parse::parse(&text, "r.example", Path::new("/d")).unwrap();
        let hosts: Vec<String> =
            entries.iter().map(|e| e.base.host_str().unwrap_or_default().to_owned()).collect();
        let mut expected: Vec<String> = names.iter().map(|name| format!("{name}.test")).collect();
        expected.push("r.example".into());
        prop_assert_eq!(hosts, expected);
    }
}
