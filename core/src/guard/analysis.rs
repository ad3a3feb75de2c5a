//! The guard of one canary: what it has seen, what its tests say, and whether a rule is broken.
//!
//! It is written by the leader after each tick under a key of its own, so that a new leader goes on where the last one
//! was, and any worker can show it.

use serde::Serialize;

use super::bounds::Bounds;
use super::evidence::{Collector, Evidence, Test};
use super::no_worse::NoWorse;
use super::outcomes::{Block, Outcomes, add_each};
use super::rate_limit::LastAnswers;
use super::sequential::SequentialTest;
use crate::config::{Guard, Over};
use crate::json::{self, FromJson};
use crate::metrics::cohorts::{Cohorts, Epoch};
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::shadow::excess::Excess;
use crate::state::{Restamp, State};
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// A canary, from its first request to its end, or to that of the time after its promotion.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct CanaryAnalysis {
    /// The colour that is watched.
    pub candidate: Colour,
    /// How far it has come.
    pub stage: Stage,
    /// Whether it is not watched any more: what is here is how it ended.
    pub over: bool,
    /// When it began.
    pub began: Timestamp,
    /// Requests since the canary began; the bad ones are errors.
    pub since_began: PerColour<Outcomes>,
    /// Those of them that were judged since the traffic was last set.
    pub since_set: PerColour<Outcomes>,
    /// Units without an answer since the canary began.
    pub unanswered: PerColour<Outcomes>,
    /// Slow ones, at the bound that is shown.
    pub slow_shares: PerColour<Outcomes>,
    /// The rule about errors.
    pub error: SequentialTest,
    /// The rule about requests without an answer.
    pub no_answer: SequentialTest,
    /// The rule about latency, at each bound.
    pub slow: Vec<SequentialTest>,
    /// What is slow, and how long an answer is waited for.
    pub bounds: Bounds,
    /// The rule that was broken, and when. It stays so.
    pub breach: Option<(Rule, Timestamp)>,
    /// What the limit on the error rate was compared with at that moment.
    pub at_limit: Option<Block>,
    /// Whether the step in force has shown what it waits for.
    pub no_worse: Option<NoWorse>,
    /// What came of comparing answers.
    #[serde(default)]
    pub answers: Answers,
    last_answers: LastAnswers,
    warmed: Warmed,
    collector: Collector,
    /// What is compared.
    identities: PerColour<Option<Identity>>,
    /// Requests that follow an earlier revision are of another canary.
    from: Revision,
    /// The revision that the newest evidence follows.
    revision: Revision,
}

/// What came of comparing answers between what is behind the two colours: all that there is, but for what an operator has seen
/// who let a rollout go on after a breach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(default)]
pub struct Answers {
    /// All.
    all: Excess,
    /// What of that does not count any more.
    seen: Excess,
    /// Since when it has been shown that a step will not see the agreement that it waits for.
    pub hopeless_since: Option<Timestamp>,
}

/// How far a canary has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The watched colour is the candidate, and gets copies only.
    Shadow,
    /// The watched colour is the candidate, and gets users.
    Canary,
    /// It was promoted by this revision, and the other one keeps a share to be compared with.
    Promoted(Revision),
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The test of error rates.
    Error,
    /// The test of requests without an answer.
    Unanswered,
    /// The tests of slow answers.
    Slow,
    /// The limit on the error rate.
    MaxRate,
    /// The test of answers that are compared.
    Disagreement,
}

/// What a cold start may spoil is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
struct Warmed {
    /// The watched colour's requests, up to an epoch.
    requests: u64,
    up_to: Epoch,
    /// When the first of them began.
    since: Option<Epoch>,
    /// The first epoch that is judged.
    over_at: Option<Epoch>,
}

/// What is known of a deployment's canary; none before the first, and while the store is out of reach.
pub fn read(store: &dyn Store, name: &DeploymentName) -> Option<CanaryAnalysis> {
    json::from_slice(&store.read(&key(name)).ok()?.value?).ok()
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
    /// The analysis over the state as it is now, which is `before` or a new one. `None`: there is nothing to analyse, and
    /// there was nothing.
    ///
    /// `compares` is whether the answers to copied requests are compared.
    pub fn advance(
        before: Option<Self>,
        state: &State,
        guard: Option<&Guard>,
        compares: bool,
        now: Timestamp,
    ) -> Option<Self> {
        // What another version did, or an earlier rollout saw, is no evidence.
        let before = before.map(|analysis| Self { over: analysis.over || !analysis.is_about(state), ..analysis });
        if !is_watched(state, compares) {
            return before.map(|analysis| Self { over: true, ..analysis });
        }
        let is_kept = state.kept.is_some();
        let watched = if is_kept { state.split.active } else { state.split.candidate() };
        let is_earlier =
            |analysis: &Self| state.rollout.is_some_and(|rollout| rollout.is_live() && analysis.began < rollout.began);
        let same = |analysis: &Self| {
            let goes_on = match analysis.stage {
                Stage::Shadow | Stage::Canary => true,
                Stage::Promoted(_) => is_kept,
            };
            analysis.candidate == watched && goes_on && !analysis.over && !is_earlier(analysis)
        };
        let mut analysis = before.filter(same).unwrap_or_else(|| Self::begin(watched, state, guard, now));
        if is_kept && analysis.stage == Stage::Canary {
            analysis.stage = Stage::Promoted(state.revision);
        }
        if analysis.stage == Stage::Shadow && state.split.canary_percent > Percent::ZERO {
            analysis.stage = Stage::Canary;
        }
        Some(analysis)
    }

    /// Whether what was seen is about what is behind the colours in this state.
    pub fn is_about(&self, state: &State) -> bool {
        self.identities == state.identities
    }

    /// The same analysis, as [`State::restamped`].
    #[must_use]
    pub fn restamped(&self, how: Restamp, now: Timestamp) -> Self {
        let breach = self.breach.map(|(rule, at)| (rule, how.moves(at, now)));
        Self { began: how.moves(self.began, now), breach, ..self.clone() }
    }

    fn begin(candidate: Colour, state: &State, guard: Option<&Guard>, now: Timestamp) -> Self {
        Self {
            candidate,
            stage: if state.split.canary_percent > Percent::ZERO { Stage::Canary } else { Stage::Shadow },
            over: false,
            began: now,
            since_began: PerColour::default(),
            since_set: PerColour::default(),
            unanswered: PerColour::default(),
            slow_shares: PerColour::default(),
            error: SequentialTest::default(),
            no_answer: SequentialTest::default(),
            slow: Vec::new(),
            bounds: Bounds::new(guard),
            breach: None,
            at_limit: None,
            no_worse: None,
            answers: Answers::default(),
            last_answers: LastAnswers::default(),
            warmed: Warmed::default(),
            collector: Collector::default(),
            identities: state.identities.clone(),
            from: state.revision,
            revision: state.revision,
        }
    }

    /// Learns from this Envoy's cohorts what is slow, and gives the evidence that they have become.
    pub fn collect(&mut self, cohorts: &Cohorts, guard: &Guard, now: Timestamp) -> Vec<Evidence> {
        if self.collector.has_lost_time(now) {
            self.on_clock_set(now);
        }
        self.learn(cohorts, guard, now);
        self.collector.collect(cohorts, self.from, (guard, &self.bounds), now)
    }

    /// Learns from this Envoy's cohorts what is slow.
    pub fn learn(&mut self, cohorts: &Cohorts, guard: &Guard, now: Timestamp) {
        self.bounds.learn(cohorts, guard, self.candidate, now);
    }

    /// The evidence that the cohorts of one Envoy of a fleet have become, which keeps its own collector; and up to where that
    /// is all, for each test.
    pub fn collect_by(
        &self,
        collector: &mut Collector,
        cohorts: &Cohorts,
        guard: &Guard,
        now: Timestamp,
    ) -> (Vec<Evidence>, Vec<(Test, Epoch)>) {
        let found = collector.collect(cohorts, self.from, (guard, &self.bounds), now);
        let settled = |test| (test, collector.settled(test, cohorts, self.from, now));
        (found, Test::all(&self.bounds).map(settled).collect())
    }

    fn on_clock_set(&mut self, now: Timestamp) {
        self.bounds.skip_to(now);
        for test in [&mut self.error, &mut self.no_answer].into_iter().chain(&mut self.slow) {
            test.on_clock_set();
        }
        // What is warm stays so, and what is not begins again.
        self.warmed = Warmed { over_at: self.warmed.over_at.map(|_| Epoch::default()), ..Warmed::default() };
    }

    /// Takes a piece of evidence, and concludes. `margin` is what the step in force waits for, if it does.
    pub fn play(&mut self, evidence: &Evidence, guard: &Guard, margin: Option<f64>, now: Timestamp) {
        if self.over || evidence.revision < self.from {
            return;
        }
        if evidence.revision > self.revision {
            // The traffic was set.
            self.revision = evidence.revision;
            self.since_set = PerColour::default();
        }
        let is_judged = self.is_after_warm_up(evidence, guard);
        self.count(evidence, is_judged);
        if !is_judged {
            return;
        }
        let not_credited = self.test(evidence, guard);
        if evidence.test == Test::Error {
            self.show(evidence, margin);
            // With stickiness a user counts by the first request, and the hiccup of a pod counts as in the test.
            let units = |colour: Colour| evidence.units.get(colour).and(*evidence.firsts.get(colour));
            let Outcomes { total, bad } = units(self.candidate);
            let candidate = Outcomes::new(total, bad.saturating_sub(not_credited));
            self.last_answers.add(Block { active: units(self.candidate.other()), candidate }, guard.error);
        }
        if self.breach.is_none() {
            self.breach = self.broken(evidence, guard).map(|rule| (rule, now));
        }
    }

    fn count(&mut self, evidence: &Evidence, is_judged: bool) {
        match evidence.test {
            Test::Error => {
                add_each(&mut self.since_began, &evidence.all);
                if evidence.revision == self.revision && is_judged {
                    add_each(&mut self.since_set, &evidence.all);
                }
            }
            Test::Unanswered => add_each(&mut self.unanswered, &evidence.units),
            Test::Slow(number) if usize::from(number) == self.shown_bound() => {
                add_each(&mut self.slow_shares, &evidence.units);
            }
            Test::Slow(_) => {}
        }
    }

    /// The bound at which slow answers are shown: the 95th percentile, or the one that was given.
    pub fn shown_bound(&self) -> usize {
        self.bounds.slow.iter().position(|bound| bound.permille == Some(950)).unwrap_or_default()
    }

    /// Whether the warm-up is over.
    pub const fn is_warm(&self) -> bool {
        self.warmed.over_at.is_some()
    }

    /// Whether a cold start is over before this epoch.
    fn is_after_warm_up(&mut self, evidence: &Evidence, guard: &Guard) -> bool {
        let warmed = &mut self.warmed;
        if warmed.over_at.is_none() && (warmed.since.is_none() || evidence.epoch > warmed.up_to) {
            let since = *warmed.since.get_or_insert(evidence.epoch);
            let more = evidence.all.get(self.candidate).total;
            let is_long_enough = evidence.epoch.end() >= since.end().plus(guard.warm_up.r#for);
            if warmed.requests >= guard.warm_up.requests && is_long_enough {
                warmed.over_at = Some(evidence.epoch);
            }
            warmed.requests = warmed.requests.saturating_add(more);
            warmed.up_to = evidence.epoch;
        }
        // One test may be ahead of another.
        warmed.over_at.is_some_and(|over_at| evidence.epoch >= over_at)
    }

    /// Lets the test have its evidence, and gives what it does not credit.
    fn test(&mut self, evidence: &Evidence, guard: &Guard) -> u64 {
        let share = f64::from(evidence.share.hundredths()) / 10_000.0;
        let share = match self.stage {
            Stage::Promoted(at) if evidence.revision >= at => 1.0 - share,
            _ => share,
        };
        let watched = (self.candidate, share);
        match evidence.test {
            Test::Error => self.error.observe(guard.error.max_increase, evidence, watched),
            Test::Unanswered => self.no_answer.observe(guard.unanswered.max_increase, evidence, watched),
            Test::Slow(number) => {
                let (Some(rule), place) = (guard.slow, usize::from(number)) else { return 0 };
                if self.slow.len() <= place {
                    self.slow.resize_with(place.saturating_add(1), SequentialTest::default);
                }
                self.slow.get_mut(place).map_or(0, |test| test.observe(rule.max_increase, evidence, watched))
            }
        }
    }

    fn show(&mut self, evidence: &Evidence, margin: Option<f64>) {
        let Some(margin) = margin else {
            self.no_worse = None;
            return;
        };
        if !self.no_worse.as_ref().is_some_and(|bet| bet.is_about(margin, evidence.revision)) {
            self.no_worse = Some(NoWorse::new(margin, evidence.revision));
        }
        if let Some(bet) = &mut self.no_worse {
            bet.observe(evidence, self.candidate);
        }
    }

    /// How much has been shown, for requests that follow `revision`, of the candidate being worse by less than `margin`: an
    /// e-value.
    pub fn shown_no_worse(&self, margin: f64, revision: Revision) -> f64 {
        let bet = self.no_worse.as_ref().filter(|bet| bet.is_about(margin, revision));
        bet.map_or(1.0, NoWorse::e_value)
    }

    /// Takes what came of comparing answers, of all who compare, and concludes.
    pub fn play_answers(&mut self, all: Excess, guard: &Guard, now: Timestamp) {
        if self.over {
            return;
        }
        self.answers.all = all;
        if self.breach.is_none() && guard.disagreement.is_some() && self.combined(guard) >= 1.0 / guard.alpha() {
            self.breach = Some((self.strongest(guard, SequentialTest::now), now));
        }
    }

    /// Whether it has been shown that a step will not see the agreement that it waits for.
    pub const fn is_hopeless(&self) -> bool {
        self.answers.hopeless_since.is_some()
    }

    /// The same analysis, which begins with these answers.
    #[must_use]
    pub fn knowing(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    /// An operator has seen what came of comparing answers, and lets the rollout go on: what comes from now on counts.
    #[must_use]
    pub fn forgiven(&self) -> Answers {
        Answers { seen: self.answers.all, ..self.answers }
    }

    fn broken(&mut self, evidence: &Evidence, guard: &Guard) -> Option<Rule> {
        if evidence.test == Test::Error {
            self.at_limit = self.last_answers.beyond(guard.error, evidence.share == Percent::ALL);
            if self.at_limit.is_some() {
                return Some(Rule::MaxRate);
            }
        }
        if self.combined(guard) < 1.0 / guard.alpha() {
            return None;
        }
        Some(self.strongest(guard, SequentialTest::now))
    }

    /// The rule that says most against the watched colour, by the e-value as it stands or by the largest that it has had.
    fn strongest(&self, guard: &Guard, of: fn(&SequentialTest) -> f64) -> Rule {
        let part = |rule: Rule| weight(rule, guard) * self.figure(rule, guard, of);
        let strongest = Rule::TESTED.into_iter().max_by(|one, other| part(*one).total_cmp(&part(*other)));
        strongest.unwrap_or(Rule::Error)
    }

    /// The rule that was broken, or the one that has said most against the watched colour.
    pub fn telling_rule(&self, guard: &Guard) -> Rule {
        self.breach.map_or_else(|| self.strongest(guard, SequentialTest::e_value), |(rule, _)| rule)
    }

    /// The e-value of all rules together: the mean of theirs, by their weights. A rule is broken when it reaches one over the
    /// chance that is allowed.
    pub fn combined(&self, guard: &Guard) -> f64 {
        Rule::TESTED.map(|rule| weight(rule, guard) * self.figure(rule, guard, SequentialTest::now)).iter().sum()
    }

    /// The largest e-value that a rule has had, 1 at least.
    pub fn e_value(&self, rule: Rule, guard: &Guard) -> f64 {
        self.figure(rule, guard, SequentialTest::e_value)
    }

    /// A figure of a rule's test, or the mean of those at all bounds.
    fn figure(&self, rule: Rule, guard: &Guard, of: fn(&SequentialTest) -> f64) -> f64 {
        match rule {
            Rule::Error => of(&self.error),
            Rule::Unanswered => of(&self.no_answer),
            Rule::Slow => {
                let bounds = slow_bounds(guard);
                let begun: f64 = self.slow.iter().map(of).sum();
                (begun + bounds - self.slow.len() as f64) / bounds
            }
            Rule::MaxRate => 0.0,
            Rule::Disagreement => {
                let most = guard.disagreement.map(|rule| rule.max_excess);
                most.map_or(1.0, |most| self.answers.counted().disagreement_e_value(most))
            }
        }
    }

    /// The test of slow answers that says most against the watched colour, with its place among the bounds.
    pub fn slowest(&self) -> Option<(usize, &SequentialTest)> {
        self.slow.iter().enumerate().max_by(|(_, one), (_, other)| one.e_value().total_cmp(&other.e_value()))
    }
}

/// How many bounds the rule about slow answers has, or will have. Of those that are not settled yet each counts 1.
fn slow_bounds(guard: &Guard) -> f64 {
    if guard.slow.is_some_and(|rule| rule.over == Over::Auto) { Bounds::AUTO as f64 } else { 1.0 }
}

/// What a rule's e-value counts in the mean. All weights add up to 1.
pub fn weight(rule: Rule, guard: &Guard) -> f64 {
    // With a rule about answers half of the chance is its own.
    let of_traffic = if guard.disagreement.is_some() { 0.5 } else { 1.0 };
    of_traffic
        * match (rule, guard.slow) {
            (Rule::Error, Some(_)) => 0.5,
            (Rule::Unanswered | Rule::Slow, Some(_)) => 0.25,
            (Rule::Error, None) => 2.0 / 3.0,
            (Rule::Unanswered, None) => 1.0 / 3.0,
            (Rule::Disagreement, _) if guard.disagreement.is_some() => 1.0,
            (Rule::Slow, None) | (Rule::MaxRate | Rule::Disagreement, _) => 0.0,
        }
}

/// Whether there is something to watch in this state. `compares` is whether the answers to copied requests are compared.
pub fn is_watched(state: &State, compares: bool) -> bool {
    state.split.canary_percent > Percent::ZERO || (compares && state.split.shadow_percent > Percent::ZERO)
}

// === impl Answers ===

impl Answers {
    /// What counts.
    pub fn counted(&self) -> Excess {
        self.all.since(&self.seen)
    }
}

// === impl Rule ===

impl Rule {
    /// Those that are tests, and not a limit.
    const TESTED: [Self; 4] = [Self::Error, Self::Unanswered, Self::Slow, Self::Disagreement];

    /// The name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rule::Error => "error",
            Rule::Unanswered => "unanswered",
            Rule::Slow => "slow",
            Rule::MaxRate => "max_rate",
            Rule::Disagreement => "disagreement",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::*;
    use crate::guard::evidence::evidence;
    use crate::metrics::cohorts::{Draw, Ending, Host, Kind, SeenKeys};
    use crate::testing::{MemoryStore, iris, split};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn guard(json: &str) -> Guard {
        json::from_str(json).expect("valid")
    }

    fn begin(guard: &Guard) -> CanaryAnalysis {
        CanaryAnalysis::advance(None, &State::initial(split("blue", "10", "0"), NOW), Some(guard), false, NOW)
            .expect("a canary")
    }

    fn play(analysis: &mut CanaryAnalysis, guard: &Guard, test: Test, pieces: &[(u64, [(u64, u64); 2])]) {
        for (number, [blue, green]) in pieces {
            let outcomes = |(total, bad): &(u64, u64)| Outcomes::new(*total, *bad);
            analysis.play(&evidence(test, *number, outcomes(blue), outcomes(green)), guard, None, NOW);
        }
    }

    #[test]
    fn a_cold_start_is_counted_and_not_judged() {
        let rules = guard("{}");
        let mut analysis = begin(&rules);
        let cold: Vec<_> = (1..=5).map(|number| (number, [(90, 0), (2, 2)])).collect();
        play(&mut analysis, &rules, Test::Error, &cold);
        assert_eq!((analysis.since_began.green, analysis.breach), (Outcomes::new(10, 10), None));
        assert!(analysis.error.e_value() <= 1.0);
        // A test that is ahead must not end the warm-up for one that is behind.
        let mut analysis = begin(&rules);
        play(
            &mut analysis,
            &rules,
            Test::Unanswered,
            &[(1, [(90, 0), (9, 0)]), (2, [(90, 0), (9, 0)]), (3, [(90, 0), (9, 0)])],
        );
        play(&mut analysis, &rules, Test::Error, &[(1, [(90, 0), (9, 9)]), (2, [(90, 0), (9, 9)])]);
        assert!(analysis.is_warm() && analysis.error.e_value() <= 1.0);
        play(&mut analysis, &rules, Test::Error, &[(3, [(90, 0), (9, 9)])]);
        assert_eq!(analysis.breach.map(|(rule, _)| rule), Some(Rule::Error));
    }

    #[test]
    fn a_warm_up_may_last_for_a_time() {
        let rules = guard(r#"{"warm_up": {"requests": 0, "for": "1s"}}"#);
        let mut analysis = begin(&rules);
        play(&mut analysis, &rules, Test::Error, &[(1, [(90, 0), (9, 9)]), (4, [(90, 0), (9, 9)])]);
        assert_eq!(analysis.breach, None);
        play(&mut analysis, &rules, Test::Error, &[(5, [(90, 0), (9, 9)])]);
        assert!(analysis.breach.is_some());
    }

    #[test]
    fn each_rule_breaks_by_itself_and_they_break_together() {
        let json = r#"{"warm_up": {"requests": 0}, "slow": {"over": "1s", "max_increase": 0}}"#;
        let rules = guard(json);
        let bad = |test: Test| {
            let mut analysis = begin(&rules);
            let pieces: Vec<_> = (1..=400).map(|number| (number, [(90, 0), (10, 5)])).collect();
            play(&mut analysis, &rules, test, &pieces);
            analysis.breach.map(|(rule, _)| rule)
        };
        let cases = [(Test::Error, Rule::Error), (Test::Unanswered, Rule::Unanswered), (Test::Slow(0), Rule::Slow)];
        for (test, rule) in cases {
            assert_eq!(bad(test), Some(rule), "{test:?}");
        }
        let total: f64 = [Rule::Error, Rule::Unanswered, Rule::Slow].map(|rule| weight(rule, &rules)).iter().sum();
        assert!((total - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_rule_that_is_pushed_judges_what_is_judged_from_then_on() {
        let (without, with) = (guard("{}"), guard(r#"{"error": {"count_4xx": true}}"#));
        let (mut cohorts, mut analysis) = (Cohorts::default(), begin(&without));
        let mut errors = 0;
        for tick in 0..40 {
            let now = NOW.plus(Duration::from_millis(250 * tick));
            for number in 0..20 {
                let colour = if number % 2 == 0 { Colour::Green } else { Colour::Blue };
                let when = (now, Revision::ZERO, split("blue", "50", "0").canary_percent);
                let ticket = cohorts.begin(when, colour, Draw::Request, &mut SeenKeys::default());
                // Both colours have refused half of their requests for a long time.
                let wrong = (number % 4 < 2).then_some(Kind::Rejected);
                cohorts.end(ticket, Ending::Answered { wrong, host: Host(1), latency: Duration::ZERO });
            }
            let rules = if tick < 20 { &without } else { &with };
            for piece in analysis.collect(&cohorts, rules, now) {
                analysis.play(&piece, rules, None, now);
            }
            errors = analysis.since_began.green.bad;
        }
        assert!(errors > 50 && errors < 120, "{errors}");
        assert!(analysis.error.e_value() < 2.0 && analysis.breach.is_none(), "{}", analysis.error.e_value());
    }

    #[test]
    fn when_the_clock_is_set_what_is_under_way_is_left_out_and_the_test_goes_on() {
        let rules = guard(r#"{"warm_up": {"requests": 0}}"#);
        for hours in [-1_i64, 1] {
            let (mut cohorts, mut analysis) = (Cohorts::default(), begin(&rules));
            let begin = |cohorts: &mut Cohorts, now: Timestamp| {
                let when = (now, Revision::ZERO, split("blue", "10", "0").canary_percent);
                cohorts.begin(when, Colour::Green, Draw::Request, &mut SeenKeys::default())
            };
            for _ in 0..20 {
                begin(&mut cohorts, NOW);
            }
            let mut look = |cohorts: &Cohorts, now: Timestamp| {
                for piece in analysis.collect(cohorts, &rules, now) {
                    analysis.play(&piece, &rules, None, now);
                }
                analysis.unanswered.green
            };
            look(&cohorts, NOW);
            let set = Timestamp::from_millis(NOW.as_millis().saturating_add_signed(hours * 3_600_000));
            assert_eq!(look(&cohorts, set), Outcomes::default(), "{hours}");
            cohorts.retire(set);
            let later = set.plus(Duration::from_secs(1));
            let ticket = begin(&mut cohorts, later);
            let answered = Ending::Answered { wrong: None, host: Host(1), latency: Duration::ZERO };
            cohorts.end(ticket, answered);
            let much_later = later.plus(Duration::from_secs(1));
            assert_eq!(look(&cohorts, much_later), Outcomes::new(1, 0), "{hours}");
        }
    }

    #[test]
    fn an_analysis_is_kept_for_the_next_leader_and_a_foreign_value_is_none() {
        let store = MemoryStore::default();
        assert_eq!(read(&store, &iris()), None);
        let rules = guard(r#"{"slow": {"over": "auto"}}"#);
        let mut analysis = begin(&rules);
        play(&mut analysis, &rules, Test::Error, &[(1, [(90, 0), (10, 1)]), (2, [(90, 0), (10, 1)])]);
        record(&store, &iris(), &analysis).expect("in reach");
        let read_back = read(&store, &iris()).expect("there");
        assert_eq!(read_back.since_began, analysis.since_began);
        assert!((read_back.error.e_value() - analysis.error.e_value()).abs() < 1e-9);
        store.put("bluegreen/v1/iris/watch", b"\xff");
        assert_eq!(read(&store, &iris()), None);
    }
}
