//! What is fetched or built once and kept under `target/tools`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checkout::Checkout;

/// The file `proof` in the folder `name` of the tools. Where it is not there yet `make` is given the folder and has to
/// leave it there, as the last thing it does: an interrupted attempt leaves no proof, and the next one begins anew.
pub fn once(checkout: &Checkout, name: &str, proof: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = checkout.tool(name);
    let proof = folder.join(proof);
    if proof.is_file() {
        return Ok(proof);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Two tasks at a time would undo each other's work. The lock ends with this process.
    let lock = File::create(checkout.tool(&format!("{name}.lock"))).context("cannot create a lock file")?;
    lock.lock().with_context(|| format!("cannot lock {name}"))?;
    if !proof.is_file() {
        make(&folder)?;
        anyhow::ensure!(proof.is_file(), "{name} has no {} at the usual place", proof.display());
    }
    Ok(proof)
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_tool_is_made_once_and_again_after_a_failure() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let checkout = Checkout::of(folder.path(), folder.path().join("target"));
        let made = Cell::new(0);
        let make = |fails: bool| {
            let made = &made;
            move |folder: &Path| {
                made.set(made.get() + 1);
                if fails {
                    bail!("no network");
                }
                Ok(fs::write(folder.join("proof"), "")?)
            }
        };
        assert!(once(&checkout, "tool", "proof", make(true)).is_err());
        let proof = once(&checkout, "tool", "proof", make(false))?;
        assert_eq!(once(&checkout, "tool", "proof", make(false))?, proof);
        assert_eq!(made.get(), 2);
        Ok(())
    }
}
