//! One exec or attach session over whatever carries its channels.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::backend::{
    Attach, Backend, Exec, Input, Output, SessionError, SessionIo, StreamSet, TerminalSize,
};
use super::status::{Outcome, StatusFormat, render};

/// How long a session may go on after its client has left.
const GRACE: Duration = Duration::from_secs(10);
/// How long writing the outcome may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// Sizes that wait to be applied.
const RESIZE_QUEUE: usize = 4;
/// Longest JSON object with a size.
const MAX_RESIZE_BYTES: usize = 1024;

/// A session that can run on channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Session {
    Exec(Exec),
    Attach(Attach),
}

impl Session {
    pub(crate) fn streams(&self) -> StreamSet {
        match self {
            Self::Exec(exec) => exec.streams,
            Self::Attach(attach) => attach.streams,
        }
    }
}

/// The client's channels.
pub(crate) struct Channels {
    pub(crate) error: Output,
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    pub(crate) resize: Option<Input>,
    pub(crate) format: StatusFormat,
    pub(crate) closed: CancellationToken,
}

/// Runs the session and tells the client how it ended.
pub(crate) async fn run(backend: &dyn Backend, session: Session, channels: Channels) {
    let Channels { mut error, stdin, stdout, stderr, resize, format, closed } = channels;
    let (sizes, sizes_out) = mpsc::channel(RESIZE_QUEUE);
    let io = SessionIo {
        stdin,
        stdout,
        stderr,
        resize: resize.is_some().then_some(sizes_out),
        closed: closed.clone(),
    };
    let work = async {
        match session {
            Session::Exec(exec) => backend.exec(exec, io).await,
            Session::Attach(attach) => backend.attach(attach, io).await.map(|()| 0),
        }
    };
    let outcome: Outcome = tokio::select! {
        outcome = work => outcome,
        never = read_sizes(resize, sizes) => match never {},
        () = abandoned(&closed) => Err(SessionError("the client is gone".into())),
    };
    if let Err(error) = &outcome {
        debug!(%error, "streaming session failed");
    }
    let report = async {
        error.write_all(&render(&outcome, format)).await?;
        error.shutdown().await
    };
    match timeout(STATUS_TIMEOUT, report).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "client did not get the outcome of its session"),
        Err(_) => debug!("client does not read the outcome of its session"),
    }
}

/// Returns a while after the client has left: a process that ignores it must not hold the session.
pub(crate) async fn abandoned(closed: &CancellationToken) {
    closed.cancelled().await;
    sleep(GRACE).await;
}

/// Passes on the sizes that the client sends, as long as the session lasts.
async fn read_sizes(resize: Option<Input>, sizes: mpsc::Sender<TerminalSize>) -> std::convert::Infallible {
    if let Some(mut input) = resize {
        let mut parser = SizeParser::default();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = input.read(&mut buffer).await {
            for size in parser.feed(&buffer[..count]) {
                if sizes.send(size).await.is_err() {
                    // The backend does not care about sizes, but the channel must be read on.
                    break;
                }
            }
        }
    }
    std::future::pending().await
}

/// Finds sizes in a stream of JSON objects, however it is cut.
#[derive(Debug, Default)]
pub(crate) struct SizeParser {
    buffer: Vec<u8>,
}

#[derive(serde::Deserialize)]
struct JsonSize {
    #[serde(alias = "width", rename = "Width")]
    columns: u16,
    #[serde(alias = "height", rename = "Height")]
    rows: u16,
}

impl SizeParser {
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<TerminalSize> {
        self.buffer.extend_from_slice(bytes);
        let mut stream = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<JsonSize>();
        let (mut sizes, mut used, mut broken) = (Vec::new(), 0, false);
        loop {
            match stream.next() {
                Some(Ok(size)) => sizes.push(TerminalSize { columns: size.columns, rows: size.rows }),
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(_)) => {
                    broken = true;
                    break;
                }
                None => {
                    used = self.buffer.len();
                    break;
                }
            }
            used = stream.byte_offset();
        }
        drop(self.buffer.drain(..used));
        if broken || self.buffer.len() > MAX_RESIZE_BYTES {
            // Not a size: start anew with what comes next.
            self.buffer.clear();
        }
        sizes.retain(|size| size.columns > 0 && size.rows > 0);
        sizes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_found_in_any_cut() {
        let input = b"{\"Width\":80,\"Height\":24}\n{\"Width\":0,\"Height\":0}{\"Width\":132,\"Height\":50}";
        for step in 1..input.len() {
            let mut parser = SizeParser::default();
            let sizes: Vec<_> = input.chunks(step).flat_map(|chunk| parser.feed(chunk)).collect();
            let expected = [TerminalSize { columns: 80, rows: 24 }, TerminalSize { columns: 132, rows: 50 }];
            assert_eq!(sizes, expected, "in steps of {step}");
        }
    }

    #[test]
    fn nonsense_does_not_pile_up() {
        let mut parser = SizeParser::default();
        for _ in 0..100 {
            assert!(parser.feed(&[b'{'; 100]).is_empty());
            assert!(parser.buffer.len() <= MAX_RESIZE_BYTES);
        }
        parser.feed(b"]]]]");
        assert_eq!(parser.feed(b"{\"Width\":1,\"Height\":2}").len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_sizes_or_nothing(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut parser = SizeParser::default();
            for chunk in chunks {
                parser.feed(&chunk);
            }
        }
    }
}
