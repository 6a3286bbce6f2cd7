use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": DIGEST, "size": 9}],
    })
}

fn with(mut value: Value, key: &str, to: Value) -> Value {
    value[key] = to;
    value
}

fn without(mut value: Value, key: &str) -> Value {
    value.as_object_mut().unwrap().remove(key);
    value
}

fn check(document: &Value, served_as: Option<&str>, expected: Expect) {
    let text = match parse(document.to_string().as_bytes(), served_as) {
        Ok(Parsed::Index { media_type, entries }) => format!("index {media_type} of {}", entries.len()),
        Ok(Parsed::Manifest { media_type, layers, .. }) => {
            format!("manifest {media_type} {:?}", layers.iter().map(|l| l.compression).collect::<Vec<_>>())
        }
        Err(fault) => format!("{:?}: {}", fault.kind, fault.detail),
    };
    expected.assert_eq(&text);
}

#[test]
fn both_families_with_and_without_types() {
    check(
        &manifest(),
        Some(OCI_MANIFEST),
        expect!["manifest application/vnd.oci.image.manifest.v1+json [Zstd]"],
    );
    check(
        &without(manifest(), "mediaType"),
        Some("application/json"),
        expect!["manifest application/vnd.oci.image.manifest.v1+json [Zstd]"],
    );
    check(
        &without(manifest(), "mediaType"),
        Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
        expect!["manifest application/vnd.docker.distribution.manifest.v2+json [Zstd]"],
    );
    check(
        &json!({"schemaVersion": 2, "manifests": []}),
        None,
        expect!["index application/vnd.oci.image.index.v1+json of 0"],
    );
}

#[test]
fn ambiguous_documents_are_refused() {
    check(
        &with(manifest(), "manifests", json!([])),
        None,
        expect!["Invalid: the manifest is ambiguous: it lists both manifests and layers"],
    );
    check(
        &manifest(),
        Some(DOCKER_MANIFEST),
        expect![
            "Invalid: the manifest says it is application/vnd.oci.image.manifest.v1+json, but is served as application/vnd.docker.distribution.manifest.v2+json"
        ],
    );
    check(
        &with(manifest(), "mediaType", json!(OCI_INDEX)),
        None,
        expect!["Invalid: the index lists no manifests"],
    );
    let twice = format!(r#"{{"schemaVersion":2,"layers":[],"layers":[],"config":{}}}"#, manifest()["config"]);
    assert!(parse(twice.as_bytes(), None).unwrap_err().detail.contains("duplicate field"));
}

#[test]
fn other_things_are_refused_by_name() {
    check(
        &with(manifest(), "schemaVersion", json!(1)),
        None,
        expect![
            "Unsupported: the image has Docker's schema 1 format, which nothing verifies; push it again with a current client"
        ],
    );
    check(
        &manifest(),
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        expect![
            "Unsupported: the image has Docker's schema 1 format, which nothing verifies; push it again with a current client"
        ],
    );
    let mut chart = manifest();
    chart["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    check(
        &chart,
        None,
        expect![
            "Unsupported: application/vnd.cncf.helm.chart.content.v1.tar+gzip is no layer of a container image"
        ],
    );
    let mut negative = manifest();
    negative["layers"][0]["size"] = json!(-1);
    assert_eq!(parse(negative.to_string().as_bytes(), None).unwrap_err().kind, ErrorKind::Invalid);
    let mut bad_digest = manifest();
    bad_digest["config"]["digest"] = json!("sha256:../../x");
    assert_eq!(parse(bad_digest.to_string().as_bytes(), None).unwrap_err().kind, ErrorKind::Invalid);
}

fn entry(n: u8, platform: Value, annotations: Value) -> Value {
    let digest = Digest::sha256([n; 32]);
    let mut entry =
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "annotations": annotations});
    if !platform.is_null() {
        entry["platform"] = platform;
    }
    entry
}

fn chosen(entries: Vec<Value>, platform: (&str, &str)) -> Result<u8, String> {
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let Parsed::Index { entries, .. } = parse(index.to_string().as_bytes(), None).unwrap() else {
        panic!("not an index")
    };
    let platform =
        Platform { os: "linux".into(), architecture: platform.0.into(), variant: platform.1.into() };
    match choose(&entries, &platform) {
        Ok(descriptor) => Ok(u8::from_str_radix(&descriptor.digest.hex()[..2], 16).unwrap()),
        Err(fault) => Err(fault.detail),
    }
}

#[test]
fn the_platform_decides_and_attestations_never_count() {
    let arm = |variant: &str| json!({"os": "linux", "architecture": "arm64", "variant": variant});
    let amd = json!({"os": "linux", "architecture": "amd64"});
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let attestation = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let entries = vec![
        entry(1, unknown.clone(), Value::Null),
        entry(2, amd.clone(), attestation),
        entry(3, arm(""), Value::Null),
        entry(4, arm("v8"), Value::Null),
        entry(5, amd.clone(), json!({"a": "b"})),
    ];
    assert_eq!(chosen(entries.clone(), ("amd64", "")), Ok(5));
    assert_eq!(chosen(entries.clone(), ("arm64", "v8")), Ok(4));
    assert_eq!(
        chosen(entries, ("s390x", "")),
        Err("no image for linux/s390x; there is linux/arm64, linux/arm64/v8, linux/amd64".into())
    );
    assert_eq!(chosen(vec![entry(7, Value::Null, Value::Null)], ("amd64", "")), Ok(7));
    assert!(chosen(vec![entry(1, unknown, Value::Null)], ("amd64", "")).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, None);
        let _ = diff_ids(&bytes);
    }

    #[test]
    fn a_changed_manifest_never_panics(key in "(schemaVersion|mediaType|config|layers|manifests|fsLayers)", to in ".{0,20}") {
        let _ = parse(with(manifest(), &key, json!(to)).to_string().as_bytes(), Some(&to));
    }
}
