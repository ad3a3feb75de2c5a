//! The module of the last release, from which the filter is upgraded in tests: built from this clone's history, once.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::{Checkout, Progress, Unavailable, process, tool};
use tar::Archive;

use crate::module;

/// The commit of the last release. It moves with each release: `docs/releasing.md`.
const COMMIT: &str = "d5dc5cd0fd66ecd1ab5d926abcc527a220533939";

/// The module, and where it is kept.
///
/// # Errors
/// [`Unavailable`] where this clone does not have the commit, or there is no git.
pub fn module(checkout: &Checkout) -> Result<PathBuf> {
    tool::once(checkout, &format!("last-release-{}", &COMMIT[..12]), "bluegreen.wasm", |folder| {
        let has = process::answer(git(checkout).args(["cat-file", "-e", &format!("{COMMIT}^{{commit}}")]));
        has.map_err(|_| {
            let reason = "this clone has no commit";
            Unavailable::error(format!("{reason} {COMMIT}, the last release: run `git fetch --unshallow`"))
        })?;
        let progress = Progress::start("Building the module of the last release");
        let (source, archive) = (folder.join("source"), folder.join("source.tar"));
        fs::create_dir_all(&source)?;
        process::quiet(git(checkout).args(["archive", COMMIT, "--output"]).arg(&archive), &progress)?;
        Archive::new(File::open(&archive)?).unpack(&source).context("cannot unpack the last release")?;
        // The same target directory and flags as for the module under test: what both depend on is compiled once.
        let old = Checkout::of(&source, checkout.target().to_owned());
        let toolchain = WasmToolchain::obtain(&old)?;
        let flags = module::flags(checkout, &toolchain.sysroot()?)?;
        let mut cargo = module::cargo(&toolchain, &flags);
        process::quiet(&mut cargo, &progress)?;
        fs::copy(module::built(&old), folder.join("bluegreen.wasm"))?;
        fs::remove_file(&archive)?;
        fs::remove_dir_all(&source)?;
        progress.done("Built the module of the last release");
        Ok(())
    })
}

fn git(checkout: &Checkout) -> Command {
    let mut git = Command::new("git");
    git.current_dir(checkout.root());
    git
}
