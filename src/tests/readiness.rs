//! Probes, smoke tests, drains and failover.

use super::*;
use crate::fake_host::SentCall;

/// An operator's worker over these sections.
fn ready(envoy: &FakeEnvoy, sections: &str) -> Worker {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    worker(envoy, &config(sections, &format!(r#", "admin": {{"tokens": [{tokens}]}}"#)))
}

const PROBE: &str = r#", "probe": {"path": "/ping", "interval": "2s"}"#;

fn statuses(exchange: &Exchange) -> Vec<u32> {
    exchange.replies().iter().map(|reply| reply.status).collect()
}

fn one(sent: Vec<SentCall>) -> SentCall {
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent[0].clone()
}

#[test]
fn a_promote_asks_the_candidate_now_and_answers_when_it_has_replied() {
    let envoy = FakeEnvoy::start();
    let operator = ready(&envoy, PROBE);
    for (status, expected) in [(Some("500"), 409), (None, 409), (Some("200"), 200)] {
        let exchange = call(operator, "POST", "/promote");
        exchange.send_headers(true);
        assert!(exchange.replies().is_empty());
        let probe = one(envoy.take_sent());
        assert_eq!((probe.cluster.as_str(), values(&probe.headers, ":path")), ("g2", vec!["/ping".to_owned()]));
        envoy.reply(&probe, status, "");
        assert_eq!(statuses(&exchange), [expected]);
        exchange.end();
    }
    assert_eq!(cluster(operator, &[]), "g2");
}

#[test]
fn probe_and_smoke_test_are_sent_with_their_hosts() {
    let envoy = FakeEnvoy::start();
    let sections = r#", "probe": {"path": "/ping", "host": "iris.example.com"},
        "smoke_test": {"required": false, "requests": [{"path": "/a", "host": "a.example.com:80"}, {"path": "/b"}]}"#;
    let operator = ready(&envoy, sections);
    for (path, hosts) in [("/promote", &["iris.example.com"][..]), ("/test", &["a.example.com:80", "iris"])] {
        let exchange = call(operator, "POST", path);
        exchange.send_headers(true);
        for host in hosts {
            let sent = one(envoy.take_sent());
            assert_eq!(values(&sent.headers, ":authority"), [*host]);
            envoy.reply(&sent, Some("200"), "");
        }
        assert_eq!(statuses(&exchange), [200]);
        exchange.end();
    }
}

#[test]
fn the_authority_of_a_colour_is_written_into_its_requests_and_its_probes() {
    let envoy = FakeEnvoy::start();
    let own = r#""version": "2", "authority": "iris-green.example.com""#;
    let tokens = format!(r#", "admin": {{"tokens": [{{"name": "a", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#);
    let sections = format!(r#"{PROBE}, "override": {{"header": "x-want"}}"#);
    let operator = worker(&envoy, &config(&sections, &tokens).replace(r#""version": "2""#, own));
    let authority = |more: &[(&str, &[u8])]| {
        let exchange = infer(operator, more);
        let seen = exchange.request_header(":authority");
        exchange.end();
        seen
    };
    assert_eq!(authority(&[]), ["h"]);
    assert_eq!(authority(&[("x-want", b"green")]), ["iris-green.example.com"]);
    let exchange = call(operator, "POST", "/promote");
    exchange.send_headers(true);
    let probe = one(envoy.take_sent());
    assert_eq!(values(&probe.headers, ":authority"), ["iris-green.example.com"]);
    envoy.reply(&probe, Some("200"), "");
    exchange.end();
    assert_eq!(authority(&[]), ["iris-green.example.com"]);
    assert_eq!(authority(&[("x-want", b"blue")]), ["h"]);
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_refused_at_once() {
    let envoy = FakeEnvoy::start();
    let sections = PROBE.to_owned();
    let unknown = ready(&envoy, &sections);
    let configuration = config(&sections, "").replace("g2", "unknown");
    let tokens = format!(
        r#""admin": {{"tokens": [{{"name": "a", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}, "deployments""#
    );
    let operator = worker(&envoy, &configuration.replacen(r#""deployments""#, &tokens, 1));
    let exchange = call(operator, "POST", "/promote");
    exchange.send_headers(true);
    assert_eq!(statuses(&exchange), [409]);
    assert!(exchange.replies()[0].body.contains("cluster 'unknown' is not known to this Envoy"));
    assert_eq!(cluster(unknown, &[]), "b1");
}

#[test]
fn a_caller_who_leaves_before_the_reply_changes_nothing() {
    let envoy = FakeEnvoy::start();
    let operator = ready(&envoy, PROBE);
    let exchange = call(operator, "POST", "/promote");
    exchange.send_headers(true);
    assert_eq!(envoy.take_sent().len(), 1);
    exchange.end();
    assert_eq!(cluster(operator, &[]), "b1");
}

#[test]
fn the_leader_alone_probes_both_colours_at_the_interval() {
    let envoy = FakeEnvoy::start();
    let workers = [ready(&envoy, PROBE), ready(&envoy, PROBE)];
    let mut clusters = Vec::new();
    for _ in 0..16 {
        for worker in workers {
            worker.tick();
        }
        for probe in envoy.take_sent() {
            envoy.reply(&probe, Some("200"), "");
            clusters.push(probe.cluster);
        }
        envoy.advance(Duration::from_millis(250));
    }
    // Once more at the start, when the active colour has to answer.
    assert_eq!(clusters, ["b1", "g2"].repeat(3));
    let shown = call(workers[1], "GET", "");
    shown.send_headers(true);
    let body = shown.replies()[0].body.clone();
    assert_eq!(body.matches(r#""probe":{"healthy":true"#).count(), 2, "{body}");
}

#[test]
fn a_smoke_test_is_one_request_after_the_other() {
    let envoy = FakeEnvoy::start();
    let smoke = r#", "smoke_test": {"requests": [{"path": "/a"}, {"path": "/b"}]}"#;
    let exchange = call(ready(&envoy, smoke), "POST", "/test");
    exchange.send_headers(true);
    for path in ["/a", "/b"] {
        let sent = one(envoy.take_sent());
        assert_eq!(values(&sent.headers, ":path"), [path]);
        envoy.reply(&sent, Some("200"), "{}");
    }
    assert!(exchange.replies()[0].body.contains(r#""passed":true"#));
}

#[test]
fn a_drain_is_answered_at_the_tick_after_the_last_request() {
    let envoy = FakeEnvoy::start();
    let operator = ready(&envoy, "");
    let slow = infer(operator, &[]);
    assert_eq!(operate(operator, "POST", "/promote"), 200);
    let drain = call(operator, "POST", "/drain?colour=blue");
    drain.send_headers(true);
    let gone = call(operator, "POST", "/drain?colour=blue");
    gone.send_headers(true);
    gone.end();
    envoy.advance(Duration::from_secs(1));
    operator.tick();
    assert!(drain.replies().is_empty());
    slow.end();
    operator.tick();
    operator.tick();
    assert_eq!(statuses(&drain), [200]);
}

#[test]
fn requests_that_do_not_reach_the_new_colour_roll_it_back_and_the_log_says_why() {
    let envoy = FakeEnvoy::start();
    let sections = format!(r#"{PROBE}, "bake": {{"for": "10m"}}, "failover": {{"after": 3}}"#);
    let workers = [ready(&envoy, &sections), ready(&envoy, &sections)];
    workers[0].tick();
    for probe in envoy.take_sent() {
        envoy.reply(&probe, Some("200"), "");
    }
    assert_eq!(operate(workers[0], "POST", "/promote?force=true"), 200);
    let fail = |worker: Worker, details: &str| {
        let exchange = infer(worker, &[]);
        envoy.set_code_details(details);
        exchange.answer("503");
        exchange.end();
    };
    fail(workers[0], "no_healthy_upstream");
    fail(workers[1], "no_healthy_upstream");
    // The model server's own 503 reached it, so the count starts again.
    fail(workers[0], "via_upstream");
    fail(workers[0], "no_healthy_upstream");
    // An open circuit breaker says nothing, either way.
    fail(workers[0], "upstream_reset_before_response_started{overflow}");
    fail(workers[1], "no_healthy_upstream");
    assert_eq!(cluster(workers[1], &[]), "g2");
    for worker in [workers[0], workers[1], workers[0]] {
        fail(worker, "no_healthy_upstream");
    }
    assert_eq!(workers.map(|worker| cluster(worker, &[])), ["b1", "b1"]);
    let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
    assert!(line.contains("active=green->blue") && line.contains("by=failover source=failover"), "{line}");
    assert!(line.contains("3 requests in a row did not reach green (last: no_healthy_upstream)"), "{line}");
}

#[test]
fn a_failover_counts_no_request_by_override_in_either_direction() {
    let envoy = FakeEnvoy::start();
    let sections =
        format!(r#"{PROBE}, "bake": {{"for": "10m"}}, "failover": {{"after": 3}}, "override": {{"header": "x-want"}}"#);
    let worker = ready(&envoy, &sections);
    worker.tick();
    for probe in envoy.take_sent() {
        envoy.reply(&probe, Some("200"), "");
    }
    assert_eq!(operate(worker, "POST", "/promote?force=true"), 200);
    let send = |more: &[(&str, &[u8])], status: &str, details: &str| {
        let exchange = infer(worker, more);
        envoy.set_code_details(details);
        exchange.answer(status);
        exchange.end();
    };
    let (by_override, ordinary) = ([("x-want", &b"green"[..])], []);
    for _ in 0..10 {
        send(&by_override, "503", "no_healthy_upstream");
    }
    assert_eq!(cluster(worker, &[]), "g2");
    send(&ordinary, "503", "no_healthy_upstream");
    send(&ordinary, "503", "no_healthy_upstream");
    send(&by_override, "200", "via_upstream");
    assert_eq!(operate(worker, "GET", ""), 200);
    send(&ordinary, "503", "no_healthy_upstream");
    assert_eq!(cluster(worker, &[]), "b1");
}
