//! No field of a request is ignored without a word: each one is changed, and the change must show in what
//! the engine is asked for, or be refused. What is neither is listed here with its reason.

use std::collections::BTreeMap;

use cri_api::v1;
use engine::Namespaces;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};

use crate::error::Invalid;
use crate::{container, convert, sandbox};

/// What becomes of a changed field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Silent,
    Refused,
    Honoured,
}

/// Fields that change nothing, and why that is right.
const SILENT: &[(&str, &str)] = &[
    ("ContainerConfig.image.annotations", "they are for whoever pulls; the image is here already"),
    ("ContainerConfig.image.runtime_handler", "every handler has the same image store"),
    ("ContainerConfig.image.image_ref", "a field of answers"),
    ("ContainerConfig.mounts.image.annotations", "they are for whoever pulls; the image is here already"),
    ("ContainerConfig.mounts.image.user_specified_image", "for people; the image is named by its reference"),
    ("ContainerConfig.mounts.image.runtime_handler", "every handler has the same image store"),
    ("ContainerConfig.mounts.image.image_ref", "a field of answers"),
    ("RunPodSandboxRequest.config.linux.security_context.run_as_user", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.readonly_rootfs", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.supplemental_groups", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.supplemental_groups_policy", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.seccomp.profile_type", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.seccomp.localhost_ref", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.apparmor.profile_type", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.apparmor.localhost_ref", PAUSE),
    ("RunPodSandboxRequest.config.linux.security_context.seccomp_profile_path", PAUSE),
];

const PAUSE: &str = "it confines the pod's own process, and a pod has none that runs a program of its image";

#[test]
fn fields_of_a_container() {
    let mut base = container::tests::request();
    base.mounts.push(v1::Mount {
        container_path: "/plain".into(),
        host_path: "/srv".into(),
        ..Default::default()
    });
    base.devices.push(v1::Device {
        container_path: "/dev/a".into(),
        host_path: "/dev/b".into(),
        permissions: "r".into(),
    });
    let read = |bytes: &[u8]| {
        let config = v1::ContainerConfig::decode(bytes).expect("a container");
        container::config(config, &Namespaces::default())
    };
    check("ContainerConfig", &base.encode_to_vec(), read);
}

#[test]
fn fields_of_a_pod() {
    let read = |bytes: &[u8]| sandbox::config(v1::RunPodSandboxRequest::decode(bytes).expect("a pod"));
    check("RunPodSandboxRequest", &sandbox::tests::request().encode_to_vec(), read);
}

#[test]
fn fields_of_limits() {
    let read = |bytes: &[u8]| {
        convert::changed_resources(v1::LinuxContainerResources::decode(bytes).expect("limits"))
    };
    check("LinuxContainerResources", &[], read);
}

#[test]
fn nothing_is_listed_twice() {
    let names: BTreeMap<_, _> = SILENT.iter().copied().collect();
    assert_eq!(names.len(), SILENT.len());
}

/// Changes every field of a message and compares what `read` makes of it.
fn check<T: PartialEq>(name: &str, base: &[u8], read: impl Fn(&[u8]) -> Result<T, Invalid>) {
    let pool = DescriptorPool::decode(cri_api::FILE_DESCRIPTOR_SET).expect("valid descriptors");
    let descriptor = pool.get_message_by_name(&format!("runtime.v1.{name}")).expect("a known message");
    let message = DynamicMessage::decode(descriptor, base).expect("a valid message");
    let unchanged = read(base).unwrap_or_else(|error| panic!("the request itself is refused: {error:?}"));
    let mut fates = BTreeMap::<String, Fate>::new();
    for (path, changed) in changes(&message, name) {
        let fate = match read(&changed.encode_to_vec()) {
            Ok(config) if config == unchanged => Fate::Silent,
            Ok(_) => Fate::Honoured,
            Err(_) => Fate::Refused,
        };
        let known = fates.entry(path).or_insert(fate);
        *known = fate.max(*known);
    }
    let silent: Vec<&str> =
        fates.iter().filter(|(_, fate)| **fate == Fate::Silent).map(|(path, _)| path.as_str()).collect();
    let mut expected: Vec<&str> =
        SILENT.iter().map(|(path, _)| *path).filter(|path| path.starts_with(name)).collect();
    expected.sort_unstable();
    assert_eq!(silent, expected, "left: ignored in silence; right: listed with a reason");
    let refused = fates.iter().filter(|(_, fate)| **fate == Fate::Refused).map(|(path, _)| path.as_str());
    for path in refused {
        let known = REFUSED.iter().any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}.")));
        assert!(known, "{path} is refused whatever it is");
    }
}

/// What no value is taken for, or none without another field, or beside another. A container that repeats its pod's namespaces
/// may only say what is so.
const REFUSED: &[&str] = &[
    "ContainerConfig.windows",
    "RunPodSandboxRequest.config.windows",
    "ContainerConfig.linux.security_context.namespace_options.network",
    "ContainerConfig.linux.security_context.namespace_options.ipc",
    "ContainerConfig.linux.security_context.namespace_options.userns_options",
    "RunPodSandboxRequest.config.linux.security_context.namespace_options.userns_options",
    "ContainerConfig.linux.security_context.namespace_options.target_id",
    "RunPodSandboxRequest.config.linux.security_context.namespace_options.target_id",
    "RunPodSandboxRequest.config.linux.security_context.run_as_group",
    "ContainerConfig.linux.security_context.run_as_username",
];

/// Copies of a message that differ in one field each, with the field's path; several per field, for not every
/// value makes sense.
fn changes(message: &DynamicMessage, path: &str) -> Vec<(String, DynamicMessage)> {
    let mut all = Vec::new();
    for field in message.descriptor().fields() {
        let path = format!("{path}.{}", field.name());
        for (path, value) in values(message, &field, &path) {
            let mut changed = message.clone();
            changed.set_field(&field, value);
            all.push((path, changed));
        }
    }
    all
}

fn values(message: &DynamicMessage, field: &FieldDescriptor, path: &str) -> Vec<(String, Value)> {
    let now = message.get_field(field);
    if field.is_map() {
        let entry = |value: &str| Value::Map([(key(), Value::String(value.to_owned()))].into());
        return vec![(path.to_owned(), entry("65536"))];
    }
    if field.is_list() {
        let list = now.as_list().unwrap_or_default();
        // Each of the list changed in its place: what makes no sense in one may in another.
        let replaced = |index: usize, value: Value| {
            let mut list = list.to_vec();
            match list.get_mut(index) {
                Some(element) => *element = value,
                None => list.push(value),
            }
            Value::List(list)
        };
        let elements = 0..list.len().max(1);
        return elements
            .flat_map(|index| {
                let changed = singles(list.get(index), field, path).into_iter();
                changed.map(move |(path, value)| (path, replaced(index, value)))
            })
            .collect();
    }
    let present = message.has_field(field).then_some(now.as_ref());
    singles(present, field, path)
}

fn key() -> MapKey {
    MapKey::String("kernel.shm_rmid_forced".to_owned())
}

/// Values of one element that differ from what is there.
fn singles(now: Option<&Value>, field: &FieldDescriptor, path: &str) -> Vec<(String, Value)> {
    let texts = ["/changed", "12", "NET_RAW", "noexec", "localhost/changed", "::2", &"c".repeat(64)]
        .map(str::to_owned);
    let values: Vec<Value> = match field.kind() {
        Kind::Message(descriptor) => {
            let inner = match now {
                Some(Value::Message(inner)) => inner.clone(),
                _ => DynamicMessage::new(descriptor),
            };
            if inner.descriptor().full_name() == "runtime.v1.Int64Value" {
                let mut value = inner;
                value.set_field_by_name("value", Value::I64(4321));
                return vec![(path.to_owned(), Value::Message(value))];
            }
            return changes(&inner, path).into_iter().map(|(path, m)| (path, Value::Message(m))).collect();
        }
        Kind::String => texts.map(Value::String).into(),
        Kind::Bytes => vec![Value::Bytes("changed".into())],
        Kind::Bool => vec![Value::Bool(now != Some(&Value::Bool(true)))],
        Kind::Int32 => [1234, 2].map(Value::I32).into(),
        Kind::Int64 => [4096, 5000, 500, -1].map(Value::I64).into(),
        Kind::Uint32 => [1234, 2].map(Value::U32).into(),
        Kind::Uint64 => [1234, 2].map(Value::U64).into(),
        Kind::Enum(_) => [0, 1, 2, 3].map(Value::EnumNumber).into(),
        kind => panic!("{path}: no values for {kind:?}"),
    };
    values.into_iter().map(|value| (path.to_owned(), value)).collect()
}
