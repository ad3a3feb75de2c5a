//! Why a change was not made.

use std::fmt;

use crate::fleet::transaction::NotCommitted;
use crate::model::colour::Colour;
use crate::model::identity::Identity;
use crate::readiness::gate::Missing;
use crate::state::{Refusal, State};
use crate::store::record::Applied;
use crate::store::source_status::ChangeOutcome;

/// The problem of a rollback to what has neither served nor passed the smoke test.
pub const WAY_BACK_REPLACED: &str = "way-back-replaced";

/// Why a change was not made: a sentence for the one who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// A rule stands against it, on this state.
    Rejected(Rejection, Box<State>),
    /// The store that the workers share cannot be reached, and nothing was changed.
    StoreUnavailable,
    /// The fleet's store did not make the change.
    FleetUnavailable {
        /// What the store is called.
        called: &'static str,
        /// Why nothing was changed.
        why: NotCommitted,
    },
    /// The fleet's store has not said what became of it.
    OutcomeUnknown {
        /// What the store is called.
        called: &'static str,
    },
}

/// The rule that stands against a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Another change came before the one that it was made for.
    Superseded,
    /// A rule of the state.
    Refused(Refusal),
    /// The colour has no valid pass of the required smoke test.
    Untested {
        /// The colour.
        colour: Colour,
        /// What would serve there.
        identity: Box<Identity>,
        /// What is missing.
        missing: Missing,
        /// Whether it waits to come there.
        waits: bool,
    },
    /// Requests for the colour that would get traffic were answered by another cluster.
    NotRouted {
        /// The colour.
        colour: Colour,
        /// What was seen.
        detail: String,
    },
    /// What would get traffic does not answer its probe as it should.
    Unhealthy {
        /// The colour.
        colour: Colour,
        /// What would serve there.
        identity: Box<Identity>,
        /// What was seen.
        detail: String,
    },
    /// What a rollback would return to has neither served nor passed the smoke test.
    Unproven {
        /// The colour.
        colour: Colour,
        /// What is behind it.
        identity: Box<Identity>,
    },
}

/// What a change comes to, for the source that asked for it.
pub fn outcome_of(end: &Result<Applied, ChangeError>) -> ChangeOutcome {
    match end {
        Ok(_) => ChangeOutcome::Applied,
        Err(ChangeError::Rejected(Rejection::Superseded, _)) => ChangeOutcome::Superseded,
        Err(error) => ChangeOutcome::Rejected(error.to_string()),
    }
}

// === impl ChangeError ===

impl ChangeError {
    /// The kind of problem, as the API and metrics name it.
    pub const fn problem(&self) -> &'static str {
        match self {
            Self::Rejected(rejection, _) => rejection.problem(),
            Self::StoreUnavailable | Self::FleetUnavailable { .. } => "store-unavailable",
            Self::OutcomeUnknown { .. } => "outcome-unknown",
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(Rejection::Superseded, state) => {
                let revision = state.revision;
                write!(
                    f,
                    "The deployment is at revision {revision}: look at the state below, and repeat with If-Match: \"{revision}\" if you still want the change."
                )
            }
            Self::Rejected(rejection, _) => rejection.fmt(f),
            Self::StoreUnavailable => f.write_str(
                "The data that this Envoy's workers share could not be read or written. Nothing was changed. Repeat the call.",
            ),
            Self::FleetUnavailable { called, why } => {
                let once = if matches!(why, NotCommitted::Refused(_)) { " once that is fixed" } else { "" };
                let why = why.describe(called);
                write!(f, "Nothing was changed, and nothing will be: {why}. Repeat the call{once}.")
            }
            Self::OutcomeUnknown { called } => write!(
                f,
                "The change was sent to {called}, and {called} did not answer in time: it may have been made, or may be made later. Read the state and its \
                 history before you repeat the call.",
            ),
        }
    }
}

impl std::error::Error for ChangeError {}

// === impl Rejection ===

impl Rejection {
    const fn problem(&self) -> &'static str {
        match self {
            Self::Superseded => "stale-revision",
            Self::Refused(refusal) => refusal.problem(),
            Self::Untested { .. } => "smoke-test-missing",
            Self::NotRouted { .. } => "not-routed",
            Self::Unhealthy { .. } => "colour-unhealthy",
            Self::Unproven { .. } => WAY_BACK_REPLACED,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superseded => f.write_str("another change came first"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Untested { colour, missing, waits: false, .. } => {
                write!(f, "{colour} would get traffic, and {missing}: POST …/test first")
            }
            Self::NotRouted { colour, detail } => {
                write!(f, "{colour}'s requests would go to another cluster: {detail}")
            }
            Self::Untested { colour, identity, missing, waits: true } => {
                write!(f, "{identity} would serve {colour}, and {missing}: POST …/test?colour={colour} first")
            }
            Self::Unhealthy { colour, detail, .. } => {
                write!(f, "{colour} would get traffic, and its probe failed just now: {detail}")
            }
            Self::Unproven { colour, identity } => write!(
                f,
                "{identity} came behind {colour} after the switch, and has neither served nor passed the smoke test: \
                 POST …/test first, or promote to={colour}"
            ),
        }
    }
}
