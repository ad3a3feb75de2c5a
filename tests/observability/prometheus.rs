//! A real Prometheus with the shipped rules.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::ports::{self, loopback};
use bluegreen_testbed::process::ManagedProcess;
use bluegreen_testbed::{repository, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the rules are.
pub const FOLDER: &str = "envoy/observability";

/// One that scrapes one Envoy, four times a second.
pub struct Prometheus {
    url: String,
    client: reqwest::Client,
    process: ManagedProcess,
    _folder: TempDir,
}

/// The shipped rules.
fn rules() -> Result<Value> {
    Ok(serde_saphyr::from_str(&fs::read_to_string(repository::root().join(FOLDER).join("alerts.yaml"))?)?)
}

fn each_rule(rules: &Value) -> impl Iterator<Item = &Value> {
    let groups = rules["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["rules"].as_array().into_iter().flatten())
}

/// The expressions of all rules.
pub fn expressions() -> Result<Vec<String>> {
    let rules = rules()?;
    let expressions: Vec<String> =
        each_rule(&rules).filter_map(|rule| rule["expr"].as_str()).map(str::to_owned).collect();
    ensure!(expressions.len() > 10, "{rules:#}");
    Ok(expressions)
}

// === impl Prometheus ===

impl Prometheus {
    /// Starts it. An alert fires as soon as its expression holds, for the test.
    pub async fn start(envoy: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut rules = rules()?;
        for group in rules["groups"].as_array_mut().context("groups")? {
            for rule in group["rules"].as_array_mut().context("rules")? {
                rule.as_object_mut().context("a rule")?.remove("for");
            }
        }
        // JSON is YAML.
        fs::write(folder.path().join("alerts.yaml"), serde_json::to_vec(&rules)?)?;
        let configuration = json!({
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{
                "job_name": "envoy",
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": [envoy.to_string()]}],
            }],
        });
        fs::write(folder.path().join("prometheus.yml"), serde_json::to_vec(&configuration)?)?;
        let address = loopback(ports::free()?);
        let mut command = Command::new("prometheus");
        command
            .current_dir(folder.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"));
        let process = ManagedProcess::start("prometheus", command)?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let prometheus = Self { url: format!("http://{address}"), client, process, _folder: folder };
        let up = |result: &Value| result[0]["value"][1] == "1";
        wait::until("Prometheus to scrape Envoy", || prometheus.query("up"), up).await?;
        Ok(prometheus)
    }

    /// What an expression comes to now.
    pub async fn query(&self, expression: &str) -> Result<Value> {
        let answer = self.get("/api/v1/query", &[("query", expression)]).await?;
        Ok(answer["result"].clone())
    }

    /// The alerts that are pending or firing.
    pub async fn alerts(&self) -> Result<Vec<Value>> {
        let answer = self.get("/api/v1/alerts", &[]).await?;
        Ok(answer["alerts"].as_array().context("alerts")?.clone())
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        self.process.ensure_running()?;
        let request = self.client.get(format!("{}{path}", self.url)).query(query);
        let answer: Value = request.send().await?.json().await?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }
}
