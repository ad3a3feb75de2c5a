//! Carrying out a write: on the revision that its author saw, and only to a colour that is ready.

use super::if_match::IfMatch;
use super::{Answer, Asking, Backend, Problem, Purpose, Step, one, refused, unavailable};
use crate::colour::Colour;
use crate::history::Author;
use crate::matching::DeploymentIndex;
use crate::readiness::gate::{self, Closed, Evidence};
use crate::readiness::outgoing::Reply;
use crate::readiness::probe;
use crate::routing::{Route, Router};
use crate::state::{Command, Refusal};
use crate::store::{self, ApplyError};
use crate::time::Timestamp;

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
}

/// Why a state does not take a write.
enum Rule {
    Stale,
    Refused(Refusal),
    Closed(Closed),
}

// === impl Writing ===

impl Writing {
    /// Goes on with what `colour` replied to its probe.
    pub(super) fn resume(
        self,
        colour: Colour,
        reply: &Reply,
        router: &Router,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let Some((route, asked)) = router.routes().get(self.deployment).and_then(|route| {
            let asked = route.readiness.probe.as_ref()?;
            Some((route, asked))
        }) else {
            return Step::done(unavailable());
        };
        let finding = asked.judge(reply);
        probe::record(backend.store(), &route.name, colour, asked, finding.clone(), now);
        if finding.healthy {
            return Self { evidence: self.evidence.with(colour), ..self }.attempt(router, backend, now);
        }
        match store::load(backend.store(), &route.name, route.initial, now) {
            Ok(loaded) => {
                let problem = Problem::Unhealthy { colour, detail: finding.detail };
                Step::done(refused(&problem, self.deployment, route, &loaded.state, backend, now))
            }
            Err(_) => Step::done(unavailable()),
        }
    }

    /// Writes if the evidence allows it, and else says what has to be asked first.
    pub(super) fn attempt(self, router: &Router, backend: &dyn Backend, now: Timestamp) -> Step {
        let deployment = self.deployment;
        let Some(route) = router.routes().get(deployment) else { return Step::done(unavailable()) };
        let applied = store::update(backend.store(), &route.name, route.initial, now, |loaded| {
            let before = &loaded.state;
            if !self.if_match.allows(before.revision) {
                return Err(Rule::Stale);
            }
            let after = before.after(self.command, self.author.clone(), now).map_err(Rule::Refused)?;
            if let Some(after) = &after {
                gate::check(before, after, route, self.evidence, now).map_err(Rule::Closed)?;
            }
            Ok(after)
        });
        let (rule, state) = match applied {
            Ok(applied) => {
                let response = one(deployment, route, &applied.state, backend, now);
                return Step::Done(Box::new(Answer { response, written: Some((deployment, applied)) }));
            }
            Err(ApplyError::Refused(rule, state)) => (rule, state),
            Err(ApplyError::Unavailable) => return Step::done(unavailable()),
        };
        let problem = match rule {
            Rule::Stale => Problem::Stale(state.revision),
            Rule::Refused(refusal) => Problem::Refused(refusal),
            Rule::Closed(Closed::Untested { colour, missing }) => Problem::Untested { colour, missing },
            Rule::Closed(Closed::AskFirst(colour)) => return self.ask(colour, route),
        };
        Step::done(refused(&problem, deployment, route, &state, backend, now))
    }

    fn ask(self, colour: Colour, route: &Route) -> Step {
        let Some(probe) = &route.readiness.probe else { return Step::done(unavailable()) };
        let request = probe.request(&route.name, &route.colours.get(colour).cluster);
        Step::Ask(Box::new(Asking { request, purpose: Purpose::Probe(self, colour) }))
    }
}
