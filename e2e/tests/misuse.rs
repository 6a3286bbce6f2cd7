//! Mistakes of people: each is refused with a message that says what to do, and harms nothing.
#![allow(clippy::print_stdout, reason = "what fails is told where it fails")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cri_api::v1 as cri;
use e2e::{Lab, Node, NodeOptions, run, summarize};

fn berth(arguments: &[&str]) -> Output {
    Command::new(Lab::binary("berth").expect("find berth")).args(arguments).output().expect("run berth")
}

/// Runs `berth`, which must fail with a code and say these words.
fn complains(arguments: &[&str], code: i32, words: &[&str]) {
    let output = berth(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "berth {arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "berth {arguments:?} does not say {word:?}: {text}");
    }
    println!("berth {}: {}", arguments.join(" "), text.lines().next().unwrap_or_default());
}

#[test]
fn configuration() {
    let lab = Lab::enter("misuse-configuration");
    let file = lab.work().join("config.toml");
    let text = "rooot = \"/x\"\n[log]\nlevel = 7\nformat = \"xml\"\n[registry]\nconfig_pth = \"/y\"\n";
    std::fs::write(&file, text).expect("write a bad file");
    let file = file.display().to_string();
    // All problems at once.
    complains(&["config", "check", "--config", &file], 2, &["rooot", "config_pth"]);
    complains(&["daemon", "--config", &file], 2, &["rooot", "config_pth"]);
    complains(&["daemon", "--config", "/no/such/file"], 2, &["/no/such/file"]);
    complains(&["daemon", "--no-such-flag"], 2, &["--no-such-flag"]);
    complains(&["no-such-command"], 2, &["no-such-command"]);
    let default = berth(&["config", "default"]);
    assert!(default.status.success());
    let whole = lab.work().join("default.toml");
    std::fs::write(&whole, &default.stdout).expect("write the default configuration");
    let whole = whole.display().to_string();
    let checked = berth(&["config", "check", "--config", &whole]);
    assert!(
        checked.status.success(),
        "the default file is bad: {}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let shown = berth(&["config", "show", "--config", &whole, "--json"]);
    serde_json::from_slice::<serde_json::Value>(&shown.stdout).expect("config show --json prints JSON");
    summarize("mistakes in the configuration: 7 passed, 0 failed, 0 skipped");
}

#[test]
fn running() {
    let lab = Lab::enter("misuse");
    let node = Node::start(&lab, "node", None, NodeOptions::default()).expect("start the node");
    second_daemon(&node);
    busy_socket(&lab, &node);
    without_privileges(&lab);
    nobody_listens();
    second_keeper(&node);
    admin_commands(&node);
    node.client.version(cri::VersionRequest::default()).expect("the first daemon is unharmed");
    summarize("mistakes of people: 6 passed, 0 failed, 0 skipped");
}

fn directory(path: &Path) -> String {
    path.display().to_string()
}

/// Refused in under 100 ms, the first unharmed.
fn second_daemon(node: &Node) {
    let (root, state) = (directory(&node.root()), directory(node.state()));
    let start = Instant::now();
    complains(&["daemon", "--root", &root, "--state", &state], 1, &["another daemon"]);
    let took = start.elapsed();
    assert!(took < Duration::from_millis(100), "the refusal took {took:?}");
    let answer = node.client.version(cri::VersionRequest::default()).expect("the first daemon still answers");
    assert_eq!(answer.runtime_name, "berth");
}

fn busy_socket(lab: &Lab, node: &Node) {
    let (root, state) =
        (directory(&lab.work().join("other-root")), directory(&lab.work().join("other-state")));
    let socket = directory(node.socket());
    complains(&["daemon", "--root", &root, "--state", &state, "--cri-socket", &socket], 1, &[&socket]);
    node.client.version(cri::VersionRequest::default()).expect("the socket is still the first daemon's");
}

fn without_privileges(lab: &Lab) {
    let root = directory(&lab.work().join("unprivileged"));
    let program = Lab::binary("berth").expect("find berth");
    // Readable for everybody, wherever the build directory is.
    let copy = Path::new("/run/berth/berth-for-nobody");
    std::fs::copy(&program, copy).expect("copy berth");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(copy)
        .args(["daemon", "--root", &root])
        .output()
        .expect("run setpriv");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("root"), "{text}");
    std::fs::remove_file(copy).expect("remove the copy");
}

fn nobody_listens() {
    complains(&["status", "--socket", "/run/berth/nobody.sock"], 1, &["/run/berth/nobody.sock"]);
    complains(&["image", "list", "--socket", "/run/berth/nobody.sock"], 1, &["/run/berth/nobody.sock"]);
}

fn second_keeper(node: &Node) {
    let program = Lab::binary("berth-keeper").expect("find the keeper");
    let socket = node.state().join("keeper.sock");
    let mut command = Command::new(program);
    command.arg("--socket").arg(&socket).arg("--state").arg(node.state().join("keeper"));
    let start = Instant::now();
    let output = command.output().expect("run the keeper");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(start.elapsed() < Duration::from_secs(1), "the refusal took {:?}", start.elapsed());
    assert!(text.contains("keeper"), "{text}");
    std::os::unix::net::UnixStream::connect(&socket).expect("the first keeper still listens");
}

/// The commands for a running daemon, in both forms.
fn admin_commands(node: &Node) {
    let socket = directory(&node.state().join("admin.sock"));
    let program = Lab::binary("berth").expect("find berth");
    run(Command::new(&program).args(["image", "load", "--embedded", "--socket", &socket]))
        .expect("load the image");
    for command in [&["status"][..], &["version"], &["image", "list"], &["network", "list"], &["check"]] {
        let text = run(Command::new(&program).args(command).args(["--socket", &socket])).expect("run berth");
        assert!(!text.trim().is_empty(), "berth {command:?} prints nothing");
        let json = run(Command::new(&program).args(command).args(["--json", "--socket", &socket]))
            .expect("run berth");
        serde_json::from_str::<serde_json::Value>(&json)
            .unwrap_or_else(|error| panic!("{command:?}: {error}: {json}"));
    }
    let inspect = ["image", "inspect", "berth.local/hello:latest", "--json", "--socket", &socket];
    let text = run(Command::new(&program).args(inspect)).expect("inspect the image");
    assert!(text.contains("berth.local/hello"), "{text}");
    run(Command::new(&program).args(["image", "remove", "berth.local/hello:latest", "--socket", &socket]))
        .expect("remove the image");
    complains(
        &["image", "inspect", "berth.local/hello:latest", "--socket", &socket],
        1,
        &["berth.local/hello"],
    );
}
