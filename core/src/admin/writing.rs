//! Carrying out a write: on the revision that its author saw, and only to a colour that is ready.

use std::time::Duration;

use super::if_match::IfMatch;
use super::intent::{Intent, Objection, out_of_reach};
use super::{Answer, Asking, Backend, Problem, Purpose, Step, one, refused};
use crate::change::request::Wish;
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::etcd::deadline::WRITE_WITHIN;
use crate::host::Reply;
use crate::model::author::Author;
use crate::model::colour::Colour;
use crate::model::time::Timestamp;
use crate::readiness::gate::{self, Closed, Evidence};
use crate::readiness::probe;
use crate::readiness::versions::versions;
use crate::state::{Command, State};
use crate::store::{self, Applied, ApplyError, Store};

/// A write under way.
#[derive(Clone, Debug)]
pub struct Writing {
    pub(super) deployment: DeploymentIndex,
    pub(super) command: Command,
    pub(super) author: Author,
    pub(super) if_match: IfMatch,
    /// What is known for this write. Others may switch between a probe and the write, so that the other colour has to
    /// be asked as well: at most one probe of each.
    pub(super) evidence: Evidence,
    /// How much of the time for calls to etcd is left.
    pub(super) time_left: Duration,
}

// === impl Writing ===

impl Writing {
    /// What brings a source's wish about: the same rules as for an operator's call, unless the wish is not under them.
    pub fn of(wish: &Wish) -> Self {
        Self {
            deployment: wish.deployment,
            command: wish.command,
            author: wish.author.clone(),
            if_match: wish.on.map_or(IfMatch::Any, |revision| IfMatch::Revisions(vec![revision])),
            evidence: if wish.enforce { Evidence::none() } else { Evidence::Forced },
            time_left: WRITE_WITHIN,
        }
    }

    /// Goes on with what `colour` replied to its probe.
    pub(super) fn resume(
        self,
        colour: Colour,
        reply: &Reply,
        router: &Deployments,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let Some((route, asked)) = router.get(self.deployment).and_then(|route| {
            let asked = route.readiness.probe.as_ref()?;
            Some((route, asked))
        }) else {
            return out_of_reach();
        };
        let finding = asked.judge(reply);
        probe::record(backend.store(), &route.name, colour, asked, finding.clone(), now);
        if finding.healthy {
            return Self { evidence: self.evidence.with(colour), ..self }.attempt(router, backend, now);
        }
        match store::load(backend.store(), &route.name, route.initial, now) {
            Ok(loaded) => {
                let problem = Problem::Unhealthy { colour, detail: finding.detail };
                let response = refused(&problem, self.deployment, route, &loaded.state, backend, now);
                Step::refused(response, problem)
            }
            Err(_) => out_of_reach(),
        }
    }

    /// Writes if the evidence allows it, and else says what has to be asked first.
    pub fn attempt(self, router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Step {
        match router.get(self.deployment) {
            Some(route) => Intent::Write(self).pursue(route, backend, now),
            None => out_of_reach(),
        }
    }

    /// The state after the write, or none if it is this one already.
    pub(super) fn decide(
        &self,
        before: &State,
        route: &Deployment,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Option<State>, Objection> {
        // In a fleet every Envoy gets the configuration, and one of them was the first.
        if matches!(self.command, Command::AdoptInitial(initial) if initial == before.initial) {
            return Ok(None);
        }
        if !self.if_match.allows(before.revision) {
            return Err(Objection::Stale);
        }
        let after = before.after(self.command, self.author.clone(), now).map_err(Objection::Refused)?;
        let Some(after) = after else { return Ok(None) };
        let versions = versions(store, route);
        gate::check(before, &after, route, &versions, self.evidence, now).map_err(Objection::Closed)?;
        // A source that is not under the rules overrode one only where one applied; an operator says so each time.
        let overrides = self.evidence == Evidence::Forced
            && gate::check(before, &after, route, &versions, Evidence::none(), now).is_err();
        if overrides && !self.author.forced {
            let author = Author { forced: true, ..self.author.clone() };
            return before.after(self.command, author, now).map_err(Objection::Refused);
        }
        Ok(Some(after))
    }

    /// What comes of the decision.
    pub(super) fn conclude(
        self,
        applied: Result<Applied, ApplyError<Objection>>,
        route: &Deployment,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let deployment = self.deployment;
        let (objection, state) = match applied {
            Ok(applied) => {
                let response = one(deployment, route, &applied.state, backend, now);
                return Step::Done(Box::new(Answer { response, written: Some((deployment, applied)), refused: None }));
            }
            Err(ApplyError::Refused(objection, state)) => (objection, state),
            Err(ApplyError::Unavailable) => return out_of_reach(),
        };
        let problem = match objection {
            Objection::Stale => Problem::Stale(state.revision),
            Objection::Refused(refusal) => Problem::Refused(refusal),
            Objection::Closed(Closed::Untested { colour, missing }) => Problem::Untested { colour, missing },
            Objection::Closed(Closed::AskFirst(colour)) => return self.ask(colour, route),
            Objection::Moved => Problem::Unsettled,
        };
        let response = refused(&problem, deployment, route, &state, backend, now);
        Step::refused(response, problem)
    }

    fn ask(self, colour: Colour, route: &Deployment) -> Step {
        let Some(probe) = &route.readiness.probe else { return out_of_reach() };
        let request = probe.request(&route.name, &route.colours.get(colour).cluster);
        Step::Ask(Box::new(Asking { request, purpose: Purpose::Probe(self, colour) }))
    }
}
