//! One change in the fleet, from the first call to etcd to the certainty of what became of it.
//!
//! First the key is read. That takes a quorum, so a minority of etcd's members refuses here, before anything is sent that
//! could take effect later. Then the state that was decided on is put there, on condition that the key's last write is
//! still the one that was read; else the winner's state comes back and is decided on anew.
//!
//! An answer to the put can get lost, and the put be carried out all the same, even later. Then it is sent again: its
//! condition lets only one of the two succeed, and the answer to the other shows the state that came of it. Who has to
//! give up fences the key: the state from before is put there on the same condition. Of all these puts only one can ever
//! succeed, whichever comes first, so an answer to the fence settles what became of the others.
//!
//! Of many who write at once each round of puts lets one through, and all others have to go again: with n of them that is
//! n²/2 puts, each with the whole state in its answer. So who has lost a few times waits for its turn among those on the
//! same thread, of which one goes after the other.
//!
//! All of this has an end, whatever etcd does: the [`deadline`](super::deadline).

use std::fmt;
use std::time::Duration;

use super::deadline::{Deadline, Stage};
use super::messages::{RangeResponse, ResponseHeader, TxnResponse};
use super::{Call, Fleet, Held, Reply, number};
use crate::model::name::DeploymentName;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::{ModRevision, Precedence};

/// A change under way.
#[derive(Clone, Debug)]
pub struct Transaction {
    fleet: Fleet,
    name: DeploymentName,
    /// The state to start from where the key holds none.
    fallback: State,
    /// The write that was known here before etcd was asked. Etcd knows it too, unless it has gone back in time.
    known: ModRevision,
    deadline: Deadline,
    failures: u32,
    /// How often it was decided on; more than once where others were quicker.
    races: u32,
    has_turn: bool,
    fences: u32,
    phase: Phase,
    precedence: Precedence,
}

/// What was asked last.
#[derive(Clone, Debug)]
enum Phase {
    Reading,
    Putting(Box<Draft>),
    Fencing(Box<Draft>),
}

/// A put whose answer is waited for.
#[derive(Clone, Debug)]
struct Draft {
    on: ModRevision,
    before: State,
    after: State,
    /// Whether it was sent before, and its answer lost.
    is_repeated: bool,
    /// Why the last answer was lost.
    lost: String,
}

/// What is left of a put whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    /// The change, at its place in the history.
    Made,
    /// Nothing, and so much was changed since that nothing would be left if it was made.
    Forgotten,
}

/// How a change goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// With this call, whose reply is waited for.
    Call(Call),
    /// With a decision on this state, which is the fleet's at this moment: [`Transaction::put`], or nothing at all.
    Decide(Box<Current>),
    /// Not before its turn: with [`Transaction::take_turn`] then.
    Queue,
    /// The change was made.
    Made(Box<Made>),
    /// Nothing was changed, and nothing will be; this is why.
    Unchanged(Unchanged),
    /// Nobody can say.
    Unknown,
}

/// Why it is certain that nothing was changed: a clause for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// Etcd did not say what the key holds, for this reason; so nothing was sent.
    Unread(String),
    /// The change could not be sent, for this reason.
    Unsent(String),
    /// The time was over before the change could be sent.
    Late,
    /// There was no answer to the change, for this reason; an answer to its fence was.
    Fenced(String),
}

/// The fleet's state, as far as this change has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// The state.
    pub state: State,
    /// The write that it comes from; none where the key holds no state.
    pub origin: Option<ModRevision>,
    /// Whether it takes the place of what is known here.
    pub precedence: Precedence,
    on: ModRevision,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The state that the change made.
    pub state: State,
    /// The fleet's state since, which others may have changed again.
    pub current: Current,
}

/// The most calls of one change that may fail in a row, however fast: one for each member of etcd that may be down, and
/// more.
const FAILURES: u32 = 6;

/// How often a fence is tried.
const FENCES: u32 = 3;

/// How often a change is decided on before it has to wait for its turn. A few operators at once do not come so far.
const RACES: u32 = 4;

// === impl Transaction ===

impl Transaction {
    /// Begins a change of a deployment whose state, as far as known here, is `fallback`, from the write `known`. It has
    /// come to its end when `time_left` is over.
    ///
    /// # Errors
    /// There is no time for it.
    pub fn begin(
        fleet: &Fleet,
        name: &DeploymentName,
        fallback: State,
        known: Option<ModRevision>,
        time_left: Duration,
        now: Timestamp,
    ) -> Result<(Self, Call), Unchanged> {
        let deadline = Deadline::after(time_left, now);
        let call = deadline.grant(Stage::Read, fleet.read(name), now).ok_or(Unchanged::Late)?;
        let this = Self {
            fleet: fleet.clone(),
            name: name.clone(),
            fallback,
            known: known.unwrap_or_default(),
            deadline,
            failures: 0,
            races: 0,
            has_turn: false,
            fences: 0,
            phase: Phase::Reading,
            precedence: Precedence::Later,
        };
        Ok((this, call))
    }

    /// How much of its time is left, for what the caller has to do besides.
    pub fn time_left(&self, now: Timestamp) -> Duration {
        self.deadline.time_left(now)
    }

    /// Puts the state there that was decided on.
    ///
    /// # Errors
    /// There is no time for it.
    pub fn put(&mut self, current: &Current, after: State, now: Timestamp) -> Result<Call, Unchanged> {
        let call = self.fleet.put_if(&self.name, current.on, &after);
        let call = self.deadline.grant(Stage::Put, call, now).ok_or(Unchanged::Late)?;
        let (on, before) = (current.on, current.state.clone());
        self.phase = Phase::Putting(Box::new(Draft { on, before, after, is_repeated: false, lost: String::new() }));
        Ok(call)
    }

    /// Goes on, now that it is this change's turn. Nothing is under way of what it sent before.
    ///
    /// # Errors
    /// There is no time for it any more.
    pub fn take_turn(&mut self, now: Timestamp) -> Result<Call, Unchanged> {
        self.has_turn = true;
        // The state that it lost to is an old one by now.
        self.deadline.grant(Stage::Put, self.fleet.read(&self.name), now).ok_or(Unchanged::Late)
    }

    /// Whether there is no time for [`Self::take_turn`] any more.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.time_for(Stage::Put, now).is_none()
    }

    /// Takes the reply to the last call.
    pub fn take(&mut self, reply: &Reply, now: Timestamp) -> Turn {
        match std::mem::replace(&mut self.phase, Phase::Reading) {
            Phase::Reading => match reply.decode::<RangeResponse>() {
                Ok(response) => {
                    self.note_time(response.header.as_ref());
                    self.decide(Held::of(&response.kvs))
                }
                Err(why) => {
                    let again = self.fleet.read(&self.name);
                    self.repeat(Stage::Read, again, now).map_or(Turn::Unchanged(Unchanged::Unread(why)), Turn::Call)
                }
            },
            Phase::Putting(draft) => self.on_put(draft, reply, now),
            Phase::Fencing(draft) => self.on_fence(*draft, reply, now),
        }
    }

    fn on_put(&mut self, mut draft: Box<Draft>, reply: &Reply, now: Timestamp) -> Turn {
        match reply.decode::<TxnResponse>() {
            Ok(response) if response.succeeded => self.made(draft.after, response.header.as_ref()),
            Ok(response) => {
                let held = held(&response);
                match draft.trace_in(&held).filter(|_| draft.is_repeated) {
                    Some(Trace::Made) => self.found(draft.after, held),
                    Some(Trace::Forgotten) => Turn::Unknown,
                    None => self.decide(held),
                }
            }
            // As before the put.
            Err(why) if *reply == Reply::NotSent && !draft.is_repeated => Turn::Unchanged(Unchanged::Unsent(why)),
            Err(why) => {
                let again = self.fleet.put_if(&self.name, draft.on, &draft.after);
                let Some(call) = self.repeat(Stage::Put, again, now) else { return self.fence(*draft, why, now) };
                draft.is_repeated = true;
                self.phase = Phase::Putting(draft);
                Turn::Call(call)
            }
        }
    }

    fn on_fence(&mut self, draft: Draft, reply: &Reply, now: Timestamp) -> Turn {
        match reply.decode::<TxnResponse>() {
            Ok(response) if response.succeeded => Turn::Unchanged(Unchanged::Fenced(draft.lost)),
            Ok(response) => {
                let held = held(&response);
                match draft.trace_in(&held) {
                    Some(Trace::Made) => self.found(draft.after, held),
                    Some(Trace::Forgotten) => Turn::Unknown,
                    None => Turn::Unchanged(Unchanged::Fenced(draft.lost)),
                }
            }
            Err(_) => {
                let why = draft.lost.clone();
                self.fence(draft, why, now)
            }
        }
    }

    fn fence(&mut self, draft: Draft, lost: String, now: Timestamp) -> Turn {
        let call = self.fleet.put_if(&self.name, draft.on, &draft.before);
        let call = self.deadline.grant(Stage::Fence, call, now).filter(|_| self.fences < FENCES);
        self.fences = self.fences.saturating_add(1);
        self.phase = Phase::Fencing(Box::new(Draft { lost, ..draft }));
        call.map_or(Turn::Unknown, Turn::Call)
    }

    /// The change was made by a put whose answer was lost.
    fn found(&self, state: State, held: Held) -> Turn {
        Turn::Made(Box::new(Made { state, current: self.current(held) }))
    }

    fn decide(&mut self, held: Held) -> Turn {
        self.failures = 0;
        self.races = self.races.saturating_add(1);
        if self.races > RACES && !self.has_turn { Turn::Queue } else { Turn::Decide(Box::new(self.current(held))) }
    }

    fn current(&self, held: Held) -> Current {
        let origin = held.state.is_some().then_some(held.revision);
        let state = held.state.unwrap_or_else(|| self.fallback.clone());
        Current { state, origin, precedence: self.precedence, on: held.revision }
    }

    fn made(&self, state: State, header: Option<&ResponseHeader>) -> Turn {
        let revision = header_revision(header);
        let current = self.current(Held { revision, state: Some(state.clone()) });
        Turn::Made(Box::new(Made { state, current }))
    }

    /// An answer that takes a quorum knows every write that anybody was told of before it was asked for.
    fn note_time(&mut self, header: Option<&ResponseHeader>) {
        if header_revision(header) < self.known {
            self.precedence = Precedence::Always;
        }
    }

    /// Counts a failure. The call that follows it, unless there were too many or there is no time: an election in etcd
    /// takes about a second, and a member that is down fails at once.
    fn repeat(&mut self, stage: Stage, call: Call, now: Timestamp) -> Option<Call> {
        self.failures = self.failures.saturating_add(1);
        self.deadline.grant(stage, call, now).filter(|_| self.failures < FAILURES)
    }
}

// === impl Unchanged ===

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(why) => write!(f, "etcd was asked for the state and did not give it ({why})"),
            Self::Unsent(why) => write!(f, "the change could not be sent to etcd ({why})"),
            Self::Late => f.write_str(
                "etcd was so slow, or others wrote so often, that there was no time left to send the change",
            ),
            Self::Fenced(why) => {
                write!(
                    f,
                    "etcd did not answer when the change was sent ({why}), and has confirmed since that it was not made"
                )
            }
        }
    }
}

// === impl Draft ===

impl Draft {
    /// What the key shows of the change; none where it was not made. A change is known by its revision, its time and its
    /// author; a note that makes no revision by itself.
    fn trace_in(&self, held: &Held) -> Option<Trace> {
        let state = held.state.as_ref()?;
        if self.after.revision == self.before.revision {
            let is_noted = (&state.smoke, state.initial) == (&self.after.smoke, self.after.initial);
            return is_noted.then_some(Trace::Made);
        }
        let made = self.after.history.newest();
        if state.history.changes().any(|change| Some(change) == made) {
            return Some(Trace::Made);
        }
        let oldest = state.history.changes().last().map(|change| change.revision);
        oldest.is_some_and(|oldest| oldest > self.after.revision).then_some(Trace::Forgotten)
    }
}

fn held(response: &TxnResponse) -> Held {
    let range = response.responses.first().and_then(|response| response.range.as_ref());
    Held::of(range.map_or(&[], |range| range.kvs.as_slice()))
}

fn header_revision(header: Option<&ResponseHeader>) -> ModRevision {
    header.map_or(ModRevision(0), |header| number(header.revision))
}

#[cfg(test)]
mod tests;
