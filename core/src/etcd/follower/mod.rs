//! Following the fleet, as kube's watcher does: list all keys, watch them from there, back off after a failure.
//!
//! A stream can die without a sound, and a member of etcd that has lost the others keeps its streams open and says
//! nothing on them. So once in each [`HEARTBEAT`] a read that takes a quorum asks for keys written since the last one that
//! is known. Usually there are none. A write that the stream had not brought is taken from there; two in a row, and the
//! stream is given up for a new one.

use std::collections::BTreeSet;
use std::future::pending;

use futures_lite::future;
use prost::Message;

use super::messages::{Event, EventType, KeyValue, RangeResponse, TxnResponse, WatchResponse};
use super::store::{EtcdStore, decode, number, revision_of};
use crate::deployment::DeploymentIndex;
use crate::fleet::following::{Following, backoff};
use crate::fleet::liveness::{Contact, HEARTBEAT};
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{clear_refusal, note_refusal};
use crate::host::grpc::{GrpcReply, GrpcStream};
use crate::host::reply::Reply;
use crate::model::sorted_map::SortedMap;
use crate::state::State;
use crate::store::record::{ModRevision, ReplacePolicy};

/// The one filter instance of an Envoy that follows the fleet for all.
struct Follower<'f> {
    etcd: &'f EtcdStore,
    following: Following<'f>,
    /// Attempts in a row that failed.
    failures: u32,
    /// The last write of all that came.
    last: ModRevision,
    /// Deployments that have no key yet.
    absent: BTreeSet<DeploymentIndex>,
    /// The last write of each key that held something else than a state, each of which is worth one warning.
    corrupt: SortedMap<DeploymentIndex, ModRevision>,
    contact: Contact,
    /// Why etcd refused the last watch, which is worth one line.
    refused_watch: Option<String>,
    /// So many lists follow each other before a watch is tried again.
    lists_only: u32,
}

/// A watch under way, and the calls beside it. Keys that are absent are created while it lasts.
struct Watch {
    stream: GrpcStream,
    heartbeat_due: Reply<()>,
    heartbeat: Option<Reply<GrpcReply>>,
    creation: Option<(DeploymentIndex, Reply<GrpcReply>)>,
}

/// What happens to a watch.
enum WatchEvent {
    /// A message; `None` when the stream has ended.
    Message(Option<Vec<u8>>),
    HeartbeatDue,
    Heartbeat(GrpcReply),
    Created(DeploymentIndex, GrpcReply),
}

/// Why a watch is given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchEnd {
    /// Only a new list shows what was missed, and nothing is wrong with etcd.
    ListAgain,
    /// Etcd is to be left alone for a while.
    BackOff,
}

/// How many heartbeats in a row may fail before etcd counts as out of reach: one for each of the usual three members.
const FAILED_HEARTBEATS: u32 = 3;

/// How often it is tried to open a watch before all is listed again.
const OPENINGS: u32 = 3;

/// How many heartbeats in a row may bring what the stream had not.
const MISSED: u32 = 2;

/// How many lists follow each other after etcd has refused a watch: for about a minute.
const LISTS_ONLY: u32 = 60;

/// Follows the fleet for as long as this instance leads; waits for it otherwise.
pub async fn follow(etcd: &EtcdStore, following: Following<'_>) {
    let mut follower = Follower::new(etcd, following);
    loop {
        following.while_it_leads(follower.run()).await;
        follower.failures = 0;
        follower.contact = Contact::default();
    }
}

// === impl Follower ===

impl<'f> Follower<'f> {
    fn new(etcd: &'f EtcdStore, following: Following<'f>) -> Self {
        Self {
            etcd,
            following,
            failures: 0,
            last: ModRevision(0),
            absent: BTreeSet::new(),
            corrupt: SortedMap::default(),
            contact: Contact::default(),
            refused_watch: None,
            lists_only: 0,
        }
    }

    /// List, watch, back off, without an end.
    async fn run(&mut self) {
        loop {
            let end = match self.list().await {
                Ok(_) if self.lists_only > 0 => {
                    self.lists_only = self.lists_only.saturating_sub(1);
                    self.note_liveness();
                    WatchEnd::BackOff
                }
                Ok(listed) => self.watch(listed).await,
                Err(error) => {
                    self.lose(&error);
                    WatchEnd::BackOff
                }
            };
            if end == WatchEnd::BackOff {
                self.failures = self.failures.saturating_add(1);
                let now = self.following.host.now();
                self.following.host.sleep(backoff(self.failures, self.following.instance, now)).await;
            }
        }
    }

    /// Reads all keys, page by page, as they were at one revision. That revision.
    async fn list(&mut self) -> Result<ModRevision, NoResponse> {
        let known = self.following.last_known();
        let mut policy = ReplacePolicy::IfNewer;
        let mut found = BTreeSet::new();
        let mut at = ModRevision(0);
        let mut page = self.etcd.list(None, at);
        loop {
            let response: RangeResponse = decode(&self.following.host.grpc(&page).await)?;
            if at == ModRevision(0) {
                at = revision_of(response.header.as_ref());
                if at < known {
                    policy = ReplacePolicy::Always;
                    self.last = ModRevision(0);
                }
            }
            for key in &response.kvs {
                found.extend(self.apply(key, policy));
            }
            match response.kvs.last() {
                Some(last) if response.more => page = self.etcd.list(Some(&last.key), at),
                _ => break,
            }
        }
        self.last = self.last.max(at);
        self.absent.clear();
        self.absent.extend((0..self.following.deployments.all().len()).filter(|index| !found.contains(index)));
        Ok(at)
    }

    /// Takes over what is written after `listed`, and asks once a heartbeat whether the stream still brings it.
    async fn watch(&mut self, listed: ModRevision) -> WatchEnd {
        let (mut is_begun, mut openings) = (false, 1_u32);
        let (mut failed_heartbeats, mut missed) = (0_u32, 0_u32);
        let mut watch = Watch {
            stream: self.following.host.grpc_stream(&self.etcd.watch(listed)),
            heartbeat_due: self.following.host.sleep(HEARTBEAT),
            heartbeat: None,
            creation: None,
        };
        self.note_liveness();
        self.create_next(&mut watch);
        loop {
            match watch.next().await {
                WatchEvent::Message(Some(message)) => {
                    missed = 0;
                    match WatchResponse::decode(message.as_slice()) {
                        // What was missed is compacted away: only the keys themselves are left to read.
                        Ok(response) if response.canceled && response.compact_revision != 0 => {
                            self.failures = 0;
                            return WatchEnd::ListAgain;
                        }
                        Ok(response) if !response.canceled => {
                            is_begun = true;
                            self.failures = 0;
                            self.refused_watch = None;
                            response.events.iter().for_each(|event| self.on_event(event));
                            self.create_next(&mut watch);
                        }
                        Ok(response) => {
                            if response.created {
                                self.on_refused_watch(response.cancel_reason);
                            }
                            return WatchEnd::BackOff;
                        }
                        Err(_) => return WatchEnd::BackOff,
                    }
                }
                // A member that is down: the next attempt goes to another one, without a list in between that would
                // change turns.
                WatchEvent::Message(None) if !is_begun && openings < OPENINGS => {
                    openings = openings.saturating_add(1);
                    watch.stream = self.following.host.grpc_stream(&self.etcd.watch(listed));
                }
                WatchEvent::Message(None) => return WatchEnd::BackOff,
                WatchEvent::HeartbeatDue => {
                    watch.heartbeat_due = self.following.host.sleep(HEARTBEAT);
                    self.send_heartbeat(&mut watch);
                    self.create_next(&mut watch);
                }
                WatchEvent::Heartbeat(reply) => match decode::<RangeResponse>(&reply) {
                    Ok(response) => {
                        failed_heartbeats = 0;
                        if response.kvs.iter().any(|key| number(key.mod_revision) > self.last) {
                            missed = missed.saturating_add(1);
                        }
                        let went_back = revision_of(response.header.as_ref()) < listed;
                        if went_back || response.more || missed >= MISSED {
                            return WatchEnd::ListAgain;
                        }
                        for key in &response.kvs {
                            self.apply(key, ReplacePolicy::IfNewer);
                        }
                        self.note_liveness();
                    }
                    Err(error) => {
                        failed_heartbeats = failed_heartbeats.saturating_add(1);
                        if failed_heartbeats < FAILED_HEARTBEATS {
                            self.send_heartbeat(&mut watch);
                        } else {
                            self.lose(&error);
                        }
                    }
                },
                WatchEvent::Created(index, reply) => {
                    if self.on_created(index, &reply) {
                        self.create_next(&mut watch);
                    }
                }
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        let Some(key) = &event.kv else { return };
        if event.r#type == i32::from(EventType::Delete) {
            self.last = self.last.max(number(key.mod_revision));
            // The record was removed, not the deployment: it gets one again, from what is known here.
            if let Some((index, _)) =
                self.etcd.name_of(&key.key).and_then(|name| self.following.deployments.named(name))
            {
                self.absent.insert(index);
            }
        } else if let Some(index) = self.apply(key, ReplacePolicy::IfNewer) {
            self.absent.remove(&index);
        }
    }

    /// Asks for what was written since the last write that is known, unless that is being asked already.
    fn send_heartbeat(&self, watch: &mut Watch) {
        if watch.heartbeat.is_none() {
            watch.heartbeat = Some(self.following.host.grpc(&self.etcd.list_newer(self.last)));
        }
    }

    /// Gives one deployment its key, made of what is known of it here, unless another Envoy does.
    fn create_next(&self, watch: &mut Watch) {
        if watch.creation.is_some() {
            return;
        }
        let Some((index, deployment)) =
            self.absent.first().and_then(|index| Some((*index, self.following.deployments.get(*index)?)))
        else {
            return;
        };
        let Ok(loaded) = self.following.load(deployment) else { return };
        let put = self.etcd.swap(&deployment.name, ModRevision(0), &loaded.state.knowing(&deployment.colours));
        watch.creation = Some((index, self.following.host.grpc(&put)));
    }

    /// Takes what became of a creation. Whether the next one may follow at once.
    fn on_created(&mut self, index: DeploymentIndex, reply: &GrpcReply) -> bool {
        let Some(deployment) = self.following.deployments.get(index) else { return false };
        // Without an answer it is tried again at the next heartbeat: if it was carried out, it is found there.
        let response = match decode::<TxnResponse>(reply) {
            Ok(response) => response,
            Err(error) => {
                if error.is_refused() {
                    note_refusal(self.etcd, self.following.host, deployment, &error.why);
                }
                return false;
            }
        };
        clear_refusal(self.etcd, self.following.host, deployment);
        let range = response.responses.first().and_then(|response| response.range.as_ref());
        match (response.succeeded, range.and_then(|range| range.kvs.first())) {
            (true, _) => {
                if let Ok(loaded) = self.following.load(deployment) {
                    let mod_revision = revision_of(response.header.as_ref());
                    let state = loaded.state.knowing(&deployment.colours);
                    self.following.take_over((index, deployment), &state, mod_revision, ReplacePolicy::IfNewer);
                }
            }
            (false, Some(key)) => {
                self.apply(key, ReplacePolicy::IfNewer);
            }
            // It was removed again in between.
            (false, None) => return false,
        }
        self.absent.remove(&index);
        true
    }

    /// Takes over what a key holds, whichever call brought it. The deployment whose key it is, if there is one.
    fn apply(&mut self, key: &KeyValue, policy: ReplacePolicy) -> Option<DeploymentIndex> {
        let mod_revision = number(key.mod_revision);
        self.last = self.last.max(mod_revision);
        let (index, deployment) = self.following.deployments.named(self.etcd.name_of(&key.key)?)?;
        match State::decode(&key.value) {
            Some(state) => self.following.take_over((index, deployment), &state, mod_revision, policy),
            None if self.corrupt.insert(index, mod_revision) == Some(mod_revision) => {}
            None => self
                .following
                .warn(deployment, "the value in etcd is not a state: it is ignored until the next change replaces it"),
        }
        Some(index)
    }

    fn note_liveness(&mut self) {
        self.contact.note(self.etcd, self.following.host);
    }

    fn lose(&mut self, error: &NoResponse) {
        self.contact.lose(self.etcd, self.following.host, error);
    }

    /// Lists bring what it would have brought. It is seldom tried again: of each stream that is given up the SDK keeps an
    /// entry.
    fn on_refused_watch(&mut self, why: String) {
        self.lists_only = LISTS_ONLY;
        if self.refused_watch.as_ref() != Some(&why) {
            self.following
                .host
                .warn(&format!("bluegreen: etcd refuses the watch: {why}: the fleet's changes are read once a second"));
            self.refused_watch = Some(why);
        }
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self) -> WatchEvent {
        let Self { stream, heartbeat_due, heartbeat, creation } = self;
        let message = async { WatchEvent::Message(stream.next().await) };
        let due = async {
            heartbeat_due.await;
            WatchEvent::HeartbeatDue
        };
        let beat = async {
            let Some(reply) = heartbeat.as_mut() else { return pending().await };
            let reply = reply.await;
            *heartbeat = None;
            WatchEvent::Heartbeat(reply)
        };
        let created = async {
            let Some((index, reply)) = creation.as_mut() else { return pending().await };
            let (index, reply) = (*index, reply.await);
            *creation = None;
            WatchEvent::Created(index, reply)
        };
        future::or(future::or(message, due), future::or(beat, created)).await
    }
}

#[cfg(test)]
mod tests;
