//! Several Envoys and three members of etcd.
//!
//! `cargo xtask test --suite fleet` runs this; it sees to etcd.

mod cli;
mod environment;
mod guard;
mod rollout;
mod store;
