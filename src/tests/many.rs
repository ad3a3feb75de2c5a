//! Many deployments: what configuring and ticking costs the thread that does it, and what must be there all the same.

use super::*;

const COUNT: usize = 200;

/// The name of a deployment: the order of the names is that of the numbers.
fn name(number: usize) -> String {
    format!("m-{number:03}")
}

/// So many deployments, the last of which begins with this colour.
fn many(last: &str) -> String {
    let deployment = |number: usize| {
        let active = if number + 1 == COUNT { last } else { "blue" };
        format!(
            r#""{0}": {{"match": {{"path_prefix": "/{0}"}}, "initial": {{"active": "{active}"}}, "colours": {{
                "blue": {{"cluster": "b1", "version": "1"}}, "green": {{"cluster": "g2", "version": "2"}}}}}}"#,
            name(number)
        )
    };
    let all: Vec<String> = (0..COUNT).map(deployment).collect();
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    format!(r#"{{"deployments": {{{}}}, "admin": {{"tokens": [{tokens}]}}}}"#, all.join(", "))
}

/// One exchange with a deployment, and the cluster that it went to.
fn ask(worker: Worker, number: usize) -> String {
    let path = format!("/{}/invocations", name(number));
    let headers: [(&str, &[u8]); 3] =
        [(":method", b"POST"), (":path", path.as_bytes()), ("x-bluegreen-cluster", b"b1")];
    let exchange = worker.request(&headers);
    assert_eq!(exchange.send_headers(false), Next::Continue);
    let clusters = exchange.request_header("x-bluegreen-cluster");
    exchange.answer("200");
    exchange.end();
    clusters.join(",")
}

fn active(envoy: &FakeEnvoy, number: usize) -> Option<u64> {
    envoy.metric(&format!("bluegreen.deployment.{}.colour.blue.active", name(number)))
}

#[test]
fn configuring_takes_a_few_calls_for_a_new_deployment_and_one_for_a_known_one() {
    let envoy = FakeEnvoy::start();
    for (most, is_new) in [(5 * COUNT, true), (COUNT, false), (COUNT, false)] {
        envoy.take_calls();
        worker(&envoy, &many("blue"));
        let calls = envoy.take_calls().len();
        // The rest does not depend on their number: most of it are the gauges of the first.
        assert!(calls <= most + 700, "{calls} calls, new: {is_new}");
    }
}

#[test]
fn all_gauges_are_there_after_some_ticks_and_those_of_the_first_deployments_at_once() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &many("blue"));
    let shown = || (0..COUNT).filter(|number| active(&envoy, *number) == Some(1)).count();
    assert_eq!((active(&envoy, 0), active(&envoy, COUNT - 1)), (Some(1), None));
    let ticks = (1..100).find(|_| {
        worker.tick();
        shown() == COUNT
    });
    assert!(ticks.is_some_and(|ticks| ticks <= COUNT.div_ceil(32) + 1), "{ticks:?}");
}

#[test]
fn a_change_shows_at_once_in_any_deployment() {
    let envoy = FakeEnvoy::start();
    worker(&envoy, &many("blue"));
    worker(&envoy, &many("green"));
    assert_eq!((active(&envoy, COUNT - 1), active(&envoy, COUNT - 2)), (Some(0), None));
}

#[test]
fn a_pushed_initial_is_followed_before_the_thread_has_had_its_turn() {
    let envoy = FakeEnvoy::start();
    let before = worker(&envoy, &many("blue"));
    before.tick();
    assert_eq!(ask(before, COUNT - 1), "b1");
    let after = worker(&envoy, &many("green"));
    assert_eq!((ask(before, COUNT - 1), ask(after, COUNT - 1), ask(after, 0)), ("g2".into(), "g2".into(), "b1".into()));
    // Pushed again it is no news, and taken back it is.
    worker(&envoy, &many("green"));
    assert_eq!(ask(after, COUNT - 1), "g2");
    worker(&envoy, &many("blue"));
    assert_eq!(ask(after, COUNT - 1), "b1");
}

#[test]
fn a_tick_takes_some_states_over_and_the_next_ones_the_rest() {
    let envoy = FakeEnvoy::start();
    let (leader, other) = (worker(&envoy, &many("blue")), worker(&envoy, &many("blue")));
    leader.tick();
    let reports = |slot: usize| {
        let end = format!("/worker/{slot}");
        envoy.shared_keys().iter().filter(|key| key.ends_with(&end) && !key.contains("/_/")).count()
    };
    let mut seen = vec![];
    for _ in 0..4 {
        other.tick();
        seen.push(reports(1));
    }
    assert_eq!(seen, [64, 128, 192, COUNT]);
}

#[test]
fn the_first_request_of_a_deployment_is_compared_whether_or_not_its_turn_has_come() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &many("blue"));
    assert_eq!(ask(worker, COUNT - 1), "b1");
    let path = format!("/bluegreen/v1/deployments/{}/comparison", name(COUNT - 1));
    let headers: [(&str, &[u8]); 3] =
        [(":method", b"GET"), (":path", path.as_bytes()), ("authorization", b"Bearer test")];
    let exchange = worker.request(&headers);
    exchange.send_headers(true);
    let replies = exchange.replies();
    let body: serde_json::Value = serde_json::from_str(&replies[0].body).expect("JSON");
    assert_eq!(body["windows"]["1m"]["colours"]["blue"]["requests"], 1, "{body}");
    exchange.end();
}
