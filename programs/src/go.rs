//! Programs in Go, each built once out of a module folder of this repository and kept.
//!
//! `programs/go/MODULE` has a go.mod, the one place where versions are, and its go.sum.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::process;
use crate::progress::Progress;
use crate::tool;
use crate::unavailable::Unavailable;

/// Where the module folders are, relative to the repository's root.
const MODULES: &str = "programs/go";

/// A program, and what needs it.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The folder under `programs/go`.
    pub module: &'a str,
    /// The program's package. Its last part is the name of the binary.
    pub package: &'a str,
    /// Variables that its own build scripts set to the version.
    pub version_variables: &'a [&'a str],
    /// What needs it, to begin a sentence.
    pub purpose: &'a str,
}

// === impl Program ===

impl Program<'_> {
    /// The binary, built now if it is not there yet.
    ///
    /// # Errors
    /// [`Unavailable`] without a Go that is new enough, and where the sources cannot be had.
    pub fn obtain(&self, checkout: &Checkout) -> Result<PathBuf> {
        let Self { module, package, purpose, .. } = self;
        let folder = checkout.root().join(MODULES).join(module);
        let version = self.version(checkout)?;
        let binary = package.rsplit('/').next().unwrap_or(package);
        tool::once(checkout, &format!("{module}-{version}"), binary, |kept| {
            if !process::exists("go") {
                return Err(Unavailable::error(format!(
                    "{purpose} needs {binary}, which is built with Go: install Go"
                )));
            }
            let progress = Progress::start(format!("Building {binary} {version}, once: this takes some minutes"));
            // Reads all sources, so that what cannot be had is not taken for what does not compile.
            let sources = process::quiet(
                go(&folder, "list").args(["-deps", "-f", "{{with .Error}}{{.}}{{end}}", package]),
                &progress,
            );
            sources.map_err(|error| {
                Unavailable::error(format!(
                    "{purpose} needs {binary} {version}, whose sources cannot be had: {error:#}"
                ))
            })?;
            // Beside its place and then moved: an interrupted linker leaves half of a program.
            let built = kept.join(format!("{binary}.new"));
            let stamps = self.version_variables.iter().map(|variable| format!(" -X {variable}={version}"));
            let mut build = go(&folder, "build");
            build.args(["-trimpath", &format!("-ldflags=-s -w{}", stamps.collect::<String>()), "-o"]).arg(&built);
            process::quiet(build.arg(package), &progress)?;
            fs::rename(&built, kept.join(binary)).with_context(|| format!("cannot keep {binary}"))?;
            progress.done(&format!("Built {binary} {version}"));
            Ok(())
        })
    }

    /// The version that the go.mod pins.
    pub fn version(&self, checkout: &Checkout) -> Result<String> {
        let path = checkout.root().join(MODULES).join(self.module).join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let version = required(&text, self.package);
        Ok(version.with_context(|| format!("{} requires no module with {}", path.display(), self.package))?.to_owned())
    }
}

/// The folder with the sources of `path`, a module that the go.mod of `module` requires.
///
/// # Errors
/// [`Unavailable`] without Go, and where they cannot be had.
pub fn sources(checkout: &Checkout, module: &str, path: &str) -> Result<PathBuf> {
    if !process::exists("go") {
        return Err(Unavailable::error(format!("the sources of {path} are fetched with Go: install Go")));
    }
    let folder = checkout.root().join(MODULES).join(module);
    let fetch = || {
        process::answer(go(&folder, "mod").args(["download", path]))?;
        process::answer(go(&folder, "list").args(["-m", "-f", "{{.Dir}}", path]))
    };
    let found =
        fetch().map_err(|error| Unavailable::error(format!("the sources of {path} cannot be had: {error:#}")))?;
    Ok(PathBuf::from(found))
}

/// Go in a module folder, whatever workspace is around.
fn go(folder: &Path, subcommand: &str) -> Command {
    let mut command = Command::new("go");
    command.arg(subcommand).current_dir(folder).env("GOWORK", "off");
    command
}

/// The version that goes with the longest required path that `package` begins with.
fn required<'a>(go_mod: &'a str, package: &str) -> Option<&'a str> {
    let requirement = |line: &'a str| {
        let line = line.trim();
        let mut words = line.strip_prefix("require ").unwrap_or(line).split_whitespace();
        let (path, version) = (words.next()?, words.next()?);
        let rest = package.strip_prefix(path)?;
        (version.starts_with('v') && (rest.is_empty() || rest.starts_with('/'))).then_some((path.len(), version))
    };
    go_mod.lines().filter_map(requirement).max_by_key(|(length, _)| *length).map(|(_, version)| version)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module_with_the_package() {
        let go_mod = "module one\n\ntool (\n\texample.com/a/cmd/x\n)\n\nrequire (\n\texample.com/a v1.2.3 // indirect\n\
                      \texample.com/a/cmd/y v0.9.0\n\texample.com/ab v2.0.0\n)\nrequire example.com/c v3.0.0\n\
                      replace example.com/d => example.com/e v4.0.0\n";
        for (package, version) in [
            ("example.com/a/cmd/x", Some("v1.2.3")),
            ("example.com/a/cmd/y", Some("v0.9.0")),
            ("example.com/a", Some("v1.2.3")),
            ("example.com/c/cmd", Some("v3.0.0")),
            ("example.com/abc/cmd", None),
            ("example.com/d", None),
        ] {
            assert_eq!(required(go_mod, package), version, "{package}");
        }
    }
}
