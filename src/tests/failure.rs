//! What the filter does when something is wrong.

use super::*;

#[test]
fn a_refused_configuration_names_its_field() {
    let envoy = FakeEnvoy::start();
    assert!(envoy.worker(&config(r#", "initial": {"canary_percent": 101}"#, "")).is_none());
    let line = envoy.logs().pop().expect("a line");
    assert_eq!(
        line,
        "bluegreen: configuration refused: deployments.iris.initial.canary_percent: 101 is not between 0 and 100"
    );
    assert!(envoy.worker("").is_none());
}

#[test]
fn while_shared_data_is_out_of_reach_requests_follow_the_last_good_state_and_writes_are_503() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let traffic = worker(&envoy, &config("", ""));
    operate(operator, "POST", "/promote");
    assert_eq!(cluster(traffic, &[]), "g2");
    envoy.set_shared_reachable(false);
    assert_eq!(operate(operator, "POST", "/rollback"), 503);
    assert_eq!(cluster(traffic, &[]), "g2");
    assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "b1");
    envoy.set_shared_reachable(true);
    assert_eq!(operate(operator, "GET", ""), 200);
    assert_eq!(cluster(traffic, &[]), "g2");
}

#[test]
fn a_foreign_value_under_our_key_is_warned_of_once_and_counted_and_the_last_good_state_stays() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let traffic = worker(&envoy, &config("", ""));
    operate(operator, "POST", "/promote");
    assert_eq!(cluster(traffic, &[]), "g2");
    let fresh = worker(&envoy, &config("", ""));
    envoy.put_shared(STATE, b"\xff another plugin's");
    envoy.put_shared(COPY, b"\xff another plugin's");
    for _ in 0..3 {
        assert_eq!(cluster(traffic, &[]), "g2");
        assert_eq!(cluster(fresh, &[]), "b1");
    }
    let warnings = envoy.logs().iter().filter(|line| line.contains("is not a state")).count();
    assert_eq!((warnings, envoy.metric("bluegreen.deployment.iris.fallbacks_total")), (1, Some(1)));
}

#[test]
fn a_foreign_value_under_our_key_costs_neither_the_revision_nor_the_way_back() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    operate(operator, "POST", "/promote");
    let history = || {
        let exchange = call(operator, "GET", "/history");
        exchange.send_headers(true);
        exchange.replies()[0].body.clone()
    };
    let before = history();
    assert!(before.contains(r#""revision":1"#), "{before}");
    envoy.put_shared(STATE, b"\xff another plugin's");
    assert_eq!(history(), before);
    // A listener that is configured meanwhile, and a worker that has not read the state before.
    let fresh = worker(&envoy, &config("", ""));
    assert_eq!(cluster(fresh, &[]), "g2");
    assert_eq!(operate(operator, "POST", "/rollback"), 200);
    assert_eq!(cluster(fresh, &[]), "b1");
}

#[test]
fn bytes_that_are_no_text_in_any_header_are_routed_like_others() {
    let everything = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}},
        "override": {"header": "x-want"}, "initial": {"canary_percent": 50}"#;
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config(everything, r#", "admin": {}"#));
    let raw: &[u8] = b"\xff\xfe\x00";
    let exchange = infer(traffic, &[("x-want", raw), ("cookie", raw), ("authorization", raw)]);
    assert_eq!(exchange.request_header("x-bluegreen-colour").len(), 1);
    for path in [&b"/bluegreen/\xff"[..], b"/bluegreen/v1/deployments/\xff?\xff=\xff"] {
        let bad = traffic.request(&[(":method", raw), (":path", path), ("if-match", raw)]);
        bad.send_headers(true);
        assert_eq!(bad.replies()[0].status, 401);
    }
}

#[test]
fn the_override_header_goes_no_further_than_the_filter_whatever_it_says() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config(r#", "override": {"header": "x-want"}"#, ""));
    for (value, cluster) in [(&b"green"[..], "g2"), (b"blue", "b1"), (b"Green", "b1"), (b"\xff", "b1")] {
        let exchange = infer(traffic, &[("x-want", value), ("x-want", value)]);
        assert_eq!(exchange.request_header("x-want"), Vec::<String>::new());
        assert_eq!(exchange.request_header("x-bluegreen-cluster"), [cluster]);
    }
}

#[test]
fn a_token_is_removed_with_the_override_header_whether_it_is_right_or_wrong() {
    let envoy = FakeEnvoy::start();
    let tokens = format!(r#"[{{"name": "qa", "sha256": "{TOKEN_SUM}"}}]"#);
    let by = format!(r#", "override": {{"header": "x-want", "tokens": {tokens}}}"#);
    let traffic = worker(&envoy, &config(&by, ""));
    for (value, cluster) in [("green:test", "g2"), ("green:wrong", "b1"), ("green", "b1"), ("green:", "b1")] {
        let exchange = infer(traffic, &[("x-want", value.as_bytes())]);
        assert_eq!(exchange.request_header("x-bluegreen-cluster"), [cluster], "{value}");
        assert_eq!(exchange.request_header("x-want"), Vec::<String>::new(), "{value}");
    }
}

#[test]
fn what_an_earlier_pass_or_another_filter_wrote_chooses_nothing() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config(r#", "override": {"header": "x-want"}"#, ""));
    let first = infer(traffic, &[("x-want", b"green")]);
    let names = ["x-bluegreen-cluster", "x-bluegreen-colour", "x-bluegreen-shadow"];
    let written: Vec<(&str, String)> = names
        .into_iter()
        .flat_map(|name| first.request_header(name).into_iter().map(move |value| (name, value)))
        .collect();
    assert!(written.contains(&("x-bluegreen-colour", "green".to_owned())), "{written:?}");
    let again: Vec<(&str, &[u8])> = written.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    assert_eq!(cluster(traffic, &again), "b1");
}

#[test]
fn a_client_never_chooses_a_cluster() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    let evil: [(&str, &[u8]); 5] = [
        ("x-bluegreen-cluster", b"g2"),
        ("x-bluegreen-cluster", b"g2"),
        ("x-bluegreen-colour", b"green"),
        ("x-bluegreen-shadow", b"g2"),
        ("x-bluegreen-shadow", b"g2"),
    ];
    let exchange = infer(traffic, &evil);
    assert_eq!(exchange.request_header("x-bluegreen-cluster"), ["b1"]);
    assert_eq!(exchange.request_header("x-bluegreen-colour"), ["blue"]);
    assert!(exchange.request_header("x-bluegreen-shadow").is_empty());
}
