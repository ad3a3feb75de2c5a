//! What is counted about each colour, and what the counts say about the last minutes.

pub mod latency;
pub mod counters;
pub mod named;
pub mod tally;
pub mod answer;
pub mod cohorts;
pub mod comparison;
