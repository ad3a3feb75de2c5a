//! Where things are: the checkout that this crate was built from, the wasm module in it, and Envoy.
//!
//! Both of the latter are made or fetched by `cargo xtask`; when one is missing, the error says which command to run.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bluegreen_programs::mlflow::MLFLOW;

/// Names the command line for the tests of it.
pub const COMMAND_LINE: &str = "BLUEGREEN_CLI";

/// Names the module of the last release.
pub const LAST_RELEASE: &str = "BLUEGREEN_LAST_RELEASE";

/// This crate's folder. A released program, which carries the module, has no checkout, and names no folder of the machine
/// that it was built on.
const CRATE: &str = match option_env!("BLUEGREEN_MODULE") {
    Some(_) => "",
    None => env!("CARGO_MANIFEST_DIR"),
};

/// The root of the repository.
pub fn root() -> &'static Path {
    let crate_directory = Path::new(CRATE);
    crate_directory.parent().unwrap_or(crate_directory)
}

/// The filter: `dist/bluegreen.wasm`, which must have been built.
pub fn wasm() -> Result<PathBuf> {
    let path = root().join("dist/bluegreen.wasm");
    ensure!(path.is_file(), "{} is absent: run `cargo xtask build`", path.display());
    Ok(path)
}

/// The module of the last release, which the environment variable `BLUEGREEN_LAST_RELEASE` names.
pub fn last_release() -> Result<PathBuf> {
    let value = env::var_os(LAST_RELEASE).context(
        "BLUEGREEN_LAST_RELEASE is not set: run `cargo xtask test --suite upgrade`, which builds that module, or set it to the \
         path of an older bluegreen.wasm",
    )?;
    Ok(value.into())
}

/// The Envoy binary that the environment variable `ENVOY` names.
pub fn envoy() -> Result<PathBuf> {
    bluegreen_programs::envoy::named()?.context(
        "ENVOY is not set: run `cargo xtask test`, which fetches Envoy, or set ENVOY to the path of an Envoy binary",
    )
}

/// The command line, `bluegreen`, that the environment variable `BLUEGREEN_CLI` names.
pub fn command_line() -> Result<PathBuf> {
    let value = env::var_os(COMMAND_LINE).context(
        "BLUEGREEN_CLI is not set: run `cargo xtask test --suite e2e`, which builds it, or run `cargo build -p bluegreen-cli` \
         and set BLUEGREEN_CLI to the path of target/debug/bluegreen",
    )?;
    Ok(value.into())
}

/// The folder of the programs of the Python environment that the environment variable `MLFLOW` names.
pub fn mlflow() -> Result<PathBuf> {
    let value = env::var_os(MLFLOW).context(
        "MLFLOW is not set: run `cargo xtask test --suite mlflow`, which installs it, or set MLFLOW to a Python \
         environment with mlflow and scikit-learn",
    )?;
    let programs = PathBuf::from(value).join("bin");
    ensure!(programs.join("mlflow").is_file(), "{} holds no mlflow", programs.display());
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("Cargo.lock").is_file(), "{} holds no Cargo.lock", root().display());
    }
}
