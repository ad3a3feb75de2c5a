//! The manifests of the repository.

use anyhow::{Context, Result, anyhow};
use bluegreen_testbed::repository;
use serde_json::Value;

/// Those of some files, in order.
pub fn manifests(files: &[String]) -> Result<Vec<Value>> {
    let read = |file: &String| -> Result<Vec<Value>> {
        let path = repository::root().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_saphyr::from_multiple(&text).map_err(|error| anyhow!("{file}: {error}"))
    };
    Ok(files.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}
