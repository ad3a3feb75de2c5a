//! The API of one listener, and the way of a call through it.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;

use super::auth::Caller;
pub use super::browser::Provenance;
use super::if_match;
use super::parameters::Params;
pub use super::places::Place;
use super::places::Places;
pub use super::problems::MAX_BODY;
use super::problems::Problem;
use super::refusals::{Refusal, Refusals};
use super::request::Request;
use super::response::Response;
use super::routes::{self, Input, Route};
use super::webhook::Delivery;
use crate::change::context::Context;
use crate::change::request::Precondition;
use crate::config::{Access, Config, PathPrefix};
use crate::kubernetes::secret::TokenSecret;
use crate::model::name::DeploymentName;

/// The admin API of one listener.
pub struct Api {
    access: Access,
    secret: Option<TokenSecret>,
    refusals: Rc<Refusals>,
    places: Places,
    places_of_deliveries: Places,
    places_of_descriptions: Places,
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
    /// Where it comes from, as a browser would say.
    pub provenance: Provenance,
    /// The address of the caller, as Envoy knows it.
    pub peer: String,
}

/// A call whose head was accepted.
pub struct Call {
    refusals: Rc<Refusals>,
    peer: String,
    place: Option<Place>,
    route: &'static Route,
    prefix: PathPrefix,
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

/// So many calls may wait at once, in one virtual machine: each holds memory, and may be answered in the same event as all
/// others.
const PLACES: usize = 256;

/// So many deliveries among them may wait for their bodies: who sends one has no token.
const PLACES_OF_DELIVERIES: usize = 16;

/// So many descriptions of the API may be on their way to callers: they are long, and who asks for one has no token.
const PLACES_OF_DESCRIPTIONS: usize = 16;

// === impl Api ===

impl Api {
    /// The API of a listener's configuration, if it has one.
    pub fn of(config: &Config) -> Option<Self> {
        Some(Self::new(config.admin.clone()?, TokenSecret::of(config)))
    }

    /// The API under a listener's access rules, which may name a Secret.
    pub fn new(access: Access, secret: Option<TokenSecret>) -> Self {
        Self {
            access,
            secret,
            refusals: Rc::default(),
            places: Places::new(PLACES),
            places_of_deliveries: Places::new(PLACES_OF_DELIVERIES),
            places_of_descriptions: Places::new(PLACES_OF_DESCRIPTIONS),
        }
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
    pub fn receive(&self, context: &Context, head: &Head) -> Result<Call, Refusal> {
        self.judge(context, head).map_err(|problem| self.refusals.refuse(&context.host, &problem, &head.peer))
    }

    fn judge(&self, context: &Context, head: &Head) -> Result<Call, Problem> {
        head.provenance.check(&self.access)?;
        let (path, query) = routes::split(&head.path);
        // Whether a path exists is shown to callers with a role only; whether Envoy is healthy is shown to all.
        let target = routes::find(&self.access.path_prefix, path);
        let secret = self.secret.as_ref().filter(|_| head.authorization.is_some());
        let of_secret = secret.map(|secret| secret.known(context.host.store())).unwrap_or_default();
        let caller = match (&target, Caller::identify(&self.access, &of_secret, head.authorization.as_deref())) {
            (_, Ok(caller)) => caller,
            (Ok(target), Err(_)) if target.is_open() => Caller::anonymous(),
            (_, Err(problem)) => return Err(problem),
        };
        let target = target?;
        let route = target.route(&head.method)?;
        caller.require(route.role)?;
        let delivery = head.delivery.clone().unwrap_or_default();
        let place = match route.input {
            _ if route.is_description() => Some(self.places_of_descriptions.take().ok_or(Problem::Busy)?),
            _ if route.answers_at_once() => None,
            Input::Parameters(_) => Some(self.places.take().ok_or(Problem::Busy)?),
            Input::SignedBody => {
                delivery.check(context.host.now())?;
                Some(self.places_of_deliveries.take().ok_or(Problem::Busy)?)
            }
        };
        Ok(Call {
            refusals: Rc::clone(&self.refusals),
            peer: head.peer.clone(),
            place,
            route,
            prefix: self.access.path_prefix.clone(),
            name: target.name,
            caller,
            query: Params::from_query(query, route.parameters())?,
            precondition: if_match::parse(head.if_match.as_deref().filter(|_| route.role.is_some()))?,
            delivery,
        })
    }
}

// === impl Call ===

impl Call {
    /// Whether the body counts. That of a caller without a role is not waited for, unless its signature is what tells
    /// who calls.
    pub const fn takes_body(&self) -> bool {
        !self.route.answers_at_once()
    }

    /// A place that the caller is to hold until the answer has left, where that is long.
    pub fn place_until_sent(&mut self) -> Option<Place> {
        self.place.take_if(|_| self.route.is_description())
    }

    /// Acts on the call once its body has arrived.
    pub async fn answer(mut self, context: Rc<Context>, body: impl Future<Output = Body>) -> Response {
        let host = Rc::clone(&context.host);
        // Held until the call is answered, or dropped.
        let _place = self.place.take();
        let (refusals, peer) = (Rc::clone(&self.refusals), std::mem::take(&mut self.peer));
        let too_late = async {
            host.sleep(BODY_ARRIVES_WITHIN).await;
            Err(Problem::BodyMissing)
        };
        let arrived = future::or(async { Ok(body.await) }, too_late).await;
        let answer = match arrived.and_then(|body| self.read(Rc::clone(&context), body)) {
            Ok((request, route)) => (route.handler)(request).await,
            Err(problem) => Err(problem.into()),
        };
        if let Err(refused) = &answer
            && let Some(reason) = refused.reason()
        {
            refusals.note(&context.host, reason, &peer);
        }
        match answer {
            Ok(response) => response,
            Err(refused) => refused.response(&context).await,
        }
    }

    fn read(self, context: Rc<Context>, body: Body) -> Result<(Box<Request>, &'static Route), Problem> {
        let Body::Complete(body) = body else { return Err(Problem::BodyTooLarge) };
        let params = match self.route.input {
            Input::Parameters(known) => self.query.with_body(&body, known)?,
            Input::SignedBody => self.query,
        };
        let Self { route, prefix, name, caller, precondition, delivery, .. } = self;
        Ok((Box::new(Request { context, caller, prefix, name, params, precondition, delivery, body }), route))
    }
}

#[cfg(test)]
mod tests;
