//! MLflow: the user's own Python environment, or one that is made once and kept.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;
use crate::python::Environment;

/// The environment variable that names a Python environment with MLflow and scikit-learn in it.
pub const MLFLOW: &str = "MLFLOW";

/// What the tests and the demo run with.
const REQUIREMENTS: [&str; 2] = ["mlflow==3.17.2", "scikit-learn==1.9.1"];

/// The folder of a Python environment with MLflow and scikit-learn: `MLFLOW=/path`, or else one that is installed now if
/// it is not there yet (850 MB).
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    if let Some(named) = env::var_os(MLFLOW).filter(|path| !path.is_empty()) {
        let named = std::path::absolute(named).context("MLFLOW")?;
        ensure!(named.join("bin/mlflow").is_file(), "MLFLOW={} holds no bin/mlflow", named.display());
        return Ok(named);
    }
    let title = REQUIREMENTS[0].replace("==", " ").replace("mlflow", "MLflow");
    let environment = Environment {
        name: &REQUIREMENTS[0].replace("==", "-"),
        title: &title,
        requirements: &REQUIREMENTS,
        purpose: "installing MLflow",
        otherwise: "set MLFLOW=/path to a Python environment with mlflow and scikit-learn",
    };
    environment.obtain(checkout)
}
