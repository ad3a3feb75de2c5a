//! Following the fleet: read all keys, watch them from there, and notice when the watch has gone quiet for good.
//!
//! A stream can die without a sound, and a member of etcd that has lost the others keeps its streams open and says
//! nothing on them. So once in each [`BEAT`] a read that takes a quorum asks for keys written since the last one that is
//! known. Usually there are none. A write that the stream had not brought is taken from there; two in a row, and the
//! stream is given up for a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;

use super::contact::{self, BEAT};
use super::messages::{
    Event, EventType, KeyValue, RangeRequest, RangeResponse, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use super::{Call, Fleet, Reply, number};
use crate::leader::Member;
use crate::matching::DeploymentIndex;
use crate::name::DeploymentName;
use crate::routing::{Route, Router};
use crate::state::State;
use crate::store::{self, Applied, Effect, ModRevision, Precedence, Store};
use crate::time::Timestamp;

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

#[derive(Debug)]
enum Phase {
    Resting { until: Timestamp },
    Reading(Reading),
    Watching(Watching),
}

/// All keys, page by page, as they were at one revision.
#[derive(Debug)]
struct Reading {
    /// Where the next page begins.
    from: Vec<u8>,
    /// The revision; 0 before the first page.
    at: ModRevision,
    found: BTreeSet<DeploymentIndex>,
    /// The last write known here before etcd was asked.
    known: ModRevision,
    precedence: Precedence,
}

#[derive(Debug)]
struct Watching {
    /// The revision of the read that it began with.
    from: ModRevision,
    /// Whether etcd has confirmed it.
    is_begun: bool,
    /// How often it was tried to open it.
    openings: u32,
    next_beat: Timestamp,
    is_beat_under_way: bool,
    is_creation_under_way: bool,
    /// Beats in a row that failed.
    failed_beats: u32,
    /// Beats in a row that brought what the stream had not.
    overtaken: u32,
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

/// How long to wait after a failure: the first time, and at most. In between it doubles.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How many beats in a row may fail before etcd counts as out of reach: one for each of the usual three members.
const FAILED_BEATS: u32 = 3;

/// How often it is tried to open a watch before all is read again.
const OPENINGS: u32 = 3;

/// How many beats in a row may bring what the stream had not.
const OVERTAKEN: u32 = 2;

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
    pub fn tick(&mut self, router: &Router, store: &dyn Store, now: Timestamp) -> Vec<Act> {
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
        router: &Router,
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

    /// Takes what the watch says.
    pub fn on_message(&mut self, message: &[u8], router: &Router, store: &dyn Store, now: Timestamp) -> Vec<Act> {
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

    /// Another instance follows now.
    pub fn retire(&mut self) -> Vec<Act> {
        let acts = if matches!(self.phase, Phase::Watching(_)) { vec![Act::Unwatch] } else { Vec::new() };
        self.rest(false, Timestamp::default());
        self.in_contact = None;
        acts
    }
}

/// Reading.
impl Follower {
    fn read_all(&mut self, router: &Router, store: &dyn Store, acts: &mut Vec<Act>) {
        self.attempt = self.attempt.wrapping_add(1);
        let known = |route: &Route| {
            store::load(store, &route.name, route.initial, Timestamp::default()).ok().and_then(|loaded| loaded.origin)
        };
        let reading = Reading {
            from: self.fleet.prefix.clone(),
            at: ModRevision(0),
            found: BTreeSet::new(),
            known: router.routes().iter().filter_map(known).max().unwrap_or_default(),
            precedence: Precedence::Later,
        };
        acts.push(self.page(&reading));
        self.phase = Phase::Reading(reading);
    }

    fn page(&self, reading: &Reading) -> Act {
        let request = RangeRequest {
            key: reading.from.clone(),
            range_end: self.fleet.end(),
            limit: PAGE,
            revision: i64::try_from(reading.at.0).unwrap_or_default(),
            ..RangeRequest::default()
        };
        self.ask(Purpose::Page, self.fleet.call("Range", &request))
    }

    fn on_page(&mut self, reply: &Reply, router: &Router, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
        let Phase::Reading(mut reading) = std::mem::replace(&mut self.phase, Phase::Resting { until: now }) else {
            return;
        };
        let response = match reply.decode::<RangeResponse>() {
            Ok(response) => response,
            Err(why) => {
                self.lose_contact(store, why, acts);
                return self.rest(true, now);
            }
        };
        if reading.at == ModRevision(0) {
            reading.at = revision_of(&response);
            if reading.at < reading.known {
                reading.precedence = Precedence::Always;
                self.seen = ModRevision(0);
            }
        }
        for key in &response.kvs {
            reading.found.extend(self.learn(key, reading.precedence, router, store, acts));
        }
        if let (true, Some(last)) = (response.more, response.kvs.last()) {
            reading.from = [&last.key, &b"\0"[..]].concat();
            acts.push(self.page(&reading));
            self.phase = Phase::Reading(reading);
            return;
        }
        self.seen = self.seen.max(reading.at);
        self.absent = (0..router.routes().len()).filter(|index| !reading.found.contains(index)).collect();
        self.watch(reading.at, now, acts);
        self.note_contact(store, now, acts);
        self.create_next(router, store, now, acts);
    }

    fn open(&self, from: ModRevision) -> Act {
        let create = WatchCreateRequest {
            key: self.fleet.prefix.clone(),
            range_end: self.fleet.end(),
            start_revision: i64::try_from(from.0).unwrap_or_default().saturating_add(1),
        };
        Act::Watch(WatchRequest { create: Some(create) }.encode_to_vec())
    }

    fn watch(&mut self, from: ModRevision, now: Timestamp, acts: &mut Vec<Act>) {
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

    /// Waits a while before reading all keys again, the longer the more attempts have failed.
    fn rest(&mut self, failed: bool, now: Timestamp) {
        self.attempt = self.attempt.wrapping_add(1);
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        let until = if failed { now.plus(rest_after(self.failures, self.member, now)) } else { now };
        self.phase = Phase::Resting { until };
    }
}

/// Watching.
impl Follower {
    fn on_event(&mut self, event: &Event, router: &Router, store: &dyn Store, acts: &mut Vec<Act>) {
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

    /// Takes over what a key holds. The deployment whose key it is, if there is one.
    fn learn(
        &mut self,
        key: &KeyValue,
        precedence: Precedence,
        router: &Router,
        store: &dyn Store,
        acts: &mut Vec<Act>,
    ) -> Option<DeploymentIndex> {
        let revision = number(key.mod_revision);
        self.seen = self.seen.max(revision);
        let (index, route) = find(router, self.fleet.name_of(&key.key)?)?;
        match State::decode(&key.value) {
            Some(state) => adopt(index, &route.name, &state, revision, precedence, store, acts),
            None if self.foreign.insert(index, revision) == Some(revision) => {}
            None => {
                let why =
                    "what etcd holds under its key is not a state: it is ignored until the next change replaces it";
                acts.push(Act::Warn(index, why.to_owned()));
            }
        }
        Some(index)
    }

    fn beat(&mut self, acts: &mut Vec<Act>) {
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

    fn on_beat(&mut self, reply: &Reply, router: &Router, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
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

/// Creating.
impl Follower {
    /// Gives one deployment its key, unless somebody else does.
    fn create_next(&mut self, router: &Router, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        let Some(index) = self.absent.first().copied() else { return };
        let Some(route) = router.routes().get(index) else { return };
        let Ok(loaded) = store::load(store, &route.name, route.initial, now) else { return };
        if !std::mem::replace(&mut watching.is_creation_under_way, true) {
            let call = self.fleet.put_if(&route.name, ModRevision(0), &loaded.state);
            acts.push(self.ask(Purpose::Create(index), call));
        }
    }

    fn on_creation(
        &mut self,
        index: DeploymentIndex,
        reply: &Reply,
        router: &Router,
        store: &dyn Store,
        now: Timestamp,
        acts: &mut Vec<Act>,
    ) {
        let Phase::Watching(watching) = &mut self.phase else { return };
        watching.is_creation_under_way = false;
        let Some(route) = router.routes().get(index) else { return };
        // Without an answer it is tried again at the next beat: if it was carried out, it is found there.
        let Ok(response) = reply.decode::<TxnResponse>() else { return };
        let range = response.responses.first().and_then(|response| response.range.as_ref());
        match (response.succeeded, range.and_then(|range| range.kvs.first())) {
            (true, _) => {
                let revision = response.header.map_or(ModRevision(0), |header| number(header.revision));
                if let Ok(loaded) = store::load(store, &route.name, route.initial, now) {
                    adopt(index, &route.name, &loaded.state, revision, Precedence::Later, store, acts);
                }
                self.absent.remove(&index);
            }
            (false, Some(key)) => {
                self.learn(key, Precedence::Later, router, store, acts);
                self.absent.remove(&index);
            }
            // It was removed again in between.
            (false, None) => return,
        }
        self.create_next(router, store, now, acts);
    }
}

/// Contact.
impl Follower {
    fn note_contact(&mut self, store: &dyn Store, now: Timestamp, acts: &mut Vec<Act>) {
        contact::note(store, &self.fleet, now);
        if self.in_contact.replace(true) != Some(true) {
            acts.push(Act::ContactMade);
        }
    }

    fn lose_contact(&mut self, store: &dyn Store, why: String, acts: &mut Vec<Act>) {
        contact::lose(store, &self.fleet);
        if self.in_contact.replace(false) != Some(false) {
            acts.push(Act::ContactLost(why));
        }
    }

    fn ask(&self, purpose: Purpose, call: Call) -> Act {
        Act::Call(Ticket { attempt: self.attempt, purpose }, call)
    }
}

fn adopt(
    index: DeploymentIndex,
    name: &DeploymentName,
    state: &State,
    revision: ModRevision,
    precedence: Precedence,
    store: &dyn Store,
    acts: &mut Vec<Act>,
) {
    match store::adopt(store, name, state, revision, precedence) {
        Ok(applied) if applied.effect == Effect::None => {}
        Ok(applied) => acts.push(Act::Publish(index, applied)),
        Err(error) => acts.push(Act::Warn(index, error.to_string())),
    }
}

fn find<'r>(router: &'r Router, name: &str) -> Option<(DeploymentIndex, &'r Route)> {
    // The routes are in the order of their names.
    let index = router.routes().binary_search_by(|route| route.name.as_str().cmp(name)).ok()?;
    Some((index, router.routes().get(index)?))
}

fn revision_of(response: &RangeResponse) -> ModRevision {
    response.header.as_ref().map_or(ModRevision(0), |header| number(header.revision))
}

/// The pause after so many failures, less up to a half: Envoys that lost etcd together must not come back together.
/// There is no randomness in the VM, so the part comes from what differs between them.
fn rest_after(failures: u32, member: Member, now: Timestamp) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let full = FIRST_REST.saturating_mul(doubled).min(LONGEST_REST);
    let seed = member.get() ^ now.as_millis().rotate_left(32);
    let part = xxhash_rust::xxh64::xxh64(&failures.to_le_bytes(), seed) >> 11;
    // 53 bits fit a double exactly.
    full.mul_f64(0.5 + 0.5 * (part as f64 / (1_u64 << 53) as f64))
}

#[cfg(test)]
mod tests;
