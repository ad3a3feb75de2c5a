//! The state of one deployment, and every way in which it can change.
//!
//! The state is one value, so a change is one compare-and-swap: split, revision, way back and history never disagree.

pub mod rollout;
pub mod kept;
pub mod history;

use std::fmt;

use serde::Serialize;

use self::history::{Change, History, Replacement};
use self::kept::{Keep, Kept};
use self::rollout::{Next, Rollout, RolloutCommand};
use crate::json::{self, FromJson};
use crate::model::author::Author;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::Version;
use crate::model::percent::Percent;
use crate::model::split::{Revision, Split};
use crate::model::time::{ClockStep, Timestamp};

/// Everything that is known about a deployment beyond its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct State {
    /// How many changes led here.
    pub revision: Revision,
    /// What is in force.
    pub split: Split,
    /// The colour that a rollback makes active again; none before the first switch and after a rollback.
    pub rollback_to: Option<Colour>,
    /// What was behind that colour when it was left. Another one that has come there since has not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Identity>,
    /// What is behind each colour. None before anything was written down: what the configuration names.
    #[serde(default)]
    pub identities: PerColour<Option<Identity>>,
    /// When the active colour last changed.
    pub switched_at: Option<Timestamp>,
    /// The canary share is what the last promotion left with the former colour, and nothing on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// What passed the smoke test last for each colour, since the last switch: what is behind it, or what waits to be.
    #[serde(default)]
    pub smoke: PerColour<Option<SmokePass>>,
    /// The rollout under way, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The configuration's `initial` that was applied last: only a different one is a change.
    pub initial: Split,
    /// The `spec` of the deployment's object that was looked at last: only a different one is a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// When the split in force came into force.
    pub since: Timestamp,
    /// Who brought it into force, and why.
    pub author: Author,
    /// The changes that led here.
    pub history: History,
}

/// What a `spec` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Asked {
    /// How traffic is to be shared out.
    pub split: Split,
    /// Whether another change came first, so that it is not brought about.
    #[serde(default, skip_serializing_if = "is_false")]
    pub superseded: bool,
}

/// A smoke test that was passed. It counts for what was tested, until the active colour changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct SmokePass {
    /// What was tested.
    pub identity: Identity,
    /// The deployment's revision then.
    pub revision: Revision,
    /// When.
    pub at: Timestamp,
}

/// A change of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The candidate becomes active, canary 0. With a colour: that one, if it is not active already.
    Promote(Option<Colour>),
    /// The previously active colour becomes active again, canary 0. With a colour: if that is the one.
    RollBack(Option<Colour>),
    /// This colour gets the traffic at a start, because the configured one does not answer. It makes no way back: nothing
    /// has served yet.
    StartOn(Colour),
    /// Something else is put behind a colour.
    AdoptVersion(Colour, Identity),
    /// What is behind a colour has become another version by itself.
    FollowVersion(Colour, Version),
    /// Set what is named.
    Patch(Patch),
    /// Take over a configuration's `initial`, if it is not the one applied last.
    AdoptInitial(Split),
    /// Take over a `spec`, if it is not the one looked at last.
    AdoptSpec(Split),
    /// Leave a `spec` be: another change came first.
    PassOverSpec(Split),
    /// Take a rollout further, or end it.
    Rollout(RolloutCommand),
    /// Remember what a smoke test came to. A failure takes back an earlier pass.
    RecordSmokeTest(SmokeTestOutcome),
    /// Go on measuring as if the clock had not been set.
    Restamp(Restamp),
}

/// What becomes of the points that spans are measured from: a bake window, a rollout's step, the validity of a smoke test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restamp {
    /// They are moved along with the clock by which they were noted.
    Along(ClockStep),
    /// Those that lie ahead are now: they were noted by a clock that was set back since, by how much is not known.
    NotAhead,
}

/// What a smoke test came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeTestOutcome {
    /// The colour that was tested.
    pub colour: Colour,
    /// What was tested: what is behind it, or what waits to be.
    pub identity: Identity,
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
    /// A rollback to this colour, which is not the way back.
    NotTheWayBack(Colour),
    /// A promote without a colour, when this candidate is what was just left.
    NothingToPromote(Colour),
    /// The rollout does not go there.
    Rollout(rollout::Refusal),
    /// The colour that was tested is not the candidate any more.
    CandidateChanged,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_false(flag: &bool) -> bool {
    !flag
}

// === impl Refusal ===

impl Refusal {
    /// The kind of problem, as the API and metrics name it.
    pub const fn problem(self) -> &'static str {
        match self {
            Self::NothingToRollBackTo | Self::NotTheWayBack(_) => "nothing-to-roll-back-to",
            Self::Rollout(rollout::Refusal::UnderWay) => "rollout-under-way",
            Self::Rollout(rollout::Refusal::NoRollout) => "no-rollout",
            Self::Rollout(rollout::Refusal::Moved) => "rollout-moved",
            Self::NothingToPromote(_) => "nothing-to-promote",
            Self::CandidateChanged => "unsettled",
        }
    }
}

// === impl Restamp ===

impl Restamp {
    /// What becomes of a point.
    #[must_use]
    pub fn moves(self, at: Timestamp, now: Timestamp) -> Timestamp {
        match self {
            Self::Along(step) => at.set_along(step),
            Self::NotAhead if at.is_ahead_of(now) => now,
            Self::NotAhead => at,
        }
    }
}

// === impl State ===

impl State {
    /// The state of a deployment that was never changed.
    pub fn initial(initial: Split, now: Timestamp) -> Self {
        Self {
            revision: Revision::ZERO,
            split: initial,
            rollback_to: None,
            left: None,
            identities: PerColour::default(),
            switched_at: None,
            kept: None,
            smoke: PerColour::default(),
            rollout: None,
            initial,
            asked: None,
            since: now,
            author: Author::config(),
            history: History::default(),
        }
    }

    /// Decodes what the store holds; `None` when it is nothing that this module wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        json::from_slice(bytes).ok()
    }

    /// Encodes for the store.
    pub fn encode(&self) -> Vec<u8> {
        // Serialising to memory cannot fail for these types; an empty value reads as absent, so it could do no harm.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The state after `command`, or `None` when it is this one already. A promotion leaves nothing with the former colour.
    ///
    /// # Errors
    /// The rule that refuses the command.
    pub fn after(&self, command: &Command, author: Author, now: Timestamp) -> Result<Option<Self>, Refusal> {
        self.after_keeping(None, command, author, now)
    }

    /// The same, where a promotion leaves `keep` with the former colour.
    ///
    /// # Errors
    /// The rule that refuses the command.
    pub fn after_keeping(
        &self,
        keep: Option<Keep>,
        command: &Command,
        author: Author,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        let replaced = match *command {
            Command::AdoptVersion(colour, ref to) => self.replacement(colour, |_| to.clone()),
            Command::FollowVersion(colour, ref version) => {
                self.replacement(colour, |from| Identity { version: version.clone(), ..from.clone() })
            }
            _ => None,
        };
        let (split, rollback_to) = match *command {
            Command::Promote(to) => match self.promoted_to(to)? {
                Some(colour) => (self.switched_to(colour), Some(self.split.active)),
                None => return Ok(None),
            },
            Command::RollBack(to) => self.rolled_back_to(to)?,
            Command::StartOn(colour) => (self.switched_to(colour), None),
            Command::AdoptVersion(colour, _) | Command::FollowVersion(colour, _) => match &replaced {
                Some(_) => (self.without_canary_of(colour), self.rollback_to),
                None => return Ok(None),
            },
            Command::Patch(patch) => self.with(patch.applied_to(self.split)),
            Command::AdoptInitial(initial) if initial == self.initial => return Ok(None),
            Command::AdoptInitial(initial) if self.agrees_with(initial) => {
                self.with(Split { shadow_percent: initial.shadow_percent, ..self.split })
            }
            Command::AdoptInitial(initial) => self.with(initial),
            Command::AdoptSpec(split) | Command::PassOverSpec(split) if self.was_asked(split) => return Ok(None),
            Command::AdoptSpec(split) if self.agrees_with(split) => {
                self.with(Split { shadow_percent: split.shadow_percent, ..self.split })
            }
            Command::AdoptSpec(split) => self.with(split),
            Command::PassOverSpec(_) => (self.split, self.rollback_to),
            Command::Rollout(to) => self.with(to.split(self.split, self.rollout).map_err(Refusal::Rollout)?),
            Command::RecordSmokeTest(ref outcome) => return self.tested(outcome, now).map(Some),
            Command::Restamp(how) => return Ok(Some(self.restamped(how, now)).filter(|after| after != self)),
        };
        let (split, kept) = self.keeping(keep, command, split, now);
        let initial = if let Command::AdoptInitial(initial) = *command { initial } else { self.initial };
        let asked = match *command {
            Command::AdoptSpec(split) => Some(Asked { split, superseded: false }),
            Command::PassOverSpec(split) => Some(Asked { split, superseded: true }),
            _ => self.asked,
        };
        let rollout = match *command {
            Command::Rollout(to) => Some(to.rollout(self.split, self.rollout, now)),
            Command::AdoptVersion(colour, _) | Command::FollowVersion(colour, _) => {
                self.rollout.map(|rollout| rollout.replaced(colour, now))
            }
            _ => self.rollout.map(|rollout| rollout.overruled(self.split, split, author.source, now)),
        };
        if split == self.split && replaced.is_none() {
            // The same traffic under a new `initial` is no change of the deployment, but it must be remembered; and so
            // must a rollout that stops or goes on, and that a share is on trial which was kept.
            let remembered = Self { initial, asked, rollout, kept, ..self.clone() };
            return Ok(Some(remembered).filter(|remembered| remembered != self));
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
            kept: kept.filter(|_| kept != self.kept),
            replaced: replaced.clone(),
        });
        let switched = split.active != self.split.active;
        let switched_at = if switched { Some(now) } else { self.switched_at };
        let left = match rollback_to {
            Some(colour) if switched => self.identities.get(colour).clone(),
            _ if switched => None,
            _ => self.left.clone(),
        };
        let (mut identities, mut smoke) = (self.identities.clone(), self.smoke.clone());
        if switched {
            smoke = PerColour::default();
        }
        if let Some(Replacement { colour, to, .. }) = replaced {
            let pass = smoke.get_mut(colour);
            *pass = pass.take().filter(|pass| pass.identity == to);
            *identities.get_mut(colour) = Some(to);
        }
        Ok(Some(Self {
            revision,
            split,
            rollback_to,
            left,
            identities,
            switched_at,
            kept,
            smoke,
            rollout,
            initial,
            asked,
            since: now,
            author,
            history,
        }))
    }

    /// The same state after a smoke test. It makes no revision: no request is routed otherwise.
    fn tested(&self, outcome: &SmokeTestOutcome, now: Timestamp) -> Result<Self, Refusal> {
        let SmokeTestOutcome { colour, identity, passed } = outcome.clone();
        // What is active already was meant to be tested before it was.
        if colour == self.split.active && self.identities.get(colour).as_ref() == Some(&identity) {
            return Err(Refusal::CandidateChanged);
        }
        let mut after = self.clone();
        let pass = after.smoke.get_mut(colour);
        if passed {
            *pass = Some(SmokePass { identity, revision: self.revision, at: now });
        } else {
            *pass = pass.take().filter(|pass| pass.identity != identity);
        }
        Ok(after)
    }

    /// The same state, in which the points that spans are measured from are moved. What the history says stays: so it was said.
    #[must_use]
    pub fn restamped(&self, how: Restamp, now: Timestamp) -> Self {
        let moved = |at: Timestamp| how.moves(at, now);
        let mut after = self.clone();
        after.switched_at = self.switched_at.map(moved);
        // It lies ahead by right, and as far from the promotion as before.
        after.kept = self.kept.map(|Kept { until }| match self.switched_at {
            Some(at) => Kept { until: moved(at).plus(until.since(at)) },
            None => Kept { until: moved(until) },
        });
        after.rollout =
            self.rollout.map(|rollout| Rollout { began: moved(rollout.began), since: moved(rollout.since), ..rollout });
        for colour in Colour::ALL {
            if let Some(pass) = after.smoke.get_mut(colour) {
                pass.at = moved(pass.at);
            }
        }
        after
    }

    /// The same state, in which what the configuration names is behind each colour of which nothing else is known.
    #[must_use]
    pub fn knowing(&self, configured: &PerColour<Identity>) -> Self {
        let known = |colour| self.identities.get(colour).clone().or_else(|| Some(configured.get(colour).clone()));
        let left = self.left.clone().or_else(|| Some(configured.get(self.rollback_to?).clone()));
        Self { identities: PerColour::from_fn(known), left, ..self.clone() }
    }

    /// Whether what is behind the way back is something else than what was left there.
    pub fn is_way_back_replaced(&self) -> bool {
        self.rollback_to.is_some_and(|colour| *self.identities.get(colour) != self.left)
    }

    /// Whether a rollback goes to what has served, or passed the smoke test at least.
    pub fn is_way_back_proven(&self) -> bool {
        self.rollback_to.is_some_and(|colour| {
            let pass = self.smoke.get(colour).as_ref().map(|pass| &pass.identity);
            !self.is_way_back_replaced() || pass == self.identities.get(colour).as_ref()
        })
    }

    /// Whether something relies on what is behind a colour: ordinary traffic does, and a way back.
    pub fn relies_on(&self, colour: Colour) -> bool {
        colour == self.split.active || (self.rollback_to == Some(colour) && !self.is_way_back_replaced())
    }

    /// The split as it is meant to last: without what a promotion left with the former colour for a while.
    pub fn lasting_split(&self) -> Split {
        let canary_percent = if self.kept.is_some() { Percent::ZERO } else { self.split.canary_percent };
        Split { canary_percent, ..self.split }
    }

    /// Whether this `spec` is the one that was looked at last.
    pub fn was_asked(&self, split: Split) -> bool {
        self.asked.is_some_and(|asked| asked.split == split)
    }

    /// Whether a configuration's `initial`, or a `spec`, shares the traffic out as it is.
    pub fn agrees_with(&self, initial: Split) -> bool {
        Split { shadow_percent: initial.shadow_percent, ..self.lasting_split() } == initial
    }

    /// What becomes of `split`, which the command makes, and of the share that the former colour keeps.
    ///
    /// A promotion leaves one. A way back leaves none: what is left then may be what failed. Who sets a share has the one that
    /// they set.
    fn keeping(&self, keep: Option<Keep>, command: &Command, split: Split, now: Timestamp) -> (Split, Option<Kept>) {
        if split.active != self.split.active {
            let is_promotion = match command {
                Command::Promote(_) | Command::Rollout(RolloutCommand::Next(_, Next::Promote)) => true,
                Command::Patch(patch) => patch.canary_percent.is_none(),
                Command::AdoptInitial(split) | Command::AdoptSpec(split) => split.canary_percent == Percent::ZERO,
                _ => false,
            };
            let goes_back = self.rollback_to == Some(split.active) && !self.is_way_back_replaced();
            return match keep.filter(|_| is_promotion && !goes_back) {
                Some(Keep { share, r#for }) => {
                    (Split { canary_percent: share, ..split }, Some(Kept { until: now.plus(r#for) }))
                }
                None => (split, None),
            };
        }
        let sets_share = match command {
            Command::Patch(patch) => patch.canary_percent.is_some(),
            Command::Rollout(RolloutCommand::Start(_)) => true,
            Command::AdoptInitial(split) | Command::AdoptSpec(split) => !self.agrees_with(*split),
            _ => split.canary_percent != self.split.canary_percent,
        };
        (split, self.kept.filter(|_| !sets_share))
    }

    /// What comes in place of what is behind a colour, unless it is the same.
    fn replacement(&self, colour: Colour, to: impl FnOnce(&Identity) -> Identity) -> Option<Replacement> {
        let from = self.identities.get(colour).clone()?;
        let to = to(&from);
        (from != to).then_some(Replacement { colour, from, to })
    }

    /// The colour that a promote makes active, if it does.
    fn promoted_to(&self, to: Option<Colour>) -> Result<Option<Colour>, Refusal> {
        let candidate = self.split.candidate();
        match to {
            Some(colour) => Ok((colour == candidate).then_some(colour)),
            None if self.rollback_to == Some(candidate) && !self.is_way_back_replaced() => {
                Err(Refusal::NothingToPromote(candidate))
            }
            None => Ok(Some(candidate)),
        }
    }

    /// What a rollback makes of the split, and the way back after it.
    fn rolled_back_to(&self, to: Option<Colour>) -> Result<(Split, Option<Colour>), Refusal> {
        let (active, canary) = (self.split.active, self.split.canary_percent > Percent::ZERO);
        match (self.rollback_to, to) {
            // It has been made already. A canary since then ends: all traffic is asked back.
            (way_back, Some(colour)) if colour == active => Ok((self.switched_to(active), way_back)),
            (Some(way_back), Some(colour)) if way_back != colour => Err(Refusal::NotTheWayBack(colour)),
            // A canary of what has come to the way back since is what is taken back.
            (way_back, None) if canary && self.is_way_back_replaced() => Ok((self.switched_to(active), way_back)),
            (Some(way_back), _) => Ok((self.switched_to(way_back), None)),
            (None, Some(colour)) => Err(Refusal::NotTheWayBack(colour)),
            (None, None) if canary => Ok((self.switched_to(active), None)),
            (None, None) => Err(Refusal::NothingToRollBackTo),
        }
    }

    /// A candidate that is replaced gets no traffic: none of it was meant for what comes.
    fn without_canary_of(&self, colour: Colour) -> Split {
        let canary_percent = if colour == self.split.active { self.split.canary_percent } else { Percent::ZERO };
        Split { canary_percent, ..self.split }
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
                "there is nothing to roll back to: no switch has happened since the start or since the last rollback, and no \
                 canary is running; use promote, or PATCH active=",
            ),
            Refusal::NotTheWayBack(colour) => write!(
                f,
                "there is nothing to roll back to: {colour} is not the way back, which is the colour that the last switch left; \
                 use promote to={colour}"
            ),
            Refusal::NothingToPromote(colour) => write!(
                f,
                "there is nothing to promote: behind {colour} is the version that was just left; use rollback, or promote \
                 to={colour} if you mean it"
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
    use crate::state::rollout::{Phase, Shares};
    use crate::testing::{identity, percent, split};

    fn start() -> State {
        State::initial(Split::default(), Timestamp::from_millis(0))
    }

    fn alice() -> Author {
        Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none())
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
        let promoted = after(&canary, Command::Promote(None));
        assert_eq!(promoted.split, split("green", "0", "5"));
        assert_eq!(promoted.rollback_to, Some(Colour::Blue));
        assert_eq!(promoted.revision, Revision::new(2));
    }

    #[test]
    fn a_rollback_goes_back_once_and_not_forward_again() {
        let promoted = after(&start(), Command::Promote(None));
        let back = after(&promoted, Command::RollBack(None));
        assert_eq!(back.split.active, Colour::Blue);
        assert_eq!(back.after(&Command::RollBack(None), alice(), back.since), Err(Refusal::NothingToRollBackTo));
        let again = after(&after(&back, Command::Promote(None)), Command::RollBack(None));
        assert_eq!(again.split.active, Colour::Blue);
    }

    #[test]
    fn a_rollback_during_a_first_canary_ends_the_canary() {
        let canary = after(&start(), patch(None, Some("10"), None));
        let back = after(&canary, Command::RollBack(None));
        assert_eq!(back.split, split("blue", "0", "0"));
        assert_eq!(start().after(&Command::RollBack(None), alice(), start().since), Err(Refusal::NothingToRollBackTo));
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
        assert_eq!(after(&green, Command::RollBack(None)).split.active, Colour::Blue);
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        let same = start().after(&patch(Some(Colour::Blue), Some("0"), None), alice(), Timestamp::default());
        assert_eq!(same, Ok(None));
    }

    #[test]
    fn only_a_different_initial_is_a_change() {
        let green = split("green", "0", "0");
        let promoted = after(&start(), Command::Promote(None));
        let back = after(&promoted, Command::RollBack(None));
        assert_eq!(back.after(&Command::AdoptInitial(start().initial), alice(), back.since), Ok(None));

        let pushed = after(&back, Command::AdoptInitial(green));
        assert_eq!((pushed.split, pushed.initial, pushed.revision), (green, green, Revision::new(3)));
        assert_eq!(after(&pushed, Command::RollBack(None)).split.active, Colour::Blue);
    }

    #[test]
    fn an_initial_that_the_operator_had_already_set_is_remembered_without_a_change() {
        let promoted = after(&start(), Command::Promote(None));
        let pushed = after(&promoted, Command::AdoptInitial(promoted.split));
        assert_eq!((pushed.revision, pushed.initial), (promoted.revision, promoted.split));
        assert_eq!(pushed.history, promoted.history);
    }

    fn known() -> State {
        start().knowing(&PerColour { blue: identity("1"), green: identity("2") })
    }

    fn adopt(colour: Colour, version: &str) -> Command {
        Command::AdoptVersion(colour, identity(version))
    }

    #[test]
    fn another_version_behind_a_colour_is_a_change_and_says_what_came_in_place_of_what() {
        let adopted = after(&known(), adopt(Colour::Green, "3"));
        assert_eq!((adopted.revision, adopted.split), (Revision::new(1), known().split));
        let newest = adopted.history.newest().expect("recorded");
        let replaced = Replacement { colour: Colour::Green, from: identity("2"), to: identity("3") };
        assert_eq!(newest.replaced, Some(replaced));
        let line = newest.log_line("iris").to_string();
        assert!(line.contains(" green.version=2->3 green.cluster=2->3 reason="), "{line}");
        assert_eq!(adopted.after(&adopt(Colour::Green, "3"), alice(), adopted.since), Ok(None));
        let followed = after(&known(), Command::FollowVersion(Colour::Blue, Version::new("9").expect("valid")));
        let expected = Identity { version: Version::new("9").expect("valid"), ..identity("1") };
        assert_eq!(followed.identities.blue, Some(expected));
    }

    #[test]
    fn only_a_candidate_that_is_replaced_loses_its_canary() {
        let canary = after(&known(), patch(None, Some("10"), Some("5")));
        for (colour, expected) in [(Colour::Green, split("blue", "0", "5")), (Colour::Blue, split("blue", "10", "5"))] {
            assert_eq!(after(&canary, adopt(colour, "3")).split, expected, "{colour}");
        }
    }

    #[test]
    fn a_rollout_of_a_replaced_candidate_ends_and_another_colours_goes_on() {
        let started = after(&known(), Command::Rollout(RolloutCommand::Start(Shares::canary(percent("10")))));
        for (colour, phase) in [(Colour::Green, Phase::Replaced), (Colour::Blue, Phase::Running)] {
            let rollout = after(&started, adopt(colour, "3")).rollout.expect("one");
            assert_eq!(rollout.phase, phase, "{colour}");
        }
        let promoted = after(&started, Command::Promote(None));
        assert_eq!(
            after(&promoted, adopt(Colour::Green, "3")).rollout.map(|rollout| rollout.phase),
            Some(Phase::Aborted)
        );
    }

    #[test]
    fn a_pass_of_the_smoke_test_belongs_to_what_was_tested() {
        let test = |version: &str, passed| {
            let outcome = SmokeTestOutcome { colour: Colour::Green, identity: identity(version), passed };
            Command::RecordSmokeTest(outcome)
        };
        let tested = |state: &State| state.smoke.green.as_ref().map(|pass| pass.identity.clone());
        let passed = after(&known(), test("2", true));
        assert_eq!(tested(&passed), Some(identity("2")));
        assert_eq!(tested(&after(&passed, adopt(Colour::Green, "3"))), None);
        // What waits to come may be tested before, and its pass comes along.
        let early = after(&passed, test("3", true));
        assert_eq!(tested(&after(&early, adopt(Colour::Green, "3"))), Some(identity("3")));
        // A failure takes back its own pass only.
        assert_eq!(tested(&after(&passed, test("3", false))), Some(identity("2")));
        assert_eq!(tested(&after(&passed, test("2", false))), None);
        assert_eq!(tested(&after(&early, Command::Promote(None))), None);
    }

    #[test]
    fn a_test_of_what_has_become_active_meanwhile_counts_for_nothing() {
        let promoted = after(&known(), Command::Promote(None));
        let outcome = |version: &str| {
            let outcome = SmokeTestOutcome { colour: Colour::Green, identity: identity(version), passed: true };
            promoted.after(&Command::RecordSmokeTest(outcome), alice(), promoted.since)
        };
        assert_eq!(outcome("2"), Err(Refusal::CandidateChanged));
        assert!(outcome("3").is_ok(), "it waits to come");
    }

    #[test]
    fn the_way_back_is_what_was_left_there() {
        let promoted = after(&known(), Command::Promote(None));
        assert!(!promoted.is_way_back_replaced() && promoted.relies_on(Colour::Blue) && promoted.is_way_back_proven());
        let replaced = after(&promoted, adopt(Colour::Blue, "3"));
        assert!(replaced.is_way_back_replaced() && !replaced.relies_on(Colour::Blue) && !replaced.is_way_back_proven());
        let back = after(&replaced, adopt(Colour::Blue, "1"));
        assert!(!back.is_way_back_replaced());
        let again = after(&after(&replaced, Command::Promote(None)), adopt(Colour::Blue, "4"));
        assert_eq!((again.left.clone(), again.is_way_back_replaced()), (Some(identity("2")), false));
        assert!(
            !known().is_way_back_replaced() && known().relies_on(Colour::Blue) && !known().relies_on(Colour::Green)
        );
    }

    #[test]
    fn a_promote_without_a_colour_is_no_way_back() {
        let promoted = after(&known(), Command::Promote(None));
        let refused = Err(Refusal::NothingToPromote(Colour::Blue));
        assert_eq!(promoted.after(&Command::Promote(None), alice(), promoted.since), refused);
        assert_eq!(promoted.after(&Command::Promote(Some(Colour::Green)), alice(), promoted.since), Ok(None));
        assert_eq!(after(&promoted, Command::Promote(Some(Colour::Blue))).split.active, Colour::Blue);
        assert_eq!(
            after(&after(&promoted, adopt(Colour::Blue, "3")), Command::Promote(None)).split.active,
            Colour::Blue
        );
        let back = after(&promoted, Command::RollBack(None));
        assert_eq!(after(&back, Command::Promote(None)).split.active, Colour::Green);
    }

    #[test]
    fn a_rollback_with_a_colour_goes_there_or_nowhere() {
        let promoted = after(&known(), Command::Promote(None));
        let to = |state: &State, colour| state.after(&Command::RollBack(Some(colour)), alice(), state.since);
        let back = to(&promoted, Colour::Blue).expect("allowed").expect("a change");
        assert_eq!(to(&back, Colour::Blue), Ok(None));
        assert_eq!(to(&back, Colour::Green), Err(Refusal::NotTheWayBack(Colour::Green)));
        assert_eq!(to(&promoted, Colour::Green), Ok(None));
        // All traffic is asked back.
        let canary = after(&back, patch(None, Some("10"), None));
        assert_eq!(to(&canary, Colour::Blue).expect("allowed").expect("a change").split, split("blue", "0", "0"));
    }

    const KEEP: Option<Keep> =
        Some(Keep { share: Percent::from_hundredths(200).unwrap(), r#for: std::time::Duration::from_secs(600) });

    fn keeping(state: &State, command: &Command) -> State {
        let later = state.since.plus(std::time::Duration::from_millis(1));
        state.after_keeping(KEEP, command, alice(), later).expect("allowed").expect("a change")
    }

    #[test]
    fn every_promotion_leaves_a_share_with_the_former_colour_and_nothing_else_does() {
        let running = after(&known(), Command::Rollout(RolloutCommand::Start(Shares::canary(percent("10")))));
        let rollout = running.rollout.expect("running");
        let next = |next| Command::Rollout(RolloutCommand::Next(rollout, next));
        let promoted = after(&known(), Command::Promote(None));
        let replaced = after(&promoted, adopt(Colour::Blue, "3"));
        let (kept, none) = (Some("2"), None);
        let cases = [
            (&known(), Command::Promote(None), kept),
            (&running, Command::Promote(Some(Colour::Green)), kept),
            (&running, next(Next::Promote), kept),
            (&known(), patch(Some(Colour::Green), None, None), kept),
            (&known(), Command::AdoptInitial(split("green", "0", "0")), kept),
            (&replaced, Command::Promote(None), kept),
            (&running, next(Next::Step(Shares::canary(percent("20")))), none),
            (&known(), patch(Some(Colour::Green), Some("0"), None), none),
            (&known(), patch(Some(Colour::Green), Some("2"), None), none),
            (&known(), Command::AdoptInitial(split("green", "5", "0")), none),
            (&known(), Command::StartOn(Colour::Green), none),
            // These go back, by whatever name.
            (&promoted, Command::RollBack(None), none),
            (&promoted, Command::Promote(Some(Colour::Blue)), none),
            (&promoted, patch(Some(Colour::Blue), None, None), none),
        ];
        for (before, command, expected) in cases {
            let after = keeping(before, &command);
            assert_eq!(after.kept.is_some(), expected.is_some(), "{command:?}");
            if let Some(share) = expected {
                assert_eq!(after.split.canary_percent, percent(share), "{command:?}");
                assert_eq!(after.lasting_split().canary_percent, Percent::ZERO);
                let until = after.switched_at.expect("switched").plus(std::time::Duration::from_secs(600));
                assert_eq!(after.kept, Some(Kept { until }), "{command:?}");
                let newest = after.history.newest().expect("recorded");
                assert_eq!((newest.to, newest.kept), (after.split, after.kept));
                let line = newest.log_line("iris").to_string();
                assert!(line.contains(&format!(" kept_until={until} reason=")), "{line}");
            }
        }
    }

    #[test]
    fn whoever_sets_a_share_ends_the_one_that_was_kept_and_nobody_else_does() {
        let kept = keeping(&known(), &Command::Promote(None));
        let ends = [
            Command::RollBack(None),
            Command::RollBack(Some(Colour::Green)),
            Command::Promote(Some(Colour::Blue)),
            patch(None, Some("0"), None),
            patch(None, Some("2"), None),
            patch(Some(Colour::Blue), None, None),
            Command::Rollout(RolloutCommand::Start(Shares::canary(percent("2")))),
            Command::AdoptInitial(split("green", "2", "0")),
            adopt(Colour::Blue, "3"),
        ];
        for command in ends {
            assert_eq!(keeping(&kept, &command).kept, None, "{command:?}");
        }
        let stays = [
            patch(Some(Colour::Green), None, Some("5")),
            Command::AdoptInitial(split("green", "0", "0")),
            Command::AdoptInitial(split("green", "0", "5")),
            adopt(Colour::Green, "3"),
        ];
        for command in stays {
            let after = keeping(&kept, &command);
            assert_eq!((after.kept, after.split.canary_percent), (kept.kept, percent("2")), "{command:?}");
            let newest = after.history.newest().expect("recorded");
            assert!(newest.revision == kept.revision || newest.kept.is_none(), "{command:?}");
        }
        let again = |command| kept.after_keeping(KEEP, &command, alice(), kept.since);
        assert_eq!(again(Command::Promote(Some(Colour::Green))), Ok(None));
        assert_eq!(again(Command::Promote(None)), Err(Refusal::NothingToPromote(Colour::Blue)));
    }

    #[test]
    fn a_rollback_while_a_share_is_kept_goes_back_and_the_end_of_one_is_no_end_of_a_rollout() {
        let running = after(&known(), Command::Rollout(RolloutCommand::Start(Shares::canary(percent("10")))));
        let next = RolloutCommand::Next(running.rollout.expect("running"), Next::Promote);
        let kept = keeping(&running, &Command::Rollout(next));
        let phase = |state: &State| state.rollout.map(|rollout| rollout.phase);
        assert_eq!((phase(&kept), kept.split), (Some(Phase::Promoted), split("green", "2", "0")));
        let back = keeping(&kept, &Command::RollBack(None));
        assert_eq!((back.split, phase(&back)), (split("blue", "0", "0"), Some(Phase::RolledBack)));
        let over = keeping(&kept, &patch(None, Some("0"), None));
        assert_eq!((over.split, phase(&over)), (split("green", "0", "0"), Some(Phase::Promoted)));
        assert_eq!((over.rollback_to, over.switched_at), (Some(Colour::Blue), kept.switched_at));
    }

    #[test]
    fn a_clock_that_is_set_moves_the_end_of_what_is_kept_along_with_its_beginning() {
        let kept = keeping(&known(), &Command::Promote(None));
        let until = |state: &State| state.kept.expect("kept").until;
        // It lies ahead, and that is no mistake.
        let much_later = until(&kept);
        assert_eq!(kept.restamped(Restamp::NotAhead, kept.since), kept);
        let hour = std::time::Duration::from_secs(3_600);
        let noted_ahead = keeping(&State { since: kept.since.plus(hour), ..known() }, &Command::Promote(None));
        let moved = noted_ahead.restamped(Restamp::NotAhead, kept.since);
        assert_eq!((moved.switched_at, until(&moved)), (Some(kept.since), much_later));
    }

    #[test]
    fn a_state_that_was_written_before_shares_were_kept_is_read() {
        let kept = keeping(&known(), &Command::Promote(None));
        assert_eq!(State::decode(&kept.encode()), Some(kept));
        let plain = String::from_utf8(after(&known(), Command::Promote(None)).encode()).expect("JSON");
        assert!(!plain.contains("kept"), "{plain}");
        assert_eq!(State::decode(plain.as_bytes()).expect("a state").kept, None);
    }

    #[test]
    fn a_start_on_the_other_colour_makes_no_way_back() {
        let started = after(&known(), Command::StartOn(Colour::Green));
        assert_eq!((started.split.active, started.rollback_to, started.left.clone()), (Colour::Green, None, None));
        assert_eq!(started.after(&Command::RollBack(None), alice(), started.since), Err(Refusal::NothingToRollBackTo));
    }

    #[test]
    fn a_foreign_value_is_no_state() {
        for bytes in [&b""[..], b"{}", b"\xff", b"null", b"{\"revision\": -1}"] {
            assert_eq!(State::decode(bytes), None);
        }
        let state = after(&start(), Command::Promote(None));
        assert_eq!(State::decode(&state.encode()), Some(state));
    }

    #[test]
    fn names_in_a_stored_state_are_checked_as_those_of_a_configuration_are() {
        let stored = String::from_utf8(after(&known(), Command::Promote(None)).encode()).expect("JSON");
        let cases = [
            (r#""by":"alice""#, r#""by":"alice reason=\n""#),
            (r#""by":"alice""#, r#""by":"\u001b[2Jalice""#),
            (r#""reason":"""#, r#""reason":"a\nb""#),
            (r#""reason":"""#, r#""reason":"\u202edesrever""#),
            (r#""version":"1""#, r#""version":"1\u200b""#),
            (r#""cluster":"1""#, r#""cluster":"1\r\nx: y""#),
        ];
        for (valid, forged) in cases {
            assert!(stored.contains(valid), "{valid} in {stored}");
            assert_eq!(State::decode(stored.replace(valid, forged).as_bytes()), None, "{forged}");
        }
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
                proptest::option::of(colour.clone()).prop_map(Command::Promote),
                proptest::option::of(colour.clone()).prop_map(Command::RollBack),
                (colour.clone(), 1..=4_u8).prop_map(|(colour, version)| adopt(colour, &version.to_string())),
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
                let mut state = known();
                let mut changes = 0;
                for (step, command) in commands.into_iter().enumerate() {
                    let now = Timestamp::from_millis(step as u64);
                    let Ok(Some(next)) = state.after(&command, alice(), now) else { continue };
                    if next.split != state.split || next.identities != state.identities {
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
