//! What is counted, and what the answer tells.

use super::*;

/// A metric of blue, once the workers have said what they have counted.
fn metric(envoy: &FakeEnvoy, name: &str) -> u64 {
    envoy.tick_all();
    envoy.metric(&format!("bluegreen.deployment.iris.colour.blue.{name}")).unwrap_or_default()
}

#[test]
fn an_exchange_is_in_flight_until_its_stream_is_over_however_it_ends() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    let (answered, abandoned) = (infer(traffic, &[]), infer(traffic, &[]));
    assert_eq!(metric(&envoy, "in_flight"), 2);
    answered.answer("503");
    assert_eq!(metric(&envoy, "in_flight"), 2);
    answered.end();
    abandoned.end();
    assert_eq!(metric(&envoy, "in_flight"), 0);
    let ended =
        ["class.5xx", "class.none", "class.2xx"].map(|class| metric(&envoy, &format!("{class}.responses_total")));
    assert_eq!(ended, [1, 1, 0]);
}

#[test]
fn requests_by_override_are_counted_apart_and_are_in_flight_like_others() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config(r#", "override": {"header": "x-want"}"#, ""));
    let exchanges = [infer(traffic, &[("x-want", b"blue")]), infer(traffic, &[("x-want", b"blue")])];
    assert_eq!(["in_flight", "override_requests_total"].map(|name| metric(&envoy, name)), [2, 0]);
    for (exchange, status) in exchanges.into_iter().zip(["200", "503"]) {
        exchange.answer(status);
        exchange.end();
    }
    assert_eq!(metric(&envoy, "override_requests_total"), 2);
    let apart = ["2xx", "5xx"].map(|class| metric(&envoy, &format!("class.{class}.override_responses_total")));
    assert_eq!(apart, [1, 1]);
    const STATE: [&str; 4] = [".active", ".live.workers", ".sampled_timestamp_seconds", ".build_info"];
    // None of the counters that the comparison, the guard and a rollout read.
    let counts = |name: &String| envoy.metric(name).unwrap_or_default() > 0;
    let counted: Vec<String> = envoy.metric_names().into_iter().filter(counts).collect();
    let (apart, others): (Vec<&String>, Vec<&String>) = counted.iter().partition(|name| name.contains(".override_"));
    assert_eq!(apart.len(), 3, "{counted:?}");
    assert!(others.iter().all(|name| STATE.iter().any(|gauge| name.ends_with(gauge))), "{others:?}");
    assert_eq!(metric(&envoy, "in_flight"), 0);
    // A value that asks for nothing leaves an ordinary request.
    cluster(traffic, &[("x-want", b"Blue")]);
    assert_eq!(["requests_total", "override_requests_total"].map(|name| metric(&envoy, name)), [1, 2]);
}

#[test]
fn a_grpc_error_under_http_200_counts_as_what_it_means() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    for status in ["0", "14", "3"] {
        let exchange = infer(traffic, &[]);
        exchange.answer_grpc(status);
        exchange.end();
    }
    let ended = ["2xx", "5xx", "4xx"].map(|class| metric(&envoy, &format!("class.{class}.responses_total")));
    assert_eq!(ended, [1, 1, 1]);
}

#[test]
fn an_answer_that_is_cut_off_counts_against_the_side_that_cut_it_off() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    for details in ["upstream_reset_after_response_started{connection_termination}", "downstream_remote_disconnect"] {
        let exchange = infer(traffic, &[]);
        envoy.set_code_details("via_upstream");
        exchange.answer("200");
        envoy.set_code_details(details);
        exchange.end();
    }
    let ended = ["cut", "none", "2xx"].map(|class| metric(&envoy, &format!("class.{class}.responses_total")));
    assert_eq!(ended, [1, 1, 0]);
}

#[test]
fn the_answer_tells_colour_and_version_whatever_the_upstream_said() {
    let envoy = FakeEnvoy::start();
    let sticky = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}, "initial": {"canary_percent": 0.01}"#;
    let exchange = infer(worker(&envoy, &config(sticky, "")), &[]);
    let answer = exchange.answer("200");
    assert_eq!(values(&answer, "x-bluegreen-colour"), ["blue"]);
    assert_eq!(values(&answer, "x-bluegreen-version"), ["1"]);
    assert_eq!(values(&answer, "set-cookie").len(), 1);
}

#[test]
fn first_and_last_byte_are_counted_in_all_buckets_from_their_times_on() {
    let envoy = FakeEnvoy::start();
    let exchange = infer(worker(&envoy, &config("", "")), &[]);
    envoy.advance(Duration::from_millis(2));
    exchange.answer("200");
    envoy.advance(Duration::from_secs(1));
    exchange.end();
    let of = |name: &str, bounds: [&str; 4]| bounds.map(|le| metric(&envoy, &format!("le.{le}.{name}_bucket")));
    assert_eq!(of("first_byte_milliseconds", ["1", "2", "5", "+Inf"]), [0, 1, 1, 1]);
    assert_eq!(of("exchange_milliseconds", ["1000", "2000", "5000", "+Inf"]), [0, 1, 1, 1]);
    assert_eq!(["first_byte", "exchange"].map(|span| metric(&envoy, &format!("{span}_milliseconds_sum"))), [2, 1_002]);
    assert_eq!(metric(&envoy, "first_byte_milliseconds_count"), 1);
}

#[test]
fn one_of_all_workers_takes_the_samples_and_no_colour_without_requests_has_a_histogram() {
    let envoy = FakeEnvoy::start();
    let workers = [0, 1, 2].map(|_| worker(&envoy, &admin()));
    for _ in 0..30 {
        workers.iter().for_each(|worker| worker.tick());
        cluster(workers[1], &[]);
        envoy.advance(Duration::from_secs(1));
    }
    let samples = (0..92).filter(|slot| envoy.shared(&format!("{STATE}/sample/{slot}")).is_some()).count();
    assert_eq!(samples, 3);
    let exchange = call(workers[2], "GET", "/comparison");
    exchange.send_headers(true);
    let body = exchange.replies()[0].body.clone();
    assert!(body.contains(r#""blue":{"requests":30,"#), "{body}");
    let histograms = |of: &str| envoy.metric_names().iter().filter(|name| name.contains(of)).count();
    assert_eq!((histograms("blue.le."), histograms("green.le.")), (2 * 17, 0), "{:?}", envoy.metric_names());
}
