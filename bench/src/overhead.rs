//! What a routed request costs Envoy: natively, with Lua, with an external processor, with the smallest wasm filters
//! and with bluegreen.

use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_testbed::Bootstrap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway;
use crate::lab::Lab;
use crate::lean_filter;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::{self, Plan, Samples, Variant};
use crate::statistics::{Spread, ratios};
use crate::{ext_proc, wrk};

/// What everything is compared with.
const NATIVE: &str = "native weighted_clusters";
const LUA: &str = "Lua: random canary, sets the header";
const SAME_CALLS: &str = "wasm: 17 host calls and nothing else";
const PLAIN: &str = "bluegreen: plain";
const EVERYTHING: &str = "bluegreen: everything on";

/// The share of the candidate, wherever a variant has one.
const CANARY_PERCENT: u32 = 10;

/// What a deployment has even when it is plain.
const REQUIRED: [&str; 3] = ["match", "colours", "initial"];

/// A random canary as people write it.
const LUA_CODE: &str = r#"
function envoy_on_request(handle)
  local colour = "blue"
  if math.random(10000) <= 1000 then colour = "green" end
  handle:headers():replace("x-bluegreen-cluster", colour)
end
"#;

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    wrk::obtain()?;
    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let plan = Plan {
        rounds: lab.pick(2, 7),
        warm_up: Duration::from_secs(1),
        loaded: Duration::from_secs(lab.pick(1, 2)),
        connections: 8,
        open_loop: Some((1000, lab.pick(Duration::from_millis(500), Duration::from_secs(1)))),
    };
    let samples = rounds::run(lab, variants(lab, &folder)?, plan).await?;
    report(plan, &samples)
}

fn variants(lab: &Lab, folder: &TempDir) -> Result<Vec<Variant>> {
    let idle = lean_filter::filter(&lean_filter::idle(folder.path())?, json!({}));
    let header = lean_filter::filter(&lean_filter::header(folder.path())?, json!({}));
    let calls = lean_filter::filter(&lean_filter::same_calls(folder.path())?, json!({}));
    let (blue, green) = (100 - CANARY_PERCENT, CANARY_PERCENT);
    let with_runtime = gateway::native(lab, gateway::weights(blue, green, Some("bench")))?;
    let external =
        Variant::new("ext_proc: sets the header", gateway::with_filter(lab, "ext_proc", ext_proc::filter())?);
    Ok(vec![
        Variant::new("static route", gateway::native(lab, json!({"cluster": "blue"}))?),
        Variant::new(NATIVE, gateway::native(lab, gateway::weights(blue, green, None))?),
        Variant::new("native weighted_clusters, runtime_key_prefix", gateway::with_runtime(with_runtime)),
        Variant::new("early_header_mutation + cluster_header", gateway::by_header(lab)?),
        Variant::new(LUA, gateway::with_filter(lab, "lua", lua())?),
        Variant::new("wasm: does nothing", gateway::with_filter(lab, "lean", idle)?),
        Variant::new("wasm: sets one header", gateway::with_filter(lab, "lean", header)?),
        Variant::new(SAME_CALLS, gateway::with_filter(lab, "lean", calls)?),
        Variant::new(PLAIN, bluegreen(lab, |_| {})?),
        Variant::new("bluegreen: sticky by header", bluegreen(lab, |iris| iris["sticky"] = by_user())?)
            .header("x-user-id", "user-4711"),
        Variant::new("bluegreen: override offered, not used", bluegreen(lab, |iris| iris["override"] = choice())?),
        Variant::new("bluegreen: override used", bluegreen(lab, |iris| iris["override"] = choice())?)
            .header("x-bluegreen-override", "green"),
        everything(lab)?,
        external.beside_external_processor(),
    ])
}

pub fn for_instructions(lab: &Lab, folder: &TempDir) -> Result<Vec<Variant>> {
    let header = lean_filter::filter(&lean_filter::header(folder.path())?, json!({}));
    let weights = gateway::weights(100 - CANARY_PERCENT, CANARY_PERCENT, None);
    let without_match = |iris: &mut Value| {
        iris.as_object_mut().and_then(|iris| iris.remove("match"));
    };
    Ok(vec![
        Variant::new(NATIVE, gateway::native(lab, weights)?),
        Variant::new(LUA, gateway::with_filter(lab, "lua", lua())?),
        Variant::new("wasm: sets one header", gateway::with_filter(lab, "lean", header)?),
        Variant::new(PLAIN, bluegreen(lab, without_match)?),
        Variant::new("bluegreen: with match", bluegreen(lab, |_| {})?),
        everything(lab)?,
    ])
}

/// The shipped traffic listener with a canary, without what a deployment may leave out, and with what `change` adds.
fn bluegreen(lab: &Lab, change: impl Fn(&mut Value)) -> Result<Bootstrap> {
    Ok(with_canary(lab)?.deployment("iris", |iris| {
        if let Some(iris) = iris.as_object_mut() {
            iris.retain(|field, _| REQUIRED.contains(&field.as_str()));
        }
        change(iris);
    }))
}

/// All that a deployment can have: what ships (add there what the filter learns), and stickiness, and a narrow match.
///
/// No shadowing: a copy is a request of its own, and would be counted as if the filter had used the time.
fn everything(lab: &Lab) -> Result<Variant> {
    let bootstrap = with_canary(lab)?.deployment("iris", |iris| {
        iris["match"] = json!({
            "path_prefix": "/invocations",
            "authority": "iris.example.com",
            "headers": {"x-model": "iris"},
        });
        iris["sticky"] = by_user();
        iris["override"] = choice();
    });
    let bootstrap = bootstrap.plugin(|plugin| plugin["admin"] = json!({"path_prefix": "/bluegreen", "open": true}));
    let variant = Variant::new(EVERYTHING, bootstrap).header("Host", "iris.example.com").header("x-model", "iris");
    Ok(variant.header("x-user-id", "user-4711"))
}

/// The shipped traffic listener, with the candidate's share.
fn with_canary(lab: &Lab) -> Result<Bootstrap> {
    let initial = json!({"active": "blue", "canary_percent": CANARY_PERCENT, "shadow_percent": 0});
    Ok(gateway::traffic_only(lab)?.deployment("iris", |iris| iris["initial"] = initial.clone()))
}

fn by_user() -> Value {
    json!({"header": "x-user-id"})
}

fn choice() -> Value {
    json!({"header": "x-bluegreen-override"})
}

fn lua() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": LUA_CODE},
    })
}

fn report(plan: Plan, samples: &[Samples]) -> Result<BenchReport> {
    let find = |name: &str| samples.iter().find(|samples| samples.name == name).with_context(|| name.to_owned());
    let native = find(NATIVE)?.cpu();
    let mut table = Table::new(
        "Processor time of the Envoy process per request, and latency",
        &["variant", "CPU µs", "÷ native weighted_clusters", "p50 µs", "p99 µs"],
    );
    for variant in samples {
        table.row([
            variant.name.clone(),
            Spread::of(&variant.cpu()).show(1),
            Spread::of(&ratios(&variant.cpu(), &native)).show(3),
            Spread::of(&variant.latencies(|sample| sample.p50_us)).show(0),
            Spread::of(&variant.latencies(|sample| sample.p99_us)).show(0),
        ]);
    }
    let to_native = |name| anyhow::Ok(Spread::of(&ratios(&find(name)?.cpu(), &native)).median);
    let plain_to_lua = Spread::of(&ratios(&find(PLAIN)?.cpu(), &find(LUA)?.cpu())).median;
    let calls = Spread::of(&ratios(&find(SAME_CALLS)?.cpu(), &native)).median;
    let why = format!(
        "a wasm filter that makes 17 host calls, as bluegreen once did, and decides nothing is at {calls:.2} × already. \
         bluegreen makes 10 now (src/tests/host_calls.rs). Lua only routes: it neither marks nor measures"
    );
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
        ],
        tables: vec![table],
        targets: vec![
            Target::at_most("bluegreen plain ÷ native", 1.10, to_native(PLAIN)?, "×", &why),
            Target::at_most("bluegreen plain ÷ Lua", 1.0, plain_to_lua, "×", &why),
            Target::at_most("bluegreen with everything ÷ native", 1.20, to_native(EVERYTHING)?, "×", &why),
        ],
        notes: vec![
            format!(
                "ext_proc: the external processor used another {} µs per request, in a process of its own.",
                Spread::of(&external.each(|sample| sample.loadgen_cpu_us)).show(1)
            ),
            "Latencies include client, upstream and scheduling: with few cores the p99 says more about the scheduler."
                .to_owned(),
            "Only bluegreen counts requests, answers and latencies per colour, and marks answers.".to_owned(),
        ],
        measurements: json!({"plan": plan, "variants": samples}),
    })
}
