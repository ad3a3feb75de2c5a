//! An automatic series of canary steps: where it stands, and what takes it further.
//!
//! The position is part of a deployment's [`State`](super::State), so it survives whatever the state survives, and each step
//! is one compare-and-swap with the split that it brings. The controller of rollouts waits, counts, asks the guard and asks
//! for the next move.

use std::fmt;

use serde::Serialize;

use crate::config::{RolloutPlan, RolloutStep, Then};
use crate::json::FromJson;
use crate::model::author::Source;
use crate::model::colour::Colour;
use crate::model::percent::Percent;
use crate::model::split::Split;
use crate::model::time::Timestamp;

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Rollout {
    /// The colour that gets more and more.
    pub candidate: Colour,
    /// What it is doing.
    pub phase: Phase,
    /// The step in force, from 0.
    pub step: usize,
    /// When it began.
    pub began: Timestamp,
    /// Since when it has been in this step and phase.
    pub since: Timestamp,
    /// Whether its steps say what share is copied to the candidate. At its end none is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copies: bool,
}

/// What a step makes of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The candidate's share.
    pub canary: Percent,
    /// The share of the active colour's requests that are copied to it; none: as it is.
    pub shadow: Option<Percent>,
}

/// What a rollout is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits for what its step asks for, and goes on then.
    Running,
    /// An operator stopped it where it is.
    Paused,
    /// The guard stopped it where it is.
    Breached,
    /// It has taken all steps, and an operator decides.
    Complete,
    /// The candidate became active. An end.
    Promoted,
    /// An operator or a source set the traffic. An end.
    Aborted,
    /// The guard took the traffic back. An end.
    RolledBack,
    /// Another version was put behind the candidate. An end.
    Replaced,
}

/// A change of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutCommand {
    /// The first step.
    Start(Shares),
    /// What follows on a step, if the rollout still stands where it was seen.
    Next(Rollout, Next),
    /// An operator stops it.
    Pause,
    /// The guard stops it, if it still stands where it was seen.
    Breach(Rollout),
    /// It goes on, and its step begins anew.
    Resume,
    /// It ends, and the candidate gets no more traffic.
    Abort,
}

/// Why a move cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A rollout is under way already.
    UnderWay,
    /// No rollout is under way that the move could apply to.
    NoRollout,
    /// The rollout is not where it was when the move was asked for.
    Moved,
}

/// What follows on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next one.
    Step(Shares),
    /// The candidate is promoted.
    Promote,
    /// An operator is waited for.
    Wait,
}

// === impl Rollout ===

impl Rollout {
    /// Whether it can still go on.
    pub const fn is_live(self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused | Phase::Breached | Phase::Complete)
    }

    /// Whether a change ends a rollout by promoting its candidate.
    pub fn ends_with(before: Option<Self>, after: Option<Self>) -> bool {
        before.is_some_and(Self::is_live) && after.is_some_and(|after| after.phase == Phase::Promoted)
    }

    /// The rollout after `source` set the traffic from `before` to `after` otherwise than by a move of the rollout.
    #[must_use]
    pub fn overruled(self, before: Split, after: Split, source: Source, now: Timestamp) -> Self {
        let same_shadow = !self.copies || after.shadow_percent == before.shadow_percent;
        let same_traffic =
            after.active == before.active && after.canary_percent == before.canary_percent && same_shadow;
        let phase = match (self.phase, source) {
            _ if same_traffic => self.phase,
            (Phase::Complete, _) if after.active == self.candidate => Phase::Promoted,
            (Phase::Promoted, _) if after.active != self.candidate => Phase::RolledBack,
            (_, Source::Guard | Source::Failover) if self.is_live() => Phase::RolledBack,
            _ if self.is_live() => Phase::Aborted,
            (ended, _) => ended,
        };
        if phase == self.phase { self } else { Self { phase, since: now, ..self } }
    }

    /// The rollout after something else was put behind a colour.
    #[must_use]
    pub fn replaced(self, colour: Colour, now: Timestamp) -> Self {
        let ends = self.is_live() && self.candidate == colour;
        if ends { Self { phase: Phase::Replaced, since: now, ..self } } else { self }
    }

    /// What is left of the traffic at its end: nobody is sent to what was not promoted, and what its steps had copied is copied
    /// no more.
    fn at_the_end(self) -> Shares {
        Shares { canary: Percent::ZERO, shadow: self.copies.then_some(Percent::ZERO) }
    }

    /// What follows on the step in force under `plan`.
    pub fn next(self, plan: &RolloutPlan) -> Next {
        match (plan.steps.get(self.step.saturating_add(1)), plan.then) {
            _ if self.phase == Phase::Complete => Next::Promote,
            (Some(step), _) => Next::Step(Shares::of(step, plan)),
            (None, Then::Promote) => Next::Promote,
            (None, Then::Pause) => Next::Wait,
        }
    }
}

// === impl Shares ===

impl Shares {
    /// A share of the users, whatever is copied.
    pub const fn canary(share: Percent) -> Self {
        Self { canary: share, shadow: None }
    }

    /// Those of a step of `plan`.
    pub fn of(step: &RolloutStep, plan: &RolloutPlan) -> Self {
        let shadow = plan.sets_shadow().then(|| step.shadow_percent.unwrap_or_default());
        Self { canary: step.canary_percent, shadow }
    }

    fn applied(self, split: Split) -> Split {
        let shadow_percent = self.shadow.unwrap_or(split.shadow_percent);
        Split { canary_percent: self.canary, shadow_percent, ..split }
    }
}

// === impl Phase ===

impl Phase {
    /// All phases.
    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Paused,
        Self::Breached,
        Self::Complete,
        Self::Promoted,
        Self::Aborted,
        Self::RolledBack,
        Self::Replaced,
    ];

    /// The name in API and log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Breached => "breached",
            Phase::Complete => "complete",
            Phase::Promoted => "promoted",
            Phase::Aborted => "aborted",
            Phase::RolledBack => "rolled_back",
            Phase::Replaced => "replaced",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl RolloutCommand ===

impl RolloutCommand {
    /// What the move makes of `split`, when the deployment's rollout stands at `here`.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn split(self, split: Split, here: Option<Rollout>) -> Result<Split, Refusal> {
        let live = here.filter(|rollout| rollout.is_live());
        let in_phase = |phases: &[Phase]| live.filter(|rollout| phases.contains(&rollout.phase));
        match self {
            RolloutCommand::Start(_) if live.is_some() => Err(Refusal::UnderWay),
            RolloutCommand::Start(shares) => Ok(shares.applied(split)),
            RolloutCommand::Next(seen, next) => match (live, next) {
                (None, _) => Err(Refusal::NoRollout),
                (Some(rollout), _) if rollout != seen => Err(Refusal::Moved),
                (Some(_), Next::Step(shares)) => Ok(shares.applied(split)),
                (Some(_), Next::Wait) => Ok(split),
                (Some(rollout), Next::Promote) => {
                    let after = Split { active: rollout.candidate, ..split };
                    Ok(rollout.at_the_end().applied(after))
                }
            },
            RolloutCommand::Breach(seen) if live != Some(seen) => Err(Refusal::Moved),
            RolloutCommand::Breach(_) => Ok(split),
            RolloutCommand::Pause => {
                in_phase(&[Phase::Running, Phase::Paused]).map(|_| split).ok_or(Refusal::NoRollout)
            }
            RolloutCommand::Resume => {
                in_phase(&[Phase::Paused, Phase::Breached, Phase::Running]).map(|_| split).ok_or(Refusal::NoRollout)
            }
            RolloutCommand::Abort => live.map(|rollout| rollout.at_the_end().applied(split)).ok_or(Refusal::NoRollout),
        }
    }

    /// Where the rollout stands after the move, which [`RolloutCommand::split`] has allowed for the same two.
    pub fn rollout(self, split: Split, here: Option<Rollout>, now: Timestamp) -> Rollout {
        let begin = |copies| Rollout {
            candidate: split.candidate(),
            phase: Phase::Running,
            step: 0,
            began: now,
            since: now,
            copies,
        };
        let here = here.unwrap_or_else(|| begin(false));
        let turn = |phase: Phase| if phase == here.phase { here } else { Rollout { phase, since: now, ..here } };
        match self {
            RolloutCommand::Start(shares) => begin(shares.shadow.is_some()),
            RolloutCommand::Next(_, Next::Step(shares)) => Rollout {
                phase: Phase::Running,
                step: here.step.saturating_add(1),
                since: now,
                copies: here.copies || shares.shadow.is_some(),
                ..here
            },
            RolloutCommand::Next(_, Next::Promote) => turn(Phase::Promoted),
            RolloutCommand::Next(_, Next::Wait) => turn(Phase::Complete),
            RolloutCommand::Pause => turn(Phase::Paused),
            RolloutCommand::Breach(_) => turn(Phase::Breached),
            RolloutCommand::Resume => turn(Phase::Running),
            RolloutCommand::Abort => turn(Phase::Aborted),
        }
    }
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::UnderWay => "a rollout is running: abort it first, or let it finish",
            Refusal::NoRollout => "no rollout is in a phase that allows this: look at its phase in the state",
            Refusal::Moved => "the rollout has changed meanwhile: look at it and repeat the call",
        })
    }
}

impl std::error::Error for Refusal {}
