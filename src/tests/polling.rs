//! Sources that are asked at a period.

use super::*;
use crate::fake_host::SentCall;

fn followers(envoy: &FakeEnvoy, sections: &str) -> [Worker; 2] {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    let document = format!(r#", "admin": {{"tokens": [{tokens}]}}, "runtime": {{"cluster": "envoy_admin"}}"#);
    [0, 1].map(|_| worker(envoy, &config(sections, &document)))
}

/// Ticks all workers until the runtime is asked, and gives what was sent.
fn until_asked(envoy: &FakeEnvoy, workers: [Worker; 2]) -> SentCall {
    for _ in 0..4 {
        envoy.advance(Duration::from_millis(250));
        workers.iter().for_each(|worker| worker.tick());
        let sent = envoy.take_sent().into_iter().find(|call| call.cluster == "envoy_admin");
        if let Some(sent) = sent {
            return sent;
        }
    }
    panic!("the runtime was not asked for a second");
}

fn runtime(active: &str) -> String {
    format!(r#"{{"entries": {{"bluegreen.iris.active": {{"final_value": "{active}"}}}}, "layers": []}}"#)
}

#[test]
fn one_of_all_workers_asks_at_the_interval_and_all_follow() {
    let envoy = FakeEnvoy::start();
    let workers = followers(&envoy, "");
    let mut asked = 0;
    for _ in 0..16 {
        envoy.advance(Duration::from_millis(250));
        workers.iter().for_each(|worker| worker.tick());
        for sent in envoy.take_sent() {
            assert_eq!(values(&sent.headers, ":path"), ["/runtime?format=json"]);
            envoy.reply(&sent, Some("200"), &runtime("green"));
            asked += 1;
        }
    }
    assert_eq!(asked, 8, "each 500 ms for 4 s");
    assert_eq!(workers.map(|worker| cluster(worker, &[])), ["g2", "g2"]);
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(1));
}

#[test]
fn a_new_configuration_does_not_act_upon_what_was_acted_upon_before() {
    let envoy = FakeEnvoy::start();
    let workers = followers(&envoy, "");
    envoy.reply(&until_asked(&envoy, workers), Some("200"), &runtime("green"));
    assert_eq!(operate(workers[0], "POST", "/rollback"), 200);
    let pushed = followers(&envoy, r#", "sticky": {"header": "x-user"}"#);
    // The old instances are gone, and with them their lease.
    envoy.advance(Duration::from_secs(6));
    envoy.reply(&until_asked(&envoy, pushed), Some("200"), &runtime("green"));
    assert_eq!(cluster(pushed[0], &[]), "b1");
    envoy.reply(&until_asked(&envoy, pushed), Some("200"), &runtime("blue"));
    envoy.reply(&until_asked(&envoy, pushed), Some("200"), &runtime("green"));
    assert_eq!(cluster(pushed[0], &[]), "g2");
}

#[test]
fn an_unhealthy_candidate_is_tried_again_until_it_is_healthy() {
    let envoy = FakeEnvoy::start();
    let workers = followers(&envoy, r#", "probe": {"path": "/ping", "interval": "10m"}"#);
    for (status, expected) in [("500", "b1"), ("500", "b1"), ("200", "g2")] {
        let asked = until_asked(&envoy, workers);
        envoy.take_sent();
        envoy.reply(&asked, Some("200"), &runtime("green"));
        let probes = envoy.take_sent();
        assert_eq!(probes.len(), 1, "{probes:?}");
        envoy.reply(&probes[0], Some(status), "");
        assert_eq!(cluster(workers[0], &[]), expected);
    }
    let refused = envoy.logs().iter().filter(|line| line.contains("source=runtime: refused")).count();
    assert_eq!(refused, 1);
}

#[test]
fn the_deployment_shows_what_was_seen_and_what_became_of_it() {
    let envoy = FakeEnvoy::start();
    let workers = followers(&envoy, r#", "probe": {"path": "/ping"}"#);
    let shown = || {
        let exchange = call(workers[1], "GET", "");
        exchange.send_headers(true);
        exchange.replies()[0].body.clone()
    };
    assert!(!shown().contains("\"sources\""), "{}", shown());
    envoy.reply(&until_asked(&envoy, workers), Some("200"), &runtime("green"));
    envoy.reply(&envoy.take_sent()[0], Some("500"), "");
    let refused = shown();
    for part in [r#""sources":{"runtime":{"value":{"active":"green"}"#, r#""pending":{"on":0,"#, "answered 500"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    envoy.reply(&until_asked(&envoy, workers), None, "");
    assert!(shown().contains(r#""error":"GET /runtime?format=json of cluster 'envoy_admin' the conn"#), "{}", shown());
}

#[test]
fn a_listener_without_the_section_does_not_keep_another_from_asking() {
    let envoy = FakeEnvoy::start();
    let other = worker(&envoy, &admin());
    other.tick();
    let workers = followers(&envoy, "");
    other.tick();
    until_asked(&envoy, workers);
}
