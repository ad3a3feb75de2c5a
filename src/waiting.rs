//! Admin calls that go on when time has passed.

use bluegreen_core::admin::Drain;
use bluegreen_core::time::Timestamp;

/// The calls, by the context of their stream.
///
/// A listener without `allow_on_headers_stop_iteration` never hands a body over: a call with one would wait for ever. So
/// each gets a time by which the first part of its body must have come. And a drain is done when the last request is.
#[derive(Default)]
pub struct Waiting(Vec<(u32, Until)>);

/// What a call waits for.
pub enum Until {
    /// Its body, by then.
    BodyBegins(Timestamp),
    /// A colour that nothing needs any more.
    Drained(Drain),
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

    /// Keeps those that go on waiting.
    pub fn retain(&mut self, mut waits_on: impl FnMut(u32, &Until) -> bool) {
        self.0.retain(|(context_id, until)| waits_on(*context_id, until));
    }
}
