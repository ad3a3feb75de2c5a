//! Several Envoys with one etcd in memory, tick by tick.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::config::Config;
use crate::etcd::model::{Fate, Model};
use crate::etcd::store::number;
use crate::json;
use crate::metrics::cohorts::{Draw, Ending, Host as Upstream, Kind, SeenKeys};
use crate::model::author::Source;
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::time::TICK;
use crate::shadow::excess::Excess;
use crate::shadow::record::Compared;
use crate::store::Store;
use crate::store::record::ReplacePolicy;
use crate::testing::host::poll_once;
use crate::testing::host::{START, TestHost};
use crate::testing::{config_of, iris, split};
use crate::workers::comparer::Notes;
use crate::workers::roster::Member;
use std::task::Poll;

const STATE: &str = "/bluegreen/iris";
const JUDGEMENT: &str = "/bluegreen/~canary/iris/judgement";
const STATEMENTS: &str = "/bluegreen/~canary/iris/envoy/";

struct Envoy {
    host: Rc<TestHost>,
    context: Rc<Context>,
    submissions: Rc<Submissions>,
    seat: Rc<Seat>,
    member: Member,
    cohorts: Cohorts,
    /// Envoys fail at other times and on other hosts.
    number: u32,
    /// The parts of the next request and the next failure of each colour.
    due: PerColour<(f64, f64)>,
    /// What becomes of its calls.
    fate: Fate,
    is_running: bool,
    is_idle: bool,
    /// Requests in a tick.
    traffic: f64,
    /// Requests of both colours up to now.
    sent: u64,
    calls: usize,
}

struct Fleet {
    etcd: Model,
    envoys: Vec<Envoy>,
}

// === impl Envoy ===

impl Envoy {
    fn start(config: &Config, number: u32) -> Self {
        let host = Rc::new(TestHost::default());
        let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), config, None));
        let instance = context.instance;
        Self {
            submissions: Rc::new(Submissions::new(&context)),
            seat: Rc::default(),
            member: Member::enrol(&host.store, &*host, instance, instance.get(), START).expect("in reach"),
            cohorts: Cohorts::default(),
            number,
            due: PerColour::from_fn(|_| (0.0, (0.37 * f64::from(number)).fract())),
            fate: Fate::Answered,
            is_running: true,
            is_idle: false,
            traffic: 20.0,
            sent: 0,
            calls: 0,
            host,
            context,
        }
    }

    fn state(&self) -> State {
        record::load(&self.host.store, &iris(), split("blue", "0", "0"), START).expect("in reach").state
    }

    /// A tick's requests, each of which is over at once.
    fn serve(&mut self, fails: PerColour<f64>) {
        let (now, state) = (self.host.now(), self.state());
        let share = f64::from(state.split.canary_percent.hundredths()) / 10_000.0;
        for (colour, part) in [(Colour::Blue, 1.0 - share), (Colour::Green, share)] {
            if share == 0.0 {
                continue;
            }
            let (requests, errors) = self.due.get_mut(colour);
            *requests += self.traffic * part;
            for _ in 0..*requests as u64 {
                let when = (now, state.revision, state.split.canary_percent);
                let ticket = self.cohorts.begin(when, colour, Draw::Request, &mut SeenKeys::default());
                *errors += fails.get(colour);
                let wrong = (*errors >= 1.0).then_some(Kind::Failed);
                *errors -= errors.floor();
                let place = xxhash_rust::xxh64::xxh64(&self.sent.to_le_bytes(), self.number.into()) % 4;
                let host = Upstream(1 + u16::try_from(place).expect("small"));
                self.cohorts.end(ticket, Ending::Answered { wrong, host, latency: Duration::from_millis(20) });
                self.sent += 1;
            }
            *requests -= requests.floor();
        }
        self.cohorts.retire(now);
        let record = serde_json::json!({"number": self.member.number, "cohorts": self.cohorts});
        let key = Key::Cohorts(&iris(), self.member.slot).to_string();
        self.host.store.put(&key, record.to_string().as_bytes());
    }

    /// Its leader's tick, and the answers to all that it asks for.
    fn tick(&mut self, etcd: &mut Model) {
        self.host.tick();
        let deployment = &self.context.deployments.all()[0];
        self.is_idle = attend(&self.context, &self.submissions, (0, deployment), &self.state(), &self.seat);
        self.host.tasks.run();
        loop {
            let Some((call, waiter)) = self.host.grpc.borrow_mut().pop() else { return };
            self.calls += 1;
            let _: Result<(), _> = waiter.send(etcd.call(&call, self.fate));
            self.host.tasks.run();
        }
    }

    /// Its workers have found this by comparing answers.
    fn has_found(&self, excess: Excess) {
        let about = Some(About::of(&self.context.deployments.all()[0], &self.state()));
        let mut compared = Compared::default();
        compared.excess.merge(&excess);
        let notes = Notes { about, compared, ..Notes::default() };
        let record = serde_json::json!({"number": self.member.number, "notes": notes});
        self.host.store.put(&Key::Comparisons(&iris(), self.member.slot).to_string(), record.to_string().as_bytes());
    }

    fn analysis(&self) -> Option<CanaryAnalysis> {
        analysis::read(&self.host.store, &iris())
    }

    /// How many requests have been played, as far as this Envoy knows.
    fn played(&self) -> u64 {
        let requests = self.analysis().map(|analysis| analysis.since_began).unwrap_or_default();
        requests.blue.total + requests.green.total
    }
}

// === impl Fleet ===

impl Fleet {
    /// So many Envoys with a canary of 10 %.
    fn start(envoys: u32, sections: &str) -> Self {
        let mut config = config_of(sections);
        config.etcd = json::from_str(r#"{"cluster": "etcd"}"#).expect("valid");
        let mut fleet = Self { etcd: Model::default(), envoys: Vec::new() };
        let envoys = (0..envoys).map(|number| Envoy::start(&config, number));
        fleet.envoys.extend(envoys);
        let state = State::initial(split("blue", "10", "0"), START);
        let colours = &fleet.envoys[0].context.deployments.all()[0].colours;
        fleet.etcd.put(STATE, &state.knowing(colours).encode());
        fleet
    }

    fn pass(&mut self, seconds: u64, blue: f64, green: f64) {
        for _ in 0..4 * seconds {
            self.tick(PerColour { blue, green });
        }
    }

    fn tick(&mut self, fails: PerColour<f64>) {
        for envoy in self.envoys.iter_mut().filter(|envoy| envoy.is_running) {
            envoy.host.pass(TICK);
            let state = State::decode(&self.etcd.value(STATE).expect("there")).expect("a state");
            let mod_revision = number(self.etcd.mod_revision(STATE));
            record::replace(&envoy.host.store, &iris(), &state, mod_revision, ReplacePolicy::IfNewer)
                .expect("in reach");
            envoy.serve(fails);
            envoy.tick(&mut self.etcd);
        }
    }

    /// Goes on until something is true, for at most so long. How long it took.
    fn until(&mut self, seconds: u64, (blue, green): (f64, f64), what: impl Fn(&Self) -> bool) -> Duration {
        for tick in 0..4 * seconds {
            if what(self) {
                return TICK * u32::try_from(tick).expect("few");
            }
            self.tick(PerColour { blue, green });
        }
        panic!("it took more than {seconds} s: {:?}", self.state().split);
    }

    fn state(&self) -> State {
        State::decode(&self.etcd.value(STATE).expect("there")).expect("a state")
    }

    fn judgement(&self) -> Option<Judgement> {
        Judgement::decode(&self.etcd.value(JUDGEMENT)?)
    }

    /// The place of the Envoy that judges.
    fn judge(&self) -> usize {
        let judge = self.judgement().expect("judged").judge;
        let is_it = |envoy: &Envoy| {
            let id = envoy.context.fleet.as_ref().expect("a fleet").id();
            let drawn = envoy.host.store.read(&Key::Envoy(id).to_string()).expect("in reach").value;
            drawn.is_some_and(|drawn| json::from_slice::<EnvoyId>(&drawn).ok() == Some(judge))
        };
        self.envoys.iter().position(is_it).expect("one of them")
    }

    fn sent(&self) -> u64 {
        self.envoys.iter().map(|envoy| envoy.sent).sum()
    }

    fn played(&self) -> u64 {
        let requests = self.judgement().map(|judgement| judgement.analysis.since_began).unwrap_or_default();
        requests.blue.total + requests.green.total
    }

    fn is_over(&self) -> bool {
        self.state().split.canary_percent == Percent::ZERO
    }
}

/// Requests of one Envoy in a second.
const PER_SECOND: u64 = 80;

#[test]
fn what_all_envoys_saw_is_one_evidence_and_one_of_them_rolls_back() {
    let faults = (0.01, 0.06);
    let mut alone = Fleet::start(1, r#", "guard": {}"#);
    alone.envoys.iter_mut().for_each(|envoy| envoy.traffic = 5.0);
    let took_alone = alone.until(300, faults, Fleet::is_over);
    let mut fleet = Fleet::start(5, r#", "guard": {}"#);
    fleet.envoys.iter_mut().for_each(|envoy| envoy.traffic = 5.0);
    let took = fleet.until(300, faults, Fleet::is_over);
    println!("{took:?} with five Envoys, {took_alone:?} with one");
    assert!(took < took_alone / 2, "{took:?} with five Envoys, {took_alone:?} with one");
    fleet.pass(3, 0.0, 0.0);
    let state = fleet.state();
    let made: Vec<Source> = state.history.changes().map(|change| change.author.source).collect();
    assert_eq!(made, [Source::Guard]);
    let lines: Vec<String> = fleet.envoys.iter().flat_map(|envoy| envoy.host.take_log()).collect();
    assert_eq!(lines.iter().filter(|line| line.contains("broken")).count(), 1, "{lines:#?}");
    let shown: Vec<_> = fleet.envoys.iter().filter_map(Envoy::analysis).collect();
    assert!(shown.iter().all(|analysis| analysis.over && analysis.breach.is_some()), "{shown:?}");
    let seen = |analysis: &CanaryAnalysis| (analysis.breach, analysis.since_began);
    assert!(shown.len() == 5 && shown.iter().all(|analysis| seen(analysis) == seen(&shown[0])), "{shown:?}");
}

#[test]
fn each_request_is_played_once_within_seconds() {
    let mut fleet = Fleet::start(3, r#", "guard": {}"#);
    fleet.pass(30, 0.01, 0.01);
    let (played, sent) = (fleet.played(), fleet.sent());
    assert!(played <= sent && sent - played <= 3 * PER_SECOND * 4, "{played} of {sent}");
    for envoy in &fleet.envoys {
        assert!(envoy.played() + 3 * PER_SECOND >= played, "{} of {played} are known", envoy.played());
    }
}

#[test]
fn when_the_judge_dies_another_goes_on_where_it_was() {
    let mut fleet = Fleet::start(3, r#", "guard": {}"#);
    fleet.pass(20, 0.01, 0.01);
    let judge = fleet.judge();
    fleet.envoys[judge].is_running = false;
    let before = fleet.played();
    let took = fleet.until(20, (0.01, 0.01), |fleet| fleet.judge() != judge && fleet.played() > before);
    assert!(took < Duration::from_secs(8), "{took:?}");
    fleet.pass(20, 0.01, 0.01);
    let (played, sent) = (fleet.played(), fleet.sent());
    // What the dead one had not said is lost.
    assert!(played <= sent && sent - played <= 3 * PER_SECOND * 4, "{played} of {sent}");
    fleet.until(60, (0.01, 0.3), Fleet::is_over);
}

#[test]
fn a_judge_whose_answers_are_lost_and_one_that_was_cut_off_play_nothing_twice() {
    for fate in [Fate::AnswerLost, Fate::RequestLost] {
        let mut fleet = Fleet::start(3, r#", "guard": {}"#);
        fleet.pass(20, 0.01, 0.01);
        let judge = fleet.judge();
        fleet.envoys[judge].fate = fate;
        fleet.pass(8, 0.01, 0.01);
        fleet.envoys[judge].fate = Fate::Answered;
        fleet.pass(10, 0.01, 0.01);
        let (played, sent) = (fleet.played(), fleet.sent());
        assert!(played <= sent, "{fate:?}: {played} of {sent}");
        // The one that was not heard may have lost what it knew of eight seconds.
        assert!(sent - played <= PER_SECOND * 10 + 3 * PER_SECOND * 4, "{fate:?}: {played} of {sent}");
        let (played, sent) = (fleet.played(), fleet.sent());
        fleet.pass(20, 0.01, 0.01);
        assert!(fleet.played() - played + 3 * PER_SECOND * 2 >= fleet.sent() - sent, "{fate:?}: all is heard again");
    }
}

#[test]
fn what_all_envoys_find_by_comparing_answers_is_one_test() {
    let rules = r#", "guard": {"disagreement": {"max_excess": 0.02}}, "shadow": {"compare": {"safe": [{"method": "POST", "path_prefix": "/"}]}}"#;
    let some = Excess { plus: 10, zero: 90, ..Excess::default() };
    let mut fleet = Fleet::start(3, rules);
    fleet.envoys[0].has_found(some);
    // An Envoy that knows of another version speaks about something else.
    let about = Answers { about: 1, excess: Excess { plus: 1_000, ..Excess::default() } };
    assert_eq!(evidence_of(&[about, Answers { about: 2, excess: some }], 2), some);
    fleet.pass(20, 0.01, 0.01);
    assert!(!fleet.is_over(), "a third of the evidence is too little");
    fleet.envoys[1].has_found(some);
    fleet.envoys[2].has_found(some);
    fleet.until(20, (0.01, 0.01), Fleet::is_over);
    let analysis = fleet.judgement().expect("judged").analysis;
    assert_eq!(analysis.breach.map(|(rule, _)| rule), Some(analysis::Rule::Disagreement));
    assert_eq!(analysis.answers.counted().plus, 30);
}

fn evidence_of(all: &[Answers], about: u64) -> Excess {
    let statements: Vec<Statement> =
        all.iter().map(|answers| Outbox::default().statement(START, Some(*answers))).collect();
    let speakers: Vec<Speaker<'_>> =
        statements.iter().map(|statement| Speaker { statement, is_awaited: true }).collect();
    answers(&speakers, about)
}

#[test]
fn of_two_that_judge_at_once_one_is_believed() {
    let mut fleet = Fleet::start(2, r#", "guard": {}"#);
    fleet.pass(10, 0.01, 0.01);
    let state = fleet.state();
    let judgement = fleet.judgement().expect("judged");
    let last = number(fleet.etcd.mod_revision(JUDGEMENT));
    let (host, store) = (TestHost::default(), crate::etcd::model::fleet());
    let put = |judge, etcd_model: &mut Model| {
        let (name, next) = (iris(), Judgement { judge, revision: state.revision, ..judgement.clone() });
        let mut written = store.judge(&host, &name, last, &next);
        assert!(poll_once(written.as_mut()).is_pending());
        let (call, waiter) = host.grpc.borrow_mut().remove(0);
        waiter.send(etcd_model.call(&call, Fate::Answered)).expect("it waits");
        matches!(poll_once(written.as_mut()), Poll::Ready(Ok(PutReply::Made(_))))
    };
    assert!(put(EnvoyId(1), &mut fleet.etcd));
    assert!(!put(EnvoyId(2), &mut fleet.etcd));
    assert_eq!(fleet.judgement().expect("judged").judge, EnvoyId(1));
}

#[test]
fn a_judge_of_another_edition_has_its_turn_for_as_long_as_it_writes() {
    let mut fleet = Fleet::start(2, r#", "guard": {}"#);
    for number in 0..20 {
        fleet.etcd.put(JUDGEMENT, format!(r#"{{"edition": "next", "number": {number}}}"#).as_bytes());
        fleet.pass(1, 0.01, 0.01);
        assert_eq!(fleet.judgement(), None);
    }
    fleet.pass(8, 0.01, 0.01);
    assert!(fleet.played() > 0);
}

#[test]
fn who_has_no_traffic_or_cannot_speak_holds_nobody_up() {
    let mut fleet = Fleet::start(3, r#", "guard": {}"#);
    fleet.envoys[2].traffic = 0.0;
    fleet.pass(20, 0.01, 0.01);
    let behind = |fleet: &Fleet| fleet.sent() - fleet.played();
    assert!(behind(&fleet) <= 2 * PER_SECOND * 4, "{}", behind(&fleet));
    // What one says that was cut off for longer than is waited for comes too late.
    let silent = (fleet.judge() + 1) % 2;
    fleet.envoys[silent].fate = Fate::RequestLost;
    fleet.pass(20, 0.01, 0.01);
    let lost = behind(&fleet);
    assert!(lost <= PER_SECOND * 21 + PER_SECOND * 8, "{lost}");
    assert!(lost >= PER_SECOND * 15, "{lost}");
    fleet.envoys[silent].fate = Fate::Answered;
    fleet.pass(10, 0.01, 0.01);
    let still = behind(&fleet);
    assert!((PER_SECOND * 12..=lost + PER_SECOND * 4).contains(&still), "{still} after {lost}");
    fleet.until(60, (0.01, 0.3), Fleet::is_over);
}

#[test]
fn while_etcd_is_away_nothing_is_concluded_and_what_was_collected_is_played_afterwards() {
    let mut fleet = Fleet::start(2, r#", "guard": {}"#);
    fleet.pass(20, 0.01, 0.01);
    let (judgement, played) = (fleet.judgement(), fleet.played());
    fleet.envoys.iter_mut().for_each(|envoy| envoy.fate = Fate::RequestLost);
    fleet.pass(30, 0.01, 0.01);
    assert_eq!(fleet.judgement(), judgement);
    let lines: Vec<String> = fleet.envoys.iter().flat_map(|envoy| envoy.host.take_log()).collect();
    let said = lines.iter().filter(|line| line.contains("the guard waits for etcd")).count();
    assert_eq!(said, 2, "each says it once: {lines:#?}");
    fleet.envoys.iter_mut().for_each(|envoy| envoy.fate = Fate::Answered);
    fleet.pass(10, 0.01, 0.01);
    assert!(fleet.sent() - fleet.played() <= 2 * PER_SECOND * 4, "{played}, {} of {}", fleet.played(), fleet.sent());
}

#[test]
fn what_a_clock_says_that_is_wrong_by_minutes_is_left_out() {
    for minutes in [-10_i64, 10] {
        let mut fleet = Fleet::start(4, r#", "guard": {}"#);
        let off = Duration::from_secs(60 * minutes.unsigned_abs());
        let now = if minutes < 0 { START.minus(off) } else { START.plus(off) };
        // The one that would judge first.
        fleet.envoys[0].host.set_now(now);
        fleet.pass(20, 0.01, 0.01);
        assert_ne!(fleet.judge(), 0, "{minutes}");
        let right: u64 = fleet.envoys[1..].iter().map(|envoy| envoy.sent).sum();
        let played = fleet.played();
        assert!(played <= right && right - played <= 3 * PER_SECOND * 10, "{minutes}: {played} of {right}");
        fleet.until(60, (0.01, 0.3), Fleet::is_over);
    }
}

#[test]
fn clocks_a_second_apart_make_no_difference() {
    let mut fleet = Fleet::start(3, r#", "guard": {}"#);
    fleet.envoys[1].host.set_now(START.plus(Duration::from_millis(900)));
    fleet.envoys[2].host.set_now(START.minus(Duration::from_millis(900)));
    fleet.pass(30, 0.01, 0.01);
    let (played, sent) = (fleet.played(), fleet.sent());
    assert!(played <= sent && sent - played <= 3 * PER_SECOND * 6, "{played} of {sent}");
}

#[test]
fn at_the_end_nothing_is_left_but_the_judgement_and_nobody_asks_any_more() {
    let mut fleet = Fleet::start(3, r#", "guard": {}"#);
    fleet.pass(10, 0.0, 0.0);
    assert_eq!(fleet.etcd.keys(STATEMENTS).len(), 3);
    let state = fleet.state();
    let ended = State { split: split("blue", "0", "0"), revision: state.revision.next(), ..state };
    fleet.etcd.put(STATE, &ended.encode());
    fleet.pass(6, 0.0, 0.0);
    assert!(fleet.judgement().is_some_and(|judgement| judgement.analysis.over));
    assert_eq!(fleet.etcd.keys(STATEMENTS), [""; 0]);
    let calls = |fleet: &Fleet| fleet.envoys.iter().map(|envoy| envoy.calls).sum::<usize>();
    let before = calls(&fleet);
    fleet.pass(10, 0.0, 0.0);
    assert!(fleet.envoys.iter().all(|envoy| envoy.is_idle));
    assert_eq!(calls(&fleet), before);
    // And the next canary begins anew.
    let again = State { split: split("blue", "10", "0"), revision: ended.revision.next(), ..ended };
    fleet.etcd.put(STATE, &again.encode());
    fleet.pass(10, 0.0, 0.0);
    let analysis = fleet.judgement().expect("judged").analysis;
    assert!(!analysis.over && fleet.played() > 0 && fleet.played() <= 3 * PER_SECOND * 10, "{}", fleet.played());
}

#[test]
fn a_step_waits_for_the_answers_that_all_envoys_got() {
    let sections = r#", "rollout": {"steps": [{"canary_percent": 10, "hold": "1s", "min_requests": 200}]}"#;
    let mut fleet = Fleet::start(4, sections);
    fleet.pass(12, 0.0, 0.0);
    let seen = fleet.judgement().expect("judged").analysis.since_set.green.total;
    assert!(seen > 200, "{seen}: each Envoy alone has 96");
}

#[test]
fn what_is_said_has_a_bound_in_bytes() {
    let mut fleet = Fleet::start(3, r#", "guard": {"slow": {"over": "auto"}}"#);
    fleet.pass(60, 0.01, 0.01);
    let longest = fleet.etcd.keys(STATEMENTS).iter().filter_map(|key| Some(fleet.etcd.value(key)?.len())).max();
    let judgement = fleet.etcd.value(JUDGEMENT).map(|value| value.len());
    println!("a statement has up to {longest:?} bytes, the judgement {judgement:?}");
    assert!(longest.is_some_and(|bytes| bytes < 4_000), "{longest:?}");
    assert!(judgement.is_some_and(|bytes| bytes < 16_000), "{judgement:?}");
}
