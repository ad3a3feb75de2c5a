//! Deployments with the names of things of the filter's own.

use super::*;

/// Words that stand, or stood, in keys of shared data.
const WORDS: [&str; 9] = ["members", "leader", "fleet", "mlflow", "source", "probe", "sample", "watch", "buckets"];

fn promote(worker: Worker, name: &str) -> u32 {
    let path = format!("/bluegreen/v1/deployments/{name}/promote");
    let exchange =
        worker.request(&[(":method", b"POST"), (":path", path.as_bytes()), ("authorization", b"Bearer test")]);
    assert_eq!(exchange.send_headers(true), Next::Pause);
    let status = exchange.replies().pop().expect("an answer").status;
    exchange.end();
    status
}

#[test]
fn a_deployment_keeps_its_state_whatever_its_name() {
    for name in WORDS {
        let envoy = FakeEnvoy::start();
        let configuration = admin().replace("iris", name);
        let operator = worker(&envoy, &configuration);
        assert_eq!(promote(operator, name), 200);
        // Another instance draws a number for itself, and both lead, probe and sample.
        let fresh = worker(&envoy, &configuration);
        for _ in 0..50 {
            envoy.advance(Duration::from_millis(250));
            [operator, fresh].iter().for_each(|worker| worker.tick());
        }
        assert_eq!([operator, fresh].map(|worker| cluster(worker, &[])), ["g2"; 2].map(str::to_owned), "{name}");
        assert!(!envoy.logs().iter().any(|line| line.contains("is not a state")), "{name}: {:?}", envoy.logs());
    }
}

#[test]
fn what_the_filter_keeps_for_itself_is_apart_from_what_it_keeps_of_deployments() {
    let envoy = FakeEnvoy::start();
    let sections = r#", "probe": {"path": "/ping"}, "mlflow": {"cluster": "m", "model": "m", "follow": {"alias": "p"},
        "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}, "webhook": {}}"#;
    let document = r#", "runtime": {"cluster": "a"}, "etcd": {"cluster": "etcd"}"#;
    let worker = worker(&envoy, &config(sections, document));
    worker.tick();
    envoy.take_sent().iter().for_each(|sent| envoy.reply(sent, Some("200"), "{}"));
    envoy.take_grpc().iter().for_each(|sent| envoy.grpc_close(sent.token));
    let keys = envoy.shared_keys();
    assert!(keys.len() > 8, "{keys:#?}");
    for key in keys {
        let owner = key.strip_prefix("bluegreen/v1/").and_then(|rest| rest.split('/').next());
        assert!(matches!(owner, Some("iris" | "_")), "{key}");
    }
}
