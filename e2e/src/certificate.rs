//! Certificates for servers on the loopback address, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;

/// Makes two authorities and a certificate for `localhost` and 127.0.0.1 of the first one, below `work`.
/// Returns the directory of `ca.pem`, `other.pem`, `server.pem` and their keys.
pub fn authority(work: &Path) -> Result<PathBuf> {
    let dir = work.join("tls");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let openssl = |words: &str| run(Command::new("openssl").current_dir(&dir).args(words.split(' ')));
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(&format!("req -x509 -days 2 {curve} -keyout {name}.key -out {name}.pem -subj /CN={name}"))?;
    }
    openssl(&format!("req {curve} -keyout server.key -out server.csr -subj /CN=localhost"))?;
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
    )?;
    Ok(dir)
}
