//! The rules that people use instead, as their documents say and with limits that fit the service.
//!
//! They see what Prometheus does: answers as they end, by colour. None of them does anything here, so all judge the same hour.
//!
//! * Flagger (docs.flagger.app, "Metrics analysis" and "How it works"): each minute `request-success-rate` and
//!   `request-duration` (p99) against limits, or a `MetricTemplate` of one's own; at the fifth failed check it rolls back.
//! * Kayenta (spinnaker.io, "Best practices for configuring canary"; `MannWhitneyClassifier` of its judge): a baseline of the
//!   old version beside the canary, as large and as fresh; an hour of one point a minute; *high* where the lower end of the
//!   98 % interval of the Hodges–Lehmann difference is above a quarter of it. Each metric is critical.

use super::scenario::Scenario;
use super::world::{Cast, Ended, TICK, Tally, World};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::{Revision, Split};

/// The rules, in the order of the tables.
pub const NAMES: [&str; 4] = ["Flagger, limits", "Flagger, against the primary", "z test every second", "Kayenta-like"];

/// When a rule ended a canary: requests of the candidate and seconds since the fault began.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub requests: u64,
    pub seconds: f64,
}

/// What an operator reads off the old version's dashboards, and the limits that follow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Twice the usual minute's error rate, at least half a percent.
    pub errors: f64,
    /// One and a half times the usual minute's p99.
    pub p99: f64,
    /// The usual p95: what is above it is slow.
    pub p95: f64,
}

/// Judges a canary second by second.
struct Judges {
    limits: Limits,
    failed: [u32; 2],
    sum: Ended,
    errors: (Vec<f64>, Vec<f64>),
    means: (Vec<f64>, Vec<f64>),
    tails: (Vec<f64>, Vec<f64>),
}

/// At the fifth failed check.
const FLAGGERS_THRESHOLD: u32 = 5;
/// Points of a minute that Kayenta compares.
const POINTS: usize = 60;

/// What an hour of the active colour alone looks like.
pub fn limits(scenario: &Scenario, cast: &Cast) -> Limits {
    let mut world = World::new(scenario, cast, u64::MAX >> 1);
    let (mut errors, mut p99, mut p95) = (Vec::new(), Vec::new(), Vec::new());
    let minutes = ((scenario.duration.0 / 60.0) as usize).clamp(1, 60);
    for _ in 0..minutes {
        world.ended = Some(Box::default());
        pass(&mut world, Percent::ZERO, 60.0);
        let ended = world.ended.take().unwrap_or_default();
        errors.push(ended.of.blue.error_rate());
        p99.push(ended.of.blue.quantile(0.99));
        p95.push(ended.of.blue.quantile(0.95));
    }
    let usual = |values: &[f64]| crate::statistics::quantile(values, 0.5);
    Limits { errors: (2.0 * usual(&errors)).max(0.005), p99: 1.5 * usual(&p99), p95: usual(&p95) }
}

/// When each rule ends the canary.
pub fn judge(scenario: &Scenario, cast: &Cast, limits: Limits, run: u64) -> [Option<End>; 4] {
    let mut world = World::new(scenario, cast, run);
    let share = scenario.canary.unwrap_or(Percent::ZERO);
    let mut judges = Judges::new(limits);
    let mut ends = [None; 4];
    let mut minute = Ended::default();
    let mut before = None;
    for second in 1..=scenario.duration.0 as usize {
        if before.is_none() && world.seconds() >= scenario.begins.0 {
            before = Some(world.begun.green);
        }
        world.ended = Some(Box::default());
        pass(&mut world, share, 1.0);
        let ended = world.ended.take().unwrap_or_default();
        minute.merge(&ended);
        let now = judges.see(&ended, second.is_multiple_of(60).then(|| std::mem::take(&mut minute)));
        let requests = world.begun.green - before.unwrap_or(world.begun.green);
        for (end, now) in ends.iter_mut().zip(now) {
            if now && end.is_none() {
                *end = Some(End { requests, seconds: second as f64 - scenario.begins.0 });
            }
        }
        if ends.iter().all(Option::is_some) {
            break;
        }
    }
    ends
}

fn pass(world: &mut World<'_>, share: Percent, seconds: f64) {
    let split = Split { active: Colour::Blue, canary_percent: share, ..Split::default() };
    for _ in 0..(seconds / TICK) as usize {
        world.pass(split, Revision::ZERO, PerColour { blue: 1, green: 2 });
    }
}

// === impl Judges ===

impl Judges {
    fn new(limits: Limits) -> Self {
        let none = || (Vec::new(), Vec::new());
        Self { limits, failed: [0; 2], sum: Ended::default(), errors: none(), means: none(), tails: none() }
    }

    /// Which rules end the canary after this second, and this minute if one is over.
    fn see(&mut self, second: &Ended, minute: Option<Ended>) -> [bool; 4] {
        self.sum.merge(second);
        let z_test = self.z_test();
        let Some(minute) = minute else { return [false, false, z_test, false] };
        let Limits { errors, p99, .. } = self.limits;
        let (active, candidate) = (&minute.of.blue, &minute.of.green);
        if candidate.answers > 0 {
            // Each metric is a check of its own.
            let by_limit = [candidate.error_rate() > errors, candidate.quantile(0.99) > p99];
            let by_primary = [
                candidate.error_rate() > active.error_rate() + 0.5 * errors,
                candidate.quantile(0.99) > 1.5 * active.quantile(0.99),
            ];
            for (failed, checks) in self.failed.iter_mut().zip([by_limit, by_primary]) {
                *failed += checks.iter().filter(|check| **check).count() as u32;
            }
        }
        [self.failed[0] >= FLAGGERS_THRESHOLD, self.failed[1] >= FLAGGERS_THRESHOLD, z_test, self.kayenta(&minute)]
    }

    /// One-sided tests of two proportions at 1 %, of errors and of slow answers, from the hundredth answer on.
    fn z_test(&self) -> bool {
        let (active, candidate) = (&self.sum.of.blue, &self.sum.of.green);
        if candidate.answers < 100 || active.answers == 0 {
            return false;
        }
        let z = |active_bad: u64, candidate_bad: u64| {
            let (m, n) = (active.answers as f64, candidate.answers as f64);
            let pooled = (active_bad + candidate_bad) as f64 / (m + n);
            let error = (pooled * (1.0 - pooled) * (1.0 / m + 1.0 / n)).max(1e-12).sqrt();
            (candidate_bad as f64 / n - active_bad as f64 / m) / error
        };
        let slow = |tally: &Tally| tally.above(self.limits.p95);
        z(active.errors, candidate.errors) > 2.326 || z(slow(active), slow(candidate)) > 2.326
    }

    fn kayenta(&mut self, minute: &Ended) -> bool {
        let Ended { of, baseline } = minute;
        let push = |(those, these): &mut (Vec<f64>, Vec<f64>), figure: fn(&Tally) -> f64| {
            those.push(figure(baseline));
            these.push(figure(&of.green));
        };
        push(&mut self.errors, Tally::error_rate);
        push(&mut self.means, Tally::mean);
        push(&mut self.tails, |tally| tally.quantile(0.99));
        if self.errors.0.len() < POINTS {
            return false;
        }
        let metrics = [&mut self.errors, &mut self.means, &mut self.tails].map(std::mem::take);
        metrics.iter().any(|(those, these)| is_high(these, those))
    }
}

/// Whether Kayenta classifies `these` as high beside `those`.
fn is_high(these: &[f64], those: &[f64]) -> bool {
    let mut differences: Vec<f64> = these.iter().flat_map(|this| those.iter().map(move |that| this - that)).collect();
    differences.sort_by(f64::total_cmp);
    let (n, m) = (these.len() as f64, those.len() as f64);
    // 98 %, by the normal approximation, as R's wilcox.test has it for as many points.
    let rank = n * m / 2.0 - 2.326 * (n * m * (n + m + 1.0) / 12.0).sqrt();
    let lower = differences[(rank.max(0.0) as usize).min(differences.len() - 1)];
    let estimate = differences[differences.len() / 2];
    lower > 0.25 * estimate.abs()
}

// === impl Ended ===

impl Ended {
    fn merge(&mut self, other: &Self) {
        self.of.blue.merge(&other.of.blue);
        self.of.green.merge(&other.of.green);
        self.baseline.merge(&other.baseline);
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shifted_by_more_than_its_spread_is_high_and_what_is_equal_is_not() {
        let those: Vec<f64> = (0..60).map(f64::from).collect();
        let these: Vec<f64> = those.iter().map(|value| value + 40.0).collect();
        assert!(is_high(&these, &those));
        assert!(!is_high(&those, &these));
        assert!(!is_high(&those, &those));
    }

    #[test]
    fn flagger_ends_a_canary_at_its_fifth_failed_check() {
        let mut judges = Judges::new(Limits { errors: 0.01, p99: 1.0, p95: 0.5 });
        let mut bad = Ended::default();
        (bad.of.green.answers, bad.of.green.errors, bad.of.green.buckets[0]) = (90, 2, 90);
        let verdicts: Vec<bool> = (0..5).map(|_| judges.see(&bad, Some(bad.clone()))[0]).collect();
        assert_eq!(verdicts, [false, false, false, false, true]);
    }
}
