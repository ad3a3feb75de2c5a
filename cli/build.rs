//! Puts the filter into `bluegreen demo` when `BLUEGREEN_MODULE` names it, by its absolute path. Released programs carry
//! it; `cargo install` works without a toolchain for wasm32.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const VARIABLE: &str = "BLUEGREEN_MODULE";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let expression = match env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, folder.join("bluegreen.wasm"))
                .map_err(|error| format!("{VARIABLE}={} cannot be read: {error}", path.display()))?;
            r#"Some(include_bytes!(concat!(env!("OUT_DIR"), "/bluegreen.wasm")))"#
        }
        None => "None",
    };
    fs::write(folder.join("module.rs"), expression)?;
    Ok(())
}
