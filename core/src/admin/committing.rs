//! A write in a fleet: decided on here, made in etcd, and only then made known to this Envoy's workers and answered.

use super::intent::{Intent, out_of_reach};
use super::{Answer, Backend, Problem, Response, Step};
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::etcd::transaction::{Current, Transaction, Turn, Unchanged};
use crate::etcd::{Call, Fleet, Reply};
use crate::model::time::Timestamp;
use crate::store::{self, Applied, ApplyError, Effect};

/// A write that waits for a reply of etcd.
#[derive(Debug)]
pub struct Committing {
    /// The call to etcd.
    pub call: Call,
    transaction: Transaction,
    intent: Intent,
}

// === impl Committing ===

impl Committing {
    pub(super) fn begin(
        fleet: &Fleet,
        intent: Intent,
        route: &Deployment,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Step {
        let Ok(known) = store::load(backend.store(), &route.name, route.initial, now) else { return out_of_reach() };
        let time_left = intent.time_left();
        match Transaction::begin(fleet, &route.name, known.state, known.origin, time_left, now) {
            Ok((transaction, call)) => Step::Commit(Box::new(Self { call, transaction, intent })),
            Err(why) => unchanged(why),
        }
    }

    /// Goes on with the write, now that there is a reply.
    pub fn resume(mut self, reply: &Reply, router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Step {
        let deployment = self.intent.deployment();
        let Some(route) = router.get(deployment) else { return out_of_reach() };
        match self.transaction.take(reply, now) {
            Turn::Call(call) => Step::Commit(Box::new(Self { call, ..self })),
            Turn::Decide(current) => match self.intent.decide(&current.state, route, backend.store(), now) {
                Ok(Some(after)) => match self.transaction.put(&current, after, now) {
                    Ok(call) => Step::Commit(Box::new(Self { call, ..self })),
                    Err(why) => unchanged(why),
                },
                Ok(None) => {
                    let applied = Applied { state: current.state.clone(), effect: Effect::None };
                    let step = self.intent.conclude(Ok(applied), route, backend, now);
                    settle(step, deployment, route, &current, backend)
                }
                Err(objection) => {
                    let refused = Err(ApplyError::Refused(objection, Box::new(current.state.clone())));
                    // It may have to ask a colour, and to go on afterwards: the clock stands still meanwhile.
                    let intent = self.intent.with_time_left(self.transaction.time_left(now));
                    let step = intent.conclude(refused, route, backend, now);
                    settle(step, deployment, route, &current, backend)
                }
            },
            Turn::Made(made) => {
                let applied = Applied { state: made.state, effect: Effect::Changed };
                let step = self.intent.conclude(Ok(applied), route, backend, now);
                settle(step, deployment, route, &made.current, backend)
            }
            Turn::Queue => Step::Queue(Box::new(self)),
            Turn::Unchanged(why) => unchanged(why),
            Turn::Unknown => outcome_unknown(),
        }
    }

    /// Goes on with a write that waited for its turn: with a call, or with the answer if it [`Self::is_late`].
    pub fn take_turn(mut self, now: Timestamp) -> Step {
        match self.transaction.take_turn(now) {
            Ok(call) => Step::Commit(Box::new(Self { call, ..self })),
            Err(why) => unchanged(why),
        }
    }

    /// Whether its time is over, so that it need not wait for its turn any more.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.transaction.is_late(now)
    }
}

/// Takes the fleet's state over before the answer that shows it is sent.
fn settle(
    step: Step,
    deployment: DeploymentIndex,
    route: &Deployment,
    current: &Current,
    backend: &dyn Backend,
) -> Step {
    let Step::Done(answer) = step else { return step };
    let Some(origin) = current.origin else { return Step::Done(answer) };
    match store::adopt(backend.store(), &route.name, &current.state, origin, current.precedence) {
        Ok(applied) => {
            // Another instance may have taken it over a moment ago and not have told the workers yet.
            let effect = if applied.effect == Effect::None { Effect::Noted } else { applied.effect };
            let written = Some((deployment, Applied { effect, ..applied }));
            Step::Done(Box::new(Answer { written, ..*answer }))
        }
        Err(_) if answer.written.is_some() => outcome_unknown(),
        Err(_) => out_of_reach(),
    }
}

fn unchanged(why: Unchanged) -> Step {
    let problem = Problem::FleetUnavailable(why);
    Step::refused(Response::problem(&problem, None), problem)
}

fn outcome_unknown() -> Step {
    Step::refused(Response::problem(&Problem::OutcomeUnknown, None), Problem::OutcomeUnknown)
}
