//! The endpoints: which path and method lead to which handler, for whom, and with which parameters.

use std::future::Future;
use std::pin::Pin;

use percent_encoding::percent_decode;

use super::handlers::{self, RolloutAction};
use super::parameters::check_encoding;
use super::problems::{Problem, beginning};
use super::request::{Answer, Request};
use crate::config::{PathPrefix, Role};
use crate::model::name::DeploymentName;

/// A flow that ends with the answer to a call.
pub type Handling = Pin<Box<dyn Future<Output = Answer>>>;

/// An endpoint.
pub struct Route {
    pub(super) method: &'static str,
    /// Under the API's prefix.
    pub(super) path: &'static str,
    /// The role that it takes; none for liveness, readiness and the description, in which no secret stands, and none for a
    /// delivery, which is signed.
    pub role: Option<Role>,
    /// What it takes.
    pub input: Input,
    /// What it does.
    pub handler: fn(Box<Request>) -> Handling,
}

/// What a call brings along.
#[derive(Clone, Copy)]
pub enum Input {
    /// These parameters, in the query or in a JSON body.
    Parameters(&'static [&'static str]),
    /// A body that is signed as a whole, and no parameters.
    SignedBody,
}

/// The endpoints under one path, and the deployment that it names.
pub struct Target {
    /// `DEPLOYMENT` stands in the path for this.
    pub name: Option<DeploymentName>,
    routes: Vec<&'static Route>,
}

/// More segments than any endpoint has: the rest of such a path is not read.
const LONGEST: usize = 8;

/// More bytes than any path has: a deployment's name has at most 63 characters.
const LONGEST_PATH: usize = 1_024;

/// Stands in a path for a deployment's name.
const DEPLOYMENT: &str = "{name}";

/// The path of this API's description.
const DESCRIPTION: &str = "v1/openapi.json";

const PAGE: Input = Input::Parameters(&["limit", "after"]);
const NONE: Input = Input::Parameters(&[]);
const TO: Input = Input::Parameters(&["to", "reason", "force"]);
const TEST: Input = Input::Parameters(&["colour"]);
const WHY: Input = Input::Parameters(&["reason", "force"]);
const PATCH: Input = Input::Parameters(&["active", "canary_percent", "shadow_percent", "reason", "force"]);
const DRAIN: Input = Input::Parameters(&["colour", "timeout"]);

const ANYBODY: Option<Role> = None;
const VIEWER: Option<Role> = Some(Role::Viewer);
const OPERATOR: Option<Role> = Some(Role::Operator);

/// All endpoints.
pub(super) static ROUTES: [Route; 19] = [
    route("GET", "healthz", ANYBODY, NONE, |call| Box::pin(handlers::health(call))),
    route("GET", "readyz", ANYBODY, NONE, |call| Box::pin(handlers::ready(call))),
    route("GET", DESCRIPTION, ANYBODY, NONE, |call| Box::pin(handlers::describe(call))),
    route("POST", "v1/mlflow/webhook", ANYBODY, Input::SignedBody, |call| Box::pin(handlers::webhook(call))),
    route("GET", "v1/deployments", VIEWER, PAGE, |call| Box::pin(handlers::list(call))),
    route("GET", "v1/deployments/{name}", VIEWER, NONE, |call| Box::pin(handlers::state(call))),
    route("PATCH", "v1/deployments/{name}", OPERATOR, PATCH, |call| Box::pin(handlers::patch(call))),
    route("GET", "v1/deployments/{name}/history", VIEWER, NONE, |call| Box::pin(handlers::history(call))),
    route("GET", "v1/deployments/{name}/comparison", VIEWER, NONE, |call| Box::pin(handlers::comparison(call))),
    route("GET", "v1/deployments/{name}/disagreements", VIEWER, NONE, |call| Box::pin(handlers::disagreements(call))),
    route("POST", "v1/deployments/{name}/promote", OPERATOR, TO, |call| Box::pin(handlers::promote(call))),
    route("POST", "v1/deployments/{name}/rollback", OPERATOR, TO, |call| Box::pin(handlers::roll_back(call))),
    route("POST", "v1/deployments/{name}/test", OPERATOR, TEST, |call| Box::pin(handlers::test(call))),
    route("POST", "v1/deployments/{name}/drain", OPERATOR, DRAIN, |call| Box::pin(handlers::drain(call))),
    route("POST", "v1/deployments/{name}/rollout/start", OPERATOR, WHY, |call| rollout(call, RolloutAction::Start)),
    route("POST", "v1/deployments/{name}/rollout/pause", OPERATOR, WHY, |call| rollout(call, RolloutAction::Pause)),
    route("POST", "v1/deployments/{name}/rollout/resume", OPERATOR, WHY, |call| rollout(call, RolloutAction::Resume)),
    route("POST", "v1/deployments/{name}/rollout/abort", OPERATOR, WHY, |call| rollout(call, RolloutAction::Abort)),
    route("POST", "v1/deployments/{name}/rollout/skip", OPERATOR, WHY, |call| rollout(call, RolloutAction::Skip)),
];

const fn route(
    method: &'static str,
    path: &'static str,
    role: Option<Role>,
    input: Input,
    handler: fn(Box<Request>) -> Handling,
) -> Route {
    Route { method, path, role, input, handler }
}

fn rollout(call: Box<Request>, action: RolloutAction) -> Handling {
    Box::pin(handlers::rollout(call, action))
}

/// Path and query of a `:path`, whose fragment, if a client sends one, is dropped.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = path.split(|byte| *byte == b'#').next().unwrap_or_default();
    match path.iter().position(|byte| *byte == b'?') {
        Some(mark) => (path.get(..mark).unwrap_or_default(), path.get(mark.saturating_add(1)..).unwrap_or_default()),
        None => (path, b""),
    }
}

/// Finds the endpoints that a path names, under the API's prefix.
///
/// # Errors
/// The path is malformed, or none is there.
pub fn find(prefix: &PathPrefix, path: &[u8]) -> Result<Target, Problem> {
    let unknown = || Problem::UnknownPath(beginning(path));
    if path.len() > LONGEST_PATH {
        return Err(unknown());
    }
    let text = std::str::from_utf8(path).map_err(|_| Problem::MalformedPath("it is not UTF-8"))?;
    let rest = prefix.strip(text).ok_or_else(unknown)?;
    let segments = rest.split('/').skip(1);
    if segments.clone().nth(LONGEST).is_some() {
        return Err(unknown());
    }
    let segments: Vec<String> = segments.map(decode_segment).collect::<Result<_, _>>()?;
    // `P/` alone, and one slash at the end, are no empty segments in the middle.
    if let [inner @ .., _] = segments.as_slice()
        && inner.iter().any(String::is_empty)
    {
        return Err(Problem::MalformedPath("it has an empty segment (//)"));
    }
    let routes: Vec<&'static Route> = ROUTES.iter().filter(|route| route.matches(&segments)).collect();
    let first = routes.first().ok_or_else(unknown)?;
    let place = first.path.split('/').position(|part| part == DEPLOYMENT);
    // A name that no deployment can have is a deployment that does not exist.
    let name = place.and_then(|place| segments.get(place)).map(|name| DeploymentName::new(name.as_str()));
    Ok(Target { name: name.transpose().map_err(|_| unknown())?, routes })
}

fn decode_segment(segment: &str) -> Result<String, Problem> {
    check_encoding(segment.as_bytes())
        .map_err(|_| Problem::MalformedPath("a % is not followed by two hexadecimal digits"))?;
    let decoded =
        percent_decode(segment.as_bytes()).decode_utf8().map_err(|_| Problem::MalformedPath("it is not UTF-8"))?;
    match decoded.as_ref() {
        "." | ".." => Err(Problem::MalformedPath("it has a . or .. segment")),
        text if text.contains('/') => Err(Problem::MalformedPath("a segment has an encoded slash")),
        text => Ok(text.to_owned()),
    }
}

// === impl Route ===

impl Route {
    fn matches(&self, segments: &[String]) -> bool {
        let mut parts = self.path.split('/');
        let all = segments.iter().all(|segment| parts.next().is_some_and(|part| part == DEPLOYMENT || part == segment));
        all && parts.next().is_none()
    }

    /// The parameters that it knows, in the query or in a JSON body.
    pub const fn parameters(&self) -> &'static [&'static str] {
        match self.input {
            Input::Parameters(known) => known,
            Input::SignedBody => &[],
        }
    }

    /// Whether it answers with the description of the API, which is long.
    pub fn is_description(&self) -> bool {
        self.path == DESCRIPTION
    }

    /// Whether it answers at once, whatever the caller announces and however many wait.
    pub const fn answers_at_once(&self) -> bool {
        self.role.is_none() && matches!(self.input, Input::Parameters(_))
    }
}

// === impl Target ===

impl Target {
    /// Whether no method here takes a role.
    pub fn is_open(&self) -> bool {
        self.routes.iter().all(|route| route.role.is_none())
    }

    /// Whether MLflow's deliveries come here.
    pub fn takes_deliveries(&self) -> bool {
        self.routes.iter().any(|route| matches!(route.input, Input::SignedBody))
    }

    /// The endpoint for a method.
    ///
    /// # Errors
    /// The path takes other methods.
    pub fn route(&self, method: &[u8]) -> Result<&'static Route, Problem> {
        let found = self.routes.iter().find(|route| route.method.as_bytes() == method).copied();
        found.ok_or_else(|| Problem::MethodNotAllowed {
            method: String::from_utf8_lossy(method).into_owned(),
            allow: self.routes.iter().map(|route| route.method).collect::<Vec<_>>().join(", "),
        })
    }
}
