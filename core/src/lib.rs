//! Blue-green routing of inference requests, as pure decisions.
//!
//! Bytes, numbers and the time come in; decisions and effects go out. Nothing here knows proxy-wasm, does I/O or reads
//! a clock, so everything here runs in a native test, in Node and inside Envoy's VM alike.
//!
//! The modules stand in reading order: first the words (author, colour, names, percent, split), then what users write
//! (configuration), what changes (state, history) and where it is kept (key, store), how one request is decided (matching,
//! routing), how it is
//! measured (counters, comparison), how a candidate is judged (guard), what a colour has
//! to be before it gets traffic (readiness), how it gets more and more of it (rollout), and last the API that
//! operators call.
//!
//! | word | where it lives |
//! | --- | --- |
//! | deployment | [`config::Deployment`] as written, [`routing::Route`] compiled, [`state::State`] as it is |
//! | colour | [`colour::Colour`]; its cluster and version: [`config::Upstream`] |
//! | active, candidate, canary percent, shadow percent | [`split::Split`], with [`percent::Percent`] |
//! | revision | [`split::Revision`] |
//! | promote, roll back | [`state::Command`]; whether it may happen: [`readiness::gate`] |
//! | source | [`author::Source`]; what it wants: [`wish::Wish`]; what it was seen to say: [`source`] |
//! | sticky, rotation, override | [`sticky`], [`rotation`], and [`routing`] for their order |
//! | probe, smoke test, drain, bake, failover | [`readiness`] |
//! | guard | [`guard`]: the statistics, and [`guard::watch`] for what it has seen |
//! | rollout | [`rollout`], and [`rollout::conduct`] for what takes it further |
//! | fleet | [`etcd`]: [`etcd::Fleet`] |

// The workspace denies panics and overflow in code that runs in the VM; in tests both are how a defect shows itself.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, missing_docs))]

pub mod model;

pub mod config;

pub mod state;

pub mod store;

pub mod deployment;

pub mod routing;

pub mod metrics;

pub mod host;

pub mod readiness;

pub mod guard;

pub mod etcd;

pub mod change;

pub mod controllers;

pub mod admin;

#[cfg(test)]
mod testing;
