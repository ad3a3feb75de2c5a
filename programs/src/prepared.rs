//! What it takes to run the filter in an Envoy: the wasm module, freshly built, and an Envoy.

use std::path::PathBuf;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::envoy::Envoy;
use crate::process;

/// Everything is there: the demo or a bench can begin.
pub struct Prepared {
    /// The repository, where Envoy has to be started: `envoy/envoy.yaml` names the module relative to it.
    pub root: PathBuf,
    /// `dist/bluegreen.wasm`.
    pub module: PathBuf,
    /// The Envoy binary itself: ending it ends Envoy.
    pub envoy: PathBuf,
}

// === impl Prepared ===

impl Prepared {
    pub fn obtain(checkout: &Checkout) -> Result<Self> {
        // Envoy first: a missing network should not be found out after a minute of building.
        let envoy = Envoy::from_environment()?.obtain(checkout)?;
        process::show(checkout.cargo("run").args(["--quiet", "--package", "xtask", "--", "build"]))?;
        Ok(Self { root: checkout.root().to_owned(), module: checkout.module(), envoy })
    }
}
