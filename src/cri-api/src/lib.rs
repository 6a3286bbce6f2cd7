//! Generated code of the Container Runtime Interface: messages, server traits and clients.
//!
//! Nothing is written by hand here but the `Debug` of [`v1::AuthConfig`], which hides what it holds.
//! The interface itself, and what each field means, is in `proto/cri.proto`.

#![forbid(unsafe_code)]

/// Package `runtime.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::disallowed_methods
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The compiled interface as a serialized `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cri.bin"));

/// Largest message in either direction: what the kubelet accepts.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::v1::AuthConfig;

    #[test]
    fn credentials_are_not_printed() {
        let auth = AuthConfig {
            username: "user-secret".into(),
            password: "password-secret".into(),
            auth: "auth-secret".into(),
            server_address: "registry.example".into(),
            identity_token: "identity-secret".into(),
            registry_token: "registry-secret".into(),
        };
        let text = format!("{auth:?}");
        assert!(text.contains("registry.example"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
