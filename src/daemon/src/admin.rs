//! The commands' own protocol: one request and its answers, as lines of JSON on a unix socket of mode 0600.
//!
//! The CRI has no progress of a pull and no networks; these commands do. A request names the version it
//! speaks; answers are progress lines, then one result or one failure.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol.
pub(crate) const VERSION: u32 = 1;

/// Longest request line, in bytes.
pub(crate) const MAX_REQUEST_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Request {
    Status,
    Version,
    Check {
        repair: bool,
    },
    ImagePull {
        reference: String,
        username: Option<String>,
        password: Option<String>,
    },
    ImageList,
    ImageInspect {
        image: String,
    },
    ImageRemove {
        image: String,
    },
    /// The archive follows the line, to the end of the stream.
    ImageLoad {
        embedded: bool,
    },
    NetworkList,
    NetworkInspect {
        name: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Answer {
    Progress { layers: Vec<Layer> },
    Result { value: Value },
    Failure { message: String },
}

/// Progress of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) bytes: u64,
    pub(crate) state: String,
}

/// Asks the daemon behind `socket`; progress goes to `progress`.
pub(crate) fn ask(
    socket: &Path,
    request: Request,
    body: Option<&mut dyn Read>,
    progress: &mut dyn FnMut(Vec<Layer>),
) -> Result<Value, String> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => format!(
            "no daemon answers at {}; start it with `berth daemon`, or name its socket with --socket",
            socket.display()
        ),
        std::io::ErrorKind::PermissionDenied => format!("{} is for root; try sudo", socket.display()),
        _ => format!("talk to the daemon at {}: {error}", socket.display()),
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, request }).map_err(|e| e.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    if let Some(body) = body {
        std::io::copy(body, &mut stream).map_err(failed)?;
    }
    stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(failed)?;
        match serde_json::from_str(&line)
            .map_err(|error| format!("the daemon's answer makes no sense: {error}"))?
        {
            Answer::Progress { layers } => progress(layers),
            Answer::Result { value } => return Ok(value),
            Answer::Failure { message } => return Err(message),
        }
    }
    Err("the daemon broke off before it answered".to_owned())
}
