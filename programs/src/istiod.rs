//! Istio's control plane: the user's own, or built once from its sources.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::go::Program;
use crate::kubernetes::named;

/// The environment variable that names the binary of istiod.
pub const PILOT_DISCOVERY: &str = "PILOT_DISCOVERY";

/// What is built here.
pub const PROGRAM: Program<'static> = Program {
    module: "istio",
    package: "istio.io/istio/pilot/cmd/pilot-discovery",
    version_variables: &["istio.io/istio/pkg/version.buildVersion"],
    purpose: "Istio's control plane",
};

/// The program. It is not built when the user names it.
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    match named(PILOT_DISCOVERY) {
        Some(path) => std::path::absolute(path).context(PILOT_DISCOVERY),
        None => PROGRAM.obtain(checkout),
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_is_pinned() -> Result<()> {
        let version = PROGRAM.version(&Checkout::locate()?)?;
        assert!(version.starts_with("v0.0.0-2"), "{version}");
        Ok(())
    }
}
