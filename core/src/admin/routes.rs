//! What a path and a method ask for.

use percent_encoding::percent_decode;

use super::parameters::{Params, check_encoding};
use super::problems::Problem;
use crate::config::{PathPrefix, Role};
use crate::deployment::Deployment;
use crate::model::name::DeploymentName;
use crate::state::rollout::{self, Move};
use crate::state::{Command, Patch, Refusal, State};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `P/healthz`
    Health,
    /// `P/readyz`
    Ready,
    /// `P/v1/deployments`
    Deployments,
    /// `P/v1/deployments/{name}` and what is under it.
    Deployment(DeploymentName, Resource),
    /// `P/v1/mlflow/webhook`
    Webhook,
}

/// What is under a deployment's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    State,
    Promote,
    Rollback,
    Test,
    Drain,
    History,
    Comparison,
    Rollout(Steer),
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Health,
    Ready,
    List,
    Read(DeploymentName, Read),
    Write(DeploymentName, Write),
    Test(DeploymentName),
    Drain(DeploymentName),
    Webhook,
}

/// A read of one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    State,
    History,
    Comparison,
}

/// A write to one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Patch,
    Promote,
    Rollback,
    Rollout(Steer),
}

/// What becomes of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    Start,
    Pause,
    Resume,
    Abort,
    Skip,
}

/// Path and query of a `:path`, whose fragment, if a client sends one, is dropped.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = path.split(|byte| *byte == b'#').next().unwrap_or_default();
    match path.iter().position(|byte| *byte == b'?') {
        Some(mark) => (path.get(..mark).unwrap_or_default(), path.get(mark.saturating_add(1)..).unwrap_or_default()),
        None => (path, b""),
    }
}

/// Finds what a path names, under the API's prefix.
pub fn parse(prefix: &PathPrefix, path: &[u8]) -> Result<Endpoint, Problem> {
    let unknown = || Problem::UnknownPath(String::from_utf8_lossy(path).into_owned());
    let text = std::str::from_utf8(path).map_err(|_| Problem::MalformedPath("it is not UTF-8"))?;
    let rest = prefix.strip(text).ok_or_else(unknown)?;
    let segments: Vec<String> = rest.split('/').skip(1).map(decode_segment).collect::<Result<_, _>>()?;
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    // `P/` alone, and one slash at the end, are no empty segments in the middle.
    if let [inner @ .., _] = segments.as_slice()
        && inner.contains(&"")
    {
        return Err(Problem::MalformedPath("it has an empty segment (//)"));
    }
    match segments.as_slice() {
        ["healthz"] => Ok(Endpoint::Health),
        ["readyz"] => Ok(Endpoint::Ready),
        ["v1", "deployments"] => Ok(Endpoint::Deployments),
        ["v1", "mlflow", "webhook"] => Ok(Endpoint::Webhook),
        ["v1", "deployments", name, rest @ ..] => {
            let resource = match rest {
                [] => Resource::State,
                ["promote"] => Resource::Promote,
                ["rollback"] => Resource::Rollback,
                ["test"] => Resource::Test,
                ["drain"] => Resource::Drain,
                ["history"] => Resource::History,
                ["comparison"] => Resource::Comparison,
                ["rollout", "start"] => Resource::Rollout(Steer::Start),
                ["rollout", "pause"] => Resource::Rollout(Steer::Pause),
                ["rollout", "resume"] => Resource::Rollout(Steer::Resume),
                ["rollout", "abort"] => Resource::Rollout(Steer::Abort),
                ["rollout", "skip"] => Resource::Rollout(Steer::Skip),
                _ => return Err(unknown()),
            };
            // A name that no deployment can have is a deployment that does not exist.
            let name = DeploymentName::new(*name).map_err(|_| unknown())?;
            Ok(Endpoint::Deployment(name, resource))
        }
        _ => Err(unknown()),
    }
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

// === impl Endpoint ===

impl Endpoint {
    /// What `method` asks of this endpoint.
    pub fn action(self, method: &[u8]) -> Result<Action, Problem> {
        let (action, allow) = match (self, method) {
            (Endpoint::Health, b"GET") => (Some(Action::Health), "GET"),
            (Endpoint::Ready, b"GET") => (Some(Action::Ready), "GET"),
            (Endpoint::Health | Endpoint::Ready, _) => (None, "GET"),
            (Endpoint::Deployments, b"GET") => (Some(Action::List), "GET"),
            (Endpoint::Deployments, _) => (None, "GET"),
            (Endpoint::Webhook, b"POST") => (Some(Action::Webhook), "POST"),
            (Endpoint::Webhook, _) => (None, "POST"),
            (Endpoint::Deployment(name, resource), method) => match (resource, method) {
                (Resource::State, b"GET") => (Some(Action::Read(name, Read::State)), "GET, PATCH"),
                (Resource::State, b"PATCH") => (Some(Action::Write(name, Write::Patch)), "GET, PATCH"),
                (Resource::State, _) => (None, "GET, PATCH"),
                (Resource::History, b"GET") => (Some(Action::Read(name, Read::History)), "GET"),
                (Resource::Comparison, b"GET") => (Some(Action::Read(name, Read::Comparison)), "GET"),
                (Resource::History | Resource::Comparison, _) => (None, "GET"),
                (Resource::Promote, b"POST") => (Some(Action::Write(name, Write::Promote)), "POST"),
                (Resource::Rollback, b"POST") => (Some(Action::Write(name, Write::Rollback)), "POST"),
                (Resource::Test, b"POST") => (Some(Action::Test(name)), "POST"),
                (Resource::Drain, b"POST") => (Some(Action::Drain(name)), "POST"),
                (Resource::Rollout(steer), b"POST") => (Some(Action::Write(name, Write::Rollout(steer))), "POST"),
                (
                    Resource::Promote | Resource::Rollback | Resource::Test | Resource::Drain | Resource::Rollout(_),
                    _,
                ) => (None, "POST"),
            },
        };
        action.ok_or_else(|| Problem::MethodNotAllowed { method: String::from_utf8_lossy(method).into_owned(), allow })
    }
}

// === impl Action ===

impl Action {
    /// The role that it takes; none for liveness and readiness, and none for a delivery, which is signed.
    pub const fn role(&self) -> Option<Role> {
        match self {
            Action::Health | Action::Ready | Action::Webhook => None,
            Action::List | Action::Read(..) => Some(Role::Viewer),
            Action::Write(..) | Action::Test(_) | Action::Drain(_) => Some(Role::Operator),
        }
    }

    /// Refuses parameters that the action does not know.
    pub fn check(&self, params: Params) -> Result<Params, Problem> {
        let known: &'static [&'static str] = match self {
            Action::Health | Action::Ready | Action::List | Action::Read(..) | Action::Test(_) | Action::Webhook => &[],
            Action::Drain(_) => &["colour", "timeout"],
            Action::Write(_, Write::Patch) => &["active", "canary_percent", "shadow_percent", "reason", "force"],
            Action::Write(_, Write::Promote | Write::Rollback | Write::Rollout(_)) => &["reason", "force"],
        };
        params.only(known)
    }
}

// === impl Write ===

impl Write {
    /// The command that the parameters make of it, for a deployment in `state`.
    pub fn command(self, params: &Params, route: &Deployment, state: &State) -> Result<Command, Problem> {
        match self {
            Write::Promote => Ok(Command::Promote),
            Write::Rollback => Ok(Command::RollBack),
            Write::Rollout(steer) => steer.command(route, state),
            Write::Patch => {
                let patch = Patch {
                    active: params.parsed("active")?,
                    canary_percent: params.parsed("canary_percent")?,
                    shadow_percent: params.parsed("shadow_percent")?,
                };
                if patch == Patch::default() { Err(Problem::EmptyPatch) } else { Ok(Command::Patch(patch)) }
            }
        }
    }
}

// === impl Steer ===

impl Steer {
    fn command(self, route: &Deployment, state: &State) -> Result<Command, Problem> {
        let to = match (self, &route.rollout) {
            (Steer::Pause, _) => Move::Pause,
            (Steer::Resume, _) => Move::Resume,
            (Steer::Abort, _) => Move::Abort,
            (Steer::Start | Steer::Skip, None) => return Err(Problem::NoRolloutPlan),
            (Steer::Start, Some(plan)) => {
                let first = plan.steps.first().ok_or(Problem::NoRolloutPlan)?;
                Move::Start(first.canary_percent)
            }
            (Steer::Skip, Some(plan)) => {
                let here = state.rollout.ok_or(Problem::Refused(Refusal::Rollout(rollout::Refusal::NoRollout)))?;
                Move::Next(here, here.next(plan))
            }
        };
        Ok(Command::Rollout(to))
    }
}
