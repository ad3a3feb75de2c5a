//! What suites need of other projects and what takes minutes to be had, once: servers in Go, environments in Python.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use bluegreen_programs::process::{LastSignal, ManagedProcess};
use bluegreen_programs::{Checkout, envoy_gateway, istiod, kubernetes, mlflow, schemathesis};

type Obtain = fn(&Checkout) -> Result<PathBuf>;

/// What is obtained, in the order in which the suites need it.
const NEEDED: [(&str, Obtain); 5] = [
    ("Schemathesis", schemathesis::obtain),
    ("MLflow", mlflow::obtain),
    ("Kubernetes", |checkout| kubernetes::obtain(checkout).map(|_| PathBuf::new())),
    ("istiod", istiod::obtain),
    ("Envoy Gateway", envoy_gateway::obtain),
];

/// Obtains all of it. What cannot be had keeps nothing else from being obtained.
///
/// # Errors
/// Something cannot be had; the error says what, and why.
pub fn run(checkout: &Checkout) -> Result<()> {
    let mut missing = Vec::new();
    for (name, obtain) in NEEDED {
        if let Err(error) = obtain(checkout) {
            missing.push(format!("{name}: {error:#}"));
        }
    }
    if !missing.is_empty() {
        bail!("not everything can be had here:\n{}", missing.join("\n"));
    }
    Ok(())
}

/// Begins it beside this process, until the value is dropped. A suite that needs what is not there yet waits for it, and what
/// fails here the suite tries again and reports. Tests get the processor first: this has the lowest priority.
///
/// # Errors
/// No process can be started.
pub fn begin(checkout: &Checkout) -> Result<ManagedProcess> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(env::current_exe().context("where this program is")?).arg("prepare");
    let log = checkout.target().join("prepare.log");
    // It has children of its own.
    ManagedProcess::with("prepare", command).last_signal(LastSignal::Terminate).log_file(&log).start()
}
