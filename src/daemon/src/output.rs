//! What commands print: tables and bars for people, JSON for scripts.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::admin::Layer;

/// Writes to standard output. A closed pipe is the reader's wish, not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &Value) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints rows under headings, columns aligned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    print(&line(&headings.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        print(&line(row));
    }
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

/// Shows how far a pull is: bars on a terminal, a line per finished layer elsewhere.
pub(crate) enum Pull {
    Bars(MultiProgress, Vec<ProgressBar>),
    Lines(Vec<String>),
    Silent,
}

impl Pull {
    pub(crate) fn new(silent: bool) -> Self {
        if silent {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bars(MultiProgress::new(), Vec::new())
        } else {
            Self::Lines(Vec::new())
        }
    }

    pub(crate) fn show(&mut self, layers: &[Layer]) {
        match self {
            Self::Silent => {}
            Self::Lines(done) => {
                for layer in layers.iter().filter(|l| is_done(l)) {
                    if !done.contains(&layer.digest) {
                        eprintln!("{}: {} ({})", short(&layer.digest), layer.state, bytes(layer.size));
                        done.push(layer.digest.clone());
                    }
                }
            }
            Self::Bars(all, bars) => {
                while bars.len() < layers.len() {
                    let bar = all.add(ProgressBar::new(0));
                    if let Ok(style) =
                        ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10}/{total_bytes:10} {msg}")
                    {
                        bar.set_style(style);
                    }
                    bars.push(bar);
                }
                for (bar, layer) in bars.iter().zip(layers) {
                    bar.set_prefix(short(&layer.digest));
                    bar.set_length(layer.size);
                    bar.set_position(layer.bytes);
                    bar.set_message(layer.state.clone());
                    if is_done(layer) && !bar.is_finished() {
                        bar.finish();
                    }
                }
            }
        }
    }
}

fn is_done(layer: &Layer) -> bool {
    layer.state == "done" || layer.state == "present"
}

/// A digest's first digits, for people.
pub(crate) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect()
}
