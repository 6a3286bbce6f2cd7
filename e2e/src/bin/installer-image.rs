//! Writes the image of the chart's installer: `installer-image PROGRAMS TOOLS REFERENCE OUT`; see `hack/image`.

use std::path::Path;

use anyhow::{Result, bail};
use e2e::image::Compression;
use e2e::installer::{Parts, write};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [programs, tools, reference, out] = arguments.as_slice() else {
        bail!("usage: installer-image PROGRAMS TOOLS REFERENCE OUT")
    };
    let parts = Parts { programs: programs.into(), tools: tools.into(), compression: Compression::Gzip };
    write(&parts, reference, Path::new(out))
}
