//! The benchmark's program; `hack/bench` calls it.
//!
//! ```text
//! bench prepare WORK MODE ROWS           fills the registry
//! bench plan WORK MODE ROWS ENGINES      prints the turns to take: SCENARIO ENGINE ROUND
//! bench turn WORK MODE ROWS SCENARIO ENGINE ROUND
//! bench report WORK MODE [SVG]           prints the table
//! ```
//!
//! ROWS is `all` or numbers with commas between them.
#![allow(clippy::print_stdout, reason = "its results are what it prints")]

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::bench::{Kind, Mode, Place, Planned, Scenario, plan, prepare, report, take_turn};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let [command, work, mode, rest @ ..] = arguments else { bail!("usage: bench COMMAND WORK MODE …") };
    let place = Place::new(Path::new(work));
    let mode = Mode::from_name(mode).with_context(|| format!("no mode {mode}"))?;
    match (*command, rest) {
        ("prepare", [wanted]) => {
            let wanted = rows(wanted, mode)?;
            let large = Scenario::Pulls.rows().iter().any(|row| wanted.contains(row));
            prepare(&place, large)
        }
        ("plan", [wanted, engines]) => {
            let kinds = engines.split(',').map(kind).collect::<Result<Vec<_>>>()?;
            for turn in plan(mode, &rows(wanted, mode)?, &kinds, &place.results(mode)) {
                println!("{turn}");
            }
            Ok(())
        }
        ("turn", [wanted, scenario, engine, round]) => {
            let scenario =
                Scenario::from_name(scenario).with_context(|| format!("no scenario {scenario}"))?;
            let planned =
                Planned { scenario, kind: kind(engine)?, round: round.parse().context("the round")? };
            take_turn(planned, mode, &rows(wanted, mode)?, &place)
        }
        ("report", picture) => {
            print!("{}", report(&place, mode, picture.first().map(Path::new))?);
            Ok(())
        }
        _ => bail!("unknown command or wrong number of arguments: {arguments:?}"),
    }
}

fn kind(name: &str) -> Result<Kind> {
    Kind::from_name(name).with_context(|| format!("no engine {name}"))
}

fn rows(text: &str, mode: Mode) -> Result<Vec<u32>> {
    if text == "all" {
        return Ok(mode.rows());
    }
    let known = Mode::Full.rows();
    text.split(',')
        .map(|word| {
            let row: u32 = word.parse().with_context(|| format!("{word:?} is no row"))?;
            anyhow::ensure!(known.contains(&row), "row {row} is not measured here: {known:?}");
            Ok(row)
        })
        .collect()
}
