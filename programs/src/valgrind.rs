//! valgrind, with which the benches count instructions: from Debian's package, or from the path.

use anyhow::Result;

use crate::packages;

/// Sees to it that `valgrind` can be started, and `vgdb`, which asks it.
pub fn obtain() -> Result<()> {
    packages::provide(&[("valgrind", "valgrind"), ("vgdb", "valgrind")], "counting instructions")
}
