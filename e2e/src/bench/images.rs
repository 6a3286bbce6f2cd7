//! The images of the benchmark, the same bytes for all engines.

use std::fmt::Write as _;

use anyhow::Result;

use super::statistics::Random;
use super::turn::Place;
use crate::archive::Entry;
use crate::catalog::{self, Programs};
use crate::image::{Compression, Config, Format, Image, Layer};
use crate::lab::Lab;
use crate::process::run;
use crate::registry::Registry;

/// What most containers run: busybox and the benchmark's program.
pub(super) const SMALL: &str = "registry.k8s.io/berth/bench:1";
/// The benchmark's program in it.
pub(super) const PROGRAM: &str = "/bench";
/// Four layers with 49 000 files, gzip.
pub(super) const FILES: &str = "registry.k8s.io/berth/files:gzip";
/// The same files, zstd.
pub(super) const FILES_ZSTD: &str = "registry.k8s.io/berth/files:zstd";
/// Three of its layers and another fourth.
pub(super) const SIBLING: &str = "registry.k8s.io/berth/files:sibling";
/// One layer of 1 GiB in four files, gzip.
pub(super) const LARGE: &str = "registry.k8s.io/berth/large:1";

/// Layers of the image of many files.
const LAYERS: u64 = 4;
const FILES_PER_LAYER: usize = 12_250;
const FILES_PER_DIRECTORY: usize = 25;
/// Bytes of all its files together, about.
const FILES_BYTES: usize = 686 << 20;

/// Fills the registry with what turns pull: the large images only if somebody will.
pub fn prepare(place: &Place, large: bool) -> Result<()> {
    let dir = place.registry();
    std::fs::create_dir_all(&dir)?;
    let registry = Registry::start(&dir)?;
    let programs = Programs::load(&Lab::tool("busybox")?, &dir)?;
    catalog::publish(&programs, &registry)?;
    publish_small(&registry, &programs, &dir)?;
    // Written last, so that half of them is not taken for all.
    let mark = dir.join("large-images");
    if large && !mark.try_exists()? {
        publish_files(&registry)?;
        publish_large(&registry)?;
        std::fs::write(&mark, "")?;
    }
    Ok(())
}

fn publish_small(registry: &Registry, programs: &Programs, work: &std::path::Path) -> Result<()> {
    let source = crate::checkout().join("e2e/programs/bench.c");
    let program = work.join("bench");
    run(std::process::Command::new("cc")
        .args(["-static", "-O2", "-s", "-pthread", "-o"])
        .arg(&program)
        .arg(&source))?;
    let entry = Entry::file(PROGRAM.trim_start_matches('/'), std::fs::read(&program)?).mode(0o755);
    let layer = Layer::new(&[entry], Compression::Gzip, Format::Oci)?;
    let config = Config { cmd: vec![PROGRAM.to_owned(), "idle".to_owned()], ..Config::default() };
    registry.push("berth/bench", &["1"], &Image::new(&config, &[programs.base_layer()?, layer], Format::Oci))
}

fn publish_files(registry: &Registry) -> Result<()> {
    let mut gzip = Vec::new();
    let mut zstd = Vec::new();
    for number in 0..LAYERS {
        let tar = crate::archive::archive(&many_files(number));
        gzip.push(Layer::from_tar(&tar, Compression::Gzip, Format::Oci)?);
        zstd.push(Layer::from_tar(&tar, Compression::Zstd, Format::Oci)?);
    }
    let config = Config { cmd: vec!["/bin/true".to_owned()], ..Config::default() };
    registry.push("berth/files", &["gzip"], &Image::new(&config, &gzip, Format::Oci))?;
    registry.push("berth/files", &["zstd"], &Image::new(&config, &zstd, Format::Oci))?;
    gzip.pop();
    gzip.push(Layer::new(&many_files(LAYERS), Compression::Gzip, Format::Oci)?);
    registry.push("berth/files", &["sibling"], &Image::new(&config, &gzip, Format::Oci))
}

fn publish_large(registry: &Registry) -> Result<()> {
    let mut random = Random(77);
    let words = Words::new(&mut random);
    let files: Vec<Entry> = (0..4)
        .map(|number| Entry::file(&format!("data/{number}"), words.text(&mut random, 256 << 20)))
        .collect();
    let layer = Layer::new(&files, Compression::Gzip, Format::Oci)?;
    registry.push("berth/large", &["1"], &Image::new(&Config::default(), &[layer], Format::Oci))
}

/// The files of one layer: most are small, some are large, as in the images of interpreters.
fn many_files(layer: u64) -> Vec<Entry> {
    let mut random = Random(1000 + layer);
    let words = Words::new(&mut random);
    let mean = FILES_BYTES / 4 / FILES_PER_LAYER;
    let mut entries = vec![Entry::dir(&format!("layer{layer}"))];
    for number in 0..FILES_PER_LAYER {
        let directory = format!("layer{layer}/package{}", number / FILES_PER_DIRECTORY);
        if number % FILES_PER_DIRECTORY == 0 {
            entries.push(Entry::dir(&directory));
        }
        // One of twenty-five holds half of the bytes.
        let size = if number % 25 == 0 { mean * 25 / 2 } else { random.below(mean * 25 / 24) + 1 };
        let mode = if number % 10 == 0 { 0o755 } else { 0o644 };
        entries.push(
            Entry::file(&format!("{directory}/module{number}.py"), words.text(&mut random, size)).mode(mode),
        );
    }
    entries
}

/// Makes text that compresses like programs do, to about two fifths.
struct Words(Vec<String>);

impl Words {
    fn new(random: &mut Random) -> Words {
        let word = |random: &mut Random| {
            (0..3 + random.below(8))
                .map(|_| char::from(b"etaoinshrdlucmfwypvbgkqjxz"[random.below(26)]))
                .collect()
        };
        Words((0..6000).map(|_| word(random)).collect())
    }

    fn text(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut text = String::with_capacity(size + 32);
        while text.len() < size {
            let word = &self.0[random.below(self.0.len())];
            // Some numbers between the words, which hardly compress.
            if random.below(12) == 0 {
                let _ = writeln!(text, "{word} {:x}", random.next());
            } else {
                let _ = write!(text, "{word} ");
            }
        }
        text.truncate(size);
        text.into_bytes()
    }
}
