//! Holds `proto/cri.proto` against the `k8s-cri` crate, which is generated from the upstream file.
//!
//! Every field of every message that both know is filled with a value of its own, encoded with our
//! descriptors, decoded with the crate's types and compared by name and value. The crate stops at
//! Kubernetes v0.32, so what is newer is listed here and must be unknown to it.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use serde_json::{Value as Json, json};

/// Fields that are newer than the crate.
const NEWER: &[&str] = &[
    "ContainerConfig.stop_signal",
    "ContainerStats.io",
    "ContainerStatus.stop_signal",
    "CpuUsage.psi",
    "ImageSpec.image_ref",
    "LinuxPodSandboxStats.io",
    "MemoryUsage.psi",
    "Mount.image_sub_path",
    "Mount.mount_options",
    "RuntimeFeatures.mount_options",
    "RuntimeFeatures.user_namespaces_host_network",
];

/// Message types that are newer than the crate.
const NEWER_MESSAGES: &[&str] = &[
    "CheckpointPodRequest",
    "CheckpointPodResponse",
    "IoUsage",
    "PsiData",
    "PsiStats",
    "RestorePodRequest",
    "RestorePodResponse",
    "RestoredContainer",
    "StreamContainerStatsRequest",
    "StreamContainerStatsResponse",
    "StreamContainersRequest",
    "StreamContainersResponse",
    "StreamImagesRequest",
    "StreamImagesResponse",
    "StreamPodSandboxMetricsRequest",
    "StreamPodSandboxMetricsResponse",
    "StreamPodSandboxStatsRequest",
    "StreamPodSandboxStatsResponse",
    "StreamPodSandboxesRequest",
    "StreamPodSandboxesResponse",
    "UpdatePodSandboxResourcesRequest",
    "UpdatePodSandboxResourcesResponse",
];

macro_rules! theirs {
    ($($name:literal => $type:ident,)*) => {
        /// Names of the messages that the crate has.
        const THEIRS: &[&str] = &[$($name),*];

        /// Decodes with the crate's type of that name.
        fn decode(name: &str, wire: &[u8]) -> Option<Json> {
            match name {
                $($name => {
                    let message = k8s_cri::v1::$type::decode(wire).expect(name);
                    Some(serde_json::to_value(message).expect(name))
                })*
                _ => None,
            }
        }
    };
}

theirs! {
        "VersionRequest" => VersionRequest,
        "VersionResponse" => VersionResponse,
        "DNSConfig" => DnsConfig,
        "PortMapping" => PortMapping,
        "Mount" => Mount,
        "IDMapping" => IdMapping,
        "UserNamespace" => UserNamespace,
        "NamespaceOption" => NamespaceOption,
        "Int64Value" => Int64Value,
        "LinuxSandboxSecurityContext" => LinuxSandboxSecurityContext,
        "SecurityProfile" => SecurityProfile,
        "LinuxPodSandboxConfig" => LinuxPodSandboxConfig,
        "PodSandboxMetadata" => PodSandboxMetadata,
        "PodSandboxConfig" => PodSandboxConfig,
        "RunPodSandboxRequest" => RunPodSandboxRequest,
        "RunPodSandboxResponse" => RunPodSandboxResponse,
        "StopPodSandboxRequest" => StopPodSandboxRequest,
        "StopPodSandboxResponse" => StopPodSandboxResponse,
        "RemovePodSandboxRequest" => RemovePodSandboxRequest,
        "RemovePodSandboxResponse" => RemovePodSandboxResponse,
        "PodSandboxStatusRequest" => PodSandboxStatusRequest,
        "PodIP" => PodIp,
        "PodSandboxNetworkStatus" => PodSandboxNetworkStatus,
        "Namespace" => Namespace,
        "LinuxPodSandboxStatus" => LinuxPodSandboxStatus,
        "PodSandboxStatus" => PodSandboxStatus,
        "PodSandboxStatusResponse" => PodSandboxStatusResponse,
        "PodSandboxStateValue" => PodSandboxStateValue,
        "PodSandboxFilter" => PodSandboxFilter,
        "ListPodSandboxRequest" => ListPodSandboxRequest,
        "PodSandbox" => PodSandbox,
        "ListPodSandboxResponse" => ListPodSandboxResponse,
        "PodSandboxStatsRequest" => PodSandboxStatsRequest,
        "PodSandboxStatsResponse" => PodSandboxStatsResponse,
        "PodSandboxStatsFilter" => PodSandboxStatsFilter,
        "ListPodSandboxStatsRequest" => ListPodSandboxStatsRequest,
        "ListPodSandboxStatsResponse" => ListPodSandboxStatsResponse,
        "PodSandboxAttributes" => PodSandboxAttributes,
        "PodSandboxStats" => PodSandboxStats,
        "LinuxPodSandboxStats" => LinuxPodSandboxStats,
        "WindowsPodSandboxStats" => WindowsPodSandboxStats,
        "NetworkUsage" => NetworkUsage,
        "WindowsNetworkUsage" => WindowsNetworkUsage,
        "NetworkInterfaceUsage" => NetworkInterfaceUsage,
        "WindowsNetworkInterfaceUsage" => WindowsNetworkInterfaceUsage,
        "ProcessUsage" => ProcessUsage,
        "WindowsProcessUsage" => WindowsProcessUsage,
        "ImageSpec" => ImageSpec,
        "KeyValue" => KeyValue,
        "LinuxContainerResources" => LinuxContainerResources,
        "HugepageLimit" => HugepageLimit,
        "SELinuxOption" => SeLinuxOption,
        "Capability" => Capability,
        "LinuxContainerSecurityContext" => LinuxContainerSecurityContext,
        "LinuxContainerConfig" => LinuxContainerConfig,
        "LinuxContainerUser" => LinuxContainerUser,
        "WindowsNamespaceOption" => WindowsNamespaceOption,
        "WindowsSandboxSecurityContext" => WindowsSandboxSecurityContext,
        "WindowsPodSandboxConfig" => WindowsPodSandboxConfig,
        "WindowsContainerSecurityContext" => WindowsContainerSecurityContext,
        "WindowsContainerConfig" => WindowsContainerConfig,
        "WindowsContainerResources" => WindowsContainerResources,
        "WindowsCpuGroupAffinity" => WindowsCpuGroupAffinity,
        "ContainerMetadata" => ContainerMetadata,
        "Device" => Device,
        "CDIDevice" => CdiDevice,
        "ContainerConfig" => ContainerConfig,
        "CreateContainerRequest" => CreateContainerRequest,
        "CreateContainerResponse" => CreateContainerResponse,
        "StartContainerRequest" => StartContainerRequest,
        "StartContainerResponse" => StartContainerResponse,
        "StopContainerRequest" => StopContainerRequest,
        "StopContainerResponse" => StopContainerResponse,
        "RemoveContainerRequest" => RemoveContainerRequest,
        "RemoveContainerResponse" => RemoveContainerResponse,
        "ContainerStateValue" => ContainerStateValue,
        "ContainerFilter" => ContainerFilter,
        "ListContainersRequest" => ListContainersRequest,
        "Container" => Container,
        "ListContainersResponse" => ListContainersResponse,
        "ContainerStatusRequest" => ContainerStatusRequest,
        "ContainerStatus" => ContainerStatus,
        "ContainerStatusResponse" => ContainerStatusResponse,
        "ContainerResources" => ContainerResources,
        "ContainerUser" => ContainerUser,
        "UpdateContainerResourcesRequest" => UpdateContainerResourcesRequest,
        "UpdateContainerResourcesResponse" => UpdateContainerResourcesResponse,
        "ExecSyncRequest" => ExecSyncRequest,
        "ExecSyncResponse" => ExecSyncResponse,
        "ExecRequest" => ExecRequest,
        "ExecResponse" => ExecResponse,
        "AttachRequest" => AttachRequest,
        "AttachResponse" => AttachResponse,
        "PortForwardRequest" => PortForwardRequest,
        "PortForwardResponse" => PortForwardResponse,
        "ImageFilter" => ImageFilter,
        "ListImagesRequest" => ListImagesRequest,
        "Image" => Image,
        "ListImagesResponse" => ListImagesResponse,
        "ImageStatusRequest" => ImageStatusRequest,
        "ImageStatusResponse" => ImageStatusResponse,
        "AuthConfig" => AuthConfig,
        "PullImageRequest" => PullImageRequest,
        "PullImageResponse" => PullImageResponse,
        "RemoveImageRequest" => RemoveImageRequest,
        "RemoveImageResponse" => RemoveImageResponse,
        "NetworkConfig" => NetworkConfig,
        "RuntimeConfig" => RuntimeConfig,
        "UpdateRuntimeConfigRequest" => UpdateRuntimeConfigRequest,
        "UpdateRuntimeConfigResponse" => UpdateRuntimeConfigResponse,
        "RuntimeCondition" => RuntimeCondition,
        "RuntimeStatus" => RuntimeStatus,
        "StatusRequest" => StatusRequest,
        "RuntimeHandlerFeatures" => RuntimeHandlerFeatures,
        "RuntimeHandler" => RuntimeHandler,
        "RuntimeFeatures" => RuntimeFeatures,
        "StatusResponse" => StatusResponse,
        "ImageFsInfoRequest" => ImageFsInfoRequest,
        "UInt64Value" => UInt64Value,
        "FilesystemIdentifier" => FilesystemIdentifier,
        "FilesystemUsage" => FilesystemUsage,
        "WindowsFilesystemUsage" => WindowsFilesystemUsage,
        "ImageFsInfoResponse" => ImageFsInfoResponse,
        "ContainerStatsRequest" => ContainerStatsRequest,
        "ContainerStatsResponse" => ContainerStatsResponse,
        "ListContainerStatsRequest" => ListContainerStatsRequest,
        "ContainerStatsFilter" => ContainerStatsFilter,
        "ListContainerStatsResponse" => ListContainerStatsResponse,
        "ContainerAttributes" => ContainerAttributes,
        "ContainerStats" => ContainerStats,
        "WindowsContainerStats" => WindowsContainerStats,
        "CpuUsage" => CpuUsage,
        "WindowsCpuUsage" => WindowsCpuUsage,
        "MemoryUsage" => MemoryUsage,
        "SwapUsage" => SwapUsage,
        "WindowsMemoryUsage" => WindowsMemoryUsage,
        "ReopenContainerLogRequest" => ReopenContainerLogRequest,
        "ReopenContainerLogResponse" => ReopenContainerLogResponse,
        "CheckpointContainerRequest" => CheckpointContainerRequest,
        "CheckpointContainerResponse" => CheckpointContainerResponse,
        "GetEventsRequest" => GetEventsRequest,
        "ContainerEventResponse" => ContainerEventResponse,
        "ListMetricDescriptorsRequest" => ListMetricDescriptorsRequest,
        "ListMetricDescriptorsResponse" => ListMetricDescriptorsResponse,
        "MetricDescriptor" => MetricDescriptor,
        "ListPodSandboxMetricsRequest" => ListPodSandboxMetricsRequest,
        "ListPodSandboxMetricsResponse" => ListPodSandboxMetricsResponse,
        "PodSandboxMetrics" => PodSandboxMetrics,
        "ContainerMetrics" => ContainerMetrics,
        "Metric" => Metric,
        "RuntimeConfigRequest" => RuntimeConfigRequest,
        "RuntimeConfigResponse" => RuntimeConfigResponse,
        "LinuxRuntimeConfiguration" => LinuxRuntimeConfiguration,
}

#[test]
fn both_have_the_same_messages() {
    let ours: BTreeSet<String> =
        pool().all_messages().filter(|m| !m.is_map_entry()).map(|m| m.name().into()).collect();
    let theirs = THEIRS.iter().chain(NEWER_MESSAGES).map(|n| (*n).to_owned()).collect();
    assert_eq!(ours, theirs);
}

#[test]
fn every_field_has_the_same_name_number_and_type() {
    let mut newer = BTreeSet::new();
    for name in THEIRS {
        let descriptor = pool().get_message_by_name(&format!("runtime.v1.{name}")).expect(name);
        let wire = filled(&descriptor).encode_to_vec();
        let json = decode(name, &wire).expect(name);
        let mut theirs = json.as_object().expect(name).clone();
        for field in descriptor.fields() {
            match theirs.remove(&snake_case(field.name())) {
                None => {
                    newer.insert(format!("{name}.{}", field.name()));
                }
                Some(value) => {
                    assert_eq!(value, expected(&field), "{name}.{}", field.name());
                }
            }
        }
        assert!(theirs.is_empty(), "{name} lacks {theirs:?}");
    }
    assert_eq!(newer, NEWER.iter().map(|n| (*n).to_owned()).collect());
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(cri_api::FILE_DESCRIPTOR_SET).expect("our descriptors are valid")
}

/// A message in which every field has a value that no other type or number would give.
fn filled(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let value = if field.is_map() {
            Value::Map([(MapKey::String("key".into()), Value::String(field.name().into()))].into())
        } else if field.is_list() {
            Value::List(vec![scalar(&field)])
        } else {
            scalar(&field)
        };
        message.set_field(&field, value);
    }
    message
}

fn scalar(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::String => Value::String(field.name().into()),
        Kind::Bytes => Value::Bytes(field.name().to_owned().into()),
        Kind::Bool => Value::Bool(true),
        Kind::Double => Value::F64(0.5 + f64::from(field.number())),
        Kind::Int32 => Value::I32(i32::MIN + field.number().cast_signed()),
        Kind::Int64 => Value::I64(i64::MIN + i64::from(field.number())),
        Kind::Uint32 => Value::U32(u32::MAX - field.number()),
        Kind::Uint64 => Value::U64(u64::MAX - u64::from(field.number())),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(message) => Value::Message(DynamicMessage::new(message)),
        kind => panic!("{}: no value for {kind:?}", field.full_name()),
    }
}

/// What the crate's type must show for [`filled`].
fn expected(field: &FieldDescriptor) -> Json {
    let one = match field.kind() {
        // Strings became bytes with the same encoding in v0.37.
        Kind::String => json!(field.name()),
        Kind::Bytes if field.full_name() == "runtime.v1.KeyValue.value" => json!(field.name()),
        Kind::Bytes => json!(field.name().as_bytes()),
        Kind::Bool => json!(true),
        Kind::Double => json!(0.5 + f64::from(field.number())),
        Kind::Int32 => json!(i32::MIN + field.number().cast_signed()),
        Kind::Int64 => json!(i64::MIN + i64::from(field.number())),
        Kind::Uint32 => json!(u32::MAX - field.number()),
        Kind::Uint64 => json!(u64::MAX - u64::from(field.number())),
        Kind::Enum(_) => json!(1),
        Kind::Message(message) => empty(&message),
        kind => panic!("{}: no value for {kind:?}", field.full_name()),
    };
    match (field.is_map(), field.is_list()) {
        (true, _) => json!({"key": field.name()}),
        (_, true) => json!([one]),
        _ => one,
    }
}

/// The crate's rendering of an empty message of that type.
fn empty(message: &MessageDescriptor) -> Json {
    decode(message.name(), &[]).unwrap_or(Json::Null)
}

/// Field names as prost spells them in Rust.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| chars[b]);
        if c.is_uppercase() && before.is_some_and(|b| b.is_lowercase()) {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
