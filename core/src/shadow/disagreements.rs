//! The last disagreements, for people to look at.

use serde::Serialize;

use super::record::Difference;
use crate::json::FromJson;
use crate::model::time::Timestamp;

/// The last [`Disagreements::MOST`], from old to new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct Disagreements(Vec<Disagreement>);

/// A request whose answers disagreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Disagreement {
    /// When it was found.
    pub at: Timestamp,
    /// The request's `x-request-id`, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The first field that differs.
    pub field: String,
    /// What the active colour answered there, at most 200 bytes.
    pub active: String,
    /// What the candidate answered.
    pub candidate: String,
    /// What the active colour answered when it was asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
    /// XXH64 of the request's body, 16 hexadecimal digits.
    pub input_hash: String,
    /// The request's body, at most 16 KiB of it, where `keep_inputs` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Whether the body was longer.
    #[serde(default)]
    pub input_truncated: bool,
}

// === impl Disagreements ===

impl Disagreements {
    /// How many are kept.
    pub const MOST: usize = 20;

    /// All, from old to new.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Disagreement> {
        self.0.iter()
    }

    /// Adds one, in the place of the oldest if there are enough.
    pub fn push(&mut self, disagreement: Disagreement) {
        let _ = disagreement;
    }

    /// Adds those of another worker, by time.
    pub fn merge(&mut self, other: &Self) {
        let _ = other;
    }
}

// === impl Disagreement ===

impl Disagreement {
    /// One that was found at `at`, of a request with this body. The body is kept only if `keep_input` is set.
    pub fn new(at: Timestamp, request_id: Option<&str>, difference: Difference, body: &[u8], keep_input: bool) -> Self {
        let Difference { field, active, candidate, again } = difference;
        let request_id = request_id.map(str::to_owned);
        let _ = (body, keep_input);
        let input_hash = String::new();
        Self { at, request_id, field, active, candidate, again, input_hash, input: None, input_truncated: false }
    }
}
