//! What still needs a colour: the answer to "may I stop blue now?".

use std::fmt;
use std::time::Duration;

use crate::config::Bake;
use crate::model::colour::Colour;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::State;

/// One thing that needs a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainBlocker {
    /// Ordinary traffic goes to it.
    Active,
    /// It gets a share of the traffic.
    Canary(Percent),
    /// It gets copies.
    Shadow(Percent),
    /// The state changed so recently that a worker may still be about to count a request that it had decided before.
    Settling,
    /// Requests are under way.
    InFlight(u64),
    /// It is the way back until then.
    Baking(Timestamp),
}

/// Between deciding a request and counting it a worker needs microseconds. This leaves room for a busy machine.
const SETTLING: Duration = Duration::from_millis(200);

/// Everything that needs `colour`; nothing: it is safe to stop.
pub fn drain_blockers(
    state: &State,
    colour: Colour,
    in_flight: u64,
    bake: Option<Bake>,
    now: Timestamp,
) -> Vec<DrainBlocker> {
    let split = state.split;
    let is_active = split.active == colour;
    let baking = baking_until(state, colour, bake).filter(|until| *until > now);
    [
        is_active.then_some(DrainBlocker::Active),
        (!is_active && split.canary_percent > Percent::ZERO).then_some(DrainBlocker::Canary(split.canary_percent)),
        (!is_active && split.shadow_percent > Percent::ZERO).then_some(DrainBlocker::Shadow(split.shadow_percent)),
        (in_flight > 0).then_some(DrainBlocker::InFlight(in_flight)),
        (state.revision.get() > 0 && now.since(state.since) < SETTLING).then_some(DrainBlocker::Settling),
        baking.map(DrainBlocker::Baking),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Until when `colour` is held as the way back.
pub fn baking_until(state: &State, colour: Colour, bake: Option<Bake>) -> Option<Timestamp> {
    // Nothing has to be held that no rollback leads to any more.
    let is_held = state.rollback_to == Some(colour) && !state.is_way_back_replaced();
    let switched_at = state.switched_at.filter(|_| is_held)?;
    Some(switched_at.plus(bake?.r#for))
}

// === impl DrainBlocker ===

impl DrainBlocker {
    /// Whether it ends before `deadline` without anyone's help: then a drain waits for it.
    pub fn ends_before(&self, deadline: Timestamp) -> bool {
        match self {
            DrainBlocker::Active | DrainBlocker::Canary(_) | DrainBlocker::Shadow(_) => false,
            DrainBlocker::InFlight(_) | DrainBlocker::Settling => true,
            DrainBlocker::Baking(until) => *until <= deadline,
        }
    }
}

impl fmt::Display for DrainBlocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainBlocker::Active => f.write_str("it is the active colour"),
            DrainBlocker::Canary(share) => write!(f, "it gets {share} % of the traffic"),
            DrainBlocker::Shadow(share) => write!(f, "it gets copies of {share} % of the traffic"),
            DrainBlocker::Settling => f.write_str("the state changed a moment ago"),
            DrainBlocker::InFlight(1) => f.write_str("1 request is in flight"),
            DrainBlocker::InFlight(count) => write!(f, "{count} requests are in flight"),
            DrainBlocker::Baking(until) => write!(f, "it is kept as the way back until {until}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::state::Command;
    use crate::testing::{percent, split};

    const SWITCH: Timestamp = Timestamp::from_millis(10_000_000);

    fn promoted() -> State {
        let author = Author::new("alice", Source::Admin, Reason::none());
        let before = State::initial(split("blue", "0", "0"), Timestamp::default());
        before.after(&Command::Promote(None), author, SWITCH).expect("allowed").expect("a change")
    }

    #[test]
    fn each_thing_that_needs_a_colour_holds_it() {
        let minute = Duration::from_secs(60);
        let bake = Some(Bake { r#for: minute });
        let later = SWITCH.plus(Duration::from_secs(1));
        let canary = State { split: split("green", "5", "1"), ..promoted() };
        let cases = [
            (promoted(), Colour::Green, 0, None, later, vec![DrainBlocker::Active]),
            (promoted(), Colour::Blue, 0, None, SWITCH, vec![DrainBlocker::Settling]),
            (promoted(), Colour::Blue, 3, None, later, vec![DrainBlocker::InFlight(3)]),
            (promoted(), Colour::Blue, 0, bake, later, vec![DrainBlocker::Baking(SWITCH.plus(minute))]),
            (promoted(), Colour::Blue, 0, bake, SWITCH.plus(minute), vec![]),
            (promoted(), Colour::Blue, 0, None, later, vec![]),
            (
                canary,
                Colour::Blue,
                0,
                None,
                later,
                vec![DrainBlocker::Canary(percent("5")), DrainBlocker::Shadow(percent("1"))],
            ),
        ];
        for (state, colour, in_flight, bake, now, expected) in cases {
            assert_eq!(drain_blockers(&state, colour, in_flight, bake, now), expected, "{colour} at {now}");
        }
    }

    #[test]
    fn a_drain_waits_for_what_ends_by_itself_only() {
        let deadline = SWITCH;
        assert!(
            DrainBlocker::InFlight(1).ends_before(deadline) && DrainBlocker::Baking(deadline).ends_before(deadline)
        );
        let beyond = DrainBlocker::Baking(deadline.plus(Duration::from_millis(1)));
        assert!(!beyond.ends_before(deadline) && !DrainBlocker::Active.ends_before(deadline));
    }
}
