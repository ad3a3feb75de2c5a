//! What a task needs that runs the filter in an Envoy: the wasm module, freshly built, and an Envoy.

use std::path::PathBuf;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::envoy::Envoy;
use crate::module;
use crate::toolchain::WasmToolchain;

/// Everything is there: the demo (and later a bench) can begin.
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
        let module = module::build(checkout, &WasmToolchain::obtain(checkout)?)?;
        Ok(Self { root: checkout.root().to_owned(), module, envoy })
    }
}
