//! The filter: in this program, beside it, or where the user says.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// What the build script found.
const EMBEDDED: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/module.rs"));

/// How every file of this kind begins.
const MAGIC: &[u8] = b"\0asm";

const FILE: &str = "bluegreen.wasm";

/// A file with the filter; that of this program is written into `folder`.
pub fn obtain(named: Option<&Path>, folder: &Path) -> Result<PathBuf> {
    if let Some(path) = named {
        let bytes = fs::read(path).with_context(|| format!("--module {} cannot be read", path.display()))?;
        ensure!(bytes.starts_with(MAGIC), "--module {} is not a WebAssembly module", path.display());
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    if let Some(bytes) = EMBEDDED {
        let path = folder.join(FILE);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(path);
    }
    let program = env::current_exe().context("cannot tell where this program is")?;
    if let Some(path) = places(&program).find(|path| path.is_file()) {
        return Ok(path);
    }
    bail!(
        "this bluegreen was built without the filter, and no {FILE} is beside it: take the program from the release of \
         version {}, or name the filter with --module FILE (`cargo xtask build` in a checkout writes dist/{FILE})",
        env!("CARGO_PKG_VERSION")
    )
}

/// Beside the program, as in the released archive, and in `dist/` of the checkout that it was built in or is run in.
fn places(program: &Path) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> = program.ancestors().skip(1).map(Path::to_owned).collect();
    let beside = folders.first().map(|folder| folder.join(FILE));
    // target/release/bluegreen, or target/TRIPLE/release/bluegreen.
    let built_in = [folders.get(2), folders.get(3)].into_iter().flatten().map(|folder| folder.join("dist").join(FILE));
    let run_in = env::current_dir().ok().map(|folder| folder.join("dist").join(FILE));
    beside.into_iter().chain(built_in).chain(run_in).collect::<Vec<_>>().into_iter()
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_module_is_refused_by_its_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("envoy.yaml");
        fs::write(&path, "admin: {}")?;
        let error = obtain(Some(&path), folder.path()).err().context("it was taken")?;
        assert!(error.to_string().ends_with("envoy.yaml is not a WebAssembly module"), "{error}");
        let error = obtain(Some(Path::new("/nowhere")), folder.path()).err().context("it was taken")?;
        assert!(error.to_string().contains("--module /nowhere"), "{error}");
        Ok(())
    }

    #[test]
    fn the_filter_is_looked_for_beside_the_program_and_in_its_checkout() {
        let places: Vec<_> = places(Path::new("/home/me/bluegreen/target/release/bluegreen")).collect();
        for expected in ["/home/me/bluegreen/target/release/bluegreen.wasm", "/home/me/bluegreen/dist/bluegreen.wasm"] {
            assert!(places.contains(&PathBuf::from(expected)), "{places:?}");
        }
    }
}
