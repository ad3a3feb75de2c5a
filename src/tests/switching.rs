//! Changes of state, as workers, gauges and log see them.

use super::*;

#[test]
fn every_worker_uses_the_new_state_as_soon_as_the_write_is_answered() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let workers = [0, 1, 2, 3].map(|_| worker(&envoy, &config("", "")));
    for (path, expected) in [("/promote", "g2"), ("/rollback", "b1"), ("/promote", "g2")] {
        assert_eq!(operate(operator, "POST", path), 200);
        assert_eq!(workers.map(|worker| cluster(worker, &[])), [expected; 4].map(str::to_owned));
    }
}

#[test]
fn a_change_is_one_log_line_with_author_before_and_after() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    operate(operator, "PATCH", "?canary_percent=10&reason=a%20try");
    operate(operator, "PATCH", "?canary_percent=10");
    let changes: Vec<String> = envoy.logs().into_iter().filter(|line| line.contains("state changed")).collect();
    let expected = "bluegreen: state changed deployment=iris revision=1 active=blue->blue canary_percent=0->10 \
                    shadow_percent=0->0 by=alice source=admin reason=\"a try\"";
    assert_eq!(changes, [expected]);
}

#[test]
fn the_gauges_show_the_state() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    operate(operator, "POST", "/promote");
    operate(operator, "PATCH", "?canary_percent=12.5&shadow_percent=1");
    let gauge = |name: &str| envoy.metric(&format!("bluegreen.deployment.iris.{name}")).expect(name);
    assert_eq!((gauge("colour.green.active"), gauge("colour.blue.active")), (1, 0));
    assert_eq!((gauge("canary_basis_points"), gauge("canary_percent"), gauge("shadow_basis_points")), (1_250, 13, 100));
    assert_eq!(gauge("revision"), 2);
}

#[test]
fn a_configuration_push_switches_only_when_its_initial_is_another() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    operate(operator, "POST", "/promote");
    for _ in 0..4 {
        assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "g2");
    }
    let green = r#", "initial": {"active": "green"}"#;
    assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "g2");
    operate(operator, "POST", "/rollback");
    assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "b1");
    assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "b1");
    assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "g2");
    assert!(envoy.logs().iter().any(|line| line.contains("revision=3") && line.contains("source=config")));
}

#[test]
fn a_worker_that_stands_still_is_named_after_a_second_and_told_when_it_goes_on() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin());
    let traffic = worker(&envoy, &config("", ""));
    assert_eq!(cluster(traffic, &[]), "b1");
    traffic.stop(true);
    let exchange = call(operator, "POST", "/promote");
    assert_eq!(exchange.send_headers(true), Next::Pause);
    assert!(exchange.replies().is_empty(), "it waits");
    for _ in 0..5 {
        operator.tick();
    }
    let replies = exchange.replies();
    assert_eq!((replies.len(), replies[0].status), (1, 202), "{replies:?}");
    assert!(replies[0].body.contains(r#""in_force":{"revision":1,"#), "{}", replies[0].body);
    exchange.end();
    traffic.stop(false);
    assert_eq!(cluster(traffic, &[]), "g2");
    assert_eq!(operate(operator, "GET", ""), 200);
}
