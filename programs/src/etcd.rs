//! etcd, for the fleet's tests, bench and demo: the user's own, the one in the path, or Debian's.

use std::path::PathBuf;

use anyhow::Result;

use crate::packages;
use crate::process;

/// The environment variable that names the etcd binary; `etcdctl` has to be beside it.
pub const ETCD: &str = "ETCD";

/// Sees to it that `etcd` and `etcdctl` can be started.
pub fn obtain() -> Result<()> {
    if std::env::var_os(ETCD).is_some() {
        return Ok(());
    }
    packages::provide(&[("etcd", "etcd-server"), ("etcdctl", "etcd-client")], "a fleet")
}

/// The binary, when there is one.
pub fn binary() -> Option<PathBuf> {
    std::env::var_os(ETCD).map(PathBuf::from).or_else(|| process::find("etcd"))
}
