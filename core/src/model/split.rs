//! How traffic is shared out, and the number of the change that made it so.

use std::fmt;

use serde::Serialize;

use crate::json::FromJson;
use crate::model::colour::Colour;
use crate::model::percent::Percent;

/// How a deployment's ordinary requests are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// The colour that ordinary traffic goes to.
    pub active: Colour,
    /// The share that goes to the candidate instead.
    pub canary_percent: Percent,
    /// The share of the active colour's requests that are also copied to the candidate.
    pub shadow_percent: Percent,
}

/// How many changes a deployment has seen: 0 at first, then one more with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Revision(u64);

// === impl Split ===

impl Split {
    /// The colour that ordinary traffic does not go to.
    pub const fn candidate(&self) -> Colour {
        self.active.other()
    }
}

// === impl Revision ===

impl Revision {
    /// Before any change.
    pub const ZERO: Revision = Revision(0);

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of the change after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
