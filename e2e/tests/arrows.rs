//! Who may depend on whom: the table of ARCHITECTURE.md, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// A crate and the workspace's crates that it may use. `testkit` and `e2e` are not part of the product.
const ARROWS: [(&str, &[&str]); 15] = [
    ("oci", &[]),
    ("sys", &[]),
    ("content", &["oci", "sys"]),
    ("runtime", &["oci", "sys"]),
    ("keeper", &["oci", "sys", "runtime"]),
    ("network", &["oci", "sys"]),
    ("storage", &["oci", "sys", "content"]),
    ("image", &["oci", "content"]),
    ("builder", &["oci", "content", "image", "storage", "keeper"]),
    ("engine", &["oci", "sys", "content", "runtime", "keeper", "network", "storage", "image", "builder"]),
    ("cri-api", &[]),
    ("cri", &["engine", "oci", "cri-api"]),
    ("docker", &["engine", "oci"]),
    ("daemon", &["cri", "docker", "engine", "oci"]),
    // Drives the daemon from outside, through the generated client alone.
    ("e2e", &["cri-api"]),
];

/// A third-party crate (or several with a prefix) and the only crates that may use it.
const CONFINED: [(&str, &[&str]); 8] = [
    ("tonic", &["cri", "cri-api", "e2e"]),
    ("tonic-prost", &["cri-api"]),
    ("prost", &["cri", "cri-api"]),
    ("nix", &["sys"]),
    ("libc", &["sys"]),
    ("rustix", &["sys"]),
    ("tokio", &["image", "engine", "builder", "cri", "docker", "daemon", "e2e"]),
    ("reqwest", &["image"]),
];

/// Normal and build dependencies by crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let names = |package: &Value| -> BTreeSet<String> {
        let list = package["dependencies"].as_array().expect("a list of dependencies");
        let normal = list.iter().filter(|one| one["kind"].is_null());
        normal.filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
    };
    packages
        .iter()
        .map(|package| (package["name"].as_str().expect("a name").to_owned(), names(package)))
        .collect()
}

#[test]
fn only_allowed_arrows() {
    let all = dependencies();
    let mut wrong = Vec::new();
    for (name, dependencies) in &all {
        let ours = dependencies.iter().filter(|dependency| all.contains_key(*dependency));
        let allowed = match ARROWS.iter().find(|(from, _)| from == name) {
            Some((_, allowed)) => *allowed,
            None if name == "testkit" => continue,
            None => {
                wrong.push(format!("{name} is not in the table"));
                continue;
            }
        };
        wrong.extend(ours.filter(|to| !allowed.contains(&to.as_str())).map(|to| format!("{name} -> {to}")));
    }
    assert!(wrong.is_empty(), "forbidden arrows:\n{}", wrong.join("\n"));
}

#[test]
fn testkit_is_for_tests_only() {
    let users: Vec<String> =
        dependencies().into_iter().filter(|(_, all)| all.contains("testkit")).map(|(name, _)| name).collect();
    assert!(users.is_empty(), "testkit is a normal dependency of {users:?}");
}

#[test]
fn third_party_crates_stay_in_their_place() {
    let mut wrong = Vec::new();
    for (name, dependencies) in dependencies() {
        for (crate_name, allowed) in CONFINED {
            if dependencies.contains(crate_name) && !allowed.contains(&name.as_str()) && name != "testkit" {
                wrong.push(format!("{name} uses {crate_name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "confined crates used elsewhere:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_outside_sys() {
    let root = e2e::checkout();
    for dir in std::fs::read_dir(root.join("src")).expect("list src").flatten() {
        if dir.file_name() == "sys" {
            continue;
        }
        for main in ["src/lib.rs", "src/main.rs"] {
            let path = dir.path().join(main);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{} does not forbid unsafe code",
                path.display()
            );
        }
    }
}
