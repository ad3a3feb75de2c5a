//! A wall clock that a test sets, for one process.
//!
//! libfaketime does not do: an Envoy that is started with it waits for itself for ever, as its allocator asks for the time
//! before libfaketime is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// What is loaded into the process. Rust needs a C compiler to link with, so there is one.
const SOURCE: &str = concat!(include_str!("fake_clock.c"), include_str!("clock_calls.c"));

/// The clock of the process that keeps its files in a folder.
#[derive(Debug)]
pub struct FakeClock {
    folder: PathBuf,
}

// === impl FakeClock ===

impl FakeClock {
    /// The clock that has its files in `folder`.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Has `command` start with this clock, which goes right until it is set.
    pub fn give_to(&self, command: &mut Command) -> Result<()> {
        let (source, library) = (self.folder.join("fake_clock.c"), self.folder.join("fake_clock.so"));
        if !library.exists() {
            fs::write(&source, SOURCE).context("the fake clock's source cannot be written")?;
            ensure!(
                process::exists("cc"),
                "a fake clock needs cc, the C compiler: install Debian's gcc or the like of it"
            );
            let mut cc = Command::new("cc");
            cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
            let output = cc.output().context("cc cannot be started")?;
            ensure!(output.status.success(), "cc refuses the fake clock: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.set(0)?;
        command.env("LD_PRELOAD", library).env("FAKE_CLOCK", self.file());
        Ok(())
    }

    /// Sets the clock so many seconds ahead of the right time, or behind it.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Nobody reads half a number.
        let new = self.folder.join("fake_clock.new");
        fs::write(&new, seconds.to_string()).context("the fake clock cannot be set")?;
        fs::rename(&new, self.file()).context("the fake clock cannot be set")
    }

    fn file(&self) -> PathBuf {
        self.folder.join("fake_clock")
    }
}
