//! Measures variants against each other: in several rounds, each of which runs every variant once.
//!
//! The machine gets faster and slower while this goes on. Variants of one round are a moment apart, so their ratio is
//! taken per round, and the order rotates, so that none is always first. Every measurement has a fresh Envoy: where its
//! memory happens to lie is part of the spread, and not a constant in favour of one variant.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::proc;
use bluegreen_testbed::{Bootstrap, Envoy};
use serde::Serialize;

use crate::ext_proc::{self, ExternalProcessor};
use crate::lab::Lab;
use crate::open_loop::OpenLoopLoad;
use crate::statistics::quantile;
use crate::wrk::Wrk;
use bluegreen_programs::Progress;

/// How long to look whether Envoy has something to do.
const LOOK: Duration = Duration::from_secs(1);

/// A smaller share of a processor is none: ticks go on for ever.
const IDLE: f64 = 0.06;

const LONGEST_SETTLING: Duration = Duration::from_secs(120);

/// Something to measure.
pub struct Variant {
    pub name: String,
    pub bootstrap: Bootstrap,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Whether an external processor has to run beside it.
    pub external_processor: bool,
}

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    pub rounds: usize,
    /// Whether to wait first until Envoy has nothing to do any more, and to count what it does until then.
    pub settles: bool,
    /// V8 optimises what has run for a while.
    pub warm_up: Duration,
    pub loaded: Duration,
    pub connections: usize,
    /// Whether Envoy has a processor of its own; otherwise the scheduler moves it and the load about.
    pub pinned: bool,
    /// Requests a second for the latencies, and for how long.
    pub open_loop: Option<(u32, Duration)>,
}

/// What one variant did in one round.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    pub requests: u64,
    /// Processor time of the Envoy process per request, in microseconds.
    pub cpu_us: f64,
    /// Processor time of the bench's own process per request: that of the external processor, if there is one.
    pub loadgen_cpu_us: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Processor time from when Envoy listened until it had nothing to do, in milliseconds.
    pub settling_ms: Option<f64>,
    /// Bytes: what Envoy has allocated, what the process has resident, each wasm linear memory.
    pub allocated: u64,
    pub resident: u64,
    pub linear_memories: Vec<u64>,
}

/// All samples of one variant, one for each round.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    pub name: String,
    pub rounds: Vec<Sample>,
}

/// Runs all rounds.
pub async fn run(lab: &Lab, variants: Vec<Variant>, plan: Plan) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> =
        variants.iter().map(|variant| Samples { name: variant.name.clone(), rounds: Vec::new() }).collect();
    let progress = Progress::start(format!("{} variants, {} rounds", variants.len(), plan.rounds));
    for round in 0..plan.rounds {
        for turn in 0..variants.len() {
            let index = (round + turn) % variants.len();
            let variant = &variants[index];
            progress.detail(&format!("round {}: {}", round + 1, variant.name));
            let sample = variant.measure(lab, &plan).await.with_context(|| variant.name.clone())?;
            samples[index].rounds.push(sample);
        }
    }
    progress.done(&format!("{} variants, {} rounds", variants.len(), plan.rounds));
    Ok(samples)
}

// === impl Variant ===

impl Variant {
    pub fn new(name: &str, bootstrap: Bootstrap) -> Self {
        Self {
            name: name.to_owned(),
            bootstrap,
            path: "/invocations".to_owned(),
            headers: Vec::new(),
            external_processor: false,
        }
    }

    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn beside_external_processor(mut self) -> Self {
        self.external_processor = true;
        self
    }

    /// One worker: processor time per request does not depend on their number, and latency less on the machine.
    async fn measure(&self, lab: &Lab, plan: &Plan) -> Result<Sample> {
        let mut bootstrap = self.bootstrap.clone();
        let processor = if self.external_processor { Some(ExternalProcessor::start().await?) } else { None };
        if let Some(processor) = &processor {
            bootstrap = bootstrap.with_cluster(ext_proc::CLUSTER, processor.address).with_http2(ext_proc::CLUSTER);
        }
        let envoy = if plan.pinned { lab.start_alone(bootstrap).await? } else { lab.start(bootstrap, 1).await? };
        let settling_ms = if plan.settles { Some(settle(&envoy).await?) } else { None };
        self.load(&envoy, plan, plan.warm_up).await?;
        let mut sample = Sample { settling_ms, ..self.count(&envoy, plan).await? };
        if let Some((rate, lasting)) = plan.open_loop {
            let latencies = self.latencies(&envoy, rate, lasting).await?;
            sample.p50_us = Some(quantile(&latencies, 0.5));
            sample.p99_us = Some(quantile(&latencies, 0.99));
        }
        Ok(sample)
    }

    /// Processor time over the requests that Envoy itself counted.
    async fn count(&self, envoy: &Envoy, plan: &Plan) -> Result<Sample> {
        // Asking Envoy costs it time: first the question and then the clock, at the end the other way round.
        let answered_before = answered(envoy).await?;
        let beside_before = proc::cpu_time(std::process::id())?;
        let before = proc::cpu_time(envoy.id())?;
        self.load(envoy, plan, plan.loaded).await?;
        let used = proc::cpu_time(envoy.id())? - before;
        let beside = proc::cpu_time(std::process::id())?.saturating_sub(beside_before);
        let requests = answered(envoy).await?.saturating_sub(answered_before);
        ensure!(requests > 0, "not a single request was answered with 200");
        let memory: serde_json::Value = serde_json::from_str(&envoy.ask("/memory").await?)?;
        Ok(Sample {
            requests,
            cpu_us: used.as_secs_f64() * 1e6 / requests as f64,
            loadgen_cpu_us: beside.as_secs_f64() * 1e6 / requests as f64,
            allocated: memory["allocated"].as_str().and_then(|bytes| bytes.parse().ok()).unwrap_or_default(),
            resident: proc::resident(envoy.id())?,
            linear_memories: proc::linear_memories(envoy.id())?,
            ..Sample::default()
        })
    }

    async fn load(&self, envoy: &Envoy, plan: &Plan, lasting: Duration) -> Result<()> {
        let Plan { connections, pinned, .. } = *plan;
        let (address, path, headers) = (envoy.traffic()?, self.path.clone(), self.headers.clone());
        Wrk { address, path, headers, connections, pinned, lasting }.run().await
    }

    async fn latencies(&self, envoy: &Envoy, rate: u32, lasting: Duration) -> Result<Vec<f64>> {
        let (address, path, headers) = (envoy.traffic()?, self.path.clone(), self.headers.clone());
        OpenLoopLoad { address, path, headers, connections: 4, rate, lasting }.run().await
    }
}

/// Waits until Envoy uses next to no processor time, twice in a row. How much it used until then, in milliseconds.
async fn settle(envoy: &Envoy) -> Result<f64> {
    let (began, start) = (Instant::now(), proc::cpu_time(envoy.id())?);
    let (mut before, mut quiet) = (start, 0);
    while quiet < 2 {
        tokio::time::sleep(LOOK).await;
        let now = proc::cpu_time(envoy.id())?;
        quiet = if now.saturating_sub(before) <= LOOK.mul_f64(IDLE) { quiet + 1 } else { 0 };
        before = now;
        let waited = began.elapsed();
        ensure!(waited < LONGEST_SETTLING, "Envoy has been busy for {} s without a request", waited.as_secs());
    }
    Ok(before.saturating_sub(start).as_secs_f64() * 1e3)
}

/// How many requests the traffic listener has answered with a 2xx.
async fn answered(envoy: &Envoy) -> Result<u64> {
    envoy.stat("http.traffic.downstream_rq_2xx").await
}

// === impl Samples ===

impl Samples {
    pub fn cpu(&self) -> Vec<f64> {
        self.each(|sample| sample.cpu_us)
    }

    pub fn each(&self, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    pub fn where_measured(&self, figure: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        self.rounds.iter().filter_map(figure).collect()
    }
}
