//! etcd as the store of record of a fleet of Envoys: each deployment's state is the value of a key.
//!
//! Every change on any Envoy is a transaction that only happens on the write that it was decided on ([`transaction`]).
//! One filter instance of each Envoy follows the keys ([`follower`]): it lists them, watches what happens to them from
//! there, and puts what comes into the store that the Envoy's workers share. That store also says for how long the last
//! sign of life from etcd counts ([`liveness`]), and a change is over in time whatever etcd does ([`deadline`]). What
//! etcd refuses is told as refused ([`refusal`]). What the Envoys know about a canary goes through etcd as well
//! ([`evidence`]).

pub mod deadline;
pub mod evidence;
pub mod messages;
pub mod refusal;
pub mod store;

pub mod liveness;
pub mod transaction;

pub mod follower;

#[cfg(any(test, feature = "testing"))]
pub mod model;
