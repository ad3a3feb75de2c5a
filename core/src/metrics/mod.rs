//! What is counted about each colour, and what the counts say about the last minutes.

pub mod buckets;
pub mod comparison;
pub mod counters;
pub mod latency;
