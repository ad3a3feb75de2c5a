//! A cargo that builds for wasm32: the one that called, if it can or rustup can teach it, else Debian's.
//!
//! `rustup target add` needs rustup's own server. Where that is out of reach, Debian's `rustc-web` (made to build
//! browsers) builds the standard library for wasm32 from `rust-web-src`, which needs nothing but Debian's mirror.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::{Checkout, Progress, packages, process};

pub const TARGET: &str = "wasm32-unknown-unknown";

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_RUSTDOC: &str = "/usr/bin/rustdoc";

/// rustc-web names a `rust-lld` that Debian does not ship, so the linker is named, with the version of its package.
const DEBIAN_LINKER: &str = "wasm-ld-19";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld-19"];

/// Set by rustup's or cargo's own wrappers for what they start: Debian's cargo would follow them to the wrong rustc.
const FOREIGN_VARIABLES: &[&str] = &[
    "CARGO",
    "CARGO_BUILD_TARGET",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTDOC",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUSTUP_TOOLCHAIN_SOURCE",
    "RUST_RECURSION_COUNT",
];

/// Which cargo builds for wasm32.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Source {
    /// The one that called: it has the standard library for the target.
    Active,
    /// Debian's: it builds the standard library too.
    Debian,
}

/// A cargo with all it needs for wasm32.
pub struct WasmToolchain<'a> {
    checkout: &'a Checkout,
    source: Source,
}

// === impl WasmToolchain ===

impl<'a> WasmToolchain<'a> {
    pub fn obtain(checkout: &'a Checkout) -> Result<Self> {
        Ok(Self { checkout, source: choose(&ThisMachine { checkout })? })
    }

    /// `cargo <subcommand>` for the target, with a target directory of its own.
    pub fn cargo(&self, subcommand: &str) -> Command {
        self.cargo_with_std(subcommand, "std,panic_abort")
    }

    /// `cargo test` for the target: the test harness is a crate beside the standard library.
    pub fn cargo_test(&self) -> Command {
        self.cargo_with_std("test", "std,panic_abort,test")
    }

    /// `cargo clippy` for the target.
    pub fn cargo_clippy(&self) -> Result<Command> {
        if self.source == Source::Debian && !Path::new(DEBIAN_CLIPPY).is_file() {
            packages::install(&["rust-web-clippy"], "clippy for wasm32")?;
        }
        Ok(self.cargo("clippy"))
    }

    fn cargo_with_std(&self, subcommand: &str, standard_library: &str) -> Command {
        let mut cargo = match self.source {
            Source::Active => self.checkout.cargo(subcommand),
            Source::Debian => {
                // `cargo clippy` would look for cargo-clippy in the user's folders first and find rustup's.
                let program = if subcommand == "clippy" { DEBIAN_CLIPPY } else { DEBIAN_CARGO };
                let mut cargo = Command::new(program);
                cargo.arg(subcommand).arg(format!("-Zbuild-std={standard_library}"));
                for variable in FOREIGN_VARIABLES {
                    cargo.env_remove(variable);
                }
                cargo
                    .envs([("CARGO", DEBIAN_CARGO), ("RUSTC", DEBIAN_RUSTC), ("RUSTDOC", DEBIAN_RUSTDOC)])
                    // Debian's stable compiler knows `-Zbuild-std`, it only hides it.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
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
            Source::Active => sysroot(&mut self.checkout.rustc()),
            Source::Debian => sysroot(&mut debian_rustc()),
        }
    }
}

/// What the choice depends on.
trait Machine {
    /// The cargo that called has the standard library for wasm32.
    fn active_has_target(&self) -> bool;
    /// rustup got it that library just now.
    fn rustup_adds_target(&self) -> bool;
    /// Debian's packages are there, installed just now if need be; an error says what to install.
    fn debian_is_ready(&self) -> Result<()>;
}

fn choose(machine: &impl Machine) -> Result<Source> {
    if machine.active_has_target() || (machine.rustup_adds_target() && machine.active_has_target()) {
        return Ok(Source::Active);
    }
    machine.debian_is_ready()?;
    Ok(Source::Debian)
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

    fn debian_is_ready(&self) -> Result<()> {
        if debian_is_complete() {
            return Ok(());
        }
        packages::install(DEBIAN_PACKAGES, "building for wasm32 without `rustup target add wasm32-unknown-unknown`")?;
        if debian_is_complete() {
            return Ok(());
        }
        Err(bluegreen_programs::Unavailable::error(format!(
            "Debian's {DEBIAN_RUSTC} is older than the {} this needs: run `rustup target add {TARGET}`",
            env!("CARGO_PKG_RUST_VERSION")
        )))
    }
}

fn debian_is_complete() -> bool {
    let recent = process::answer(debian_rustc().arg("--version"))
        .is_ok_and(|answer| is_recent(&answer, env!("CARGO_PKG_RUST_VERSION")));
    let source = || sysroot(&mut debian_rustc()).map(|root| format!("{root}/lib/rustlib/src/rust/library/Cargo.lock"));
    recent
        && Path::new(DEBIAN_CARGO).is_file()
        && process::exists(DEBIAN_LINKER)
        && source().is_ok_and(|file| Path::new(&file).is_file())
}

fn debian_rustc() -> Command {
    let mut rustc = Command::new(DEBIAN_RUSTC);
    for variable in FOREIGN_VARIABLES {
        rustc.env_remove(variable);
    }
    rustc
}

fn sysroot(rustc: &mut Command) -> Result<String> {
    process::answer(rustc.args(["--print", "sysroot"]))
}

/// Whether `rustc 1.96.0 (…)` is at least `1.95`.
fn is_recent(answer: &str, needed: &str) -> bool {
    let version = answer.split_whitespace().nth(1).and_then(|version| numbers(version).ok());
    matches!((version, numbers(needed)), (Some(version), Ok(needed)) if version >= needed)
}

fn numbers(version: &str) -> Result<Vec<u32>> {
    let release = version.split('-').next().unwrap_or(version);
    release.split('.').map(|part| part.parse().with_context(|| format!("no version: {version}"))).collect()
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use bluegreen_programs::Unavailable;

    #[derive(Default)]
    struct FakeMachine {
        target: Cell<bool>,
        rustup: bool,
        debian: bool,
        asked_rustup: Cell<bool>,
    }

    impl Machine for FakeMachine {
        fn active_has_target(&self) -> bool {
            self.target.get()
        }

        fn rustup_adds_target(&self) -> bool {
            self.asked_rustup.set(true);
            self.target.set(self.rustup);
            self.rustup
        }

        fn debian_is_ready(&self) -> Result<()> {
            if self.debian { Ok(()) } else { Err(Unavailable::error("install rustc-web")) }
        }
    }

    #[test]
    fn a_cargo_that_has_the_target_is_taken_without_asking_rustup() {
        let machine = FakeMachine { target: Cell::new(true), ..FakeMachine::default() };
        assert_eq!(choose(&machine).unwrap(), Source::Active);
        assert!(!machine.asked_rustup.get());
    }

    #[test]
    fn rustup_comes_before_debian() {
        let machine = FakeMachine { rustup: true, debian: true, ..FakeMachine::default() };
        assert_eq!(choose(&machine).unwrap(), Source::Active);
    }

    #[test]
    fn debian_builds_where_rustup_cannot_download() {
        let machine = FakeMachine { debian: true, ..FakeMachine::default() };
        assert_eq!(choose(&machine).unwrap(), Source::Debian);
        assert!(machine.asked_rustup.get());
    }

    #[test]
    fn with_neither_the_answer_says_what_to_install() {
        let error = choose(&FakeMachine::default()).unwrap_err();
        assert!(Unavailable::is(&error));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_recent("rustc 1.100.0 (59807616e 2026-04-14)", "1.95"));
        assert!(is_recent("rustc 1.95.0-nightly (59807616e 2026-04-14)", "1.95"));
        assert!(!is_recent("rustc 1.63.0", "1.95"));
        assert!(!is_recent("command not found", "1.95"));
    }
}
