//! The default file and the code agree; bad files are told everything that is wrong with them.

use super::*;

#[test]
fn the_default_file_says_what_the_code_does() {
    let explained = File::parse(DEFAULT_TEXT).unwrap();
    assert_eq!(explained, File::default());
    check(explained, "default".to_owned()).unwrap();
}

#[test]
fn the_default_file_names_every_key() {
    let table = toml::Table::try_from(File::default()).unwrap();
    let mut keys = Vec::new();
    collect(&table, &mut keys);
    for key in keys {
        assert!(DEFAULT_TEXT.contains(&format!("{key} =")), "config/config.toml does not explain {key}");
    }
}

fn collect(table: &toml::Table, keys: &mut Vec<String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => collect(inner, keys),
            _ => keys.push(key.clone()),
        }
    }
}

fn problems(text: &str) -> String {
    match File::parse(text).and_then(check::settings) {
        Ok(_) => String::new(),
        Err(list) => list.join("\n"),
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = problems("rot = \"/x\"\n[log]\nlevle = \"info\"\n[network]\nbanana = 1\n");
    assert!(text.contains("\"rot\"; did you mean \"root\""), "{text}");
    assert!(text.contains("\"log.levle\"; did you mean \"level\""), "{text}");
    assert!(text.contains("\"network.banana\""), "{text}");
    let text = problems(
        "root = \"x\"\ndefault_runtime = \"kata\"\n[streaming]\naddress = \"here\"\n[images]\nmax_concurrent_downloads = 0\n",
    );
    for part in ["root = \"x\"", "[runtimes.kata]", "streaming.address", "max_concurrent_downloads"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn a_collector_is_checked() {
    assert_eq!(problems("[tracing]\nendpoint = \"http://127.0.0.1:4317\"\nsampling_ratio = 0.5\n"), "");
    for (text, part) in [
        ("endpoint = \"127.0.0.1:4317\"", "tracing.endpoint"),
        ("endpoint = \"http://collector:4317/v1/traces\"", "tracing.endpoint"),
        ("endpoint = \"ftp://collector:4317\"", "tracing.endpoint"),
        ("sampling_ratio = 1.5", "tracing.sampling_ratio"),
        ("sampling_ratio = nan", "tracing.sampling_ratio"),
        ("service_name = \"\"", "tracing.service_name"),
        ("endpoint = \"https://collector:4317\"\nca = \"/no/such\"", "tracing.ca"),
        ("endpoint = \"http://collector:4317\"\nca = \"/dev/null\"", "tracing.ca"),
    ] {
        let said = problems(&format!("[tracing]\n{text}\n"));
        assert!(said.contains(part), "{text}: {said:?}");
    }
}

#[test]
fn names_of_the_users_are_free() {
    assert_eq!(problems("[runtimes.other]\ntype = \"built-in\"\n[runtimes.berth]\n"), "");
    assert!(problems("[runtimes.other]\npaht = \"/x\"\n").contains("runtimes.other.paht"));
    assert!(problems("[registry.credentials.\"r.io\"]\nuser = \"x\"\n").contains("user"));
}

#[test]
fn secrets_are_not_shown() {
    let file =
        File::parse("[registry.credentials.\"r.io\"]\nusername = \"u\"\npassword = \"hunter2\"\n").unwrap();
    let text = toml::to_string(&file.redacted()).unwrap();
    assert!(text.contains("username") && !text.contains("hunter2"), "{text}");
}
