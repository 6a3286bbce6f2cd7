//! Fills a registry with the images that conformance tests name, and keeps it running for people:
//! `e2e-images DIR [NAME:TAG=PROGRAM…]` serves the registry in DIR and writes `DIR/certs.d` for it, until it is
//! interrupted. A static PROGRAM gets an image NAME:TAG of its own: busybox, and it as the entry point.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::{Lab, Registry, catalog};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = arguments.next().map(PathBuf::from).context("usage: e2e-images DIR [NAME:TAG=PROGRAM…]")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let registry = Registry::start(&dir)?;
    let programs = catalog::Programs::load(&Lab::tool("busybox")?, &dir)?;
    catalog::publish(&programs, &registry)?;
    for argument in arguments {
        let argument = argument.to_str().context("an argument is not UTF-8")?;
        let (reference, program) =
            argument.split_once('=').with_context(|| format!("{argument}: want NAME:TAG=PROGRAM"))?;
        let (name, tag) =
            reference.rsplit_once(':').with_context(|| format!("{reference}: want NAME:TAG"))?;
        programs.publish_program(&registry, name, tag, Path::new(program))?;
    }
    let hosts = dir.join("certs.d");
    registry.write_hosts(&hosts)?;
    let mut out = std::io::stdout();
    writeln!(out, "registry at http://{}, mirrors in {}", registry.address(), hosts.display())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
