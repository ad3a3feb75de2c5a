//! The API of one listener, and the way of a call through it.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::auth::Caller;
use super::if_match;
use super::parameters::Params;
pub use super::problems::MAX_BODY;
use super::problems::Problem;
use super::request::Request;
use super::response::Response;
use super::routes::{self, Input, Route};
use super::webhook::Delivery;
use crate::change::context::Context;
use crate::change::request::Precondition;
use crate::config::Access;
use crate::model::name::DeploymentName;

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
pub struct Call {
    route: &'static Route,
    name: Option<DeploymentName>,
    caller: Caller,
    query: Params,
    precondition: Precondition,
    delivery: Delivery,
}

/// What came of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// All of it; empty if there was none.
    Complete(Vec<u8>),
    /// More than [`MAX_BODY`] of it.
    TooLarge,
}

/// How long a body may take to arrive. Envoy's own limit, `request_timeout`, would also cut off a drain.
const BODY_ARRIVES_WITHIN: Duration = Duration::from_secs(5);

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
        routes::find(&self.access.path_prefix, routes::split(path).0).is_ok_and(|target| target.takes_deliveries())
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
        // Whether a path exists is shown to callers with a role only; whether Envoy is healthy is shown to all.
        let target = routes::find(&self.access.path_prefix, path);
        let caller = match (&target, Caller::identify(&self.access, head.authorization.as_deref())) {
            (_, Ok(caller)) => caller,
            (Ok(target), Err(_)) if target.is_open() => Caller::anonymous(),
            (_, Err(problem)) => return Err(problem),
        };
        let target = target?;
        let route = target.route(&head.method)?;
        caller.require(route.role)?;
        Ok(Call {
            route,
            name: target.name,
            caller,
            query: Params::from_query(query)?,
            precondition: if_match::parse(head.if_match.as_deref())?,
            delivery: head.delivery.clone().unwrap_or_default(),
        })
    }
}

// === impl Call ===

impl Call {
    /// Acts on the call once its body has arrived.
    pub async fn answer(self, context: Rc<Context>, body: impl Future<Output = Body>) -> Response {
        let host = Rc::clone(&context.host);
        let too_late = async {
            host.sleep(BODY_ARRIVES_WITHIN).await;
            Err(Problem::BodyMissing)
        };
        let arrived = future::or(async { Ok(body.await) }, too_late).await;
        let answer = match arrived.and_then(|body| self.read(Rc::clone(&context), body)) {
            Ok((request, route)) => (route.handler)(request).await,
            Err(problem) => Err(problem.into()),
        };
        match answer {
            Ok(response) => response,
            Err(refused) => refused.response(&context).await,
        }
    }

    fn read(self, context: Rc<Context>, body: Body) -> Result<(Box<Request>, &'static Route), Problem> {
        let Body::Complete(body) = body else { return Err(Problem::BodyTooLarge) };
        let params = match self.route.input {
            Input::Parameters(known) => self.query.with_body(&body)?.only(known)?,
            Input::SignedBody => self.query.only(&[])?,
        };
        let Self { route, name, caller, precondition, delivery, .. } = self;
        Ok((Box::new(Request { context, caller, name, params, precondition, delivery, body }), route))
    }
}

#[cfg(test)]
mod tests;
