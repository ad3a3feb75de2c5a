//! Changes that controllers ask for, made from the root context.

use bluegreen_core::change::request::{ChangeRequest, Checks};
use bluegreen_core::config::Config;
use bluegreen_core::host::http::HttpReply;
use bluegreen_core::model::author::{Author, Source};
use bluegreen_core::model::name::Reason;
use bluegreen_core::model::split::Revision;
use bluegreen_core::state::Command;
use bluegreen_core::store::source_status::{self, SourceStatus};

use super::*;
use crate::host::CallId;
use crate::plugin::Plugin;
use crate::shared_data::SharedData;

const PROBE: &str = r#", "probe": {"path": "/ping"}"#;

fn plugin(sections: &str) -> Plugin {
    Plugin::new(&Config::from_bytes(config(sections, "").as_bytes()).expect("valid"))
}

fn promote(reason: &str) -> ChangeRequest {
    promote_on(None, reason)
}

fn promote_on(revision: Option<Revision>, reason: &str) -> ChangeRequest {
    let author = Author::new("envoy", Source::Runtime, Reason::new(reason).expect("valid"));
    ChangeRequest::new(0, Command::Promote(None), author, revision)
}

/// Submits a change as a controller does, in an event of the root.
fn submit(plugin: &Plugin, request: ChangeRequest) {
    plugin.submissions.submit(request);
    plugin.executor.run_root();
}

fn status(plugin: &Plugin) -> Option<SourceStatus> {
    source_status::read(&SharedData, &plugin.context.deployments.all()[0].name, Source::Runtime)
}

fn refusal(plugin: &Plugin) -> Option<String> {
    status(plugin).and_then(|status| status.refusal)
}

/// Hands a reply over. Whether anyone waited for it.
fn reply(plugin: &Plugin, token: u32, status: u16) -> bool {
    let before = plugin.executor.tables().http;
    plugin.executor.on_http_reply(CallId(token), HttpReply::Answered { status, body: Vec::new() });
    let waited = plugin.executor.tables().http < before;
    plugin.executor.run_root();
    waited
}

fn active(envoy: &FakeEnvoy) -> &'static str {
    let state = envoy.shared(STATE).expect("a state");
    if state.contains(r#""split":{"active":"green""#) { "green" } else { "blue" }
}

#[test]
fn without_rules_a_change_is_applied_at_once_and_all_workers_know() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    assert_eq!(cluster(traffic, &[]), "b1");
    submit(&plugin(""), promote("said so"));
    envoy.settle();
    assert_eq!(cluster(traffic, &[]), "g2");
    let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
    assert!(line.contains("by=envoy source=runtime reason=\"said so\""), "{line}");
}

#[test]
fn the_candidate_is_asked_first_and_a_refusal_is_kept_and_logged_once() {
    let envoy = FakeEnvoy::start();
    let plugin = plugin(PROBE);
    for status in [500, 503] {
        submit(&plugin, promote(""));
        let sent = envoy.take_sent();
        assert_eq!(sent.iter().map(|call| call.cluster.as_str()).collect::<Vec<_>>(), ["g2"]);
        assert!(reply(&plugin, sent[0].token, status));
        let refusal = refusal(&plugin).expect("a refusal");
        assert!(
            refusal.starts_with(&format!("green would get traffic, and its probe failed just now: answered {status}"))
        );
    }
    let refused = envoy.logs().into_iter().filter(|line| line.contains("source=runtime: refused")).count();
    assert_eq!((refused, active(&envoy)), (1, "blue"));
    submit(&plugin, promote(""));
    assert!(reply(&plugin, envoy.take_sent()[0].token, 200));
    assert_eq!((active(&envoy), refusal(&plugin)), ("green", None));
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_a_refusal() {
    let envoy = FakeEnvoy::start();
    let config = config(PROBE, "").replace("g2", "unknown");
    let plugin = Plugin::new(&Config::from_bytes(config.as_bytes()).expect("valid"));
    submit(&plugin, promote(""));
    let refusal = refusal(&plugin).expect("a refusal");
    assert!(refusal.contains("cluster 'unknown' is not known to this Envoy"), "{refusal}");
    assert_eq!(active(&envoy), "blue");
}

#[test]
fn an_equal_change_is_not_begun_twice_and_a_later_one_supersedes_it() {
    let envoy = FakeEnvoy::start();
    let plugin = plugin(PROBE);
    submit(&plugin, promote("first"));
    submit(&plugin, promote("first"));
    let first = envoy.take_sent();
    assert_eq!(first.len(), 1);
    submit(&plugin, promote("second"));
    let second = envoy.take_sent();
    assert!(!reply(&plugin, first[0].token, 200), "the first was given up");
    assert_eq!(active(&envoy), "blue");
    assert!(reply(&plugin, second[0].token, 200));
    assert!(!reply(&plugin, second[0].token, 200), "a reply counts once");
    assert_eq!(active(&envoy), "green");
}

#[test]
fn a_change_of_a_revision_that_is_gone_is_superseded() {
    let envoy = FakeEnvoy::start();
    let plugin = plugin(PROBE);
    submit(&plugin, promote_on(Some(Revision::ZERO), ""));
    let sent = envoy.take_sent();
    let operator = worker(&envoy, &admin());
    assert_eq!(operate(operator, "PATCH", "?shadow_percent=5"), 200);
    assert!(reply(&plugin, sent[0].token, 200));
    assert_eq!(active(&envoy), "blue");
    assert_eq!((envoy.take_sent().len(), status(&plugin)), (0, None));
}

#[test]
fn a_change_that_skips_the_rules_is_forced_where_one_applied() {
    for (sections, forced) in [(PROBE, true), ("", false)] {
        let envoy = FakeEnvoy::start();
        let plugin = plugin(sections);
        submit(&plugin, ChangeRequest { checks: Checks::Skip, ..promote("") });
        let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
        assert_eq!(line.contains("source=runtime forced"), forced, "{line}");
        assert!(envoy.take_sent().is_empty());
    }
}

/// Configures a worker of a later push and ticks both until nothing more is sent.
fn push(envoy: &FakeEnvoy, before: Worker, active: &str, status: &str) -> Worker {
    let sections = format!(r#", "probe": {{"path": "/ping", "interval": "10m"}}, "initial": {{"active": "{active}"}}"#);
    let pushed = worker(envoy, &config(&sections, ""));
    for _ in 0..8 {
        for worker in [before, pushed] {
            worker.tick();
            for sent in envoy.take_sent() {
                envoy.reply(&sent, Some(status), "");
            }
        }
        envoy.advance(Duration::from_millis(250));
    }
    pushed
}

#[test]
fn a_pushed_initial_waits_until_its_colour_is_healthy() {
    let envoy = FakeEnvoy::start();
    let first = worker(&envoy, &config(PROBE, ""));
    let refusing = push(&envoy, first, "green", "500");
    assert_eq!([first, refusing].map(|worker| cluster(worker, &[])), ["b1", "b1"]);
    let refused = envoy.logs().iter().filter(|line| line.contains("source=config: refused")).count();
    assert_eq!(refused, 1);
    let applying = push(&envoy, refusing, "green", "200");
    assert_eq!([first, refusing, applying].map(|worker| cluster(worker, &[])), ["g2", "g2", "g2"]);
    let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
    assert!(line.contains("by=config source=config reason"), "{line}");
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(1));
}

#[test]
fn a_pushed_initial_that_waits_gives_way_to_a_later_push() {
    let envoy = FakeEnvoy::start();
    let first = worker(&envoy, &config(PROBE, ""));
    let waiting = push(&envoy, first, "green", "500");
    let back = push(&envoy, waiting, "blue", "200");
    assert_eq!(cluster(back, &[]), "b1");
    assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(0));
}

#[test]
fn a_pushed_initial_that_was_refused_is_tried_again_each_second() {
    let envoy = FakeEnvoy::start();
    let leader = worker(&envoy, &config(PROBE, ""));
    leader.tick();
    envoy.take_sent();
    let green = r#", "probe": {"path": "/ping", "interval": "10m"}, "initial": {"active": "green"}"#;
    let pushed = worker(&envoy, &config(green, ""));
    let mut tried_at = Vec::new();
    for tick in 0..10 {
        pushed.tick();
        for sent in envoy.take_sent() {
            tried_at.push(tick);
            envoy.reply(&sent, Some("500"), "");
        }
        envoy.advance(Duration::from_millis(250));
    }
    // The instance of the new configuration leads at once, and asks both colours.
    assert_eq!(tried_at, [0, 0, 0, 4, 8]);
}
