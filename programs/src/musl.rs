//! A cargo that builds static programs for Linux, for this machine's processor and another one: rustup's standard library
//! for musl, and zig's C compiler and linker from Python's package index.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::{Checkout, is_ci};
use crate::python::Environment;
use crate::toolchain;
use crate::unavailable::Unavailable;

/// A processor that programs are built for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Processor {
    /// What Intel and AMD make.
    X86_64,
    /// What Apple, Ampere and the clouds' own are.
    Aarch64,
}

/// The linker is part of what a program is made from, so its version is pinned: equal sources give equal bytes.
const ZIGBUILD: &str = "0.24.1";
const ZIG: &str = "0.15.2";

/// A cargo with all that it needs for [`Processor`].
pub struct StaticToolchain<'a> {
    checkout: &'a Checkout,
    programs: PathBuf,
    target: &'static str,
}

// === impl Processor ===

impl Processor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// As it is called in the names of files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As rustc calls it.
    pub const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
        }
    }

    /// That of this machine, if programs for it run here.
    pub fn here() -> Option<Self> {
        Self::ALL.into_iter().find(|processor| cfg!(target_os = "linux") && env::consts::ARCH == processor.name())
    }
}

// === impl StaticToolchain ===

impl<'a> StaticToolchain<'a> {
    /// # Errors
    /// [`Unavailable`] where the standard library or zig cannot be had.
    pub fn obtain(checkout: &'a Checkout, processor: Processor) -> Result<Self> {
        let target = processor.target();
        let has_library = toolchain::has_library(checkout, target)
            || (is_ci() && toolchain::rustup_adds(target) && toolchain::has_library(checkout, target));
        if !has_library {
            return Err(Unavailable::error(format!(
                "a static program for {} needs Rust's standard library for it: run `rustup target add {target}`",
                processor.name()
            )));
        }
        let environment = Environment {
            name: &format!("zigbuild-{ZIGBUILD}-zig-{ZIG}"),
            title: "zig and cargo-zigbuild",
            requirements: &[&format!("cargo-zigbuild=={ZIGBUILD}"), &format!("ziglang=={ZIG}")],
            purpose: "building static programs",
            otherwise: "build with `cargo build --release --package bluegreen-cli`, which is not static",
        };
        Ok(Self { checkout, programs: environment.obtain(checkout)?.join("bin"), target })
    }

    /// `cargo zigbuild` for the target.
    pub fn cargo(&self) -> Result<Command> {
        let mut cargo = self.checkout.cargo("zigbuild");
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.programs.clone()].into_iter().chain(env::split_paths(&path));
        cargo.env("PATH", env::join_paths(path).context("PATH")?);
        cargo.env("CARGO_ZIGBUILD_CACHE_DIR", self.checkout.tool("zigbuild-cache"));
        cargo.env("ZIG_GLOBAL_CACHE_DIR", self.checkout.tool("zig-cache"));
        cargo.args(["--target", self.target]);
        Ok(cargo)
    }

    /// Where it leaves a program that is built with `profile`'s folder.
    pub fn program(&self, folder: &str, name: &str) -> PathBuf {
        self.checkout.target().join(self.target).join(folder).join(name)
    }
}
