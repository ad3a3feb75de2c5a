//! An Envoy with one follower against etcd in memory, message by message.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::deployment::Deployments;
use crate::etcd::messages::WatchCreateRequest;
use crate::etcd::model::{Fate, Model, fleet};
use crate::fleet::following::{FIRST_BACKOFF, LONGEST_BACKOFF};
use crate::fleet::liveness;
use crate::host::Host as _;
use crate::host::grpc::{GrpcRequest, GrpcSender, GrpcStatus};
use crate::model::split::Revision;
use crate::setup::SetupProblem;
use crate::store::lease::{FOLLOWER_LEASE, Instance};
use crate::store::record;
use crate::testing::host::{START, TestHost};
use crate::testing::{iris, split};
use crate::workers::worker::Worker;

const LEASE: &str = "the follower's lease";

/// An Envoy with the deployments iris and wine and its follower, of which the test is the network.
struct Envoy {
    host: Rc<TestHost>,
    /// The watch that was opened last, with what it began with.
    watch: RefCell<Option<(WatchCreateRequest, GrpcSender)>>,
}

impl Envoy {
    fn new() -> Self {
        let host = Rc::new(TestHost::default());
        let (own, instance) = (Rc::clone(&host), Instance::register(&host.store, START));
        host.spawn(Box::pin(async move {
            let deployments = deployments();
            let worker = Worker::new(&deployments, instance, 1, START);
            let following =
                Following { host: &*own, deployments: &deployments, instance, worker: &worker, lease: LEASE };
            follow(&fleet(), following).await;
        }));
        host.tasks.run();
        Self { host, watch: RefCell::default() }
    }

    /// Answers what the follower asks for, each call with this fate, until it asks for nothing more.
    fn answer(&self, model: &mut Model, fate: Fate) {
        loop {
            if let Some((request, sender)) = self.opened() {
                if matches!(fate, Fate::Answered | Fate::OutOfSpace) {
                    let (said, create) = model.watch(&request.message);
                    said.into_iter().for_each(|message| sender.send(message));
                    *self.watch.borrow_mut() = Some((create, sender));
                } else {
                    drop(sender);
                }
            } else if let Some((call, waiter)) = self.asked() {
                // A call that was given up reaches etcd all the same.
                let _: Result<(), GrpcReply> = waiter.send(model.call(&call, fate));
            } else {
                return;
            }
            self.host.tasks.run();
        }
    }

    /// The oldest call under way.
    fn asked(&self) -> Option<(GrpcRequest, futures_channel::oneshot::Sender<GrpcReply>)> {
        let mut calls = self.host.grpc.borrow_mut();
        (!calls.is_empty()).then(|| calls.remove(0))
    }

    /// The oldest stream that was opened and has not heard anything.
    fn opened(&self) -> Option<(GrpcRequest, GrpcSender)> {
        let mut streams = self.host.streams.borrow_mut();
        (!streams.is_empty()).then(|| streams.remove(0))
    }

    /// What the watch began with, unless it was given up.
    fn watch(&self) -> Option<WatchCreateRequest> {
        let watch = self.watch.borrow();
        watch.as_ref().filter(|(_, sender)| !sender.is_abandoned()).map(|(create, _)| create.clone())
    }

    /// The watch ends, and that alone makes the follower ask for nothing.
    fn close(&self) {
        self.watch.take();
        self.host.tasks.run();
        assert!(self.asked().is_none() && self.opened().is_none());
    }

    fn hear(&self, model: &mut Model, message: Vec<u8>) {
        if let Some((_, sender)) = self.watch.borrow().as_ref() {
            sender.send(message);
        }
        self.host.tasks.run();
        self.answer(model, Fate::Answered);
    }

    /// Delivers all that happened since the watch began.
    fn deliver(&self, model: &mut Model) {
        if let Some(create) = self.watch() {
            self.hear(model, model.events(&create));
        }
    }

    fn tick(&self, model: &mut Model, fate: Fate) {
        self.host.tick();
        self.answer(model, fate);
    }

    /// Ticks on through this time.
    fn pass(&self, model: &mut Model, span: Duration, fate: Fate) {
        let end = self.host.now().plus(span);
        while self.host.now() < end {
            self.host.pass(Duration::from_millis(50));
            self.tick(model, fate);
        }
    }

    fn revision(&self) -> u64 {
        let loaded = record::load(&self.host.store, &iris(), Default::default(), START).expect("in reach");
        loaded.state.revision.get()
    }

    fn is_stale(&self) -> bool {
        liveness::is_lost(&self.host.store, &fleet(), self.host.now())
    }

    /// What was made known since this was last asked, in short.
    fn said(&self) -> Vec<String> {
        let short = |line: String| {
            let line = line.trim_start_matches("bluegreen: ").replace("deployment=iris", "0");
            match line.as_str() {
                "up to date with etcd" => Some("contact".to_owned()),
                lost if lost.starts_with("etcd cannot be reached") => Some("lost".to_owned()),
                changed if changed.starts_with("state changed") => None,
                _ => Some(line),
            }
        };
        self.host.take_log().into_iter().filter_map(short).collect()
    }
}

fn deployments() -> Deployments {
    let colours = r#""colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}"#;
    let json = format!(
        r#"{{"deployments": {{"iris": {{{colours}}}, "wine": {{"match": {{"path_prefix": "/wine"}}, {colours}}}}}}}"#
    );
    Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"))
}

fn state(revision: u64) -> Vec<u8> {
    State { revision: Revision::new(revision), ..State::initial(split("green", "0", "0"), START) }.encode()
}

/// An Envoy that watches a fleet with both deployments in it.
fn watching(model: &mut Model) -> Envoy {
    model.put("/bluegreen/iris", &state(1));
    model.put("/bluegreen/wine", &state(1));
    let envoy = Envoy::new();
    envoy.tick(model, Fate::Answered);
    assert_eq!(envoy.said(), ["0 is at 1", "1 is at 1", "contact"]);
    envoy
}

#[test]
fn while_etcd_is_away_the_last_state_stays_and_is_called_stale() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    envoy.pass(&mut model, HEARTBEAT, Fate::RequestLost);
    assert_eq!((envoy.said(), envoy.is_stale(), envoy.revision()), (vec!["lost".to_owned()], true, 1));
    envoy.pass(&mut model, HEARTBEAT * 20, Fate::RequestLost);
    assert_eq!(envoy.said(), Vec::<String>::new(), "it is said once");
    model.put("/bluegreen/iris", &state(2));
    envoy.pass(&mut model, HEARTBEAT, Fate::Answered);
    assert_eq!((envoy.said(), envoy.is_stale()), (vec!["0 is at 2".to_owned(), "contact".to_owned()], false));
}

#[test]
fn a_reply_to_an_earlier_attempt_says_nothing() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    envoy.host.pass(HEARTBEAT);
    envoy.host.tick();
    let (call, waiter) = envoy.asked().expect("a heartbeat");
    envoy.close();
    assert!(waiter.is_canceled());
    model.put("/bluegreen/iris", &state(2));
    let _: Result<(), GrpcReply> = waiter.send(model.call(&call, Fate::Answered));
    envoy.host.tasks.run();
    assert_eq!((envoy.said(), envoy.revision()), (Vec::new(), 1));
    assert!(envoy.asked().is_none() && envoy.opened().is_none());
}

#[test]
fn an_instance_that_lost_its_lease_gives_the_stream_up_and_starts_anew_when_it_has_it_again() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    // An instance of a later configuration takes the lease.
    let later = Instance::register(&envoy.host.store, START.plus(Duration::from_secs(1)));
    assert!(later.holds(&envoy.host.store, LEASE, FOLLOWER_LEASE, envoy.host.now()));
    for _ in 0..2 {
        envoy.host.tick();
        assert_eq!(envoy.watch(), None);
        assert!(envoy.asked().is_none() && envoy.opened().is_none());
    }
    model.put("/bluegreen/iris", &state(2));
    envoy.pass(&mut model, FOLLOWER_LEASE, Fate::Answered);
    assert_eq!((envoy.revision(), envoy.watch().is_some()), (2, true));
}

// === list ===

#[test]
fn many_keys_come_page_by_page() {
    let mut model = Model::default();
    for number in 0..200 {
        model.put(&format!("/bluegreen/a{number}"), &state(1));
    }
    let envoy = watching(&mut model);
    envoy.deliver(&mut model);
    assert!(envoy.said().is_empty());
}

#[test]
fn a_store_that_was_restored_from_a_backup_is_followed_backwards() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    for revision in 2..20 {
        model.put("/bluegreen/iris", &state(revision));
    }
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 19);
    let mut restored = Model::default();
    restored.put("/bluegreen/iris", &state(5));
    restored.put("/bluegreen/wine", &state(1));
    envoy.close();
    envoy.pass(&mut restored, HEARTBEAT, Fate::Answered);
    assert_eq!(envoy.revision(), 5);
    restored.put("/bluegreen/iris", &state(6));
    envoy.deliver(&mut restored);
    assert_eq!(envoy.revision(), 6);
}

// === watch ===

#[test]
fn each_change_comes_once_and_in_order() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    for revision in 2..5 {
        model.put("/bluegreen/iris", &state(revision));
        envoy.deliver(&mut model);
        envoy.deliver(&mut model);
    }
    assert_eq!(envoy.said(), ["0 is at 2", "0 is at 3", "0 is at 4"]);
}

#[test]
fn after_a_broken_stream_it_catches_up_even_when_what_happened_is_compacted_away() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    for compacted in [false, true] {
        let before = envoy.revision();
        envoy.close();
        model.put("/bluegreen/iris", &state(before + 1));
        model.put("/bluegreen/iris", &state(before + 2));
        if compacted {
            model.compact();
        }
        envoy.pass(&mut model, Duration::from_millis(200), Fate::Answered);
        assert_eq!((envoy.revision(), envoy.watch().is_some()), (before + 2, true));
    }
}

#[test]
fn a_watch_that_begins_with_something_compacted_is_begun_anew_at_once() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    let canceled = WatchResponse { canceled: true, compact_revision: 9, ..WatchResponse::default() };
    model.put("/bluegreen/iris", &state(2));
    model.compact();
    envoy.hear(&mut model, canceled.encode_to_vec());
    assert_eq!((envoy.revision(), envoy.watch().is_some()), (2, true));
}

#[test]
fn a_watch_that_etcd_cancels_or_that_says_what_nobody_understands_is_opened_again_after_a_pause() {
    let canceled = WatchResponse { canceled: true, ..WatchResponse::default() };
    for message in [canceled.encode_to_vec(), b"\xff".to_vec()] {
        let mut model = Model::default();
        let envoy = watching(&mut model);
        envoy.hear(&mut model, message);
        assert_eq!(envoy.watch(), None);
        envoy.pass(&mut model, FIRST_BACKOFF, Fate::Answered);
        assert!(envoy.watch().is_some());
    }
}

#[test]
fn a_stream_that_died_without_a_sound_is_noticed_and_replaced() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    let old = envoy.watch();
    for revision in 2..4 {
        model.put("/bluegreen/iris", &state(revision));
        envoy.pass(&mut model, HEARTBEAT, Fate::Answered);
        assert_eq!(envoy.revision(), revision, "the heartbeat brings it");
    }
    assert_ne!(envoy.watch(), old, "and the stream is a new one");
    model.put("/bluegreen/iris", &state(4));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 4);
}

#[test]
fn one_member_of_three_that_is_down_is_not_noticed() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    envoy.host.pass(HEARTBEAT);
    envoy.host.tick();
    let (_, waiter) = envoy.asked().expect("a heartbeat");
    waiter.send(GrpcReply::Failed(GrpcStatus { code: 14, message: "refused".into() })).expect("it waits");
    envoy.host.tasks.run();
    envoy.answer(&mut model, Fate::Answered);
    assert_eq!((envoy.said(), envoy.is_stale()), (Vec::<String>::new(), false));
}

#[test]
fn a_watch_that_cannot_be_opened_is_tried_with_the_other_members_at_once() {
    let mut model = Model::default();
    model.put("/bluegreen/iris", &state(1));
    let envoy = Envoy::new();
    envoy.host.tick();
    let (call, waiter) = envoy.asked().expect("a list");
    waiter.send(model.call(&call, Fate::Answered)).expect("it waits");
    envoy.host.tasks.run();
    let mut requests = Vec::new();
    while let Some((request, sender)) = envoy.opened() {
        requests.push(request);
        drop(sender);
        envoy.host.tasks.run();
    }
    assert_eq!(requests.len(), 3, "after that it lists again");
    assert!(requests.iter().all(|request| *request == requests[0]));
}

#[test]
fn what_etcd_refuses_is_told_once_with_its_reason() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    envoy.close();
    envoy.pass(&mut model, 3 * HEARTBEAT, Fate::Denied);
    let denied = "gRPC status 7, etcdserver: permission denied";
    let line = format!("etcd refuses to give the states: {denied}: the last known states stay in force");
    assert_eq!((envoy.said(), envoy.is_stale()), (vec![line], true));
    envoy.pass(&mut model, HEARTBEAT, Fate::Answered);
    assert_eq!((envoy.said(), envoy.is_stale()), (vec!["contact".to_owned()], false));
}

#[test]
fn a_watch_that_is_refused_is_told_once_and_the_lists_bring_what_it_would_have() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    envoy.close();
    let refused = WatchResponse {
        created: true,
        canceled: true,
        cancel_reason: "etcdserver: permission denied".to_owned(),
        ..WatchResponse::default()
    };
    let mut watches = 0;
    for revision in 2..182 {
        model.put("/bluegreen/iris", &state(revision));
        envoy.host.pass(LONGEST_BACKOFF);
        envoy.host.tick();
        let (call, waiter) = envoy.asked().expect("a list");
        waiter.send(model.call(&call, Fate::Answered)).expect("it waits");
        envoy.host.tasks.run();
        if let Some((_, stream)) = envoy.opened() {
            watches += 1;
            stream.send(refused.encode_to_vec());
            envoy.host.tasks.run();
        }
        assert_eq!(envoy.revision(), revision);
    }
    assert_eq!(watches, 3, "one a minute");
    let said: Vec<String> = envoy.said().into_iter().filter(|line| line.contains("refuses")).collect();
    let line = "etcd refuses the watch: etcdserver: permission denied: the fleet's changes are read once a second";
    assert_eq!((said, envoy.is_stale()), (vec![line.to_owned()], false));
}

#[test]
fn a_key_that_cannot_be_created_shows_in_the_set_up_until_it_can() {
    let mut model = Model::default();
    let envoy = Envoy::new();
    let noted = |envoy: &Envoy| crate::setup::noted(&envoy.host.store, &iris()).remove(&SetupProblem::EtcdRefuses);
    envoy.pass(&mut model, 2 * HEARTBEAT, Fate::OutOfSpace);
    let detail = noted(&envoy).expect("noted").detail;
    assert!(detail.contains("etcdserver: mvcc: database space exceeded"), "{detail}");
    envoy.pass(&mut model, 2 * HEARTBEAT, Fate::Answered);
    assert_eq!(noted(&envoy), None);
}

// === create ===

#[test]
fn what_the_fleet_has_is_taken_over_and_what_it_lacks_is_created() {
    let mut model = Model::default();
    model.put("/bluegreen/iris", &state(7));
    model.put("/bluegreen/other", b"not of this configuration");
    let envoy = Envoy::new();
    envoy.tick(&mut model, Fate::Answered);
    assert_eq!(envoy.said(), ["0 is at 7", "contact", "1 is at 0"]);
    let created = State::decode(&model.value("/bluegreen/wine").expect("created")).expect("a state");
    assert_eq!((created.revision, created.split), (Revision::ZERO, Default::default()));
    // Another Envoy may be configured otherwise: what the first one had is what a later version comes in place of.
    let wine = &deployments();
    let configured = wine.all()[1].colours.clone();
    assert_eq!(created, created.knowing(&configured));
    assert_eq!(created.identities.green, Some(configured.green));
    assert!(!envoy.is_stale());
}

#[test]
fn a_key_that_was_removed_is_created_again_from_what_is_known() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    model.delete("/bluegreen/iris");
    envoy.deliver(&mut model);
    let created = State::decode(&model.value("/bluegreen/iris").expect("there"));
    assert_eq!(created.map(|state| state.revision.get()), Some(1));
    model.put("/bluegreen/iris", &state(2));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 2);
}

#[test]
fn what_is_not_a_state_is_warned_of_once_and_replaced_by_the_next_change() {
    let mut model = Model::default();
    let envoy = watching(&mut model);
    model.put("/bluegreen/iris", b"not ours");
    envoy.deliver(&mut model);
    envoy.deliver(&mut model);
    envoy.close();
    envoy.pass(&mut model, HEARTBEAT, Fate::Answered);
    let said = envoy.said();
    assert!(said.len() == 1 && said[0].starts_with("0: the value in etcd is not a state"), "{said:?}");
    assert_eq!(envoy.revision(), 1);
    model.put("/bluegreen/iris", &state(2));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 2);
}
