//! Many runs of a scenario, on both cores, and what they come to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use bluegreen_core::model::colour::Colour;
use serde::Serialize;

use super::canary::{Breach, Outcome, play};
use super::oracle;
use super::peers::{self, End};
use super::scenario::{Promise, Scenario};
use super::world::Cast;
use crate::report::Table;
use crate::statistics::quantile;

const THREADS: usize = 2;

/// What became of all runs of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub scenario: String,
    pub promise: &'static str,
    pub runs: usize,
    /// Runs in which the candidate was accused: wrongly, or before it had a fault.
    pub wrongly: Share,
    /// Runs in which its fault was found.
    pub found: Share,
    pub promoted: Share,
    /// How often which rule was broken.
    pub rules: Vec<(&'static str, usize)>,
    /// The candidate's requests that began until the rollback, since the fault began.
    pub requests: Quantiles,
    /// Those of them that had been judged.
    pub judged: Quantiles,
    pub seconds: Quantiles,
    /// Where it was promoted: the candidate's requests until then.
    pub requests_until_promoted: Quantiles,
    /// The fewest requests that any rule needs on average that keeps the promise, where both error rates are constant.
    pub limit: Option<f64>,
    /// How many times as many were needed: the mean of the requests that were judged.
    pub times_the_limit: Option<f64>,
    pub expectations: Vec<Expectation>,
    #[serde(skip)]
    pub is_healthy: bool,
}

/// A share of the runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    pub share: f64,
    /// The 95 % interval of Wilson (Journal of the American Statistical Association 22, 1927).
    pub from: f64,
    pub to: f64,
}

/// The spread of a figure over the runs that have it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    pub p10: f64,
    pub p50: f64,
    pub p90: f64,
    pub mean: f64,
}

/// What a scenario says has to come out.
#[derive(Clone, Debug, Serialize)]
pub struct Expectation {
    pub what: &'static str,
    pub wanted: f64,
    pub measured: f64,
    pub met: bool,
}

/// What became of all runs, for each of the others' rules.
pub struct PeerRuns {
    ends: Vec<[Option<End>; 4]>,
}

/// Plays a scenario so many times.
pub fn simulate(scenario: &Scenario, runs: usize) -> Result<Summary> {
    let cast = Cast::new(scenario);
    let outcomes = in_parallel(runs, |run| play(scenario, &cast, run))?;
    Ok(Summary::new(scenario, &outcomes))
}

/// Lets the rules of others judge a scenario so many times.
pub fn simulate_peers(scenario: &Scenario, runs: usize) -> Result<PeerRuns> {
    let cast = Cast::new(scenario);
    let limits = peers::limits(scenario, &cast);
    let ends = in_parallel(runs, |run| Ok(peers::judge(scenario, &cast, limits, run)))?;
    Ok(PeerRuns { ends })
}

/// The runs' results in the order of their numbers, on whichever core they were done.
pub fn in_parallel<T: Send>(runs: usize, one: impl Fn(u64) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, T)>> {
        let mut done = Vec::new();
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return Ok(done);
            }
            done.push((run, one(run as u64)?));
        }
    };
    let mut all = Vec::with_capacity(runs);
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow!("a simulation panicked"))??);
        }
        Ok(())
    })?;
    all.sort_by_key(|(run, _)| *run);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

// === impl Summary ===

impl Summary {
    fn new(scenario: &Scenario, outcomes: &[Outcome]) -> Self {
        let is_healthy = scenario.promise != Promise::Faulty;
        let runs = outcomes.len();
        let breaches = || outcomes.iter().filter_map(|outcome| outcome.breach.as_ref());
        let is_found = |breach: &&Breach| !is_healthy && breach.seconds > 0.0;
        let found = || breaches().filter(is_found);
        let quantiles = |figure: fn(&Breach) -> f64| Quantiles::of(&found().map(figure).collect::<Vec<_>>());
        let mut rules: Vec<(&'static str, usize)> = Vec::new();
        for breach in breaches() {
            match rules.iter_mut().find(|(rule, _)| *rule == breach.rule) {
                Some((_, count)) => *count += 1,
                None => rules.push((breach.rule, 1)),
            }
        }
        let promoted = || outcomes.iter().filter(|outcome| outcome.promoted.is_some());
        let judged = quantiles(|breach| breach.judged as f64);
        let limit = (!is_healthy).then(|| limit(scenario)).flatten();
        let mut summary = Self {
            scenario: scenario.name.clone(),
            promise: scenario.promise.as_str(),
            runs,
            wrongly: Share::new(breaches().count() - found().count(), runs),
            found: Share::new(found().count(), runs),
            promoted: Share::new(promoted().count(), runs),
            rules,
            requests: quantiles(|breach| breach.begun as f64),
            judged,
            seconds: quantiles(|breach| breach.seconds),
            requests_until_promoted: Quantiles::of(
                &promoted().map(|outcome| outcome.until_promoted as f64).collect::<Vec<_>>(),
            ),
            limit,
            times_the_limit: limit.filter(|_| found().count() > 0).map(|limit| judged.mean / limit),
            expectations: Vec::new(),
            is_healthy,
        };
        summary.expectations = summary.expect(scenario);
        summary
    }

    fn expect(&self, scenario: &Scenario) -> Vec<Expectation> {
        let expect = scenario.expect;
        // A fault that was not found has no requests.
        let median = |of: Quantiles| if self.found.share >= 0.5 { of.p50 } else { f64::MAX };
        let at_most = [
            ("rolled_back_at_most", expect.rolled_back_at_most, self.wrongly.share),
            ("requests_at_most", expect.requests_at_most, median(self.requests)),
            ("seconds_at_most", expect.seconds_at_most, median(self.seconds)),
            ("promoted_at_most", expect.promoted_at_most, self.promoted.share),
        ];
        let at_least = [
            ("found_at_least", expect.found_at_least, self.found.share),
            ("promoted_at_least", expect.promoted_at_least, self.promoted.share),
        ];
        let most = at_most.into_iter().filter_map(|(what, wanted, measured)| {
            wanted.map(|wanted| Expectation { what, wanted, measured, met: measured <= wanted })
        });
        let least = at_least.into_iter().filter_map(|(what, wanted, measured)| {
            wanted.map(|wanted| Expectation { what, wanted, measured, met: measured >= wanted })
        });
        most.chain(least).collect()
    }

    /// One scenario on a terminal.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&format!("{}: {} runs", self.scenario, self.runs), &["what", "measured"]);
        let mut row = |what: &str, value: String| table.row([what.to_owned(), value]);
        if self.is_healthy {
            row("healthy candidate rolled back", self.wrongly.show());
        } else {
            row("fault found", self.found.show());
            row("rolled back before the fault", self.wrongly.show());
            row("candidate requests begun until the rollback", self.requests.show());
            row("candidate requests judged until the rollback", self.judged.show());
            row("seconds until the rollback", self.seconds.show());
            if let (Some(limit), Some(times)) = (self.limit, self.times_the_limit) {
                row("requests that any rule needs on average", format!("{limit:.0}; here {times:.2} times as many"));
            }
        }
        row("promoted", self.promoted.show());
        if self.promoted.share > 0.0 {
            row("candidate requests until promoted", self.requests_until_promoted.show());
        }
        row("broken rules", self.rules_shown());
        for Expectation { what, wanted, measured, met } in &self.expectations {
            row(what, format!("{wanted}: {}, {measured:.4}", if *met { "met" } else { "missed" }));
        }
        table
    }

    /// How often which rule was broken.
    pub fn rules_shown(&self) -> String {
        self.rules.iter().map(|(rule, count)| format!("{rule}: {count}")).collect::<Vec<_>>().join(", ")
    }

    /// All in a line.
    pub fn line(&self) -> String {
        let Self { promise, runs, wrongly, found, promoted, requests, seconds, .. } = self;
        let times = self.times_the_limit.map_or_else(String::new, |times| format!(", x limit {times:.2}"));
        format!(
            "{promise}, {runs} runs: wrongly {}, found {}, promoted {}, requests {}, seconds {}{times}; {}",
            wrongly.show(),
            found.show(),
            promoted.show(),
            requests.show(),
            seconds.show(),
            self.rules_shown()
        )
    }

    /// Whether all that was expected came out.
    pub fn is_as_expected(&self) -> bool {
        self.expectations.iter().all(|expectation| expectation.met)
    }
}

/// The oracle's limit, where there is one: constant error rates, a constant share, requests as units.
fn limit(scenario: &Scenario) -> Option<f64> {
    let share = f64::from(scenario.canary?.hundredths()) / 10_000.0;
    let is_plain = scenario.episodes.is_empty() && !scenario.clients.sticky && scenario.route.retries == 0;
    let rate = |colour: Colour| scenario.colours.0.get(colour).errors.constant_from(scenario.begins.0);
    let guard = scenario.deployments(&scenario.guard, 2).ok()?.all().first()?.guard?;
    is_plain.then_some(())?;
    oracle::limit(rate(Colour::Blue)?, rate(Colour::Green)?, share, guard.alpha())
}

// === impl Share ===

impl Share {
    pub fn new(count: usize, of: usize) -> Self {
        let (n, z) = (of.max(1) as f64, 1.96);
        let share = count as f64 / n;
        let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
        Self { share, from: (middle - half).max(0.0), to: (middle + half).min(1.0) }
    }

    /// `0.33 % (0.06–1.86)`.
    pub fn show(self) -> String {
        let Self { share, from, to } = self;
        format!("{:.1} % ({:.1}–{:.1})", 100.0 * share, 100.0 * from, 100.0 * to)
    }
}

// === impl Quantiles ===

impl Quantiles {
    pub fn of(values: &[f64]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let [p10, p50, p90] = [0.1, 0.5, 0.9].map(|rank| quantile(values, rank));
        Self { p10, p50, p90, mean: values.iter().sum::<f64>() / values.len() as f64 }
    }

    /// `166 (70–390)`.
    pub fn show(self) -> String {
        let Self { p10, p50, p90, .. } = self;
        let digits = usize::from(p50 < 10.0);
        format!("{p50:.digits$} ({p10:.digits$}–{p90:.digits$})")
    }
}

// === impl PeerRuns ===

impl PeerRuns {
    /// The share of the runs that a rule ended, wrongly.
    pub fn ended(&self, rule: usize) -> Share {
        Share::new(self.ends.iter().filter(|ends| ends[rule].is_some()).count(), self.ends.len())
    }

    /// The median of the candidate's requests until a rule found the fault, and how often it did.
    pub fn requests(&self, rule: usize) -> String {
        let found = self.ends.iter().filter_map(|ends| ends[rule]).filter(|end| end.seconds > 0.0);
        let requests: Vec<f64> = found.map(|end| end.requests as f64).collect();
        let share = requests.len() as f64 / self.ends.len().max(1) as f64;
        match requests.len() {
            0 => "not found".to_owned(),
            count if count == self.ends.len() => format!("{:.0}", quantile(&requests, 0.5)),
            _ => format!("{:.0} ({:.0} %)", quantile(&requests, 0.5), 100.0 * share),
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        // R: prop.test(3, 300, correct = FALSE)$conf.int
        let share = Share::new(3, 300);
        assert!((share.from - 0.003406).abs() < 1e-5 && (share.to - 0.028987).abs() < 1e-4, "{share:?}");
        let none = Share::new(0, 300);
        assert!(none.from == 0.0 && (none.to - 0.012644).abs() < 1e-4, "{none:?}");
    }
}
