//! The admin API, version 1: what operators and scripts call to see and change deployments.
//!
//! A call is taken in two steps, because Envoy hands a request over in two: [`Api::receive`] judges the head (who calls,
//! what, with which query), and [`Call::answer`] acts once the body, if there is one, has arrived. What has to happen
//! beyond the answer comes back as a value.

mod auth;
mod endpoint;
mod if_match;
mod params;
mod problem;
mod response;
mod view;

use self::auth::Caller;
use self::endpoint::{Action, Endpoint, Read, Write};
use self::if_match::IfMatch;
use self::params::Params;
pub use self::problem::Problem;
pub use self::response::Response;
use self::view::{ChangesView, ComparisonView, DeploymentView, DeploymentsView};
use crate::colour::PerColour;
use crate::comparison::{self, Sample};
use crate::config::Access;
use crate::counters::ColourCounts;
use crate::history::{Author, Source};
use crate::matching::DeploymentIndex;
use crate::name::DeploymentName;
use crate::routing::{Route, Router};
use crate::state::{Refusal, State};
use crate::store::{self, Applied, ApplyError, Store};
use crate::time::Timestamp;

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
}

/// A call whose head was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    action: Action,
    caller: Caller,
    query: Params,
    if_match: IfMatch,
}

/// What the API can reach.
pub trait Backend {
    /// The shared store.
    fn store(&self) -> &dyn Store;
    /// What was counted up to now about each colour of a deployment.
    fn counts(&self, deployment: DeploymentIndex) -> PerColour<ColourCounts>;
}

/// The answer to a call, and the write that has to be made known to all workers before it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client gets.
    pub response: Response,
    /// What was written.
    pub written: Option<(DeploymentIndex, Applied)>,
}

/// The largest request body, in bytes. The largest that means anything is under 2 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// Why a state does not take a write.
enum Rule {
    Stale,
    Refused(Refusal),
}

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

    /// Judges the head of a call.
    ///
    /// # Errors
    /// The answer to a call that is not allowed, not known or not well-formed.
    pub fn receive(&self, head: &Head) -> Result<Call, Response> {
        self.judge(head).map_err(|problem| Response::problem(&problem, None))
    }

    fn judge(&self, head: &Head) -> Result<Call, Problem> {
        let (path, query) = endpoint::split(&head.path);
        // Whether a path exists is nobody's business but a caller's who may know; liveness is everybody's.
        let target = endpoint::parse(&self.access.path_prefix, path);
        let caller = match (&target, Caller::identify(&self.access, head.authorization.as_deref())) {
            (_, Ok(caller)) => caller,
            (Ok(Endpoint::Health), Err(_)) => Caller::anonymous(),
            (_, Err(problem)) => return Err(problem),
        };
        let action = target?.action(&head.method)?;
        caller.require(action.role())?;
        let query = Params::from_query(query)?;
        let if_match = IfMatch::parse(head.if_match.as_deref())?;
        Ok(Call { action, caller, query, if_match })
    }
}

// === impl Call ===

impl Call {
    /// Acts on a call whose body has arrived (empty if there was none).
    pub fn answer(self, body: &[u8], router: &Router, backend: &dyn Backend, now: Timestamp) -> Answer {
        let only = |response| Answer { response, written: None };
        let params = match self.query.clone().with_body(body).and_then(|params| self.action.check(params)) {
            Ok(params) => params,
            Err(problem) => return only(Response::problem(&problem, None)),
        };
        match &self.action {
            Action::Health => only(Response::json(200, &serde_json::json!({"status": "ok"}))),
            Action::List => only(list(router, backend.store(), now)),
            Action::Read(name, what) => only(match find(router, name) {
                Some((index, route)) => read(*what, index, route, backend, now),
                None => Response::problem(&Problem::UnknownDeployment(name.clone()), None),
            }),
            Action::Write(name, what) => match find(router, name) {
                Some((index, route)) => self.write(*what, &params, index, route, backend.store(), now),
                None => only(Response::problem(&Problem::UnknownDeployment(name.clone()), None)),
            },
        }
    }

    fn write(
        &self,
        what: Write,
        params: &Params,
        index: DeploymentIndex,
        route: &Route,
        store: &dyn Store,
        now: Timestamp,
    ) -> Answer {
        let only = |response| Answer { response, written: None };
        let (command, reason) = match what.command(params).and_then(|command| Ok((command, params.reason()?))) {
            Ok(wish) => wish,
            Err(problem) => return only(Response::problem(&problem, None)),
        };
        let author = Author { by: self.caller.name().to_owned(), source: Source::Admin, reason };
        let applied = store::update(store, &route.name, route.initial, now, |loaded| {
            if !self.if_match.allows(loaded.state.revision) {
                return Err(Rule::Stale);
            }
            loaded.state.after(command, author.clone(), now).map_err(Rule::Refused)
        });
        match applied {
            Ok(applied) => {
                let response = one(route, &applied.state);
                Answer { response, written: Some((index, applied)) }
            }
            Err(ApplyError::Refused(rule, state)) => {
                let problem = match rule {
                    Rule::Stale => Problem::Stale(state.revision),
                    Rule::Refused(refusal) => Problem::Refused(refusal),
                };
                only(Response::problem(&problem, Some(&DeploymentView::new(route, &state))))
            }
            Err(ApplyError::Unavailable) => only(Response::problem(&Problem::StoreUnavailable, None)),
        }
    }
}

fn find<'r>(router: &'r Router, name: &DeploymentName) -> Option<(DeploymentIndex, &'r Route)> {
    // The routes are in the order of their names.
    let index = router.routes().binary_search_by(|route| route.name.cmp(name)).ok()?;
    Some((index, router.routes().get(index)?))
}

fn one(route: &Route, state: &State) -> Response {
    Response::json(200, &DeploymentView::new(route, state)).with_etag(state.revision)
}

fn list(router: &Router, store: &dyn Store, now: Timestamp) -> Response {
    let load = |route: &Route| store::load(store, &route.name, route.initial, now).map(|loaded| loaded.state);
    match router.routes().iter().map(load).collect::<Result<Vec<State>, _>>() {
        Ok(states) => {
            let views = router.routes().iter().zip(&states).map(|(route, state)| DeploymentView::new(route, state));
            Response::json(200, &DeploymentsView { deployments: views.collect() })
        }
        Err(_) => Response::problem(&Problem::StoreUnavailable, None),
    }
}

fn read(what: Read, index: DeploymentIndex, route: &Route, backend: &dyn Backend, now: Timestamp) -> Response {
    let store = backend.store();
    let unavailable = || Response::problem(&Problem::StoreUnavailable, None);
    let Ok(loaded) = store::load(store, &route.name, route.initial, now) else {
        return unavailable();
    };
    let state = loaded.state;
    match what {
        Read::State => one(route, &state),
        Read::History => {
            Response::json(200, &ChangesView { changes: state.history.changes().collect() }).with_etag(state.revision)
        }
        Read::Comparison => {
            let sample = Sample { at: now, counts: backend.counts(index) };
            match comparison::windows(store, &route.name, &sample) {
                Ok(windows) => Response::json(200, &ComparisonView::new(&route.name, state.revision, windows)),
                Err(_) => unavailable(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
