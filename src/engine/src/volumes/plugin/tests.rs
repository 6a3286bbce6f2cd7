//! Volumes of a driver that is a thread of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::model::VolumeConfig;
use crate::volumes::Volumes;

/// Answers with what `answer` says to each method; tells what it was asked.
fn plugin(dir: &Path, answer: fn(&str) -> (u16, String)) -> Receiver<(String, Value)> {
    let listener = UnixListener::bind(dir.join("fake.sock")).unwrap();
    let (sender, asked) = channel();
    // It ends with the test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            reader.read_line(&mut head).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let method = head.split(['/', ' ']).nth(2).unwrap().to_owned();
            let (status, text) = answer(&method);
            let reply = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            (&stream).write_all(reply.as_bytes()).unwrap();
            if sender.send((method, serde_json::from_slice(&body).unwrap_or_default())).is_err() {
                return;
            }
        }
    });
    asked
}

fn working(method: &str) -> (u16, String) {
    match method {
        "Plugin.Activate" => (200, r#"{"Implements":["VolumeDriver"]}"#.into()),
        "VolumeDriver.Mount" => (200, r#"{"Mountpoint":"/srv/x","Err":""}"#.into()),
        "VolumeDriver.Capabilities" => (200, r#"{"Capabilities":{"Scope":"global"}}"#.into()),
        _ => (200, r#"{"Err":""}"#.into()),
    }
}

fn directories(dir: &Path) -> Directories {
    Directories { sockets: dir.to_owned(), specs: vec![dir.join("specs")] }
}

#[test]
fn volumes_of_a_plugin_live_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = plugin(dir.path(), working);
    let mut volumes = Volumes::open(dir.path()).unwrap();
    volumes.plugins = directories(dir.path());
    let options = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let config = VolumeConfig { name: "data".into(), driver: "fake".into(), options, ..Default::default() };
    let (record, made) = volumes.create(&config).unwrap();
    assert_eq!((made, record.scope), (true, VolumeScope::Global));
    assert!(!volumes.create(&config).unwrap().1, "it is there");
    let user = "c1".parse().unwrap();
    assert_eq!(volumes.mount_volume(&user, "data").unwrap(), Path::new("/srv/x"));
    assert_eq!(volumes.mount_volume(&user, "data").unwrap(), Path::new("/srv/x"));
    assert_eq!(volumes.get("data").unwrap().mountpoint, Path::new("/srv/x"));
    assert!(volumes.remove("data").is_err(), "it is used");
    volumes.unmount(&user).unwrap();
    volumes.remove("data").unwrap();
    let calls: Vec<(String, Value)> =
        asked.try_iter().filter(|(method, _)| method != "Plugin.Activate").collect();
    let methods: Vec<&str> =
        calls.iter().map(|(method, _)| method.trim_start_matches("VolumeDriver.")).collect();
    assert_eq!(methods, ["Create", "Capabilities", "Mount", "Unmount", "Remove"]);
    assert_eq!(calls[0].1, json!({"Name": "data", "Opts": {"k": "v"}}));
    assert_eq!(calls[2].1, json!({"Name": "data", "ID": "c1"}));
}

#[test]
fn what_a_plugin_says_no_to_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let _asked = plugin(dir.path(), |method| match method {
        "Plugin.Activate" => working(method),
        "VolumeDriver.Create" => (500, r#"{"Err":"no room"}"#.into()),
        "VolumeDriver.Mount" => (200, r#"{"Mountpoint":"relative"}"#.into()),
        _ => (404, "page not found".into()),
    });
    let driver = Driver::find(&directories(dir.path()), "fake").unwrap();
    assert!(driver.create("x", &BTreeMap::new()).unwrap_err().chain().contains("no room"));
    assert!(driver.mount("x", "u").unwrap_err().chain().contains("no absolute path"));
    assert!(driver.remove("x").unwrap_err().chain().contains("has no VolumeDriver.Remove"));
    assert_eq!(driver.scope(), VolumeScope::Local);
}

#[test]
fn plugins_are_found_by_what_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let specs = dir.path().join("specs");
    std::fs::create_dir_all(specs.join("deep")).unwrap();
    std::fs::write(specs.join("a.spec"), "unix:///run/a.sock\n").unwrap();
    std::fs::write(specs.join("deep/deep.json"), r#"{"Name":"deep","Addr":"tcp://127.0.0.1:9"}"#).unwrap();
    std::fs::write(specs.join("tls.json"), r#"{"Addr":"https://h:1","TLSConfig":{}}"#).unwrap();
    let find = |name: &str| locate(&directories(dir.path()), name);
    assert_eq!(find("a").unwrap(), Some(Address::Unix("/run/a.sock".into())));
    assert_eq!(find("deep").unwrap(), Some(Address::Tcp("127.0.0.1:9".into())));
    assert!(find("tls").unwrap_err().chain().contains("without TLS"));
    assert_eq!(find("none").unwrap(), None);
    let error = Driver::find(&directories(dir.path()), "../x").unwrap_err();
    assert!(matches!(error.cause(), Some(VolumeProblem::NoDriver(_))), "{}", error.chain());
}
