//! Envoy Gateway: the user's own, or built once from its sources.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::go::Program;
use crate::kubernetes::named;

/// The environment variable that names the binary.
pub const ENVOY_GATEWAY: &str = "ENVOY_GATEWAY";

/// What is built here.
pub const PROGRAM: Program<'static> = Program {
    module: "envoy-gateway",
    package: "github.com/envoyproxy/gateway/cmd/envoy-gateway",
    version_variables: &["github.com/envoyproxy/gateway/internal/cmd/version.envoyGatewayVersion"],
    purpose: "the test of Envoy Gateway",
};

/// The binary. It is not built when the user names one.
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    match named(ENVOY_GATEWAY) {
        Some(path) => std::path::absolute(path).context(ENVOY_GATEWAY),
        None => PROGRAM.obtain(checkout),
    }
}
