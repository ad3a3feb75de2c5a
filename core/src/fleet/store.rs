//! What a store of record is, and how a write waits for its turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot::Sender;

use super::evidence::{EnvoyId, Judgement};
use super::following::Following;
use super::refusal::NoResponse;
use crate::deployment::Deployment;
use crate::host::reply::Reply;
use crate::host::{Host, next_tick};
use crate::model::name::DeploymentName;
use crate::model::split::Split;
use crate::setup::{self, SetupProblem};
use crate::state::State;
use crate::store::record::ModRevision;

/// What a store will have said.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, NoResponse>> + 'a>>;

/// A store that a fleet of Envoys shares.
///
/// Its writes are numbered, and later ones have greater numbers, whatever they write to. An answer to a read takes in every write
/// that anybody was told of before it was asked for.
pub trait FleetStore {
    /// A number for this store, by which what is kept about it is found.
    fn id(&self) -> u64;

    /// What messages call it.
    fn called(&self) -> &'static str;

    /// What `setup` says when it refuses a state.
    fn refusal(&self) -> SetupProblem;

    /// How long a call may take.
    fn timeout(&self) -> Duration;

    /// How often an Envoy speaks while there is a canary.
    fn round(&self) -> Duration;

    /// How many writes may be under way on this thread before the next one waits for its turn at once: where a lost race is dear,
    /// few.
    fn crowd(&self) -> usize {
        usize::MAX
    }

    /// The writes on this thread that wait for each other.
    fn turns(&self) -> &Rc<Turns>;

    /// Reads a deployment's state.
    fn read<'a>(&'a self, host: &'a dyn Host, name: &'a DeploymentName, within: Duration) -> Answer<'a, Read>;

    /// Puts a state there if the last write is still this one, and else reads it. It is a write of its own also where the state is the one that
    /// stands there: a put on the same condition that comes later has no effect.
    fn put_if<'a>(&'a self, host: &'a dyn Host, put: Put<'a>) -> Answer<'a, PutReply<KeyState>>;

    /// Draws a number for an Envoy, which is no other's.
    fn draw<'a>(&'a self, host: &'a dyn Host) -> Answer<'a, EnvoyId>;

    /// Puts down what an Envoy has to say about a canary, if anything, and reads the last judgement; and what all Envoys say,
    /// if wanted.
    fn say<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        statement: Option<(EnvoyId, Vec<u8>)>,
        hears_all: bool,
    ) -> Answer<'a, Heard>;

    /// Puts a judgement there if this is the last one still. At the end of a canary what was said about it goes.
    fn judge<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        judgement: &'a Judgement,
    ) -> Answer<'a, PutReply<Option<Entry>>>;

    /// Puts down what was told about a deployment, if this is the last write about that still, and else reads it.
    fn tell<'a>(
        &'a self,
        host: &'a dyn Host,
        name: &'a DeploymentName,
        last: ModRevision,
        told: Vec<u8>,
    ) -> Answer<'a, PutReply<Option<Entry>>>;

    /// Follows the states for as long as this instance leads; waits for it otherwise.
    fn follow<'a>(&'a self, following: Following<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

    /// What people ask for in the store itself, as far as it was not looked at yet. Empty where this instance does not follow, and
    /// where a store has no place for it.
    fn wishes(&self) -> Vec<Wish> {
        Vec::new()
    }

    /// Shows beside a wish why it was not brought about.
    fn refuse<'a>(&'a self, _: &'a dyn Host, _: &'a DeploymentName, _: Refused) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// What a person or Git asks for in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The deployment's name, or what stands in its place.
    pub name: String,
    /// How often the wish was changed.
    pub generation: u64,
    /// How traffic is to be shared out, or what is wrong with it.
    pub split: Result<Split, String>,
}

/// Why a wish was not brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which wish.
    pub generation: u64,
    /// The problem's name in API and metrics, such as `colour-unhealthy`.
    pub problem: &'static str,
    /// A sentence for the person who wrote it.
    pub message: String,
}

/// What a read has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What stands there.
    pub key: KeyState,
    /// The store's last write of all then.
    pub at: ModRevision,
}

/// What a deployment's place in the store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Its last write; 0 when there is nothing.
    pub mod_revision: ModRevision,
    /// What stands there; `None` where it is no state.
    pub state: Option<State>,
}

/// A put on a condition.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Of which deployment.
    pub name: &'a DeploymentName,
    /// The last write.
    pub expected: ModRevision,
    /// What is put there.
    pub state: &'a State,
    /// How long it may take.
    pub within: Duration,
}

/// What became of a put on a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutReply<T> {
    /// It was made, as this write.
    Made(ModRevision),
    /// The condition did not hold, and this stands there.
    Lost(T),
}

/// A value beside the states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub key: Vec<u8>,
    /// Its last write.
    pub mod_revision: ModRevision,
    /// The value.
    pub value: Vec<u8>,
}

/// What was heard about a canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The last judgement.
    pub judgement: Option<Entry>,
    /// What each Envoy says, if that was wanted.
    pub all: Vec<Entry>,
}

/// The writes on this thread, and those of them that lost to others so often, or are so many, that one goes after the other.
#[derive(Debug, Default)]
pub struct Turns {
    under_way: Cell<usize>,
    is_taken: Cell<bool>,
    waiting: RefCell<VecDeque<Sender<Turn>>>,
}

/// A write that is under way. It is none any more when this is dropped.
#[derive(Debug)]
pub struct UnderWay(Rc<Turns>);

/// A write's turn. The next write has its turn when this is dropped.
#[derive(Debug)]
pub struct Turn(Rc<Turns>);

/// Shows in a deployment's set-up that the store does not take its state, and why.
pub fn note_refusal(store: &dyn FleetStore, host: &dyn Host, deployment: &Deployment, why: &str) {
    let called = store.called();
    let detail =
        format!("{called} refuses the state of this deployment: {why}. Until that is fixed, no change can be made");
    setup::note(host, deployment, store.refusal(), detail);
}

/// Takes that back: the store took one.
pub fn clear_refusal(store: &dyn FleetStore, host: &dyn Host, deployment: &Deployment) {
    setup::clear(host, deployment, store.refusal());
}

// === impl Turns ===

impl Turns {
    /// Begins a write. How many are under way besides.
    pub fn begin(self: &Rc<Self>) -> (UnderWay, usize) {
        let others = self.under_way.get();
        self.under_way.set(others.saturating_add(1));
        (UnderWay(Rc::clone(self)), others)
    }

    /// Waits for a turn among the writes of this thread that have lost to others again and again.
    ///
    /// The root context polls the flows that wait here: the reply to a call that is made in a stream's event is lost with that stream, and it is
    /// another stream's answer that hands the turn over. A tick is the root context's event.
    pub async fn turn(self: &Rc<Self>, host: &dyn Host) -> Turn {
        next_tick(host).await;
        if !self.is_taken.replace(true) {
            return Turn(Rc::clone(self));
        }
        let (sender, turn) = Reply::pending();
        self.waiting.borrow_mut().push_back(sender);
        turn.await
    }
}

// === impl UnderWay ===

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get().saturating_sub(1));
    }
}

// === impl Turn ===

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.borrow_mut();
        waiting.retain(|next| !next.is_canceled());
        let next = waiting.pop_front();
        drop(waiting);
        self.0.is_taken.set(next.is_some());
        if let Some(next) = next {
            // A write that is given up before it sees its turn hands it on as this one does.
            let _: Result<(), Self> = next.send(Self(Rc::clone(&self.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::{TestHost, poll_once};

    #[test]
    fn one_write_after_the_other_has_its_turn_and_one_that_was_given_up_hands_it_on() {
        let (turns, host) = (Rc::<Turns>::default(), TestHost::default());
        let mut first = pin!(turns.turn(&host));
        let mut given_up = Box::pin(turns.turn(&host));
        let mut given_up_unseen = Box::pin(turns.turn(&host));
        let mut last = pin!(turns.turn(&host));
        assert!(poll_once(first.as_mut()).is_pending(), "not before a tick");
        assert!(poll_once(given_up.as_mut()).is_pending());
        assert!(poll_once(given_up_unseen.as_mut()).is_pending());
        assert!(poll_once(last.as_mut()).is_pending());
        host.wake_sleepers();
        let Poll::Ready(turn) = poll_once(first.as_mut()) else { panic!("it is free") };
        assert!(poll_once(given_up.as_mut()).is_pending());
        assert!(poll_once(given_up_unseen.as_mut()).is_pending());
        assert!(poll_once(last.as_mut()).is_pending());
        drop(given_up);
        drop(turn);
        // It has its turn, and was never polled again.
        drop(given_up_unseen);
        let Poll::Ready(turn) = poll_once(last.as_mut()) else { panic!("it was handed on") };
        drop(turn);
        assert!(!turns.is_taken.get());
    }
}
