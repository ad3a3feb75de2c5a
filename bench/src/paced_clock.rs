//! The clocks of an Envoy, moved on by the bench: under valgrind it is many times slower, so that by its own clocks it would do
//! what comes four times a second, such as the filter's ticks, many times more often for so many requests.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::{Unavailable, process};

/// What is loaded into the process. Rust needs a C compiler to link with, so there is one.
const SOURCE: &str = concat!(include_str!("paced_clock.c"), include_str!("../../testbed/src/clock_calls.c"));

/// The clocks of one process.
pub struct PacedClock {
    file: File,
    passed: Duration,
    /// What has to run the process.
    pub command: Vec<String>,
}

// === impl PacedClock ===

impl PacedClock {
    /// Clocks that have their files in `folder`, and go right until they are moved.
    pub fn new(folder: &Path) -> Result<Self> {
        let [source, library, state] = ["paced_clock.c", "paced_clock.so", "paced_clock"].map(|name| folder.join(name));
        fs::write(&source, SOURCE).context("the clock's source cannot be written")?;
        if !process::exists("cc") {
            return Err(Unavailable::error(
                "counting instructions needs cc, the C compiler: install Debian's gcc or the like of it",
            ));
        }
        let mut cc = Command::new("cc");
        let output = cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
        let output = output.context("cc cannot be started")?;
        ensure!(output.status.success(), "cc refuses the clock: {}", String::from_utf8_lossy(&output.stderr));
        let file = File::create(&state).with_context(|| format!("cannot write {}", state.display()))?;
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let command = vec!["env".to_owned(), set("LD_PRELOAD", &library), set("PACED_CLOCK", &state)];
        let clock = Self { file, passed: Duration::ZERO, command };
        clock.show()?;
        Ok(clock)
    }

    /// Moves the clocks on, which do not go by themselves from now on.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        self.passed += time;
        self.show()
    }

    fn show(&self) -> Result<()> {
        let nanoseconds = i64::try_from(self.passed.as_nanos()).context("the clock has gone too far")?;
        self.file.write_all_at(&nanoseconds.to_ne_bytes(), 0).context("the clock cannot be moved")
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_of_a_process_go_on_only_when_they_are_moved() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut clock = PacedClock::new(folder.path())?;
        let hour = Duration::from_secs(3600);
        clock.pass(hour)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let ask = |clock: &PacedClock| -> Result<u64> {
            let [program, arguments @ ..] = &clock.command[..] else { anyhow::bail!("no command") };
            Ok(process::answer(Command::new(program).args(arguments).args(["date", "+%s"]))?.parse()?)
        };
        let ahead = ask(&clock)?.saturating_sub(now.as_secs());
        assert!((3600..3700).contains(&ahead), "{ahead} s ahead");
        Ok(())
    }
}
