//! The picture: how Berth compares with its best peer, one bar per row, for light and dark pages alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::engine::Kind;
use super::report::{Line, short};

/// Rows that the picture shows, with words that fit in it.
const SHOWN: [(&str, &str); 12] = [
    ("1", "start a pod"),
    ("3", "start a container"),
    ("4", "exec"),
    ("5", "stop and remove a pod"),
    ("6", "pods per second"),
    ("7", "processor time per pod"),
    ("9", "memory, idle"),
    ("10", "memory per pod"),
    ("13", "statistics of 100 pods"),
    ("15", "logs, 100-byte lines"),
    ("18", "pull and unpack, 49 000 files"),
    ("29", "exit to event"),
];

const WIDTH: u32 = 860;
const LEFT: u32 = 215;
const BARS: f64 = 400.0;
const STEP: u32 = 44;

/// Draws it. Lengths are in proportion within each row, its longest bar being full.
pub(super) fn draw(lines: &[Line], machine: &BTreeMap<&str, String>) -> String {
    let shown: Vec<(&Line, &str)> = SHOWN
        .iter()
        .filter_map(|(key, words)| Some((lines.iter().find(|line| line.key == *key)?, *words)))
        .filter(|(line, _)| line.best_peer().is_some())
        .collect();
    let height = 64 + STEP * u32::try_from(shown.len()).unwrap_or_default() + 34;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Berth beside its best peer\">\n\
         <style>text{{font:13px system-ui,sans-serif;fill:#7d8590}}.b{{font-weight:600;fill:#2f81f7}}\
         .own{{fill:#2f81f7}}.peer{{fill:#8b949e}}.s{{font-size:11px}}</style>\n"
    );
    let _ = writeln!(text, "<rect class=\"own\" x=\"{LEFT}\" y=\"16\" width=\"12\" height=\"12\" rx=\"2\"/>");
    let _ = writeln!(text, "<text class=\"b\" x=\"{}\" y=\"27\">Berth</text>", LEFT + 18);
    let _ = writeln!(
        text,
        "<rect class=\"peer\" x=\"{}\" y=\"16\" width=\"12\" height=\"12\" rx=\"2\"/>",
        LEFT + 80
    );
    let _ = writeln!(text, "<text x=\"{}\" y=\"27\">best peer of the same run (median)</text>", LEFT + 98);
    for (number, (line, words)) in shown.iter().enumerate() {
        let top = 48 + STEP * u32::try_from(number).unwrap_or_default();
        row(&mut text, line, words, top);
    }
    let about =
        ["processor", "kernel"].map(|name| machine.get(name).map_or("", String::as_str)).join(", Linux ");
    let _ = writeln!(
        text,
        "<text class=\"s\" x=\"16\" y=\"{}\">{}; made by hack/bench</text>",
        height - 14,
        escape(&about)
    );
    text.push_str("</svg>\n");
    text
}

fn row(text: &mut String, line: &Line, words: &str, top: u32) {
    let (Some(own), Some(peer)) = (line.own(), line.best_peer()) else { return };
    let longest = own.summary.p50.max(peer.summary.p50).max(f64::MIN_POSITIVE);
    let _ = writeln!(text, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{words}</text>", LEFT - 12, top + 20);
    for (cell, class, y) in [(own, "own", top), (peer, "peer", top + 16)] {
        let width = (cell.summary.p50 / longest * BARS).max(2.0);
        let name = if cell.engine == Kind::Berth.name() { "" } else { cell.engine };
        let _ = writeln!(
            text,
            "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"13\" rx=\"2\"/>\
             <text class=\"s\" x=\"{:.1}\" y=\"{}\">{} {} {name}</text>",
            f64::from(LEFT) + width + 6.0,
            y + 11,
            short(cell.summary.p50),
            line.unit,
        );
    }
    if let Some(ratio) = peer.ratio {
        let _ = writeln!(
            text,
            "<text class=\"b\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{} ×</text>",
            WIDTH - 12,
            top + 20,
            short(ratio.value)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
