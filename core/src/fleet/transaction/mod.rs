//! One change in the fleet, from the first call to its store to the certainty of what became of it.
//!
//! First the state is read. A store that has lost its quorum refuses here, before anything is sent that could take effect
//! later. Then the state that was decided on is put there, on condition that the key's last write is
//! still the one that was read; else the winner's state comes back and is decided on anew.
//!
//! An answer to the put can get lost, and the put be carried out all the same, even later. Then it is sent again: its
//! condition lets only one of the two succeed, and the answer to the other shows the state that came of it. A writer that
//! gives up fences the key: the state from before is put there on the same condition. Of all these puts only one can ever
//! succeed, whichever comes first, so an answer to the fence settles what became of the others.
//!
//! Of many who write at once each round of puts lets one through, and all others have to go again: with n of them that is
//! n²/2 puts, each with the whole state in its answer. So a writer that has lost a few times waits for its turn among those
//! on the same thread, of which one goes after the other; where a lost race is dear, it waits at once when there is a crowd.
//!
//! What the store refuses is no lost answer ([`refusal`](super::refusal)): the writer is told at once, with the store's reason. Only that it is
//! out of space leaves to be seen whether the change was made, which the key tells.
//!
//! All of this has an end, whatever the store does: the [`deadline`](super::deadline).

use std::time::Duration;

use futures_lite::future;

use super::deadline::{CallKind, Deadline};
use super::refusal::{NoResponse, Refusal};
use super::store::{FleetStore, KeyState, Put, PutReply, Read, Turn};
use crate::host::Host;
use crate::model::name::DeploymentName;
use crate::state::State;
use crate::store::record::{Loaded, ModRevision, ReplacePolicy};

/// The fleet's state, as far as a change has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The state.
    pub state: State,
    /// The write that it comes from; none where the key holds no state.
    pub mod_revision: Option<ModRevision>,
    /// Whether it takes the place of what is known here.
    pub policy: ReplacePolicy,
    /// The key's last write, whatever it put there.
    expected: ModRevision,
}

/// The end of a change that met no obstacle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It was made: the state that it made, and the fleet's since, which others may have changed again.
    Made(Box<State>, Box<Current>),
    /// Nothing had to be written.
    Unchanged(Box<Current>),
}

/// The end of a change that was not made, or whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnError<E> {
    /// The decision was against it, on this state.
    Rejected(E, Box<Current>),
    /// Nothing was changed, and nothing will be; this is why.
    Aborted(NotCommitted),
    /// It is not known whether it was made.
    Indeterminate,
}

/// Why it is certain that nothing was changed: a clause for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCommitted {
    /// The store did not say what the key holds, for this reason; so nothing was sent.
    Unread(String),
    /// The change could not be sent, for this reason.
    Unsent(String),
    /// The store refused it, for this reason.
    Refused(String),
    /// The time was over before the change could be sent.
    Late,
    /// There was no answer to the change, for this reason; an answer to its fence was.
    Fenced(String),
}

/// A change under way.
struct Transaction<'t> {
    fleet: &'t dyn FleetStore,
    host: &'t dyn Host,
    name: &'t DeploymentName,
    /// What was known here before the store was asked: the state to start from where the key holds none, and its write, which
    /// the store knows too, unless it has gone back in time.
    known: Loaded,
    deadline: Deadline,
    policy: ReplacePolicy,
}

/// A put, and what it was to replace.
struct Attempt {
    expected: ModRevision,
    before: State,
    after: State,
}

/// What is left of a put whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// The change, at its place in the history.
    Made,
    /// Nothing, and so much was changed since that nothing would be left if it was made.
    Forgotten,
}

/// What a put came to.
enum PutEnd {
    Made(Committed),
    /// Another writer was faster: this is the state since.
    Lost(Box<Current>),
}

/// An end that does not depend on the decision.
enum Stopped {
    Aborted(NotCommitted),
    Indeterminate,
}

/// The most calls of one kind that may fail in a row, however fast: one for each member of the store that may be down,
/// and more.
const FAILURES: u32 = 6;

/// How often a fence is tried.
const FENCES: u32 = 3;

/// How often a change is decided on before it has to wait for its turn. A few operators at once do not come so far.
const RACES: u32 = 4;

/// Changes a deployment's state in the fleet: `decide` sees each state that might be replaced, and gives the next one, or `None`
/// when nothing has to be written. `known` is what is known here. `time_left` is how long it may take, and afterwards how
/// much of that is left.
///
/// # Errors
/// What `decide` rejects, why nothing was changed, or that the outcome is unknown.
pub async fn commit<E>(
    fleet: &dyn FleetStore,
    host: &dyn Host,
    name: &DeploymentName,
    known: Loaded,
    time_left: &mut Duration,
    decide: &mut dyn FnMut(&State) -> Result<Option<State>, E>,
) -> Result<Committed, TxnError<E>> {
    let deadline = Deadline::after(*time_left, host.moment());
    let mut transaction = Transaction { fleet, host, name, known, deadline, policy: ReplacePolicy::IfNewer };
    let (_under_way, others) = fleet.turns().begin();
    let mut turn: Option<Turn> = None;
    if others >= fleet.crowd() {
        turn = Some(transaction.turn().await?);
    }
    let mut current = transaction.read(CallKind::Read).await?;
    let mut races: u32 = 1;
    loop {
        if races > RACES && turn.is_none() {
            turn = Some(transaction.turn().await?);
            // The state that it lost to is an old one by now.
            current = transaction.read(CallKind::Put).await?;
        }
        let after = match decide(&current.state) {
            Ok(Some(after)) => after,
            Ok(None) => return Ok(Committed::Unchanged(current)),
            Err(rule) => {
                *time_left = deadline.time_left(host.moment());
                return Err(TxnError::Rejected(rule, current));
            }
        };
        match transaction.put(current, after).await? {
            PutEnd::Made(committed) => return Ok(committed),
            PutEnd::Lost(newer) => current = newer,
        }
        races = races.saturating_add(1);
    }
}

// === impl Transaction ===

impl Transaction<'_> {
    /// The fleet's state at this moment. The first call has the time of its kind, and those that repeat it that of a read.
    async fn read(&mut self, kind: CallKind) -> Result<Box<Current>, Stopped> {
        let mut within = self.grant(kind).ok_or(NotCommitted::Late)?;
        let mut failures: u32 = 0;
        loop {
            match self.fleet.read(self.host, self.name, within).await {
                Ok(Read { key, at }) => {
                    // The answer knows every write that anybody was told of before it was asked for.
                    if at < self.known.mod_revision.unwrap_or_default() {
                        self.policy = ReplacePolicy::Always;
                    }
                    return Ok(self.current(key));
                }
                Err(NoResponse { why, refusal: Some(Refusal::Final) }) => return Err(NotCommitted::Refused(why).into()),
                Err(NoResponse { why, .. }) => {
                    failures = failures.saturating_add(1);
                    within =
                        self.grant(CallKind::Read).filter(|_| failures < FAILURES).ok_or(NotCommitted::Unread(why))?;
                }
            }
        }
    }

    /// Waits for a turn among others, for as long as there is time for a put.
    async fn turn(&self) -> Result<Turn, Stopped> {
        let left = self.deadline.time_for(CallKind::Put, self.host.moment()).ok_or(NotCommitted::Late)?;
        let late = self.host.sleep(left);
        let turn = future::or(async { Some(self.fleet.turns().turn(self.host).await) }, async {
            late.await;
            None
        });
        Ok(turn.await.ok_or(NotCommitted::Late)?)
    }

    /// Puts the state there that was decided on.
    async fn put(&self, current: Box<Current>, after: State) -> Result<PutEnd, Stopped> {
        let attempt = Attempt { expected: current.expected, before: current.state, after };
        let mut within = self.grant(CallKind::Put).ok_or(NotCommitted::Late)?;
        // Calls without a success, and those of them that may be carried out all the same.
        let (mut failures, mut lost): (u32, u32) = (0, 0);
        loop {
            let NoResponse { why: error, refusal } = match self.put_once(&attempt, &attempt.after, within).await {
                Ok(PutReply::Made(at)) => return Ok(PutEnd::Made(self.made(&attempt, at))),
                Ok(PutReply::Lost(key)) => {
                    return match attempt.evidence_in(&key).filter(|_| lost > 0) {
                        Some(Evidence::Made) => Ok(PutEnd::Made(self.found(&attempt, key))),
                        Some(Evidence::Forgotten) => Err(Stopped::Indeterminate),
                        None => Ok(PutEnd::Lost(self.current(key))),
                    };
                }
                // As before the put.
                Err(NoResponse { why, refusal: Some(Refusal::Unsent) }) if failures == 0 => {
                    return Err(NotCommitted::Unsent(why).into());
                }
                Err(NoResponse { why, refusal: Some(Refusal::Final) }) if lost == 0 => {
                    return Err(NotCommitted::Refused(why).into());
                }
                Err(NoResponse { why, refusal: Some(Refusal::OutOfSpace) }) => {
                    return self.look(&attempt, lost > 0, why).await.map(PutEnd::Made);
                }
                Err(no_response) => no_response,
            };
            failures = failures.saturating_add(1);
            lost = lost.saturating_add(u32::from(refusal.is_none()));
            // An election takes about a second, and a member that is down fails at once.
            match self.grant(CallKind::Put).filter(|_| failures < FAILURES) {
                Some(again) => within = again,
                None if lost == 0 && refusal == Some(Refusal::Late) => return Err(NotCommitted::Late.into()),
                None if lost == 0 => return Err(NotCommitted::Refused(error).into()),
                None => return self.fence(attempt, error).await.map(PutEnd::Made),
            }
        }
    }

    /// Finds out about a put whose answers were lost, the last for the reason `error`, and stops it if it was not made.
    async fn fence(&self, attempt: Attempt, error: String) -> Result<Committed, Stopped> {
        for _ in 0..FENCES {
            let within = self.grant(CallKind::Fence).ok_or(Stopped::Indeterminate)?;
            let key = match self.put_once(&attempt, &attempt.before, within).await {
                Ok(PutReply::Made(_)) => return Err(NotCommitted::Fenced(error).into()),
                Ok(PutReply::Lost(key)) => key,
                // It would be refused again, and only another write settles what became of the put.
                Err(NoResponse { refusal: Some(Refusal::Final), .. }) => return Err(Stopped::Indeterminate),
                Err(NoResponse { why, refusal: Some(Refusal::OutOfSpace) }) => {
                    return self.look(&attempt, true, why).await;
                }
                Err(_) => continue,
            };
            return match attempt.evidence_in(&key) {
                Some(Evidence::Made) => Ok(self.found(&attempt, key)),
                Some(Evidence::Forgotten) => Err(Stopped::Indeterminate),
                None => Err(NotCommitted::Fenced(error).into()),
            };
        }
        Err(Stopped::Indeterminate)
    }

    /// Finds out about a put that the store answered with `why`, that it is out of space: the one that takes the last space is carried out.
    /// `is_lost`: other calls of the same put got no answer, and may be carried out yet.
    async fn look(&self, attempt: &Attempt, is_lost: bool, why: String) -> Result<Committed, Stopped> {
        for _ in 0..FENCES {
            let within = self.grant(CallKind::Fence).ok_or(Stopped::Indeterminate)?;
            let Ok(Read { key, .. }) = self.fleet.read(self.host, self.name, within).await else { continue };
            if key.mod_revision == attempt.expected {
                return Err(if is_lost { Stopped::Indeterminate } else { NotCommitted::Refused(why).into() });
            }
            return match attempt.evidence_in(&key) {
                Some(Evidence::Made) => Ok(self.found(attempt, key)),
                Some(Evidence::Forgotten) => Err(Stopped::Indeterminate),
                None => Err(NotCommitted::Refused(why).into()),
            };
        }
        Err(Stopped::Indeterminate)
    }

    /// How long a call may take; none when it is too late for one.
    fn grant(&self, kind: CallKind) -> Option<Duration> {
        self.deadline.grant(kind, self.fleet.timeout(), self.host.moment())
    }

    /// Puts a state there in place of the one that the attempt was to replace.
    async fn put_once(
        &self,
        attempt: &Attempt,
        state: &State,
        within: Duration,
    ) -> Result<PutReply<KeyState>, NoResponse> {
        let put = Put { name: self.name, expected: attempt.expected, state, within };
        self.fleet.put_if(self.host, put).await
    }

    fn current(&self, key: KeyState) -> Box<Current> {
        let mod_revision = key.state.is_some().then_some(key.mod_revision);
        let state = key.state.unwrap_or_else(|| self.known.state.clone());
        Box::new(Current { state, mod_revision, policy: self.policy, expected: key.mod_revision })
    }

    fn made(&self, attempt: &Attempt, mod_revision: ModRevision) -> Committed {
        let key = KeyState { mod_revision, state: Some(attempt.after.clone()) };
        self.found(attempt, key)
    }

    /// The change was made, and this is what the key holds since.
    fn found(&self, attempt: &Attempt, key: KeyState) -> Committed {
        Committed::Made(Box::new(attempt.after.clone()), self.current(key))
    }
}

// === impl Attempt ===

impl Attempt {
    /// What the key shows of the change; none where it was not made. A change is known by its revision, its time and its
    /// author; a note that makes no revision by itself.
    fn evidence_in(&self, key: &KeyState) -> Option<Evidence> {
        let state = key.state.as_ref()?;
        if self.after.revision == self.before.revision {
            let recorded = |state: &State| (state.smoke.clone(), state.initial, state.asked);
            let is_recorded = recorded(state) == recorded(&self.after);
            return is_recorded.then_some(Evidence::Made);
        }
        let made = self.after.history.newest();
        if state.history.changes().any(|change| Some(change) == made) {
            return Some(Evidence::Made);
        }
        let oldest = state.history.changes().last().map(|change| change.revision);
        oldest.is_some_and(|oldest| oldest > self.after.revision).then_some(Evidence::Forgotten)
    }
}

// === impl Stopped ===

impl From<NotCommitted> for Stopped {
    fn from(why: NotCommitted) -> Self {
        Self::Aborted(why)
    }
}

impl<E> From<Stopped> for TxnError<E> {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Aborted(why) => Self::Aborted(why),
            Stopped::Indeterminate => Self::Indeterminate,
        }
    }
}

// === impl NotCommitted ===

impl NotCommitted {
    /// A clause for the caller, about the store that is called so.
    pub fn describe(&self, called: &str) -> String {
        match self {
            Self::Unread(why) => format!("{called} did not give the state ({why})"),
            Self::Unsent(why) => format!("the change could not be sent to {called} ({why})"),
            Self::Refused(why) => format!("{called} refused it ({why})"),
            Self::Late => format!(
                "{called} was so slow, or others wrote so often, that there was no time left to send the change"
            ),
            Self::Fenced(why) => format!(
                "{called} did not answer when the change was sent ({why}), and has confirmed since that it was not made"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
