//! etcd, for the fleet's tests, bench and demo: the one in the path, or else Debian's.

use anyhow::Result;
use bluegreen_testbed::etcd::ETCD;

use crate::packages;
use crate::process;

/// Sees to it that `etcd` and `etcdctl` can be started.
pub fn obtain() -> Result<()> {
    let named = std::env::var_os(ETCD).is_some();
    if named || (process::exists("etcd") && process::exists("etcdctl")) {
        return Ok(());
    }
    packages::install(&["etcd-server", "etcd-client"], "a fleet")
}
