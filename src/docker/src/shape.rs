//! Which version of the API has which fields: the one place that knows.
//!
//! Handlers write what the newest version has, with every field. Here, fields that came later are taken out for
//! older clients, and those they were used to are put in. Go prints a missing list or map as `null`; where clients
//! rely on that, handlers write the `null`.

use serde_json::{Value, json};

use crate::http::ApiVersion;

/// Takes keys out of a map.
fn without(document: &mut Value, keys: &[&str]) {
    if let Value::Object(map) = document {
        map.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

/// An entry of the list of images.
pub(crate) fn image_summary(image: &mut Value, version: ApiVersion) {
    if !version.since(44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    if !version.since(43) {
        // Images without a name had one that says so.
        for (key, none) in [("RepoTags", "<none>:<none>"), ("RepoDigests", "<none>@<none>")] {
            if image[key].as_array().is_some_and(Vec::is_empty) {
                image[key] = json!([none]);
            }
        }
    }
}

/// An image.
pub(crate) fn image_inspect(image: &mut Value, version: ApiVersion) {
    if !version.since(44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    if version.since(50) {
        without(image, &["Parent", "DockerVersion"]);
    }
    if version.since(45) {
        without(image, &["Container", "ContainerConfig"]);
    }
}

/// A container in the list.
pub(crate) fn container_summary(container: &mut Value, version: ApiVersion) {
    if !version.since(46) {
        without(&mut container["HostConfig"], &["Annotations"]);
    }
}

/// A container. Addresses of its first network are told beside the networks, too.
pub(crate) fn container_inspect(container: &mut Value, version: ApiVersion) {
    if !version.since(44) {
        // It was a setting of the container before it was one of each network.
        let mac = container["NetworkSettings"]["MacAddress"].clone();
        container["Config"]["MacAddress"] = mac;
        if let Value::Object(networks) = &mut container["NetworkSettings"]["Networks"] {
            networks.values_mut().for_each(|network| without(network, &["DNSNames"]));
        }
    }
    if !version.since(48)
        && let Value::Object(networks) = &mut container["NetworkSettings"]["Networks"]
    {
        networks.values_mut().for_each(|network| without(network, &["GwPriority"]));
    }
}

/// A network. Lists had the containers of each until 1.27.
pub(crate) fn network(network: &mut Value, version: ApiVersion, listed: bool) {
    if listed && version.since(28) {
        network["Containers"] = json!({});
    }
    if !version.since(47) {
        without(network, &["EnableIPv4"]);
    }
}

/// Disk usage.
pub(crate) fn disk_usage(usage: &mut Value, version: ApiVersion) {
    if version.since(42) {
        without(usage, &["BuilderSize"]);
    }
}

/// An event. Clients of these versions fail without the fields of the first ones.
pub(crate) fn event(event: &mut Value) {
    let kind = event["Type"].as_str().unwrap_or_default().to_owned();
    let (id, from) = (event["Actor"]["ID"].clone(), event["Actor"]["Attributes"]["image"].clone());
    if matches!(kind.as_str(), "container" | "image") {
        event["id"] = id;
        event["status"] = event["Action"].clone();
    }
    if kind == "container" && from.is_string() {
        event["from"] = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_names_were_called_none() {
        let image = json!({"Size": 5, "RepoTags": [], "RepoDigests": ["a@sha256:b"]});
        let mut old = image.clone();
        image_summary(&mut old, ApiVersion::v1(42));
        let expected = json!({"Size": 5, "VirtualSize": 5, "RepoTags": ["<none>:<none>"], "RepoDigests": ["a@sha256:b"]});
        assert_eq!(old, expected);
        let mut new = image.clone();
        image_summary(&mut new, ApiVersion::v1(44));
        assert_eq!(new, image);
    }

    #[test]
    fn images_lost_fields_over_time() {
        let image =
            json!({"Size": 5, "Parent": "", "DockerVersion": "", "Container": "", "ContainerConfig": null});
        let keys = |minor| {
            let mut shaped = image.clone();
            image_inspect(&mut shaped, ApiVersion::v1(minor));
            let mut keys: Vec<String> = shaped.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(keys(43), "Container ContainerConfig DockerVersion Parent Size VirtualSize");
        assert_eq!(keys(45), "DockerVersion Parent Size");
        assert_eq!(keys(51), "Size");
    }

    #[test]
    fn networks_gained_fields_over_time() {
        let network_of = |minor, listed| {
            let mut shaped = json!({"EnableIPv4": true, "Containers": {"a": 1}});
            network(&mut shaped, ApiVersion::v1(minor), listed);
            shaped
        };
        assert_eq!(network_of(51, true), json!({"EnableIPv4": true, "Containers": {}}));
        assert_eq!(network_of(51, false), json!({"EnableIPv4": true, "Containers": {"a": 1}}));
        assert_eq!(network_of(27, true), json!({"Containers": {"a": 1}}));
    }

    #[test]
    fn events_have_the_first_fields() {
        let mut event_ =
            json!({"Type": "container", "Action": "die", "Actor": {"ID": "x", "Attributes": {"image": "i"}}});
        event(&mut event_);
        assert_eq!(
            (&event_["id"], &event_["status"], &event_["from"]),
            (&json!("x"), &json!("die"), &json!("i"))
        );
        let mut network =
            json!({"Type": "network", "Action": "create", "Actor": {"ID": "x", "Attributes": {}}});
        event(&mut network);
        assert!(network.get("status").is_none());
    }
}
