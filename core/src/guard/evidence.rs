//! What the cohorts of requests say to each test: a few numbers for each quarter of a second.
//!
//! A test takes them in the order in which the requests began, each once: as soon as all is known that it asks, or when the
//! horizon has passed. In a fleet each Envoy does this for its own requests, and the sums are what the Envoys tell each other.

use std::time::Duration;

use serde::Serialize;

use super::bounds::{Bound, Bounds, SETTLED};
use super::outcomes::{Outcomes, add_each};
use crate::config::{ErrorRule, Guard};
use crate::json::FromJson;
use crate::metrics::cohorts::{Bad, Cohort, Cohorts, Epoch, Fates, Host, Kind, Slot};
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::split::Revision;
use crate::model::time::Timestamp;

/// What one test has to know about the requests that began in an epoch under one revision.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Evidence {
    /// For which test.
    pub test: Test,
    /// When the requests began.
    pub epoch: Epoch,
    /// The state that they followed.
    pub revision: Revision,
    /// The candidate's share in it.
    pub share: Percent,
    /// Requests that are evidence each for itself. In the test of errors the first requests of keys are none: there each
    /// key's first failure is.
    pub units: PerColour<Outcomes>,
    /// First requests of keys, in the test of errors.
    #[serde(default)]
    pub firsts: PerColour<Outcomes>,
    /// All requests.
    pub all: PerColour<Outcomes>,
    /// The hosts that were asked, and how many bad units each gave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<(Colour, Host, u64)>,
    /// Keys of which requests were bad, in the test of errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(Colour, Slot, Host)>,
}

/// How far the cohorts have been turned into evidence, for each test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Collector {
    taken: Vec<(Test, (Epoch, Revision))>,
    looked_at: Option<Timestamp>,
}

/// One looks several times a second. When nobody did for so long, the leader is another one, or the clock was set.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Of errors.
    Error,
    /// Of requests that get no answer.
    Unanswered,
    /// Of slow answers: above the bound with this number, of those that the rule has.
    Slow(u8),
}

// === impl Test ===

impl Test {
    /// Those of a guard that has so many bounds.
    pub fn all(bounds: &Bounds) -> impl Iterator<Item = Test> {
        let slow = (0..bounds.slow.len()).filter_map(|number| u8::try_from(number).ok());
        [Test::Error, Test::Unanswered].into_iter().chain(slow.map(Test::Slow))
    }
}

// === impl Collector ===

impl Collector {
    /// The evidence that has become known, of cohorts that followed the revision `from` or a later one. Each piece is given
    /// once, in the order in which the requests began.
    pub fn collect(
        &mut self,
        cohorts: &Cohorts,
        from: Revision,
        (guard, bounds): (&Guard, &Bounds),
        now: Timestamp,
    ) -> Vec<Evidence> {
        let has_lost_time = self.has_lost_time(now);
        self.looked_at = Some(now);
        if has_lost_time {
            // What is under way is left out, of both colours alike.
            let tests =
                [Test::Error, Test::Unanswered].into_iter().chain((0..=u8::MAX).map(Test::Slow).take(Bounds::AUTO));
            self.taken = tests.map(|test| (test, (Epoch::of(now), from))).collect();
        }
        let mut found = Vec::new();
        for test in Test::all(bounds) {
            for cohort in cohorts.all() {
                let place = (cohort.epoch, cohort.revision);
                if cohort.revision < from || self.taken(test).is_some_and(|taken| place <= taken) {
                    continue;
                }
                if now < cohort.epoch.end().plus(SETTLED) {
                    break;
                }
                let settled = match test {
                    Test::Error => {
                        let is_known = cohort.is_over() || is_past_horizon(cohort, (guard, bounds), now);
                        is_known.then(|| Some(errors(cohort, guard.error)))
                    }
                    Test::Unanswered => {
                        let is_known = cohort.has_heads() || is_past_horizon(cohort, (guard, bounds), now);
                        is_known.then(|| Some(unanswered(cohort)))
                    }
                    Test::Slow(number) => bounds.slow.get(usize::from(number)).and_then(|bound| {
                        let is_known = bound.settles(cohort, now) || !bound.applies_to(cohort);
                        is_known.then(|| bound.applies_to(cohort).then(|| slow(cohort, bound, number)))
                    }),
                };
                // What began later waits: a test takes the requests in their order.
                let Some(evidence) = settled else { break };
                self.take(test, place);
                found.extend(evidence);
            }
        }
        found
    }

    /// Whether nobody has looked for a while, or the clock was set. Then nobody knows how long what is under way has been so.
    pub fn has_lost_time(&self, now: Timestamp) -> bool {
        self.looked_at.is_some_and(|before| now < before || now > before.plus(LONGEST_GAP))
    }

    /// The last epoch of which all evidence for a test has been given.
    pub fn settled(&self, test: Test, cohorts: &Cohorts, from: Revision, now: Timestamp) -> Epoch {
        let taken = self.taken(test);
        let waits = |cohort: &&Cohort| {
            cohort.revision >= from && taken.is_none_or(|taken| (cohort.epoch, cohort.revision) > taken)
        };
        let next = cohorts.all().iter().find(waits).map_or(Epoch::of(now.minus(SETTLED)), |cohort| cohort.epoch);
        Epoch::numbered(next.number().saturating_sub(1))
    }

    fn taken(&self, test: Test) -> Option<(Epoch, Revision)> {
        self.taken.iter().find(|(of, _)| *of == test).map(|(_, place)| *place)
    }

    fn take(&mut self, test: Test, place: (Epoch, Revision)) {
        match self.taken.iter_mut().find(|(of, _)| *of == test) {
            Some((_, taken)) => *taken = place,
            None => self.taken.push((test, place)),
        }
    }
}

fn is_past_horizon(cohort: &Cohort, (guard, bounds): (&Guard, &Bounds), now: Timestamp) -> bool {
    now >= cohort.epoch.end().plus(bounds.horizon(guard))
}

/// What is still under way has not failed.
fn errors(cohort: &Cohort, rule: ErrorRule) -> Evidence {
    let is_error = |bad: &Bad| match bad.kind {
        Kind::Failed => true,
        Kind::Rejected => rule.count_4xx,
        Kind::Retried => rule.count_retries,
        Kind::Left => false,
    };
    let count = |fates: &Fates, wanted: &dyn Fn(&Bad) -> bool| sum(fates, &|bad| is_error(bad) && wanted(bad));
    let drawn = |bad: &Bad| bad.is_unit && bad.key.is_none();
    let mut evidence = Evidence::of(Test::Error, cohort);
    for colour in Colour::ALL {
        let fates = cohort.colours.get(colour);
        *evidence.units.get_mut(colour) = Outcomes::new(fates.drawn, count(fates, &drawn));
        let is_first = |bad: &Bad| bad.is_unit && bad.key.is_some();
        *evidence.firsts.get_mut(colour) = Outcomes::new(fates.firsts, count(fates, &is_first));
        *evidence.all.get_mut(colour) = Outcomes::new(fates.total, count(fates, &|_| true));
        evidence.add_hosts(colour, fates, &|bad| is_error(bad) && drawn(bad));
        let keys = fates.bad.iter().filter(|bad| is_error(bad));
        evidence.keys.extend(keys.filter_map(|bad| Some((colour, bad.key?, bad.host))));
    }
    evidence
}

/// What has no head yet will get none.
fn unanswered(cohort: &Cohort) -> Evidence {
    let mut evidence = Evidence::of(Test::Unanswered, cohort);
    for colour in Colour::ALL {
        let fates = cohort.colours.get(colour);
        let left = sum(fates, &|bad| bad.kind == Kind::Left && bad.is_unit);
        *evidence.units.get_mut(colour) = Outcomes::new(fates.units(), left.saturating_add(fates.waiting));
        let all = sum(fates, &|bad| bad.kind == Kind::Left).saturating_add(fates.waiting);
        *evidence.all.get_mut(colour) = Outcomes::new(fates.total, all);
        evidence.add_hosts(colour, fates, &|bad| bad.kind == Kind::Left && bad.is_unit);
    }
    evidence
}

/// What has been under way for longer than the bound is slow. Who left before that has not seen whether it is.
fn slow(cohort: &Cohort, bound: &Bound, number: u8) -> Evidence {
    let mut evidence = Evidence::of(Test::Slow(number), cohort);
    for colour in Colour::ALL {
        let (fates, above) = (cohort.colours.get(colour), *bound.above.get(colour));
        let (timed, late) = (fates.latency.total(), fates.latency.above(above));
        let waited = fates.gone.above(above).saturating_add(fates.untimed);
        let units = Outcomes::new(timed.saturating_add(waited), late.saturating_add(waited));
        *evidence.units.get_mut(colour) = units;
        *evidence.all.get_mut(colour) = Outcomes::new(fates.total, units.bad);
    }
    evidence
}

fn sum(fates: &Fates, wanted: &dyn Fn(&Bad) -> bool) -> u64 {
    fates.bad.iter().filter(|bad| wanted(bad)).fold(0, |sum, bad| sum.saturating_add(bad.count))
}

// === impl Evidence ===

impl Evidence {
    fn of(test: Test, cohort: &Cohort) -> Self {
        Self {
            test,
            epoch: cohort.epoch,
            revision: cohort.revision,
            share: cohort.share,
            units: PerColour::default(),
            firsts: PerColour::default(),
            all: PerColour::default(),
            hosts: Vec::new(),
            keys: Vec::new(),
        }
    }

    fn add_hosts(&mut self, colour: Colour, fates: &Fates, is_bad: &dyn Fn(&Bad) -> bool) {
        let known = fates.hosts.iter().map(|host| (colour, *host, 0));
        let bad = fates.bad.iter().filter(|bad| is_bad(bad)).map(|bad| (colour, bad.host, bad.count));
        for (colour, host, count) in known.chain(bad) {
            self.add_host(colour, host, count);
        }
    }

    fn add_host(&mut self, colour: Colour, host: Host, count: u64) {
        match self.hosts.iter_mut().find(|(of, known, _)| (*of, *known) == (colour, host)) {
            Some((_, _, sum)) => *sum = sum.saturating_add(count),
            None => self.hosts.push((colour, host, count)),
        }
    }

    /// Adds what another Envoy of the fleet says about the same epoch, revision and test.
    pub fn merge(&mut self, other: &Self) {
        add_each(&mut self.units, &other.units);
        add_each(&mut self.firsts, &other.firsts);
        add_each(&mut self.all, &other.all);
        for (colour, host, count) in &other.hosts {
            self.add_host(*colour, *host, *count);
        }
        self.keys.extend(&other.keys);
    }
}

/// Evidence of the epoch with this number about both colours, as tests make it up.
#[cfg(test)]
pub fn evidence(test: Test, number: u64, blue: Outcomes, green: Outcomes) -> Evidence {
    let outcomes = PerColour { blue, green };
    Evidence {
        test,
        epoch: Epoch::of(Timestamp::from_millis(250 * number)),
        revision: Revision::ZERO,
        share: Percent::from_hundredths(1_000).unwrap_or(Percent::ZERO),
        units: outcomes,
        firsts: PerColour::default(),
        all: outcomes,
        // Ten hosts each, so that nothing is taken for one host's doing.
        hosts: [Colour::Blue, Colour::Green]
            .into_iter()
            .flat_map(|colour| (1..=10).map(move |host| (colour, Host(host), 0)))
            .collect(),
        keys: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::metrics::cohorts::{Draw, Ending, SeenKeys, Ticket};
    use crate::testing::percent;

    const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    fn guard(json: &str) -> Guard {
        json::from_str(json).expect("valid")
    }

    #[derive(Default)]
    struct World {
        cohorts: Cohorts,
        seen: SeenKeys,
        collector: Collector,
    }

    impl World {
        fn begin(&mut self, at: u64, colour: Colour, draw: Draw) -> Ticket {
            let when = (later(at), Revision::ZERO, percent("10"));
            self.cohorts.begin(when, colour, draw, &mut self.seen)
        }

        fn answer(&mut self, ticket: Ticket, wrong: Option<Kind>, millis: u64) {
            let latency = Duration::from_millis(millis);
            self.cohorts.end(ticket, Ending::Answered { wrong, host: Host(1), latency });
        }

        fn collect(&mut self, guard: &Guard, at: u64) -> Vec<Evidence> {
            self.collector.collect(&self.cohorts, Revision::ZERO, (guard, &Bounds::new(Some(guard))), later(at))
        }

        fn green(&mut self, guard: &Guard, at: u64, test: Test) -> Vec<Outcomes> {
            let of_test = |evidence: Evidence| (evidence.test == test).then_some(evidence.units.green);
            self.collect(guard, at).into_iter().filter_map(of_test).collect()
        }
    }

    fn later(millis: u64) -> Timestamp {
        START.plus(Duration::from_millis(millis))
    }

    #[test]
    fn what_ends_late_counts_where_it_began_and_what_began_later_waits() {
        let (rules, mut world) = (guard("{}"), World::default());
        let slow = world.begin(0, Colour::Green, Draw::Request);
        let quick = world.begin(300, Colour::Green, Draw::Request);
        world.answer(quick, None, 5);
        assert!(world.green(&rules, 2_000, Test::Error).is_empty());
        world.answer(slow, Some(Kind::Failed), 3_000);
        assert_eq!(world.green(&rules, 3_000, Test::Error), [Outcomes::new(1, 1), Outcomes::new(1, 0)]);
        // And each only once.
        assert!(world.collect(&rules, 9_000).iter().all(|evidence| evidence.test != Test::Error));
    }

    #[test]
    fn a_test_is_settled_up_to_the_first_epoch_that_it_waits_for_and_without_requests_up_to_now() {
        let (rules, mut world) = (guard("{}"), World::default());
        let settled = |world: &mut World, at: u64| {
            world.collect(&rules, at);
            let epoch = world.collector.settled(Test::Error, &world.cohorts, Revision::ZERO, later(at));
            epoch.number().checked_sub(Epoch::of(START).number())
        };
        // What ended 600 ms ago.
        assert_eq!(settled(&mut world, 2_600), Some(7));
        let slow = world.begin(3_000, Colour::Green, Draw::Request);
        let quick = world.begin(4_000, Colour::Green, Draw::Request);
        world.answer(quick, None, 5);
        assert_eq!(settled(&mut world, 6_000), Some(11));
        world.answer(slow, None, 3_000);
        assert_eq!(settled(&mut world, 6_100), Some(21));
    }

    #[test]
    fn nothing_is_taken_before_all_workers_have_said_it() {
        let (rules, mut world) = (guard("{}"), World::default());
        let quick = world.begin(0, Colour::Green, Draw::Request);
        world.answer(quick, None, 5);
        assert!(world.collect(&rules, 500).is_empty());
        assert!(!world.collect(&rules, 1_000).is_empty());
    }

    #[test]
    fn silence_is_an_outcome_at_the_horizon_and_so_is_a_client_that_left() {
        let (rules, mut world) = (guard(r#"{"unanswered": {"after": "2s"}}"#), World::default());
        world.begin(0, Colour::Green, Draw::Request);
        let left = world.begin(0, Colour::Green, Draw::Request);
        world.cohorts.end(left, Ending::Left { host: Host(1), after: Duration::from_millis(500) });
        let mut streaming = world.begin(0, Colour::Green, Draw::Request);
        world.cohorts.on_head(&mut streaming, None);
        assert!(world.collect(&rules, 2_000).is_empty());
        let found = world.collect(&rules, 2_300);
        let units =
            |test: Test| found.iter().find(|evidence| evidence.test == test).map(|evidence| evidence.units.green);
        assert_eq!(units(Test::Unanswered), Some(Outcomes::new(3, 2)));
        // They have not failed, as far as anybody knows.
        assert_eq!(units(Test::Error), Some(Outcomes::new(3, 0)));
    }

    #[test]
    fn what_is_under_way_for_longer_than_the_bound_is_slow_already() {
        let (rules, mut world) = (guard(r#"{"slow": {"over": "500ms"}}"#), World::default());
        world.begin(0, Colour::Green, Draw::Request);
        for (millis, gone) in [(5, false), (700, false), (100, true), (900, true)] {
            let ticket = world.begin(0, Colour::Green, Draw::Request);
            let after = Duration::from_millis(millis);
            let ending = if gone {
                Ending::Left { host: Host(1), after }
            } else {
                Ending::Answered { wrong: None, host: Host(1), latency: after }
            };
            world.cohorts.end(ticket, ending);
        }
        // Of five one left before it could be told.
        assert_eq!(world.green(&rules, 1_000, Test::Slow(0)), [Outcomes::new(4, 3)]);
    }

    #[test]
    fn what_is_an_error_is_what_the_rule_says() {
        let cases =
            [("{}", 2), (r#"{"error": {"count_4xx": true}}"#, 3), (r#"{"error": {"count_retries": false}}"#, 1)];
        for (json, bad) in cases {
            let (rules, mut world) = (guard(json), World::default());
            for wrong in [None, Some(Kind::Failed), Some(Kind::Rejected), Some(Kind::Retried)] {
                let ticket = world.begin(0, Colour::Green, Draw::Request);
                world.answer(ticket, wrong, 5);
            }
            assert_eq!(world.green(&rules, 1_000, Test::Error), [Outcomes::new(4, bad)], "{json}");
        }
    }

    #[test]
    fn of_a_key_the_first_request_is_a_unit_and_every_failure_is_told() {
        let (rules, mut world) = (guard("{}"), World::default());
        for (key, wrong) in [(1_u64, None), (1, Some(Kind::Failed)), (2, Some(Kind::Failed))] {
            let ticket = world.begin(0, Colour::Green, Draw::Key(key << 52));
            world.answer(ticket, wrong, 5);
        }
        let found = world.collect(&rules, 1_000);
        let errors = found.iter().find(|evidence| evidence.test == Test::Error).expect("settled");
        assert_eq!((errors.units.green, errors.firsts.green), (Outcomes::default(), Outcomes::new(2, 1)));
        assert_eq!((errors.all.green, errors.keys.len()), (Outcomes::new(3, 2), 2));
        let silence = found.iter().find(|evidence| evidence.test == Test::Unanswered).expect("settled");
        assert_eq!(silence.units.green, Outcomes::new(2, 0));
    }

    #[test]
    fn envoys_add_up() {
        let mut sum = evidence(Test::Error, 1, Outcomes::new(10, 1), Outcomes::new(5, 1));
        let mut other = evidence(Test::Error, 1, Outcomes::new(20, 0), Outcomes::new(1, 0));
        other.hosts = vec![(Colour::Green, Host(1), 2), (Colour::Green, Host(11), 0)];
        sum.merge(&other);
        assert_eq!((sum.units.blue, sum.units.green), (Outcomes::new(30, 1), Outcomes::new(6, 1)));
        assert_eq!(sum.hosts.len(), 21);
        assert!(sum.hosts.contains(&(Colour::Green, Host(1), 2)));
    }
}
