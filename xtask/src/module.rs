//! Builds the filter into `dist/bluegreen.wasm`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::toolchain::{TARGET, WasmToolchain};
use bluegreen_programs::{Checkout, process};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::trim;

/// Between two flags: it lets a path contain spaces.
const SEPARATOR: &str = "\u{1f}";

/// Builds the module, says how large it is, and returns its path.
pub fn build(checkout: &Checkout, toolchain: &WasmToolchain<'_>) -> Result<PathBuf> {
    process::show(&mut cargo(toolchain, &flags(checkout, &toolchain.sysroot()?)?))?;

    let built = built(checkout);
    let bytes = fs::read(&built).with_context(|| format!("cargo built no {}", built.display()))?;
    let bytes = trim::to_callbacks(&bytes).with_context(|| format!("cannot trim {}", built.display()))?;
    let module = checkout.module();
    publish(&bytes, &module)?;
    println!(
        "{}: {} ({} gzipped)",
        module.strip_prefix(checkout.root()).unwrap_or(&module).display(),
        kibibytes(bytes.len()),
        kibibytes(gzipped(&bytes)?)
    );
    Ok(module)
}

/// What compiles the module. These flags and no others: the user's RUSTFLAGS are meant for the host.
pub fn cargo(toolchain: &WasmToolchain<'_>, flags: &OsStr) -> Command {
    let mut cargo = toolchain.cargo("build");
    cargo.args(["--release", "--package", "bluegreen", "--lib"]).env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo
}

/// Where that leaves it.
pub fn built(checkout: &Checkout) -> PathBuf {
    checkout.wasm_target().join(TARGET).join("release").join("bluegreen.wasm")
}

/// What the module is compiled with.
pub fn flags(checkout: &Checkout, sysroot: &str) -> Result<OsString> {
    // The sum of a token's few bytes needs no unrolled loop, which takes 6 KB.
    let mut flags = OsString::from("--cfg=sha2_backend_soft=\"compact\"");
    flags.push(SEPARATOR);
    flags.push(without_paths(checkout, &checkout.wasm_target(), sysroot)?);
    Ok(flags)
}

/// The flags that keep the paths of this machine out of panic messages: equal sources give equal bytes everywhere.
pub fn without_paths(checkout: &Checkout, target: &Path, sysroot: &str) -> Result<OsString> {
    let home = env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let cargo_home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))).context("no home folder")?;
    let library = Path::new(sysroot).join("lib/rustlib/src/rust");
    let mut prefixes = vec![
        (checkout.root().to_owned(), "bluegreen"),
        (target.to_owned(), "target"),
        (cargo_home, "cargo"),
        (library.clone(), "rust"),
    ];
    // Debian's library folder is a link, and rustc may have followed it.
    if let Ok(resolved) = library.canonicalize() {
        prefixes.push((resolved, "rust"));
    }
    let mut flags = OsString::new();
    for (index, (prefix, name)) in prefixes.into_iter().enumerate() {
        if index > 0 {
            flags.push(SEPARATOR);
        }
        flags.push("--remap-path-prefix=");
        flags.push(prefix);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
}

/// Replaces the module at once, and only when it changed: an Envoy that starts meanwhile reads a whole one.
fn publish(bytes: &[u8], module: &Path) -> Result<()> {
    if fs::read(module).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let folder = module.parent().context("the module has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let draft = module.with_extension("wasm.new");
    fs::write(&draft, bytes).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, module).with_context(|| format!("cannot write {}", module.display()))
}

fn gzipped(bytes: &[u8]) -> Result<usize> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}

fn kibibytes(bytes: usize) -> String {
    let tenths = (bytes * 10).div_ceil(1024);
    format!("{}.{} KiB", tenths / 10, tenths % 10)
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_size_is_given_in_tenths_of_a_kibibyte() {
        assert_eq!(kibibytes(106_496), "104.0 KiB");
        assert_eq!(kibibytes(1), "0.1 KiB");
    }

    #[test]
    fn an_unchanged_module_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("dist/bluegreen.wasm");
        publish(b"one", &module).unwrap();
        fs::File::open(&module).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        publish(b"one", &module).unwrap();
        assert_eq!(fs::metadata(&module).unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
        publish(b"two", &module).unwrap();
        assert_eq!(fs::read(&module).unwrap(), b"two");
    }
}
