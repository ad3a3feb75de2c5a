//! Which answers of a store are refusals: what was asked was not carried out, and will not be.
//!
//! A write that got no answer may have been carried out, or may be later. A refusal is an answer, and the caller is owed
//! the store's own reason at once.

use std::fmt;

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It could not be sent.
    Unsent,
    /// It was not carried out, and there is no time left to see what stands in its way.
    Late,
    /// It was not carried out, and would not be if it was sent again.
    Final,
    /// It was not carried out, and may be when it is sent again.
    Passing,
    /// The store is out of space. What it holds tells whether it was carried out.
    OutOfSpace,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoResponse {
    /// In words.
    pub why: String,
    /// What it refuses; none where nobody knows what became of the request.
    pub refusal: Option<Refusal>,
}

// === impl NoResponse ===

impl NoResponse {
    /// Whether the store itself has said no.
    pub fn is_refused(&self) -> bool {
        !matches!(self.refusal, None | Some(Refusal::Unsent | Refusal::Late))
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
