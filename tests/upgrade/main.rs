//! From the last release of the filter to this one, and back: what one has written the other goes on with.
//!
//! `cargo xtask test --suite upgrade` runs this; it builds the last release's module, and sees to etcd.

mod fleet;
mod shared_data;
