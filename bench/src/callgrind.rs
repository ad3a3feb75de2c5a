//! valgrind's callgrind around an Envoy: how many instructions its threads have executed, in user space.
//!
//! It is asked through `vgdb`, which comes with valgrind. Until it is told to count, Envoy runs several times faster.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::{packages, process};

/// Sees to it that valgrind is there.
pub fn obtain() -> Result<()> {
    packages::provide(&[("valgrind", "valgrind"), ("vgdb", "valgrind")], "counting instructions")
}

/// What runs Envoy, and writes its profiles, when asked for them, to files in `folder`.
pub fn observer(folder: &Path) -> Vec<String> {
    let file = folder.join("callgrind.%p");
    let words = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"].map(str::to_owned);
    words.into_iter().chain([format!("--callgrind-out-file={}", file.display())]).collect()
}

/// The callgrind in a process.
#[derive(Clone, Copy)]
pub struct Callgrind {
    process: u32,
}

// === impl Callgrind ===

impl Callgrind {
    pub const fn of(process: u32) -> Self {
        Self { process }
    }

    /// Begins to count.
    pub fn count(self) -> Result<()> {
        self.tell("instrumentation on").map(drop)
    }

    /// Instructions since it counts.
    pub fn instructions(self) -> Result<u64> {
        let said = self.tell("status internal")?;
        totals(&said).with_context(|| format!("valgrind says nothing of instructions:\n{said}"))
    }

    fn tell(self, command: &str) -> Result<String> {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--pid={}", self.process)).args(["--wait=30", "-c", command]);
        process::answer(&mut vgdb).with_context(|| format!("asking valgrind: {command}"))
    }
}

/// The sum over all threads.
fn totals(said: &str) -> Option<u64> {
    let lines = said.lines().filter_map(|line| line.strip_prefix("events-")?.split_once(": "));
    // `events-6` is a thread, `events-6-1` a function that it is in.
    let of_threads = lines.filter(|(thread, _)| thread.bytes().all(|byte| byte.is_ascii_digit()));
    let counts: Vec<u64> = of_threads.filter_map(|(_, count)| count.trim().parse().ok()).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}
