//! Requests that no deployment takes, and other filters of ours in the chain.

use super::*;

const ROUTING: [&str; 3] = ["x-bluegreen-cluster", "x-bluegreen-colour", "x-bluegreen-shadow"];

/// A request that no deployment of [`config`] takes.
fn pass(worker: Worker, more: &[(&str, &[u8])]) -> Exchange {
    let mut headers: Vec<(&str, &[u8])> = vec![(":method", b"GET"), (":path", b"/rose"), (":authority", b"h")];
    headers.extend_from_slice(more);
    let exchange = worker.request(&headers);
    assert_eq!(exchange.send_headers(true), Next::Continue);
    exchange
}

/// The routing headers that are there.
fn routing(exchange: &Exchange) -> Vec<(&'static str, String)> {
    let all = |name| exchange.request_header(name).into_iter().map(move |value| (name, value));
    ROUTING.into_iter().flat_map(all).collect()
}

#[test]
fn a_request_that_nobody_takes_keeps_what_the_listener_and_other_filters_wrote() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", ""));
    let written: [(&str, &[u8]); 3] = [(ROUTING[0], b"rose-green"), (ROUTING[1], b"green"), (ROUTING[2], b"rose-blue")];
    for _ in 0..40 {
        let exchange = pass(worker, &written);
        assert_eq!(routing(&exchange).len(), 3);
        exchange.end();
    }
    assert_eq!(envoy.metric("bluegreen.unmatched_requests_total"), Some(40));
}

#[test]
fn in_a_listener_that_seeds_nothing_no_client_names_a_cluster_of_a_request_that_nobody_takes() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config("", ""));
    pass(worker, &[]).end();
    for name in ROUTING {
        let exchange = pass(worker, &[(name, b"g2"), (name, b"g2")]);
        assert_eq!(routing(&exchange), Vec::new());
        exchange.end();
    }
}

#[test]
fn a_deployments_own_header_is_taken_from_a_client_too() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(r#", "cluster_header": "x-cluster-iris""#, ""));
    pass(worker, &[]).end();
    let exchange = pass(worker, &[("x-cluster-iris", b"g2")]);
    assert_eq!(exchange.request_header("x-cluster-iris"), Vec::<String>::new());
}

#[test]
fn what_an_earlier_filter_of_ours_has_decided_stands_where_nothing_is_seeded() {
    let envoy = FakeEnvoy::start();
    let copying = config(r#", "initial": {"shadow_percent": 100}"#, "");
    let [first, second] = [copying.clone(), copying.replace("/invocations", "/rose")].map(|of| worker(&envoy, &of));
    pass(second, &[("x-other", b"1")]).end();
    for _ in 0..3 {
        let unseeded: [(&str, &[u8]); 3] = [(":method", b"POST"), (":path", b"/invocations"), (":authority", b"h")];
        let exchange = first.request(&unseeded);
        exchange.send_headers(true);
        let decided = routing(&exchange);
        assert_eq!(decided.len(), 3, "{decided:?}");
        exchange.go_on_to(second).send_headers(true);
        assert_eq!(routing(&exchange), decided);
    }
}

#[test]
fn each_deployment_has_a_header_of_its_own_for_its_cluster() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(r#", "cluster_header": "x-cluster-iris""#, ""));
    let exchange = infer(worker, &[("x-cluster-iris", b"b1")]);
    assert_eq!(exchange.request_header("x-cluster-iris"), ["b1"]);
    // The common one is not this deployment's.
    assert_eq!(exchange.request_header("x-bluegreen-cluster"), ["b1"]);
    let spoofed = infer(worker, &[("x-cluster-iris", b"g2"), ("x-cluster-iris", b"g2")]);
    assert_eq!(spoofed.request_header("x-cluster-iris"), ["b1"]);
}

#[test]
fn the_first_request_that_nobody_takes_is_warned_of_once_in_the_process() {
    let envoy = FakeEnvoy::start();
    let workers = [worker(&envoy, &config("", "")), worker(&envoy, &config("", ""))];
    for worker in workers.into_iter().cycle().take(20) {
        let exchange = pass(worker, &[]);
        exchange.answer("404");
        exchange.end();
    }
    let lines: Vec<String> = envoy.logs().into_iter().filter(|line| line.contains("no deployment takes")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("GET /rose at h") && lines[0].contains("iris: path_prefix /invocations"), "{lines:?}");
}
