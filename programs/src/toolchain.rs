//! A cargo that builds for wasm32: the one that called, or else the one in `ci/`.
//!
//! In continuous integration what is missing is installed. Elsewhere the error names the commands that do.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::checkout::is_ci;
use crate::{Checkout, Progress, Unavailable, process};
use anyhow::Result;

pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's cargo for the target; `ci/README.md` says what it takes.
const DEBIAN_CARGO: &str = "ci/wasm-cargo";

/// A cargo with all it needs for wasm32.
pub struct WasmToolchain<'a> {
    checkout: &'a Checkout,
    is_debian: bool,
}

/// A way to get one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    /// The cargo that called has the standard library for wasm32.
    Present,
    /// rustup gets it that library.
    Rustup,
    /// [`DEBIAN_CARGO`] is there, which builds the standard library too.
    Debian,
    /// Debian's packages can be installed.
    DebianPackages,
}

// === impl WasmToolchain ===

impl<'a> WasmToolchain<'a> {
    /// # Errors
    /// [`Unavailable`] where neither is there.
    pub fn obtain(checkout: &'a Checkout) -> Result<Self> {
        let way = Way::choose(is_ci(), |way| way.leads_there(checkout))?;
        Ok(Self { checkout, is_debian: matches!(way, Way::Debian | Way::DebianPackages) })
    }

    /// `cargo <subcommand>` for the target, with a target directory of its own.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = if self.is_debian { debian_cargo(self.checkout) } else { self.checkout.cargo(subcommand) };
        cargo.args(self.is_debian.then_some(subcommand));
        cargo.args(["--target", TARGET]).current_dir(self.checkout.root());
        cargo.env("CARGO_TARGET_DIR", self.checkout.wasm_target());
        cargo
    }

    /// The folder with the compiler's own files, such as the standard library's source.
    pub fn sysroot(&self) -> Result<String> {
        if self.is_debian {
            return process::answer(debian_cargo(self.checkout).arg("--sysroot"));
        }
        process::answer(self.checkout.rustc().args(["--print", "sysroot"]))
    }
}

// === impl Way ===

impl Way {
    /// The first way that leads there; none is tried after it.
    fn choose(may_install: bool, leads_there: impl Fn(Self) -> bool) -> Result<Self> {
        let installs = |way| matches!(way, Self::Rustup | Self::DebianPackages);
        let mut ways = [Self::Present, Self::Rustup, Self::Debian, Self::DebianPackages].into_iter();
        ways.find(|&way| (may_install || !installs(way)) && leads_there(way)).ok_or_else(|| {
            Unavailable::error(format!(
                "cargo has no standard library for wasm32: run `rustup target add {TARGET}`, or, on a Debian where \
                 rustup cannot download, `{DEBIAN_CARGO} --install`"
            ))
        })
    }

    fn leads_there(self, checkout: &Checkout) -> bool {
        match self {
            Self::Present => has_library(checkout, TARGET),
            Self::Rustup => rustup_adds(TARGET) && Self::Present.leads_there(checkout),
            Self::Debian => process::answer(debian_cargo(checkout).arg("--ready")).is_ok(),
            Self::DebianPackages => installs(TARGET, "Debian's packages", debian_cargo(checkout).arg("--install")),
        }
    }
}

/// Whether the cargo that called has the standard library for `target`.
pub fn has_library(checkout: &Checkout, target: &str) -> bool {
    let folder = process::answer(checkout.rustc().args(["--print", "target-libdir", "--target", target])).ok();
    let files = folder.and_then(|folder| Path::new(&folder).read_dir().ok()).into_iter().flatten();
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Whether rustup gets that library, for the cargo that called.
pub fn rustup_adds(target: &str) -> bool {
    // Set by rustup's wrapper of cargo: without it the cargo that called is not rustup's to change.
    env::var_os("RUSTUP_TOOLCHAIN").is_some()
        && process::exists("rustup")
        && installs(target, "rustup", Command::new("rustup").args(["target", "add", target]))
}

fn installs(target: &str, source: &str, command: &mut Command) -> bool {
    let progress = Progress::start(format!("Getting {target} from {source}"));
    let installed = process::quiet(command, &progress);
    match &installed {
        Ok(()) => progress.done(&format!("Got {target} from {source}")),
        Err(error) => eprintln!("{error:#}"),
    }
    installed.is_ok()
}

fn debian_cargo(checkout: &Checkout) -> Command {
    Command::new(checkout.root().join(DEBIAN_CARGO))
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What is chosen where only these ways lead there, and what was tried for it.
    fn choose(may_install: bool, ways: &[Way]) -> (Option<Way>, Vec<Way>) {
        let tried = RefCell::new(Vec::new());
        let chosen = Way::choose(may_install, |way| {
            tried.borrow_mut().push(way);
            ways.contains(&way)
        });
        (chosen.ok(), tried.into_inner())
    }

    #[test]
    fn a_cargo_that_has_the_target_is_taken_without_asking_rustup() {
        assert_eq!(choose(true, &[Way::Present, Way::Rustup]), (Some(Way::Present), vec![Way::Present]));
    }

    #[test]
    fn rustup_comes_before_debian() {
        assert_eq!(choose(true, &[Way::Rustup, Way::Debian]).0, Some(Way::Rustup));
    }

    #[test]
    fn debian_builds_where_rustup_cannot_download() {
        assert_eq!(choose(true, &[Way::DebianPackages]).0, Some(Way::DebianPackages));
    }

    #[test]
    fn without_permission_nothing_is_installed_and_what_is_there_is_used() {
        let tried = vec![Way::Present, Way::Debian];
        assert_eq!(choose(false, &[Way::Rustup, Way::DebianPackages]), (None, tried.clone()));
        assert_eq!(choose(false, &[Way::Rustup, Way::Debian]), (Some(Way::Debian), tried));
    }

    #[test]
    fn with_neither_the_answer_says_what_to_run() {
        let error = Way::choose(true, |_| false).err().unwrap();
        assert!(Unavailable::is(&error));
        assert!(error.to_string().contains("rustup target add") && error.to_string().contains(DEBIAN_CARGO), "{error}");
    }

    #[test]
    fn debians_cargo_is_where_it_is_looked_for() -> Result<()> {
        assert!(Checkout::locate()?.root().join(DEBIAN_CARGO).is_file());
        Ok(())
    }
}
