//! A call whose head was accepted and whose body has arrived, as its handler gets it.

use std::rc::Rc;

use super::auth::Caller;
use super::parameters::Params;
use super::problems::Problem;
use super::response::Response;
use super::views::DeploymentView;
use super::webhook::Delivery;
use crate::change::context::Context;
use crate::change::error::ChangeError;
use crate::change::request::Precondition;
use crate::config::PathPrefix;
use crate::deployment::{Deployment, DeploymentIndex};
use crate::model::name::DeploymentName;
use crate::state::State;
use crate::store::record;
use crate::workers::worker::Confirmation;

/// A call.
pub struct Request {
    /// What its flow works with.
    pub context: Rc<Context>,
    /// Who calls.
    pub caller: Caller,
    /// Where the API is found.
    pub prefix: PathPrefix,
    /// The deployment in its path, if there is one.
    pub name: Option<DeploymentName>,
    /// From query and body.
    pub params: Params,
    /// From `If-Match`.
    pub precondition: Precondition,
    /// The signed headers of MLflow's delivery.
    pub delivery: Delivery,
    /// The body as it came.
    pub body: Vec<u8>,
}

/// Why a call is not done, with the state that stands against it, if one does.
pub struct Refused(Box<(Problem, Option<(DeploymentIndex, State)>)>);

/// The end of a handler.
pub type Answer = Result<Response, Refused>;

// === impl Request ===

impl Request {
    /// The deployment that the path names.
    pub fn deployment(&self) -> Result<(DeploymentIndex, &Deployment), Refused> {
        let Some(name) = &self.name else { return Err(Problem::StoreUnavailable.into()) };
        let found = self.context.deployments.named(name.as_str());
        found.ok_or_else(|| Problem::UnknownDeployment(name.clone()).into())
    }

    /// A deployment's state.
    pub fn load(&self, deployment: &Deployment) -> Result<State, Refused> {
        let host = &self.context.host;
        let loaded = record::load(host.store(), &deployment.name, deployment.initial, host.now());
        Ok(loaded.map_err(|_| Problem::StoreUnavailable)?.state)
    }

    /// An answer that shows a deployment.
    pub fn show(&self, status: u32, deployment: &Deployment, state: &State, confirmation: &Confirmation) -> Response {
        let view = DeploymentView::new(deployment, state, &self.context, confirmation);
        Response::json(status, &view).with_etag(state.revision)
    }
}

// === impl Refused ===

impl Refused {
    /// A problem that a state stands for.
    pub fn on(problem: Problem, index: DeploymentIndex, state: State) -> Self {
        Self(Box::new((problem, Some((index, state)))))
    }

    /// A change that was not made.
    pub fn change(error: ChangeError, index: DeploymentIndex) -> Self {
        let state = match &error {
            ChangeError::Rejected(_, state) => Some((index, State::clone(state))),
            _ => None,
        };
        Self(Box::new((Problem::Change(error), state)))
    }

    /// Why, where it may be part of an attack.
    pub const fn reason(&self) -> Option<&'static str> {
        self.0.0.refusal_reason()
    }

    /// As the client gets it.
    pub async fn response(self, context: &Context) -> Response {
        let (problem, state) = *self.0;
        let Some((index, state)) = state else { return Response::problem(&problem, None) };
        let confirmation = context.ask_workers(Some(index)).await;
        let deployment = context.deployments.get(index);
        let view = deployment.map(|deployment| DeploymentView::new(deployment, &state, context, &confirmation));
        Response::problem(&problem, view.as_ref())
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self(Box::new((problem, None)))
    }
}
