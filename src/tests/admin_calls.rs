//! Admin calls with bodies, in parts or missing.

use super::*;

#[test]
fn a_body_in_parts_is_waited_for_and_acted_on_once() {
    let envoy = FakeEnvoy::start();
    let exchange = call(worker(&envoy, &admin()), "PATCH", "");
    assert_eq!(exchange.send_headers(false), Next::Pause);
    assert_eq!(exchange.send_body(b"{\"canary_per", false), Next::Pause);
    assert!(exchange.replies().is_empty());
    assert_eq!(exchange.send_body(b"cent\": 5}", true), Next::Pause);
    assert_eq!(exchange.replies().len(), 1);
    assert!(exchange.replies()[0].body.contains("\"canary_percent\":5,"));
}

#[test]
fn a_body_that_ends_with_trailers_counts_too() {
    let envoy = FakeEnvoy::start();
    let exchange = call(worker(&envoy, &admin()), "PATCH", "");
    exchange.send_headers(false);
    exchange.send_body(b"{\"active\": \"green\"}", false);
    assert_eq!(exchange.send_trailers(), Next::Pause);
    assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [200]);
}

#[test]
fn a_body_too_large_is_refused_once_and_changes_nothing() {
    let envoy = FakeEnvoy::start();
    let exchange = call(worker(&envoy, &admin()), "PATCH", "?active=green");
    exchange.send_headers(false);
    for _ in 0..40 {
        exchange.send_body(&[b' '; 4096], false);
    }
    exchange.send_body(b"", true);
    assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [413]);
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(0));
}

#[test]
fn a_body_that_is_announced_to_be_too_large_is_refused_before_any_of_it_comes() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    let path = "/bluegreen/v1/deployments/iris?active=green";
    for (length, statuses) in [("65536", vec![]), ("65537", vec![413]), ("99999999999999", vec![413]), ("x", vec![])] {
        let exchange = worker.request(&[
            (":method", b"PATCH"),
            (":path", path.as_bytes()),
            ("authorization", b"Bearer test"),
            ("content-length", length.as_bytes()),
        ]);
        exchange.send_headers(false);
        assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), statuses, "{length}");
    }
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(0));
}

#[test]
fn a_body_that_does_not_arrive_in_time_is_given_up_and_answered_once() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    let statuses = |exchange: &Exchange| exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>();
    let calls = [call(worker, "PATCH", ""), call(worker, "PATCH", ""), call(worker, "PATCH", "")];
    let [silent, half, slow] = &calls;
    let gone = call(worker, "PATCH", "");
    for exchange in [silent, half, slow, &gone] {
        exchange.send_headers(false);
    }
    gone.end();
    half.send_body(b"{\"active\"", false);
    slow.send_body(b"{\"active\"", false);
    for second in 0..10 {
        envoy.advance(Duration::from_secs(1));
        worker.tick();
        if second == 2 {
            slow.send_body(b": \"green\"}", true);
        }
    }
    for (exchange, status) in [(silent, 408), (half, 408), (slow, 200)] {
        exchange.send_body(b": \"green\"}", true);
        assert_eq!(statuses(exchange), [status]);
    }
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(1));
}

#[test]
fn a_call_that_may_not_be_made_is_refused_without_waiting_for_its_body() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &admin());
    let exchange = worker.request(&[(":method", b"POST"), (":path", b"/bluegreen/v1/deployments/iris/promote")]);
    exchange.send_headers(false);
    exchange.send_body(b"{}", true);
    assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [401]);
    assert_eq!(values(&exchange.replies()[0].headers, "www-authenticate").len(), 1);
}

#[test]
fn without_an_admin_section_the_path_is_traffic_like_any_other() {
    let envoy = FakeEnvoy::start();
    let exchange = call(worker(&envoy, &config("", "")), "POST", "/promote");
    assert_eq!(exchange.send_headers(true), Next::Continue);
    assert!(exchange.replies().is_empty());
}
