//! Admin calls that go on when time has passed, or when others have.

use bluegreen_core::admin::{Committing, Drain};
use bluegreen_core::model::time::Timestamp;

/// The calls, by the context of their stream.
///
/// A client may never finish its body, and a listener without `allow_on_headers_stop_iteration` never hands one over: a
/// call would wait for ever. So each gets a time by which its body must be complete. A drain is done when the last request
/// is. And a write among many waits for its turn.
#[derive(Default)]
pub struct Waiting(Vec<(u32, Until)>);

/// What a call waits for.
pub enum Until {
    /// The end of its body, by then.
    Received(Timestamp),
    /// A colour that nothing needs any more.
    Drained(Drain),
    /// The writes before it.
    ItsTurn(Box<Committing>),
}

// === impl Waiting ===

impl Waiting {
    /// Lets a call wait.
    pub fn add(&mut self, context_id: u32, until: Until) {
        self.0.push((context_id, until));
    }

    /// Whether the call was still waited for; it is not any more.
    pub fn remove(&mut self, context_id: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|(waiting, _)| *waiting != context_id);
        self.0.len() < before
    }

    /// Takes out the first of the writes that wait for their turn and may have it.
    pub fn take_turn(&mut self, may: impl Fn(&Committing) -> bool) -> Option<(u32, Box<Committing>)> {
        let place = self.0.iter().position(|(_, until)| matches!(until, Until::ItsTurn(write) if may(write)))?;
        match self.0.remove(place) {
            (context_id, Until::ItsTurn(write)) => Some((context_id, write)),
            _ => None,
        }
    }

    /// Keeps those that go on waiting.
    pub fn retain(&mut self, mut waits_on: impl FnMut(u32, &Until) -> bool) {
        self.0.retain(|(context_id, until)| waits_on(*context_id, until));
    }
}
