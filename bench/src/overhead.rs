//! What a routed request costs Envoy: natively, with Lua, with an external processor, with the smallest wasm filters
//! and with bluegreen.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::{self, Plan, Samples};
use crate::statistics::{Spread, ratios};
use crate::variants::{self, CANARY_PERCENT, EVERYTHING, LUA, NATIVE, PLAIN, SAME_CALLS, WITH_MATCH};
use crate::wrk;

/// What is also measured where the scheduler chooses the processors, as it does for most people.
const UNPINNED: [&str; 6] = [NATIVE, LUA, SAME_CALLS, PLAIN, WITH_MATCH, EVERYTHING];

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    wrk::obtain()?;
    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let plan = Plan {
        rounds: lab.pick(2, 7),
        settles: false,
        warm_up: Duration::from_secs(1),
        loaded: Duration::from_secs(lab.pick(1, 2)),
        connections: 8,
        pinned: true,
        open_loop: Some((1000, lab.pick(Duration::from_millis(500), Duration::from_secs(1)))),
    };
    let samples = rounds::run(lab, variants::all(lab, &folder)?, plan).await?;
    let some = variants::all(lab, &folder)?.into_iter().filter(|variant| UNPINNED.contains(&variant.name.as_str()));
    let unpinned = rounds::run(lab, some.collect(), Plan { pinned: false, open_loop: None, ..plan }).await?;
    report(plan, &samples, &unpinned)
}

fn find<'a>(samples: &'a [Samples], name: &str) -> Result<&'a Samples> {
    samples.iter().find(|samples| samples.name == name).with_context(|| name.to_owned())
}

fn report(plan: Plan, samples: &[Samples], unpinned: &[Samples]) -> Result<BenchReport> {
    let native = find(samples, NATIVE)?.cpu();
    let mut table = Table::new(
        "Processor time of the Envoy process per request, and latency",
        &["variant", "CPU µs", "÷ native weighted_clusters", "p50 µs", "p99 µs"],
    );
    for variant in samples {
        table.row([
            variant.name.clone(),
            Spread::of(&variant.cpu()).show(1),
            Spread::of(&ratios(&variant.cpu(), &native)).show(3),
            Spread::of(&variant.where_measured(|sample| sample.p50_us)).show(0),
            Spread::of(&variant.where_measured(|sample| sample.p99_us)).show(0),
        ]);
    }
    let mut moved = Table::new(
        "Processor time where the scheduler chooses Envoy's processor",
        &["variant", "CPU µs", "÷ native weighted_clusters", "÷ Lua"],
    );
    let (unpinned_native, unpinned_lua) = (find(unpinned, NATIVE)?.cpu(), find(unpinned, LUA)?.cpu());
    for variant in unpinned {
        moved.row([
            variant.name.clone(),
            Spread::of(&variant.cpu()).show(1),
            Spread::of(&ratios(&variant.cpu(), &unpinned_native)).show(3),
            Spread::of(&ratios(&variant.cpu(), &unpinned_lua)).show(3),
        ]);
    }
    let to = |name, other: &[f64]| anyhow::Ok(Spread::of(&ratios(&find(samples, name)?.cpu(), other)).median);
    let added = added(find(samples, PLAIN)?, find(samples, NATIVE)?);
    let calls = find(samples, SAME_CALLS)?;
    let floor = Spread::of(&ratios(&calls.cpu(), &native)).median;
    let why = format!(
        "a wasm filter that makes the host calls of a plain exchange and decides nothing is at {floor:.2} × native already. Lua only \
         routes: it neither marks nor measures"
    );
    let later = format!("that filter adds {:.0} µs", self::added(calls, find(samples, NATIVE)?).median);
    let external = samples.last().context("no variants")?;
    Ok(BenchReport {
        title: "Overhead: what a routed request costs".to_owned(),
        method: vec![
            format!(
                "{} rounds, each with every variant in rotating order: a fresh Envoy of one worker on its own processor, {} s of \
                 warm-up, then {} s of wrk over {} connections. CPU: the process's user and system time per request.",
                plan.rounds,
                plan.warm_up.as_secs(),
                plan.loaded.as_secs(),
                plan.connections
            ),
            format!(
                "Ratios are per round. Latencies at a fixed {} requests a second, from when a request was due. The upstream is \
                 an Envoy's `direct_response`. Candidate: {CANARY_PERCENT} %.",
                plan.open_loop.map_or(0, |(rate, _)| rate)
            ),
            "The second table: the same, but Envoy and wrk may run on any processor. The upstream keeps its own."
                .to_owned(),
        ],
        tables: vec![table, moved],
        targets: vec![
            Target::at_most("bluegreen plain ÷ native", 1.20, to(PLAIN, &native)?, "×", &why),
            Target::at_most("bluegreen plain ÷ Lua", 1.10, to(PLAIN, &find(samples, LUA)?.cpu())?, "×", &why),
            Target::at_most(
                "bluegreen with match ÷ the same host calls",
                1.05,
                to(WITH_MATCH, &calls.cpu())?,
                "×",
                "the filter's own code",
            ),
            Target::at_most("bluegreen plain, added to the median latency", 20.0, added.median, "µs", &later),
        ],
        notes: vec![
            format!(
                "ext_proc: the external processor used another {} µs per request, in a process of its own.",
                Spread::of(&external.each(|sample| sample.loadgen_cpu_us)).show(1)
            ),
            format!("Added to the median latency, by round: {} µs.", added.show(0)),
            "Latencies include client, upstream and scheduling: with few cores the p99 says more about the scheduler."
                .to_owned(),
            "Only bluegreen counts requests, answers and latencies per colour, and marks answers.".to_owned(),
        ],
        measurements: json!({"plan": plan, "variants": samples, "unpinned": unpinned}),
    })
}

/// How much later the median answer comes, round by round.
fn added(with: &Samples, without: &Samples) -> Spread {
    let medians = |samples: &Samples| samples.where_measured(|sample| sample.p50_us);
    let added: Vec<f64> = medians(with).iter().zip(medians(without)).map(|(with, without)| with - without).collect();
    Spread::of(&added)
}
