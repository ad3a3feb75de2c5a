//! The command line as a release has it: a static program for Linux with the filter in it, packed with what belongs to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::musl::{Processor, StaticToolchain};
use bluegreen_programs::{Checkout, Unavailable, process};
use flate2::read::GzDecoder;

use crate::image::{archive_with_modes, gzip};
use crate::module::without_paths;

/// The shells that the archive has completions for, with the names of their files.
const SHELLS: [(&str, &str); 3] = [("bash", "bluegreen.bash"), ("zsh", "_bluegreen"), ("fish", "bluegreen.fish")];

/// How it is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Build {
    /// Small, which takes minutes.
    Release,
    /// Soon there, for a test of all but the optimiser.
    Quick,
}

/// A program that was built.
pub struct Program {
    processor: Processor,
    path: PathBuf,
}

/// Unpacks the program in a folder of its own and has it run its demo there, where neither cargo nor a checkout is.
///
/// # Errors
/// `Unavailable` where no program can be built that runs on this machine.
pub fn try_out(checkout: &Checkout, version: &str, envoy: &Path) -> Result<()> {
    let processor = Processor::here().ok_or_else(|| Unavailable::error("no static program runs on this machine"))?;
    let program = Program::build(checkout, processor, Build::Quick)?;
    let archive = program.archive(checkout, version, &program.completions()?)?;
    let folder = tempfile::tempdir()?;
    tar::Archive::new(GzDecoder::new(archive.as_slice())).unpack(folder.path())?;
    let unpacked = folder.path().join(program.name(version));
    let program = unpacked.join("bluegreen");
    ensure_static(&program)?;
    ensure_without(&program, checkout.root())?;
    let mut demo = Command::new(&program);
    // Nothing of this machine's, but for what writes to the terminal.
    demo.args(["demo", "--check", "--free-ports"]).current_dir(&unpacked).env_clear();
    process::show(demo.env("ENVOY", envoy).env("HOME", folder.path()))
}

/// Fails unless the program runs on any Linux, whatever C library that has.
fn ensure_static(program: &Path) -> Result<()> {
    let said = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let said = [said.stdout, said.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let is_static = ["not a dynamic executable", "statically linked"].iter().any(|answer| said.contains(answer));
    ensure!(is_static, "expected a static program, and ldd says of {}: {said}", program.display());
    Ok(())
}

/// Fails if the program names the folder that it was built in: another folder would make other bytes of it.
fn ensure_without(program: &Path, folder: &Path) -> Result<()> {
    let (bytes, folder) = (fs::read(program)?, folder.as_os_str().as_encoded_bytes());
    let found = bytes.windows(folder.len()).any(|window| window == folder);
    ensure!(!found, "{} contains the path of the checkout that it was built in", program.display());
    Ok(())
}

// === impl Program ===

impl Program {
    /// Builds it with the filter of this checkout, which has been built.
    ///
    /// # Errors
    /// `Unavailable` where this machine cannot build for the processor.
    pub fn build(checkout: &Checkout, processor: Processor, build: Build) -> Result<Self> {
        let toolchain = StaticToolchain::obtain(checkout, processor)?;
        let sysroot = process::answer(checkout.rustc().args(["--print", "sysroot"]))?;
        let mut cargo = toolchain.cargo()?;
        cargo.args(["--locked", "--package", "bluegreen-cli"]);
        cargo.env("BLUEGREEN_MODULE", checkout.module());
        cargo.env("CARGO_ENCODED_RUSTFLAGS", without_paths(checkout, checkout.target(), &sysroot)?);
        let folder = match build {
            Build::Release => {
                cargo.arg("--release").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
                "release"
            }
            Build::Quick => {
                cargo.env("CARGO_PROFILE_DEV_DEBUG", "false");
                "debug"
            }
        };
        process::show(&mut cargo)?;
        let path = toolchain.program(folder, "bluegreen");
        ensure!(path.is_file(), "cargo built no {}", path.display());
        Ok(Self { processor, path })
    }

    /// The completions of shells, by the names of their files: every program of one build writes the same.
    pub fn completions(&self) -> Result<Vec<(&'static str, String)>> {
        let write = |(shell, file)| {
            let text = process::answer(Command::new(&self.path).args(["completions", shell]))?;
            Ok((file, text + "\n"))
        };
        SHELLS.into_iter().map(write).collect()
    }

    /// The archive's name without its ending, which is also the folder in it.
    pub fn name(&self, version: &str) -> String {
        format!("bluegreen-{version}-linux-{}", self.processor.name())
    }

    /// The archive: the program, the filter, the configuration to copy from, and what belongs to every release.
    pub fn archive(&self, checkout: &Checkout, version: &str, completions: &[(&str, String)]) -> Result<Vec<u8>> {
        let root = checkout.root();
        let files = [
            ("bluegreen", 0o755, self.path.clone()),
            ("bluegreen.wasm", 0o644, checkout.module()),
            ("LICENSE", 0o644, root.join("LICENSE")),
            ("README.md", 0o644, root.join("README.md")),
        ];
        let folder = PathBuf::from(self.name(version));
        let mut contents = Vec::new();
        for (name, mode, path) in files {
            contents.push((folder.join(name), mode, fs::read(&path).with_context(|| path.display().to_string())?));
        }
        let configuration = fs::read_to_string(root.join("envoy/envoy.yaml")).context("envoy/envoy.yaml")?;
        contents.push((folder.join("envoy.yaml"), 0o644, beside_the_module(&configuration)?.into_bytes()));
        for (name, text) in completions {
            contents.push((folder.join("completions").join(name), 0o644, text.clone().into_bytes()));
        }
        let contents: Vec<(&Path, u32, &[u8])> =
            contents.iter().map(|(path, mode, bytes)| (path.as_path(), *mode, bytes.as_slice())).collect();
        gzip(&archive_with_modes(&contents)?)
    }
}

/// The shipped configuration, to be started in a folder that has the filter beside it instead of in a checkout.
fn beside_the_module(configuration: &str) -> Result<String> {
    let changes = [
        ("#   cargo xtask build\n", ""),
        (
            "envoy -c envoy/envoy.yaml        # from the repository's root,",
            "envoy -c envoy.yaml              # from this folder,",
        ),
        ("filename: dist/bluegreen.wasm", "filename: bluegreen.wasm"),
    ];
    changes.into_iter().try_fold(configuration.to_owned(), |text, (checkout, archive)| {
        ensure!(text.contains(checkout), "envoy/envoy.yaml does not say {checkout:?} any more");
        Ok(text.replace(checkout, archive))
    })
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packed_configuration_names_the_module_beside_it() -> Result<()> {
        let shipped = fs::read_to_string(Checkout::locate()?.root().join("envoy/envoy.yaml"))?;
        let packed = beside_the_module(&shipped)?;
        assert!(packed.contains("filename: bluegreen.wasm}") && !packed.contains("cargo xtask"), "{packed}");
        Ok(())
    }
}
