//! The share that the former colour keeps for a while after a promotion, so that the promoted one has something to be compared
//! with.

use std::time::Duration;

use serde::Serialize;

use crate::json::FromJson;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;

/// What a promotion leaves with the former colour, by the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Which share of the requests.
    pub share: Percent,
    /// For how long.
    pub r#for: Duration,
}

/// Says of a canary share that a promotion left it with the former colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Kept {
    /// Then the share ends.
    pub until: Timestamp,
}
