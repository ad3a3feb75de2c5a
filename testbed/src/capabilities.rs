//! The host calls and callbacks that an Envoy lets the module have, as the installation guide tells people to list them.
//!
//! Tests that run with this list, and nothing else allowed, show that it is enough.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{Bootstrap, repository};

/// The file with the list for people to copy.
pub const DOCUMENT: &str = "docs/install.md";

/// The names in the document's example.
pub fn documented() -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(repository::root().join(DOCUMENT)).with_context(|| DOCUMENT.to_owned())?;
    let (_, example) = text.split_once("allowed_capabilities:\n").context("the document has no list")?;
    let (example, _) = example.split_once("```").context("the list does not end")?;
    let names = example.lines().map(|line| {
        let name = line.trim().strip_suffix(": {}").with_context(|| format!("{line:?} is no capability"))?;
        Ok(name.to_owned())
    });
    names.collect()
}

/// The same configuration, in which no module may have more than `capabilities`.
pub fn restrict(bootstrap: Bootstrap, capabilities: &BTreeSet<String>) -> Result<Bootstrap> {
    let allowed: Map<String, Value> = capabilities.iter().map(|name| (name.clone(), json!({}))).collect();
    let restriction = json!({"allowed_capabilities": allowed});
    let in_vm_config = in_vm_config()?;
    Ok(bootstrap.wasm_filters(|filter| {
        let config = &mut filter["config"];
        let holder = if in_vm_config { &mut config["vm_config"] } else { config };
        holder["capability_restriction_config"] = restriction.clone();
    }))
}

/// Whether the Envoy under test takes the list in `vm_config`, where 1.40 moved it, or beside that.
fn in_vm_config() -> Result<bool> {
    let answer = Command::new(repository::envoy()?).arg("--version").output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let minor = answer.split('/').find_map(|part| part.strip_prefix("1.")?.split('.').next()?.parse::<u32>().ok());
    Ok(minor.with_context(|| format!("no version in {answer:?}"))? >= 40)
}
