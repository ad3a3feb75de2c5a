//! Running the smoke test: one request after the other to the candidate, then the verdict.

use serde::Serialize;

use super::intent::{Intent, Objection};
use super::{Answer, Asking, Backend, Problem, Purpose, Response, Step, refused, unavailable};
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::host::Reply;
use crate::model::colour::Colour;
use crate::model::name::{DeploymentName, Version};
use crate::model::split::Revision;
use crate::model::time::Timestamp;
use crate::readiness::smoke_test::Outcome;
use crate::readiness::versions::versions;
use crate::state::{SmokePass, State};
use crate::store::{self, Applied, ApplyError, Store};

/// A smoke test under way.
#[derive(Clone, Debug)]
pub struct Trial {
    pub(super) deployment: DeploymentIndex,
    candidate: Colour,
    outcomes: Vec<Outcome>,
}

/// The result, as the API shows it.
#[derive(Debug, Serialize)]
struct TrialView<'a> {
    name: &'a DeploymentName,
    candidate: Colour,
    version: &'a Version,
    revision: Revision,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<Timestamp>,
    results: &'a [Outcome],
}

// === impl Trial ===

impl Trial {
    pub(super) fn start(
        deployment: DeploymentIndex,
        router: &Deployments,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let Some(route) = router.get(deployment) else { return Step::done(unavailable()) };
        match store::load(backend.store(), &route.name, route.initial, now) {
            Ok(loaded) if route.readiness.smoke_test.is_none() => {
                Step::done(refused(&Problem::NoSmokeTest, deployment, route, &loaded.state, backend, now))
            }
            Ok(loaded) => {
                let trial = Self { deployment, candidate: loaded.state.split.candidate(), outcomes: Vec::new() };
                trial.next(route, backend, now)
            }
            Err(_) => Step::done(unavailable()),
        }
    }

    pub(super) fn resume(mut self, reply: &Reply, router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Step {
        let Some(route) = router.get(self.deployment) else { return Step::done(unavailable()) };
        let test = route.readiness.smoke_test.as_ref();
        self.outcomes.extend(test.and_then(|test| test.judge(self.outcomes.len(), reply)));
        self.next(route, backend, now)
    }

    fn next(self, route: &Deployment, backend: &dyn Backend, now: Timestamp) -> Step {
        let cluster = &route.colours.get(self.candidate).cluster;
        let test = route.readiness.smoke_test.as_ref();
        match test.and_then(|test| test.request(self.outcomes.len(), &route.name, cluster)) {
            Some(request) => Step::Ask(Box::new(Asking { request, purpose: Purpose::Smoke(self) })),
            None => Intent::Note(self).pursue(route, backend, now),
        }
    }

    /// The state with the outcome in it.
    pub(super) fn decide(
        &self,
        before: &State,
        route: &Deployment,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Option<State>, Objection> {
        if before.split.candidate() != self.candidate {
            return Err(Objection::Moved);
        }
        let version = versions(store, route).get(self.candidate).clone();
        let pass = SmokePass { colour: self.candidate, version, revision: before.revision, at: now };
        // A failure takes back an earlier pass: the candidate is not what it was.
        Ok(Some(State { smoke: self.has_passed().then_some(pass), ..before.clone() }))
    }

    /// What comes of it.
    pub(super) fn conclude(
        self,
        noted: Result<Applied, ApplyError<Objection>>,
        route: &Deployment,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let versions = versions(backend.store(), route);
        let answer = match noted {
            Ok(applied) => {
                let valid_for = route.readiness.smoke_test.as_ref().map(|test| test.valid_for);
                let passed = self.has_passed();
                let view = TrialView {
                    name: &route.name,
                    candidate: self.candidate,
                    version: versions.get(self.candidate),
                    revision: applied.state.revision,
                    passed,
                    valid_until: valid_for.filter(|_| passed).map(|valid_for| now.plus(valid_for)),
                    results: &self.outcomes,
                };
                let response = Response::json(200, &view);
                Answer { response, written: Some((self.deployment, applied)), refused: None }
            }
            // The candidate is another one: a trial has no other objection.
            Err(ApplyError::Refused(_, state)) => {
                Answer::only(refused(&Problem::Unsettled, self.deployment, route, &state, backend, now))
            }
            Err(ApplyError::Unavailable) => Answer::only(unavailable()),
        };
        Step::Done(Box::new(answer))
    }

    fn has_passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.passed)
    }
}
