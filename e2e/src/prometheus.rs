//! A real Prometheus, Debian's package, on a loopback port.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http;
use crate::process::{Process, run};
use crate::registry::free_port;

/// A running Prometheus; dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    address: String,
    process: Process,
}

/// One series of an answer.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its labels.
    pub labels: serde_json::Map<String, Value>,
    /// Its value now.
    pub value: f64,
}

impl Prometheus {
    /// Starts one with this list of scrape configurations (YAML, not indented) and files of rules.
    pub fn start(dir: &Path, scrape: &str, rules: &[&Path]) -> Result<Prometheus> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let rules: String = rules.iter().map(|file| format!("  - {}\n", file.display())).collect();
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 250ms\n  scrape_timeout: 200ms\n  evaluation_interval: 250ms\n\
             rule_files:\n{rules}scrape_configs:\n{scrape}"
        );
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        run(Command::new("promtool").args(["check", "config"]).arg(&config)).context("the configuration")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let process = Process::spawn(command, &dir.join("prometheus.log"))?;
        let url = format!("http://{address}/-/ready");
        crate::wait::wait_until("Prometheus to be ready", Duration::from_secs(30), || {
            http::get(&url).is_ok_and(|answer| answer.status == 200)
        });
        Ok(Prometheus { address, process })
    }

    /// Evaluates an expression now.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.ask(&format!("query?query={escaped}")).with_context(|| expression.to_owned())?;
        let list = answer["result"].as_array().context("an answer without a list")?;
        let series = |one: &Value| {
            let labels = one["metric"].as_object().context("a series without labels")?.clone();
            let value = one["value"][1].as_str().context("a series without a value")?.parse()?;
            Ok(Series { labels, value })
        };
        list.iter().map(series).collect()
    }

    /// The sum of all series of an expression; 0 without any.
    pub fn sum(&self, expression: &str) -> Result<f64> {
        Ok(self.query(expression)?.iter().map(|series| series.value).sum())
    }

    /// `data` of an answer of its API.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let answer = http::get(&format!("http://{}/api/v1/{path}", self.address))?;
        let mut value: Value = serde_json::from_slice(&answer.body).context("read Prometheus' answer")?;
        ensure!(value["status"] == "success", "Prometheus: {}", answer.text());
        Ok(value["data"].take())
    }

    /// The last lines it logged.
    pub fn last_words(&self) -> String {
        self.process.tail(30)
    }
}
