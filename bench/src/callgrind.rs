//! valgrind's callgrind around an Envoy: the instructions that its threads execute in user space, and in whose code.
//!
//! It is told what to do by `vgdb`, which comes with valgrind. Until it is told to count, Envoy runs several times faster.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::process;
use serde::Serialize;

/// What a profile is called in its folder; valgrind adds the number of the dump.
const FILE: &str = "callgrind";

/// The callgrind that runs an Envoy, and the folder for its profiles.
pub struct Callgrind {
    process: u32,
    folder: PathBuf,
}

/// Instructions by whose code they were in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// The Envoy binary, V8's runtime included.
    pub envoy: f64,
    /// What V8 has compiled: the filter's code and what V8 puts around a call to the host.
    pub compiled: f64,
    /// The C library and what else is linked dynamically.
    pub libraries: f64,
}

// === impl Callgrind ===

impl Callgrind {
    /// What has to run Envoy; its profiles go to `folder`.
    pub fn command(folder: &Path) -> Vec<String> {
        let words =
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=try", "--quiet"].map(str::to_owned);
        words.into_iter().chain([format!("--callgrind-out-file={}", folder.join(FILE).display())]).collect()
    }

    /// The one in this process, which was started by [`Self::command`].
    pub fn of(process: u32, folder: &Path) -> Self {
        Self { process, folder: folder.to_owned() }
    }

    /// Begins to count.
    pub async fn start(&self) -> Result<()> {
        self.tell("instrumentation on").await
    }

    /// What was executed since the last call; since counting began at the first.
    pub async fn take(&self) -> Result<Profile> {
        self.tell("dump").await?;
        // `callgrind`, which is written at the end, has no number.
        let dumps = self.folder.read_dir().context("the folder of the profiles")?.flatten().map(|entry| entry.path());
        let path = dumps.filter(|path| path.extension().is_some()).max_by_key(|path| number(path));
        let path = path.context("callgrind has written no profile")?;
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(Profile::parse(&String::from_utf8_lossy(&text)))
    }

    async fn tell(&self, command: &str) -> Result<()> {
        let mut vgdb = Command::new("vgdb");
        // Envoy's threads mostly wait; vgdb need not wait for one to move by itself.
        vgdb.arg(format!("--pid={}", self.process)).args(["--wait=30", "--max-invoke-ms=5", "-c", command]);
        let said = tokio::task::spawn_blocking(move || process::answer(&mut vgdb)).await.context("vgdb")?;
        said.map(drop).with_context(|| format!("telling callgrind: {command}"))
    }
}

fn number(path: &Path) -> Option<u32> {
    path.extension()?.to_str()?.parse().ok()
}

// === impl Profile ===

impl Profile {
    pub fn total(&self) -> f64 {
        self.envoy + self.compiled + self.libraries
    }

    /// The share of each of so many.
    pub fn per(&self, count: f64) -> Self {
        Self { envoy: self.envoy / count, compiled: self.compiled / count, libraries: self.libraries / count }
    }

    /// Reads callgrind's format: `ob=` says whose code the next lines are in, until the next one. A line that begins with a
    /// position ends with its instructions. After `calls=` comes one with those of the function that was called, which are
    /// counted there.
    fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        // A name is written once, and then only its number.
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut object = "";
        let mut is_of_callee = false;
        for line in text.lines() {
            if let Some(named) = line.strip_prefix("ob=") {
                let (number, name) = named.split_once(' ').unwrap_or((named, ""));
                if !name.is_empty() {
                    names.insert(number, name);
                }
                object = names.get(number).copied().unwrap_or_default();
            } else if let Some(named) = line.strip_prefix("cob=") {
                if let Some((number, name)) = named.split_once(' ') {
                    names.insert(number, name);
                }
            } else if line.starts_with("calls=") {
                is_of_callee = true;
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap_or_default();
                if !std::mem::take(&mut is_of_callee) {
                    *profile.of(object) += count;
                }
            }
        }
        profile
    }

    fn of(&mut self, object: &str) -> &mut f64 {
        match object {
            "" | "???" => &mut self.compiled,
            library if library.contains(".so") || library.contains("vdso") => &mut self.libraries,
            _ => &mut self.envoy,
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_counted_where_they_were_executed_and_once() {
        let text = "\
version: 1
events: Ir

ob=(1) /opt/envoy
fl=(1) ???
fn=(1) 0x10
0 100
cob=(2) ???
cfi=(1)
cfn=(2) 0x7f00
calls=3 0
0 5000

ob=(2)
fn=(2)
0 40
cob=(3) /lib/libc.so.6
cfn=(3) memcpy
calls=1 0
* 9

ob=(3)
fn=(3)
+4 7
totals: 147
";
        let expected = Profile { envoy: 100.0, compiled: 40.0, libraries: 7.0 };
        assert_eq!(Profile::parse(text), expected);
        assert_eq!(expected.total(), 147.0);
    }
}
