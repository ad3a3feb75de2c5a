//! Waiting until a colour can be stopped.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Answer, Backend, Problem, one, refused, unavailable};
use crate::deployment::DeploymentIndex;
use crate::deployment::Deployments;
use crate::model::colour::Colour;
use crate::model::time::Timestamp;
use crate::readiness::drain::{Hold, holds};
use crate::store;

/// A drain under way.
#[derive(Clone, Debug)]
pub struct Drain {
    deployment: DeploymentIndex,
    colour: Colour,
    deadline: Timestamp,
}

/// How long a drain may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimeout(Duration);

/// Why a text is no [`DrainTimeout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTimeout(String);

// === impl Drain ===

impl Drain {
    pub(super) fn new(deployment: DeploymentIndex, colour: Colour, timeout: DrainTimeout, now: Timestamp) -> Self {
        Self { deployment, colour, deadline: now.plus(timeout.0) }
    }

    /// The answer, once the colour can be stopped or nothing will make it so in time. To be asked again until then.
    pub fn poll(&self, router: &Deployments, backend: &dyn Backend, now: Timestamp) -> Option<Answer> {
        let route = router.get(self.deployment)?;
        let Ok(loaded) = store::load(backend.store(), &route.name, route.initial, now) else {
            return Some(Answer::only(unavailable()));
        };
        let in_flight = backend.in_flight(self.deployment, self.colour);
        let holds = holds(&loaded.state, self.colour, in_flight, route.readiness.bake, now);
        if holds.is_empty() {
            return Some(Answer::only(one(self.deployment, route, &loaded.state, backend, now)));
        }
        let in_time = now < self.deadline && holds.iter().all(|hold| hold.ends_before(self.deadline));
        if in_time {
            return None;
        }
        let problem = Problem::NotDrained {
            colour: self.colour,
            holds: holds.iter().map(Hold::to_string).collect::<Vec<_>>().join(", "),
        };
        Some(Answer::only(refused(&problem, self.deployment, route, &loaded.state, backend, now)))
    }
}

// === impl DrainTimeout ===

impl DrainTimeout {
    /// Envoy ends a stream in which nothing moves after five minutes.
    const LONGEST: Duration = Duration::from_secs(240);
}

impl Default for DrainTimeout {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl FromStr for DrainTimeout {
    type Err = BadTimeout;

    fn from_str(text: &str) -> Result<Self, BadTimeout> {
        match humantime::parse_duration(text) {
            Ok(timeout) if timeout <= Self::LONGEST => Ok(Self(timeout)),
            _ => Err(BadTimeout(text.to_owned())),
        }
    }
}

impl fmt::Display for BadTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = humantime::format_duration(DrainTimeout::LONGEST);
        write!(f, "{:?} is not a time such as 500ms or 30s, of at most {longest}", self.0)
    }
}
