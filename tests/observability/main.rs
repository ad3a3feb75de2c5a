//! Metrics, alert rules and dashboard, in a real Prometheus that scrapes a real Envoy.
//!
//! `cargo xtask test --suite observability` runs this; it sees to Prometheus and promtool.

mod dashboard;
mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, repository, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

use crate::prometheus::{FOLDER, Prometheus};

/// What this Envoy cannot have: no fleet, no registry, no receiver of notifications, no worker that fails, no retries, no
/// filter that answers itself, a route that is right, and no answers that are compared.
const NOT_HERE: [&str; 9] = [
    "bluegreen_stale",
    "bluegreen_source_polls_total",
    "bluegreen_notifications_total",
    "bluegreen_fallbacks_total",
    "bluegreen_retries_total",
    "bluegreen_local_replies_total",
    "bluegreen_answers_from_elsewhere_total",
    "bluegreen_compared_total",
    "bluegreen_compare_dropped_total",
];

/// Each metric of the reference with its type and its labels.
fn documented() -> Result<BTreeMap<String, (String, BTreeSet<String>)>> {
    let text = fs::read_to_string(repository::root().join("docs/metrics.md"))?;
    let rows = text.lines().filter(|line| line.starts_with("| `bluegreen_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells.as_slice() else { return None };
        let labels = labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        Some((name.trim_matches('`').to_owned(), ((*kind).to_owned(), labels)))
    };
    rows.map(|line| row(line).with_context(|| format!("no row of five cells: {line}"))).collect()
}

/// The environment in which a rollout begins to a green that turns bad.
async fn environment() -> Result<Environment> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["probe"] = json!({"path": "/ping", "interval": "1s", "unhealthy_after": 2});
        iris["guard"] = json!({});
        iris["smoke_test"] = json!({"required": true, "requests": [{"path": "/ping"}]});
        iris["rollout"] = json!({"steps": [{"canary_percent": 20, "hold": "10m"}]});
    });
    Environment::with(2, bootstrap).await
}

/// Lets a rollout to green begin, and green go bad; the end is that the guard has taken the traffic back.
async fn go_bad(env: &Environment) -> Result<()> {
    let admin = env.envoy.admin()?;
    // Refused: the smoke test is missing.
    let refused = admin.promoting(IRIS).query(&[("to", "green")]).send().await?;
    ensure!(refused.status == 409, "{refused:?}");
    admin.test(IRIS).await?.accepted()?;
    let anonymous = reqwest::Client::builder().no_proxy().build()?;
    let api = env.envoy.listener("bluegreen-admin")?;
    anonymous.get(format!("http://{api}/bluegreen/v1/deployments")).send().await?;
    anonymous.get(env.envoy.url("/matches-nothing")?).send().await?;
    env.load()?.header("x-bluegreen-override", b"green")?.at_most(5).run().await.ensure_no_failures()?;
    let load = env.load()?.connections(8).rate(150.0).lasting(Duration::from_secs(120)).start();
    load.more(100).await?;
    admin.rollout(IRIS, "start").await?;
    load.more(100).await?;
    env.green.behave(Behaviour::Status(500));
    env.green.behave_when_probed(Behaviour::Status(500));
    env.until_rollout("a rollback by the guard", |rollout| rollout.phase == "rolled_back").await?;
    load.more(50).await?;
    load.stop().await;
    Ok(())
}

/// What promtool says, and whether it is content.
fn promtool(arguments: &[&str], input: Option<&str>) -> Result<(bool, String)> {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(repository::root().join(FOLDER));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("promtool")?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    std::io::Write::write_all(&mut stdin, input.unwrap_or_default().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn promtool_takes_the_rules_and_their_tests_hold() -> Result<()> {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let (is_content, said) = promtool(&arguments, None)?;
        ensure!(is_content, "{said}");
    }
    Ok(())
}

#[test]
fn all_shipped_configurations_make_the_same_labels() -> Result<()> {
    let tags = |file: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(repository::root().join(file))?;
        let tags = text.lines().filter(|line| line.contains("tag_name:")).map(|line| line.trim().to_owned());
        Ok(tags.collect())
    };
    let first = tags("envoy/envoy.yaml")?;
    ensure!(first.len() > 10, "{first:#?}");
    for file in ["compose/envoy.yaml", "ecds/envoy.yaml", "mlflow/envoy.yaml", "observability/istio.yaml"] {
        ensure!(tags(&format!("envoy/{file}"))? == first, "{file} has other stats_tags than envoy/envoy.yaml");
    }
    let made: BTreeSet<&str> =
        first.iter().filter_map(|tag| tag.split_once("tag_name: ")?.1.split_once(',')).map(|(name, _)| name).collect();
    for (name, (_, labels)) in documented()? {
        ensure!(labels.iter().all(|label| made.contains(label.as_str())), "{name}{labels:?} in {made:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_green_fires_alerts_in_a_real_prometheus_and_every_query_finds_data() -> Result<()> {
    let env = environment().await?;
    let prometheus = Prometheus::start(env.envoy.own_admin()).await?;
    env.until("both colours to be healthy", |state| {
        state.colours.values().all(|colour| colour.probe.as_ref().is_some_and(|probe| probe.healthy))
    })
    .await?;
    go_bad(&env).await?;

    for (alert, colour) in [
        ("BluegreenCandidateUnhealthy", Some("green")),
        ("BluegreenErrorRatio", Some("green")),
        ("BluegreenGuardBroken", None),
        ("BluegreenTrafficTakenBack", None),
    ] {
        let is_it = |found: &Value| {
            let labels = &found["labels"];
            found["state"] == "firing"
                && labels["alertname"] == alert
                && labels["deployment"] == IRIS
                && colour.is_none_or(|colour| labels["colour"] == colour)
        };
        let fires = |alerts: &Vec<Value>| alerts.iter().any(is_it);
        wait::until_within(Duration::from_secs(30), alert, || prometheus.alerts(), fires).await?;
    }
    let firing = prometheus.alerts().await?;
    let names: BTreeSet<&str> = firing.iter().filter_map(|alert| alert["labels"]["alertname"].as_str()).collect();
    println!("firing: {names:?}");
    ensure!(!names.contains("BluegreenActiveUnhealthy") && !names.contains("BluegreenWorkerSilent"), "{firing:#?}");

    // What Envoy shows is what the reference says, and nothing is missing.
    let (documented, seen) = (documented()?, env.envoy.ask("/stats/prometheus").await?);
    let mut found = BTreeSet::new();
    let types: BTreeMap<&str, &str> =
        seen.lines().filter_map(|line| line.strip_prefix("# TYPE bluegreen_")?.split_once(' ')).collect();
    for (name, kind) in types {
        let name = format!("bluegreen_{name}");
        let (documented_kind, labels) =
            documented.get(&name).with_context(|| format!("{name} is not in docs/metrics.md"))?;
        ensure!(kind == documented_kind, "{name} is a {kind}");
        let samples = env.envoy.prometheus().await?;
        for sample in samples.named(&name).into_iter().filter(|sample| sample.name == name) {
            let of_sample: BTreeSet<String> = sample.labels.keys().cloned().collect();
            ensure!(of_sample == *labels, "{sample:?} has not the labels {labels:?}");
        }
        found.insert(name);
    }
    let missing: Vec<&String> = documented.keys().filter(|name| !found.contains(*name)).collect();
    ensure!(missing == missing_here(&documented), "Envoy does not show {missing:?}");

    // Every expression has data, unless it is about what this Envoy cannot have, or asks for what must not be.
    for (of, expression) in dashboard::queries()? {
        let result = prometheus.query(&expression).await.with_context(|| format!("{of}: {expression}"))?;
        let is_empty = result.as_array().is_none_or(Vec::is_empty);
        let may_be_empty =
            NOT_HERE.iter().any(|name| expression.contains(name)) || dashboard::MAY_BE_EMPTY.contains(&of.as_str());
        ensure!(!is_empty || may_be_empty, "{of} finds nothing: {expression}");
    }
    for expression in prometheus::expressions()? {
        prometheus.query(&expression).await.with_context(|| expression.clone())?;
    }
    let quantile = "histogram_quantile(0.5, sum by (colour, le) (rate(bluegreen_first_byte_milliseconds_bucket[1m])))";
    for series in prometheus.query(quantile).await?.as_array().context("a list")? {
        let median: f64 = series["value"][1].as_str().context("a value")?.parse()?;
        ensure!(median > 0.0 && median < 5_000.0, "{series}");
    }

    let (_, said) = promtool(&["check", "metrics"], Some(&ours(&seen)))?;
    println!("promtool check metrics:\n{said}");
    for remark in said.lines().filter(|line| line.starts_with("bluegreen_")) {
        // Envoy makes counters of what a histogram's parts are called; and the unit is Envoy's own.
        let is_known =
            ["_bucket", "_sum", "_count", "milliseconds", "no help text"].iter().any(|part| remark.contains(part));
        ensure!(is_known, "promtool check metrics: {remark}");
    }
    env.ensure_no_trap()
}

fn missing_here(documented: &BTreeMap<String, (String, BTreeSet<String>)>) -> Vec<&String> {
    documented.keys().filter(|name| NOT_HERE.contains(&name.as_str())).collect()
}

/// The lines about the filter's metrics.
fn ours(text: &str) -> String {
    let ours = text.lines().filter(|line| line.trim_start_matches("# TYPE ").starts_with("bluegreen_"));
    ours.map(|line| format!("{line}\n")).collect()
}
