//! What plugins are told: their configuration and environment.

use serde_json::{Map, Value, json};

use crate::conflist::{Conflist, Plugin};
use crate::record::Record;

/// The configuration of a plugin without anything about an attachment, for STATUS and GC.
pub(crate) fn bare_config(conflist: &Conflist, plugin: &Plugin) -> Value {
    let mut conf = plugin.conf().clone();
    conf.insert("name".to_owned(), conflist.name().into());
    conf.insert("cniVersion".to_owned(), conflist.version().as_str().into());
    Value::Object(conf)
}

/// The configuration of a plugin for one attachment.
pub(crate) fn config(
    conflist: &Conflist,
    plugin: &Plugin,
    record: &Record,
    previous: Option<&Value>,
) -> Value {
    let mut conf = bare_config(conflist, plugin);
    let runtime = runtime_config(plugin, record);
    if !runtime.is_empty() {
        conf["runtimeConfig"] = Value::Object(runtime);
    }
    if let Some(previous) = previous {
        conf["prevResult"] = previous.clone();
    }
    conf
}

/// Settings for the capabilities that the plugin declares.
fn runtime_config(plugin: &Plugin, record: &Record) -> Map<String, Value> {
    let given = &record.capabilities;
    let mut runtime = Map::new();
    let mut offer = |name: &str, value: Option<Value>| {
        if let (true, Some(value)) = (plugin.has_capability(name), value) {
            runtime.insert(name.to_owned(), value);
        }
    };
    offer("portMappings", (!record.ports.is_empty()).then(|| json!(record.ports)));
    offer("bandwidth", given.bandwidth.map(|b| json!(b)));
    offer("mac", given.mac.as_ref().map(|m| json!(m)));
    offer("ips", (!given.ips.is_empty()).then(|| json!(given.ips)));
    offer("ipRanges", (!given.ip_ranges.is_empty()).then(|| json!(given.ip_ranges)));
    offer("aliases", (!given.aliases.is_empty()).then(|| json!({ plugin_network(record): given.aliases })));
    offer("cgroupPath", given.cgroup_path.as_ref().map(|p| json!(p)));
    let dns = given.dns.as_ref();
    offer(
        "dns",
        dns.map(|d| json!({ "servers": d.nameservers, "searches": d.search, "options": d.options })),
    );
    runtime
}

fn plugin_network(record: &Record) -> &str {
    &record.network
}

/// The environment of a call about one attachment.
pub(crate) fn environment(record: &Record, netns: &str) -> Vec<(&'static str, String)> {
    let arguments: Vec<_> = record.cni_args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        ("CNI_CONTAINERID", record.sandbox.to_string()),
        ("CNI_NETNS", netns.to_owned()),
        ("CNI_IFNAME", record.ifname.clone()),
        ("CNI_ARGS", arguments.join(";")),
    ]
}
