//! Every query of the chart's dashboard is answered: by metrics that are there, with the labels that are shown.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1 as cri;
use e2e::prometheus::Prometheus;
use e2e::{Node, checkout, wait_until};
use serde_json::Value;

/// Words that begin as metrics' names do.
const PREFIXES: [&str; 3] = ["berth_", "container_", "process_"];

/// Asks a Prometheus that has read a node with pods for everything that the dashboard asks for, and returns how much
/// that is.
pub(crate) fn check(node: &Node, prometheus: &Prometheus) -> Result<usize> {
    let text = std::fs::read_to_string(checkout().join("charts/berth/files/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text).context("read the dashboard")?;
    let known = known_metrics(node)?;
    let targets = targets(&dashboard)?;
    // A rate is known of what has been read more than once, and times are known while there are calls.
    let read = "min(count_over_time(container_cpu_usage_seconds_total{container!=\"\"}[20s]))";
    let calls = "sum(rate(berth_cri_request_seconds_count{method=\"Status\"}[20s]))";
    wait_until("containers to be read three times", Duration::from_secs(20), || {
        node.client.status(cri::StatusRequest::default()).is_ok()
            && prometheus.sum(read).is_ok_and(|times| times >= 3.0)
            && prometheus.sum(calls).is_ok_and(|rate| rate > 0.0)
    });
    let mut problems = Vec::new();
    for (panel, expression, legend) in &targets {
        if let Err(error) = answered(prometheus, expression, legend, &known) {
            problems.push(format!("panel {panel:?}: {expression}: {error:#}"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
    let mut values = 0;
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let query = variable["query"]["query"].as_str().context("a variable without a query")?;
        variable_has_values(prometheus, query, &known).with_context(|| query.to_owned())?;
        values += 1;
    }
    ensure!(values == 2 && targets.len() > 60, "{values} variables, {} queries", targets.len());
    layout(&dashboard)?;
    Ok(targets.len() + values)
}

/// Every metric the daemon can serve.
fn known_metrics(node: &Node) -> Result<BTreeSet<String>> {
    let list = std::fs::read_to_string(checkout().join("config/metrics.txt"))?;
    let mut known = BTreeSet::new();
    for line in list.lines() {
        let (kind, rest) = line.split_once(' ').context("a line without a kind")?;
        let name = rest.split(['{', ':']).next().unwrap_or(rest);
        if kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        } else {
            known.insert(name.to_owned());
        }
    }
    let answer = node.client.list_metric_descriptors(cri::ListMetricDescriptorsRequest::default())?;
    known.extend(answer.descriptors.into_iter().map(|descriptor| descriptor.name));
    Ok(known)
}

/// Panel, expression and legend of every query.
fn targets(dashboard: &Value) -> Result<Vec<(String, String, String)>> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        if panel["type"] == "row" {
            continue;
        }
        ensure!(
            panel["datasource"]["uid"] == "${datasource}",
            "panel {title:?} has a data source of its own"
        );
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty());
        for target in targets.with_context(|| format!("panel {title:?} asks nothing"))? {
            let field = |name: &str| target[name].as_str().unwrap_or_default().to_owned();
            all.push((title.to_owned(), field("expr"), field("legendFormat")));
        }
    }
    Ok(all)
}

/// What Grafana puts in place of its variables.
fn substituted(expression: &str) -> Result<String> {
    let expression = expression
        .replace("$__rate_interval", "20s")
        .replace("\"$node\"", "\".*\"")
        .replace("\"$namespace\"", "\".*\"");
    ensure!(!expression.contains('$'), "a variable that nobody sets");
    Ok(expression)
}

fn answered(prometheus: &Prometheus, expression: &str, legend: &str, known: &BTreeSet<String>) -> Result<()> {
    let metrics = metrics_in(expression);
    ensure!(!metrics.is_empty(), "it asks for no metric");
    for metric in &metrics {
        ensure!(known.contains(metric), "{metric} is no metric of the daemon");
    }
    let series = prometheus.query(&substituted(expression)?)?;
    if series.is_empty() {
        // Cgroup v1 does not know how long somebody waited.
        let pressure = metrics.iter().all(|metric| metric.starts_with("container_pressure_"));
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").try_exists()?;
        ensure!(pressure && !v2, "it has no answer");
        return Ok(());
    }
    for label in labels_in(legend) {
        let has_it = series.iter().any(|series| series.labels.contains_key(&label));
        ensure!(has_it || expression.contains("vector(0)"), "the legend's {label} is in none of {series:?}");
    }
    Ok(())
}

fn metrics_in(expression: &str) -> BTreeSet<String> {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    expression
        .split(|character| !word(character))
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

fn labels_in(legend: &str) -> Vec<String> {
    let parts = legend.split("{{").skip(1);
    parts.filter_map(|part| part.split_once("}}")).map(|(label, _)| label.to_owned()).collect()
}

/// `label_values(METRIC, LABEL)`
fn variable_has_values(prometheus: &Prometheus, query: &str, known: &BTreeSet<String>) -> Result<()> {
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let Some((metric, label)) = inner.and_then(|inner| inner.split_once(", ")) else {
        bail!("not the form that is understood here")
    };
    ensure!(known.contains(metric), "{metric} is no metric of the daemon");
    let series = prometheus.query(metric)?;
    ensure!(series.iter().any(|series| series.labels.contains_key(label)), "{metric} has no {label}");
    Ok(())
}

/// Panels have numbers of their own, and none lies over another.
fn layout(dashboard: &Value) -> Result<()> {
    let mut numbers = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = &panel["title"];
        ensure!(numbers.insert(panel["id"].as_u64()), "{title}: its number is another's");
        let at = |key: &str| panel["gridPos"][key].as_u64().context("a panel without a place");
        let (x, y) = (at("x")?, at("y")?);
        ensure!(x + at("w")? <= 24, "{title}: it is too wide");
        for cell in (x..x + at("w")?).flat_map(|x| (y..y + at("h").unwrap_or(0)).map(move |y| (x, y))) {
            ensure!(cells.insert(cell), "{title}: it lies over another panel");
        }
    }
    Ok(())
}
