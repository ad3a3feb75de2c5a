//! What stays behind when configurations come and go, callers leave and machines fail: no more than there was.

use super::*;

/// What the host keeps for the filter, but for the samples: a ring that fills with time.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    keys: Vec<String>,
    queues: usize,
    waiting_messages: usize,
    metric_definitions: usize,
    streams: usize,
}

fn kept(envoy: &FakeEnvoy) -> Kept {
    Kept {
        keys: envoy.shared_keys().into_iter().filter(|key| !key.contains("/sample/")).collect(),
        queues: envoy.queues().len(),
        waiting_messages: envoy.queues().into_iter().map(|(_, waiting)| waiting).sum(),
        metric_definitions: envoy.metric_definitions(),
        streams: envoy.grpc_streams().len(),
    }
}

/// A configuration that differs from the one before and after it.
fn pushed(number: usize) -> String {
    let initial = format!(r#", "initial": {{"canary_percent": {}}}, "probe": {{"path": "/ping"}}"#, number % 2 + 1);
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    config(&initial, &format!(r#", "admin": {{"tokens": [{tokens}]}}"#))
}

fn in_another_machine(envoy: &FakeEnvoy) -> Worker {
    crate::plugin::begin_another_machine();
    worker(envoy, &pushed(0))
}

/// Some time on all workers, with traffic, probes and a change.
fn live(envoy: &FakeEnvoy, workers: &[Worker]) {
    for _ in 0..8 {
        envoy.advance(Duration::from_millis(1_000));
        for worker in workers {
            worker.tick();
            cluster(*worker, &[]);
        }
        for probe in envoy.take_sent() {
            envoy.reply(&probe, Some("200"), "");
        }
    }
    // Its caller leaves before anybody has confirmed it.
    let exchange = call(workers[0], "PATCH", "?shadow_percent=1");
    exchange.send_headers(true);
    exchange.end();
}

#[test]
fn a_hundred_pushes_leave_no_more_behind_than_ten() {
    let envoy = FakeEnvoy::start();
    let mut workers = [0, 1].map(|_| worker(&envoy, &pushed(0)));
    let mut after_ten = None;
    for number in 1..=100 {
        let old = std::mem::replace(&mut workers, [0, 1].map(|_| worker(&envoy, &pushed(number))));
        live(&envoy, &workers);
        old.into_iter().for_each(Worker::end);
        live(&envoy, &workers);
        if number == 10 {
            after_ten = Some(kept(&envoy));
        }
    }
    assert_eq!(Some(kept(&envoy)), after_ten);
    let samples = envoy.shared_keys().into_iter().filter(|key| key.contains("/sample/")).count();
    assert!(samples < 100, "{samples}");
    // Fifty changes twice, samples, and what little else there is.
    assert!(envoy.shared_bytes() < 200_000, "{} bytes", envoy.shared_bytes());
}

#[test]
fn machines_that_fail_one_after_the_other_leave_no_members_queues_or_records_behind() {
    let envoy = FakeEnvoy::start();
    let steady = worker(&envoy, &pushed(0));
    let mut failing = in_another_machine(&envoy);
    let mut after_ten = None;
    for number in 1..=60 {
        live(&envoy, &[steady, failing]);
        // Its thread stands still from here on, as after a trap, and Envoy makes another machine for it.
        failing.stop(true);
        live(&envoy, &[steady]);
        failing = in_another_machine(&envoy);
        live(&envoy, &[steady, failing]);
        if number == 10 {
            after_ten = Some(kept(&envoy));
        }
    }
    assert_eq!(Some(kept(&envoy)), after_ten);
}
