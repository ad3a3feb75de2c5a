//! One follower against etcd in memory, message by message.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::config::Config;
use crate::etcd::model::{Fate, Model, fleet};
use crate::split::Revision;
use crate::testing::{MemoryStore, iris, split};

const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

/// An Envoy with the deployments iris and wine, its follower, and what it has asked for.
struct Envoy {
    router: Router,
    store: MemoryStore,
    follower: Follower,
    now: Timestamp,
    /// The watch, if there is one, and how much of the log it has brought.
    watch: Option<WatchCreateRequest>,
    said: Vec<String>,
}

impl Envoy {
    fn new() -> Self {
        let colours =
            r#""colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}"#;
        let json = format!(r#"{{"deployments": {{"iris": {{{colours}}}, "wine": {{{colours}}}}}}}"#);
        Self {
            router: Router::new(&Config::from_bytes(json.as_bytes()).expect("valid")),
            store: MemoryStore::default(),
            follower: Follower::new(fleet(), Member::enrol(&MemoryStore::default(), Timestamp::default())),
            now: START,
            watch: None,
            said: Vec::new(),
        }
    }

    /// Does what the follower asks for; each call meets this fate.
    fn act(&mut self, model: &mut Model, acts: Vec<Act>, fate: Fate) {
        for act in acts {
            match act {
                Act::Call(ticket, call) => {
                    let reply = model.call(&call, fate);
                    let acts = self.follower.on_reply(ticket, &reply, &self.router, &self.store, self.now);
                    self.act(model, acts, fate);
                }
                Act::Watch(message) => {
                    if fate != Fate::Answered {
                        let acts = self.follower.on_closed(self.now);
                        self.act(model, acts, fate);
                        continue;
                    }
                    let (said, create) = model.watch(&message);
                    self.watch = Some(create);
                    for message in said {
                        self.hear(model, &message);
                    }
                }
                Act::Unwatch => self.watch = None,
                Act::Publish(index, applied) => {
                    self.said.push(format!("{index} is at {}", applied.state.revision));
                }
                Act::Warn(index, why) => self.said.push(format!("{index}: {why}")),
                Act::ContactLost(_) => self.said.push("lost".to_owned()),
                Act::ContactMade => self.said.push("contact".to_owned()),
            }
        }
    }

    fn hear(&mut self, model: &mut Model, message: &[u8]) {
        let acts = self.follower.on_message(message, &self.router, &self.store, self.now);
        self.act(model, acts, Fate::Answered);
    }

    /// Delivers all that happened since the watch began.
    fn deliver(&mut self, model: &mut Model) {
        if let Some(create) = &self.watch {
            let message = model.events(create);
            self.hear(model, &message);
        }
    }

    fn tick(&mut self, model: &mut Model, fate: Fate) {
        let acts = self.follower.tick(&self.router, &self.store, self.now);
        self.act(model, acts, fate);
    }

    /// Ticks on through this time.
    fn pass(&mut self, model: &mut Model, span: Duration, fate: Fate) {
        let end = self.now.plus(span);
        while self.now < end {
            self.now = self.now.plus(Duration::from_millis(50));
            self.tick(model, fate);
        }
    }

    fn revision(&self) -> u64 {
        let loaded = store::load(&self.store, &iris(), Default::default(), START).expect("in reach");
        loaded.state.revision.get()
    }

    fn is_stale(&self) -> bool {
        contact::is_lost(&self.store, &fleet(), self.now)
    }

    fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

fn state(revision: u64) -> Vec<u8> {
    State { revision: Revision::new(revision), ..State::initial(split("green", "0", "0"), START) }.encode()
}

/// An Envoy that watches a fleet with both deployments in it.
fn watching(model: &mut Model) -> Envoy {
    model.put("/bluegreen/iris", &state(1));
    model.put("/bluegreen/wine", &state(1));
    let mut envoy = Envoy::new();
    envoy.tick(model, Fate::Answered);
    assert_eq!(envoy.said(), ["0 is at 1", "1 is at 1", "contact"]);
    envoy
}

#[test]
fn what_the_fleet_has_is_taken_over_and_what_it_lacks_is_created() {
    let mut model = Model::default();
    model.put("/bluegreen/iris", &state(7));
    model.put("/bluegreen/other", b"not of this configuration");
    let mut envoy = Envoy::new();
    envoy.tick(&mut model, Fate::Answered);
    assert_eq!(envoy.said(), ["0 is at 7", "contact", "1 is at 0"]);
    let created = State::decode(&model.value("/bluegreen/wine").expect("created")).expect("a state");
    assert_eq!((created.revision, created.split), (Revision::ZERO, Default::default()));
    assert!(!envoy.is_stale());
}

#[test]
fn each_change_comes_once_and_in_order() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    for revision in 2..5 {
        model.put("/bluegreen/iris", &state(revision));
        envoy.deliver(&mut model);
        envoy.deliver(&mut model);
    }
    assert_eq!(envoy.said(), ["0 is at 2", "0 is at 3", "0 is at 4"]);
}

#[test]
fn many_keys_come_page_by_page() {
    let mut model = Model::default();
    for number in 0..200 {
        model.put(&format!("/bluegreen/a{number}"), &state(1));
    }
    let mut envoy = watching(&mut model);
    envoy.deliver(&mut model);
    assert!(envoy.said().is_empty());
}

#[test]
fn after_a_broken_stream_it_catches_up_even_when_what_happened_is_compacted_away() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    for compacted in [false, true] {
        let before = envoy.revision();
        envoy.watch = None;
        assert_eq!(envoy.follower.on_closed(envoy.now), []);
        model.put("/bluegreen/iris", &state(before + 1));
        model.put("/bluegreen/iris", &state(before + 2));
        if compacted {
            model.compact();
        }
        envoy.pass(&mut model, Duration::from_millis(200), Fate::Answered);
        assert_eq!((envoy.revision(), envoy.watch.is_some()), (before + 2, true));
    }
}

#[test]
fn a_watch_that_begins_with_something_compacted_is_begun_anew_at_once() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    let canceled = WatchResponse { canceled: true, compact_revision: 9, ..WatchResponse::default() };
    model.put("/bluegreen/iris", &state(2));
    model.compact();
    envoy.hear(&mut model, &canceled.encode_to_vec());
    assert_eq!((envoy.revision(), envoy.watch.is_some()), (2, true));
}

#[test]
fn a_stream_that_died_without_a_sound_is_noticed_and_replaced() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    let old = envoy.watch.clone();
    for revision in 2..4 {
        model.put("/bluegreen/iris", &state(revision));
        envoy.pass(&mut model, BEAT, Fate::Answered);
        assert_eq!(envoy.revision(), revision, "the beat brings it");
    }
    assert_ne!(envoy.watch, old, "and the stream is a new one");
    model.put("/bluegreen/iris", &state(4));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 4);
}

#[test]
fn while_etcd_is_away_the_last_state_stays_and_is_called_stale() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    envoy.pass(&mut model, BEAT, Fate::RequestLost);
    assert_eq!((envoy.said(), envoy.is_stale(), envoy.revision()), (vec!["lost".to_owned()], true, 1));
    envoy.pass(&mut model, BEAT * 20, Fate::RequestLost);
    assert_eq!(envoy.said(), Vec::<String>::new(), "it is said once");
    model.put("/bluegreen/iris", &state(2));
    envoy.pass(&mut model, BEAT, Fate::Answered);
    assert_eq!((envoy.said(), envoy.is_stale()), (vec!["0 is at 2".to_owned(), "contact".to_owned()], false));
}

#[test]
fn one_member_of_three_that_is_down_is_not_noticed() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    envoy.now = envoy.now.plus(BEAT);
    let acts = envoy.follower.tick(&envoy.router, &envoy.store, envoy.now);
    for act in acts {
        let Act::Call(ticket, _) = act else { panic!("{act:?}") };
        let again =
            envoy.follower.on_reply(ticket, &Reply::Failed("refused".into()), &envoy.router, &envoy.store, envoy.now);
        envoy.act(&mut model, again, Fate::Answered);
    }
    assert_eq!((envoy.said(), envoy.is_stale()), (Vec::<String>::new(), false));
}

#[test]
fn a_watch_that_cannot_be_opened_is_tried_with_the_other_members_at_once() {
    let mut model = Model::default();
    model.put("/bluegreen/iris", &state(1));
    let mut envoy = Envoy::new();
    let acts = envoy.follower.tick(&envoy.router, &envoy.store, envoy.now);
    let [Act::Call(ticket, call)] = &acts[..] else { panic!("{acts:?}") };
    let reply = model.call(call, Fate::Answered);
    let acts = envoy.follower.on_reply(*ticket, &reply, &envoy.router, &envoy.store, envoy.now);
    let watch = acts.iter().find(|act| matches!(act, Act::Watch(_))).expect("a watch").clone();
    assert_eq!(envoy.follower.on_closed(envoy.now), std::slice::from_ref(&watch));
    assert_eq!(envoy.follower.on_closed(envoy.now), [watch]);
    assert_eq!(envoy.follower.on_closed(envoy.now), [], "after that it reads again");
}

#[test]
fn a_key_that_was_removed_is_created_again_from_what_is_known() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    model.delete("/bluegreen/iris");
    envoy.deliver(&mut model);
    assert_eq!(
        State::decode(&model.value("/bluegreen/iris").expect("there")).map(|state| state.revision.get()),
        Some(1)
    );
    model.put("/bluegreen/iris", &state(2));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 2);
}

#[test]
fn what_is_not_a_state_is_warned_of_once_and_replaced_by_the_next_change() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    model.put("/bluegreen/iris", b"not ours");
    envoy.deliver(&mut model);
    envoy.deliver(&mut model);
    assert_eq!(envoy.follower.on_closed(envoy.now), []);
    envoy.pass(&mut model, BEAT, Fate::Answered);
    let said = envoy.said();
    assert!(said.len() == 1 && said[0].starts_with("0: what etcd holds under its key is not a state"), "{said:?}");
    assert_eq!(envoy.revision(), 1);
    model.put("/bluegreen/iris", &state(2));
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 2);
}

#[test]
fn a_store_that_was_restored_from_a_backup_is_followed_backwards() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    for revision in 2..20 {
        model.put("/bluegreen/iris", &state(revision));
    }
    envoy.deliver(&mut model);
    assert_eq!(envoy.revision(), 19);
    let mut restored = Model::default();
    restored.put("/bluegreen/iris", &state(5));
    restored.put("/bluegreen/wine", &state(1));
    envoy.watch = None;
    assert_eq!(envoy.follower.on_closed(envoy.now), []);
    envoy.pass(&mut restored, BEAT, Fate::Answered);
    assert_eq!(envoy.revision(), 5);
    restored.put("/bluegreen/iris", &state(6));
    envoy.deliver(&mut restored);
    assert_eq!(envoy.revision(), 6);
}

#[test]
fn a_reply_to_an_earlier_attempt_says_nothing() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    envoy.now = envoy.now.plus(BEAT);
    let acts = envoy.follower.tick(&envoy.router, &envoy.store, envoy.now);
    assert_eq!(envoy.follower.on_closed(envoy.now), []);
    for act in acts {
        let Act::Call(ticket, call) = act else { panic!("{act:?}") };
        let reply = model.call(&call, Fate::Answered);
        assert_eq!(envoy.follower.on_reply(ticket, &reply, &envoy.router, &envoy.store, envoy.now), []);
    }
}

#[test]
fn who_does_not_lead_any_more_gives_the_stream_up_and_starts_anew_when_it_does_again() {
    let mut model = Model::default();
    let mut envoy = watching(&mut model);
    assert_eq!(envoy.follower.retire(), [Act::Unwatch]);
    assert_eq!(envoy.follower.retire(), []);
    model.put("/bluegreen/iris", &state(2));
    envoy.tick(&mut model, Fate::Answered);
    assert_eq!(envoy.revision(), 2);
}

#[test]
fn pauses_double_up_to_a_limit_and_differ_between_members_and_moments() {
    let member = Member::enrol(&MemoryStore::default(), Timestamp::default());
    let pauses: Vec<u128> = (1..12).map(|failures| rest_after(failures, member, START).as_millis()).collect();
    for (failures, pause) in pauses.iter().enumerate() {
        let full = (100 << failures.min(10)).min(1_000);
        assert!((full / 2..=full).contains(pause), "{failures}: {pauses:?}");
    }
    let later = START.plus(Duration::from_millis(1));
    assert_ne!(rest_after(9, member, START), rest_after(9, member, later));
}
