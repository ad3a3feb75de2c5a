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
