//! A fleet's store in memory, for tests: what it holds, and what becomes of the calls to it.

#![allow(clippy::expect_used, reason = "only tests have it")]

use std::time::Duration;

use super::store::FleetStore;
use crate::state::State;
use crate::testing::host::TestHost;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// It is carried out, and its answer gets lost.
    AnswerLost,
    /// It gets lost itself.
    RequestLost,
    /// It cannot be sent.
    Refused,
    /// The user may not do it.
    Denied,
    /// It is not done now, or not by the one that was asked.
    NotNow,
    /// There is no space left for what it would write.
    OutOfSpace,
    /// What it writes is carried out, and leaves no space.
    LastSpaceUsed,
}

/// A store in memory.
pub trait FleetModel: Default {
    /// A call to it.
    type Call: Clone;

    /// How many writers at once it can have in a test that is to end soon.
    const WRITERS: u64;

    /// Whether what stands there has to be asked for after a put that lost.
    const READS_AFTER_LOSS: bool;

    /// One with a place for the state of iris, where it needs one.
    fn ready() -> Self {
        Self::default()
    }

    /// The store that calls it.
    fn store() -> Box<dyn FleetStore>;

    /// The oldest call that a host waits for.
    fn next(host: &TestHost) -> Option<Self::Call>;

    /// How long its answer may take.
    fn timeout(call: &Self::Call) -> Duration;

    /// Whether it is a put of a state.
    fn is_put(call: &Self::Call) -> bool;

    /// Carries a call out that arrives late.
    fn arrive(&mut self, call: &Self::Call);

    /// Answers the oldest call of a host, after a while.
    fn answer(&mut self, host: &TestHost, fate: Fate, after: Duration);

    /// The state of iris; none where there is none.
    fn state(&self) -> Option<State>;

    /// Puts something in its place that is no state.
    fn put_foreign(&mut self);

    /// What messages about these fates say.
    fn words(fate: Fate) -> &'static str;
}
