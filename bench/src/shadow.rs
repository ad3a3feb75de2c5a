//! What comparing answers costs: the client's latency beside no copies and Envoy's own copies, processor time, and the virtual
//! machine's memory after many comparisons.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::Progress;
use bluegreen_testbed::{Bootstrap, Envoy, Load, proc, wait};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::{self, Plan, Samples, Variant};
use crate::statistics::{Spread, ratios};
use crate::{gateway, wrk};

const OFF: &str = "no copies";
const BY_ENVOY: &str = "all copied by Envoy, nothing compared";
const COMPARED: &str = "all compared";

/// Requests a second, few enough to leave processor time free.
const RATE: u32 = 200;

/// After so many comparisons the memory is looked at.
const COMPARISONS: [u64; 2] = [1_000, 100_000];

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    wrk::obtain()?;
    let plan = Plan {
        rounds: lab.pick(2, 9),
        settles: false,
        warm_up: Duration::from_secs(1),
        loaded: Duration::from_secs(1),
        connections: 8,
        pinned: false,
        open_loop: Some((RATE, lab.pick(Duration::from_secs(2), Duration::from_secs(10)))),
    };
    let variants = vec![
        Variant::new(OFF, bootstrap(lab, 0, true)?),
        Variant::new(BY_ENVOY, bootstrap(lab, 100, false)?),
        Variant::new(COMPARED, bootstrap(lab, 100, true)?),
    ];
    let samples = rounds::run(lab, variants, plan).await?;
    let memory = memory(lab).await?;
    report(plan, &samples, &memory)
}

/// The shipped configuration, with two colours that answer alike.
fn bootstrap(lab: &Lab, shadow_percent: u32, compares: bool) -> Result<Bootstrap> {
    let alike = gateway::shipped(lab)?.with_cluster("green", lab.blue);
    Ok(alike.deployment("iris", |iris| {
        iris["initial"] = json!({"active": "blue", "shadow_percent": shadow_percent});
        if compares {
            let safe = json!([{"method": "GET", "path_prefix": "/invocations"}]);
            iris["shadow"] = json!({"compare": {"safe": safe, "max_in_flight": 64}});
        }
    }))
}

/// The VM's largest memory in bytes, after so many comparisons.
async fn memory(lab: &Lab) -> Result<Vec<(u64, u64)>> {
    let envoy = lab.start(bootstrap(lab, 100, true)?, 1).await?;
    let mut memory = Vec::new();
    for count in COMPARISONS.map(|count| if lab.quick { count / 10 } else { count }) {
        let progress = Progress::start(format!("{count} comparisons"));
        while compared(&envoy).await? < count {
            Load::new(envoy.traffic()?, "/invocations")
                .connections(8)
                .at_most(1_000)
                .run()
                .await
                .ensure_no_failures()?;
        }
        let linear = proc::linear_memories(envoy.id())?.into_iter().max().context("no virtual machine")?;
        memory.push((count, linear));
        progress.done(&format!("{count} comparisons"));
    }
    Ok(memory)
}

/// How many answers were compared, and agreed.
async fn compared(envoy: &Envoy) -> Result<u64> {
    let found = wait::until(
        "the first comparison",
        || async { Ok(envoy.admin()?.comparison("iris").await?["shadow"].clone()) },
        |found: &Value| found["compared"].as_u64() > Some(0) || found["dropped"] == json!({}),
    )
    .await?;
    ensure!(found["disagreed"] == 0, "the colours answer alike: {found:#}");
    found["compared"].as_u64().context("no count")
}

fn report(plan: Plan, samples: &[Samples], memory: &[(u64, u64)]) -> Result<BenchReport> {
    let find = |name: &str| samples.iter().find(|samples| samples.name == name).with_context(|| name.to_owned());
    let p99 = |samples: &Samples| samples.where_measured(|sample| sample.p99_us);
    let off = find(OFF)?;
    let mut table = Table::new(
        "Latency of the client at a fixed rate, and processor time under full load",
        &["variant", "p50 µs", "p99 µs", "p99 ÷ no copies", "CPU µs per request"],
    );
    for variant in samples {
        table.row([
            variant.name.clone(),
            Spread::of(&variant.where_measured(|sample| sample.p50_us)).show(0),
            Spread::of(&p99(variant)).show(0),
            Spread::of(&ratios(&p99(variant), &p99(off))).show(3),
            Spread::of(&variant.cpu()).show(1),
        ]);
    }
    let mut grown = Table::new("Linear memory of the largest virtual machine", &["comparisons", "KiB"]);
    for (count, bytes) in memory {
        grown.row([count.to_string(), (bytes / 1024).to_string()]);
    }
    let (first, last) = memory.first().zip(memory.last()).context("no memory was looked at")?;
    let ratio = Spread::of(&ratios(&p99(find(COMPARED)?), &p99(off))).median;
    Ok(BenchReport {
        title: "Comparing answers: what the client, the processor and memory notice".to_owned(),
        method: vec![
            format!(
                "{} rounds, each with every variant in rotating order: a fresh Envoy of one worker, a second of warm-up, a second of \
                 wrk over {} connections for the processor time, then {RATE} requests a second for the latencies. Both colours \
                 answer alike, with 18 bytes; noise_percent is 5, max_in_flight 64.",
                plan.rounds, plan.connections
            ),
            "Under full load most copies are dropped as busy when they are compared, and none when Envoy copies."
                .to_owned(),
        ],
        tables: vec![table, grown],
        targets: vec![
            Target::at_most(
                "p99 of the client, all compared ÷ no copies",
                1.05,
                ratio,
                "×",
                "client, Envoy, upstream and the copies share the machine's processors",
            ),
            Target::at_most(
                "memory after the most comparisons ÷ after the fewest",
                1.0,
                last.1 as f64 / first.1 as f64,
                "×",
                "",
            ),
        ],
        notes: Vec::new(),
        measurements: json!({"plan": plan, "variants": samples, "memory": memory}),
    })
}
