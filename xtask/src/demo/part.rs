//! One process of the demo: started with its output in a file, watched, asked to end, and ended with its owner.
//!
//! It leads a process group that the task runner's signal handler ends. That handler waits until the group is gone, and
//! a process is gone only when its parent has collected it: hence a thread that does nothing but that.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// How long a part may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// How many lines of a failed part's output are shown.
const LAST_LINES: usize = 10;

/// A running process; dropping it ends it.
pub struct Part {
    name: &'static str,
    group: Pid,
    log: PathBuf,
    ended: Arc<OnceLock<io::Result<ExitStatus>>>,
    collector: Option<JoinHandle<()>>,
}

// === impl Part ===

impl Part {
    /// Starts `command`, with all that it prints in `log`.
    pub fn start(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let (mut child, group) = interrupt::spawn(&mut command).with_context(|| format!("cannot start {name}"))?;
        let ended = Arc::new(OnceLock::new());
        let end = Arc::clone(&ended);
        let collector = thread::spawn(move || {
            let _ = end.set(child.wait());
        });
        Ok(Self { name, group, log, ended, collector: Some(collector) })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The process id.
    pub fn id(&self) -> i32 {
        self.group.as_raw()
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub async fn stop(self) -> Result<ExitStatus> {
        // "No such process" means that it has ended already.
        let _ = killpg(self.group, Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} did not end within {PATIENCE:?} of SIGTERM", self.name);
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Fails with its last lines when it has ended by itself.
    pub fn ensure_running(&self) -> Result<()> {
        let Some(status) = self.status()? else {
            return Ok(());
        };
        // What a signal to this process ended is no failure.
        interrupt::wait_for_exit_if_ending();
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        bail!("{} has ended by itself ({status}); its last lines:\n{}", self.name, last.join("\n"))
    }

    /// How it ended, when it has.
    fn status(&self) -> Result<Option<ExitStatus>> {
        match self.ended.get() {
            None => Ok(None),
            Some(Ok(status)) => Ok(Some(*status)),
            Some(Err(error)) => bail!("cannot tell how {} ended: {error}", self.name),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        interrupt::forget(self.group);
        if let Some(collector) = self.collector.take() {
            let _ = collector.join();
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Part) {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let part = Part::start("the part", command, directory.path().join("log")).unwrap();
        (directory, part)
    }

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "it took too long");
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn runs(group: Pid) -> bool {
        killpg(group, None).is_ok()
    }

    #[test]
    fn a_part_that_ends_by_itself_is_told_with_its_last_lines() {
        let (_directory, part) = shell("echo no such configuration >&2; exit 3");
        until(|| part.ensure_running().is_err());
        let message = part.ensure_running().unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.ends_with("no such configuration"), "{message}");
    }

    #[test]
    fn a_part_that_was_killed_is_collected_without_being_asked_for() {
        let (_directory, part) = shell("exec sleep 600");
        killpg(part.group, Signal::SIGTERM).unwrap();
        until(|| !runs(part.group));
    }

    #[test]
    fn dropping_a_part_ends_it() {
        let (_directory, part) = shell("exec sleep 600");
        let group = part.group;
        assert!(runs(group));
        drop(part);
        assert!(!runs(group));
    }

    #[tokio::test]
    async fn stopping_a_part_lets_it_end_well() {
        let (directory, part) = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        let log = directory.path().join("log");
        until(|| fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
        assert_eq!(part.stop().await.unwrap().code(), Some(7));
    }
}
