//! Obtains MLflow: the user's own Python environment, or one that is made once and kept.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::repository;

use crate::checkout::Checkout;
use crate::missing::Missing;
use crate::progress::Progress;
use crate::python;

/// What the tests and the demo run with.
const MLFLOW: &str = "3.17.2";
const SCIKIT_LEARN: &str = "1.9.1";

/// Written when all is installed. An environment cannot be moved into place like other tools: its programs begin with
/// its path.
const COMPLETE: &str = "complete";

/// The folder of a Python environment with MLflow and scikit-learn: `MLFLOW=/path`, or else one that is installed now if
/// it is not there yet (850 MB).
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    if let Some(named) = env::var_os(repository::MLFLOW).filter(|path| !path.is_empty()) {
        let named = std::path::absolute(named).context("MLFLOW")?;
        ensure!(named.join("bin/mlflow").is_file(), "MLFLOW={} holds no bin/mlflow", named.display());
        return Ok(named);
    }
    let folder = checkout.tool(&format!("mlflow-{MLFLOW}"));
    if folder.join(COMPLETE).is_file() {
        return Ok(folder);
    }
    python::create_environment(&folder, "installing MLflow", "set MLFLOW=/path to a Python environment with mlflow")?;
    let progress = Progress::start(format!("Installing MLflow {MLFLOW}"));
    let packages = [format!("mlflow=={MLFLOW}"), format!("scikit-learn=={SCIKIT_LEARN}")];
    python::install(&folder, &packages.each_ref().map(String::as_str), &progress).map_err(|error| {
        Missing::error(format!(
            "MLflow {MLFLOW} cannot be installed here: check the network, or set MLFLOW=/path to a Python environment \
             with mlflow and scikit-learn: {error:#}"
        ))
    })?;
    fs::write(folder.join(COMPLETE), "").with_context(|| format!("cannot write to {}", folder.display()))?;
    progress.done(&format!("Installed MLflow {MLFLOW}"));
    Ok(folder)
}
