//! What the comparisons say, in the words of the admin API.

use serde::Serialize;

use super::record::Compared;
use crate::config::Compare;

/// What `GET …/comparison` says under `shadow`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// Requests whose answers were compared.
    pub compared: u64,
    /// What all this means, in at most 240 characters.
    pub sentence: String,
}

// === impl Findings ===

impl Findings {
    /// What `compared` says about an excess of `max_excess` (0 or more, below 1), at the confidence `1 - alpha`.
    pub fn of(compared: &Compared, rules: &Compare, max_excess: f64, alpha: f64) -> Self {
        let _ = (rules, max_excess, alpha);
        Self { compared: compared.compared, sentence: String::new() }
    }
}
