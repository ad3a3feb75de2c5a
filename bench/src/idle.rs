//! Thousands of deployments, each with probe, guard and registry, of which nobody asks anything: what that costs the Envoy, and
//! for how long it holds up an ordinary request.

use std::time::{Duration, Instant};

use anyhow::Result;
use bluegreen_programs::Progress;
use bluegreen_testbed::{Bootstrap, proc};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::gateway;
use crate::lab::Lab;
use crate::open_loop::OpenLoopLoad;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::quantile;

const COUNTS: [usize; 4] = [1, 100, 1_000, 10_000];

/// Ordinary requests a second, few enough to leave the thread alone most of the time.
const RATE: u32 = 200;

/// What one Envoy with so many deployments needed.
#[derive(Serialize)]
struct Standing {
    deployments: usize,
    start_s: f64,
    resident_mib: f64,
    linear_kib: f64,
    /// Of one processor, without a request.
    idle_percent: f64,
    /// Of ordinary requests, in milliseconds.
    median_ms: f64,
    p99_ms: f64,
    longest_ms: f64,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let span = Duration::from_secs(lab.pick(5, 20));
    let mut all = Vec::new();
    for count in COUNTS {
        let progress = Progress::start(format!("{count} deployments"));
        all.push(standing(lab, count, span).await?);
        progress.done(&format!("{count} deployments"));
    }
    Ok(report(&all, span))
}

async fn standing(lab: &Lab, count: usize, span: Duration) -> Result<Standing> {
    let began = Instant::now();
    let envoy = lab.start_alone(bootstrap(lab, count)?).await?;
    let start_s = began.elapsed().as_secs_f64();
    // Until the first round is over.
    tokio::time::sleep(span).await;
    let (cpu, since) = (proc::cpu_time(envoy.id())?, Instant::now());
    tokio::time::sleep(span).await;
    let idle_percent = 100.0 * (proc::cpu_time(envoy.id())? - cpu).as_secs_f64() / since.elapsed().as_secs_f64();
    let load = OpenLoopLoad {
        address: envoy.traffic()?,
        path: format!("/models/m-{}/invocations", count - 1),
        headers: Vec::new(),
        connections: 1,
        rate: RATE,
        lasting: span,
    };
    let millis: Vec<f64> = load.run().await?.into_iter().map(|micros| micros / 1e3).collect();
    let linear = proc::linear_memories(envoy.id())?.into_iter().max().unwrap_or_default();
    Ok(Standing {
        deployments: count,
        start_s,
        resident_mib: proc::resident(envoy.id())? as f64 / f64::from(1 << 20),
        linear_kib: linear as f64 / 1024.0,
        idle_percent,
        median_ms: quantile(&millis, 0.5),
        p99_ms: quantile(&millis, 0.99),
        longest_ms: quantile(&millis, 1.0),
    })
}

fn bootstrap(lab: &Lab, count: usize) -> Result<Bootstrap> {
    let deployments = deployments(count);
    let bootstrap = gateway::traffic_only(lab)?.plugin(|plugin| plugin["deployments"] = deployments.clone());
    let bootstrap = bootstrap.edit(|tree| {
        let clusters = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
        let registry = clusters.and_then(|clusters| {
            let mut registry = clusters.iter().find(|cluster| cluster["name"] == "blue")?.clone();
            registry["name"] = json!("registry");
            clusters.push(registry);
            Some(())
        });
        debug_assert!(registry.is_some(), "the shipped configuration has a cluster blue");
    });
    Ok(gateway::any_path(bootstrap.with_cluster("registry", lab.registry)))
}

fn deployments(count: usize) -> Value {
    let deployment = |index| {
        let value = json!({
            "match": {"path_prefix": format!("/models/m-{index}")},
            "colours": {"blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "green", "version": "2"}},
            "probe": {"path": "/ping"},
            "guard": {},
            "mlflow": {
                "cluster": "registry", "model": "m", "follow": {"alias": "production"},
                "colours": {"blue": {"alias": "blue"}, "green": {"alias": "green"}},
            },
        });
        (format!("m-{index}"), value)
    };
    Value::Object((0..count).map(deployment).collect::<Map<_, _>>())
}

fn report(all: &[Standing], span: Duration) -> BenchReport {
    let columns = [
        "deployments",
        "start, s",
        "resident MiB",
        "largest VM, MiB",
        "idle, % of a processor",
        "request p50, ms",
        "p99, ms",
        "longest, ms",
    ];
    let mut table = Table::new("Deployments with probe, guard and registry, without requests", &columns);
    let mut targets = Vec::new();
    for one in all {
        table.row([
            one.deployments.to_string(),
            format!("{:.1}", one.start_s),
            format!("{:.0}", one.resident_mib),
            format!("{:.1}", one.linear_kib / 1024.0),
            format!("{:.2}", one.idle_percent),
            format!("{:.2}", one.median_ms),
            format!("{:.1}", one.p99_ms),
            format!("{:.1}", one.longest_ms),
        ]);
        if one.deployments == 1_000 {
            let why = "a tick delays the requests of its thread";
            targets.push(Target::at_most("1,000 deployments: longest request", 15.0, one.longest_ms, "ms", why));
            let why = "Envoy's client sends 20 probes and 8 polls a second";
            targets.push(Target::at_most("1,000 deployments: idle", 1.0, one.idle_percent, "%", why));
        }
    }
    BenchReport {
        title: "Idle: thousands of deployments".to_owned(),
        method: vec![format!(
            "A fresh Envoy of one worker for each count; each deployment has `probe`, `guard` and `mlflow` at their defaults. \
             {0} s to settle, {0} s without a request for the processor time, then {0} s of {RATE} requests a second on one connection.",
            span.as_secs()
        )],
        tables: vec![table],
        targets,
        notes: vec!["Start: until the workers have started, compiling the module included.".to_owned()],
        measurements: json!(all),
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deployment_has_what_the_leader_looks_after() {
        let all = deployments(3);
        for section in ["probe", "guard", "mlflow"] {
            assert!(all.as_object().is_some_and(|all| all.values().all(|one| one[section].is_object())), "{section}");
        }
    }
}
