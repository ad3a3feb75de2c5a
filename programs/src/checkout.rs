//! Where things are: the repository, cargo's target directory, the tools kept inside it, and the cargo that called.
//!
//! And whose machine this is: see [`is_ci`].

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The repository that a task of it works on.
pub struct Checkout {
    root: PathBuf,
    target: PathBuf,
}

// === impl Checkout ===

impl Checkout {
    pub fn locate() -> Result<Self> {
        // `cargo run` sets the variable; a binary started by hand falls back on where it was compiled.
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package)
            .parent()
            .and_then(|root| root.canonicalize().ok())
            .with_context(|| format!("no repository around {}", package.display()))?;
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        Ok(Self::of(&root, target))
    }

    /// The repository at `root`, with cargo's target directory at `target`.
    pub fn of(root: &Path, target: PathBuf) -> Self {
        Self { root: root.to_owned(), target }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A target directory of its own keeps the wasm builds from waiting for the host's, and from undoing them.
    pub fn wasm_target(&self) -> PathBuf {
        self.target.join("wasm")
    }

    /// What was downloaded or built once and is kept, one folder per tool and version.
    pub fn tool(&self, name_and_version: &str) -> PathBuf {
        self.target.join("tools").join(name_and_version)
    }

    /// What the demo's processes print.
    pub fn demo_logs(&self) -> PathBuf {
        self.target.join("demo")
    }

    /// What the benches measured, one JSON file a subject.
    pub fn bench_results(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// The fuzz targets, the inputs that they have grown, and the crashes.
    pub fn fuzz(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// A program of this workspace, as `cargo build` leaves it.
    pub fn debug_binary(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// What is built for others.
    pub fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }

    pub fn module(&self) -> PathBuf {
        self.dist().join("bluegreen.wasm")
    }

    /// The cargo that called, in the repository's root.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = Command::new(program("CARGO", "cargo"));
        cargo.arg(subcommand).current_dir(&self.root);
        cargo
    }

    /// The rustc that belongs to [`Checkout::cargo`].
    pub fn rustc(&self) -> Command {
        let mut rustc = Command::new(program("RUSTC", "rustc"));
        rustc.current_dir(&self.root);
        rustc
    }
}

/// Whether this is continuous integration (`CI=true`), whose machine is nobody's own: only there packages are installed
/// without being asked for.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}

fn program(variable: &str, default: &str) -> OsString {
    env::var_os(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}
