//! Another version comes behind a colour: what requests, probes and marks follow.

use super::*;

const PROBE: &str = r#", "probe": {"path": "/ping", "interval": "10m"}"#;

/// A configuration that names another version for a colour.
fn named(colour: &str, sections: &str) -> String {
    let (cluster, version) = if colour == "blue" { ("b1", "1") } else { ("g2", "2") };
    let known = format!(r#""{colour}": {{"cluster": "{cluster}", "version": "{version}""#);
    let other = format!(r#""{colour}": {{"cluster": "v3", "version": "3", "authority": "v3.example.com""#);
    let configuration = config(sections, "");
    assert!(configuration.contains(&known));
    configuration.replace(&known, &other)
}

/// Cluster and authority of a request, and the version that its answer is marked with.
fn served(worker: Worker) -> (String, String, String) {
    let exchange = infer(worker, &[]);
    let header = |name| exchange.request_header(name).join(",");
    let (cluster, authority) = (header("x-bluegreen-cluster"), header(":authority"));
    let version = values(&exchange.answer("200"), "x-bluegreen-version").join(",");
    exchange.end();
    (cluster, authority, version)
}

fn of(cluster: &str, authority: &str, version: &str) -> (String, String, String) {
    (cluster.to_owned(), authority.to_owned(), version.to_owned())
}

#[test]
fn what_is_in_force_is_in_force_on_every_worker_whatever_its_own_configuration_says() {
    let envoy = FakeEnvoy::start();
    let old = worker(&envoy, &config("", ""));
    assert_eq!(served(old), of("b1", "h", "1"));
    let new = worker(&envoy, &named("blue", ""));
    for worker in [old, new] {
        assert_eq!(served(worker), of("v3", "v3.example.com", "3"));
    }
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(1));
    let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
    assert!(line.contains("source=config") && line.contains(" blue.version=1->3 blue.cluster=b1->v3 "), "{line}");
}

#[test]
fn an_answer_of_the_version_before_is_not_marked_with_the_one_that_has_come_since() {
    let envoy = FakeEnvoy::start();
    let old = worker(&envoy, &config("", ""));
    let under_way = infer(old, &[]);
    worker(&envoy, &named("blue", ""));
    envoy.serve_from(Some("b1"), 1);
    let answer = under_way.answer("200");
    assert_eq!(values(&answer, "x-bluegreen-colour"), ["blue"]);
    assert_eq!(values(&answer, "x-bluegreen-version"), Vec::<String>::new());
    under_way.end();
}

#[test]
fn what_the_active_colour_waits_for_is_asked_itself_at_the_first_tick_and_then_serves() {
    let envoy = FakeEnvoy::start();
    let old = worker(&envoy, &config(PROBE, ""));
    old.tick();
    envoy.take_sent().iter().for_each(|probe| envoy.reply(probe, Some("200"), ""));
    let new = worker(&envoy, &named("blue", PROBE));
    assert_eq!([old, new].map(served), [of("b1", "h", "1"), of("b1", "h", "1")]);
    for (status, expected) in [("500", of("b1", "h", "1")), ("200", of("v3", "v3.example.com", "3"))] {
        new.tick();
        // The leader asks what is in force.
        let (asked, others): (Vec<_>, Vec<_>) = envoy.take_sent().into_iter().partition(|sent| sent.cluster == "v3");
        others.iter().for_each(|probe| envoy.reply(probe, Some("200"), ""));
        let [probe] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!(values(&probe.headers, ":authority"), ["v3.example.com"]);
        envoy.reply(probe, Some(status), "");
        assert_eq!([old, new].map(served), [expected.clone(), expected]);
        envoy.advance(Duration::from_secs(1));
    }
    let waits =
        envoy.logs().into_iter().filter(|line| line.contains("setup=version-waits: version 3 (cluster v3)")).count();
    assert_eq!(waits, 1);
    let problem = "bluegreen.deployment.iris.problem.version-waits.setup_problems";
    assert_eq!(envoy.metric(problem), Some(0));
}

#[test]
fn what_is_being_asked_when_its_configuration_goes_is_asked_by_the_next_one() {
    let envoy = FakeEnvoy::start();
    let old = worker(&envoy, &config(PROBE, ""));
    old.tick();
    let pushed = worker(&envoy, &named("blue", PROBE));
    old.end();
    pushed.tick();
    let cut: Vec<_> = envoy.take_sent().into_iter().filter(|sent| sent.cluster == "v3").collect();
    assert_eq!(cut.len(), 1);
    // Another push, and a drain time that is over before the probe is: its answer comes to nobody.
    let next = worker(&envoy, &named("blue", &format!("{PROBE}, \"bake\": {{\"for\": \"1m\"}}")));
    pushed.end();
    for _ in 0..10 {
        envoy.advance(Duration::from_secs(1));
        next.tick();
        for probe in envoy.take_sent() {
            envoy.reply(&probe, Some("200"), "");
        }
    }
    assert_eq!(served(next), of("v3", "v3.example.com", "3"));
}

#[test]
fn the_first_tick_comes_at_once_and_the_others_at_their_usual_pace() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(PROBE, ""));
    assert_eq!(envoy.tick_period(), 1);
    for _ in 0..3 {
        worker.tick();
        assert_eq!(envoy.tick_period(), 250);
    }
}

#[test]
fn a_start_on_a_colour_that_is_gone_moves_to_the_other() {
    let envoy = FakeEnvoy::start();
    let workers = [0, 1].map(|_| worker(&envoy, &config(PROBE, "")));
    for _ in 0..2 {
        workers.iter().for_each(|worker| worker.tick());
        for probe in envoy.take_sent() {
            envoy.reply(&probe, (probe.cluster == "g2").then_some("200").or(Some("503")), "");
        }
        envoy.advance(Duration::from_millis(250));
    }
    assert_eq!(workers.map(|worker| cluster(worker, &[])), ["g2"; 2].map(str::to_owned));
    let changes: Vec<_> = envoy.logs().into_iter().filter(|line| line.contains("state changed")).collect();
    assert!(changes.len() == 1 && changes[0].contains("by=failover source=failover"), "{changes:?}");
}

#[test]
fn a_failover_does_not_go_to_a_version_that_never_served_and_the_log_says_so_once() {
    let envoy = FakeEnvoy::start();
    let sections = format!(r#"{PROBE}, "bake": {{"for": "10m"}}, "failover": {{"after": 3}}"#);
    let in_document =
        format!(r#", "admin": {{"tokens": [{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#);
    let operator = worker(&envoy, &config(&sections, &in_document));
    let healthy = || {
        operator.tick();
        envoy.take_sent().iter().for_each(|probe| envoy.reply(probe, Some("200"), ""));
    };
    healthy();
    assert_eq!(operate(operator, "POST", "/promote?force=true"), 200);
    let pushed = worker(&envoy, &named("blue", &sections));
    pushed.tick();
    envoy.take_sent().iter().for_each(|probe| envoy.reply(probe, Some("200"), ""));
    for _ in 0..6 {
        let exchange = infer(pushed, &[]);
        envoy.set_code_details("no_healthy_upstream");
        exchange.answer("503");
        exchange.end();
    }
    assert_eq!(cluster(pushed, &[]), "g2");
    let refused = "source=failover: refused: version 3 (cluster v3) came behind blue after the switch";
    assert_eq!(envoy.logs().into_iter().filter(|line| line.contains(refused)).count(), 1, "{:?}", envoy.logs());
}
