//! Puts the turns' files together: one JSON file, a table and a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::engine::Kind;
use super::metric::{Figure, METRICS, Metric};
use super::plan::Mode;
use super::sheet::Sheet;
use super::statistics::{Ratio, Summary, ratio};
use super::svg;
use super::turn::Place;

/// Others kept this much of a processor busy: what was measured meanwhile is not to be trusted.
const NOISE: f64 = 0.5;

/// What one engine reached in one metric.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    pub engine: &'static str,
    pub summary: Summary,
    /// Processors that others kept busy on average in the worst turn.
    pub foreign_load: Option<f64>,
    /// How many times better Berth is; absent for Berth itself.
    pub ratio: Option<Ratio>,
    pub samples: Vec<f64>,
}

/// How a line of the table ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Reached,
    Missed,
    /// There is no target.
    Measured,
}

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub target: String,
    pub verdict: Verdict,
    pub noisy: bool,
    pub cells: Vec<Cell>,
}

impl Line {
    /// What Berth reached.
    pub(super) fn own(&self) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.engine == Kind::Berth.name())
    }

    /// The peer that Berth is least ahead of.
    pub(super) fn best_peer(&self) -> Option<&Cell> {
        let value = |cell: &Cell| cell.ratio.map_or(f64::INFINITY, |ratio| ratio.value);
        self.cells
            .iter()
            .filter(|cell| cell.engine != Kind::Berth.name())
            .min_by(|a, b| value(a).total_cmp(&value(b)))
    }
}

#[derive(Serialize)]
struct Document<'a> {
    mode: &'static str,
    machine: BTreeMap<&'static str, String>,
    lines: &'a [Line],
    notes: &'a BTreeSet<String>,
    errors: &'a BTreeSet<String>,
}

/// Reads all results of a mode; writes `bench.json` and `bench.md` beside them, and the picture to `picture`
/// if one is named. Returns the table.
pub fn report(place: &Place, mode: Mode, picture: Option<&Path>) -> Result<String> {
    let results = place.results(mode);
    let mut sheets = Vec::new();
    for entry in std::fs::read_dir(&results).with_context(|| format!("list {}", results.display()))? {
        let path = entry?.path();
        let turn = path.extension().is_some_and(|end| end == "json") && !path.ends_with("bench.json");
        if turn {
            sheets.push(Sheet::load(&path)?);
        }
    }
    let mut notes: BTreeSet<String> = sheets.iter().flat_map(|sheet| sheet.notes.iter().cloned()).collect();
    if sheets.iter().any(|sheet| sheet.foreign_load.is_none()) {
        notes.insert(
            "this kernel does not tell processor time per cgroup: load by others was not seen".to_owned(),
        );
    }
    let failed = |sheet: &Sheet| {
        let error = sheet.error.as_ref()?;
        Some(format!("{} {} {}: {error}", sheet.scenario, sheet.engine, sheet.round))
    };
    let errors: BTreeSet<String> = sheets.iter().filter_map(failed).collect();
    let lines: Vec<Line> = METRICS.iter().filter_map(|metric| line(metric, &sheets)).collect();
    let machine = machine();
    let document = Document {
        mode: mode.name(),
        machine: machine.clone(),
        lines: &lines,
        notes: &notes,
        errors: &errors,
    };
    std::fs::write(results.join("bench.json"), serde_json::to_vec_pretty(&document)?)
        .context("write bench.json")?;
    let text = table(&lines, &machine, &notes, &errors);
    std::fs::write(results.join("bench.md"), &text).context("write bench.md")?;
    if let Some(picture) = picture {
        std::fs::write(picture, svg::draw(&lines, &machine)).context("write the picture")?;
    }
    Ok(text)
}

fn line(metric: &'static Metric, sheets: &[Sheet]) -> Option<Line> {
    let mut cells = Vec::new();
    for kind in Kind::ALL {
        let mine: Vec<&Sheet> = sheets
            .iter()
            .filter(|sheet| sheet.engine == kind.name() && sheet.samples.contains_key(metric.key))
            .collect();
        let samples: Vec<f64> =
            mine.iter().flat_map(|sheet| sheet.samples[metric.key].iter().copied()).collect();
        let Some(summary) = Summary::of(&samples) else { continue };
        let foreign_load = mine.iter().filter_map(|sheet| sheet.foreign_load).reduce(f64::max);
        cells.push(Cell { engine: kind.name(), summary, foreign_load, ratio: None, samples });
    }
    let own = cells.iter().find(|cell| cell.engine == Kind::Berth.name()).cloned();
    for cell in cells.iter_mut().filter(|cell| cell.engine != Kind::Berth.name()) {
        cell.ratio = own.as_ref().and_then(|own| advantage(metric, &own.samples, &cell.samples));
    }
    let noisy = cells.iter().any(|cell| cell.foreign_load.is_some_and(|load| load > NOISE));
    let mut line = Line {
        key: metric.key,
        title: metric.title,
        unit: metric.unit,
        target: target(metric),
        verdict: Verdict::Measured,
        noisy,
        cells,
    };
    let own = line.own()?;
    let best = line.best_peer().and_then(|cell| cell.ratio).map(|ratio| ratio.value);
    line.verdict = match metric.reached(figure(metric.figure, &own.summary), best) {
        Some(true) => Verdict::Reached,
        Some(false) => Verdict::Missed,
        None => Verdict::Measured,
    };
    Some(line)
}

/// How many times better the first is.
fn advantage(metric: &Metric, own: &[f64], peer: &[f64]) -> Option<Ratio> {
    match metric.better {
        super::metric::Better::Lower => ratio(peer, own),
        super::metric::Better::Higher => ratio(own, peer),
    }
}

fn figure(figure: Figure, summary: &Summary) -> f64 {
    match figure {
        Figure::P50 => summary.p50,
        Figure::P99 => summary.p99,
    }
}

fn target(metric: &Metric) -> String {
    let sign = match metric.better {
        super::metric::Better::Lower => "≤",
        super::metric::Better::Higher => "≥",
    };
    let limit = metric.target.limit.map(|limit| format!("{sign} {limit}"));
    let ratio = metric.target.ratio.map(|ratio| format!("{ratio} ×"));
    [limit, ratio].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Processor, kernel and memory, for readers elsewhere.
fn machine() -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    BTreeMap::from([
        ("processor", format!("{cpus} × {}", value(&read("/proc/cpuinfo"), "model name"))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("memory", value(&read("/proc/meminfo"), "MemTotal")),
        ("cgroups", if super::peers::hybrid() { "version 1 and 2" } else { "one version" }.to_owned()),
    ])
}

/// Three figures that mean something.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn table(
    lines: &[Line],
    machine: &BTreeMap<&str, String>,
    notes: &BTreeSet<String>,
    errors: &BTreeSet<String>,
) -> String {
    let mut text = String::new();
    for (name, value) in machine {
        let _ = writeln!(text, "{name}: {value}");
    }
    text.push_str(
        "\n| row | what | engine | min | p50 | p90 | p99 | unit | Berth is better by | target | verdict |\n\
         |---|---|---|--:|--:|--:|--:|---|---|---|---|\n",
    );
    for line in lines {
        for cell in &line.cells {
            let own = cell.engine == Kind::Berth.name();
            let Summary { min, p50, p90, p99, .. } = cell.summary;
            let ratio = cell.ratio.map_or_else(String::new, |ratio| {
                format!("{} × ({}–{})", short(ratio.value), short(ratio.low), short(ratio.high))
            });
            let verdict = match (own, line.verdict) {
                (false, _) | (_, Verdict::Measured) => "",
                (_, Verdict::Reached) => "reached",
                (_, Verdict::Missed) => "**missed**",
            };
            let noise = if own && line.noisy { " (noisy)" } else { "" };
            let figures = [min, p50, p90, p99].map(short).join(" | ");
            let (key, title, target) =
                if own { (line.key, line.title, line.target.as_str()) } else { ("", "", "") };
            let unit = line.unit;
            let engine = cell.engine;
            let _ = writeln!(
                text,
                "| {key} | {title} | {engine} | {figures} | {unit} | {ratio} | {target} | {verdict}{noise} |"
            );
        }
    }
    for note in notes {
        let _ = writeln!(text, "\n* {note}");
    }
    for error in errors {
        let _ = writeln!(text, "\n* failed: {error}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::metric::metric;

    fn sheet(engine: &str, key: &str, samples: &[f64], load: f64) -> Sheet {
        Sheet {
            engine: engine.to_owned(),
            samples: [(key.to_owned(), samples.to_vec())].into(),
            foreign_load: Some(load),
            ..Sheet::default()
        }
    }

    #[test]
    fn a_line_is_held_against_the_best_peer() {
        let sheets = [
            sheet("berth", "1", &[9.0, 9.0], 0.1),
            sheet("containerd-runc", "1", &[200.0, 220.0], 0.1),
            sheet("containerd-crun", "1", &[100.0, 100.0], 0.1),
        ];
        let line = line(metric("1").unwrap(), &sheets).unwrap();
        assert_eq!(line.best_peer().unwrap().engine, "containerd-crun");
        assert_eq!(line.verdict, Verdict::Missed);
        assert!(!line.noisy);
    }

    #[test]
    fn more_is_better_where_it_is() {
        let sheets = [sheet("berth", "6", &[90.0], 0.9), sheet("containerd-runc", "6", &[5.0], 0.0)];
        let line = line(metric("6").unwrap(), &sheets).unwrap();
        assert!((line.best_peer().unwrap().ratio.unwrap().value - 18.0).abs() < 1e-9);
        assert_eq!(line.verdict, Verdict::Reached);
        assert!(line.noisy);
    }

    #[test]
    fn a_row_that_berth_did_not_run_has_no_line() {
        assert!(line(metric("6").unwrap(), &[sheet("containerd-runc", "6", &[5.0], 0.0)]).is_none());
    }
}
