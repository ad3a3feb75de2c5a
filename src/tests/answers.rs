//! Who gave an answer: its marks, for whom it counts, and what is noted when it was another one than was chosen.

use super::*;
use crate::fake_host::Headers;

/// A worker that operators and testers may use.
fn open(envoy: &FakeEnvoy) -> Worker {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    worker(envoy, &config(r#", "override": {"header": "x-want"}"#, &format!(r#", "admin": {{"tokens": [{tokens}]}}"#)))
}

/// The marks of the answer to one request.
fn marks(worker: Worker, more: &[(&str, &[u8])]) -> (Vec<String>, Vec<String>) {
    let exchange = infer(worker, more);
    let answer: Headers = exchange.answer("200");
    exchange.end();
    (values(&answer, "x-bluegreen-colour"), values(&answer, "x-bluegreen-version"))
}

/// A metric, once the workers have said what they have counted.
fn metric(envoy: &FakeEnvoy, name: &str) -> u64 {
    envoy.tick_all();
    envoy.metric(&format!("bluegreen.deployment.iris.{name}")).unwrap_or_default()
}

fn marked(colour: &str, version: &str) -> (Vec<String>, Vec<String>) {
    (vec![colour.to_owned()], vec![version.to_owned()])
}

fn body(exchange: &Exchange) -> String {
    exchange.replies().pop().map(|reply| reply.body).unwrap_or_default()
}

fn view(worker: Worker) -> String {
    let shown = call(worker, "GET", "");
    shown.send_headers(true);
    body(&shown)
}

#[test]
fn an_answer_is_marked_and_counted_as_the_colours_that_served_it() {
    for refused in [false, true] {
        let envoy = FakeEnvoy::start();
        if refused {
            envoy.refuse_expressions();
        }
        let traffic = worker(&envoy, &config("", ""));
        let cases = [
            (None, marked("blue", "1")),
            (Some("g2"), marked("green", "2")),
            (Some("other"), (vec![], vec![])),
            (Some(""), (vec![], vec![])),
        ];
        for (serving, expected) in cases {
            envoy.serve_from(serving, 1);
            assert_eq!(marks(traffic, &[]), expected, "{serving:?}");
        }
        for colour in ["blue", "green"] {
            for name in ["requests_total", "class.2xx.responses_total"] {
                assert_eq!(metric(&envoy, &format!("colour.{colour}.{name}")), 1, "{colour} {name}");
            }
            assert_eq!(metric(&envoy, &format!("colour.{colour}.in_flight")), 0);
        }
        assert_eq!(metric(&envoy, "answers_from_elsewhere_total"), 3);
    }
}

#[test]
fn a_local_reply_has_no_marks_and_counts_for_nobody() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    envoy.serve_from(None, 0);
    for (details, status) in [("direct_response", "200"), ("fault_filter_abort", "503"), ("local_rate_limited", "429")]
    {
        envoy.set_code_details(details);
        let exchange = infer(traffic, &[]);
        let answer = exchange.answer(status);
        exchange.end();
        assert!(values(&answer, "x-bluegreen-colour").is_empty() && values(&answer, "x-bluegreen-version").is_empty());
    }
    assert_eq!(metric(&envoy, "local_replies_total"), 3);
    let of_colours = |name: &&String| name.contains(".colour.") && envoy.metric(name).is_some_and(|value| value > 0);
    let names = envoy.metric_names();
    let counted: Vec<&String> = names.iter().filter(of_colours).collect();
    assert_eq!(counted, ["bluegreen.deployment.iris.colour.blue.active"], "nothing but the state");
}

#[test]
fn a_colour_that_cannot_be_reached_failed_whatever_the_client_saw() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    envoy.set_code_details("upstream_reset_before_response_started{connection_failure}");
    for status in ["503", "502", "200"] {
        let exchange = infer(traffic, &[]);
        let answer = exchange.answer(status);
        assert!(values(&answer, "x-bluegreen-colour").is_empty(), "nobody served it");
        exchange.end();
    }
    let grpc = infer(traffic, &[]);
    grpc.answer_grpc("14");
    grpc.end();
    assert_eq!(
        ["5xx", "2xx"].map(|class| metric(&envoy, &format!("colour.blue.class.{class}.responses_total"))),
        [4, 0]
    );
}

#[test]
fn a_redirect_that_envoy_followed_counts_and_a_request_that_never_left_does_not() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    for (details, attempts) in
        [("internal_redirect", 1), ("downstream_remote_disconnect", 1), ("downstream_remote_disconnect", 0)]
    {
        envoy.set_code_details(details);
        envoy.serve_from(None, attempts);
        let exchange = infer(traffic, &[]);
        exchange.keep_answer("302");
        exchange.end();
    }
    let ended = ["3xx", "none"].map(|class| metric(&envoy, &format!("colour.blue.class.{class}.responses_total")));
    assert_eq!((ended, metric(&envoy, "colour.blue.requests_total")), ([1, 1], 2));
}

#[test]
fn a_retry_that_hid_a_failure_is_counted_and_noted() {
    let envoy = FakeEnvoy::start();
    let worker = open(&envoy);
    envoy.serve_from(None, 3);
    assert_eq!(marks(worker, &[]), marked("blue", "1"));
    assert_eq!(metric(&envoy, "colour.blue.retries_total"), 2);
    assert!(view(worker).contains(r#""setup":[{"problem":"retries-hide-failures","#), "{}", view(worker));
}

#[test]
fn answers_from_elsewhere_are_noted_and_refuse_a_promotion_until_they_are_fixed() {
    let envoy = FakeEnvoy::start();
    let [first, second] = [open(&envoy), open(&envoy)];
    let by_override: [(&str, &[u8]); 1] = [("x-want", b"green")];
    envoy.serve_from(Some("b1"), 1);
    assert_eq!(marks(first, &by_override), marked("blue", "1"));
    assert_eq!(metric(&envoy, "colour.blue.override_requests_total"), 1);
    assert!(view(second).contains("1 of 1 answers came from cluster b1, not g2, though green was chosen"));
    for (method, path) in [("POST", "/promote"), ("PATCH", "?active=green"), ("PATCH", "?canary_percent=1")] {
        let refused = call(second, method, path);
        refused.send_headers(true);
        assert!(body(&refused).contains("urn:bluegreen:problem:not-routed"), "{path}: {}", body(&refused));
        assert_eq!(refused.replies()[0].status, 409);
    }
    assert_eq!(operate(second, "PATCH", "?shadow_percent=1"), 200);
    assert_eq!(operate(second, "POST", "/promote?force=true"), 200);
    // What may still serve must not be stopped.
    let drain = call(second, "POST", "/drain?colour=blue");
    drain.send_headers(true);
    assert!(body(&drain).contains("requests for green are answered by another cluster"), "{}", body(&drain));
    // The way back is open, whatever is noted.
    assert_eq!(operate(second, "POST", "/rollback"), 200);
    envoy.serve_from(None, 1);
    assert_eq!(marks(second, &by_override), marked("green", "2"));
    assert!(!view(first).contains("answers-from-elsewhere"), "{}", view(first));
    assert_eq!(operate(first, "POST", "/promote"), 200);
}

#[test]
fn each_colour_has_one_question_of_its_own() {
    let envoy = FakeEnvoy::start();
    let worker = open(&envoy);
    for want in [&b"green"[..], b"blue", b"green"] {
        marks(worker, &[("x-want", want)]);
    }
    let expressions = envoy.expressions();
    assert_eq!(expressions.len(), 2, "{expressions:?}");
    assert!(expressions[0].contains(r#"xds.cluster_name == "g2""#), "{expressions:?}");
}
