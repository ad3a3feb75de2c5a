//! How often each rule takes back a healthy candidate, and how long a faulty one stays.
//!
//! A simulation of the counts that the leader sees at its ticks ([`scenario`]), judged by the code that runs in the filter
//! and by the rules of others ([`rules`]). Nothing is measured on this machine, so the figures are the same on any other:
//! each run has a seed of its own.

mod rules;
mod scenario;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use serde_json::json;

use self::rules::{Judges, NAMES};
use self::scenario::{FAULTY, HEALTHY, Scenario};
use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::quantile;
use bluegreen_programs::Progress;

/// As the leader ticks.
const TICKS_A_SECOND: u32 = 4;
const TICKS: u32 = 3_600 * TICKS_A_SECOND;
const THREADS: usize = 2;

/// When a rule ended a canary: answers of the candidate and seconds since the fault began, negative before it.
#[derive(Clone, Copy, Debug, Serialize)]
struct End {
    requests: i64,
    seconds: f64,
}

/// What became of all runs of a scenario, for each rule.
#[derive(Serialize)]
struct Runs {
    scenario: &'static str,
    ends: Vec<[Option<End>; 5]>,
}

pub fn run(lab: &Lab) -> Result<BenchReport> {
    let runs = lab.pick(200, 2_000);
    let what = format!("{} scenarios, {runs} hours each", HEALTHY.len() + FAULTY.len());
    let progress = Progress::start(what.clone());
    let mut simulated = Vec::new();
    for (number, scenario) in HEALTHY.iter().chain(&FAULTY).enumerate() {
        progress.detail(scenario.name);
        simulated.push(simulate(scenario, number as u64, runs)?);
    }
    progress.done(&what);
    let (healthy, faulty) = simulated.split_at(HEALTHY.len());

    let mut columns = vec!["scenario"];
    columns.extend(NAMES);
    let mut wrong = Table::new("Healthy candidates rolled back within an hour", &columns);
    for runs in healthy {
        wrong.row([runs.scenario.to_owned()].into_iter().chain((0..5).map(|rule| percent(runs.ended(rule)))));
    }
    let mut requests = Table::new("Faulty candidates: the candidate's requests until the rollback, median", &columns);
    let mut seconds = Table::new("Faulty candidates: seconds until the rollback, median", &columns);
    for runs in faulty {
        let cells = |figure: fn(&End) -> f64| (0..5).map(move |rule| runs.median(rule, figure));
        requests.row([runs.scenario.to_owned()].into_iter().chain(cells(|end| end.requests as f64)));
        seconds.row([runs.scenario.to_owned()].into_iter().chain(cells(|end| end.seconds)));
    }

    let worst = healthy.iter().map(|runs| runs.ended(0)).fold(0.0, f64::max);
    let median = |name: &str| -> Result<f64> {
        let runs = faulty.iter().find(|runs| runs.scenario == name).context("a scenario")?;
        Ok(quantile(&runs.requests(0), 0.5))
    };
    let targets = vec![
        Target::at_most(
            "healthy candidates rolled back, worst scenario",
            1.0,
            100.0 * worst,
            "%",
            "see the table of healthy candidates",
        ),
        Target::at_most(
            "errors 1 → 5 %: candidate requests",
            190.0,
            median("errors 1 → 5 %")?,
            "",
            "the threshold of two rules at 99 % is an e-value of 200",
        ),
        Target::at_most(
            "errors 1 → 20 %: candidate requests",
            40.0,
            median("errors 1 → 20 %")?,
            "",
            "the threshold of two rules at 99 % is an e-value of 200",
        ),
    ];
    Ok(BenchReport {
        title: "Guard: healthy candidates rolled back, and how fast faulty ones are".to_owned(),
        method: vec![
            format!(
                "Simulated: {runs} hours of each scenario at 100 requests a second, 10 % of them to the candidate, counted \
                 every 250 ms as the leader does. Latencies are lognormal (median 100 ms, σ 0.5)."
            ),
            "*bluegreen guard* is the filter's own code with two rules, `error` (with `max_rate: 0.2`) and `slow: {over: \
             auto}`, at `confidence: 0.99` for both together. The others have the defaults of their documents: Flagger \
             looks once a minute for a success rate of 99 % and a p99 of 500 ms and gives up at the fifth failed check; \
             the z test of two proportions (errors, slow answers) at 1 % is looked at every second; the Kayenta-like \
             judge compares sixty points of a minute by Mann-Whitney at 98 %, once; the safe test with plug-in estimates \
             is that of the issue that asked for this guard, at 1 % and of errors only."
                .to_owned(),
        ],
        tables: vec![wrong, requests, seconds],
        targets,
        notes: vec![
            "A percentage in parentheses is the share of runs in which the rule found the fault within the hour, where \
             that was not all; the median is over those. A rollback before the fault began is not one that found it."
                .to_owned(),
            format!(
                "With {runs} runs, a true rate of 1 % shows as {:.1} to {:.1} % in 95 of 100 simulations.",
                100.0 * (0.01 - 1.96 * (0.01 * 0.99 / runs as f64).sqrt()),
                100.0 * (0.01 + 1.96 * (0.01 * 0.99 / runs as f64).sqrt()),
            ),
        ],
        measurements: json!({"runs": runs, "rules": NAMES, "scenarios": simulated.iter().map(Runs::summary).collect::<Vec<_>>()}),
    })
}

/// Every run of a scenario, on both cores.
fn simulate(scenario: &Scenario, number: u64, runs: usize) -> Result<Runs> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return done;
            }
            done.push((run, one(scenario, StdRng::seed_from_u64(number << 32 | run as u64))));
        }
    };
    let mut all = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let results: Result<Vec<_>, _> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        results.map(|results| results.into_iter().flatten().collect::<Vec<_>>())
    })
    .map_err(|_| anyhow::anyhow!("a simulation panicked"))?;
    all.sort_by_key(|(run, _)| *run);
    Ok(Runs { scenario: scenario.name, ends: all.into_iter().map(|(_, ends)| ends).collect() })
}

/// One hour, or less once every rule has ended it.
fn one(scenario: &Scenario, random: StdRng) -> [Option<End>; 5] {
    let mut hour = scenario.hour(random);
    let mut judges = Judges::new(scenario.slowdown());
    let mut ends: [Option<End>; 5] = [None; 5];
    let mut requests = 0;
    for number in 1..=TICKS {
        let tick = hour.next();
        requests += if number > scenario.begins() { tick.candidate.answers as i64 } else { 0 };
        let now = judges.see(number, tick, &mut hour, ends.map(|end| end.is_some()));
        for (end, now) in ends.iter_mut().zip(now) {
            if now {
                let since = f64::from(number) - f64::from(scenario.begins());
                *end = Some(End { requests, seconds: since / f64::from(TICKS_A_SECOND) });
            }
        }
        if ends.iter().all(Option::is_some) {
            break;
        }
    }
    ends
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

// === impl Runs ===

impl Runs {
    /// The share of runs that a rule ended.
    fn ended(&self, rule: usize) -> f64 {
        self.ends.iter().filter(|ends| ends[rule].is_some()).count() as f64 / self.ends.len() as f64
    }

    /// The ends that found the fault.
    fn found(&self, rule: usize) -> impl Iterator<Item = End> {
        self.ends.iter().filter_map(move |ends| ends[rule]).filter(|end| end.seconds > 0.0)
    }

    fn requests(&self, rule: usize) -> Vec<f64> {
        self.found(rule).map(|end| end.requests as f64).collect()
    }

    fn median(&self, rule: usize, figure: fn(&End) -> f64) -> String {
        let figures: Vec<f64> = self.found(rule).map(|end| figure(&end)).collect();
        if figures.is_empty() {
            return "not found".to_owned();
        }
        let found = figures.len() as f64 / self.ends.len() as f64;
        let median = quantile(&figures, 0.5);
        let digits = usize::from(median < 100.0 && median.fract() != 0.0);
        match found {
            1.0 => format!("{median:.digits$}"),
            _ => format!("{median:.digits$} ({:.1} %)", 100.0 * found),
        }
    }

    fn summary(&self) -> serde_json::Value {
        let rules = (0..5).map(|rule| {
            let requests = self.requests(rule);
            let seconds: Vec<f64> = self.found(rule).map(|end| end.seconds).collect();
            let at = |values: &[f64]| [0.1, 0.5, 0.9].map(|rank| quantile(values, rank));
            json!({
                "rule": NAMES[rule],
                "ended": self.ended(rule),
                "found": requests.len(),
                "requests_p10_p50_p90": at(&requests),
                "seconds_p10_p50_p90": at(&seconds),
            })
        });
        json!({"scenario": self.scenario, "runs": self.ends.len(), "rules": rules.collect::<Vec<_>>()})
    }
}
