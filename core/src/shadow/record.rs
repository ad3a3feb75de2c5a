//! What all comparisons of a worker add up to.

use std::time::Duration;

use serde::Serialize;

use super::answer::Answer;
use super::dropped::Dropped;
use super::excess::Excess;
use crate::config::Compare;
use crate::json::FromJson;
use crate::metrics::latency::Histogram;

/// What was compared, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(default)]
pub struct Compared {
    /// Requests whose answers were compared.
    pub compared: u64,
    /// Those of them whose answers disagreed.
    pub disagreed: u64,
    /// What they say net of the noise.
    pub excess: Excess,
    /// How long the active colour took.
    pub active_took: Histogram,
    /// How long the candidate took.
    pub candidate_took: Histogram,
}

/// One request and its answers.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The active colour's, which the client got.
    pub first: &'a Answer,
    /// The candidate's.
    pub candidate: &'a Answer,
    /// The active colour's second one.
    pub again: Again<'a>,
    /// Whether the request was drawn to be sent again whatever the candidate answers.
    pub is_sample: bool,
    /// How long the active colour and the candidate took.
    pub took: (Duration, Duration),
}

/// The active colour's second answer to a request.
#[derive(Clone, Copy, Debug)]
pub enum Again<'a> {
    /// It was not asked.
    NotAsked,
    /// It gave none that can be compared.
    Failed,
    /// It answered.
    Answered(&'a Answer),
}

/// A disagreement: the first field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field.
    pub field: String,
    /// What the active colour answered.
    pub active: String,
    /// What the candidate answered.
    pub candidate: String,
    /// What the active colour answered when it was asked again.
    pub again: Option<String>,
}

// === impl Compared ===

impl Compared {
    /// Whether the active colour should be asked again because of what the candidate answered: the two disagree in a field
    /// that is not known to be noise, and `noise_percent` is not 0.
    pub fn wants_again(&self, first: &Answer, candidate: &Answer, rules: &Compare) -> bool {
        let _ = (first, candidate, rules);
        false
    }

    /// Counts a request. What differs if the answers disagree.
    pub fn add(&mut self, trial: &Trial<'_>, rules: &Compare) -> Option<Difference> {
        let _ = (trial, rules);
        None
    }

    /// Counts a request that was not compared.
    pub fn add_dropped(&mut self, reason: Dropped) {
        let _ = reason;
    }

    /// How many requests were not compared for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        let _ = reason;
        0
    }

    /// Adds what another worker has counted.
    pub fn merge(&mut self, other: &Self) {
        let _ = other;
    }
}
