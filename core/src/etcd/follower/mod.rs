//! Following the fleet: read all keys, watch them from there, and notice when the watch has gone quiet for good.
//!
//! A stream can die without a sound, and a member of etcd that has lost the others keeps its streams open and says
//! nothing on them. So once in each [`BEAT`] a read that takes a quorum asks for keys written since the last one that is
//! known. Usually there are none. A write that the stream had not brought is taken from there; two in a row, and the
//! stream is given up for a new one.

mod creating;
mod learning;
mod reading;
mod resting;
mod watching;

#[cfg(test)]
mod envoy;

use std::collections::{BTreeMap, BTreeSet};

use self::reading::Reading;
use self::watching::Watching;
use super::liveness::{self, BEAT};
use super::messages::RangeResponse;
use super::{Call, Fleet, Reply, number};
use crate::deployment::DeploymentIndex;
use crate::deployment::Deployments;
use crate::model::time::Timestamp;
use crate::store::lease::Member;
use crate::store::{Applied, ModRevision, Store};

/// The one filter instance of an Envoy that follows the fleet for all.
#[derive(Debug)]
pub struct Follower {
    fleet: Fleet,
    member: Member,
    phase: Phase,
    /// Counts the attempts, so that a reply to an earlier one is known as such.
    attempt: u32,
    /// Attempts in a row that failed.
    failures: u32,
    /// The last write of all that came.
    seen: ModRevision,
    /// Deployments that have no key yet.
    absent: BTreeSet<DeploymentIndex>,
    /// The last write of each key that held something else than a state, each of which is worth one warning.
    foreign: BTreeMap<DeploymentIndex, ModRevision>,
    in_contact: Option<bool>,
}

/// What it is at. Keys that are absent are created while it watches.
#[derive(Debug)]
enum Phase {
    Resting { until: Timestamp },
    Reading(Reading),
    Watching(Watching),
}

/// A call's number and purpose, which come back with its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    attempt: u32,
    purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Page,
    Beat,
    Create(DeploymentIndex),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make a call, and hand its reply to [`Follower::on_reply`].
    Call(Ticket, Call),
    /// Open a stream to `etcdserverpb.Watch`, and send this; [`Follower::on_closed`] if that cannot be done.
    Watch(Vec<u8>),
    /// Give the stream up.
    Unwatch,
    /// Make a state known that was written.
    Publish(DeploymentIndex, Applied),
    /// Log what went wrong with a deployment.
    Warn(DeploymentIndex, String),
    /// Log that etcd is out of reach, and why.
    ContactLost(String),
    /// Log that it answers, for the first time or again.
    ContactMade,
}

/// How many keys are read at once: a state with its whole history has some 15 KB.
const PAGE: i64 = 64;

// === impl Follower ===

impl Follower {
    /// Starts with reading, at the next tick.
    pub fn new(fleet: Fleet, member: Member) -> Self {
        Self {
            fleet,
            member,
            phase: Phase::Resting { until: Timestamp::default() },
            attempt: 0,
            failures: 0,
            seen: ModRevision(0),
            absent: BTreeSet::new(),
            foreign: BTreeMap::new(),
            in_contact: None,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, router: &Deployments, store: &dyn Store, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
        match &mut self.phase {
            Phase::Resting { until } if *until <= now => self.read_all(router, store, &mut acts),
            Phase::Watching(watching) if watching.next_beat <= now => {
                watching.next_beat = now.plus(BEAT);
                self.beat(&mut acts);
                self.create_next(router, store, now, &mut acts);
            }
            _ => {}
        }
        acts
    }

    /// Takes the reply to a call.
    pub fn on_reply(
        &mut self,
        ticket: Ticket,
        reply: &Reply,
        router: &Deployments,
        store: &dyn Store,
        now: Timestamp,
    ) -> Vec<Act> {
        let mut acts = Vec::new();
        if ticket.attempt == self.attempt {
            match ticket.purpose {
                Purpose::Page => self.on_page(reply, router, store, now, &mut acts),
                Purpose::Beat => self.on_beat(reply, router, store, now, &mut acts),
                Purpose::Create(index) => self.on_creation(index, reply, router, store, now, &mut acts),
            }
        }
        acts
    }

    /// Another instance follows now.
    pub fn retire(&mut self) -> Vec<Act> {
        let acts = if matches!(self.phase, Phase::Watching(_)) { vec![Act::Unwatch] } else { Vec::new() };
        self.rest(false, Timestamp::default());
        self.in_contact = None;
        acts
    }

    fn note_contact(&mut self, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
        liveness::note(store, &self.fleet, now);
        if self.in_contact.replace(true) != Some(true) {
            acts.push(Act::ContactMade);
        }
    }

    fn lose_contact(&mut self, store: &dyn Store, why: String, acts: &mut Vec<Act>) {
        liveness::lose(store, &self.fleet);
        if self.in_contact.replace(false) != Some(false) {
            acts.push(Act::ContactLost(why));
        }
    }

    fn ask(&self, purpose: Purpose, call: Call) -> Act {
        Act::Call(Ticket { attempt: self.attempt, purpose }, call)
    }
}

fn revision_of(response: &RangeResponse) -> ModRevision {
    response.header.as_ref().map_or(ModRevision(0), |header| number(header.revision))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::envoy::{state, watching};
    use super::*;
    use crate::etcd::model::{Fate, Model};

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
}
