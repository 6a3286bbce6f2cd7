//! Ginkgo's JSON report: what ran, what failed, what was skipped and why.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// What a report says, all its suites together.
#[derive(Debug, Default)]
pub struct Report {
    /// Names of the specs that passed.
    pub passed: Vec<String>,
    /// Names and messages of those that did not.
    pub failed: Vec<(String, String)>,
    /// Names and reasons of those that did not run.
    pub skipped: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Suite {
    #[serde(rename = "SpecReports", default)]
    specs: Option<Vec<Spec>>,
    #[serde(rename = "SpecialSuiteFailureReasons", default)]
    failures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    location: Location,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Location {
    file_name: String,
    line_number: u32,
}

impl Report {
    /// Reads the file of `--ginkgo.json-report`.
    pub fn load(path: &Path) -> Result<Report> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Report::parse(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Reads a report's text. Specs that a filter left out have no reason in the report: the caller knows it.
    pub fn parse(text: &[u8]) -> Result<Report> {
        let suites: Vec<Suite> = serde_json::from_slice(text)?;
        let mut report = Report::default();
        for suite in suites {
            for reason in suite.failures.unwrap_or_default() {
                // Ginkgo says so of every suite with a failed spec; that one is reported itself.
                if !reason.contains("Spec") {
                    report.failed.push(("suite".to_owned(), reason));
                }
            }
            for spec in suite.specs.unwrap_or_default() {
                report.add(spec);
            }
        }
        Ok(report)
    }

    fn add(&mut self, spec: Spec) {
        let mut name = spec.container_hierarchy_texts.unwrap_or_default();
        name.push(spec.leaf_node_text);
        let name = name.join(" ").trim().to_owned();
        let message = spec.failure.map_or_else(String::new, |failure| {
            let Location { file_name, line_number } = failure.location;
            format!("{} ({file_name}:{line_number})", failure.message)
        });
        match (spec.leaf_node_type.as_str(), spec.state.as_str()) {
            ("It", "passed") => self.passed.push(name),
            ("It", "skipped" | "pending") => self.skipped.push((name, message)),
            (_, "passed" | "skipped" | "pending") => {}
            (kind, state) => {
                let name = if kind == "It" { name } else { format!("[{kind}] {name}") };
                self.failed.push((name, format!("{state}: {message}")));
            }
        }
    }

    /// Skipped specs by reason, most frequent first, with their number and one example.
    pub fn reasons(&self) -> Vec<(String, usize, &str)> {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, reason) in &self.skipped {
            reasons.entry(reason.as_str()).or_default().push(name);
        }
        let mut list: Vec<_> = reasons
            .into_iter()
            .map(|(reason, names)| {
                (reason.to_owned(), names.len(), names.first().copied().unwrap_or_default())
            })
            .collect();
        list.sort_by_key(|reason| std::cmp::Reverse(reason.1));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_states_apart() {
        let text = br#"[{"SpecialSuiteFailureReasons": null, "SpecReports": [
            {"LeafNodeType":"BeforeSuite","State":"passed"},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"one","State":"passed"},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"two","State":"timedout",
             "Failure":{"Message":"late","Location":{"FileName":"x.go","LineNumber":7}}},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"three","State":"skipped",
             "Failure":{"Message":"no AppArmor","Location":{}}},
            {"LeafNodeType":"AfterSuite","State":"panicked"}]}]"#;
        let report = Report::parse(text).unwrap();
        assert_eq!(report.passed, ["A one"]);
        assert_eq!(report.failed.len(), 2);
        assert_eq!(report.failed[0], ("A two".to_owned(), "timedout: late (x.go:7)".to_owned()));
        assert_eq!(report.skipped.len(), 1);
        assert_eq!(report.reasons()[0].1, 1);
    }
}
