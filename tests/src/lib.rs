//! What the end-to-end tests share.
//!
//! The folders beside this one are the test programs; they stand on `bluegreen-testbed`. Only what is about tests alone
//! is here.

pub mod admin;
pub mod command_line;
pub mod environment;
pub mod registry;
pub mod request;
pub mod switch;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bluegreen_testbed::repository;

pub use environment::Environment;
pub use switch::Switch;

/// The deployment of the shipped configuration.
pub const IRIS: &str = "iris";

/// The path that it matches.
pub const PATH: &str = "/invocations";

/// Compiles a fixture in WebAssembly's text format into `folder`.
pub fn compile_fixture(name: &str, folder: &Path) -> Result<PathBuf> {
    let source = fs::read(repository::root().join("tests/fixtures").join(name))?;
    let path = folder.join(name).with_extension("wasm");
    fs::write(&path, wat::parse_bytes(&source)?)?;
    Ok(path)
}
