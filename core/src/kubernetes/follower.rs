//! Following the objects: list them all, then ask in windows what happens to them, back off after a failure.
//!
//! A call through Envoy has its answer when all of it is there, so a watch that never ends would never be heard. A watch that the API
//! server ends after a second is: one request a second, whose answer is empty as long as nothing happens.
//!
//! A watch is answered from the API server's memory, also when it has lost its etcd. So every [`LIST_EVERY`] all objects are
//! listed again, which takes a quorum.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::object::{Object, Record, mod_revision};
use super::refusal::no_response;
use super::store::{KubernetesStore, Page, call, refusal_of};
use crate::deployment::DeploymentIndex;
use crate::fleet::following::{Following, backoff};
use crate::fleet::liveness::Contact;
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{FleetStore as _, Put, PutReply, clear_refusal, note_refusal};
use crate::host::http::HttpReply;
use crate::json::{self, FromJson};
use crate::store::record::{ModRevision, ReplacePolicy};

/// The one filter instance of an Envoy that follows the fleet for all.
struct Follower<'f> {
    kubernetes: &'f KubernetesStore,
    following: Following<'f>,
    /// Attempts in a row that failed.
    failures: u32,
    /// Deployments whose object has no state yet, or that have no object.
    stateless: BTreeSet<DeploymentIndex>,
    /// How many of them had their turn, so that one that is always refused keeps no other one waiting.
    turns: usize,
    /// The last write of each object that held something else than a state, each of which is worth one warning.
    foreign: BTreeMap<DeploymentIndex, ModRevision>,
    contact: Contact,
}

/// What a window brought.
enum Window {
    /// What happened, and the write from which the next window goes on.
    Events(ModRevision),
    /// What was missed is forgotten: only the objects themselves are left to read.
    ListAgain,
}

/// One line of a watch.
#[derive(FromJson)]
struct Event {
    r#type: String,
    object: Value,
}

/// How often all objects are listed, at least.
pub const LIST_EVERY: Duration = Duration::from_secs(10);

/// So many objects get their state between two windows: at the first start of a fleet none has one.
const AT_A_TIME: usize = 16;

/// From so many failures in a row on the API server counts as out of reach.
const FAILURES: u32 = 3;

/// Follows the fleet for as long as this instance leads; waits for it otherwise.
pub async fn follow(kubernetes: &KubernetesStore, following: Following<'_>) {
    let mut follower = Follower {
        kubernetes,
        following,
        failures: 0,
        stateless: BTreeSet::new(),
        turns: 0,
        foreign: BTreeMap::new(),
        contact: Contact::default(),
    };
    loop {
        following.while_it_leads(follower.run()).await;
        follower.failures = 0;
        follower.contact = Contact::default();
        kubernetes.followed.borrow_mut().clear();
    }
}

// === impl Follower ===

impl Follower<'_> {
    /// List, ask in windows, back off, without an end.
    async fn run(&mut self) {
        let host = self.following.host;
        loop {
            if let Err(error) = self.list_and_watch().await {
                self.failures = self.failures.saturating_add(1);
                if error.is_refused() || self.failures >= FAILURES {
                    self.contact.lose(self.kubernetes, host, &error);
                }
                host.sleep(backoff(self.failures, self.following.instance, host.now())).await;
            }
        }
    }

    /// Lists all objects, and takes over what happens to them until it is time to list them again.
    async fn list_and_watch(&mut self) -> Result<(), NoResponse> {
        let host = self.following.host;
        let mut last = self.list().await?;
        self.on_sign_of_life();
        let until = host.moment().plus(LIST_EVERY);
        while host.moment() < until {
            self.give_states().await;
            match self.window(last).await? {
                Window::Events(at) => last = at,
                Window::ListAgain => return Ok(()),
            }
            self.on_sign_of_life();
        }
        Ok(())
    }

    fn on_sign_of_life(&mut self) {
        self.failures = 0;
        self.contact.note(self.kubernetes, self.following.host);
    }

    /// Reads all objects, page by page, as they were at one write. That write.
    async fn list(&mut self) -> Result<ModRevision, NoResponse> {
        let known = self.following.last_known();
        let (mut r#continue, mut policy) = (String::new(), ReplacePolicy::IfNewer);
        let mut found = BTreeSet::new();
        loop {
            let request = self.kubernetes.list(&r#continue);
            let answer = call(self.following.host, &request).await?;
            let page = Page::read(&answer.1).filter(|_| answer.0 < 300);
            let Page { items, at, r#continue: next } = page.ok_or_else(|| refusal_of(&answer, request.timeout))?;
            // The store has gone back in time, as after a restored backup.
            if at < known {
                policy = ReplacePolicy::Always;
            }
            for object in items.iter().filter_map(Object::read) {
                found.insert(object.name.clone());
                self.apply(object, policy);
            }
            if next.is_empty() {
                self.kubernetes.followed.borrow_mut().retain(|name, _| found.contains(name));
                let all = self.following.deployments.all().iter().enumerate();
                let missing = all.filter(|(_, deployment)| !found.contains(deployment.name.as_str()));
                self.stateless.extend(missing.map(|(index, _)| index));
                return Ok(at);
            }
            r#continue = next;
        }
    }

    /// Asks for what happened after `last`.
    async fn window(&mut self, last: ModRevision) -> Result<Window, NoResponse> {
        let request = self.kubernetes.window(last);
        let reply = self.following.host.http(&request).await;
        let HttpReply::Answered { status: 200, body } = &reply else {
            if matches!(reply, HttpReply::Answered { status: 410, .. }) {
                return Ok(Window::ListAgain);
            }
            return Err(no_response(&reply, request.timeout));
        };
        let mut at = last;
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            // An answer that was too long to be read whole ends in the middle of a line.
            let Ok(Event { r#type, object }) = json::from_slice(line) else { return Ok(Window::ListAgain) };
            let written = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(mod_revision);
            let Some(written) = written else { return Ok(Window::ListAgain) };
            at = at.max(written);
            match (r#type.as_str(), Object::read(&object)) {
                ("ADDED" | "MODIFIED", Some(object)) => self.apply(object, ReplacePolicy::IfNewer),
                // The record was removed, not the deployment: it gets one again, from what is known here.
                ("DELETED", Some(object)) => {
                    self.kubernetes.followed.borrow_mut().remove(&object.name);
                    self.stateless.extend(self.following.deployments.named(&object.name).map(|(index, _)| index));
                }
                ("BOOKMARK", _) => {}
                _ => return Ok(Window::ListAgain),
            }
        }
        Ok(Window::Events(at))
    }

    /// Takes over what an object holds, whichever answer brought it.
    fn apply(&mut self, object: Object, policy: ReplacePolicy) {
        let Some((index, deployment)) = self.following.deployments.named(&object.name) else { return };
        let mod_revision = object.mod_revision;
        match &object.record {
            Record::State(state) => {
                self.stateless.remove(&index);
                self.following.take_over((index, deployment), state, mod_revision, policy);
            }
            Record::Absent => {
                self.stateless.insert(index);
            }
            Record::Foreign if self.foreign.insert(index, mod_revision) == Some(mod_revision) => {}
            Record::Foreign => self.following.warn(
                deployment,
                "status.state of the BlueGreen object is not a state: it is ignored until the next change replaces it",
            ),
        }
        self.kubernetes.note(&object);
        self.kubernetes.followed.borrow_mut().insert(object.name.clone(), object);
    }

    /// Gives some of those that have none their state.
    async fn give_states(&mut self) {
        let count = self.stateless.len();
        let first = self.turns.checked_rem(count).unwrap_or_default();
        let due: Vec<_> = self.stateless.iter().copied().cycle().skip(first).take(count.min(AT_A_TIME)).collect();
        self.turns = self.turns.wrapping_add(due.len());
        for index in due {
            if self.give_state(index).await.is_err() {
                return;
            }
        }
    }

    /// Gives one deployment's object its state, made of what is known of it here, unless another Envoy does. The object is
    /// created where there is none. An error without an answer.
    async fn give_state(&mut self, index: DeploymentIndex) -> Result<(), NoResponse> {
        let Following { host, deployments, .. } = self.following;
        let Some(deployment) = deployments.get(index) else { return Ok(()) };
        let Ok(loaded) = self.following.load(deployment) else { return Ok(()) };
        let (name, timeout) = (&deployment.name, self.kubernetes.timeout);
        let state = loaded.state.knowing(&deployment.colours);
        let outcome = match self.kubernetes.object(host, name, timeout).await {
            Ok(object) if object.record == Record::Absent => {
                let expected = object.mod_revision;
                let put = Put { name, expected, state: &state, within: timeout };
                self.kubernetes.put_if(host, put).await.map(|reply| match reply {
                    PutReply::Made(written) => {
                        self.following.take_over((index, deployment), &state, written, ReplacePolicy::IfNewer);
                    }
                    // The next window tells what it was.
                    PutReply::Lost(_) => {}
                })
            }
            Ok(object) => {
                self.apply(object, ReplacePolicy::IfNewer);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.stateless.remove(&index);
                clear_refusal(self.kubernetes, host, deployment);
            }
            // Without an answer it is tried again after the next window: if it was carried out, it is found there.
            Err(error) if error.is_refused() => note_refusal(self.kubernetes, host, deployment, &error.why),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
