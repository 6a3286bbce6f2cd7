//! Errors as clients see them: a status and a sentence.
//!
//! [`ApiError::from_engine`] is the one place where the engine's errors become answers. Clients compare
//! sentences, so the well-known ones are Docker's own.

use std::borrow::Cow;

use engine::{ArchiveProblem, DurableProblem, ErrorKind, NetworkProblem, VolumeProblem};
use http::StatusCode;

/// A request that is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    plain: bool,
}

/// The result of a handler.
pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), plain: false }
    }

    /// The request makes no sense.
    pub(crate) fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no such object.
    pub(crate) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The state of the object does not allow it.
    pub(crate) fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// Not here.
    pub(crate) fn not_implemented(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// Something that this crate did wrong.
    pub(crate) fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// No such path, or not with this method.
    pub(crate) fn page_not_found() -> Self {
        Self::not_found("page not found")
    }

    pub(crate) fn no_container(reference: &str) -> Self {
        Self::not_found(format!("No such container: {reference}"))
    }

    pub(crate) fn no_image(reference: &str) -> Self {
        Self::not_found(format!("No such image: {reference}"))
    }

    /// Clients of the oldest versions read errors as text.
    pub(crate) fn in_plain_text(self) -> Self {
        Self { plain: true, ..self }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_plain_text(&self) -> bool {
        self.plain
    }

    /// What an error of the engine is to clients.
    pub(crate) fn from_engine(error: &engine::Error) -> Self {
        if let Some(problem) = error.cause::<NetworkProblem>() {
            return of_network(problem, error);
        }
        if let Some(problem) = error.cause::<ArchiveProblem>() {
            return of_files(problem, error);
        }
        if let Some(problem) = error.cause::<VolumeProblem>() {
            return of_volume(problem, error);
        }
        match error.cause::<DurableProblem>() {
            Some(problem) => of_container(problem, error),
            None => Self::new(status(error.kind()), error.chain()),
        }
    }
}

impl From<engine::Error> for ApiError {
    fn from(error: engine::Error) -> Self {
        Self::from_engine(&error)
    }
}

/// The only place where kinds become statuses.
fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded | ErrorKind::Exhausted | ErrorKind::Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// Docker's words for what can be wrong with a container.
fn of_container(problem: &DurableProblem, error: &engine::Error) -> ApiError {
    use DurableProblem as P;
    match problem {
        P::NotFound(reference) => ApiError::no_container(reference),
        P::Ambiguous(reference) => {
            ApiError::bad(format!("multiple IDs found with provided prefix: {reference}"))
        }
        P::BadName(name) => ApiError::bad(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )),
        P::NameTaken { name, id } => ApiError::conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )),
        P::ImageMissing(image) => ApiError::no_image(image),
        P::NotRunning(id) => ApiError::conflict(format!("container {id} is not running")),
        P::Running(id) => ApiError::conflict(format!("container {id} is running: stop the container first")),
        P::Paused(id) => ApiError::conflict(format!("container {id} is paused, unpause the container first")),
        P::NotPaused(id) => ApiError::conflict(format!("Container {id} is not paused")),
        P::Restarting(id) => {
            ApiError::conflict(format!("Container {id} is restarting, wait until the container is running"))
        }
        P::Removing(id) => ApiError::conflict(format!("removal of container {id} is already in progress")),
        P::NoExec(id) => ApiError::not_found(format!("No such exec instance: {id}")),
        P::ExecUsed { id, running: true } => {
            ApiError::conflict(format!("exec command {id} is already running"))
        }
        P::ExecUsed { id, running: false } => {
            ApiError::conflict(format!("exec command {id} has already run"))
        }
        P::AutoRemoved(_) => ApiError::bad("can't create 'AutoRemove' container with restart policy"),
        _ => ApiError::new(status(error.kind()), error.chain()),
    }
}

/// Docker's words for what can be wrong with files of a container.
fn of_files(problem: &ArchiveProblem, error: &engine::Error) -> ApiError {
    use ArchiveProblem as P;
    match problem {
        P::NotADirectory(_) => ApiError::bad("extraction point is not a directory"),
        P::ReadOnly(_) => ApiError::new(StatusCode::FORBIDDEN, "container rootfs is marked read-only"),
        _ => ApiError::new(status(error.kind()), error.chain()),
    }
}

/// Docker's words for what can be wrong with a volume.
fn of_volume(problem: &VolumeProblem, error: &engine::Error) -> ApiError {
    use VolumeProblem as P;
    match problem {
        P::NotFound(name) => ApiError::not_found(format!("get {name}: no such volume")),
        P::BadName(name) => ApiError::bad(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )),
        P::InUse { name, containers } => {
            ApiError::conflict(format!("remove {name}: volume is in use - [{}]", containers.join(", ")))
        }
        P::OtherDriver { name, .. } => {
            ApiError::conflict(format!("create {name}: conflict: volume name must be unique"))
        }
        P::NoDriver(name) => {
            ApiError::not_found(format!("error looking up volume plugin {name}: plugin {name:?} not found"))
        }
        P::NoSource(path) => ApiError::bad(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            path.display()
        )),
        _ => ApiError::new(status(error.kind()), error.chain()),
    }
}

/// Docker's words for what can be wrong with a network.
fn of_network(problem: &NetworkProblem, error: &engine::Error) -> ApiError {
    use NetworkProblem as P;
    match problem {
        P::NotFound(name) => ApiError::not_found(format!("network {name} not found")),
        P::Ambiguous(name) => {
            ApiError::bad(format!("network {name} is ambiguous (2 matches found based on ID prefix)"))
        }
        P::NameTaken(name) => ApiError::conflict(format!("network with name {name} already exists")),
        P::Predefined(name) => ApiError::new(
            StatusCode::FORBIDDEN,
            format!("{name} is a pre-defined network and cannot be removed"),
        ),
        P::InUse { name, id, example: (container, endpoint), .. } => ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "error while removing network: network {name} has active endpoints (name:\"{container}\" id:\"{}\")",
                endpoint.get(..12).unwrap_or(if endpoint.is_empty() { id } else { endpoint })
            ),
        ),
        P::Overlap { .. } => ApiError::new(
            StatusCode::FORBIDDEN,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        P::PoolsExhausted => ApiError::bad(
            "all predefined address pools have been fully subnetted; remove networks, or configure more of network.address_pools",
        ),
        P::AddressTaken(address) => ApiError::conflict(format!("Address already in use: {address}")),
        P::AlreadyAttached { container, network } => ApiError::new(
            StatusCode::FORBIDDEN,
            format!("endpoint with name {container} already exists in network {network}"),
        ),
        P::NotAttached { container, network } => ApiError::new(
            StatusCode::FORBIDDEN,
            format!("container {container} is not connected to network {network}"),
        ),
        P::PortTaken { host_ip, host_port, by_container, .. } => {
            let address = std::net::SocketAddr::new(*host_ip, *host_port);
            ApiError::internal(if *by_container {
                format!(
                    "failed to set up container networking: Bind for {address} failed: port is already allocated"
                )
            } else {
                format!(
                    "failed to set up container networking: failed to bind host port for {address}: address already in use"
                )
            })
        }
        _ => ApiError::new(status(error.kind()), error.chain()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_errors_have_a_status_and_all_causes() {
        let cause = std::io::Error::other("disk on fire");
        let error = engine::Error::caused_by(ErrorKind::Exhausted, "make a snapshot", cause);
        let answer = ApiError::from(error);
        assert_eq!((answer.status().as_u16(), answer.message()), (500, "make a snapshot: disk on fire"));
    }

    #[test]
    fn containers_have_dockers_words() {
        let of = |problem: DurableProblem| {
            let answer = ApiError::from(engine::Error::caused_by(ErrorKind::Internal, "x", problem));
            (answer.status().as_u16(), answer.message().to_owned())
        };
        let id: oci::ContainerId = "abc".parse().unwrap();
        assert_eq!(of(DurableProblem::NotFound("x".into())), (404, "No such container: x".into()));
        assert_eq!(of(DurableProblem::ImageMissing("x".into())), (404, "No such image: x".into()));
        assert_eq!(of(DurableProblem::NotRunning(id.clone())), (409, "container abc is not running".into()));
        let (status, text) = of(DurableProblem::NameTaken { name: "web".into(), id });
        assert_eq!(status, 409);
        assert!(
            text.starts_with("Conflict. The container name \"/web\" is already in use by container \"abc\".")
        );
    }

    #[test]
    fn networks_have_dockers_words() {
        let of = |problem: NetworkProblem| {
            let answer = ApiError::from(engine::Error::caused_by(ErrorKind::Internal, "x", problem));
            (answer.status().as_u16(), answer.message().to_owned())
        };
        assert_eq!(of(NetworkProblem::NotFound("a".into())), (404, "network a not found".into()));
        assert_eq!(
            of(NetworkProblem::NameTaken("a".into())),
            (409, "network with name a already exists".into())
        );
        assert_eq!(of(NetworkProblem::Predefined("host".into())).0, 403);
        let in_use = NetworkProblem::InUse {
            name: "n".into(),
            id: "i".into(),
            count: 1,
            example: ("web".into(), "0123456789abcdef".into()),
        };
        assert!(of(in_use).1.contains("network n has active endpoints (name:\"web\" id:\"0123456789ab\")"));
        let taken = NetworkProblem::PortTaken {
            host_ip: "::".parse().unwrap(),
            host_port: 80,
            protocol: engine::Protocol::Tcp,
            by_container: true,
        };
        assert!(of(taken).1.ends_with("Bind for [::]:80 failed: port is already allocated"));
    }
}
