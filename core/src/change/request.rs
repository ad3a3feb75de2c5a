//! What a source wants to be changed.
//!
//! A wish passes the same gate as an operator's call: [`Writing`](crate::admin::Writing) carries both out. What became of
//! it is kept with what the source was seen to say, in its [`Sighting`](crate::controllers::Sighting).

use crate::deployment::DeploymentIndex;
use crate::model::author::{Author, Source};
use crate::model::split::Revision;
use crate::state::Command;

/// A change that a source wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Of which deployment.
    pub deployment: DeploymentIndex,
    /// What.
    pub command: Command,
    /// As whom, and why.
    pub author: Author,
    /// Whether the rules about readiness apply. Without them the change is recorded as forced where one would have.
    pub enforce: bool,
    /// The revision that it was made for: a change by somebody else since then is the later one, and wins. `None`: it
    /// is for any revision.
    pub on: Option<Revision>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The state is as the wish wants it.
    Granted,
    /// The state changed before; the wish is void.
    Overtaken,
    /// It was not carried out, for this reason.
    Refused(String),
}

// === impl Wish ===

impl Wish {
    /// Through which door it comes.
    pub const fn source(&self) -> Source {
        self.author.source
    }

    /// Whether this one takes the other's place: the later wish of a source about a deployment.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.deployment == other.deployment && self.source() == other.source()
    }
}
