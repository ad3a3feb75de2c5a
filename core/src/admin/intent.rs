//! What is to be written, and where: in the fleet's record, or on an Envoy that stands alone in its own.

use std::time::Duration;

use super::committing::Committing;
use super::trial::Trial;
use super::writing::Writing;
use super::{Backend, Problem, Step, unavailable};
use crate::deployment::Deployment;
use crate::deployment::DeploymentIndex;
use crate::etcd::deadline::WRITE_WITHIN;
use crate::model::time::Timestamp;
use crate::readiness::gate::Closed;
use crate::state::{Refusal, State};
use crate::store::{self, Applied, ApplyError, Store};

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) enum Intent {
    /// A change that somebody asked for.
    Write(Writing),
    /// The outcome of a smoke test.
    Note(Trial),
}

/// Why a state does not take it.
pub(super) enum Objection {
    /// Another change came before the one that it was made for.
    Stale,
    /// A rule of the state.
    Refused(Refusal),
    /// The colour is not ready.
    Closed(Closed),
    /// The candidate that was tested is not the candidate any more.
    Moved,
}

// === impl Intent ===

impl Intent {
    /// Brings it about, as far as that goes without waiting.
    pub(super) fn pursue(self, route: &Deployment, backend: &dyn Backend, now: Timestamp) -> Step {
        if let Some(fleet) = backend.fleet() {
            return Committing::begin(fleet, self, route, backend, now);
        }
        let store = backend.store();
        let decide = |loaded: &store::Loaded| self.decide(&loaded.state, route, store, now);
        let end = store::update(store, &route.name, route.initial, now, decide);
        self.conclude(end, route, backend, now)
    }

    pub(super) fn deployment(&self) -> DeploymentIndex {
        match self {
            Self::Write(writing) => writing.deployment,
            Self::Note(trial) => trial.deployment,
        }
    }

    /// How much time there is for it.
    pub(super) fn time_left(&self) -> Duration {
        match self {
            Self::Write(writing) => writing.time_left,
            Self::Note(_) => WRITE_WITHIN,
        }
    }

    pub(super) fn with_time_left(self, time_left: Duration) -> Self {
        match self {
            Self::Write(writing) => Self::Write(Writing { time_left, ..writing }),
            note => note,
        }
    }

    /// The state after it, or none if it is this one already.
    pub(super) fn decide(
        &self,
        before: &State,
        route: &Deployment,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Option<State>, Objection> {
        match self {
            Self::Write(writing) => writing.decide(before, route, store, now),
            Self::Note(trial) => trial.decide(before, route, store, now),
        }
    }

    /// What comes of the decision.
    pub(super) fn conclude(
        self,
        end: Result<Applied, ApplyError<Objection>>,
        route: &Deployment,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        match self {
            Self::Write(writing) => writing.conclude(end, route, backend, now),
            Self::Note(trial) => trial.conclude(end, route, backend, now),
        }
    }
}

/// The end of a write whose store cannot be reached.
pub(super) fn out_of_reach() -> Step {
    Step::refused(unavailable(), Problem::StoreUnavailable)
}
