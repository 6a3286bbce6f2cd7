//! Container events.

use cri_api::v1;
use engine::{Event, EventKind, Subscription};
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::batch::BoxStream;
use crate::{container, sandbox};

/// Events of a pod itself carry the pod's id in place of a container's.
fn message(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.container.as_ref().map_or_else(|| event.sandbox.to_string(), ToString::to_string),
        container_event_type: kind.into(),
        created_at: event.at_ns,
        pod_sandbox_status: Some(sandbox::status(&event.status)),
        containers_statuses: event.status.containers.iter().map(container::status).collect(),
    }
}

/// The events from now on. A client that falls behind is told so by the end of the stream: it must list
/// anew. When `stop` fires the stream ends, as every call does.
pub(crate) fn stream(
    subscription: Subscription,
    stop: CancellationToken,
) -> BoxStream<v1::ContainerEventResponse> {
    let events = stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        match subscription.next().await? {
            Ok(event) => Some((Ok(message(&event)), Some(subscription))),
            Err(missed) => {
                let status =
                    Status::data_loss(format!("{missed} events were missed; list pods and containers anew"));
                Some((Err(status), None))
            }
        }
    });
    Box::pin(events.take_until(stop.cancelled_owned()))
}
