//! `docker-compose.yml`, brought up in a Docker engine and driven through its published ports.
//!
//! `cargo xtask test --suite compose` runs this; it sees to the base images and says which compose program there is.

use std::env;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::OPERATOR;
use bluegreen_testbed::ports::{free, loopback};
use bluegreen_testbed::{Admin, Load, repository, wait};
use serde_json::Value;

/// How long everything may take to become healthy.
const PATIENCE: Duration = Duration::from_secs(120);

/// A project of the compose program, taken down when dropped.
struct Project {
    name: String,
    traffic: u16,
    admin: u16,
    envoy: u16,
    prometheus: u16,
}

/// The compose program, as the environment names it: `docker compose` or `docker-compose`.
fn compose() -> Result<Command> {
    let program = env::var("BLUEGREEN_COMPOSE").context("run `cargo xtask test --suite compose`")?;
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().context("BLUEGREEN_COMPOSE is empty")?);
    command.args(words).current_dir(repository::root());
    for variable in ["COMPOSE_PROFILES", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME"] {
        command.env_remove(variable);
    }
    Ok(command)
}

fn output(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?} ended with {status}:\n{said}\n{}", String::from_utf8_lossy(&stderr));
    Ok(said)
}

// === impl Project ===

impl Project {
    fn up() -> Result<Self> {
        let name = format!("bluegreen-test-{}", std::process::id());
        let project = Self { name, traffic: free()?, admin: free()?, envoy: free()?, prometheus: free()? };
        project.run(&["build", "--quiet"]).or_else(|_| project.run(&["build"]))?;
        project.run(&["up", "--detach", "--no-build"])?;
        Ok(project)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = compose()?;
        command.args(["--project-name", &self.name]).args(arguments).envs([
            ("BLUEGREEN_TRAFFIC_PORT", self.traffic.to_string()),
            ("BLUEGREEN_ADMIN_PORT", self.admin.to_string()),
            ("BLUEGREEN_ENVOY_PORT", self.envoy.to_string()),
            ("BLUEGREEN_PROMETHEUS_PORT", self.prometheus.to_string()),
        ]);
        output(command)
    }

    /// What the engine knows of a service's container.
    fn inspect(&self, service: &str) -> Result<Value> {
        let id = self.run(&["ps", "--quiet", service])?;
        let mut docker = Command::new("docker");
        docker.args(["inspect", id.trim()]);
        let found: Value = serde_json::from_str(&output(docker)?)?;
        found.get(0).cloned().with_context(|| format!("no container of {service}"))
    }

    async fn until_healthy(&self, service: &str) -> Result<()> {
        let health = || async { Ok(self.inspect(service)?.pointer("/State/Health/Status").cloned()) };
        let healthy = |status: &Option<Value>| status.as_ref().is_some_and(|status| status == "healthy");
        let waited = wait::until_within(PATIENCE, &format!("{service} to be healthy"), health, healthy).await;
        waited.map(drop).with_context(|| self.run(&["logs", "--tail", "20", service]).unwrap_or_default())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--volumes", "--timeout", "3"]);
    }
}

#[tokio::test]
async fn the_services_come_up_healthy_and_hardened_and_traffic_is_switched_through_published_ports() -> Result<()> {
    let project = Project::up()?;
    for service in ["blue", "green", "envoy", "prometheus"] {
        project.until_healthy(service).await?;
        let container = project.inspect(service)?;
        let user = container.pointer("/Config/User").and_then(Value::as_str).unwrap_or_default().to_owned();
        ensure!(!["", "0", "root"].contains(&user.split(':').next().unwrap_or_default()), "{service} runs as {user:?}");
        ensure!(container.pointer("/HostConfig/ReadonlyRootfs") == Some(&Value::Bool(true)), "{service} can write");
        let ports = container.pointer("/NetworkSettings/Ports").and_then(Value::as_object).cloned().unwrap_or_default();
        for binding in ports.values().filter_map(Value::as_array).flatten() {
            ensure!(binding["HostIp"] == "127.0.0.1", "{service} is published on {binding}");
        }
    }

    let admin = Admin::new(&format!("http://{}/bluegreen", loopback(project.admin))).token(OPERATOR);
    let traffic: SocketAddr = loopback(project.traffic);
    let load = Load::new(traffic, "/invocations").body(reqwest::Method::POST, r#"{"inputs": [[5.6, 2.8, 4.9, 2.0]]}"#);
    let load = load.header("content-type", b"application/json")?.connections(4);
    let running = load.start();
    running.more(40).await?;
    admin.promote("iris").await?;
    running.more(40).await?;
    ensure!(admin.rollback("iris").await?.active == "blue", "no way back");
    running.more(40).await?;
    let report = running.stop().await;
    report.ensure_no_failures()?;
    ensure!(report.count("blue") > 0 && report.count("green") > 0, "{:?}", report.colours());

    // Prometheus sees both colours, by the labels that Envoy's stats_tags make.
    let query = "bluegreen_requests_total{deployment=\"iris\",colour=\"green\"}";
    let url = format!("http://{}/api/v1/query", loopback(project.prometheus));
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ask = || async {
        let answer: Value = http.get(&url).query(&[("query", query)]).send().await?.json().await?;
        Ok(answer.pointer("/data/result/0/value/1").and_then(Value::as_str).map(str::to_owned))
    };
    let counted =
        |value: &Option<String>| value.as_ref().and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > 0);
    wait::until_within(PATIENCE, "green's requests in Prometheus", ask, counted).await?;
    Ok(())
}

#[test]
fn each_profile_is_complete() -> Result<()> {
    for (profile, expected) in [("mlflow", "model-mlflow"), ("fleet", "bluegreen-fleet.yaml")] {
        let mut command = compose()?;
        command.arg("config").env("COMPOSE_PROFILES", profile);
        let configuration = output(command)?;
        ensure!(configuration.contains(expected), "profile {profile} has no {expected}:\n{configuration}");
    }
    Ok(())
}
