//! valgrind's callgrind around an Envoy: the instructions that its threads execute in user space, in whose code, and what of
//! them a simulated processor would have had to wait for.
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

/// How much of the processor is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulation {
    /// None: instructions are counted.
    Off,
    /// The caches of [`CACHES`], and a predictor of branches.
    Caches,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    pub instructions: f64,
    /// Of instructions and data, in the first-level caches; 0 without a simulation, as the others.
    pub l1_instruction_misses: f64,
    pub l1_data_misses: f64,
    /// Those of them that the second level does not have either.
    pub l2_misses: f64,
    pub mispredicted_branches: f64,
}

/// What happened, by whose code it was in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// The Envoy binary, V8's runtime included.
    pub envoy: Events,
    /// What V8 has compiled: the filter's code and what V8 puts around a call to the host.
    pub compiled: Events,
    /// The C library and what else is linked dynamically.
    pub libraries: Events,
}

/// Bytes, ways and bytes of a line of the simulated caches: those of a core of AMD's Zen 2 and 3. callgrind calls the last
/// level `LL`; here that is the second, because the third is shared and has room for all that a request needs.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=524288,8,64"];

// === impl Callgrind ===

impl Callgrind {
    /// What has to run Envoy; its profiles go to `folder`.
    pub fn command(folder: &Path, simulation: Simulation) -> Vec<String> {
        let mut words = vec!["valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=try", "--quiet"];
        if simulation == Simulation::Caches {
            words.extend(["--cache-sim=yes", "--branch-sim=yes"].iter().chain(&CACHES));
        }
        let words = words.into_iter().map(str::to_owned);
        words.chain([format!("--callgrind-out-file={}", folder.join(FILE).display())]).collect()
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

// === impl Events ===

impl Events {
    /// Adds the counts of a line; `names` are callgrind's, of its columns.
    fn add(&mut self, names: &[&str], counts: &[f64]) {
        for (name, count) in names.iter().zip(counts) {
            match *name {
                "Ir" => self.instructions += count,
                "I1mr" => self.l1_instruction_misses += count,
                "D1mr" | "D1mw" => self.l1_data_misses += count,
                "ILmr" | "DLmr" | "DLmw" => self.l2_misses += count,
                "Bcm" | "Bim" => self.mispredicted_branches += count,
                _ => {}
            }
        }
    }

    fn map_with(self, other: Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            instructions: of(self.instructions, other.instructions),
            l1_instruction_misses: of(self.l1_instruction_misses, other.l1_instruction_misses),
            l1_data_misses: of(self.l1_data_misses, other.l1_data_misses),
            l2_misses: of(self.l2_misses, other.l2_misses),
            mispredicted_branches: of(self.mispredicted_branches, other.mispredicted_branches),
        }
    }
}

// === impl Profile ===

impl Profile {
    /// All of it, whosever code it was in.
    pub fn total(&self) -> Events {
        self.envoy.map_with(self.compiled, |a, b| a + b).map_with(self.libraries, |a, b| a + b)
    }

    /// The share of each of so many.
    pub fn per(&self, count: f64) -> Self {
        let share = |events: Events| events.map_with(events, |of, _| of / count);
        Self { envoy: share(self.envoy), compiled: share(self.compiled), libraries: share(self.libraries) }
    }

    /// Reads callgrind's format: `events:` names the columns; `ob=` says whose code the next lines are in, until the next one. A
    /// line that begins with a position has its counts, without the zeros at the end. After `calls=` comes one with those of
    /// the function that was called, which are counted there.
    fn parse(text: &str) -> Self {
        let mut profile = Self::default();
        // A name is written once, and then only its number.
        let mut names: HashMap<&str, &str> = HashMap::new();
        let mut events = Vec::new();
        let mut object = "";
        let mut is_of_callee = false;
        for line in text.lines() {
            if let Some(columns) = line.strip_prefix("events:") {
                events = columns.split_whitespace().collect();
            } else if let Some(named) = line.strip_prefix("ob=") {
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
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first))
                && !std::mem::take(&mut is_of_callee)
            {
                let counts: Vec<f64> = line.split(' ').skip(1).filter_map(|count| count.parse().ok()).collect();
                profile.of(object).add(&events, &counts);
            }
        }
        profile
    }

    fn of(&mut self, object: &str) -> &mut Events {
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
        let of = |instructions| Events { instructions, ..Events::default() };
        let expected = Profile { envoy: of(100.0), compiled: of(40.0), libraries: of(7.0) };
        assert_eq!(Profile::parse(text), expected);
        assert_eq!(expected.total(), of(147.0));
    }

    #[test]
    fn misses_are_told_apart_by_the_names_of_the_columns() {
        let text = "\
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw Bc Bcm Bi Bim
ob=(1) /opt/envoy
+3 100 20 10 5 4 3 2 1 1 30 6 2 1
+1 50
";
        let expected = Events {
            instructions: 150.0,
            l1_instruction_misses: 5.0,
            l1_data_misses: 7.0,
            l2_misses: 4.0,
            mispredicted_branches: 7.0,
        };
        assert_eq!(Profile::parse(text).total(), expected);
        assert_eq!(Profile::parse(text).per(2.0).total().instructions, 75.0);
    }
}
