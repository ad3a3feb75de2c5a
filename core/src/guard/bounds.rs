//! What is slow, and how long an answer is waited for: both follow from how long the active colour takes.

use std::time::Duration;

use serde::Serialize;

use crate::config::{Guard, Horizon, Over};
use crate::json::FromJson;
use crate::metrics::cohorts::{Cohort, Cohorts, Epoch};
use crate::metrics::latency::{Bucket, Histogram};
use crate::model::colour::{Colour, PerColour};
use crate::model::time::Timestamp;

/// What is known of the active colour's latency, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Bounds {
    /// Answers of the active colour, until all is settled.
    learned: Histogram,
    /// The last epoch that was learned from.
    up_to: Epoch,
    /// The bounds of the rule about slow answers, from the lowest to the highest.
    pub slow: Vec<Bound>,
    /// The horizon, once the active colour's latency is known.
    horizon: Option<Duration>,
}

/// A latency above which an answer is slow, for each colour.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, FromJson)]
pub struct Bound {
    /// The percentile of the active colour's answers that it is, in tenths of a percent; none if it was given.
    pub permille: Option<u16>,
    /// Answers in buckets above this one are slow.
    pub above: PerColour<Bucket>,
    /// Requests that began later are judged by it: those before it was settled cannot be.
    since: Epoch,
}

/// The percentiles that are compared, in tenths of a percent, and from how many answers each is settled: ten above it at
/// least.
const PERCENTILES: [(u16, u64); 4] = [(500, FEWEST), (950, FEWEST), (990, 1_000), (999, 10_000)];
/// The fewest answers from which anything is settled.
const FEWEST: u64 = 200;
/// What has been under way for so long is learned from as it stands.
const LEARNED_AFTER: Duration = Duration::from_secs(10);
/// The horizon is at least this, and this while nothing is known yet.
const SHORTEST: Duration = Duration::from_secs(10);
const UNKNOWN: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(120);
/// So many times the active colour's 95th percentile. A candidate that is a few times slower is slow, not silent.
const TIMES: u32 = 3;

// === impl Bounds ===

impl Bounds {
    /// How many bounds `over: auto` has once all are settled.
    pub const AUTO: usize = PERCENTILES.len();

    /// Those of a guard before anything was seen.
    pub fn new(guard: Option<&Guard>) -> Self {
        let mut bounds = Self::default();
        if let Some(Over::Latency(latency)) = guard.and_then(|guard| guard.slow).map(|rule| rule.over) {
            let above = PerColour::from_fn(|_| Bucket::of(latency));
            bounds.slow.push(Bound { permille: None, above, since: Epoch::default() });
        }
        bounds
    }

    /// Leaves out all that began before.
    pub fn skip_to(&mut self, now: Timestamp) {
        self.up_to = Epoch::of(now);
        for bound in &mut self.slow {
            bound.since = bound.since.min(self.up_to);
        }
    }

    /// Learns from what the colour beside the `watched` one did, as far as it is settled.
    pub fn learn(&mut self, cohorts: &Cohorts, guard: &Guard, watched: Colour, now: Timestamp) {
        let wanted = guard.slow.filter(|rule| rule.over == Over::Auto);
        let is_known = self.horizon.is_some() && (wanted.is_none() || self.slow.len() >= PERCENTILES.len());
        if is_known {
            return;
        }
        if self.up_to.end().is_ahead_of(now) {
            self.skip_to(now);
        }
        for cohort in cohorts.all() {
            if cohort.epoch <= self.up_to {
                continue;
            }
            let is_old = now >= cohort.epoch.end().plus(LEARNED_AFTER);
            if !(cohort.is_over() || is_old) || now < cohort.epoch.end().plus(SETTLED) {
                break;
            }
            self.up_to = cohort.epoch;
            let fates = cohort.colours.get(watched.other());
            self.learned.merge(&fates.latency);
            // These take at least as long as they have been waited for.
            self.learned.add(Bucket::of(LEARNED_AFTER), fates.untimed);
        }
        let answers = self.learned.total();
        if self.horizon.is_none() && answers >= FEWEST {
            let usual = self.learned.percentile_bucket(950).and_then(Bucket::end_micros).map(Duration::from_micros);
            let horizon = usual.map_or(LONGEST, |usual| usual.saturating_mul(TIMES));
            self.horizon = Some(horizon.clamp(SHORTEST, LONGEST));
        }
        let Some(rule) = wanted else { return };
        for (permille, least) in PERCENTILES.into_iter().skip(self.slow.len()) {
            if answers < least {
                break;
            }
            let Some(bucket) = self.learned.percentile_bucket(permille) else { break };
            let allowed = bucket.end_micros().map_or(bucket, |end| {
                Bucket::of(Duration::from_micros(end).mul_f64(rule.max_ratio).saturating_sub(Duration::from_micros(1)))
            });
            let above = PerColour::from_fn(|colour| if colour == watched { allowed } else { bucket });
            self.slow.push(Bound { permille: Some(permille), above, since: self.up_to });
        }
    }

    /// How long an answer is waited for before it is taken for none.
    pub fn horizon(&self, guard: &Guard) -> Duration {
        match guard.unanswered.after {
            Horizon::After(after) => after,
            Horizon::Auto => self.horizon.unwrap_or(UNKNOWN),
        }
    }
}

/// After this time all workers have said what they know about an epoch.
pub const SETTLED: Duration = Duration::from_millis(600);

// === impl Bound ===

impl Bound {
    /// Whether all requests of a cohort can be told to be slow or not.
    pub fn settles(&self, cohort: &Cohort, now: Timestamp) -> bool {
        let known = |colour: Colour| {
            let longest = self.above.get(colour).end_micros().map_or(LONGEST, Duration::from_micros);
            cohort.colours.get(colour).untimed == 0 || now >= cohort.epoch.end().plus(longest)
        };
        Colour::ALL.into_iter().all(known)
    }

    /// Whether the bound was known before a cohort began.
    pub fn applies_to(&self, cohort: &Cohort) -> bool {
        cohort.epoch > self.since || self.permille.is_none()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::metrics::cohorts::{Draw, Ending, Host, SeenKeys};
    use crate::model::split::Revision;
    use crate::testing::percent;

    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    fn guard(json: &str) -> Guard {
        json::from_str(json).expect("valid")
    }

    /// What is learned from so many answers of blue, which take 1 to 100 ms, evenly.
    fn learned(guard: &Guard, answers: u64, times: u64) -> Bounds {
        let (mut cohorts, mut bounds) = (Cohorts::default(), Bounds::new(Some(guard)));
        for number in 0..answers {
            let at = START.plus(Duration::from_millis(number / 4));
            let when = (at, Revision::ZERO, percent("10"));
            let ticket = cohorts.begin(when, Colour::Blue, Draw::Request, &mut SeenKeys::default());
            let latency = Duration::from_millis(times * (number % 100 + 1));
            cohorts.end(ticket, Ending::Answered { wrong: None, host: Host(1), latency });
        }
        let now = START.plus(Duration::from_millis(answers / 4 + 1_000));
        bounds.learn(&cohorts, guard, Colour::Green, now);
        bounds
    }

    #[test]
    fn percentiles_are_settled_as_soon_as_enough_answers_lie_above_them() {
        let rules = guard(r#"{"slow": {"over": "auto"}}"#);
        for (answers, settled) in [(150, 0), (200, 2), (990, 2), (1_000, 3), (10_000, 4)] {
            assert_eq!(learned(&rules, answers, 1).slow.len(), settled, "{answers}");
        }
        assert!(learned(&guard("{}"), 10_000, 1).slow.is_empty());
    }

    #[test]
    fn the_watched_colour_may_take_longer_by_the_ratio_at_least_and_by_little_more() {
        for ratio in [1.0, 1.25, 2.0] {
            let rules = guard(&format!(r#"{{"slow": {{"over": "auto", "max_ratio": {ratio}}}}}"#));
            let bounds = learned(&rules, 10_000, 1);
            for bound in &bounds.slow {
                let end = |colour: Colour| bound.above.get(colour).end_micros().expect("not the last") as f64;
                let allowed = end(Colour::Green) / end(Colour::Blue);
                assert!(allowed >= ratio && allowed < 1.25 * ratio, "{ratio}: {allowed}");
            }
        }
    }

    #[test]
    fn the_horizon_follows_the_active_colour_and_is_ten_seconds_at_least() {
        let rules = guard("{}");
        let seconds = |bounds: &Bounds| bounds.horizon(&rules).as_secs_f64();
        assert!((seconds(&learned(&rules, 100, 1)) - 30.0).abs() < 1e-9);
        assert!((seconds(&learned(&rules, 400, 1)) - 10.0).abs() < 1e-9);
        let long = seconds(&learned(&rules, 400, 100));
        assert!((28.0..36.0).contains(&long), "{long}");
        let given = guard(r#"{"unanswered": {"after": "2s"}}"#);
        assert_eq!(learned(&given, 400, 100).horizon(&given), Duration::from_secs(2));
    }
}
