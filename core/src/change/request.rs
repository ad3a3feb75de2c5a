//! What a change asks for.

use crate::deployment::DeploymentIndex;
use crate::model::author::{Author, Source};
use crate::model::colour::PerColour;
use crate::model::identity::Identity;
use crate::model::split::Revision;
use crate::state::Command;

/// A change of a deployment's state, asked for by an operator, a source, a guard, a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRequest {
    /// Of which deployment.
    pub deployment: DeploymentIndex,
    /// What.
    pub command: Command,
    /// As whom, and why.
    pub author: Author,
    /// On which state.
    pub precondition: Precondition,
    /// Whether the rules about readiness apply.
    pub checks: Checks,
    /// What is known to be healthy behind each colour, so that it needs no probe.
    pub healthy: PerColour<Option<Identity>>,
}

/// The states that a change is for. Another change since then is the later one, and wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Any.
    Any,
    /// Those at one of these revisions.
    Revisions(Vec<Revision>),
}

/// Whether the rules about readiness apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// They do.
    Enforce,
    /// They do not, and the change is recorded as forced: an operator takes the responsibility.
    Override,
    /// They do not, and the change is recorded as forced only where a rule stood against it.
    Skip,
}

// === impl ChangeRequest ===

impl ChangeRequest {
    /// A change of a state at `on`, or at any revision, under all rules.
    pub fn new(deployment: DeploymentIndex, command: Command, author: Author, on: Option<Revision>) -> Self {
        let precondition = on.map_or(Precondition::Any, |revision| Precondition::Revisions(vec![revision]));
        let healthy = PerColour::default();
        Self { deployment, command, author, precondition, checks: Checks::Enforce, healthy }
    }

    /// The same, under the rules or not.
    #[must_use]
    pub fn enforce(self, enforce: bool) -> Self {
        Self { checks: if enforce { Checks::Enforce } else { Checks::Skip }, ..self }
    }

    /// Through which door it comes.
    pub const fn source(&self) -> Source {
        self.author.source
    }

    /// Whether this one takes the other's place: the later request of a source about a deployment.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.deployment == other.deployment && self.source() == other.source()
    }
}

// === impl Precondition ===

impl Precondition {
    /// Whether a change may be made of a state at this revision.
    pub fn allows(&self, revision: Revision) -> bool {
        match self {
            Self::Any => true,
            Self::Revisions(revisions) => revisions.contains(&revision),
        }
    }
}
