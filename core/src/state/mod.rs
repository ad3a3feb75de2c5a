//! The state of one deployment, and every way in which it can change.
//!
//! The state is one value, so a change is one compare-and-swap: split, revision, way back and history never disagree.

pub mod rollout;
pub mod history;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::history::{Change, History};
use self::rollout::{Rollout, RolloutCommand};
use crate::model::author::Author;
use crate::model::colour::Colour;
use crate::model::name::Version;
use crate::model::percent::Percent;
use crate::model::split::{Revision, Split};
use crate::model::time::Timestamp;

/// Everything that is known about a deployment beyond its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How many changes led here.
    pub revision: Revision,
    /// What is in force.
    pub split: Split,
    /// The colour that a rollback makes active again; none before the first switch and after a rollback.
    pub rollback_to: Option<Colour>,
    /// When the active colour last changed.
    pub switched_at: Option<Timestamp>,
    /// The smoke test that the candidate passed, if it did since the last switch.
    pub smoke: Option<SmokePass>,
    /// The rollout under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The configuration's `initial` that was applied last: only a different one is a change.
    pub initial: Split,
    /// When the split in force came into force.
    pub since: Timestamp,
    /// Who brought it into force, and why.
    pub author: Author,
    /// The changes that led here.
    pub history: History,
}

/// A smoke test that a candidate passed. It counts for this colour and version, until the active colour changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmokePass {
    /// The candidate.
    pub colour: Colour,
    /// Its version as configured then.
    pub version: Version,
    /// The deployment's revision then.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
}

/// A change of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The candidate becomes active, canary 0.
    Promote,
    /// The previously active colour becomes active again, canary 0.
    RollBack,
    /// Set what is named.
    Patch(Patch),
    /// Take over a configuration's `initial`, if it is not the one applied last.
    AdoptInitial(Split),
    /// Take a rollout further, or end it.
    Rollout(RolloutCommand),
    /// Remember what a smoke test of the candidate came to. A failure takes back an earlier pass.
    RecordSmokeTest(SmokeTestOutcome),
}

/// What a smoke test came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeTestOutcome {
    /// The candidate that was tested.
    pub colour: Colour,
    /// The version that it served.
    pub version: Version,
    /// Whether it answered as expected.
    pub passed: bool,
}

/// The fields that a patch names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// The new active colour. A change of it without `canary_percent` ends the canary: ten percent to the candidate
    /// must not silently become ten percent to the colour that was just left.
    pub active: Option<Colour>,
    /// The new canary share.
    pub canary_percent: Option<Percent>,
    /// The new shadow share.
    pub shadow_percent: Option<Percent>,
}

/// Why the state itself refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A rollback without a switch before it and without a canary to end.
    NothingToRollBackTo,
    /// The rollout does not go there.
    Rollout(rollout::Refusal),
    /// The colour that was tested is not the candidate any more.
    CandidateChanged,
}

// === impl State ===

impl State {
    /// The state of a deployment that was never changed.
    pub fn initial(initial: Split, now: Timestamp) -> Self {
        Self {
            revision: Revision::ZERO,
            split: initial,
            rollback_to: None,
            switched_at: None,
            smoke: None,
            rollout: None,
            initial,
            since: now,
            author: Author::config(),
            history: History::default(),
        }
    }

    /// Decodes what the store holds; `None` when it is nothing that this module wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Encodes for the store.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising to memory cannot fail for these types; an empty value reads as absent, so it could do no harm.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The state after `command`, or `None` when it is this one already.
    ///
    /// # Errors
    /// The rule that refuses the command.
    pub fn after(&self, command: &Command, author: Author, now: Timestamp) -> Result<Option<Self>, Refusal> {
        let (split, rollback_to) = match *command {
            Command::Promote => (self.switched_to(self.split.candidate()), Some(self.split.active)),
            Command::RollBack => match self.rollback_to {
                Some(colour) => (self.switched_to(colour), None),
                None if self.split.canary_percent > Percent::ZERO => (self.switched_to(self.split.active), None),
                None => return Err(Refusal::NothingToRollBackTo),
            },
            Command::Patch(patch) => self.with(patch.applied_to(self.split)),
            Command::AdoptInitial(initial) if initial == self.initial => return Ok(None),
            Command::AdoptInitial(initial) => self.with(initial),
            Command::Rollout(to) => self.with(to.split(self.split, self.rollout).map_err(Refusal::Rollout)?),
            Command::RecordSmokeTest(ref outcome) => return self.tested(outcome, now).map(Some),
        };
        let initial = if let Command::AdoptInitial(initial) = *command { initial } else { self.initial };
        let rollout = match *command {
            Command::Rollout(to) => Some(to.rollout(self.split, self.rollout, now)),
            _ => self.rollout.map(|rollout| rollout.overruled(self.split, split, author.source, now)),
        };
        if split == self.split {
            // The same traffic under a new `initial` is no change of the deployment, but it must be remembered; and so
            // must a rollout that stops or goes on.
            let remembered = Self { initial, rollout, ..self.clone() };
            return Ok((initial != self.initial || rollout != self.rollout).then_some(remembered));
        }
        let phase = |rollout: Option<Rollout>| rollout.map(|rollout| (rollout.phase, rollout.began));
        let turned = rollout.filter(|_| phase(rollout) != phase(self.rollout)).map(|rollout| rollout.phase);
        let revision = self.revision.next();
        let mut history = self.history.clone();
        history.record(Change {
            revision,
            at: now,
            author: author.clone(),
            from: self.split,
            to: split,
            rollout: turned,
        });
        let switched = split.active != self.split.active;
        let switched_at = if switched { Some(now) } else { self.switched_at };
        let smoke = if switched { None } else { self.smoke.clone() };
        Ok(Some(Self {
            revision,
            split,
            rollback_to,
            switched_at,
            smoke,
            rollout,
            initial,
            since: now,
            author,
            history,
        }))
    }

    /// The same state after a smoke test. It makes no revision: no request is routed otherwise.
    fn tested(&self, outcome: &SmokeTestOutcome, now: Timestamp) -> Result<Self, Refusal> {
        if outcome.colour != self.split.candidate() {
            return Err(Refusal::CandidateChanged);
        }
        let SmokeTestOutcome { colour, version, passed } = outcome.clone();
        let pass = SmokePass { colour, version, revision: self.revision, at: now };
        Ok(Self { smoke: passed.then_some(pass), ..self.clone() })
    }

    /// `colour` alone gets the ordinary traffic.
    fn switched_to(&self, colour: Colour) -> Split {
        Split { active: colour, canary_percent: Percent::ZERO, ..self.split }
    }

    /// `split` in place of today's, with the way back to the colour that loses the ordinary traffic, if one does.
    fn with(&self, split: Split) -> (Split, Option<Colour>) {
        if split.active == self.split.active { (split, self.rollback_to) } else { (split, Some(self.split.active)) }
    }
}

// === impl Patch ===

impl Patch {
    fn applied_to(self, split: Split) -> Split {
        let active = self.active.unwrap_or(split.active);
        let unnamed = if active == split.active { split.canary_percent } else { Percent::ZERO };
        Split {
            active,
            canary_percent: self.canary_percent.unwrap_or(unnamed),
            shadow_percent: self.shadow_percent.unwrap_or(split.shadow_percent),
        }
    }
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NothingToRollBackTo => f.write_str(
                "nothing to roll back to: no switch has happened since the start or since the last rollback, and no \
                 canary is running; use promote, or PATCH active=",
            ),
            Refusal::Rollout(refusal) => refusal.fmt(f),
            Refusal::CandidateChanged => {
                f.write_str("Others changed the state meanwhile. Look at it below, and repeat the call.")
            }
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::author::Source;
    use crate::model::name::Reason;
    use crate::testing::{percent, split};

    fn start() -> State {
        State::initial(Split::default(), Timestamp::from_millis(0))
    }

    fn alice() -> Author {
        Author::new("alice", Source::Admin, Reason::none())
    }

    fn after(state: &State, command: Command) -> State {
        let later = state.since.plus(std::time::Duration::from_millis(1));
        state.after(&command, alice(), later).expect("allowed").expect("a change")
    }

    fn patch(active: Option<Colour>, canary: Option<&str>, shadow: Option<&str>) -> Command {
        Command::Patch(Patch { active, canary_percent: canary.map(percent), shadow_percent: shadow.map(percent) })
    }

    #[test]
    fn promote_makes_the_candidate_active_and_ends_the_canary() {
        let canary = after(&start(), patch(None, Some("10"), Some("5")));
        let promoted = after(&canary, Command::Promote);
        assert_eq!(promoted.split, split("green", "0", "5"));
        assert_eq!(promoted.rollback_to, Some(Colour::Blue));
        assert_eq!(promoted.revision, Revision::new(2));
    }

    #[test]
    fn a_rollback_goes_back_once_and_not_forward_again() {
        let promoted = after(&start(), Command::Promote);
        let back = after(&promoted, Command::RollBack);
        assert_eq!(back.split.active, Colour::Blue);
        assert_eq!(back.after(&Command::RollBack, alice(), back.since), Err(Refusal::NothingToRollBackTo));
        let again = after(&after(&back, Command::Promote), Command::RollBack);
        assert_eq!(again.split.active, Colour::Blue);
    }

    #[test]
    fn a_rollback_during_a_first_canary_ends_the_canary() {
        let canary = after(&start(), patch(None, Some("10"), None));
        let back = after(&canary, Command::RollBack);
        assert_eq!(back.split, split("blue", "0", "0"));
        assert_eq!(start().after(&Command::RollBack, alice(), start().since), Err(Refusal::NothingToRollBackTo));
    }

    #[test]
    fn a_patch_sets_what_it_names() {
        let cases = [
            (split("blue", "0", "0"), patch(None, Some("10"), None), split("blue", "10", "0")),
            (split("blue", "10", "0"), patch(None, None, Some("1")), split("blue", "10", "1")),
            (split("blue", "10", "0"), patch(Some(Colour::Green), None, None), split("green", "0", "0")),
            (split("blue", "10", "0"), patch(Some(Colour::Green), Some("20"), None), split("green", "20", "0")),
            (split("blue", "10", "0"), patch(Some(Colour::Blue), None, Some("2")), split("blue", "10", "2")),
        ];
        for (before, command, expected) in cases {
            let state = State::initial(before, Timestamp::default());
            assert_eq!(after(&state, command.clone()).split, expected, "{before:?} {command:?}");
        }
    }

    #[test]
    fn a_patch_that_switches_can_be_rolled_back() {
        let green = after(&start(), patch(Some(Colour::Green), None, None));
        assert_eq!(after(&green, Command::RollBack).split.active, Colour::Blue);
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        let same = start().after(&patch(Some(Colour::Blue), Some("0"), None), alice(), Timestamp::default());
        assert_eq!(same, Ok(None));
    }

    #[test]
    fn only_a_different_initial_is_a_change() {
        let green = split("green", "0", "0");
        let promoted = after(&start(), Command::Promote);
        let back = after(&promoted, Command::RollBack);
        assert_eq!(back.after(&Command::AdoptInitial(start().initial), alice(), back.since), Ok(None));

        let pushed = after(&back, Command::AdoptInitial(green));
        assert_eq!((pushed.split, pushed.initial, pushed.revision), (green, green, Revision::new(3)));
        assert_eq!(after(&pushed, Command::RollBack).split.active, Colour::Blue);
    }

    #[test]
    fn an_initial_that_the_operator_had_already_set_is_remembered_without_a_change() {
        let promoted = after(&start(), Command::Promote);
        let pushed = after(&promoted, Command::AdoptInitial(promoted.split));
        assert_eq!((pushed.revision, pushed.initial), (promoted.revision, promoted.split));
        assert_eq!(pushed.history, promoted.history);
    }

    #[test]
    fn a_foreign_value_is_no_state() {
        for bytes in [&b""[..], b"{}", b"\xff", b"null", b"{\"revision\": -1}"] {
            assert_eq!(State::decode(bytes), None);
        }
        let state = after(&start(), Command::Promote);
        assert_eq!(State::decode(&state.encode()), Some(state));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn commands() -> impl Strategy<Value = Command> {
            let colour = prop_oneof![Just(Colour::Blue), Just(Colour::Green)];
            let share = (0..=10_000_u16).prop_map(|hundredths| Percent::from_hundredths(hundredths).expect("in range"));
            let patch = (proptest::option::of(colour.clone()), proptest::option::of(share.clone()));
            prop_oneof![
                Just(Command::Promote),
                Just(Command::RollBack),
                patch.prop_map(|(active, canary_percent)| Command::Patch(Patch {
                    active,
                    canary_percent,
                    shadow_percent: None
                })),
                (colour, share).prop_map(|(active, canary_percent)| Command::AdoptInitial(Split {
                    active,
                    canary_percent,
                    ..Split::default()
                })),
            ]
        }

        proptest! {
            #[test]
            fn no_sequence_of_commands_loses_or_doubles_a_revision(commands in proptest::collection::vec(commands(), 0..120)) {
                let mut state = start();
                let mut changes = 0;
                for (step, command) in commands.into_iter().enumerate() {
                    let now = Timestamp::from_millis(step as u64);
                    let Ok(Some(next)) = state.after(&command, alice(), now) else { continue };
                    if next.split != state.split {
                        changes += 1;
                        let newest = next.history.newest().expect("recorded");
                        prop_assert_eq!((newest.from, newest.to), (state.split, next.split));
                        prop_assert_eq!(newest.revision, next.revision);
                    }
                    prop_assert_eq!(next.revision.get(), changes);
                    prop_assert_eq!(next.history.changes().count() as u64, changes.min(50));
                    let revisions: Vec<_> = next.history.changes().map(|change| change.revision.get()).collect();
                    prop_assert!(revisions.windows(2).all(|pair| pair[0] == pair[1] + 1));
                    prop_assert_eq!(State::decode(&next.encode()), Some(next.clone()));
                    state = next;
                }
            }
        }
    }
}
