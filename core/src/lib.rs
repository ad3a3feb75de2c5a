//! Blue-green routing of inference requests, as pure decisions.
//!
//! Bytes, numbers and the time come in; decisions and effects go out. Nothing here knows proxy-wasm, does I/O or reads
//! a clock, so everything here runs in a native test, in Node and inside Envoy's VM alike.
//!
//! The modules stand in the order of their imports: each uses those before it and none after it, and so do the modules of
//! each folder. So a module can be read once those before it are known, and a change reaches only what stands after it.
//! `cargo xtask lint` checks that.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`json`] | how everything is read that comes as JSON |
//! | [`model`] | the words: colour, percent, split, names, identity, author, time |
//! | [`config`] | what users write, checked as a whole |
//! | [`state`] | the state of a deployment, and every way in which it can change |
//! | [`store`] | records in the data that an Envoy's workers share |
//! | [`deployment`] | a configuration, compiled |
//! | [`routing`] | one request: its deployment, its colour |
//! | [`metrics`] | what is counted about each colour |
//! | [`shadow`] | what the answers of both colours to one request say about the candidate |
//! | [`host`] | what a flow may ask of the Envoy around it, and what polls it |
//! | [`workers`] | the threads of this Envoy: who they are, what each has taken over and counted |
//! | [`setup`] | what is wrong around the filter, found while it runs |
//! | [`notification`] | what people are told, and the queue in which it waits to be sent |
//! | [`clusters`] | which clusters this Envoy was seen to have |
//! | [`readiness`] | what a colour has to be before it gets traffic, and before it may be stopped |
//! | [`guard`] | whether the candidate does worse, judged by evidence |
//! | [`fleet`] | the store of record of a fleet, whichever it is, and what a change of it takes |
//! | [`etcd`] | etcd as that store |
//! | [`kubernetes`] | the Kubernetes API as that store |
//! | [`change`] | the one door through which every state changes |
//! | [`inspection`] | what looks for mistakes around the filter |
//! | [`controllers`] | what changes states without being called: sources, rollouts, guards, failovers |
//! | [`admin`] | the API that operators call |
//!
//! `docs/architecture.md` has the picture, and the words of this project are in its vocabulary.

// The workspace denies panics and overflow in code that runs in the VM; in tests both are how a defect shows itself.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, missing_docs))]

pub mod json;

pub mod model;

pub mod config;

pub mod state;

pub mod store;

pub mod deployment;

pub mod routing;

pub mod metrics;

pub mod shadow;

pub mod host;

pub mod workers;

pub mod setup;

pub mod notification;

pub mod clusters;

pub mod readiness;

pub mod guard;

pub mod fleet;

pub mod etcd;

pub mod kubernetes;

pub mod change;

pub mod inspection;

pub mod controllers;

pub mod admin;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
