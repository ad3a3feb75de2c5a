//! Writes through etcd and following it, from the filter's side of the host.

use bluegreen_core::etcd::model::{Fate, Model};
use bluegreen_core::host::grpc::{GrpcReply, GrpcRequest};
use bluegreen_core::model::name::ClusterName;
use bluegreen_core::state::State;

use super::*;

/// An operator's configuration with a fleet.
fn in_fleet(sections: &str) -> String {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    config(sections, &format!(r#", "admin": {{"tokens": [{tokens}]}}, "etcd": {{"cluster": "etcd"}}"#))
}

/// Answers every call to etcd, and those that follow from the answers, and what streams have to say. How many there were.
fn settle(envoy: &FakeEnvoy, model: &mut Model) -> usize {
    let mut calls = 0;
    loop {
        let sent = envoy.take_grpc();
        if sent.is_empty() {
            return calls;
        }
        calls += sent.len();
        for sent in sent {
            assert_eq!(sent.service, "\n\x06\n\x04etcd");
            let cluster = ClusterName::new("etcd").expect("valid");
            let method = if sent.method == "Txn" { "Txn" } else { "Range" };
            let call = GrpcRequest { cluster, service: "", method, message: sent.message, timeout: Duration::ZERO };
            match model.call(&call, Fate::Answered) {
                GrpcReply::Answered(message) => envoy.grpc_receive(sent.token, &message),
                other => panic!("{other:?}"),
            }
        }
        for (token, stream) in envoy.grpc_streams() {
            let (said, _) = model.watch(&stream.messages[0]);
            said.iter().for_each(|message| envoy.grpc_receive(token, message));
        }
    }
}

fn revision(model: &Model) -> u64 {
    let value = model.value("/bluegreen/iris").expect("a key");
    State::decode(&value).expect("a state").revision.get()
}

/// Two workers of which one follows, and etcd with the deployment in it.
fn followed(envoy: &FakeEnvoy, sections: &str) -> ([Worker; 2], Model) {
    let (workers, mut model) = ([0, 1].map(|_| worker(envoy, &in_fleet(sections))), Model::default());
    workers.iter().for_each(|worker| worker.tick());
    settle(envoy, &mut model);
    assert_eq!(envoy.grpc_streams().len(), 1, "one follows for all");
    (workers, model)
}

/// Makes a call, whose answers from etcd come from `model`, and gives its status.
fn operate_on(envoy: &FakeEnvoy, model: &mut Model, worker: Worker, method: &str, path: &str) -> u32 {
    let exchange = call(worker, method, path);
    assert_eq!(exchange.send_headers(true), Next::Pause);
    assert!(exchange.replies().is_empty(), "etcd first");
    settle(envoy, model);
    let replies = exchange.replies();
    assert_eq!(replies.len(), 1, "{replies:?}");
    exchange.end();
    replies[0].status
}

#[test]
fn a_write_is_answered_after_etcd_has_it_and_all_workers_know() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    assert_eq!(revision(&model), 0, "created from initial");
    for (expected, path) in [("g2", "/promote"), ("b1", "/rollback")] {
        assert_eq!(operate_on(&envoy, &mut model, workers[1], "POST", path), 200);
        assert_eq!(workers.map(|worker| cluster(worker, &[])), [expected; 2].map(str::to_owned));
    }
    assert_eq!(revision(&model), 2);
    let changes = envoy.logs().into_iter().filter(|line| line.contains("state changed")).count();
    assert_eq!(changes, 2, "each is logged once: {:?}", envoy.logs());
}

#[test]
fn the_first_tick_comes_fast_and_the_others_once_the_states_are_known() {
    let envoy = FakeEnvoy::start();
    let _followed = followed(&envoy, "");
    envoy.take_calls();
    let pushed = worker(&envoy, &in_fleet(""));
    let periods = || envoy.take_calls().into_iter().filter(|call| *call == "set_tick_period").count();
    assert_eq!(periods(), 1);
    // The first one is over, and fast ones follow until the states are known.
    for expected in [1, 1, 0] {
        pushed.tick();
        assert_eq!(periods(), expected);
    }
}

#[test]
fn what_the_watch_brings_is_in_force_on_every_worker() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let other = State::decode(&model.value("/bluegreen/iris").expect("a key")).expect("a state");
    let bob = bluegreen_core::model::author::Author::config();
    let promoted = other.after(&bluegreen_core::state::Command::Promote(None), bob, other.since).expect("allowed");
    model.put("/bluegreen/iris", &promoted.expect("a change").encode());
    let (token, stream) = envoy.grpc_streams().into_iter().next().expect("a stream");
    assert_eq!(stream.metadata, [("hasleader".to_owned(), b"true".to_vec())]);
    let (said, _) = model.watch(&stream.messages[0]);
    said.iter().for_each(|message| envoy.grpc_receive(token, message));
    assert_eq!(workers.map(|worker| cluster(worker, &[])), ["g2", "g2"].map(str::to_owned));
}

#[test]
fn a_stream_that_ends_is_ended_here_too_and_another_one_is_opened() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let token = *envoy.grpc_streams().keys().next().expect("a stream");
    envoy.grpc_close(token);
    assert!(envoy.grpc_streams().is_empty(), "the host may free its part of it");
    // What comes late, or for an unknown number, does no harm.
    envoy.grpc_receive(token, b"late");
    envoy.grpc_close(token);
    envoy.grpc_receive(99_999, b"");
    envoy.advance(Duration::from_millis(250));
    workers.iter().for_each(|worker| worker.tick());
    settle(&envoy, &mut model);
    assert_eq!(envoy.grpc_streams().len(), 1);
}

#[test]
fn without_etcd_a_write_is_refused_and_nothing_is_changed() {
    let envoy = FakeEnvoy::start();
    let (workers, model) = followed(&envoy, "");
    envoy.refuse_grpc(true);
    assert_eq!(operate(workers[0], "POST", "/promote"), 503);
    envoy.refuse_grpc(false);
    let exchange = call(workers[0], "POST", "/promote");
    exchange.send_headers(true);
    // The read is tried with one member after the other; status messages are not always UTF-8.
    while let [sent] = &envoy.take_grpc()[..] {
        envoy.grpc_close(sent.token);
    }
    let reply = exchange.replies().pop().expect("an answer");
    assert!(reply.status == 503 && reply.body.contains("did not give the state (gRPC status 14"), "{reply:?}");
    assert_eq!((cluster(workers[1], &[]).as_str(), revision(&model)), ("b1", 0));
}

#[test]
fn what_etcd_refuses_is_answered_at_once_with_its_reason() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let (no_space, denied) = ("etcdserver: mvcc: database space exceeded", "etcdserver: permission denied");
    for (code, reason) in [(8, no_space), (7, denied)] {
        let exchange = call(workers[0], "POST", "/promote");
        exchange.send_headers(true);
        for sent in envoy.take_grpc() {
            let cluster = ClusterName::new("etcd").expect("valid");
            let read =
                GrpcRequest { cluster, service: "", method: "Range", message: sent.message, timeout: Duration::ZERO };
            let GrpcReply::Answered(message) = model.call(&read, Fate::Answered) else { panic!("a read") };
            envoy.grpc_receive(sent.token, &message);
        }
        let [put] = &envoy.take_grpc()[..] else { panic!("a put") };
        assert_eq!(put.method, "Txn");
        envoy.grpc_refuse(put.token, code, format!("{reason}{{via_upstream}}").as_bytes());
        settle(&envoy, &mut model);
        let reply = exchange.replies().pop().expect("an answer");
        exchange.end();
        assert!(reply.status == 503 && reply.body.contains(&format!("{reason})")), "{reply:?}");
        assert_eq!((cluster(workers[1], &[]).as_str(), revision(&model)), ("b1", 0));
        assert!(envoy.logs().iter().any(|line| line.contains("setup=etcd-refuses")), "{:?}", envoy.logs());
    }
    assert_eq!(operate_on(&envoy, &mut model, workers[0], "POST", "/promote"), 200);
}

#[test]
fn whatever_etcd_says_comes_out_as_one_line_that_shows_all_of_it() {
    let envoy = FakeEnvoy::start();
    let (workers, model) = followed(&envoy, "");
    let token = *envoy.grpc_streams().keys().next().expect("a stream");
    envoy.grpc_close(token);
    envoy.advance(Duration::from_millis(250));
    workers.iter().for_each(|worker| worker.tick());
    for sent in envoy.take_grpc() {
        envoy.grpc_refuse(sent.token, 7, "no\n\u{1b}[31mstate changed \u{202e}by=root".as_bytes());
    }
    let logs = envoy.logs();
    let line = logs.iter().find(|line| line.contains("etcd refuses")).expect("a line");
    assert!(line.contains(r"no\n\u{1b}[31mstate changed \u{202e}by=root"), "{line}");
    // What somebody else wrote there is no state with such an author.
    let forged = String::from_utf8(model.value("/bluegreen/iris").expect("a key")).expect("JSON");
    let forged = forged.replace(r#""by":"config""#, r#""by":"config\nstate changed""#);
    assert_eq!(State::decode(forged.as_bytes()), None, "{forged}");
}

#[test]
fn many_writes_at_once_are_made_one_by_one_and_each_answer_has_its_own_revision() {
    const WRITES: u64 = 40;
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let mut exchanges: Vec<Exchange> =
        (1..=WRITES).map(|n| call(workers[1], "PATCH", &format!("?shadow_percent={n}"))).collect();
    for exchange in &exchanges {
        assert_eq!(exchange.send_headers(true), Next::Pause);
    }
    // Writes that lost four times wait; the caller of one of them has left meanwhile.
    let first = settle(&envoy, &mut model);
    let gone = exchanges.pop().expect("many");
    assert!(gone.replies().is_empty());
    gone.end();
    envoy.advance(Duration::from_millis(250));
    workers[1].tick();
    let then = settle(&envoy, &mut model);
    let revisions: std::collections::BTreeSet<u64> = exchanges
        .iter()
        .map(|exchange| {
            let reply = exchange.replies().pop().expect("an answer");
            let revision = reply.body.split_once(r#""revision":"#).and_then(|(_, rest)| rest.split_once(','));
            assert_eq!(reply.status, 200, "{reply:?}");
            revision.and_then(|(number, _)| number.parse().ok()).expect("a number")
        })
        .collect();
    assert!(revisions.into_iter().eq(1..WRITES), "each write is a revision of its own");
    assert_eq!(revision(&model), WRITES - 1, "a caller that left before its turn wrote nothing");
    // A read and four rounds in which everybody takes part; then one after the other, each with a read and a put.
    assert!(first <= 5 * 40 && then <= 2 * 40, "{first} and {then} calls");
}

#[test]
fn a_write_that_waits_behind_a_silent_etcd_is_answered_in_time_that_nothing_was_changed() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let exchanges: Vec<Exchange> =
        (1..=10).map(|n| call(workers[1], "PATCH", &format!("?shadow_percent={n}"))).collect();
    exchanges.iter().for_each(|exchange| assert_eq!(exchange.send_headers(true), Next::Pause));
    settle(&envoy, &mut model);
    let waiting: Vec<&Exchange> = exchanges.iter().filter(|exchange| exchange.replies().is_empty()).collect();
    assert_eq!(waiting.len(), 6);
    workers[1].tick();
    let [silent] = &envoy.take_grpc()[..] else { panic!("one has its turn") };
    envoy.advance(Duration::from_secs(5));
    workers[1].tick();
    for exchange in &waiting[1..] {
        let reply = exchange.replies().pop().expect("an answer");
        assert!(reply.status == 503 && reply.body.contains("no time left to send the change"), "{reply:?}");
    }
    envoy.grpc_close(silent.token);
    let reply = waiting[0].replies().pop().expect("an answer");
    assert!(reply.status == 503 && reply.body.contains("did not give the state"), "{reply:?}");
}

#[test]
fn when_the_follower_falls_silent_another_worker_follows_within_two_seconds() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    for _ in 0..8 {
        envoy.advance(Duration::from_millis(250));
        workers[1].tick();
        settle(&envoy, &mut model);
    }
    assert_eq!(envoy.grpc_streams().len(), 2, "the first one's stream is still there, as after a trap");
}

#[test]
fn a_follower_that_lost_its_lease_cancels_its_stream_at_the_host() {
    let envoy = FakeEnvoy::start();
    let (workers, mut model) = followed(&envoy, "");
    let first = *envoy.grpc_streams().keys().next().expect("a stream");
    for _ in 0..8 {
        envoy.advance(Duration::from_millis(250));
        workers[1].tick();
        settle(&envoy, &mut model);
    }
    assert!(envoy.grpc_streams().contains_key(&first));
    // It was only slow, and sees that another one holds the lease.
    workers[0].tick();
    assert_eq!((envoy.grpc_streams().len(), envoy.grpc_streams().contains_key(&first)), (1, false));
}

#[test]
fn a_failover_goes_through_etcd_at_the_next_tick() {
    let envoy = FakeEnvoy::start();
    let sections = r#", "probe": {"path": "/ping"}, "bake": {"for": "10m"}, "failover": {"after": 3}"#;
    let (workers, mut model) = followed(&envoy, sections);
    let all_healthy = || envoy.take_sent().iter().for_each(|probe| envoy.reply(probe, Some("200"), ""));
    all_healthy();
    assert_eq!(operate_on(&envoy, &mut model, workers[0], "POST", "/promote?force=true"), 200);
    for _ in 0..5 {
        let exchange = infer(workers[0], &[]);
        envoy.set_code_details("no_healthy_upstream");
        exchange.answer("503");
        exchange.end();
    }
    assert_eq!(revision(&model), 1, "the root context makes the change");
    workers[0].tick();
    settle(&envoy, &mut model);
    all_healthy();
    settle(&envoy, &mut model);
    assert_eq!((revision(&model), cluster(workers[1], &[]).as_str()), (2, "b1"));
    let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
    assert!(line.contains("by=failover source=failover reason"), "{line}");
}
