//! A fleet of four Envoys that follow etcd: how long after a switch on one of them the others still use the old colour.

use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_testbed::{Bootstrap, Fleet, Load};
use serde::Serialize;
use serde_json::json;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::quantile;
use crate::switch::settled;
use crate::switch::timeline::{self, Change, Findings};
use bluegreen_programs::Progress;

const ENVOYS: usize = 4;

/// Requests per second to each Envoy: often enough to tell milliseconds, and little enough for Envoys, etcd and clients
/// to share a small machine without waiting for each other.
const RATE: f64 = 500.0;

const CONNECTIONS: usize = 4;

/// What one Envoy's traffic says.
#[derive(Serialize)]
struct Series {
    envoy: usize,
    #[serde(flatten)]
    findings: Findings,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    bluegreen_programs::etcd::obtain()?;
    let bootstrap =
        Bootstrap::shipped()?.with_wasm(&lab.module).with_cluster("blue", lab.blue).with_cluster("green", lab.green);
    let fleet = Fleet::start(ENVOYS, &bootstrap, |options| options.binary(&lab.binary).concurrency(1)).await?;
    let count: usize = lab.pick(20, 400);
    let progress = Progress::start(format!("{count} switches of a fleet"));
    let mut loads = Vec::new();
    for envoy in &fleet.envoys {
        let load = Load::new(envoy.traffic()?, "/invocations").connections(CONNECTIONS).rate(RATE);
        loads.push(load.at_most(3_000_000).lasting(Duration::from_secs(600)).start());
    }
    for load in &loads {
        load.more(100).await?;
    }
    let mut changes: Vec<Change> = Vec::new();
    for index in 0..count {
        progress.detail(&format!("switch {}", index + 1));
        let to = if index.is_multiple_of(2) { "green" } else { "blue" };
        let admin = fleet.admin(index % ENVOYS)?;
        let called = Instant::now();
        admin.promote_to("iris", to).await?;
        let change = Change { to, called, answered: Instant::now() };
        for load in &loads {
            settled(load, &change).await?;
        }
        changes.push(change);
    }
    let mut series = Vec::new();
    for (envoy, load) in loads.into_iter().enumerate() {
        series.push(Series { envoy, findings: timeline::judge(&load.stop().await.records, &changes) });
    }
    progress.done(&format!("{count} switches of a fleet"));
    Ok(report(&series))
}

fn report(series: &[Series]) -> BenchReport {
    let count = series.first().map_or(0, |series| series.findings.changes);
    let worst = |of: fn(&Findings) -> &Vec<f64>| -> Vec<f64> {
        let at = |change: usize| series.iter().filter_map(move |series| of(&series.findings).get(change).copied());
        (0..count).map(|change| at(change).fold(0.0, f64::max)).collect()
    };
    let elsewhere: Vec<f64> = (0..count)
        .map(|change| {
            let others = series.iter().filter(|series| series.envoy != change % ENVOYS);
            others.filter_map(|series| series.findings.stale_ms.get(change).copied()).fold(0.0, f64::max)
        })
        .collect();
    let here: Vec<f64> =
        (0..count).filter_map(|change| series.get(change % ENVOYS)?.findings.stale_ms.get(change).copied()).collect();
    let (stale, in_force) = (worst(|findings| &findings.stale_ms), worst(|findings| &findings.in_force_ms));
    let calls = series.first().map(|series| series.findings.call_ms.clone()).unwrap_or_default();
    let mut table = Table::new(
        "Last request with the old colour, over all Envoys of a switch",
        &["counted from", "on", "switches", "p50 ms", "p99 ms", "max ms"],
    );
    let rows = [
        ("the answer", "the Envoy that was called", &here),
        ("the answer", "the other three", &elsewhere),
        ("the answer", "all four", &stale),
        ("the call", "all four", &in_force),
    ];
    for (from, on, values) in rows {
        let ranks = [0.5, 0.99, 1.0].map(|rank| format!("{:.2}", quantile(values, rank)));
        table.row([from.to_owned(), on.to_owned(), count.to_string()].into_iter().chain(ranks));
    }
    let mut call = Table::new("The admin call: a read and a transaction in etcd", &["calls", "p50 ms", "p99 ms"]);
    call.row([count.to_string()].into_iter().chain([0.5, 0.99].map(|rank| format!("{:.2}", quantile(&calls, rank)))));
    let failed: usize = series.iter().map(|series| series.findings.failed).sum();
    let requests: usize = series.iter().map(|series| series.findings.requests).sum();
    let at_home = here.iter().filter(|late| **late > 0.0).count();
    BenchReport {
        title: "A fleet: one switch for four Envoys".to_owned(),
        method: vec![format!(
            "Four Envoys with one worker each and three members of etcd. {CONNECTIONS} connections send {RATE} requests a \
             second to each Envoy, {requests} in all; the switches go through the Envoys in turn, and the next one comes \
             when the last requests of all four have the new colour."
        )],
        tables: vec![table, call],
        targets: vec![
            Target::at_most(
                "answer to last old-colour request on all four, p99",
                25.0,
                quantile(&stale, 0.99),
                "ms",
                "Envoys, etcd and clients share the machine's cores: what has to tell the workers waits for one",
            ),
            Target::at_most("old colour after the answer on the Envoy that was called", 0.0, at_home as f64, "", "see the JSON"),
            Target::at_most("failed requests", 0.0, failed as f64, "", "see the JSON"),
        ],
        notes: vec![
            "The Envoy that was called knows before it answers; the others get etcd's event, often before the client has read \
             the answer."
                .to_owned(),
            "A write takes two rounds through etcd's quorum. Its members keep their data in memory here; a disk takes longer."
                .to_owned(),
        ],
        measurements: json!({"series": series, "stale_ms": stale, "call_ms": calls}),
    }
}
