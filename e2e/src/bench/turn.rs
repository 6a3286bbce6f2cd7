//! One turn: an engine, a scenario, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use cri_api::v1 as cri;

use super::engine::{Engine, Kind};
use super::machine::{ForeignLoad, POD_CGROUP};
use super::plan::{Mode, Planned};
use super::sheet::Sheet;
use super::{images, peers};
use crate::client::Client;
use crate::registry::Registry;

/// Directories of the benchmark: registry, engines, results.
#[derive(Debug, Clone)]
pub struct Place {
    work: PathBuf,
}

impl Place {
    /// All of it below one directory on a disk.
    pub fn new(work: &Path) -> Place {
        Place { work: work.to_owned() }
    }

    /// Where the registry's files are.
    pub fn registry(&self) -> PathBuf {
        self.work.join("registry")
    }

    /// Where an engine keeps its images between turns.
    pub(super) fn engine(&self, kind: Kind) -> PathBuf {
        self.work.join(kind.name())
    }

    /// Where the turns' results are.
    pub fn results(&self, mode: Mode) -> PathBuf {
        self.work.join(format!("results-{}", mode.name()))
    }
}

/// A turn at work.
#[derive(Debug)]
pub(super) struct Turn {
    pub kind: Kind,
    pub mode: Mode,
    pub place: Place,
    pub registry: Registry,
    rows: Vec<u32>,
    samples: BTreeMap<String, Vec<f64>>,
    notes: Vec<String>,
}

impl Turn {
    /// Whether a row was asked for.
    pub(super) fn wants(&self, row: u32) -> bool {
        self.rows.contains(&row)
    }

    /// One number in full mode, another in a quick look.
    pub(super) fn either<T>(&self, full: T, quick: T) -> T {
        match self.mode {
            Mode::Full => full,
            Mode::Quick => quick,
        }
    }

    /// Adds a sample to a metric.
    pub(super) fn sample(&mut self, key: &str, value: f64) {
        self.samples.entry(key.to_owned()).or_default().push(value);
    }

    /// Says something that the table has to mention.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Starts the engine and sees to it that the small images are there.
    pub(super) fn engine(&mut self) -> Result<Engine> {
        let engine = Engine::start(self.kind, &self.place, self.registry.address())?;
        if self.kind != Kind::Berth {
            engine.client.pull(peers::PAUSE)?;
        }
        if self.kind == Kind::ContainerdCrun && peers::hybrid() {
            self.note("crun 1.8.1 refuses hosts with both cgroup hierarchies: it was shown version 1 alone");
        }
        engine.client.pull(images::SMALL)?;
        Ok(engine)
    }
}

/// Takes a turn and writes its file, also when it fails.
pub fn take_turn(planned: Planned, mode: Mode, rows: &[u32], place: &Place) -> Result<()> {
    let results = place.results(mode);
    std::fs::create_dir_all(&results).with_context(|| format!("create {}", results.display()))?;
    let load = ForeignLoad::begin();
    let start = Instant::now();
    let mut turn = Turn {
        kind: planned.kind,
        mode,
        place: place.clone(),
        registry: Registry::start(&place.registry())?,
        rows: planned.scenario.rows().iter().copied().filter(|row| rows.contains(row)).collect(),
        samples: BTreeMap::new(),
        notes: Vec::new(),
    };
    let outcome = planned.scenario.run(&mut turn);
    let sheet = Sheet {
        scenario: planned.scenario.name().to_owned(),
        engine: planned.kind.name().to_owned(),
        round: planned.round,
        rows: turn.rows,
        samples: turn.samples,
        notes: turn.notes,
        error: outcome.as_ref().err().map(|error| format!("{error:#}")),
        foreign_load: load.and_then(|load| load.processors()),
        seconds: start.elapsed().as_secs_f64(),
    };
    sheet.save(&planned.file(&results))?;
    outcome
}

/// A pod below the benchmark's cgroup, with a log directory of its own.
pub(super) fn pod(engine: &Engine, name: &str) -> Result<cri::PodSandboxConfig> {
    let mut config = crate::pod(name, PathBuf::new());
    let unique = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    config.log_directory = engine.logs(&unique)?.display().to_string();
    if let Some(linux) = &mut config.linux {
        linux.cgroup_parent = POD_CGROUP.to_owned();
    }
    Ok(config)
}

/// A container of the small image that runs the benchmark's program.
pub(super) fn container(arguments: &[&str]) -> cri::ContainerConfig {
    let mut command = vec![images::PROGRAM];
    command.extend(arguments);
    crate::container("main", images::SMALL, &command)
}

/// Starts a pod with one container.
pub(super) fn start_pod(
    client: &Client,
    config: &cri::PodSandboxConfig,
    main: &cri::ContainerConfig,
) -> Result<(String, String)> {
    let pod = client.run_pod(config)?;
    let container = client.run(&pod, config, main)?;
    Ok((pod, container))
}
