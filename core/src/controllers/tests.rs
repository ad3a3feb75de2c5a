//! All flows of a configuration together: clocks that jump, and thousands of deployments.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use std::time::Duration;

use super::*;
use crate::change::submit::submit_now;
use crate::host::http::HttpReply;
use crate::model::author::Author;
use crate::model::colour::Colour;
use crate::model::name::Reason;
use crate::model::time::{TICK, Timestamp};
use crate::readiness::drain::baking_until;
use crate::state::rollout::{Phase, RolloutCommand, Shares};
use crate::state::{Command, State};
use crate::store::record;
use crate::testing::host::{START, TestHost, at_once};
use crate::testing::{config_of, iris, percent};

/// An Envoy with one worker.
struct Envoy {
    host: Rc<TestHost>,
    context: Rc<Context>,
    /// What was asked, by path.
    asked: Vec<String>,
}

/// How far the wall clock jumps, and for how long it stays there.
const JUMPS: [(i64, bool); 8] = [
    (3_600, true),
    (3_600, false),
    (-3_600, true),
    (-3_600, false),
    (3_153_600_000, true),
    (3_153_600_000, false),
    (-1_500_000_000, true),
    (-1_500_000_000, false),
];

impl Envoy {
    fn start(config: &Config) -> Self {
        let host = Rc::new(TestHost::default());
        let context = Rc::new(Context::new(Rc::<TestHost>::clone(&host), config, None));
        let submissions = Rc::new(Submissions::new(&context));
        start(&context, &submissions, config);
        let mut envoy = Self { host, context, asked: Vec::new() };
        envoy.pass(Duration::from_secs(1));
        envoy
    }

    /// Lets time pass, tick by tick, with every colour well and a registry that is away.
    fn pass(&mut self, span: Duration) {
        let ticks = span.as_millis() / TICK.as_millis();
        for _ in 0..ticks {
            self.host.pass(TICK);
            self.host.tick();
            for (request, waiter) in self.host.http.take() {
                let path = request.headers.iter().find(|(name, _)| name == ":path").expect("a path").1.clone();
                let status = if path.starts_with("/api") { 503 } else { 200 };
                self.asked.push(path);
                let _: Result<(), HttpReply> = waiter.send(HttpReply::Answered { status, body: Vec::new() });
            }
            self.host.tasks.run();
        }
    }

    /// Sets the wall clock, for good or for one tick only.
    fn jump(&mut self, (seconds, stays): (i64, bool)) {
        let was = self.context.host.now();
        let span = Duration::from_secs(seconds.unsigned_abs());
        self.host.set_now(if seconds < 0 { was.minus(span) } else { was.plus(span) });
        if !stays {
            self.pass(TICK);
            self.host.set_now(was.plus(TICK));
        }
    }

    fn state(&self) -> State {
        record::load(&self.host.store, &iris(), crate::model::split::Split::default(), START).expect("in reach").state
    }

    fn change(&self, command: Command) {
        let author = Author::new(crate::testing::holder("alice"), crate::model::author::Source::Admin, Reason::none());
        let request = crate::change::request::ChangeRequest::new(0, command, author, None).enforce(false);
        submit_now(&self.context, &request).expect("allowed").expect("alone");
    }
}

#[test]
fn probes_and_polls_go_on_when_the_wall_clock_jumps() {
    let registry = r#", "probe": {"path": "/ping"}, "mlflow": {"cluster": "m", "model": "a", "follow": {"alias": "p"},
        "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}}"#;
    for jump in JUMPS {
        let mut envoy = Envoy::start(&config_of(registry));
        envoy.jump(jump);
        envoy.asked.clear();
        envoy.pass(Duration::from_secs(10));
        let asked = std::mem::take(&mut envoy.asked);
        let count = |path: &str| asked.iter().filter(|asked| asked.starts_with(path)).count();
        // Two colours, and one registry, each of them every two seconds.
        assert!((9..=11).contains(&count("/ping")) && (4..=6).contains(&count("/api")), "{jump:?}: {asked:?}");
    }
}

#[test]
fn a_bake_window_ends_neither_sooner_nor_later_when_the_wall_clock_jumps() {
    for jump in JUMPS {
        let mut envoy = Envoy::start(&config_of(r#", "bake": {"for": "10m"}"#));
        envoy.change(Command::Promote(None));
        envoy.pass(Duration::from_secs(60));
        envoy.jump(jump);
        envoy.pass(Duration::from_secs(60));
        let bake = envoy.context.deployments.all()[0].bake;
        let until = baking_until(&envoy.state(), Colour::Blue, bake).expect("it bakes");
        let left = until.since(envoy.context.host.now());
        assert!((470..=490).contains(&left.as_secs()), "{jump:?}: {left:?}");
    }
}

#[test]
fn a_step_of_a_rollout_is_held_for_as_long_as_it_was_to_be_when_the_wall_clock_jumps() {
    let plan = r#", "rollout": {"steps": [{"canary_percent": 10, "hold": "5m", "min_requests": 0},
        {"canary_percent": 50, "hold": "5m", "min_requests": 0}]}"#;
    for jump in JUMPS {
        let mut envoy = Envoy::start(&config_of(plan));
        envoy.change(Command::Rollout(RolloutCommand::Start(Shares::canary(percent("10")))));
        envoy.pass(Duration::from_secs(60));
        envoy.jump(jump);
        envoy.pass(Duration::from_secs(220));
        assert_eq!(envoy.state().split.canary_percent, percent("10"), "{jump:?}");
        envoy.pass(Duration::from_secs(40));
        let state = envoy.state();
        assert_eq!(state.split.canary_percent, percent("50"), "{jump:?}");
        assert_eq!(state.rollout.map(|rollout| rollout.phase), Some(Phase::Running));
    }
}

#[test]
fn what_a_clock_noted_that_was_a_century_ahead_holds_nothing_up_for_longer_than_its_span() {
    let mut envoy = Envoy::start(&config_of(r#", "bake": {"for": "10m"}"#));
    let ahead = Timestamp::from_millis(4_900_000_000_000);
    record::update_state::<()>(
        &envoy.host.store,
        &iris(),
        crate::model::split::Split::default(),
        START,
        &mut |loaded| {
            let author =
                Author::new(crate::testing::holder("alice"), crate::model::author::Source::Admin, Reason::none());
            Ok(loaded.state.after(&Command::Promote(None), author, ahead).expect("allowed"))
        },
    )
    .expect("in reach");
    envoy.pass(Duration::from_secs(20));
    let bake = envoy.context.deployments.all()[0].bake;
    let until = baking_until(&envoy.state(), Colour::Blue, bake).expect("it bakes");
    assert!(until <= envoy.context.host.now().plus(Duration::from_secs(600)), "{until}");
    let confirmation = at_once(envoy.context.ask_workers(None));
    assert!(confirmation.silent.is_empty());
}

/// So many deployments, each with all that the leader looks after.
fn fleet_of(count: usize) -> Config {
    let deployment = |index: usize| {
        format!(
            r#""m-{index}": {{"match": {{"path_prefix": "/m-{index}"}}, "guard": {{}}, "probe": {{"path": "/ping"}},
                "colours": {{"blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}},
                "mlflow": {{"cluster": "m", "model": "m-{index}", "follow": {{"alias": "p"}},
                    "colours": {{"blue": {{"version": "1"}}, "green": {{"version": "2"}}}}}}}}"#
        )
    };
    let all: Vec<String> = (0..count).map(deployment).collect();
    Config::from_bytes(format!(r#"{{"deployments": {{{}}}}}"#, all.join(",")).as_bytes()).expect("valid")
}

#[test]
fn a_tick_asks_of_a_thousand_deployments_no_more_than_some_and_all_of_them_in_turns() {
    let mut envoy = Envoy::start(&fleet_of(1_000));
    envoy.pass(Duration::from_secs(20));
    let mut most = 0;
    let mut polled = std::collections::BTreeSet::new();
    for _ in 0..520 {
        envoy.asked.clear();
        let before = envoy.host.store.calls();
        envoy.pass(TICK);
        most = most.max(envoy.host.store.calls() - before);
        let pings = envoy.asked.iter().filter(|asked| asked.starts_with("/ping")).count();
        assert!(pings <= 10, "{pings}");
        polled.extend(envoy.asked.iter().filter(|asked| asked.starts_with("/api")).cloned());
    }
    assert_eq!(polled.len(), 1_000);
    // One call for each of them would be 1,000.
    assert!(most <= 450, "{most}");
}
