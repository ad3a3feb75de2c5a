//! etcd as the store of record of a fleet of Envoys: each deployment's state is the value of a key.
//!
//! Every change on any Envoy is a transaction that only happens on the write that it was decided on ([`record`]). One filter
//! instance of each Envoy follows the keys ([`follower`]): it lists them, watches what happens to them from there, and puts
//! what comes into the store that the Envoy's workers share. [`refusal`] has what etcd means by its codes.

pub mod messages;
pub mod refusal;
pub mod store;

mod follower;
mod record;

#[cfg(any(test, feature = "testing"))]
pub mod model;
