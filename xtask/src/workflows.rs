//! The workflows under `.github/`, by GitHub's schema and by zizmor, which knows what goes wrong in a workflow that holds
//! keys. Neither asks GitHub.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::missing::Missing;
use crate::process;
use crate::progress::Progress;
use crate::python;

/// What is installed, from Python's package index.
const TOOLS: [&str; 2] = ["check-jsonschema==0.39.0", "zizmor==1.32.0"];

/// Written when all is installed.
const COMPLETE: &str = "complete";

/// Fails with what one of the two has to say.
pub fn check(checkout: &Checkout) -> Result<()> {
    let programs = obtain(checkout)?.join("bin");
    let folder = checkout.root().join(".github/workflows");
    let files = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut schema = Command::new(programs.join("check-jsonschema"));
    process::show(schema.args(["--builtin-schema", "vendor.github-workflows"]).args(files))?;
    process::show(Command::new(programs.join("zizmor")).args(["--offline", "--no-progress"]).arg(folder))
}

fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.tool(&TOOLS.join("-").replace("==", "-"));
    if folder.join(COMPLETE).is_file() {
        return Ok(folder);
    }
    python::create_environment(&folder, "checking the workflows", "leave them as they are")?;
    let progress = Progress::start("Installing check-jsonschema and zizmor");
    python::install(&folder, &TOOLS, &progress)
        .map_err(|error| Missing::error(format!("{} cannot be installed here: {error:#}", TOOLS.join(" and "))))?;
    fs::write(folder.join(COMPLETE), "").with_context(|| format!("cannot write to {}", folder.display()))?;
    progress.done("Installed check-jsonschema and zizmor");
    Ok(folder)
}
