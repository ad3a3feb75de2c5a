//! etcd, for the fleet's tests, bench and demo: the one in the path, or else Debian's.

use anyhow::Result;
use bluegreen_testbed::etcd::ETCD;

use crate::packages;

/// Sees to it that `etcd` and `etcdctl` can be started.
pub fn obtain() -> Result<()> {
    if std::env::var_os(ETCD).is_some() {
        return Ok(());
    }
    packages::provide(&[("etcd", "etcd-server"), ("etcdctl", "etcd-client")], "a fleet")
}
