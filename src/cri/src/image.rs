//! Images.

use cri_api::v1;
use engine::{AuthFields, FsUsage, ImageInfo, PullRequest, Secret};

use crate::convert::uint;
use crate::error::Invalid;

/// The name in a request that needs one.
pub(crate) fn name(image: Option<v1::ImageSpec>) -> Result<String, Invalid> {
    let name = image.map(|image| image.image).unwrap_or_default();
    if name.is_empty() { Err(Invalid::new("the request names no image")) } else { Ok(name) }
}

/// A request to pull in the engine's words.
pub(crate) fn pull(request: v1::PullImageRequest) -> Result<PullRequest, Invalid> {
    let name = name(request.image)?;
    let reference = name.parse().map_err(|error| Invalid::new(format!("image {name:?}: {error}")))?;
    let auth = request.auth.map(credentials).unwrap_or_default();
    let auth = auth.parse().map_err(|error| Invalid::new(format!("credentials for {name:?}: {error}")))?;
    Ok(PullRequest { reference, auth })
}

fn credentials(auth: v1::AuthConfig) -> AuthFields {
    AuthFields {
        username: auth.username,
        password: Secret::new(auth.password),
        auth: Secret::new(auth.auth),
        server_address: auth.server_address,
        identity_token: Secret::new(auth.identity_token),
        registry_token: Secret::new(auth.registry_token),
    }
}

/// An image.
pub(crate) fn item(info: &ImageInfo) -> v1::Image {
    let (uid, username) = user(&info.user);
    v1::Image {
        id: info.id.to_string(),
        repo_tags: info.tags.iter().map(ToString::to_string).collect(),
        repo_digests: info.digests.iter().map(ToString::to_string).collect(),
        size: info.size_bytes.max(1),
        uid,
        username,
        spec: None,
        pinned: info.pinned,
    }
}

/// A number or a name, without the group.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(value) => (Some(v1::Int64Value { value }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// An image with what people ask for, or the absence of one.
pub(crate) fn response(info: Option<&ImageInfo>, verbose: bool) -> v1::ImageStatusResponse {
    let details = |info: &ImageInfo| {
        let text = serde_json::json!({ "imageSpec": info.config }).to_string();
        [("info".to_owned(), text)].into()
    };
    v1::ImageStatusResponse {
        image: info.map(item),
        info: info.filter(|_| verbose).map(details).unwrap_or_default(),
    }
}

/// Use of a file system.
pub(crate) fn filesystem(usage: &FsUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: usage.observed_at_ns,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint.clone() }),
        used_bytes: Some(uint(usage.used_bytes)),
        inodes_used: Some(uint(usage.inodes_used)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        let uid = |value| Some(v1::Int64Value { value });
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("1002"), (uid(1002), String::new()));
        assert_eq!(user("1003:1004"), (uid(1003), String::new()));
        assert_eq!(user("www-data:1004"), (None, "www-data".into()));
    }

    #[test]
    fn pulls_have_names_and_usable_credentials() {
        let request = |image: &str, auth: Option<v1::AuthConfig>| v1::PullImageRequest {
            image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
            auth,
            sandbox_config: None,
        };
        assert!(pull(request("busybox", None)).unwrap().auth.is_none());
        assert!(pull(request("busybox", Some(v1::AuthConfig::default()))).unwrap().auth.is_none());
        let auth = v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
        assert!(pull(request("busybox", Some(auth))).unwrap().auth.is_some());
        let bad = v1::AuthConfig { auth: "!".into(), ..Default::default() };
        assert!(pull(request("busybox", Some(bad))).is_err());
        assert!(pull(request("", None)).is_err());
        assert!(pull(request("UPPER CASE", None)).is_err());
    }
}
