//! The store of record of a fleet of Envoys, whichever it is: what it has to be able to do, and what is done with it.
//!
//! A [`FleetStore`](store::FleetStore) keeps one state for each deployment, and swaps it on the condition that it is still the one that was read. Every
//! change on any Envoy is such a swap, from the first call to the certainty of what became of it ([`transaction`]), and is
//! over in time whatever the store does ([`deadline`]). What the store refuses is told as refused ([`refusal`]). One filter
//! instance of each Envoy follows the states for all ([`following`]), and says for how long the last sign of life counts
//! ([`liveness`]). What the Envoys know about a canary goes through the store as well ([`evidence`]).
//!
//! The stores are [etcd](crate::etcd) and [the Kubernetes API](crate::kubernetes).

pub mod evidence;
pub mod refusal;

pub mod deadline;

pub mod following;
pub mod store;

pub mod liveness;
pub mod transaction;

#[cfg(any(test, feature = "testing"))]
pub mod model;
