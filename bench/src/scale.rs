//! One deployment or a thousand: what a request costs, what the VMs hold, and how long configuring takes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_testbed::Bootstrap;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::rounds::{self, Plan, Samples, Variant};
use crate::statistics::{Spread, quantile, ratios};
use crate::{gateway, lean_filter, startup, wrk};
use bluegreen_programs::Progress;

const COUNTS: [usize; 4] = [1, 10, 100, 1000];

/// What Envoy makes of the names of gauges is left out.
const WITHOUT_TAGS: &str = "1000 by path prefix, without `stats_tags`";

/// What tells the deployments apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Path,
    Authority,
    Header,
}

/// How long loading the listeners took with so many deployments, with bluegreen and with a filter that reads nothing.
#[derive(Serialize)]
struct Loading {
    deployments: usize,
    bluegreen_ms: Vec<f64>,
    idle_ms: Vec<f64>,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    wrk::obtain()?;
    let plan = Plan {
        rounds: lab.pick(1, 5),
        settles: true,
        warm_up: Duration::from_secs(1),
        loaded: Duration::from_secs(lab.pick(1, 2)),
        connections: 8,
        pinned: true,
        open_loop: None,
    };
    let mut variants = Vec::new();
    for by in By::ALL {
        for count in COUNTS {
            variants.push(by.variant(lab, count)?);
        }
    }
    let without_tags = By::Path.variant(lab, 1000)?;
    let bootstrap = without_tags.bootstrap.clone().edit(|tree| tree["stats_config"] = json!({}));
    variants.push(Variant { name: WITHOUT_TAGS.to_owned(), bootstrap, ..without_tags });
    let samples = rounds::run(lab, variants, plan).await?;
    let loading = loading(lab, lab.pick(1, 7)).await?;
    report(plan, &samples, &loading)
}

/// Configuration times, by starting Envoys.
async fn loading(lab: &Lab, rounds: usize) -> Result<Vec<Loading>> {
    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let empty = |deployments| Loading { deployments, bluegreen_ms: Vec::new(), idle_ms: Vec::new() };
    let mut loading = COUNTS.map(empty);
    let progress = Progress::start("Configuration times");
    for _ in 0..rounds {
        for times in &mut loading {
            let deployments = By::Path.deployments(times.deployments);
            times.idle_ms.push(startup::listeners_ms(lab, idle(lab, folder.path(), &deployments)?).await?);
            let bootstrap = By::Path.bootstrap(lab, times.deployments)?;
            times.bluegreen_ms.push(startup::listeners_ms(lab, bootstrap).await?);
        }
    }
    progress.done("Configuration times");
    Ok(loading.into())
}

/// A filter that is given the same configuration and does not read it: what Envoy itself needs for it.
fn idle(lab: &Lab, folder: &Path, deployments: &Value) -> Result<Bootstrap> {
    let configuration = json!({"deployments": deployments});
    gateway::with_filter(lab, "lean", lean_filter::filter(&lean_filter::idle(folder)?, configuration))
}

// === impl By ===

impl By {
    const ALL: [Self; 3] = [Self::Path, Self::Authority, Self::Header];

    const fn name(self) -> &'static str {
        match self {
            Self::Path => "path prefix",
            Self::Authority => "authority",
            Self::Header => "header",
        }
    }

    fn label(self, count: usize) -> String {
        format!("{count} by {}", self.name())
    }

    /// The rule of one deployment.
    fn rule(self, index: usize) -> Value {
        match self {
            Self::Path => json!({"path_prefix": format!("/models/m-{index}")}),
            Self::Authority => json!({"authority": format!("m-{index}.example.com")}),
            Self::Header => json!({"headers": {"x-model": format!("m-{index}")}}),
        }
    }

    fn deployments(self, count: usize) -> Value {
        let deployment = |index| {
            let colours = json!({
                "blue": {"cluster": "blue", "version": "1"},
                "green": {"cluster": "green", "version": "2"},
            });
            let value = json!({"match": self.rule(index), "colours": colours, "initial": {"canary_percent": 10}});
            (format!("m-{index}"), value)
        };
        Value::Object((0..count).map(deployment).collect::<Map<_, _>>())
    }

    fn bootstrap(self, lab: &Lab, count: usize) -> Result<Bootstrap> {
        let deployments = self.deployments(count);
        let bootstrap = gateway::traffic_only(lab)?.plugin(|plugin| plugin["deployments"] = deployments.clone());
        Ok(gateway::any_path(bootstrap))
    }

    /// Requests for the last deployment: a linear search would have to pass all the others.
    fn variant(self, lab: &Lab, count: usize) -> Result<Variant> {
        let variant = Variant::new(&self.label(count), self.bootstrap(lab, count)?);
        let last = count - 1;
        Ok(match self {
            Self::Path => variant.path(&format!("/models/m-{last}/invocations")),
            Self::Authority => variant.header("Host", &format!("m-{last}.example.com")),
            Self::Header => variant.header("x-model", &format!("m-{last}")),
        })
    }
}

fn report(plan: Plan, samples: &[Samples], loading: &[Loading]) -> Result<BenchReport> {
    let find = |by: By, count| {
        let label = by.label(count);
        samples.iter().find(|samples| samples.name == label).with_context(|| label.clone())
    };
    let mut table = Table::new(
        "A request for the last of so many deployments",
        &[
            "deployments",
            "CPU µs",
            "÷ one deployment",
            "after the start, CPU ms",
            "resident MiB",
            "allocated MiB",
            "linear memory per VM, KiB",
        ],
    );
    let mut targets = Vec::new();
    for by in By::ALL {
        let one = find(by, 1)?.cpu();
        for count in COUNTS {
            let variant = find(by, count)?;
            let ratio = Spread::of(&ratios(&variant.cpu(), &one));
            table.row(row(variant, &ratio));
            if count == 1000 {
                let what = format!("1,000 deployments ÷ one, by {}", by.name());
                let why = "the index is the same for one and for a thousand; more memory means more cache misses";
                targets.push(Target::at_most(&what, 1.10, ratio.median, "×", why));
                let each = (linear_kib(variant) - linear_kib(find(by, 1)?)) / (count - 1) as f64;
                let what = format!("linear memory of each of 1,000 deployments, by {}", by.name());
                let why =
                    "a VM keeps what it once had: what is read while configuring counts, and the leader's metrics";
                targets.push(Target::at_most(&what, 2.0, each, "KiB", why));
            }
        }
    }
    let tagless = samples.iter().find(|samples| samples.name == WITHOUT_TAGS).context(WITHOUT_TAGS)?;
    table.row(row(tagless, &Spread::of(&ratios(&tagless.cpu(), &find(By::Path, 1)?.cpu()))));
    if let Some(times) = loading.iter().find(|times| times.deployments == 1000) {
        let why = "decoding the configuration and looking each deployment up in shared data take the most";
        targets.push(Target::at_most(
            "configuring one VM with 1,000 deployments",
            30.0,
            one_vm_ms(loading, times),
            "ms",
            why,
        ));
    }
    Ok(BenchReport {
        title: "Scale: one deployment or a thousand".to_owned(),
        method: vec![
            format!(
                "As for the overhead: {} rounds, once Envoy is idle {} s of warm-up, then {} s of wrk over {} connections.",
                plan.rounds,
                plan.warm_up.as_secs(),
                plan.loaded.as_secs(),
                plan.connections
            ),
            "Allocated memory is Envoy's own count (`/memory`, without V8's); linear memory is that of the largest VM."
                .to_owned(),
        ],
        tables: vec![table, configuration(loading)],
        targets,
        notes: vec![
            format!(
                "Configuring one VM: the time above that for one deployment, less the same for a filter that reads nothing, \
                 divided by {} VMs.",
                startup::CONFIGURED
            ),
            "After the start: processor time from when Envoy listens until it is idle; only then come the requests. Each tick makes \
             some of the gauges, for ten seconds with 1,000 deployments, and Envoy holds the name of each against the regular \
             expressions of `stats_tags`."
                .to_owned(),
        ],
        measurements: json!({"plan": plan, "variants": samples, "loading": loading}),
    })
}

fn row(variant: &Samples, ratio: &Spread) -> [String; 7] {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    [
        variant.name.clone(),
        Spread::of(&variant.cpu()).show(1),
        ratio.show(3),
        format!("{:.0}", quantile(&variant.where_measured(|sample| sample.settling_ms), 0.5)),
        format!("{:.1}", quantile(&variant.each(|sample| mebibytes(sample.resident)), 0.5)),
        format!("{:.1}", quantile(&variant.each(|sample| mebibytes(sample.allocated)), 0.5)),
        format!("{:.0}", linear_kib(variant)),
    ]
}

fn configuration(loading: &[Loading]) -> Table {
    let columns = ["deployments", "bluegreen, ms", "idle wasm filter, ms", "configuring one VM, ms"];
    let mut table = Table::new("Loading the listeners when Envoy starts", &columns);
    for times in loading {
        table.row([
            times.deployments.to_string(),
            Spread::of(&times.bluegreen_ms).show(0),
            Spread::of(&times.idle_ms).show(0),
            format!("{:.1}", one_vm_ms(loading, times)),
        ]);
    }
    table
}

/// What configuring one VM takes above what one deployment takes, without Envoy's own work.
fn one_vm_ms(loading: &[Loading], times: &Loading) -> f64 {
    let median = |values: &[f64]| quantile(values, 0.5);
    let own = |times: &Loading| median(&times.bluegreen_ms) - median(&times.idle_ms);
    (own(times) - loading.first().map_or(0.0, own)) / startup::CONFIGURED
}

/// Of the largest VM.
fn linear_kib(samples: &Samples) -> f64 {
    let largest = samples.each(|sample| sample.linear_memories.iter().max().map_or(0.0, |size| *size as f64));
    quantile(&largest, 0.5) / 1024.0
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deployment_has_a_rule_of_its_own() {
        for by in By::ALL {
            let deployments = by.deployments(10);
            let rules: std::collections::BTreeSet<String> =
                (0..10).map(|index| deployments[format!("m-{index}")]["match"].to_string()).collect();
            assert_eq!(rules.len(), 10, "{by:?}");
        }
    }

    #[test]
    fn configuring_is_what_remains_above_envoys_own_work() {
        let times =
            |deployments, bluegreen, idle| Loading { deployments, bluegreen_ms: vec![bluegreen], idle_ms: vec![idle] };
        let table = configuration(&[times(1, 400.0, 10.0), times(1000, 520.0, 30.0)]);
        assert_eq!(table.rows[1][3], "50.0");
        assert_eq!(table.rows[0][3], "0.0");
    }
}
