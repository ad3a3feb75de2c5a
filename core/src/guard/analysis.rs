//! The guard of one canary: what it has counted, what its tests say, and whether a rule is broken.
//!
//! It is written by the leader after each tick under a key of its own, so that a new leader goes on where the last one
//! was, and any worker can show it.

use serde::{Deserialize, Serialize};

use super::interval::interval;
use super::outcomes::{Block, Outcomes};
use super::sequential::SequentialTest;
use crate::config::{ErrorRule, Guard, LatencyOf, Over, SlowRule};
use crate::metrics::counters::ColourCounts;
use crate::metrics::latency::{Bucket, Histogram};
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::state::{Restamp, State};
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// A canary, from its first request to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanaryAnalysis {
    /// The colour that is watched.
    pub candidate: Colour,
    /// How far it has come.
    pub stage: Baseline,
    /// Whether it is not watched any more: what is here is how it ended.
    pub over: bool,
    /// When it began.
    pub began: Timestamp,
    /// Since the canary began.
    pub since_began: PerColour<Totals>,
    /// Since the traffic was last set.
    pub since_set: PerColour<Totals>,
    /// The rule about errors.
    pub error: SequentialTest,
    /// The rule about latency.
    pub slow: SequentialTest,
    /// What is slow.
    pub bound: Threshold,
    /// The rule that was broken, and when. It stays so.
    pub breach: Option<(Rule, Timestamp)>,
    /// What the limit on the error rate was compared with at that moment.
    #[serde(default)]
    pub at_breach: PerColour<Totals>,
    /// What is compared.
    identities: PerColour<Option<Identity>>,
    /// The revision at the last tick.
    revision: Revision,
    /// What was counted up to the last tick.
    seen: PerColour<Totals>,
}

/// How far a canary has come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Both colours have traffic.
    Canary,
    /// The candidate was promoted, and is compared with what the other colour was like before.
    Promoted(Allowed),
}

/// The shares that a promoted candidate is allowed; 1 where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allowed {
    /// Of errors.
    pub error: f64,
    /// Of slow answers.
    pub slow: f64,
}

/// What is counted about one colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Answers; the bad ones are errors.
    pub errors: Outcomes,
    /// Answers with a latency; the bad ones are slow.
    pub slow: Outcomes,
}

/// Above which bucket an answer is slow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// The active colour's answers are awaited; this is what was counted before the first.
    Calibrating(Histogram),
    /// Above this one.
    Above(Bucket),
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The test of error rates.
    Error,
    /// The test of slow shares.
    Slow,
    /// The limit on the error rate.
    MaxRate,
}

/// So many answers of the active colour say what `over: auto` is.
const LEARNED: u64 = 200;
/// The percentile of them above which an answer is slow: of p95 and p99 the one with more to count.
const SLOW_PERCENT: u8 = 95;

/// What is known of a deployment's canary; none before the first, and while the store is out of reach.
pub fn read(store: &dyn Store, name: &DeploymentName) -> Option<CanaryAnalysis> {
    serde_json::from_slice(&store.read(&key(name)).ok()?.value?).ok()
}

/// Writes it down, over what is there: there is one leader.
///
/// # Errors
/// The store is out of reach; there is a next tick.
pub fn record(store: &dyn Store, name: &DeploymentName, analysis: &CanaryAnalysis) -> Result<(), StoreError> {
    update(store, &key(name), &mut |_| serde_json::to_vec(analysis).ok()).map(|_| ())
}

fn key(name: &DeploymentName) -> String {
    Key::CanaryAnalysis(name).to_string()
}

// === impl CanaryAnalysis ===

impl CanaryAnalysis {
    /// The analysis over the state as it is now, which is `before` or a new one. `None`: there is nothing to analysis, and
    /// there was nothing.
    pub fn advance(
        before: Option<Self>,
        state: &State,
        guard: Option<&Guard>,
        counts: &PerColour<ColourCounts>,
        now: Timestamp,
    ) -> Option<Self> {
        let (active, candidate) = (state.split.active, state.split.candidate());
        // A promoted candidate goes on being the one that is watched, beside what the former colour keeps.
        let watched = if state.kept.is_some() { active } else { candidate };
        // What another version did, or an earlier rollout saw, is no evidence.
        let before = before.map(|analysis| Self { over: analysis.over || !analysis.is_about(state), ..analysis });
        let is_earlier =
            |analysis: &Self| state.rollout.is_some_and(|rollout| rollout.is_live() && analysis.began < rollout.began);
        if state.split.canary_percent > Percent::ZERO {
            let same = |analysis: &Self| {
                analysis.candidate == watched
                    && analysis.stage == Baseline::Canary
                    && !analysis.over
                    && !is_earlier(analysis)
            };
            return Some(before.filter(same).unwrap_or_else(|| Self::begin(watched, state, guard, counts, now)));
        }
        let watched_for = guard.and_then(|guard| guard.also_after_promote);
        let promoted = state.rollback_to == Some(candidate)
            && state.switched_at.zip(watched_for).is_some_and(|(at, span)| now < at.plus(span));
        match before {
            Some(analysis)
                if promoted && analysis.candidate == active && analysis.stage == Baseline::Canary && !analysis.over =>
            {
                Some(analysis.promoted(guard, now))
            }
            Some(analysis) if promoted && analysis.candidate == active && !analysis.over => Some(analysis),
            // Promoted without a canary: there is the limit at least.
            _ if promoted && before.as_ref().is_none_or(|analysis| analysis.candidate != active) => {
                Some(Self::begin(active, state, guard, counts, now).promoted(guard, now))
            }
            Some(analysis) => Some(Self { over: true, ..analysis }),
            None => None,
        }
    }

    /// Whether what was counted is about what is behind the colours in this state. A promoted candidate is compared with
    /// what was counted before.
    pub fn is_about(&self, state: &State) -> bool {
        match self.stage {
            Baseline::Canary => self.identities == state.identities,
            Baseline::Promoted(_) => self.identities.get(self.candidate) == state.identities.get(self.candidate),
        }
    }

    /// The same analysis, as [`State::restamped`].
    #[must_use]
    pub fn restamped(&self, how: Restamp, now: Timestamp) -> Self {
        let breach = self.breach.map(|(rule, at)| (rule, how.moves(at, now)));
        Self { began: how.moves(self.began, now), breach, ..self.clone() }
    }

    fn begin(
        candidate: Colour,
        state: &State,
        guard: Option<&Guard>,
        counts: &PerColour<ColourCounts>,
        now: Timestamp,
    ) -> Self {
        let slow = guard.and_then(|guard| guard.slow);
        let bound = match slow.map(|rule| rule.over) {
            Some(Over::Latency(bound)) => Threshold::Above(Bucket::of(bound)),
            Some(Over::Auto) | None => Threshold::Calibrating(
                slow.map_or_else(Histogram::default, |rule| counts.get(candidate.other()).latency(rule.of).clone()),
            ),
        };
        let mut analysis = Self {
            candidate,
            stage: Baseline::Canary,
            over: false,
            began: now,
            since_began: PerColour::default(),
            since_set: PerColour::default(),
            error: SequentialTest::default(),
            slow: SequentialTest::default(),
            bound,
            breach: None,
            at_breach: PerColour::default(),
            identities: state.identities.clone(),
            revision: state.revision,
            seen: PerColour::default(),
        };
        analysis.seen = PerColour::from_fn(|colour| analysis.tally(counts.get(colour), guard));
        analysis
    }

    /// The analysis once the candidate is active: the tests begin anew, against what the other colour may have been like.
    fn promoted(self, guard: Option<&Guard>, now: Timestamp) -> Self {
        let before = self.since_began.get(self.candidate.other());
        // Half of a rule's chance is spent here, the other half on the test.
        let alpha = guard.map_or(1.0, Guard::alpha_per_rule) / 2.0;
        let allowed = |outcomes: Outcomes, margin: f64| (interval(outcomes, alpha).1 + margin).min(1.0);
        let stage = Baseline::Promoted(Allowed {
            error: guard.map_or(1.0, |guard| allowed(before.errors, guard.error.max_increase)),
            slow: guard.and_then(|guard| guard.slow).map_or(1.0, |rule| allowed(before.slow, rule.max_increase)),
        });
        let (error, slow) = (SequentialTest::default(), SequentialTest::default());
        Self { stage, began: now, since_began: PerColour::default(), error, slow, breach: None, ..self }
    }

    /// Takes what was counted since the last tick.
    pub fn observe(&mut self, state: &State, guard: Option<&Guard>, counts: &PerColour<ColourCounts>, now: Timestamp) {
        let learned = self.learn(guard, counts);
        let tallies = PerColour::from_fn(|colour| self.tally(counts.get(colour), guard));
        let new = PerColour::from_fn(|colour| {
            let new = tallies.get(colour).since(self.seen.get(colour));
            // Until this tick nothing was called slow.
            if learned { Totals { slow: Outcomes::default(), ..new } } else { new }
        });
        self.seen = tallies;
        let set = self.revision != state.revision;
        if set {
            // These requests were shared out in two ways: they count, and nothing is concluded from them.
            self.revision = state.revision;
            self.since_set = PerColour::default();
            self.error.cut();
            self.slow.cut();
        }
        self.count(&new);
        if let (Some(guard), false) = (guard, set) {
            self.conclude(guard, &new, now);
        }
    }

    /// Adds to what has been counted.
    pub fn count(&mut self, new: &PerColour<Totals>) {
        for colour in Colour::ALL {
            let add = |tally: &mut Totals| *tally = tally.and(new.get(colour));
            add(self.since_began.get_mut(colour));
            add(self.since_set.get_mut(colour));
        }
    }

    /// Lets the tests see what was counted last, and says whether a rule is broken.
    pub fn conclude(&mut self, guard: &Guard, new: &PerColour<Totals>, now: Timestamp) {
        self.test(guard, new);
        if self.breach.is_none() {
            self.breach = self.violated_rule(guard).map(|rule| (rule, now));
            self.at_breach = self.since_set;
        }
    }

    /// Settles what is slow, once enough is known. Whether it was settled now.
    fn learn(&mut self, guard: Option<&Guard>, counts: &PerColour<ColourCounts>) -> bool {
        let (Threshold::Calibrating(before), Some(rule)) = (&self.bound, guard.and_then(|guard| guard.slow)) else {
            return false;
        };
        let bound = match rule.over {
            Over::Latency(bound) => Some(Bucket::of(bound)),
            Over::Auto => {
                let answers = counts.get(self.candidate.other()).latency(rule.of).since(before);
                answers.percentile_bucket(SLOW_PERCENT).filter(|_| answers.total() >= LEARNED)
            }
        };
        if let Some(bound) = bound {
            self.bound = Threshold::Above(bound);
        }
        bound.is_some()
    }

    fn test(&mut self, guard: &Guard, new: &PerColour<Totals>) {
        let (active, candidate) = (new.get(self.candidate.other()), new.get(self.candidate));
        match self.stage {
            Baseline::Canary => {
                let errors = Block { active: active.errors, candidate: candidate.errors };
                self.error.observe(guard.error.max_increase, errors);
                if let Some(rule) = guard.slow {
                    self.slow.observe(rule.max_increase, Block { active: active.slow, candidate: candidate.slow });
                }
            }
            Baseline::Promoted(allowed) => {
                self.error.observe_alone(allowed.error, candidate.errors);
                if guard.slow.is_some() {
                    self.slow.observe_alone(allowed.slow, candidate.slow);
                }
            }
        }
    }

    fn violated_rule(&self, guard: &Guard) -> Option<Rule> {
        let threshold = self.threshold(guard);
        if self.over {
            None
        } else if self.is_beyond_limit(guard.error) {
            Some(Rule::MaxRate)
        } else if self.error.e_value() >= threshold {
            Some(Rule::Error)
        } else {
            (guard.slow.is_some() && self.slow.e_value() >= threshold).then_some(Rule::Slow)
        }
    }

    /// The e-value at which a rule is broken. After the promotion half of its chance has been spent on what is allowed.
    pub fn threshold(&self, guard: &Guard) -> f64 {
        match self.stage {
            Baseline::Promoted(_) => 2.0 / guard.alpha_per_rule(),
            Baseline::Canary => 1.0 / guard.alpha_per_rule(),
        }
    }

    /// Whether the candidate's error rate since the traffic was last set is at the limit, and the active colour's is not
    /// even half way there: when both fail, neither is to blame.
    fn is_beyond_limit(&self, rule: ErrorRule) -> bool {
        let Some(limit) = rule.max_rate else { return false };
        let candidate = self.since_set.get(self.candidate).errors;
        let active = self.since_set.get(self.candidate.other()).errors;
        candidate.total >= rule.after
            && candidate.share().is_some_and(|rate| rate >= limit)
            && active.share().is_none_or(|rate| rate < 0.5 * limit)
    }

    /// How much speaks for this: the candidate's error rate is above the active colour's by less than `margin`. None while
    /// nothing is known.
    pub fn e_value_of_no_worse(&self, _margin: f64) -> Option<f64> {
        None
    }

    /// What the counters of a colour say under the rules.
    fn tally(&self, counts: &ColourCounts, guard: Option<&Guard>) -> Totals {
        let count_4xx = guard.is_some_and(|guard| guard.error.count_4xx);
        let errors = counts.failed.saturating_add(if count_4xx { counts.rejected } else { 0 });
        let slow = match (&self.bound, guard.and_then(|guard| guard.slow)) {
            (Threshold::Above(bound), Some(SlowRule { of, .. })) => {
                let latency = counts.latency(of);
                Outcomes::new(latency.total(), latency.above(*bound))
            }
            _ => Outcomes::default(),
        };
        Totals { errors: Outcomes::new(counts.answered, errors), slow }
    }
}

// === impl Totals ===

impl Totals {
    const fn since(&self, earlier: &Self) -> Self {
        Self { errors: self.errors.since(earlier.errors), slow: self.slow.since(earlier.slow) }
    }

    const fn and(&self, other: &Self) -> Self {
        Self { errors: self.errors.and(other.errors), slow: self.slow.and(other.slow) }
    }
}

// === impl Rule ===

impl Rule {
    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::Error => "error",
            Rule::Slow => "slow",
            Rule::MaxRate => "max_rate",
        }
    }
}

impl ColourCounts {
    /// The latencies that a rule is about.
    const fn latency(&self, of: LatencyOf) -> &Histogram {
        match of {
            LatencyOf::Total => &self.exchange,
            LatencyOf::FirstByte => &self.first_byte,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::state::{Command, Patch};
    use crate::testing::{MemoryStore, iris, percent, split};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn canary() -> State {
        State::initial(split("blue", "10", "0"), NOW)
    }

    fn guard(json: &str) -> Guard {
        serde_json::from_str(json).expect("valid")
    }

    /// So many answers, a part of them failed and rejected, and all with this latency.
    fn counts(answered: u64, failed: u64, rejected: u64, latency: Duration) -> ColourCounts {
        let mut counts = ColourCounts { answered, failed, rejected, ..ColourCounts::default() };
        counts.exchange.add(Bucket::of(latency), answered);
        counts
    }

    fn begin(guard: &Guard) -> CanaryAnalysis {
        CanaryAnalysis::advance(None, &canary(), Some(guard), &PerColour::default(), NOW).expect("a canary")
    }

    #[test]
    fn auto_is_settled_by_the_active_colours_first_answers_and_what_came_before_proves_nothing() {
        let rules = guard(r#"{"slow": {"over": "auto"}}"#);
        let mut analysis = begin(&rules);
        let fast = Duration::from_millis(10);
        let green = |answered| counts(answered, 0, 0, Duration::from_millis(90));
        let few = PerColour { blue: counts(199, 0, 0, fast), green: green(50) };
        analysis.observe(&canary(), Some(&rules), &few, NOW);
        assert!(matches!(analysis.bound, Threshold::Calibrating(_)));
        let enough = PerColour { blue: counts(201, 0, 0, fast), green: green(60) };
        analysis.observe(&canary(), Some(&rules), &enough, NOW);
        assert_eq!(analysis.bound, Threshold::Above(Bucket::of(fast)));
        assert_eq!(analysis.since_began.green.slow, Outcomes::default());
        let more = PerColour { blue: counts(400, 0, 0, fast), green: green(80) };
        analysis.observe(&canary(), Some(&rules), &more, NOW);
        assert_eq!(
            (analysis.since_began.green.slow, analysis.since_began.blue.slow),
            (Outcomes::new(20, 20), Outcomes::new(199, 0))
        );
        assert_eq!(analysis.breach.map(|(rule, _)| rule), Some(Rule::Slow));
    }

    #[test]
    fn answers_around_a_change_of_the_share_count_and_prove_nothing() {
        let rules = guard("{}");
        let mut analysis = begin(&rules);
        let patch = Patch { canary_percent: Some(percent("20")), ..Patch::default() };
        let alice = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let later = canary().after(&Command::Patch(patch), alice, NOW).expect("allowed").expect("a change");
        let failed = PerColour { blue: counts(100, 0, 0, Duration::ZERO), green: counts(50, 50, 0, Duration::ZERO) };
        analysis.observe(&later, Some(&rules), &failed, NOW);
        assert_eq!((analysis.since_set.green.errors, analysis.breach), (Outcomes::new(50, 50), None));
        assert!(analysis.error.e_value() <= 1.0);
    }

    #[test]
    fn a_4xx_is_an_error_only_if_the_configuration_says_so() {
        let rejected = PerColour { blue: counts(100, 0, 0, Duration::ZERO), green: counts(50, 0, 50, Duration::ZERO) };
        for (json, errors) in [("{}", 0), (r#"{"error": {"count_4xx": true}}"#, 50)] {
            let rules = guard(json);
            let mut analysis = begin(&rules);
            analysis.observe(&canary(), Some(&rules), &rejected, NOW);
            assert_eq!(analysis.since_began.green.errors, Outcomes::new(50, errors), "{json}");
        }
    }

    #[test]
    fn the_limit_spares_a_candidate_whose_active_colour_is_half_way_there() {
        let rules = guard(r#"{"confidence": 0.999999, "error": {"max_rate": 0.2, "after": 50}}"#);
        let none = Duration::ZERO;
        let cases = [(49, 49, 0, None), (50, 9, 0, None), (50, 10, 9, Some(Rule::MaxRate)), (50, 10, 10, None)];
        for (answered, failed, of_blue, expected) in cases {
            let mut analysis = begin(&rules);
            let counts = PerColour { blue: counts(100, of_blue, 0, none), green: counts(answered, failed, 0, none) };
            // In pieces without the other colour, so that no test has anything to compare.
            analysis.since_set = PerColour::from_fn(|colour| analysis.tally(counts.get(colour), Some(&rules)));
            assert_eq!(analysis.violated_rule(&rules), expected, "{answered} {failed} {of_blue}");
        }
    }

    #[test]
    fn counters_that_start_again_from_nought_are_taken_as_a_pause() {
        let rules = guard("{}");
        let mut analysis = begin(&rules);
        let before = PerColour { blue: counts(100, 1, 0, Duration::ZERO), green: counts(50, 1, 0, Duration::ZERO) };
        analysis.observe(&canary(), Some(&rules), &before, NOW);
        analysis.observe(&canary(), Some(&rules), &PerColour::default(), NOW);
        assert_eq!(analysis.since_began.green.errors, Outcomes::new(50, 1));
    }

    #[test]
    fn a_watch_is_kept_for_the_next_leader_and_a_foreign_value_is_none() {
        let store = MemoryStore::default();
        assert_eq!(read(&store, &iris()), None);
        let rules = guard(r#"{"slow": {"over": "auto"}}"#);
        let before = PerColour { blue: counts(7, 0, 0, Duration::from_millis(10)), ..PerColour::default() };
        let analysis = CanaryAnalysis::advance(None, &canary(), Some(&rules), &before, NOW).expect("a canary");
        assert!(
            matches!(&analysis.bound, Threshold::Calibrating(before) if before.total() == 7),
            "{:?}",
            analysis.bound
        );
        record(&store, &iris(), &analysis).expect("in reach");
        assert_eq!(read(&store, &iris()), Some(analysis));
        store.put("bluegreen/v1/iris/watch", b"\xff");
        assert_eq!(read(&store, &iris()), None);
    }
}
