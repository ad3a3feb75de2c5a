//! What one event may cause, whatever has come.

use std::rc::Rc;

use bluegreen_core::config::Config;
use bluegreen_core::host::Host;
use bluegreen_core::host::http::HttpRequest;
use bluegreen_core::model::name::ClusterName;

use super::*;
use crate::executor::Executor;

/// Those of these calls that were answered, by status.
fn answered(calls: &[Exchange], status: u32) -> usize {
    calls.iter().filter(|call| call.replies().iter().any(|reply| reply.status == status)).count()
}

#[test]
fn thousands_of_unfinished_calls_are_answered_in_small_parts_and_the_worker_goes_on() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    assert_eq!(operate(worker, "POST", "/promote?to=green"), 200);
    let calls: Vec<Exchange> = (0..3_000).map(|_| call(worker, "PATCH", "")).collect();
    for call in &calls {
        call.send_headers(false);
    }
    assert_eq!((answered(&calls, 503), answered(&calls, 408)), (3_000 - 256, 0));
    let mut before = 0;
    for _ in 0..30 {
        envoy.advance(Duration::from_millis(250));
        worker.tick();
        let now = answered(&calls, 408);
        assert!(now - before <= 64, "{} at once", now - before);
        before = now;
    }
    assert_eq!(before, 256);
    for call in calls {
        call.end();
    }
    assert_eq!(cluster(worker, &[]), "g2");
    assert_eq!(operate(worker, "GET", ""), 200);
}

#[test]
fn what_is_asked_without_a_token_is_answered_before_its_body_comes() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    for (path, status) in [("/bluegreen/healthz", 200), ("/bluegreen/readyz", 200), ("/bluegreen/v1/deployments", 401)]
    {
        let calls: Vec<Exchange> =
            (0..600).map(|_| worker.request(&[(":method", b"GET"), (":path", path.as_bytes())])).collect();
        for call in &calls {
            call.send_headers(false);
        }
        assert_eq!(answered(&calls, status), 600, "{path}");
        for call in calls {
            call.end();
        }
    }
}

#[test]
fn drains_that_end_at_one_time_are_answered_in_small_parts() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    let drains: Vec<Exchange> = (0..600).map(|_| call(worker, "POST", "/drain?colour=blue&timeout=10s")).collect();
    let last = infer(worker, &[]);
    assert_eq!(operate(worker, "POST", "/promote?to=green"), 200);
    for drain in &drains {
        drain.send_headers(true);
    }
    assert_eq!((answered(&drains, 200), answered(&drains, 503)), (0, 600 - 256));
    last.answer("200");
    last.end();
    let mut before = 0;
    for _ in 0..20 {
        worker.tick();
        let now = answered(&drains, 200);
        assert!(now - before <= 64, "{} at once", now - before);
        before = now;
    }
    assert_eq!(answered(&drains, 200), 256);
}

#[test]
fn calls_and_log_lines_beyond_what_an_event_may_cause_come_with_the_next_events() {
    let envoy = FakeEnvoy::start();
    let config = Config::from_bytes(config("", "").as_bytes()).expect("valid");
    let executor = Rc::new(Executor::new(&config));
    let host = Rc::clone(&executor);
    executor.spawn(Box::pin(async move {
        let cluster = ClusterName::new("g2").expect("valid");
        let request = HttpRequest::new(&cluster, "h", "GET", "/ping", Duration::from_secs(1));
        let _replies: Vec<_> = (0..150).map(|_| host.http(&request)).collect();
        (0..150).for_each(|line| host.warn(&format!("line {line}")));
        std::future::pending::<()>().await;
    }));
    let lines = || envoy.logs().iter().filter(|line| line.contains("line ")).count();
    for expected in [64, 128, 150, 150] {
        executor.run_root();
        assert_eq!((executor.tables().http, lines()), (expected, expected));
    }
    executor.stop();
}
