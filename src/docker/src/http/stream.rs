//! Bodies that come into being while they are sent.
//!
//! The future that makes a body lives in the body: when the client goes away, the body is dropped, and the
//! future with it. The channel between them is short, so that a slow client slows its producer down.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

/// Pieces that may wait for the client.
const PIECES: usize = 16;

/// The client has gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// Where a body's pieces go. Each is sent at once.
#[derive(Debug, Clone)]
pub(crate) struct Out(mpsc::Sender<Bytes>);

impl Out {
    /// Sends a piece, when the client has taken enough of those before.
    pub(crate) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        self.0.send(bytes).await.map_err(|_| Gone)
    }

    /// Sends a document and the end of its line.
    pub(crate) async fn json(&self, document: &impl Serialize, end: &str) -> Result<(), Gone> {
        // Documents are made of strings, numbers and maps with string keys, which always can be written.
        let mut bytes = serde_json::to_vec(document).unwrap_or_default();
        bytes.extend_from_slice(end.as_bytes());
        self.send(bytes).await
    }
}

/// A body that a future makes.
pub(crate) struct Streamed {
    producer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pieces: mpsc::Receiver<Bytes>,
}

impl Streamed {
    /// A body of everything that `produce` sends until it returns.
    pub(crate) fn new<F>(produce: impl FnOnce(Out) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, pieces) = mpsc::channel(PIECES);
        Self { producer: Some(Box::pin(produce(Out(sender)))), pieces }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(producer) = &mut self.producer
            && producer.as_mut().poll(context).is_ready()
        {
            // The sender goes with the future, which ends the channel behind its last piece.
            self.producer = None;
        }
        self.pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn everything_that_was_sent_arrives() {
        let body = Streamed::new(|out| async move {
            for number in 0..100u8 {
                out.send(vec![number]).await.unwrap();
            }
        });
        let all = body.collect().await.unwrap().to_bytes();
        assert_eq!(all.len(), 100);
        assert_eq!(all[99], 99);
    }

    #[tokio::test]
    async fn dropping_the_body_ends_its_producer() {
        let (ended, mut seen) = tokio::sync::oneshot::channel::<()>();
        let mut body = Streamed::new(|out| async move {
            let _ended = ended;
            out.send("first").await.unwrap();
            std::future::pending::<()>().await;
        });
        assert!(body.frame().await.is_some());
        assert!(seen.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(body);
        assert!(seen.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Closed));
    }
}
