//! Python environments, for tools that Python's package index carries.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::missing::Missing;
use crate::packages;
use crate::process;
use crate::progress::Progress;

/// Makes an empty environment in `folder`, because `purpose` needs one; `otherwise` is what else a user can do.
pub fn create_environment(folder: &Path, purpose: &str, otherwise: &str) -> Result<()> {
    let progress = Progress::start("Creating a Python environment");
    let create = || process::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder), &progress);
    if create().is_ok() {
        return Ok(());
    }
    // Debian splits the module off from python3 and a small image has neither.
    packages::install(&["python3", "python3-venv"], purpose)?;
    create().map_err(|error| {
        Missing::error(format!("{purpose} needs a python3 with the module venv, or {otherwise}: {error:#}"))
    })
}

/// `pip install` in an environment, told as `progress`.
pub fn install(environment: &Path, arguments: &[&str], progress: &Progress) -> Result<()> {
    let mut pip = Command::new(environment.join("bin").join("python"));
    pip.args(["-m", "pip", "install", "--no-input", "--only-binary=:all:", "--disable-pip-version-check"]);
    process::quiet(pip.args(arguments), progress)
}
