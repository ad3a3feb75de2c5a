//! A cargo that builds for wasm32: the one that called, or else the one in `ci/`.
//!
//! In continuous integration what is missing is installed. Elsewhere the error names the commands that do.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use bluegreen_programs::checkout::is_ci;
use bluegreen_programs::{Checkout, Progress, Unavailable, process};

pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's cargo for the target; `ci/README.md` says what it takes.
const DEBIAN_CARGO: &str = "ci/wasm-cargo";

/// Which cargo builds for wasm32.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    /// The one that called: it has the standard library for the target.
    Active,
    /// [`DEBIAN_CARGO`]: it builds the standard library too.
    Debian,
}

/// A cargo with all it needs for wasm32.
pub struct WasmToolchain<'a> {
    checkout: &'a Checkout,
    source: Source,
}

// === impl WasmToolchain ===

impl<'a> WasmToolchain<'a> {
    /// # Errors
    /// [`Unavailable`] where neither is there.
    pub fn obtain(checkout: &'a Checkout) -> Result<Self> {
        Ok(Self { checkout, source: choose(&ThisMachine { checkout }, is_ci())? })
    }

    /// `cargo <subcommand>` for the target, with a target directory of its own.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = match self.source {
            Source::Active => self.checkout.cargo(subcommand),
            Source::Debian => {
                let mut cargo = debian_cargo(self.checkout);
                cargo.arg(subcommand);
                cargo
            }
        };
        cargo.args(["--target", TARGET]).current_dir(self.checkout.root());
        cargo.env("CARGO_TARGET_DIR", self.checkout.wasm_target());
        cargo
    }

    /// The folder with the compiler's own files, such as the standard library's source.
    pub fn sysroot(&self) -> Result<String> {
        match self.source {
            Source::Active => process::answer(self.checkout.rustc().args(["--print", "sysroot"])),
            Source::Debian => process::answer(debian_cargo(self.checkout).arg("--sysroot")),
        }
    }
}

/// What the choice depends on.
trait Machine {
    /// The cargo that called has the standard library for wasm32.
    fn active_has_target(&self) -> bool;
    /// rustup got it that library just now.
    fn rustup_adds_target(&self) -> bool;
    /// Debian's toolchain is there.
    fn debian_is_ready(&self) -> bool;
    /// Debian's toolchain was installed just now.
    fn debian_is_installed(&self) -> bool;
}

fn choose(machine: &impl Machine, may_install: bool) -> Result<Source> {
    if machine.active_has_target() || (may_install && machine.rustup_adds_target() && machine.active_has_target()) {
        return Ok(Source::Active);
    }
    if machine.debian_is_ready() || (may_install && machine.debian_is_installed()) {
        return Ok(Source::Debian);
    }
    Err(Unavailable::error(format!(
        "cargo has no standard library for wasm32: run `rustup target add {TARGET}`, or, on a Debian where rustup cannot \
         download, `{DEBIAN_CARGO} --install`"
    )))
}

struct ThisMachine<'a> {
    checkout: &'a Checkout,
}

// === impl ThisMachine ===

impl Machine for ThisMachine<'_> {
    fn active_has_target(&self) -> bool {
        let folder = process::answer(self.checkout.rustc().args(["--print", "target-libdir", "--target", TARGET])).ok();
        let mut files = folder.and_then(|folder| Path::new(&folder).read_dir().ok()).into_iter().flatten().flatten();
        files.any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
    }

    fn rustup_adds_target(&self) -> bool {
        // Set by rustup's wrapper of cargo: without it the cargo that called is not rustup's to change.
        if env::var_os("RUSTUP_TOOLCHAIN").is_none() || !process::exists("rustup") {
            return false;
        }
        let progress = Progress::start(format!("Adding {TARGET} with rustup"));
        match process::quiet(Command::new("rustup").args(["target", "add", TARGET]), &progress) {
            Ok(()) => {
                progress.done(&format!("Added {TARGET}"));
                true
            }
            Err(_) => {
                progress.done("rustup cannot add it here, trying Debian's toolchain");
                false
            }
        }
    }

    fn debian_is_ready(&self) -> bool {
        process::answer(debian_cargo(self.checkout).arg("--ready")).is_ok()
    }

    fn debian_is_installed(&self) -> bool {
        let progress = Progress::start("Installing Debian's toolchain for wasm32");
        let installed = process::quiet(debian_cargo(self.checkout).arg("--install"), &progress);
        match &installed {
            Ok(()) => progress.done("Installed Debian's toolchain for wasm32"),
            Err(error) => eprintln!("{error:#}"),
        }
        installed.is_ok()
    }
}

fn debian_cargo(checkout: &Checkout) -> Command {
    let program: PathBuf = checkout.root().join(DEBIAN_CARGO);
    Command::new(program)
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Default)]
    struct FakeMachine {
        target: Cell<bool>,
        rustup: bool,
        debian: Cell<bool>,
        debian_installs: bool,
        installed: Cell<bool>,
    }

    impl Machine for FakeMachine {
        fn active_has_target(&self) -> bool {
            self.target.get()
        }

        fn rustup_adds_target(&self) -> bool {
            self.installed.set(true);
            self.target.set(self.rustup);
            self.rustup
        }

        fn debian_is_ready(&self) -> bool {
            self.debian.get()
        }

        fn debian_is_installed(&self) -> bool {
            self.installed.set(true);
            self.debian_installs
        }
    }

    #[test]
    fn a_cargo_that_has_the_target_is_taken_without_asking_rustup() {
        let machine = FakeMachine { target: Cell::new(true), ..FakeMachine::default() };
        assert_eq!(choose(&machine, true).unwrap(), Source::Active);
        assert!(!machine.installed.get());
    }

    #[test]
    fn rustup_comes_before_debian() {
        let machine = FakeMachine { rustup: true, debian: Cell::new(true), ..FakeMachine::default() };
        assert_eq!(choose(&machine, true).unwrap(), Source::Active);
    }

    #[test]
    fn debian_builds_where_rustup_cannot_download() {
        let machine = FakeMachine { debian_installs: true, ..FakeMachine::default() };
        assert_eq!(choose(&machine, true).unwrap(), Source::Debian);
    }

    #[test]
    fn without_permission_nothing_is_installed_and_what_is_there_is_used() {
        let machine = FakeMachine { rustup: true, debian_installs: true, ..FakeMachine::default() };
        assert!(choose(&machine, false).is_err());
        machine.debian.set(true);
        assert_eq!(choose(&machine, false).unwrap(), Source::Debian);
        assert!(!machine.installed.get());
    }

    #[test]
    fn with_neither_the_answer_says_what_to_run() {
        let error = choose(&FakeMachine::default(), true).unwrap_err();
        assert!(Unavailable::is(&error));
        assert!(error.to_string().contains("rustup target add") && error.to_string().contains(DEBIAN_CARGO), "{error}");
    }

    #[test]
    fn debians_cargo_is_where_it_is_looked_for() -> Result<()> {
        assert!(Checkout::locate()?.root().join(DEBIAN_CARGO).is_file());
        Ok(())
    }
}
