//! What the cohorts of requests say to each test: a few numbers for each quarter of a second.
//!
//! A test takes them in the order in which the requests began, each once: as soon as all is known that it asks, or when the
//! horizon has passed. In a fleet each Envoy does this for its own requests, and the sums are what the Envoys tell each other.

use serde::{Deserialize, Serialize};

use super::outcomes::Outcomes;
use crate::metrics::cohorts::{Epoch, Host, Slot};
use crate::model::colour::{Colour, PerColour};
use crate::model::percent::Percent;
use crate::model::split::Revision;

/// What one test has to know about the requests that began in an epoch under one revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// For which test.
    pub test: Test,
    /// When the requests began.
    pub epoch: Epoch,
    /// The state that they followed.
    pub revision: Revision,
    /// The candidate's share in it.
    pub share: Percent,
    /// Requests that are evidence each for itself.
    pub units: PerColour<Outcomes>,
    /// All requests.
    pub all: PerColour<Outcomes>,
    /// How many of the bad units were whose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<(Colour, Host, u64)>,
    /// Keys of which requests were bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(Colour, Slot, Host)>,
}

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Of errors.
    Error,
    /// Of requests that get no answer.
    Unanswered,
    /// Of slow answers: above the bound with this number, of those that the rule has.
    Slow(u8),
}

// === impl Evidence ===

impl Evidence {
    /// Adds what another Envoy of the fleet says about the same epoch, revision and test.
    pub fn merge(&mut self, other: &Self) {
        for colour in Colour::ALL {
            let add = |sums: &mut PerColour<Outcomes>, more: &PerColour<Outcomes>| {
                let sum = sums.get_mut(colour);
                *sum = sum.and(*more.get(colour));
            };
            add(&mut self.units, &other.units);
            add(&mut self.all, &other.all);
        }
        self.hosts.extend(&other.hosts);
        self.keys.extend(&other.keys);
    }
}
