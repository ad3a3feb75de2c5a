//! By when a write has come to its end, whatever the store does.
//!
//! A write makes several calls, one after the other, and each of them may have to be made again. The caller
//! waits on a connection that Envoy ends after its listener's `request_timeout`, often 10 s, with
//! an answer of its own that says nothing about the change. So all calls of a write share one time. What comes first leaves
//! a part of it to what may have to follow: a change that was sent without an answer has to be found out about.

use std::time::Duration;

use crate::model::time::Moment;

/// How long a write may take to learn what becomes of it, all its calls to the store together.
pub const WRITE_WITHIN: Duration = Duration::from_secs(7);

/// What a call of a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Reads the key. Nothing that takes effect was sent yet.
    Read,
    /// Puts the change there.
    Put,
    /// Finds out about a change that was sent, and stops it if it was not made.
    Fence,
}

/// The end of a write's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Moment);

/// A call that has less time than this is not made: its answer would hardly come in time.
const SHORTEST: Duration = Duration::from_millis(100);

// === impl Deadline ===

impl Deadline {
    /// The end of a write that has so much time from now on.
    pub fn after(time_left: Duration, now: Moment) -> Self {
        Self(now.plus(time_left.min(WRITE_WITHIN)))
    }

    /// How much time there is.
    pub fn time_left(self, now: Moment) -> Duration {
        self.0.since(now).min(WRITE_WITHIN)
    }

    /// How long a call of this kind may take that would have `timeout` by itself; none when it is too late for one.
    pub fn grant(self, kind: CallKind, timeout: Duration, now: Moment) -> Option<Duration> {
        self.time_for(kind, now).map(|left| timeout.min(left))
    }

    /// How much time there is for a call of this kind; none when it is too late for another call.
    pub fn time_for(self, kind: CallKind, now: Moment) -> Option<Duration> {
        let left = self.time_left(now).saturating_sub(kind.left_to_others());
        (left >= SHORTEST).then_some(left)
    }
}

// === impl CallKind ===

impl CallKind {
    /// The part of a write's time that the calls after this one have for themselves.
    const fn left_to_others(self) -> Duration {
        Duration::from_secs(match self {
            Self::Read => 3,
            Self::Put => 2,
            Self::Fence => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const START: Moment = Moment::BEGIN;

    #[test]
    fn each_call_leaves_time_to_those_after_it() {
        let deadline = Deadline::after(WRITE_WITHIN, START);
        // How many milliseconds a call of 1 s gets after so many others.
        let cases = [
            (CallKind::Read, [(0, Some(1_000)), (3_400, Some(600)), (3_900, Some(100)), (3_901, None)]),
            (CallKind::Put, [(3_901, Some(1_000)), (4_400, Some(600)), (4_900, Some(100)), (4_901, None)]),
            (CallKind::Fence, [(4_901, Some(1_000)), (6_400, Some(600)), (6_900, Some(100)), (7_000, None)]),
        ];
        for (kind, moments) in cases {
            for (after, expected) in moments {
                let now = START.plus(Duration::from_millis(after));
                let granted = deadline.grant(kind, Duration::from_secs(1), now);
                assert_eq!(granted.map(|time| time.as_millis()), expected, "{kind:?} after {after} ms");
            }
        }
    }

    #[test]
    fn a_write_that_goes_on_has_what_it_had_left() {
        let half = WRITE_WITHIN / 2;
        let deadline = Deadline::after(half, START.plus(Duration::from_secs(60)));
        assert_eq!(deadline.time_left(START.plus(Duration::from_secs(60))), half);
    }
}
