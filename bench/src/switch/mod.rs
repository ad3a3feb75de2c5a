//! Switching all traffic again and again under load: what fails, what still goes to the old colour, how long it takes.

mod method;
pub mod timeline;

use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_testbed::Load;
use bluegreen_testbed::load::Running;
use serde::Serialize;
use serde_json::json;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::quantile;
use bluegreen_programs::Progress;
use method::Method;
use timeline::{Change, Findings, NEARBY, milliseconds};

/// So many requests in a row must have the new colour before the next command is given.
const SETTLED: usize = 48;

const CONNECTIONS: usize = 16;

/// The requests a second beside pushes: few enough to leave processor time for what a push does, so that a request that takes
/// longer was held up.
const BESIDE_PUSHES: f64 = 400.0;

/// One method's findings.
#[derive(Serialize)]
struct Series {
    name: &'static str,
    #[serde(flatten)]
    findings: Findings,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let idle = idle_calls(&mut Method::admin(lab).await?, lab.pick(50, 1000)).await?;
    let commands = [
        series("bluegreen: admin API", &mut Method::admin(lab).await?, lab.pick(50, 1000), None).await?,
        series("weighted_clusters: runtime_modify", &mut Method::runtime(lab).await?, lab.pick(50, 1000), None).await?,
        series("weighted_clusters: RDS file", &mut Method::routes(lab).await?, lab.pick(20, 200), None).await?,
    ];
    let (count, rate) = (lab.pick(20, 200), Some(BESIDE_PUSHES));
    let pushes = [
        series("LDS file", &mut Method::listener_file(lab).await?, count, rate).await?,
        series("ECDS file", &mut Method::filter_file(lab).await?, count, rate).await?,
        series("ADS", &mut Method::control_plane(lab).await?, count, rate).await?,
    ];
    let floor = [series("ECDS file, lean", &mut Method::lean_filter_file(lab).await?, count, rate).await?];
    Ok(report(&idle, &commands, &pushes, &floor))
}

/// The time of each admin call while there is no traffic.
async fn idle_calls(method: &mut Method, count: usize) -> Result<Vec<f64>> {
    let mut calls = Vec::new();
    for index in 0..count {
        let called = Instant::now();
        method.switch(colour(index)).await?;
        calls.push(milliseconds(called.elapsed()));
    }
    Ok(calls)
}

async fn series(name: &'static str, method: &mut Method, count: usize, rate: Option<f64>) -> Result<Series> {
    let progress = Progress::start(format!("{count} switches by {name}"));
    let load = Load::new(method.envoy.traffic()?, "/invocations").connections(CONNECTIONS).at_most(3_000_000);
    let load = load.lasting(Duration::from_secs(300));
    let load = rate.map_or(load.clone(), |rate| load.rate(rate)).start();
    load.more(200).await?;
    let mut changes: Vec<Change> = Vec::new();
    for index in 0..count {
        progress.detail(&format!("switch {}", index + 1));
        let to = colour(index);
        let called = Instant::now();
        method.switch(to).await?;
        let change = Change { to, called, answered: Instant::now() };
        settled(&load, &change).await?;
        if rate.is_some() {
            // What the next one is compared with.
            tokio::time::sleep(2 * NEARBY).await;
        }
        changes.push(change);
    }
    let findings = timeline::judge(&load.stop().await.records, &changes);
    progress.done(&format!("{count} switches by {name}"));
    Ok(Series { name, findings })
}

/// Waits until the last requests all began after the change was through and all have the new colour.
pub async fn settled(load: &Running, change: &Change) -> Result<()> {
    load.settled(SETTLED, change.answered, |record| timeline::colour(record) == Some(change.to)).await
}

fn colour(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "green" } else { "blue" }
}

fn report(idle: &[f64], commands: &[Series], pushes: &[Series], floor: &[Series]) -> BenchReport {
    let mut table = Table::new(
        "Switches under load",
        &[
            "method",
            "switches",
            "requests",
            "failed",
            "old colour after the answer",
            "answer, ms p50 / p99",
            "last old-colour request after the answer, ms p50 / p99 / max",
            "… after the command was given, ms p50 / p99",
        ],
    );
    for Series { name, findings } in commands {
        table.row([
            (*name).to_owned(),
            findings.changes.to_string(),
            findings.requests.to_string(),
            findings.failed.to_string(),
            format!("{} of {}", findings.old_after_answer, findings.judged),
            ranks(&findings.call_ms, &[0.5, 0.99]),
            ranks(&findings.stale_ms, &[0.5, 0.99, 1.0]),
            ranks(&findings.in_force_ms, &[0.5, 0.99]),
        ]);
    }
    let mut pushed = Table::new(
        "Pushes of another `initial`",
        &[
            "by",
            "pushes",
            "requests",
            "failed",
            "last old-colour request after the push, ms p50 / p99 / max",
            "client, ms p50 / p99 before",
            "client, ms p50 / p99 meanwhile",
        ],
    );
    for Series { name, findings } in pushes.iter().chain(floor) {
        pushed.row([
            (*name).to_owned(),
            findings.changes.to_string(),
            findings.requests.to_string(),
            findings.failed.to_string(),
            ranks(&findings.in_force_ms, &[0.5, 0.99, 1.0]),
            ranks(&findings.before_ms, &[0.5, 0.99]),
            ranks(&findings.during_ms, &[0.5, 0.99]),
        ]);
    }
    let mut calls = Table::new("bluegreen's admin call", &["when", "calls", "p50 ms", "p99 ms"]);
    let under_load = commands.first().map_or(&[][..], |series| &series.findings.call_ms);
    for (when, values) in [("idle", idle), ("under load", under_load)] {
        let cells = [quantile(values, 0.5), quantile(values, 0.99)].map(|value| format!("{value:.2}"));
        table_row(&mut calls, when, values.len(), cells);
    }
    let ours = commands.first().map(|series| series.findings.clone()).unwrap_or_default();
    let failed = |series: &[Series]| series.iter().map(|series| series.findings.failed).sum::<usize>();
    let mut targets = vec![
        Target::at_most("failed requests", 0.0, (ours.failed + failed(pushes)) as f64, "", "see the JSON"),
        Target::at_most("old colour after the answer", 0.0, ours.old_after_answer as f64, "", "see the JSON"),
        Target::at_most(
            "admin call, idle, p99",
            5.0,
            quantile(idle, 0.99),
            "ms",
            "the call waits for a core: the figure contains the client's share",
        ),
    ];
    for Series { name, findings } in pushes {
        let why = "Envoy's own part (the file, parsing, another virtual machine to try the configuration in) waits for a core";
        let in_force = quantile(&findings.in_force_ms, 0.99);
        targets.push(Target::at_most(&format!("push by {name} in force, p99"), 15.0, in_force, "ms", why));
        let longer = quantile(&findings.during_ms, 0.99) - quantile(&findings.before_ms, 0.99);
        let why = "the client, the upstream and Envoy's main thread share the cores with the workers";
        targets.push(Target::at_most(
            &format!("client p99 while pushed by {name}, above that before"),
            1.0,
            longer,
            "ms",
            why,
        ));
    }
    BenchReport {
        title: "Switching: what a change of the active colour costs".to_owned(),
        method: vec![
            format!(
                "An Envoy with four workers for each method and {CONNECTIONS} keep-alive connections. The next switch comes when \
                 {SETTLED} requests in a row have the new colour. \"Old colour after the answer\": the request began after the \
                 command was answered (for files: after the rename) and ended before the next command."
            ),
            format!(
                "Pushes come beside {BESIDE_PUSHES} requests a second, and are of the shipped configuration, in which the colour \
                 has to answer a probe first. \"Before\": requests that ended in the {0} ms before a push; \"meanwhile\": those \
                 under way in the {0} ms after it.",
                NEARBY.as_millis()
            ),
            "\"Lean\" is a wasm filter that does nothing but read its cluster from the configuration: what a push to \
             any wasm filter takes in Envoy. By LDS its old connections would keep the old colour."
                .to_owned(),
        ],
        tables: vec![table, pushed, calls],
        targets,
        notes: vec![
            "Load, upstream and Envoy share the cores, so under load a call first waits for one. The counts do not depend on that."
                .to_owned(),
            "A file push has no answer: after the rename Envoy still has to notice it, parse it and hand it to the workers. \
             runtime_modify answers without waiting for the workers; it has no token, no condition and no history."
                .to_owned(),
        ],
        measurements: json!({"idle_call_ms": idle, "commands": commands, "pushes": pushes, "floor": floor}),
    }
}

fn ranks(values: &[f64], ranks: &[f64]) -> String {
    ranks.iter().map(|rank| format!("{:.2}", quantile(values, *rank))).collect::<Vec<_>>().join(" / ")
}

fn table_row(table: &mut Table, when: &str, calls: usize, figures: [String; 2]) {
    table.row([when.to_owned(), calls.to_string()].into_iter().chain(figures));
}
