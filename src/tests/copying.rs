//! Copies of requests whose answers are compared: what is sent to whom, when, and what is let go of.

use super::*;
use crate::fake_host::SentCall;

const BODY: &[u8] = br#"{"instances":[[5.1,3.5,1.4,0.2]]}"#;
const JSON: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/json")];

/// All requests are copied, and compared under these further rules.
fn comparing(rules: &str) -> String {
    let rules = format!(r#""safe": [{{"method": "POST", "path_prefix": "/invocations"}}]{rules}"#);
    config(
        &format!(r#", "initial": {{"shadow_percent": 100}}, "shadow": {{"compare": {{{rules}}}}}"#),
        &format!(r#", "admin": {{"tokens": [{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#),
    )
}

/// One exchange whose answer has this body, up to its end.
fn exchange(worker: Worker, answer: &[u8]) -> Exchange {
    let exchange =
        infer(worker, &[("x-request-id", b"r-1"), ("authorization", b"Bearer t"), ("accept-encoding", b"gzip")]);
    exchange.pass_body(BODY, true);
    exchange.answer_with(&JSON);
    exchange.answer_body(answer, true);
    exchange
}

/// The one request that was sent since.
fn sent(envoy: &FakeEnvoy) -> SentCall {
    let mut sent = envoy.take_sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    sent.remove(0)
}

fn dropped(envoy: &FakeEnvoy, reason: &str) -> Option<u64> {
    envoy.metric(&format!("bluegreen.deployment.iris.reason.{reason}.compare_dropped_total"))
}

fn compared(envoy: &FakeEnvoy, result: &str) -> Option<u64> {
    envoy.metric(&format!("bluegreen.deployment.iris.result.{result}.compared_total"))
}

fn shown(worker: Worker, path: &str) -> String {
    let call = call(worker, "GET", path);
    call.send_headers(true);
    let reply = call.replies().remove(0);
    call.end();
    reply.body
}

#[test]
fn a_copy_is_sent_to_the_candidate_once_the_exchange_is_over_and_an_answer_that_differs_is_found() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &comparing(r#", "noise_percent": 0"#));
    let exchange = exchange(worker, br#"{"predictions": [0]}"#);
    assert_eq!(exchange.request_header("x-bluegreen-shadow"), [""; 0], "Envoy copies nothing");
    assert!(envoy.take_sent().is_empty(), "not before the client has its answer");
    exchange.end();
    let copy = sent(&envoy);
    let header = |name: &str| values(&copy.headers, name).join(",");
    assert_eq!((copy.cluster.as_str(), copy.body.as_slice()), ("g2", BODY));
    for (name, value) in [
        (":method", "POST"),
        (":path", "/invocations"),
        (":authority", "h"),
        ("x-request-id", "r-1"),
        ("authorization", "Bearer t"),
        ("accept-encoding", "identity"),
        ("x-bluegreen-copy", "true"),
        ("x-bluegreen-cluster", ""),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    envoy.reply(&copy, Some("200"), r#"{"predictions": [1]}"#);
    assert_eq!((compared(&envoy, "disagreed"), compared(&envoy, "agreed")), (Some(1), None));
    let found = shown(worker, "/disagreements");
    for part in [r#""request_id":"r-1""#, r#""active":"blue""#, r#""candidate":"green""#] {
        assert!(found.contains(part), "{found}");
    }
    assert!(shown(worker, "/comparison").contains(r#""shadow":{"compared":1"#));
}

#[test]
fn an_answer_that_differs_is_asked_for_again_and_what_the_active_colour_does_to_itself_is_its_noise() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &comparing(r#", "noise_percent": "0.01""#));
    exchange(worker, br#"{"predictions": [0]}"#).end();
    envoy.reply(&sent(&envoy), Some("200"), r#"{"predictions": [1]}"#);
    let again = sent(&envoy);
    assert_eq!((again.cluster.as_str(), again.body.as_slice()), ("b1", BODY));
    assert_eq!(compared(&envoy, "disagreed"), None, "not before it is known");
    envoy.reply(&again, Some("200"), r#"{"predictions": [0]}"#);
    assert_eq!(compared(&envoy, "disagreed"), Some(1));
}

#[test]
fn a_candidate_that_gives_no_answer_is_no_disagreement_and_the_reason_is_counted() {
    let cases = [
        (Some("504"), "upstream request timeout", "timeout"),
        (Some("503"), "no healthy upstream", "unreachable"),
        (None, "", "unreachable"),
    ];
    for (status, body, reason) in cases {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &comparing(""));
        exchange(worker, br#"{"predictions": [0]}"#).end();
        envoy.reply(&sent(&envoy), status, body);
        assert_eq!((dropped(&envoy, reason), compared(&envoy, "disagreed")), (Some(1), None), "{reason}");
    }
}

#[test]
fn what_cannot_be_compared_is_let_go_of_with_its_reason_and_nothing_is_sent() {
    type Case<'c> = (&'c str, &'c [(&'c str, &'c [u8])], fn(Exchange));
    let cases: [Case<'_>; 8] = [
        ("streaming", &[("upgrade", b"websocket")], |exchange| exchange.end()),
        ("streaming", &[], |exchange| {
            exchange.answer_with(&[(":status", "200"), ("content-type", "text/event-stream")]);
            exchange.end();
        }),
        ("encoding", &[], |exchange| {
            exchange.answer_with(&[(":status", "200"), ("content-encoding", "gzip")]);
            exchange.end();
        }),
        ("too_large", &[("content-length", b"1000000")], |exchange| exchange.end()),
        ("too_large", &[], |exchange| {
            exchange.pass_body(&[b'x'; 2_000], true);
            exchange.end();
        }),
        ("too_large", &[], |exchange| {
            exchange.answer_with(&JSON);
            exchange.answer_body(&[b'x'; 1_000], false);
            exchange.answer_body(&[b'x'; 1_000], true);
            exchange.end();
        }),
        ("not_answered", &[], |exchange| {
            exchange.answer_with(&[(":status", "500")]);
            exchange.end();
        }),
        ("not_json", &[], |exchange| {
            exchange.pass_body(BODY, true);
            exchange.answer_with(&JSON);
            exchange.answer_body(b"no", true);
            exchange.end();
        }),
    ];
    for (reason, headers, act) in cases {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &comparing(r#", "max_body": "1KiB""#));
        act(infer(worker, headers));
        envoy.settle();
        assert_eq!(dropped(&envoy, reason), Some(1), "{reason}: {:?}", envoy.metric_names());
        assert!(envoy.take_sent().is_empty(), "{reason}");
    }
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &comparing(r#", "max_in_flight": 1"#));
    for _ in 0..3 {
        let exchange = infer(worker, &[]);
        exchange.pass_body(BODY, true);
        exchange.answer_with(&JSON);
        exchange.answer_body(br#"{"predic"#, false);
        envoy.set_code_details("downstream_remote_disconnect");
        exchange.end();
        envoy.set_code_details("via_upstream");
    }
    assert_eq!((dropped(&envoy, "client_gone"), dropped(&envoy, "busy")), (Some(3), None));
    exchange(worker, br#"{"predictions": [0]}"#).end();
    assert_eq!(envoy.take_sent().len(), 1);
}

#[test]
fn no_more_copies_are_held_than_allowed_and_a_place_is_free_once_a_comparison_is_over() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &comparing(r#", "max_in_flight": 2"#));
    (0..4).for_each(|_| exchange(worker, br#"{"predictions": [0]}"#).end());
    let held = envoy.take_sent();
    assert_eq!((held.len(), dropped(&envoy, "busy")), (2, Some(2)));
    for copy in &held {
        envoy.reply(copy, Some("200"), r#"{"predictions": [0]}"#);
    }
    exchange(worker, br#"{"predictions": [0]}"#).end();
    assert_eq!((envoy.take_sent().len(), compared(&envoy, "agreed")), (1, Some(2)));
}

#[test]
fn only_what_is_safe_is_copied_at_all_and_what_is_not_sampled_is_copied_by_envoy() {
    let envoy = FakeEnvoy::start();
    let not_safe = worker(&envoy, &comparing("").replace(r#""method": "POST""#, r#""method": "GET""#));
    let exchange = infer(not_safe, &[]);
    assert_eq!((exchange.request_header("x-bluegreen-shadow").len(), dropped(&envoy, "not_safe")), (0, Some(1)));
    exchange.end();
    let seldom = worker(&envoy, &comparing(r#", "sample_percent": "0.01""#));
    let copied = (0..20).filter(|_| {
        let exchange = infer(seldom, &[]);
        let by_envoy = exchange.request_header("x-bluegreen-shadow") == ["g2"];
        exchange.answer("200");
        exchange.end();
        by_envoy
    });
    assert!(copied.count() >= 19);
}

#[test]
fn nothing_is_compared_across_versions() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &comparing(""));
    exchange(worker, br#"{"predictions": [0]}"#).end();
    let copy = sent(&envoy);
    assert_eq!(operate(worker, "POST", "/promote"), 200);
    envoy.reply(&copy, Some("200"), r#"{"predictions": [1]}"#);
    assert_eq!((dropped(&envoy, "version_changed"), compared(&envoy, "disagreed")), (Some(1), None));
    // A request that is under way meanwhile.
    let exchange = exchange(worker, br#"{"predictions": [0]}"#);
    assert_eq!(operate(worker, "POST", "/rollback"), 200);
    exchange.end();
    assert!(envoy.take_sent().is_empty());
    assert_eq!(dropped(&envoy, "version_changed"), Some(2));
}

#[test]
fn a_new_configuration_drops_what_is_under_way_and_keeps_what_was_found() {
    let envoy = FakeEnvoy::start();
    let rules = r#", "noise_percent": 0"#;
    let first = worker(&envoy, &comparing(rules));
    exchange(first, br#"{"predictions": [0]}"#).end();
    envoy.reply(&sent(&envoy), Some("200"), r#"{"predictions": [1]}"#);
    exchange(first, br#"{"predictions": [0]}"#).end();
    assert_eq!(envoy.take_sent().len(), 1, "it is under way");
    let second = worker(&envoy, &comparing(rules));
    first.end();
    assert!(shown(second, "/comparison").contains(r#""shadow":{"compared":1,"disagreed":1"#));
    assert!(shown(second, "/disagreements").contains(r#""request_id":"r-1""#));
    // Other rules begin another comparison.
    let third = worker(&envoy, &comparing(r#", "noise_percent": 0, "ignore": ["/x"]"#));
    second.end();
    assert!(shown(third, "/comparison").contains(r#""shadow":{"compared":0"#));
}
