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
fn a_plain_exchange_makes_10() {
    let expected = [
        "get_header",            // :path
        "get_current_time",      // the start
        "set_header",            // colour
        "remove_header",         // shadow
        "set_header",            // cluster
        "get_current_time",      // the first byte
        "call_foreign_function", // whether it is a 200 of the chosen cluster, at the first attempt
        "set_header",            // colour
        "set_header",            // version
        "get_current_time",      // the last byte
    ];
    assert_eq!(of_exchange("", &[]), expected);
}

/// The path is asked for once, although both the admin API and the match look at it.
#[test]
fn a_plain_exchange_on_a_listener_with_the_admin_api_makes_10_too() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    (0..40).for_each(|_| drop(cluster(worker, &[])));
    envoy.take_calls();
    cluster(worker, &[]);
    let calls = envoy.take_calls();
    assert_eq!((calls.len(), calls.iter().filter(|call| **call == "get_header").count()), (10, 1), "{calls:?}");
}

/// For access logs: the property.
#[test]
fn an_exchange_whose_decision_is_put_into_filter_state_makes_11() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", r#", "routing": {"filter_state": true}"#));
    (0..40).for_each(|_| drop(cluster(worker, &[])));
    envoy.take_calls();
    cluster(worker, &[]);
    let calls = envoy.take_calls();
    assert_eq!((calls.len(), calls.iter().filter(|call| **call == "set_property").count()), (11, 1), "{calls:?}");
}

/// One call more than without a canary: the header that only CORS preflights have is absent.
#[test]
fn an_exchange_whose_colour_is_drawn_makes_11() {
    let preflight: [(&str, &[u8]); 2] = [("origin", b"https://a"), ("access-control-request-method", b"POST")];
    for part in ["canary_percent", "shadow_percent"] {
        let drawn = format!(r#", "initial": {{"{part}": 50}}"#);
        assert_eq!(of_exchange(&drawn, &[]).len(), 11);
        // With the method and the origin. POST is no preflight, and costs one less.
        assert_eq!(of_exchange(&drawn, &preflight).len(), 12);
        let all = drawn.replace("50", "100");
        assert_eq!(of_exchange(&all, &preflight).len(), 10);
    }
    let both = r#", "initial": {"canary_percent": 50, "shadow_percent": 50}"#;
    assert_eq!(of_exchange(both, &[]).len(), 11);
}

#[test]
fn an_exchange_with_a_colour_that_has_an_authority_makes_11() {
    // Blue is active: only its authority is written.
    for (version, calls) in [("1", 11), ("2", 10)] {
        let envoy = FakeEnvoy::start();
        let own = format!(r#""version": "{version}", "authority": "h{version}.example.com""#);
        let worker = worker(&envoy, &config("", "").replace(&format!(r#""version": "{version}""#), &own));
        (0..16).for_each(|_| drop(cluster(worker, &[])));
        envoy.take_calls();
        cluster(worker, &[]);
        assert_eq!(envoy.take_calls().len(), calls);
    }
}

#[test]
fn a_sticky_exchange_makes_11_while_a_canary_runs_and_10_otherwise() {
    let sticky = r#", "sticky": {"header": "x-user"}, "initial": {"canary_percent": 10}"#;
    assert_eq!(of_exchange(sticky, &[("x-user", b"alice")]).len(), 11);
    let idle = sticky.replace("10", "0");
    assert_eq!(of_exchange(&idle, &[("x-user", b"alice")]).len(), 10);
}

/// At 10 % a cookie matters; otherwise it is neither looked for nor issued.
const COOKIE: &str = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}, "initial": {"canary_percent": 10}"#;

#[test]
fn an_exchange_with_a_sticky_cookie_makes_11_and_one_that_issues_it_14() {
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"c=1")]).len(), 11);
    // cookie, the header of a preflight, cache-control, set-cookie
    assert_eq!(of_exchange(COOKIE, &[]).len(), 14);
}

#[test]
fn without_a_canary_a_sticky_cookie_costs_nothing() {
    for idle in ["0", "100"] {
        let idle = COOKIE.replace("10", idle);
        assert_eq!(of_exchange(&idle, &[("cookie", b"c=1")]).len(), 10);
        assert_eq!(of_exchange(&idle, &[]).len(), 10);
    }
}

#[test]
fn the_lines_after_the_first_cookie_line_are_asked_for_only_when_it_lacks_the_cookie() {
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"c=1"), ("cookie", b"a=2")]).len(), 11);
    let calls = of_exchange(COOKIE, &[("cookie", b"a=2"), ("cookie", b"c=1")]);
    assert_eq!((calls.len(), calls.contains(&"get_property")), (12, true), "{calls:?}");
    // A browser with other cookies, to which the answer gives this one.
    assert_eq!(of_exchange(COOKIE, &[("cookie", b"a=2")]).len(), 15);
}

#[test]
fn an_exchange_that_may_be_overridden_makes_11_and_11_when_it_is() {
    let open = r#", "override": {"header": "x-want"}"#;
    assert_eq!(of_exchange(open, &[]).len(), 11);
    // With the removal of the header.
    assert_eq!(of_exchange(open, &[("x-want", b"x")]).len(), 12);
    // And without the time of the last byte and the two latencies, which nobody reads of a tester's request.
    assert_eq!(of_exchange(open, &[("x-want", b"green")]).len(), 11);
}

#[test]
fn an_exchange_that_is_copied_makes_10() {
    assert_eq!(of_exchange(r#", "initial": {"shadow_percent": 100}"#, &[]).len(), 10);
}

#[test]
fn an_exchange_with_everything_turned_on_makes_12() {
    let everything = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}, "override": {"header": "x-want"},
        "initial": {"canary_percent": 10, "shadow_percent": 100}, "probe": {"path": "/ping"},
        "smoke_test": {"requests": [{"path": "/"}]}, "bake": {"for": "10m"}, "failover": {"after": 5}"#;
    // Cookie, override, and the failover's count of failures in a row, which is 0.
    assert_eq!(of_exchange(everything, &[("cookie", b"c=2")]).len(), 12);
}

/// While a canary runs: whether the request is a preflight. Of the first answers of a quarter of a second, and of those that
/// went wrong, also who gave them.
#[test]
fn a_guarded_exchange_makes_10_and_11_while_a_canary_runs_and_12_when_it_is_looked_up_who_answered() {
    assert_eq!(of_exchange(r#", "guard": {}"#, &[]).len(), 10);
    let canary = r#", "guard": {}, "initial": {"canary_percent": 50}"#;
    assert_eq!(of_exchange(canary, &[]).len(), 11);
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(canary, ""));
    (0..300).for_each(|_| drop(cluster(worker, &[])));
    for (after, status, calls) in [(0, "200", 5), (0, "503", 10), (1, "200", 6)] {
        envoy.advance(Duration::from_secs(after));
        let exchange = infer(worker, &[]);
        envoy.take_calls();
        exchange.answer(status);
        exchange.end();
        let seen = envoy.take_calls();
        assert_eq!(seen.len(), calls, "{status}: {seen:?}");
        assert_eq!(seen.last() == Some(&"get_property"), calls != 5, "{seen:?}");
    }
}

#[test]
fn nothing_is_written_about_requests_while_nobody_compares_colours() {
    for in_deployment in ["", r#", "guard": {}"#, r#", "initial": {"canary_percent": 10}"#] {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &config(in_deployment, ""));
        (0..40).for_each(|_| drop(cluster(worker, &[])));
        envoy.tick_all();
        let keys = envoy.shared_keys();
        assert!(!keys.iter().any(|key| key.contains("/cohorts")), "{in_deployment}: {keys:?}");
    }
}

/// The status, and the three facts of the explanation.
#[test]
fn an_answer_that_needs_an_explanation_takes_4_more() {
    let calls_of = |prepare: &dyn Fn(&FakeEnvoy), status: &str| {
        let envoy = FakeEnvoy::start();
        prepare(&envoy);
        let worker = worker(&envoy, &config("", ""));
        (0..300).for_each(|_| drop(cluster(worker, &[])));
        infer(worker, &[]).answer(status);
        let exchange = infer(worker, &[]);
        envoy.take_calls();
        exchange.answer(status);
        envoy.take_calls().len()
    };
    assert_eq!(calls_of(&|_| {}, "200"), 4);
    assert_eq!(calls_of(&|_| {}, "404"), 8);
    // An Envoy without expressions: one call that is in vain is made once, at the first request.
    assert_eq!(calls_of(&|envoy| envoy.refuse_expressions(), "200"), 7);
}

/// One call more for each of the first requests: whether the header is there that names its cluster.
#[test]
fn an_exchange_of_those_that_are_looked_at_makes_18() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", ""));
    (0..14).for_each(|_| drop(cluster(worker, &[])));
    // With the last one of them a note that nothing was seeded, if there is one, is taken back.
    for calls in [11, 12, 10] {
        envoy.take_calls();
        cluster(worker, &[]);
        assert_eq!(envoy.take_calls().len(), calls);
    }
}

#[test]
fn a_request_without_a_deployment_makes_2_and_its_answer_none() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", ""));
    let pass = || {
        let exchange = worker.request(&[(":path", b"/other"), ("x-bluegreen-cluster", b"b1")]);
        envoy.take_calls();
        assert_eq!(exchange.send_headers(true), Next::Continue);
        exchange.answer("200");
        exchange.end();
        envoy.take_calls()
    };
    (0..16).for_each(|_| drop(pass()));
    assert_eq!(pass(), ["get_header", "increment_metric"]);
}

#[test]
fn no_request_reads_shared_data_or_a_metric_also_after_a_write() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let traffic = worker(&envoy, &config(r#", "override": {"header": "x-want"}"#, ""));
    // Each colour's first answer may mend what was noted about its way, and the first requests show what was seeded.
    for colour in ["blue", "green"] {
        (0..16).for_each(|_| drop(cluster(traffic, &[("x-want", colour.as_bytes())])));
    }
    for (path, active) in [("/promote?to=green", "g2"), ("/rollback", "b1"), ("/promote", "g2")] {
        assert_eq!(operate(operator, "POST", path), 200);
        envoy.take_calls();
        for _ in 0..10 {
            assert_eq!(cluster(traffic, &[]), active);
        }
        let calls = envoy.take_calls();
        assert!(!calls.iter().any(|call| call.contains("shared") || call.contains("metric")), "{calls:?}");
    }
}
