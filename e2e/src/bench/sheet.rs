//! What a turn found, as a file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The results of one turn.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sheet {
    pub scenario: String,
    pub engine: String,
    pub round: u32,
    /// Rows that were asked for.
    pub rows: Vec<u32>,
    /// Samples by key of their metric.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// What a reader of the table should know.
    pub notes: Vec<String>,
    /// What went wrong; then samples may be missing.
    pub error: Option<String>,
    /// Processors that others kept busy on average, if the kernel tells.
    pub foreign_load: Option<f64>,
    pub seconds: f64,
}

impl Sheet {
    pub(super) fn load(path: &Path) -> Result<Sheet> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Writes it under another name first, so that a run that is broken off leaves no half of one.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("write results as JSON")?;
        let new = path.with_extension("new");
        std::fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        std::fs::rename(&new, path).with_context(|| format!("rename to {}", path.display()))
    }
}

/// Whether a file has results without an error for all of these rows.
pub(super) fn holds(path: &Path, rows: &[u32]) -> bool {
    Sheet::load(path)
        .is_ok_and(|sheet| sheet.error.is_none() && rows.iter().all(|row| sheet.rows.contains(row)))
}
