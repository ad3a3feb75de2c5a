//! Where and with what a measurement was made: no figure means anything without it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::SystemTime;

use anyhow::Result;
use bluegreen_programs::{Checkout, process};
use serde::{Deserialize, Serialize};

/// The machine, the programs and the revision of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunMetadata {
    pub command: String,
    pub quick: bool,
    pub date: String,
    pub revision: String,
    pub envoy: String,
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    /// The load average of the minute before the measurement: whether the machine had other things to do.
    pub load_before: String,
}

// === impl RunMetadata ===

impl RunMetadata {
    pub fn of_this_run(checkout: &Checkout, envoy: &Path, subject: &str, quick: bool) -> Result<Self> {
        let said = process::answer(Command::new(envoy).arg("--version"))?;
        Ok(Self {
            command: format!("cargo xtask bench {subject}{}", if quick { " --quick" } else { "" }),
            quick,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            revision: revision(checkout.root()),
            envoy: envoy_version(&said),
            processor: read("/proc/cpuinfo").and_then(|text| processor(&text)).unwrap_or_else(unknown),
            cores: available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
            load_before: read("/proc/loadavg").and_then(|text| first_word(&text)).unwrap_or_else(unknown),
        })
    }
}

/// The commit, marked when the files are not those of the commit.
fn revision(root: &Path) -> String {
    let git = |arguments: &[&str]| process::answer(Command::new("git").args(arguments).current_dir(root));
    let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return unknown();
    };
    // The document that this very command writes does not count.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/benchmarks.md"]);
    if changed.is_ok_and(|files| files.is_empty()) { commit } else { format!("{commit} with uncommitted changes") }
}

/// `…/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`, without the program's path.
fn envoy_version(said: &str) -> String {
    let version = said.split_once("version: ").map_or(said, |(_, version)| version).trim();
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [_, number, _, kind, ..] => format!("{number} ({kind})"),
        _ => version.to_owned(),
    }
}

fn processor(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_word(text: &str) -> Option<String> {
    text.split_ascii_whitespace().next().map(str::to_owned)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_envoy_is_told_without_the_path_of_the_program() {
        let said = "/opt/envoy  version: 9e5580933739775e8bce/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(envoy_version(said), "1.40.0 (RELEASE)");
        assert_eq!(envoy_version("something else"), "something else");
    }

    #[test]
    fn the_processor_is_read_from_its_line() {
        assert_eq!(processor("vendor_id\t: X\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC".to_owned()));
        assert_eq!(processor("flags: none"), None);
    }
}
