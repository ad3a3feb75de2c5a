//! The Kubernetes API as the store of record of a fleet of Envoys: each deployment is a `BlueGreen` object of its name.
//!
//! Its `spec` is what a person or Git asks for, its `status` holds the state ([`object`]). Every change on any Envoy replaces the status on the
//! condition that the object is still the one that it was decided on: its `resourceVersion` ([`record`]). One filter instance of each Envoy
//! follows the objects ([`follower`]): it lists them, and then asks in windows of a second what happens to them from there.
//! [`refusal`] has what the API server means by its answers. The admin API's tokens may be in a Secret there ([`secret`]).
//!
//! Numbers of writes are `resourceVersion`s. Kubernetes says since 1.35 that clients may compare them as numbers (KEP-5504,
//! *comparable resource version*); etcd, which they come from, has always counted them so.

pub mod secret;

pub mod object;
pub mod refusal;
pub mod store;

mod follower;
mod record;

#[cfg(any(test, feature = "testing"))]
pub mod model;
