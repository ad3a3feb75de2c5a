//! Watching: what is written from the read on, and a read once a beat that shows whether the watch still lives.

use prost::Message;

use super::learning::find;
use super::{Act, Follower, PAGE, Phase, Purpose, revision_of};
use crate::deployment::Deployments;
use crate::etcd::liveness::BEAT;
use crate::etcd::messages::{
    Event, EventType, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::etcd::{Reply, number};
use crate::model::time::Timestamp;
use crate::store::{ModRevision, Precedence, Store};

/// How it goes.
#[derive(Debug)]
pub struct Watching {
    /// The revision of the read that it began with.
    from: ModRevision,
    /// Whether etcd has confirmed it.
    is_begun: bool,
    /// How often it was tried to open it.
    openings: u32,
    pub(super) next_beat: Timestamp,
    is_beat_under_way: bool,
    pub(super) is_creation_under_way: bool,
    /// Beats in a row that failed.
    failed_beats: u32,
    /// Beats in a row that brought what the stream had not.
    overtaken: u32,
}

/// How many beats in a row may fail before etcd counts as out of reach: one for each of the usual three members.
const FAILED_BEATS: u32 = 3;

/// How often it is tried to open a watch before all is read again.
const OPENINGS: u32 = 3;

/// How many beats in a row may bring what the stream had not.
const OVERTAKEN: u32 = 2;

// === impl Follower ===

impl Follower {
    /// Begins with what is written after this revision.
    pub(super) fn watch(&mut self, from: ModRevision, now: Timestamp, acts: &mut Vec<Act>) {
        acts.push(self.open(from));
        self.phase = Phase::Watching(Watching {
            from,
            is_begun: false,
            openings: 1,
            next_beat: now.plus(BEAT),
            is_beat_under_way: false,
            is_creation_under_way: false,
            failed_beats: 0,
            overtaken: 0,
        });
    }

    fn open(&self, from: ModRevision) -> Act {
        let create = WatchCreateRequest {
            key: self.fleet.prefix.clone(),
            range_end: self.fleet.end(),
            start_revision: i64::try_from(from.0).unwrap_or_default().saturating_add(1),
        };
        Act::Watch(WatchRequest { create: Some(create) }.encode_to_vec())
    }

    /// Takes what the watch says.
    pub fn on_message(&mut self, message: &[u8], router: &Deployments, store: &dyn Store, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
        let Phase::Watching(watching) = &mut self.phase else { return acts };
        watching.overtaken = 0;
        match WatchResponse::decode(message) {
            Ok(response) if response.canceled => {
                acts.push(Act::Unwatch);
                // What was missed is compacted away: only the keys themselves are left to read, at once.
                let failed = response.compact_revision == 0;
                self.rest(failed, now);
                if !failed {
                    self.read_all(router, store, &mut acts);
                }
            }
            Ok(response) => {
                watching.is_begun = true;
                self.failures = 0;
                for event in &response.events {
                    self.on_event(event, router, store, &mut acts);
                }
                self.create_next(router, store, now, &mut acts);
            }
            Err(_) => {
                acts.push(Act::Unwatch);
                self.rest(true, now);
            }
        }
        acts
    }

    fn on_event(&mut self, event: &Event, router: &Deployments, store: &dyn Store, acts: &mut Vec<Act>) {
        let Some(key) = &event.kv else { return };
        if event.r#type == i32::from(EventType::Delete) {
            self.seen = self.seen.max(number(key.mod_revision));
            // Somebody removed the record, not the deployment: it gets one again, from what is known here.
            if let Some((index, _)) = self.fleet.name_of(&key.key).and_then(|name| find(router, name)) {
                self.absent.insert(index);
            }
        } else {
            let known = self.learn(key, Precedence::Later, router, store, acts);
            if let Some(index) = known {
                self.absent.remove(&index);
            }
        }
    }

    /// The watch has ended, or could not be opened.
    pub fn on_closed(&mut self, now: Timestamp) -> Vec<Act> {
        let Phase::Watching(watching) = &mut self.phase else { return Vec::new() };
        // A member that is down: the next attempt goes to another one, without a read in between that would change turns.
        if !watching.is_begun && watching.openings < OPENINGS {
            watching.openings = watching.openings.saturating_add(1);
            let from = watching.from;
            return vec![self.open(from)];
        }
        self.rest(true, now);
        Vec::new()
    }

    /// Asks for what was written since the last write that is known.
    pub(super) fn beat(&mut self, acts: &mut Vec<Act>) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        if std::mem::replace(&mut watching.is_beat_under_way, true) {
            return;
        }
        let request = RangeRequest {
            key: self.fleet.prefix.clone(),
            range_end: self.fleet.end(),
            limit: PAGE,
            min_mod_revision: i64::try_from(self.seen.0).unwrap_or_default().saturating_add(1),
            ..RangeRequest::default()
        };
        acts.push(self.ask(Purpose::Beat, self.fleet.call("Range", &request)));
    }

    /// Takes what a beat found.
    pub(super) fn on_beat(
        &mut self,
        reply: &Reply,
        router: &Deployments,
        store: &dyn Store,
        now: Timestamp,
        acts: &mut Vec<Act>,
    ) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        watching.is_beat_under_way = false;
        let response = match reply.decode::<RangeResponse>() {
            Ok(response) => response,
            Err(why) => {
                watching.failed_beats = watching.failed_beats.saturating_add(1);
                if watching.failed_beats < FAILED_BEATS {
                    return self.beat(acts);
                }
                return self.lose_contact(store, why, acts);
            }
        };
        watching.failed_beats = 0;
        let went_back = revision_of(&response) < watching.from;
        let before = self.seen;
        let news = response.kvs.iter().filter(|key| number(key.mod_revision) > before).count();
        if news > 0 {
            watching.overtaken = watching.overtaken.saturating_add(1);
        }
        if went_back || response.more || watching.overtaken >= OVERTAKEN {
            acts.push(Act::Unwatch);
            return self.read_all(router, store, acts);
        }
        for key in &response.kvs {
            self.learn(key, Precedence::Later, router, store, acts);
        }
        self.note_contact(store, now, acts);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::time::Duration;

    use super::super::envoy::{Envoy, state, watching};
    use super::*;
    use crate::etcd::model::{Fate, Model};

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
    fn one_member_of_three_that_is_down_is_not_noticed() {
        let mut model = Model::default();
        let mut envoy = watching(&mut model);
        envoy.now = envoy.now.plus(BEAT);
        let acts = envoy.follower.tick(&envoy.router, &envoy.store, envoy.now);
        for act in acts {
            let Act::Call(ticket, _) = act else { panic!("{act:?}") };
            let again = envoy.follower.on_reply(
                ticket,
                &Reply::Failed("refused".into()),
                &envoy.router,
                &envoy.store,
                envoy.now,
            );
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
}
