//! The admin API, version 1: what operators and scripts call to see and change deployments.
//!
//! A call is taken in two steps, because Envoy hands a request over in two: [`Api::receive`] judges the head (who calls,
//! what, with which query), and [`Call::start`] acts once the body, if there is one, has arrived. A call that needs
//! something from a model server, or has to wait, comes back as a [`Step`]; what has to happen beyond the answer comes
//! back as a value too.

mod auth;
mod committing;
mod drain;
mod if_match;
mod intent;
mod parameters;
mod problems;
mod response;
mod rollout_view;
mod routes;
mod trial;
mod views;
mod webhook;
mod writing;

use self::auth::Caller;
pub use self::committing::Committing;
pub use self::drain::Drain;
use self::if_match::IfMatch;
use self::parameters::Params;
pub use self::problems::Problem;
pub use self::response::Response;
use self::routes::{Action, Endpoint, Read, Write};
use self::trial::Trial;
use self::views::{ChangesView, ComparisonView, DeploymentView, DeploymentsView};
pub use self::webhook::Delivery;
pub use self::writing::Writing;
use crate::change::request::Outcome;
use crate::config::Access;
use crate::deployment::DeploymentIndex;
use crate::deployment::{Deployment, Deployments};
use crate::etcd::Fleet;
use crate::etcd::deadline::WRITE_WITHIN;
use crate::guard::analysis;
use crate::guard::verdict::Verdict;
use crate::host::{Outgoing, Reply};
use crate::metrics::comparison::{self, Sample};
use crate::metrics::counters::ColourCounts;
use crate::model::author::{Author, Source};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::DeploymentName;
use crate::model::time::Timestamp;
use crate::readiness::gate::Evidence;
use crate::state::State;
use crate::store::{self, Applied, Store};

/// The admin API of one listener.
#[derive(Clone, Debug)]
pub struct Api {
    access: Access,
}

/// The parts of a request's head that the API looks at. Nothing in it is trusted.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// `:method`.
    pub method: Vec<u8>,
    /// `:path`, with its query.
    pub path: Vec<u8>,
    /// `authorization`.
    pub authorization: Option<Vec<u8>>,
    /// `if-match`.
    pub if_match: Option<Vec<u8>>,
    /// The signed headers, of a request to [`Api::is_webhook`].
    pub delivery: Option<Delivery>,
}

/// A call whose head was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    action: Action,
    caller: Caller,
    query: Params,
    if_match: IfMatch,
    delivery: Delivery,
}

/// What the API can reach.
pub trait Backend {
    /// The shared store.
    fn store(&self) -> &dyn Store;
    /// What was counted up to now about each colour of a deployment.
    fn counts(&self, deployment: DeploymentIndex) -> PerColour<ColourCounts>;
    /// How many requests to a colour are under way.
    fn in_flight(&self, deployment: DeploymentIndex, colour: Colour) -> u64;
    /// The fleet's record, through which every write goes; none when this Envoy stands alone.
    fn fleet(&self) -> Option<&Fleet> {
        None
    }
}

/// How a call goes on.
#[derive(Debug)]
pub enum Step {
    /// It is done.
    Done(Box<Answer>),
    /// A request has to be sent first, and its reply handed to [`Asking::resume`].
    Ask(Box<Asking>),
    /// It is done once [`Drain::poll`] says so.
    Wait(Drain),
    /// A call to etcd has to be made first, and its reply handed to [`Committing::resume`].
    Commit(Box<Committing>),
    /// Many write at once: it goes on with [`Committing::take_turn`] when no other one that waits so is under way.
    Queue(Box<Committing>),
}

/// A request that a call waits for.
#[derive(Debug)]
pub struct Asking {
    /// The request.
    pub request: Outgoing,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Probe(Writing, Colour),
    Smoke(Trial),
}

/// The answer to a call, and the write that has to be made known to all workers before it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client gets.
    pub response: Response,
    /// What was written.
    pub written: Option<(DeploymentIndex, Applied)>,
    /// Why a write did not happen.
    pub refused: Option<Problem>,
}

/// The largest request body, in bytes. The largest that means anything is under 2 KiB.
pub const MAX_BODY: usize = 64 * 1024;

// === impl Api ===

impl Api {
    /// The API under a listener's access rules.
    pub const fn new(access: Access) -> Self {
        Self { access }
    }

    /// Whether a request with this `:path` is a call of the API, well-formed or not.
    pub fn covers(&self, path: &[u8]) -> bool {
        let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
        path.get(..end).is_some_and(|path| self.access.path_prefix.covers(path))
    }

    /// Whether a request with this `:path` is one of MLflow's deliveries, whose head has a [`Delivery`].
    pub fn is_webhook(&self, path: &[u8]) -> bool {
        matches!(routes::parse(&self.access.path_prefix, routes::split(path).0), Ok(Endpoint::Webhook))
    }

    /// Judges the head of a call.
    ///
    /// # Errors
    /// The answer to a call that is not allowed, not known or not well-formed.
    pub fn receive(&self, head: &Head) -> Result<Call, Response> {
        self.judge(head).map_err(|problem| Response::problem(&problem, None))
    }

    fn judge(&self, head: &Head) -> Result<Call, Problem> {
        let (path, query) = routes::split(&head.path);
        // Whether a path exists is nobody's business but a caller's who may know; whether Envoy is well is everybody's.
        let target = routes::parse(&self.access.path_prefix, path);
        let caller = match (&target, Caller::identify(&self.access, head.authorization.as_deref())) {
            (_, Ok(caller)) => caller,
            (Ok(Endpoint::Health | Endpoint::Ready | Endpoint::Webhook), Err(_)) => Caller::anonymous(),
            (_, Err(problem)) => return Err(problem),
        };
        let action = target?.action(&head.method)?;
        caller.require(action.role())?;
        let query = Params::from_query(query)?;
        let if_match = IfMatch::parse(head.if_match.as_deref())?;
        let delivery = head.delivery.clone().unwrap_or_default();
        Ok(Call { action, caller, query, if_match, delivery })
    }
}

// === impl Call ===

impl Call {
    /// Acts on a call whose body has arrived (empty if there was none).
    pub fn start(self, body: &[u8], router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Step {
        let refuse = |problem: &Problem| Step::done(Response::problem(problem, None));
        // A delivery's body is signed as a whole; it has no parameters.
        let parameters = if self.action == Action::Webhook { &[][..] } else { body };
        let params = match self.query.clone().with_body(parameters).and_then(|params| self.action.check(params)) {
            Ok(params) => params,
            Err(problem) => return refuse(&problem),
        };
        let located = |name| find(router, name).ok_or_else(|| Problem::UnknownDeployment(DeploymentName::clone(name)));
        let step = match &self.action {
            Action::Health => Ok(Step::done(Response::json(200, &serde_json::json!({"status": "ok"})))),
            Action::Ready => Ok(Step::done(ready(router, backend, now))),
            Action::List => Ok(Step::done(list(router, backend, now))),
            Action::Webhook => Ok(Step::done(self.delivery.take(body, router, backend, now))),
            Action::Read(name, what) => {
                located(name).map(|(index, route)| Step::done(read(*what, index, route, backend, now)))
            }
            Action::Write(name, what) => located(name)
                .and_then(|(index, route)| self.writing(index, route, *what, &params, backend, now))
                .map(|writing| writing.attempt(router, backend, now)),
            Action::Test(name) => located(name).map(|(index, _)| Trial::start(index, router, backend, now)),
            Action::Drain(name) => located(name).and_then(|(index, _)| drain(index, &params, now)).map(|drain| {
                match drain.poll(router, backend, now) {
                    Some(answer) => Step::Done(Box::new(answer)),
                    None => Step::Wait(drain),
                }
            }),
        };
        step.unwrap_or_else(|problem| refuse(&problem))
    }

    fn writing(
        &self,
        deployment: DeploymentIndex,
        route: &Deployment,
        what: Write,
        params: &Params,
        backend: &dyn Backend,
        now: Timestamp,
    ) -> Result<Writing, Problem> {
        let seen = store::load(backend.store(), &route.name, route.initial, now);
        let state = seen.map_err(|_| Problem::StoreUnavailable)?.state;
        let author = Author {
            forced: params.parsed("force")?.unwrap_or_default(),
            ..Author::new(self.caller.name(), Source::Admin, params.reason()?)
        };
        let evidence = if author.forced { Evidence::Forced } else { Evidence::none() };
        Ok(Writing {
            deployment,
            command: what.command(params, route, &state)?,
            author,
            if_match: self.if_match.clone(),
            evidence,
            time_left: WRITE_WITHIN,
        })
    }
}

fn drain(deployment: DeploymentIndex, params: &Params, now: Timestamp) -> Result<Drain, Problem> {
    let colour = params.parsed("colour")?.ok_or(Problem::MissingParameter("colour"))?;
    Ok(Drain::new(deployment, colour, params.parsed("timeout")?.unwrap_or_default(), now))
}

// === impl Asking ===

impl Asking {
    /// Goes on with the call, now that there is a reply.
    pub fn resume(self, reply: &Reply, router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Step {
        match self.purpose {
            Purpose::Probe(writing, colour) => writing.resume(colour, reply, router, backend, now),
            Purpose::Smoke(trial) => trial.resume(reply, router, backend, now),
        }
    }
}

// === impl Step ===

impl Step {
    fn done(response: Response) -> Self {
        Step::Done(Box::new(Answer::only(response)))
    }

    fn refused(response: Response, problem: Problem) -> Self {
        Step::Done(Box::new(Answer { refused: Some(problem), ..Answer::only(response) }))
    }
}

// === impl Answer ===

impl Answer {
    /// An answer that writes nothing.
    pub fn only(response: Response) -> Self {
        Self { response, written: None, refused: None }
    }

    /// What it means for the wish that it answers.
    pub fn outcome(&self) -> Outcome {
        match &self.refused {
            None => Outcome::Granted,
            Some(Problem::Stale(_)) => Outcome::Overtaken,
            Some(problem) => Outcome::Refused(problem.cause()),
        }
    }
}

fn find<'r>(router: &'r Deployments, name: &DeploymentName) -> Option<(DeploymentIndex, &'r Deployment)> {
    // The routes are in the order of their names.
    let index = router.all().binary_search_by(|route| route.name.cmp(name)).ok()?;
    Some((index, router.get(index)?))
}

fn one(index: DeploymentIndex, route: &Deployment, state: &State, backend: &dyn Backend, now: Timestamp) -> Response {
    Response::json(200, &DeploymentView::new(index, route, state, backend, now)).with_etag(state.revision)
}

fn refused(
    problem: &Problem,
    index: DeploymentIndex,
    route: &Deployment,
    state: &State,
    backend: &dyn Backend,
    now: Timestamp,
) -> Response {
    Response::problem(problem, Some(&DeploymentView::new(index, route, state, backend, now)))
}

fn unavailable() -> Response {
    Response::problem(&Problem::StoreUnavailable, None)
}

/// Whether requests follow the fleet's states, each of which has come at least once. They stay in force when etcd goes away.
fn ready(router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Response {
    let is_known = |route: &&Deployment| {
        let loaded = store::load(backend.store(), &route.name, route.initial, now);
        loaded.is_ok_and(|loaded| loaded.origin.is_some())
    };
    let mut missing = Vec::new();
    if backend.fleet().is_some() {
        missing.extend(router.all().iter().filter(|route| !is_known(route)).map(|route| route.name.clone()));
    }
    if missing.is_empty() {
        return Response::json(200, &serde_json::json!({"status": "ready"}));
    }
    Response::problem(&Problem::NotReady(missing), None)
}

fn list(router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Response {
    let load =
        |route: &Deployment| store::load(backend.store(), &route.name, route.initial, now).map(|loaded| loaded.state);
    let Ok(states) = router.all().iter().map(load).collect::<Result<Vec<State>, _>>() else { return unavailable() };
    let deployments = router.all().iter().zip(&states).enumerate();
    let view = |(index, (route, state))| DeploymentView::new(index, route, state, backend, now);
    Response::json(200, &DeploymentsView { deployments: deployments.map(view).collect() })
}

fn read(what: Read, index: DeploymentIndex, route: &Deployment, backend: &dyn Backend, now: Timestamp) -> Response {
    let store = backend.store();
    let Ok(loaded) = store::load(store, &route.name, route.initial, now) else { return unavailable() };
    let state = loaded.state;
    match what {
        Read::State => one(index, route, &state, backend, now),
        Read::History => {
            let changes = ChangesView { changes: state.history.changes().collect() };
            Response::json(200, &changes).with_etag(state.revision)
        }
        Read::Comparison => {
            let sample = Sample { at: now, counts: backend.counts(index) };
            match comparison::windows(store, &route.name, &sample) {
                Ok(windows) => {
                    let watch = analysis::read(store, &route.name);
                    let verdict = watch.as_ref().zip(route.guard.as_ref());
                    let verdict = verdict.map(|(watch, guard)| Verdict::new(watch, guard));
                    Response::json(200, &ComparisonView::new(&route.name, state.revision, verdict, windows))
                }
                Err(_) => unavailable(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
