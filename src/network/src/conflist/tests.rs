//! What parses, what does not, and where the error says it is.

use expect_test::{Expect, expect};

use super::*;

fn check(text: &str, expected: &Expect) {
    let shown = match Conflist::parse(text) {
        Ok(list) => {
            let kinds: Vec<_> = list.plugins().iter().map(|p| p.kind().to_string()).collect();
            format!("{} {} {}", list.name(), list.version().as_str(), kinds.join(","))
        }
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&shown);
}

#[test]
fn lists_and_single_plugins_parse() {
    check(
        r#"{"cniVersion":"0.4.0","name":"a","plugins":[{"type":"ptp"},{"type":"x.y-z_1"}]}"#,
        &expect!["a 0.4.0 ptp,x.y-z_1"],
    );
    check(r#"{"cniVersion":"0.3.0","name":"a","type":"macvlan"}"#, &expect!["a 0.3.1 macvlan"]);
    check(
        r#"{"cniVersion":"9.9.9","cniVersions":["1.0.0","0.4.0"],"name":"a","plugins":[{"type":"x"}]}"#,
        &expect!["a 1.0.0 x"],
    );
    check(
        include_str!("../../../../config/10-berth.conflist.example"),
        &expect!["pods 1.1.0 bridge,portmap,firewall"],
    );
}

#[test]
fn errors_name_the_line() {
    check("{\n\"name\": 7\n}", &expect!["conflist:2: invalid type: integer `7`, expected a string"]);
    check("{", &expect!["conflist:1: EOF while parsing an object"]);
    check(
        r#"{"name":"a","plugins":[{"type":"x"}]}"#,
        &expect![[r#"conflist: "cniVersion" is missing: expected 0.3.1, 0.4.0, 1.0.0 or 1.1.0"#]],
    );
    check(
        r#"{"cniVersion":"0.2.0","name":"a","plugins":[{"type":"x"}]}"#,
        &expect!["conflist: cniVersion 0.2.0 is not supported: expected 0.3.1, 0.4.0, 1.0.0 or 1.1.0"],
    );
    check(
        r#"{"cniVersion":"1.0.0","name":"../a","plugins":[{"type":"x"}]}"#,
        &expect![[
            r#"conflist: network name "../a" must begin with a letter or digit and consist of A-Z a-z 0-9 . _ -"#
        ]],
    );
    check(r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#, &expect![[r#"conflist: "plugins" is empty"#]]);
    check(
        "{\"cniVersion\":\"1.0.0\",\"name\":\"a\",\"plugins\":[\n{\"type\":\"x\"},\n{\"type\":\"../sh\"}]}",
        &expect![[
            r#"conflist:3: plugin type "../sh" must consist of A-Z a-z 0-9 . _ - (it is a program name)"#
        ]],
    );
    check(
        "{\"cniVersion\":\"1.0.0\",\"name\":\"a\",\"plugins\":[\n{\"type\":\"bridge\",\n\"mtu\":-1}]}",
        &expect!["conflist:3: invalid value: integer `-1`, expected u32"],
    );
    check(
        "{\"cniVersion\":\"1.0.0\",\"name\":\"a\",\"plugins\":[\n\n{\"type\":\"bridge\",\"ipam\":{\"type\":\"host-local\",\"subnet\":\"10.0.0.1/24\"}}]}",
        &expect![
            "conflist:3: plugin bridge: ipam: subnet 10.0.0.1/24 has host bits set; it should be 10.0.0.0/24"
        ],
    );
    check(
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge","vlan":7}]}"#,
        &expect![
            "conflist:1: plugin bridge: vlan and vlanTrunk are not supported by the built-in plugin; set exec_builtin to run the bridge program instead"
        ],
    );
    check(
        r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x","ipam":{"type":"a/b"}}]}"#,
        &expect![[
            r#"conflist:1: ipam: plugin type "a/b" must consist of A-Z a-z 0-9 . _ - (it is a program name)"#
        ]],
    );
}

#[test]
fn a_directory_is_read_in_order_and_bad_files_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, network: &str| {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"{network}","type":"x"}}"#);
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    write("20-b.conf", "b");
    write("10-c.json", "c");
    write("30-a.conflist", "a");
    write("40-dup.conf", "b");
    write("00-ignored.txt", "t");
    std::fs::write(dir.path().join("05-bad.conf"), "[]").unwrap();
    let (good, bad) = load_directory(dir.path()).unwrap();
    assert_eq!(good.iter().map(Conflist::name).collect::<Vec<_>>(), ["c", "b", "a"]);
    assert_eq!(bad.len(), 2);
    assert!(bad[0].to_string().contains("05-bad.conf:1"), "{}", bad[0]);
    assert!(bad[1].to_string().contains("is already used by"), "{}", bad[1]);
    assert!(load_directory(&dir.path().join("none")).unwrap().0.is_empty());
}
