//! The rules that are compared: the guard as it runs in the filter, and those of today's controllers.
//!
//! The others are made from what their documents say, in their default settings; names are the documents' own.

use bluegreen_core::config::Guard;
use bluegreen_core::guard::analysis::{CanaryAnalysis, Totals};
use bluegreen_core::guard::outcomes::Outcomes;
use bluegreen_core::metrics::counters::ColourCounts;
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::Split;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::state::State;

use super::TICKS_A_SECOND;
use super::scenario::{Counted, Hour, Tick, p99_ms, standard_distribution};

/// The rules, in the order of the tables.
pub const NAMES: [&str; 5] =
    ["bluegreen guard", "safe test, plug-in (the issue's)", "Flagger's default", "z test every second", "Kayenta-like"];

/// Judges a canary tick by tick.
pub struct Judges {
    guard: Bluegreen,
    plug_in: PlugIn,
    flagger: Flagger,
    z_test: ZTest,
    kayenta: Kayenta,
}

/// The guard itself: `error` with a hard limit and `slow` at `auto`, at the confidence 99 %.
struct Bluegreen {
    rules: Guard,
    watch: CanaryAnalysis,
}

/// The simulation of the issue: a safe test at α = 1 % whose alternative is estimated from the past, looked at every
/// second, of errors only.
#[derive(Default)]
struct PlugIn {
    second: Tick,
    past: Tick,
    ln_e: f64,
}

/// Once a minute: success rate at least 99 %, p99 at most 500 ms; the fifth failed check is the end (docs.flagger.app,
/// "How it works": interval 1m, threshold 5, request-success-rate min 99, request-duration max 500).
#[derive(Default)]
struct Flagger {
    minute: Counted,
    failed: u32,
    slowdown: f64,
}

/// Every second, from the hundredth answer of the candidate on: one-sided tests of two proportions at 1 %, of errors
/// and of slow answers.
#[derive(Default)]
struct ZTest {
    sum: Tick,
}

/// Judged once, when there are sixty points of a minute each: Mann-Whitney at 98 %, of error rates and of mean
/// latencies (Spinnaker, "Canary best practices": at least 50 points; Kayenta's judge: 98 %).
#[derive(Default)]
struct Kayenta {
    minute: Tick,
    errors: (Vec<f64>, Vec<f64>),
    latencies: (Vec<f64>, Vec<f64>),
    slowdown: f64,
}

// === impl Judges ===

impl Judges {
    pub fn new(slowdown: f64) -> Self {
        Self {
            guard: Bluegreen::new(),
            plug_in: PlugIn::default(),
            flagger: Flagger { slowdown, ..Flagger::default() },
            z_test: ZTest::default(),
            kayenta: Kayenta { slowdown, ..Kayenta::default() },
        }
    }

    /// Which rules end the canary after this tick, the `number`th from 1; those that `ended` it before are not asked.
    pub fn see(&mut self, number: u32, tick: Tick, hour: &mut Hour, ended: [bool; 5]) -> [bool; 5] {
        let second = number.is_multiple_of(TICKS_A_SECOND);
        let minute = number.is_multiple_of(60 * TICKS_A_SECOND);
        [
            !ended[0] && self.guard.see(tick),
            !ended[1] && self.plug_in.see(tick, second),
            !ended[2] && self.flagger.see(tick, minute),
            !ended[3] && self.z_test.see(tick, second),
            !ended[4] && self.kayenta.see(tick, minute, hour),
        ]
    }
}

// === impl Bluegreen ===

impl Bluegreen {
    fn new() -> Self {
        let rules = r#"{"confidence": 0.99, "error": {"max_rate": 0.2}, "slow": {"over": "auto"}}"#;
        let rules: Guard = serde_json::from_str(rules).expect("valid");
        let canary_percent = Percent::from_hundredths(1_000).expect("ten percent");
        let state = State::initial(Split { canary_percent, ..Split::default() }, Timestamp::default());
        let counts = PerColour::<ColourCounts>::default();
        let watch =
            CanaryAnalysis::advance(None, &state, Some(&rules), &counts, Timestamp::default()).expect("a canary");
        Self { rules, watch }
    }

    fn see(&mut self, tick: Tick) -> bool {
        let tally = |counted: Counted| Totals {
            errors: Outcomes::new(counted.answers, counted.errors),
            slow: Outcomes::new(counted.answers, counted.slow),
        };
        let is_candidate = |colour| colour == Colour::Green;
        let new = PerColour::from_fn(|colour| tally(if is_candidate(colour) { tick.candidate } else { tick.active }));
        self.watch.count(&new);
        self.watch.conclude(&self.rules, &new, Timestamp::default());
        self.watch.breach.is_some()
    }
}

// === impl PlugIn ===

impl PlugIn {
    fn see(&mut self, tick: Tick, second: bool) -> bool {
        self.second.add(tick);
        if !second {
            return false;
        }
        let Tick { active, candidate } = std::mem::take(&mut self.second);
        let rate = |past: Counted| (past.errors as f64 + 0.18) / (past.answers as f64 + 0.36);
        let (a, c) = (rate(self.past.active), rate(self.past.candidate));
        if c > a && active.answers > 0 && candidate.answers > 0 {
            let (m, n) = (active.answers as f64, candidate.answers as f64);
            let pooled = (m * a + n * c) / (m + n);
            let ln = |of: Counted, rate: f64| {
                of.errors as f64 * rate.ln() + (of.answers - of.errors) as f64 * (1.0 - rate).ln()
            };
            self.ln_e += ln(active, a) + ln(candidate, c) - ln(active, pooled) - ln(candidate, pooled);
        }
        self.past.add(Tick { active, candidate });
        self.ln_e > 100.0_f64.ln()
    }
}

// === impl Flagger ===

impl Flagger {
    fn see(&mut self, tick: Tick, minute: bool) -> bool {
        self.minute.add(tick.candidate);
        if !minute {
            return false;
        }
        let Counted { answers, errors, .. } = std::mem::take(&mut self.minute);
        let success = 1.0 - errors as f64 / answers.max(1) as f64;
        self.failed += u32::from(success < 0.99 || p99_ms(self.slowdown) > 500.0);
        self.failed >= 5
    }
}

// === impl ZTest ===

impl ZTest {
    fn see(&mut self, tick: Tick, second: bool) -> bool {
        self.sum.add(tick);
        let Tick { active, candidate } = self.sum;
        if !second || candidate.answers < 100 {
            return false;
        }
        let z = |active_bad: u64, candidate_bad: u64| {
            let (m, n) = (active.answers as f64, candidate.answers as f64);
            let pooled = (active_bad + candidate_bad) as f64 / (m + n);
            let error = (pooled * (1.0 - pooled) * (1.0 / m + 1.0 / n)).max(1e-12).sqrt();
            (candidate_bad as f64 / n - active_bad as f64 / m) / error
        };
        z(active.errors, candidate.errors) > 2.326 || z(active.slow, candidate.slow) > 2.326
    }
}

// === impl Kayenta ===

impl Kayenta {
    const POINTS: usize = 60;

    fn see(&mut self, tick: Tick, minute: bool, hour: &mut Hour) -> bool {
        self.minute.add(tick);
        if !minute {
            return false;
        }
        let Tick { active, candidate } = std::mem::take(&mut self.minute);
        let rate = |of: Counted| of.errors as f64 / of.answers.max(1) as f64;
        self.errors.0.push(rate(active));
        self.errors.1.push(rate(candidate));
        self.latencies.0.push(hour.mean_latency(active.answers, 1.0));
        self.latencies.1.push(hour.mean_latency(candidate.answers, self.slowdown));
        self.errors.0.len() == Self::POINTS
            && [&self.errors, &self.latencies].iter().any(|(active, candidate)| mann_whitney(candidate, active) < 0.02)
    }
}

/// The chance that values as large as `these` come from where `those` come from: the normal approximation with the
/// correction for ties.
fn mann_whitney(these: &[f64], those: &[f64]) -> f64 {
    let (n, m) = (these.len() as f64, those.len() as f64);
    let mut all: Vec<(f64, bool)> = these.iter().map(|value| (*value, true)).collect();
    all.extend(those.iter().map(|value| (*value, false)));
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut rank_sum, mut ties, mut from) = (0.0, 0.0, 0);
    while from < all.len() {
        let equal = all[from..].iter().take_while(|(value, _)| *value == all[from].0).count();
        let rank = from as f64 + (equal as f64 + 1.0) / 2.0;
        rank_sum += rank * all[from..from + equal].iter().filter(|(_, ours)| *ours).count() as f64;
        ties += (equal as f64).powi(3) - equal as f64;
        from += equal;
    }
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    1.0 - standard_distribution((u - n * m / 2.0 - 0.5) / variance.sqrt())
}

// === impl Tick ===

impl Tick {
    fn add(&mut self, other: Tick) {
        self.active.add(other.active);
        self.candidate.add(other.candidate);
    }
}

// === impl Counted ===

impl Counted {
    fn add(&mut self, other: Counted) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.slow += other.slow;
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mann_whitney_agrees_with_a_textbook() {
        // R: wilcox.test(c(1.1,2.2,3.3,4.4), c(0.5,1.5,2.5,0.7), alternative="greater", exact=FALSE)$p.value
        let p = mann_whitney(&[1.1, 2.2, 3.3, 4.4], &[0.5, 1.5, 2.5, 0.7]);
        assert!((p - 0.0970).abs() < 0.001, "{p}");
        assert!((mann_whitney(&[1.0; 60], &[1.0; 60]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn flagger_ends_a_canary_at_its_fifth_bad_minute() {
        let mut flagger = Flagger { slowdown: 1.0, ..Flagger::default() };
        let bad = Tick { candidate: Counted { answers: 100, errors: 2, slow: 0 }, ..Tick::default() };
        let verdicts: Vec<bool> = (0..5).map(|_| flagger.see(bad, true)).collect();
        assert_eq!(verdicts, [false, false, false, false, true]);
    }
}
