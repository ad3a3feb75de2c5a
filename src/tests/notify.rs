//! Telling others what happened: once for an Envoy, and never while a call waits.

use super::*;
use crate::fake_host::SentCall;

/// Two listeners with the same receiver: only one has the admin API.
fn listeners(envoy: &FakeEnvoy) -> [Worker; 2] {
    let notify = r#", "notify": [{"cluster": "hooks", "path": "/T000/B000"}]"#;
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    let admin = format!(r#"{notify}, "admin": {{"tokens": [{tokens}]}}"#);
    [worker(envoy, &config("", &admin)), worker(envoy, &config("", notify))]
}

/// Ticks both once, and gives what was sent to the receiver.
fn tick(envoy: &FakeEnvoy, workers: [Worker; 2]) -> Vec<SentCall> {
    envoy.advance(Duration::from_millis(250));
    workers.iter().for_each(|worker| worker.tick());
    envoy.take_sent().into_iter().filter(|call| call.cluster == "hooks").collect()
}

#[test]
fn a_change_is_answered_first_and_then_told_once_by_one_of_all_workers() {
    let envoy = FakeEnvoy::start();
    let workers = listeners(&envoy);
    assert_eq!(operate(workers[0], "POST", "/promote?to=green"), 200);
    assert_eq!(operate(workers[0], "POST", "/promote?to=green"), 200);
    assert!(envoy.take_sent().iter().all(|call| call.cluster != "hooks"), "before the answer");
    let mut sent = tick(&envoy, workers);
    assert_eq!(sent.len(), 1);
    let call = sent.remove(0);
    let head = [":method", ":path", "content-type"].map(|name| values(&call.headers, name).concat());
    assert_eq!(head, ["POST", "/T000/B000", "application/json"]);
    for _ in 0..8 {
        assert_eq!(tick(&envoy, workers).len(), 0, "while it is under way");
    }
    envoy.reply(&call, Some("200"), "");
    assert_eq!(envoy.metric("bluegreen.result.sent.notifications_total"), Some(1));
    for _ in 0..8 {
        assert_eq!(tick(&envoy, workers).len(), 0, "once");
    }
}

#[test]
fn requests_make_no_more_calls_to_the_host_where_receivers_are_configured() {
    let envoy = FakeEnvoy::start();
    let workers = listeners(&envoy);
    (0..40).for_each(|_| drop(cluster(workers[1], &[])));
    envoy.take_calls();
    cluster(workers[1], &[]);
    assert_eq!(envoy.take_calls().len(), 10);
}
