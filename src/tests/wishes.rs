//! Wishes of sources, carried out from the root context.

use bluegreen_core::change::request::Wish;
use bluegreen_core::config::Config;
use bluegreen_core::host::Reply;
use bluegreen_core::model::author::{Author, Source};
use bluegreen_core::model::name::Reason;
use bluegreen_core::model::split::Revision;
use bluegreen_core::state::Command;
use bluegreen_core::store::source_status::{self, Sighting};

use super::*;
use crate::awaiting::Came;
use crate::host::CallId;
use crate::plugin::Plugin;
use crate::shared_data::SharedData;
use crate::wishes::Wishes;

const PROBE: &str = r#", "probe": {"path": "/ping"}"#;

fn plugin(sections: &str) -> Plugin {
    Plugin::new(&Config::from_bytes(config(sections, "").as_bytes()).expect("valid"))
}

fn promote(reason: &str) -> Wish {
    let reason = Reason::new(reason).expect("valid");
    let author = Author::new("envoy", Source::Runtime, reason);
    Wish { deployment: 0, command: Command::Promote, author, enforce: true, on: None }
}

fn sighting(plugin: &Plugin) -> Option<Sighting> {
    source_status::read(&SharedData, &plugin.router.all()[0].name, Source::Runtime)
}

fn reply(wishes: &mut Wishes, plugin: &Plugin, token: u32, status: u16) -> bool {
    wishes.on_reply(plugin, Came::Colour(CallId(token), &Reply::Answered { status, body: Vec::new() }))
}

fn active(envoy: &FakeEnvoy) -> &'static str {
    let state = envoy.shared(STATE).expect("a state");
    if state.contains(r#""split":{"active":"green""#) { "green" } else { "blue" }
}

#[test]
fn without_rules_a_wish_is_granted_at_once_and_all_workers_know() {
    let envoy = FakeEnvoy::start();
    let traffic = worker(&envoy, &config("", ""));
    assert_eq!(cluster(traffic, &[]), "b1");
    Wishes::default().fulfil(&plugin(""), promote("said so"));
    assert_eq!(cluster(traffic, &[]), "g2");
    let line = envoy.logs().pop().expect("a line");
    assert!(line.contains("by=envoy source=runtime reason=\"said so\""), "{line}");
}

#[test]
fn the_candidate_is_asked_first_and_a_refusal_is_kept_and_logged_once() {
    let envoy = FakeEnvoy::start();
    let (plugin, mut wishes) = (plugin(PROBE), Wishes::default());
    for status in [500, 503] {
        wishes.fulfil(&plugin, promote(""));
        let sent = envoy.take_sent();
        assert_eq!(sent.iter().map(|call| call.cluster.as_str()).collect::<Vec<_>>(), ["g2"]);
        assert!(reply(&mut wishes, &plugin, sent[0].token, status));
        let refusal = sighting(&plugin).and_then(|sighting| sighting.refusal).expect("a refusal");
        assert!(
            refusal.starts_with(&format!("green would get traffic, and its probe failed just now: answered {status}"))
        );
    }
    let refused = envoy.logs().into_iter().filter(|line| line.contains("source=runtime: refused")).count();
    assert_eq!((refused, active(&envoy)), (1, "blue"));
    wishes.fulfil(&plugin, promote(""));
    assert!(reply(&mut wishes, &plugin, envoy.take_sent()[0].token, 200));
    assert_eq!((active(&envoy), sighting(&plugin).and_then(|sighting| sighting.refusal)), ("green", None));
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_a_refusal() {
    let envoy = FakeEnvoy::start();
    let config = config(PROBE, "").replace("g2", "unknown");
    let plugin = Plugin::new(&Config::from_bytes(config.as_bytes()).expect("valid"));
    Wishes::default().fulfil(&plugin, promote(""));
    let refusal = sighting(&plugin).and_then(|sighting| sighting.refusal).expect("a refusal");
    assert!(refusal.contains("cluster 'unknown' is not known to this Envoy"), "{refusal}");
    assert_eq!(active(&envoy), "blue");
}

#[test]
fn an_equal_wish_is_not_begun_twice_and_a_later_one_takes_its_place() {
    let envoy = FakeEnvoy::start();
    let (plugin, mut wishes) = (plugin(PROBE), Wishes::default());
    wishes.fulfil(&plugin, promote("first"));
    wishes.fulfil(&plugin, promote("first"));
    let first = envoy.take_sent();
    assert_eq!(first.len(), 1);
    wishes.fulfil(&plugin, promote("second"));
    let second = envoy.take_sent();
    assert!(!reply(&mut wishes, &plugin, first[0].token, 200), "nobody waits for the first any more");
    assert_eq!(active(&envoy), "blue");
    assert!(reply(&mut wishes, &plugin, second[0].token, 200));
    assert!(!reply(&mut wishes, &plugin, second[0].token, 200), "a reply counts once");
    assert_eq!(active(&envoy), "green");
}

#[test]
fn a_wish_for_a_revision_that_is_gone_is_void() {
    let envoy = FakeEnvoy::start();
    let (plugin, mut wishes) = (plugin(PROBE), Wishes::default());
    wishes.fulfil(&plugin, Wish { on: Some(Revision::ZERO), ..promote("") });
    let sent = envoy.take_sent();
    let operator = worker(&envoy, &admin());
    assert_eq!(operate(operator, "PATCH", "?shadow_percent=5"), 200);
    assert!(reply(&mut wishes, &plugin, sent[0].token, 200));
    assert_eq!(active(&envoy), "blue");
    assert_eq!((envoy.take_sent().len(), sighting(&plugin)), (0, None));
}

#[test]
fn a_wish_that_is_not_under_the_rules_is_forced_where_one_applied() {
    let envoy = FakeEnvoy::start();
    for (sections, forced) in [(PROBE, true), ("", false)] {
        let plugin = plugin(sections);
        Wishes::default().fulfil(&plugin, Wish { enforce: false, ..promote("") });
        let line = envoy.logs().into_iter().rfind(|line| line.contains("state changed")).expect("a line");
        assert_eq!(line.contains("source=runtime forced"), forced, "{line}");
    }
    assert!(envoy.take_sent().is_empty());
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
fn a_pushed_initial_waits_until_its_colour_is_well() {
    let envoy = FakeEnvoy::start();
    let first = worker(&envoy, &config(PROBE, ""));
    let sick = push(&envoy, first, "green", "500");
    assert_eq!([first, sick].map(|worker| cluster(worker, &[])), ["b1", "b1"]);
    let refused = envoy.logs().iter().filter(|line| line.contains("source=config: refused")).count();
    assert_eq!(refused, 1);
    let well = push(&envoy, sick, "green", "200");
    assert_eq!([first, sick, well].map(|worker| cluster(worker, &[])), ["g2", "g2", "g2"]);
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
