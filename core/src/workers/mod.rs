//! The worker threads of one Envoy: who they are, what each has taken over and counted, and how one reaches the others.
//!
//! Nothing here depends on Envoy's stats, which may be filtered, merged with those of another process, reset or evicted.

pub mod message;
pub mod roster;
pub mod report;
pub mod recorder;
pub mod comparer;
pub mod worker;
pub mod comparing;
pub mod publish;
pub mod build_info;
