//! The demo's MLflow: a tracking server with a registry, model servers, and somebody at a Python prompt.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::Checkout;
use bluegreen_testbed::mlflow::{self, Python};
use bluegreen_testbed::ports::loopback;
use tempfile::TempDir;

use crate::model::Model;

/// Where `mlflow server` listens unless told otherwise; `envoy/mlflow/envoy.yaml` says the same.
pub const PORT: u16 = 5000;

/// The registered model; `envoy/mlflow/envoy.yaml` says the same.
pub const MODEL: &str = "my-model";

/// MLflow as installed, and all that it keeps.
pub struct Registry {
    programs: PathBuf,
    folder: TempDir,
    python: Option<Python>,
}

/// Where the registry is.
pub fn address() -> SocketAddr {
    loopback(PORT)
}

// === impl Registry ===

impl Registry {
    /// Installs MLflow, if that was not done yet.
    pub fn obtain(checkout: &Checkout) -> Result<Self> {
        let programs = bluegreen_programs::mlflow::obtain(checkout)?.join("bin");
        let folder = TempDir::with_prefix("bluegreen-demo-").context("cannot make a folder for MLflow")?;
        Ok(Self { programs, folder, python: None })
    }

    /// What names a colour's model in the registry.
    pub fn model_uri(colour: &str) -> String {
        format!("models:/{MODEL}@{colour}")
    }

    /// The command that starts the tracking server.
    pub fn server(&self) -> Command {
        mlflow::server(&self.programs, self.folder.path(), address())
    }

    /// The command that serves a colour's model on its port.
    pub fn model_server(&self, model: &Model) -> Result<Command> {
        let uri = Self::model_uri(model.colour);
        mlflow::model_server(&self.programs, self.folder.path(), address(), &uri, loopback(model.port))
    }

    /// Runs a line of Python in which `client` is an `MlflowClient`.
    pub async fn run(&mut self, line: &str) -> Result<String> {
        let python = match self.python.take() {
            Some(python) => python,
            None => Python::start(&self.programs, self.folder.path(), address())?,
        };
        self.python.insert(python).run(line).await
    }
}
