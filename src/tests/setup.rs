//! Mistakes around the filter, found at requests and at the first tick.

use super::*;

/// The mistakes that are shown.
fn problems(worker: Worker) -> Vec<String> {
    let exchange = call(worker, "GET", "");
    exchange.send_headers(true);
    let shown: serde_json::Value = serde_json::from_str(&exchange.replies()[0].body).expect("JSON");
    exchange.end();
    let all = shown["setup"].as_array().expect("a list").iter();
    all.map(|problem| problem["problem"].as_str().expect("a name").to_owned()).collect()
}

fn is_shown(worker: Worker, problem: &str) -> bool {
    problems(worker).iter().any(|shown| shown == problem)
}

fn unseeded(worker: Worker) -> Exchange {
    let exchange = worker.request(&[(":method", b"POST"), (":path", b"/invocations"), (":authority", b"h")]);
    exchange.send_headers(true);
    exchange
}

#[test]
fn a_sound_set_up_shows_nothing() {
    let envoy = FakeEnvoy::start();
    let (operator, traffic) = (worker(&envoy, &admin()), worker(&envoy, &config("", "")));
    for _ in 0..40 {
        cluster(traffic, &[]);
        envoy.advance(Duration::from_millis(250));
        [operator, traffic].iter().for_each(|worker| worker.tick());
    }
    assert_eq!(problems(operator), Vec::<String>::new());
}

#[test]
fn a_listener_without_early_mutation_is_shown_until_its_requests_come_seeded() {
    let envoy = FakeEnvoy::start();
    let (operator, traffic) = (worker(&envoy, &admin()), worker(&envoy, &config("", "")));
    unseeded(traffic).end();
    assert!(is_shown(operator, "not-seeded"));
    (0..16).for_each(|_| drop(cluster(traffic, &[])));
    assert!(!is_shown(operator, "not-seeded"));
    // The last route has a cluster, as in a mesh: nothing has to be seeded.
    envoy.serve_from(Some("b1"), 1);
    unseeded(traffic).end();
    assert!(!is_shown(operator, "not-seeded"));
}

#[test]
fn a_cluster_that_envoy_does_not_have_is_shown_and_nothing_is_sent() {
    let envoy = FakeEnvoy::start();
    let operator = worker(&envoy, &admin().replace("g2", "unknown"));
    operator.tick();
    assert!(is_shown(operator, "cluster-unknown"));
    assert!(envoy.take_sent().is_empty() && envoy.grpc_streams().is_empty());
    let line = envoy.logs().into_iter().find(|line| line.contains("setup=cluster-unknown")).expect("a line");
    assert!(line.contains(r#"colours.green.cluster "unknown""#) && !line.contains("b1"), "{line}");
}

#[test]
fn an_operator_who_forbids_grpc_is_not_told_that_clusters_are_unknown() {
    let envoy = FakeEnvoy::start();
    envoy.refuse_grpc(true);
    let operator = worker(&envoy, &admin());
    operator.tick();
    assert!(!is_shown(operator, "cluster-unknown"));
}

#[test]
fn stats_that_are_not_kept_are_shown() {
    let envoy = FakeEnvoy::start();
    envoy.reject_stats();
    let operator = worker(&envoy, &admin());
    operator.tick();
    assert!(is_shown(operator, "stats-filtered"));
}

#[test]
fn a_published_token_is_shown_under_another_name_or_where_others_reach_it() {
    let published = "61112491d046c3f6f8ab801f170d9b2d0c734a17ceff60dee92123fb507cfc3f";
    let read = |worker: Worker, address: &str, envoy: &FakeEnvoy| {
        envoy.set_reached_at(address);
        let path = b"/bluegreen/v1/deployments/iris";
        let bearer = b"Bearer demo-operator-token";
        let call = || worker.request(&[(":method", b"GET"), (":path", path), ("authorization", bearer)]);
        call().send_headers(true);
        let exchange = call();
        exchange.send_headers(true);
        exchange.replies()[0].body.contains("demo-token")
    };
    for (name, address, expected) in [
        ("demo-operator", "127.0.0.1:10001", false),
        ("demo-operator", "10.1.2.3:10001", true),
        ("alice", "127.0.0.1:10001", true),
    ] {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin().replace(TOKEN_SUM, published).replace("alice", name));
        operator.tick();
        assert_eq!(read(operator, address, &envoy), expected, "{name} {address}");
    }
}

#[test]
fn requests_that_nobody_takes_are_shown_when_they_were_meant_for_a_deployment() {
    for (route, details, expected) in [
        (Some("b1"), "via_upstream", true),
        (Some("web"), "via_upstream", false),
        (None, "cluster_not_found", true),
        (None, "route_not_found", false),
    ] {
        let envoy = FakeEnvoy::start();
        let (operator, traffic) = (worker(&envoy, &admin()), worker(&envoy, &config("", "")));
        envoy.serve_from(route, 1);
        envoy.set_code_details(details);
        let exchange = traffic.request(&[(":method", b"GET"), (":path", b"/invocation"), (":authority", b"h")]);
        exchange.send_headers(true);
        exchange.answer("200");
        exchange.end();
        assert_eq!(is_shown(operator, "unmatched-requests"), expected, "{route:?} {details}");
    }
}
