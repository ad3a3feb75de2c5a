//! Following the fleet, as kube's watcher does: list all keys, watch them from there, back off after a failure.
//!
//! A stream can die without a sound, and a member of etcd that has lost the others keeps its streams open and says
//! nothing on them. So once in each [`HEARTBEAT`] a read that takes a quorum asks for keys written since the last one that
//! is known. Usually there are none. A write that the stream had not brought is taken from there; two in a row, and the
//! stream is given up for a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::Duration;

use futures_lite::future;
use prost::Message;

use super::liveness::{self, HEARTBEAT};
use super::messages::{Event, EventType, KeyValue, RangeResponse, TxnResponse, WatchResponse};
use super::refusal::{self, NoResponse};
use super::store::{EtcdStore, decode, number, revision_of};
use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::host::grpc::{GrpcReply, GrpcStream};
use crate::host::reply::Reply;
use crate::host::{Host, next_tick};
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::lease::{FOLLOWER_LEASE, Instance};
use crate::store::record::{self, Effect, ModRevision, ReplacePolicy};
use crate::workers::publish::publish;
use crate::workers::worker::Worker;

/// The one filter instance of an Envoy that follows the fleet for all.
struct Follower<'f> {
    etcd: &'f EtcdStore,
    host: &'f dyn Host,
    deployments: &'f Deployments,
    instance: Instance,
    worker: &'f Worker,
    /// Attempts in a row that failed.
    failures: u32,
    /// The last write of all that came.
    last: ModRevision,
    /// Deployments that have no key yet.
    absent: BTreeSet<DeploymentIndex>,
    /// The last write of each key that held something else than a state, each of which is worth one warning.
    corrupt: BTreeMap<DeploymentIndex, ModRevision>,
    is_live: Option<bool>,
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

/// How long to wait after a failure: the first time, and at most. In between it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Follows the fleet for as long as this instance holds the lease under this key; waits for it otherwise.
pub async fn follow(
    etcd: &EtcdStore,
    host: &dyn Host,
    deployments: &Deployments,
    (instance, worker): (Instance, &Worker),
    lease: &str,
) {
    let mut follower = Follower::new(etcd, host, deployments, instance, worker);
    let holds_lease = || instance.holds(host.store(), lease, FOLLOWER_LEASE, host.now());
    loop {
        next_tick(host).await;
        if !holds_lease() {
            continue;
        }
        let lease_lost = async {
            loop {
                next_tick(host).await;
                if !holds_lease() {
                    return;
                }
            }
        };
        future::or(lease_lost, follower.run()).await;
        follower.failures = 0;
        follower.is_live = None;
    }
}

// === impl Follower ===

impl<'f> Follower<'f> {
    fn new(
        etcd: &'f EtcdStore,
        host: &'f dyn Host,
        deployments: &'f Deployments,
        instance: Instance,
        worker: &'f Worker,
    ) -> Self {
        Self {
            etcd,
            host,
            deployments,
            instance,
            worker,
            failures: 0,
            last: ModRevision(0),
            absent: BTreeSet::new(),
            corrupt: BTreeMap::new(),
            is_live: None,
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
                let now = self.host.now();
                self.host.sleep(backoff(self.failures, self.instance, now)).await;
            }
        }
    }

    /// Reads all keys, page by page, as they were at one revision. That revision.
    async fn list(&mut self) -> Result<ModRevision, NoResponse> {
        let known = self.deployments.all().iter().filter_map(|deployment| self.known(deployment));
        let known = known.max().unwrap_or_default();
        let mut policy = ReplacePolicy::IfNewer;
        let mut found = BTreeSet::new();
        let mut at = ModRevision(0);
        let mut page = self.etcd.list(None, at);
        loop {
            let response: RangeResponse = decode(&self.host.grpc(&page).await)?;
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
        self.absent.extend((0..self.deployments.all().len()).filter(|index| !found.contains(index)));
        Ok(at)
    }

    /// Takes over what is written after `listed`, and asks once a heartbeat whether the stream still brings it.
    async fn watch(&mut self, listed: ModRevision) -> WatchEnd {
        let (mut is_begun, mut openings) = (false, 1_u32);
        let (mut failed_heartbeats, mut missed) = (0_u32, 0_u32);
        let mut watch = Watch {
            stream: self.host.grpc_stream(&self.etcd.watch(listed)),
            heartbeat_due: self.host.sleep(HEARTBEAT),
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
                    watch.stream = self.host.grpc_stream(&self.etcd.watch(listed));
                }
                WatchEvent::Message(None) => return WatchEnd::BackOff,
                WatchEvent::HeartbeatDue => {
                    watch.heartbeat_due = self.host.sleep(HEARTBEAT);
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
            if let Some((index, _)) = self.etcd.name_of(&key.key).and_then(|name| self.deployments.named(name)) {
                self.absent.insert(index);
            }
        } else if let Some(index) = self.apply(key, ReplacePolicy::IfNewer) {
            self.absent.remove(&index);
        }
    }

    /// Asks for what was written since the last write that is known, unless that is being asked already.
    fn send_heartbeat(&self, watch: &mut Watch) {
        if watch.heartbeat.is_none() {
            watch.heartbeat = Some(self.host.grpc(&self.etcd.list_newer(self.last)));
        }
    }

    /// Gives one deployment its key, made of what is known of it here, unless another Envoy does.
    fn create_next(&self, watch: &mut Watch) {
        if watch.creation.is_some() {
            return;
        }
        let Some((index, deployment)) =
            self.absent.first().and_then(|index| Some((*index, self.deployments.get(*index)?)))
        else {
            return;
        };
        let Ok(loaded) = self.load(deployment) else { return };
        let put = self.etcd.put_if(&deployment.name, ModRevision(0), &loaded.state.knowing(&deployment.colours));
        watch.creation = Some((index, self.host.grpc(&put)));
    }

    /// Takes what became of a creation. Whether the next one may follow at once.
    fn on_created(&mut self, index: DeploymentIndex, reply: &GrpcReply) -> bool {
        let Some(deployment) = self.deployments.get(index) else { return false };
        // Without an answer it is tried again at the next heartbeat: if it was carried out, it is found there.
        let response = match decode::<TxnResponse>(reply) {
            Ok(response) => response,
            Err(error) => {
                if error.refusal.is_some() {
                    refusal::note(self.host, deployment, &error.why);
                }
                return false;
            }
        };
        refusal::clear(self.host, deployment);
        let range = response.responses.first().and_then(|response| response.range.as_ref());
        match (response.succeeded, range.and_then(|range| range.kvs.first())) {
            (true, _) => {
                if let Ok(loaded) = self.load(deployment) {
                    let mod_revision = revision_of(response.header.as_ref());
                    let state = loaded.state.knowing(&deployment.colours);
                    self.replace(index, deployment, &state, mod_revision, ReplacePolicy::IfNewer);
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
        let (index, deployment) = self.deployments.named(self.etcd.name_of(&key.key)?)?;
        match State::decode(&key.value) {
            Some(state) => self.replace(index, deployment, &state, mod_revision, policy),
            None if self.corrupt.insert(index, mod_revision) == Some(mod_revision) => {}
            None => self
                .warn(deployment, "the value in etcd is not a state: it is ignored until the next change replaces it"),
        }
        Some(index)
    }

    /// Takes a state over, and makes it known if it is news.
    fn replace(
        &self,
        index: DeploymentIndex,
        deployment: &Deployment,
        state: &State,
        mod_revision: ModRevision,
        policy: ReplacePolicy,
    ) {
        match record::replace(self.host.store(), &deployment.name, state, mod_revision, policy) {
            Ok(applied) if applied.effect == Effect::None => {}
            Ok(applied) => publish(self.host, self.worker, index, deployment, &applied),
            Err(error) => self.warn(deployment, &error.to_string()),
        }
    }

    /// The write of the fleet's store that a deployment's state comes from.
    fn known(&self, deployment: &Deployment) -> Option<ModRevision> {
        self.load(deployment).ok().and_then(|loaded| loaded.mod_revision)
    }

    fn load(&self, deployment: &Deployment) -> Result<record::Loaded, crate::store::StoreError> {
        record::load(self.host.store(), &deployment.name, deployment.initial, self.host.now())
    }

    fn note_liveness(&mut self) {
        liveness::note(self.host.store(), self.etcd, self.host.now());
        if self.is_live.replace(true) != Some(true) {
            self.host.info("bluegreen: up to date with etcd");
        }
    }

    fn lose(&mut self, error: &NoResponse) {
        liveness::lose(self.host.store(), self.etcd);
        if self.is_live.replace(false) != Some(false) {
            let what =
                if error.refusal.is_some() { "etcd refuses to give the states" } else { "etcd cannot be reached" };
            let line = format!("bluegreen: {what}: {error}: the last known states stay in force");
            self.host.warn(&line);
        }
    }

    /// Lists bring what it would have brought. It is seldom tried again: of each stream that is given up the SDK keeps an
    /// entry.
    fn on_refused_watch(&mut self, why: String) {
        self.lists_only = LISTS_ONLY;
        if self.refused_watch.as_ref() != Some(&why) {
            self.host
                .warn(&format!("bluegreen: etcd refuses the watch: {why}: the fleet's changes are read once a second"));
            self.refused_watch = Some(why);
        }
    }

    fn warn(&self, deployment: &Deployment, why: &str) {
        self.host.warn(&format!("bluegreen: deployment={}: {why}", deployment.name));
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

/// The pause after so many failures, less up to a half: Envoys that lost etcd together must not come back together.
/// There is no randomness in the VM, so the part comes from what differs between them.
fn backoff(failures: u32, instance: Instance, now: Timestamp) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let full = FIRST_BACKOFF.saturating_mul(doubled).min(LONGEST_BACKOFF);
    let seed = instance.get() ^ now.as_millis().rotate_left(32);
    let part = xxhash_rust::xxh64::xxh64(&failures.to_le_bytes(), seed) >> 11;
    // 53 bits fit a double exactly.
    full.mul_f64(0.5 + 0.5 * (part as f64 / (1_u64 << 53) as f64))
}

#[cfg(test)]
mod tests;
