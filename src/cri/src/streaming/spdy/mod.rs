//! SPDY/3.1, the server's side: what the kubelet and crictl speak on streaming URLs.
//!
//! `frame` and `headers` are the codec, `flow` the windows, `stream` one stream as a reader and a
//! writer, and `connection` moves frames between a connection and its streams. Nothing here knows what the streams carry.

mod connection;
mod flow;
pub(crate) mod frame;
mod headers;
mod stream;

pub(crate) use connection::{Acceptor, Incoming, run};
#[cfg(test)]
pub(crate) use headers::Headers;
pub(crate) use stream::StreamWriter;
