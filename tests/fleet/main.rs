//! Several Envoys and three members of etcd.
//!
//! `cargo xtask test --suite fleet` runs this; it sees to etcd.

mod environment;
mod rollout;
mod store;
