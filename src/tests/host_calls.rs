//! What each kind of exchange costs: the calls to the host, pinned.

use super::*;

/// The calls of one exchange on a worker that has seen traffic before.
fn of_exchange(in_deployment: &str, more: &[(&str, &[u8])]) -> Vec<&'static str> {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(in_deployment, ""));
    // Enough for both colours to have been counted, wherever the rotation begins.
    (0..40).for_each(|_| drop(cluster(worker, more)));
    envoy.take_calls();
    cluster(worker, more);
    envoy.take_calls()
}

#[test]
fn a_plain_exchange_makes_17() {
    let expected = [
        "get_header",       // :path
        "get_metric",       // the epoch
        "get_current_time", // the start
        "set_header",       // colour
        "remove_header",    // shadow
        "set_header",       // cluster
        "increment_metric", // requests
        "increment_metric", // in flight
        "get_header",       // :status
        "get_current_time", // the first byte
        "set_header",       // colour
        "set_header",       // version
        "increment_metric", // in flight
        "get_current_time", // the last byte
        "increment_metric", // class
        "increment_metric", // first byte
        "increment_metric", // last byte
    ];
    assert_eq!(of_exchange("", &[]), expected);
}

/// One call more than without a canary: the header that only CORS preflights have is absent.
#[test]
fn an_exchange_whose_colour_is_drawn_makes_18() {
    let preflight: [(&str, &[u8]); 2] = [("origin", b"https://a"), ("access-control-request-method", b"POST")];
    for part in ["canary_percent", "shadow_percent"] {
        let drawn = format!(r#", "initial": {{"{part}": 50}}"#);
        assert_eq!(of_exchange(&drawn, &[]).len(), 18);
        // With the method and the origin. POST is no preflight, and costs one less.
        assert_eq!(of_exchange(&drawn, &preflight).len(), 19);
        let all = drawn.replace("50", "100");
        assert_eq!(of_exchange(&all, &preflight).len(), 17);
    }
    let both = r#", "initial": {"canary_percent": 50, "shadow_percent": 50}"#;
    assert_eq!(of_exchange(both, &[]).len(), 18);
}

#[test]
fn an_exchange_with_a_colour_that_has_an_authority_makes_18() {
    // Blue is active: only its authority is written.
    for (version, calls) in [("1", 18), ("2", 17)] {
        let envoy = FakeEnvoy::start();
        let own = format!(r#""version": "{version}", "authority": "h{version}.example.com""#);
        let worker = worker(&envoy, &config("", "").replace(&format!(r#""version": "{version}""#), &own));
        cluster(worker, &[]);
        envoy.take_calls();
        cluster(worker, &[]);
        assert_eq!(envoy.take_calls().len(), calls);
    }
}

#[test]
fn a_sticky_exchange_makes_18_while_a_canary_runs_and_17_otherwise() {
    let sticky = r#", "sticky": {"header": "x-user"}, "initial": {"canary_percent": 10}"#;
    assert_eq!(of_exchange(sticky, &[("x-user", b"alice")]).len(), 18);
    let idle = sticky.replace("10", "0");
    assert_eq!(of_exchange(&idle, &[("x-user", b"alice")]).len(), 17);
}

/// At 10 % a cookie matters; otherwise it is neither looked for nor issued.
const COOKIE: &str = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}, "initial": {"canary_percent": 10}"#;

#[test]
fn an_exchange_with_a_sticky_cookie_makes_18_and_one_that_issues_it_21() {
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"c=1")]).len(), 18);
    // cookie, the header of a preflight, cache-control, set-cookie
    assert_eq!(of_exchange(COOKIE, &[]).len(), 21);
}

#[test]
fn without_a_canary_a_sticky_cookie_costs_nothing() {
    for idle in ["0", "100"] {
        let idle = COOKIE.replace("10", idle);
        assert_eq!(of_exchange(&idle, &[("cookie", b"c=1")]).len(), 17);
        assert_eq!(of_exchange(&idle, &[]).len(), 17);
    }
}

#[test]
fn the_lines_after_the_first_cookie_line_are_asked_for_only_when_it_lacks_the_cookie() {
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"c=1"), ("cookie", b"a=2")]).len(), 18);
    let calls = of_exchange(COOKIE, &[("cookie", b"a=2"), ("cookie", b"c=1")]);
    assert_eq!((calls.len(), calls.contains(&"get_property")), (19, true), "{calls:?}");
    // A browser with other cookies, to which the answer gives this one.
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"a=2")]).len(), 22);
}

#[test]
fn an_exchange_that_may_be_overridden_makes_18_and_16_when_it_is() {
    let open = r#", "override": {"header": "x-want"}"#;
    assert_eq!(of_exchange(open, &[]).len(), 18);
    // With the removal of the header.
    assert_eq!(of_exchange(open, &[("x-want", b"x")]).len(), 19);
    // And without the time of the last byte and the two latencies, which nobody reads of a tester's request.
    assert_eq!(of_exchange(open, &[("x-want", b"green")]).len(), 16);
}

#[test]
fn an_exchange_that_is_copied_makes_17() {
    assert_eq!(of_exchange(r#", "initial": {"shadow_percent": 100}"#, &[]).len(), 17);
}

#[test]
fn an_exchange_with_everything_turned_on_makes_20() {
    let everything = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}, "override": {"header": "x-want"},
        "initial": {"canary_percent": 10, "shadow_percent": 100}, "probe": {"path": "/ping"},
        "smoke_test": {"requests": [{"path": "/"}]}, "bake": {"for": "10m"}, "failover": {"after": 5}"#;
    // Cookie, override, and the failover's count of failures in a row, which is 0.
    assert_eq!(of_exchange(everything, &[("cookie", b"c=2")]).len(), 20);
}

/// While a canary runs: the explanation of the answer, and whether the request is a preflight.
#[test]
fn a_guarded_exchange_makes_17_and_19_while_a_canary_runs() {
    assert_eq!(of_exchange(r#", "guard": {}"#, &[]).len(), 17);
    assert_eq!(of_exchange(r#", "guard": {}, "initial": {"canary_percent": 10}"#, &[]).len(), 19);
}

#[test]
fn a_request_without_a_deployment_makes_4_and_its_answer_none() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", ""));
    let exchange = worker.request(&[(":path", b"/other"), ("x-bluegreen-cluster", b"evil")]);
    envoy.take_calls();
    assert_eq!(exchange.send_headers(true), Next::Continue);
    exchange.answer("200");
    assert_eq!(envoy.take_calls(), ["get_header", "remove_header", "remove_header", "remove_header"]);
    assert!(exchange.request_header("x-bluegreen-cluster").is_empty());
    exchange.end();
    assert!(envoy.take_calls().is_empty());
}

#[test]
fn shared_data_is_read_once_after_each_write_and_not_per_request() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let traffic = worker(&envoy, &config("", ""));
    for to in ["green", "blue", "green"] {
        assert_eq!(operate(operator, "POST", &format!("/promote?to={to}")), 200);
        envoy.take_calls();
        for _ in 0..10 {
            cluster(traffic, &[]);
        }
        let reads = envoy.take_calls().into_iter().filter(|call| *call == "get_shared_data").count();
        // One for the state, and up to two when a bucket is counted in for the first time.
        assert!((1..=3).contains(&reads), "{reads}");
    }
}
