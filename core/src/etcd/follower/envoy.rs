//! An Envoy with one follower against etcd in memory, message by message, for the tests of all phases.

use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::etcd::messages::WatchCreateRequest;
use crate::etcd::model::{Fate, Model, fleet};
use crate::model::split::Revision;
use crate::state::State;
use crate::store;
use crate::testing::{MemoryStore, iris, split};

pub const START: Timestamp = Timestamp::from_millis(1_795_446_000_000);

/// An Envoy with the deployments iris and wine, its follower, and what it has asked for.
pub struct Envoy {
    pub router: Deployments,
    pub store: MemoryStore,
    pub follower: Follower,
    pub now: Timestamp,
    /// The watch, if there is one, and how much of the log it has brought.
    pub watch: Option<WatchCreateRequest>,
    pub said: Vec<String>,
}

impl Envoy {
    pub fn new() -> Self {
        let colours =
            r#""colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}}"#;
        let json = format!(r#"{{"deployments": {{"iris": {{{colours}}}, "wine": {{{colours}}}}}}}"#);
        Self {
            router: Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid")),
            store: MemoryStore::default(),
            follower: Follower::new(fleet(), Member::enrol(&MemoryStore::default(), Timestamp::default())),
            now: START,
            watch: None,
            said: Vec::new(),
        }
    }

    /// Does what the follower asks for; each call meets this fate.
    pub fn act(&mut self, model: &mut Model, acts: Vec<Act>, fate: Fate) {
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

    pub fn hear(&mut self, model: &mut Model, message: &[u8]) {
        let acts = self.follower.on_message(message, &self.router, &self.store, self.now);
        self.act(model, acts, Fate::Answered);
    }

    /// Delivers all that happened since the watch began.
    pub fn deliver(&mut self, model: &mut Model) {
        if let Some(create) = &self.watch {
            let message = model.events(create);
            self.hear(model, &message);
        }
    }

    pub fn tick(&mut self, model: &mut Model, fate: Fate) {
        let acts = self.follower.tick(&self.router, &self.store, self.now);
        self.act(model, acts, fate);
    }

    /// Ticks on through this time.
    pub fn pass(&mut self, model: &mut Model, span: Duration, fate: Fate) {
        let end = self.now.plus(span);
        while self.now < end {
            self.now = self.now.plus(Duration::from_millis(50));
            self.tick(model, fate);
        }
    }

    pub fn revision(&self) -> u64 {
        let loaded = store::load(&self.store, &iris(), Default::default(), START).expect("in reach");
        loaded.state.revision.get()
    }

    pub fn is_stale(&self) -> bool {
        liveness::is_lost(&self.store, &fleet(), self.now)
    }

    pub fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }
}

pub fn state(revision: u64) -> Vec<u8> {
    State { revision: Revision::new(revision), ..State::initial(split("green", "0", "0"), START) }.encode()
}

/// An Envoy that watches a fleet with both deployments in it.
pub fn watching(model: &mut Model) -> Envoy {
    model.put("/bluegreen/iris", &state(1));
    model.put("/bluegreen/wine", &state(1));
    let mut envoy = Envoy::new();
    envoy.tick(model, Fate::Answered);
    assert_eq!(envoy.said(), ["0 is at 1", "1 is at 1", "contact"]);
    envoy
}
