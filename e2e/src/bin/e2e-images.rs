//! Fills a registry with the images that conformance tests name, and keeps it running for people:
//! `e2e-images DIR` serves the registry in DIR and writes `DIR/certs.d` for it, until it is interrupted.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use e2e::{Lab, Registry, catalog};

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).context("usage: e2e-images DIR")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let registry = Registry::start(&dir)?;
    let programs = catalog::Programs::load(&Lab::tool("busybox")?, &dir)?;
    catalog::publish(&programs, &registry)?;
    let hosts = dir.join("certs.d");
    registry.write_hosts(&hosts)?;
    let mut out = std::io::stdout();
    writeln!(out, "registry at http://{}, mirrors in {}", registry.address(), hosts.display())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
