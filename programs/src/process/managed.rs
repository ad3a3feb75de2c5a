//! A child that runs beside this process: its output is kept, it can be watched and ended, and it ends with its owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::group::{Group, LastSignal, wait_for_exit_if_ending};
use super::log::Log;
use crate::wait;

/// How many of the last lines are told when a process has ended unexpectedly.
const LAST_LINES: usize = 20;

/// A running child process; dropping it kills it.
#[derive(Debug)]
pub struct ManagedProcess {
    name: String,
    group: Group,
    log: Log,
}

/// How to start a process: made by [`ManagedProcess::with`].
#[derive(Debug)]
pub struct Options {
    name: String,
    command: Command,
    input: Stdio,
    last: LastSignal,
    copy: Option<PathBuf>,
}

// === impl Options ===

impl Options {
    /// Its standard input; none if not said.
    #[must_use]
    pub fn input(mut self, input: Stdio) -> Self {
        self.input = input;
        self
    }

    /// What it gets when this process is killed; SIGKILL if not said.
    #[must_use]
    pub fn last_signal(mut self, last: LastSignal) -> Self {
        self.last = last;
        self
    }

    /// Writes what it prints to a file as well.
    #[must_use]
    pub fn log_file(mut self, path: &Path) -> Self {
        self.copy = Some(path.to_owned());
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<ManagedProcess> {
        let Self { name, mut command, input, last, copy } = self;
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let copy = copy.as_ref().map(create).transpose()?;
        let second = copy.as_ref().map(File::try_clone).transpose()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let group = Group::join(command, last).with_context(|| format!("{name}: cannot start {program}"))?;
        let log = Log::default();
        if let Some(output) = group.child().take_stdout() {
            log.follow(output, copy);
        }
        if let Some(output) = group.child().take_stderr() {
            log.follow(output, second);
        }
        Ok(ManagedProcess { name, group, log })
    }
}

// === impl ManagedProcess ===

impl ManagedProcess {
    /// Starts `command`; `name` is for messages.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        Self::with(name, command).start()
    }

    /// Options to start `command`; `name` is for messages.
    pub fn with(name: &str, command: Command) -> Options {
        Options { name: name.to_owned(), command, input: Stdio::null(), last: LastSignal::Kill, copy: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.group.child().id()
    }

    /// Its standard input, once, if that is a pipe.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.group.child().take_stdin()
    }

    /// What it has written.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How it ended, when it has.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        self.group.child().try_wait().with_context(|| format!("{}: cannot ask for its state", self.name))
    }

    /// Fails, with the end of its log, when it is not running any more. Does not return when a signal to this process has
    /// ended it.
    pub fn ensure_running(&self) -> Result<()> {
        let Some(status) = self.ended()? else { return Ok(()) };
        wait_for_exit_if_ending();
        bail!("{} ended with {status}; its last lines:\n{}", self.name, self.log.tail(LAST_LINES))
    }

    /// Waits for its end, for at most [`wait::PATIENCE`].
    pub async fn wait(&self) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, || async { self.ended() }, Option::is_some).await?;
        status.context("the process has no exit status")
    }

    /// Asks it to end (SIGTERM), and waits until it has, for at most [`wait::PATIENCE`].
    pub async fn stop(self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait().await
    }

    /// Asks it to end (SIGTERM); kills it if it has not within `patience`.
    pub fn stop_within(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        match self.group.child().wait_timeout(patience) {
            Ok(Some(_)) => Ok(()),
            _ => self.kill(),
        }
    }

    /// Ends it with SIGKILL, as a crash or an out-of-memory killer would, and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.group.child().wait().with_context(|| format!("{}: did not end", self.name))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.group.signal(signal).with_context(|| format!("{}: cannot be signalled", self.name))
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Options {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ManagedProcess::with("the shell", command)
    }

    #[tokio::test]
    async fn both_outputs_are_kept_line_by_line() -> Result<()> {
        let process = shell("echo out; echo err >&2; printf '\\351\\n'").start()?;
        assert!(process.wait().await?.success());
        process.log().wait_for("err").await?;
        process.log().wait_for("out").await?;
        process.log().wait_for("\u{fffd}").await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_log_file_gets_both_outputs_too() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("log");
        let process = shell("echo out; echo err >&2").log_file(&path).start()?;
        process.wait().await?;
        let look = || async { Ok(std::fs::read_to_string(&path)?) };
        wait::until("two lines", look, |text| text.contains("out\n") && text.contains("err\n")).await?;
        Ok(())
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_last_lines() -> Result<()> {
        let process = shell("echo no such configuration; exit 3").start()?;
        process.wait().await?;
        process.log().wait_for("no such").await?;
        let seen = process.ensure_running().map_err(|error| error.to_string());
        assert!(
            seen.as_ref().is_err_and(|text| text.contains("no such configuration") && text.contains('3')),
            "{seen:?}"
        );
        Ok(())
    }

    #[tokio::test]
    async fn dropping_a_process_ends_it() -> Result<()> {
        let process = shell("echo $$; exec sleep 600").start()?;
        let id = process.id().to_string();
        process.log().wait_for(&id).await?;
        drop(process);
        let status = Command::new("kill").args(["-0", &id]).stderr(Stdio::null()).status()?;
        assert!(!status.success(), "process {id} still runs");
        Ok(())
    }

    #[tokio::test]
    async fn stopping_a_process_lets_it_end_well() -> Result<()> {
        let process = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done").start()?;
        process.log().wait_for("ready").await?;
        assert_eq!(process.stop().await?.code(), Some(7));
        Ok(())
    }

    #[tokio::test]
    async fn a_process_that_does_not_end_when_asked_is_killed() -> Result<()> {
        let process = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done").start()?;
        process.log().wait_for("ready").await?;
        process.stop_within(Duration::from_millis(50))?;
        assert!(process.ended()?.is_some());
        Ok(())
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let seen = ManagedProcess::start("blue", Command::new("no-such-program")).map_err(|error| error.to_string());
        assert!(seen.as_ref().is_err_and(|text| text.contains("no-such-program")), "{seen:?}");
    }
}
