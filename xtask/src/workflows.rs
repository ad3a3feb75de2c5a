//! The workflows under `.github/`, by GitHub's schema and by zizmor, which knows what goes wrong in a workflow that holds
//! keys. Neither asks GitHub.

use std::process::Command;

use anyhow::Result;
use bluegreen_programs::python::Environment;
use bluegreen_programs::{Checkout, process};

const TOOLS: Environment<'static> = Environment {
    name: "check-jsonschema-0.39.0-zizmor-1.32.0",
    title: "check-jsonschema and zizmor",
    requirements: &["check-jsonschema==0.39.0", "zizmor==1.32.0"],
    purpose: "checking the workflows",
    otherwise: "leave them as they are",
};

/// Fails with what one of the two has to say.
pub fn check(checkout: &Checkout) -> Result<()> {
    let programs = TOOLS.obtain(checkout)?.join("bin");
    let folder = checkout.root().join(".github/workflows");
    let files = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut schema = Command::new(programs.join("check-jsonschema"));
    process::show(schema.args(["--builtin-schema", "vendor.github-workflows"]).args(files))?;
    process::show(Command::new(programs.join("zizmor")).args(["--offline", "--no-progress"]).arg(folder))
}
