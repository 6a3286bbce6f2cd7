//! Exec, attach and port-forwarding over WebSocket channels.
//!
//! Each message starts with the number of its channel: a byte, or in the base64 protocols a digit
//! before base64 text. Version 5 adds message `[255, channel]`: the client sends no more on it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::{CancellationToken, PollSender};
use tracing::debug;

use super::status::StatusFormat;

/// Longest message of a client.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages queued for one channel.
const CHANNEL_QUEUE: usize = 4;
/// Messages queued for sending.
const SEND_QUEUE: usize = 8;
/// Longest payload of a message we send.
const MAX_PIECE_BYTES: usize = 32 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long the client may take to answer our close.
const LINGER: Duration = Duration::from_secs(5);
/// Channel whose messages end another channel, in version 5.
const CLOSE_CHANNEL: u8 = 255;

/// How channels are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    V5,
    V4,
    V4Base64,
    V1,
    V1Base64,
}

impl Protocol {
    pub(crate) const ALL: [Self; 5] = [Self::V5, Self::V4, Self::V4Base64, Self::V1, Self::V1Base64];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Base64 => "v4.base64.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
            Self::V1Base64 => "base64.channel.k8s.io",
        }
    }

    pub(crate) fn format(self) -> StatusFormat {
        match self {
            Self::V5 | Self::V4 | Self::V4Base64 => StatusFormat::Json,
            Self::V1 | Self::V1Base64 => StatusFormat::Text,
        }
    }

    fn is_base64(self) -> bool {
        matches!(self, Self::V4Base64 | Self::V1Base64)
    }

    /// Channel and payload of a message; `None` if it has none.
    fn unwrap(self, message: &Message) -> Option<(u8, Bytes)> {
        let data = match message {
            Message::Binary(data) => data.clone(),
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return None,
        };
        let (&first, rest) = data.split_first()?;
        if self.is_base64() {
            let channel = first.checked_sub(b'0').filter(|digit| *digit < 10)?;
            return STANDARD.decode(rest).ok().map(|payload| (channel, payload.into()));
        }
        Some((first, data.slice(1..)))
    }

    fn wrap(self, channel: u8, payload: &[u8]) -> Message {
        if self.is_base64() {
            let mut text = String::from(char::from(b'0' + channel % 10));
            STANDARD.encode_string(payload, &mut text);
            return Message::Text(text.into());
        }
        let mut data = Vec::with_capacity(payload.len() + 1);
        data.push(channel);
        data.extend_from_slice(payload);
        Message::Binary(data.into())
    }
}

/// Wraps a connection whose handshake is done.
pub(crate) async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(io: IO) -> WebSocketStream<IO> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_PIECE_BYTES)
}

enum Item {
    Data(Bytes),
    End,
}

/// What the client sends on a channel.
pub(crate) struct ChannelReader {
    items: mpsc::Receiver<Item>,
    current: Bytes,
    ended: bool,
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.items.poll_recv(cx)) {
                Some(Item::Data(data)) => self.current = data,
                Some(Item::End) => self.ended = true,
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let take = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..take]);
        self.current.advance(take);
        Poll::Ready(Ok(()))
    }
}

/// What we send on a channel.
pub(crate) struct ChannelWriter {
    channel: u8,
    protocol: Protocol,
    messages: PollSender<Message>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.messages.poll_reserve(cx)).map_err(|_| broken())?;
        let take = buf.len().min(MAX_PIECE_BYTES);
        let message = self.protocol.wrap(self.channel, &buf[..take]);
        self.messages.send_item(message).map_err(|_| broken())?;
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The protocol has no end of a single channel in this direction.
        Poll::Ready(Ok(()))
    }
}

/// Makes the ends of channels, before a connection is served.
pub(crate) struct Mux {
    protocol: Protocol,
    inputs: Vec<(u8, Option<mpsc::Sender<Item>>)>,
    messages: mpsc::Sender<Message>,
    outgoing: mpsc::Receiver<Message>,
    closed: CancellationToken,
}

impl Mux {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let (messages, outgoing) = mpsc::channel(SEND_QUEUE);
        Self { protocol, inputs: Vec::new(), messages, outgoing, closed: CancellationToken::new() }
    }

    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    pub(crate) fn reader(&mut self, channel: u8) -> ChannelReader {
        let (items_in, items) = mpsc::channel(CHANNEL_QUEUE);
        self.inputs.push((channel, Some(items_in)));
        ChannelReader { items, current: Bytes::new(), ended: false }
    }

    pub(crate) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, protocol: self.protocol, messages: PollSender::new(self.messages.clone()) }
    }

    /// Moves messages until the work on the channels is done, the client is gone for good or nothing
    /// moved for `idle`.
    pub(crate) async fn run<IO>(self, ws: WebSocketStream<IO>, idle: Duration, work: impl Future<Output = ()>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { protocol, inputs, messages, outgoing, closed } = self;
        // Kept to the end, so that the writer's queue does not end by itself.
        let _messages = messages;
        let (sink, stream) = ws.split();
        let activity = Activity::new();
        let done = CancellationToken::new();
        let mut reader = pin!(read_messages(stream, inputs, protocol, &activity));
        let mut writer = pin!(write_messages(sink, outgoing, &activity, &done));
        let mut work = pin!(work);
        let (mut reading, mut writing) = (true, true);
        loop {
            tokio::select! {
                () = &mut work => break,
                () = &mut reader, if reading => { reading = false; closed.cancel(); }
                result = &mut writer, if writing => {
                    result.unwrap_or_else(|error| debug!(%error, "websocket cannot be written"));
                    writing = false;
                    closed.cancel();
                }
                () = activity.idled(idle) => break,
            }
        }
        done.cancel();
        let rest = async {
            if writing && writer.await.is_ok() && reading {
                reader.await;
            }
        };
        timeout(LINGER, rest).await.unwrap_or_default();
        closed.cancel();
    }
}

/// When payload last moved.
struct Activity(std::sync::Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(std::sync::Mutex::new(Instant::now()))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last() = Instant::now();
    }

    async fn idled(&self, idle: Duration) {
        loop {
            let deadline = *self.last() + idle;
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// Reads until the client closes. When a channel's queue is full, nothing more is read.
async fn read_messages(
    mut stream: impl Stream<Item = Result<Message, WsError>> + Unpin,
    mut inputs: Vec<(u8, Option<mpsc::Sender<Item>>)>,
    protocol: Protocol,
    activity: &Activity,
) {
    while let Some(message) = stream.next().await {
        let message = match message {
            Ok(Message::Close(_)) => break,
            Ok(message) => message,
            Err(error) => {
                debug!(%error, "websocket broken off");
                break;
            }
        };
        let Some((channel, payload)) = protocol.unwrap(&message) else { continue };
        activity.touch();
        if channel == CLOSE_CHANNEL && protocol == Protocol::V5 {
            let ended = payload.first().copied();
            let input =
                inputs.iter_mut().find(|(id, _)| Some(*id) == ended).and_then(|(_, input)| input.take());
            if let Some(input) = input {
                drop(input.send(Item::End).await);
            }
            continue;
        }
        let input = inputs.iter().find(|(id, _)| *id == channel).and_then(|(_, input)| input.as_ref());
        if let Some(input) = input.filter(|_| !payload.is_empty()) {
            // The reader may be gone; then its input is thrown away.
            drop(input.send(Item::Data(payload)).await);
        }
    }
}

/// Writes messages until `done` and the queue is empty, then says goodbye.
async fn write_messages(
    mut sink: impl Sink<Message, Error = WsError> + Unpin,
    mut outgoing: mpsc::Receiver<Message>,
    activity: &Activity,
    done: &CancellationToken,
) -> Result<(), WsError> {
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    loop {
        tokio::select! {
            biased;
            Some(message) = outgoing.recv() => {
                sink.send(message).await?;
                activity.touch();
            }
            _ = pings.tick() => sink.send(Message::Ping(Bytes::new())).await?,
            () = done.cancelled() => break,
        }
    }
    while let Ok(message) = outgoing.try_recv() {
        sink.send(message).await?;
    }
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_round_trip() {
        for protocol in Protocol::ALL {
            let message = protocol.wrap(2, b"\x00bytes\xff");
            assert_eq!(
                protocol.unwrap(&message),
                Some((2, Bytes::from_static(b"\x00bytes\xff"))),
                "{protocol:?}"
            );
            assert_eq!(protocol.unwrap(&protocol.wrap(1, b"")), Some((1, Bytes::new())), "{protocol:?}");
        }
        assert_eq!(Protocol::V4Base64.wrap(1, b"hi"), Message::Text("1aGk=".into()));
    }

    proptest! {
        #[test]
        fn any_message_has_a_channel_or_none(data in prop::collection::vec(any::<u8>(), 0..50), text in ".{0,30}") {
            for protocol in Protocol::ALL {
                let _: Option<_> = protocol.unwrap(&Message::Binary(data.clone().into()));
                let _: Option<_> = protocol.unwrap(&Message::Text(text.clone().into()));
            }
        }
    }
}
