//! A child whose end is waited for. Its output is passed on, passed on and read, kept for a failure, or returned.
//!
//! Each function takes the command out of the value that it is given and starts it once.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Result, anyhow, bail};

use super::group::{Group, LastSignal, wait_for_exit_if_ending};
use crate::progress::Progress;

/// How many lines of a quiet child are shown when it fails.
const LAST_LINES: usize = 20;

/// Runs a child whose output goes where this process's goes; anything but success is an error.
pub fn show(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let group = lead(command)?;
    succeeded(&line, finish(&group)?)
}

/// Runs a child whose standard output is passed on as it comes and also given to `read`.
pub fn stream(command: &mut Command, mut read: impl FnMut(&[u8]) + Send) -> Result<ExitStatus> {
    let (output, writer) = io::pipe()?;
    command.stdout(writer);
    pump(command, output, |bytes| {
        let mut stdout = io::stdout().lock();
        // A closed standard output (`| head`) is no reason to stop counting.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
        read(bytes);
    })
}

/// Runs a child whose output appears only as the progress line's detail, and in the error when it fails.
pub fn quiet(command: &mut Command, progress: &Progress) -> Result<()> {
    let line = describe(command);
    let (output, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut last = LastLines::default();
    let status = pump(command, output, |bytes| {
        last.feed(bytes);
        progress.detail(last.newest());
    })?;
    succeeded(&line, status).map_err(|error| anyhow!("{error}; its last lines:\n{}", last.text()))
}

/// The standard output of a short question such as `rustc --version`.
pub fn answer(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_start(&line, &error))?;
    succeeded(&line, output.status)
        .map_err(|error| anyhow!("{error}: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether `program` is in the path.
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// The file of `program`, when it is in the path.
pub fn find(program: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Starts a child that takes along what it started.
fn lead(command: &mut Command) -> Result<Group> {
    let line = describe(command);
    let mut command = mem::replace(command, Command::new("true"));
    command.stdin(Stdio::null());
    Group::lead(command, LastSignal::Terminate).map_err(|error| cannot_start(&line, &error))
}

fn finish(group: &Group) -> Result<ExitStatus> {
    let status = group.child().wait()?;
    wait_for_exit_if_ending();
    Ok(status)
}

/// Reads `output` to its end while the child runs.
fn pump(command: &mut Command, mut output: io::PipeReader, mut read: impl FnMut(&[u8]) + Send) -> Result<ExitStatus> {
    let line = describe(command);
    let group = lead(command)?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<()> {
            let mut buffer = [0; 8192];
            loop {
                match output.read(&mut buffer)? {
                    0 => return Ok(()),
                    length => read(buffer.get(..length).unwrap_or_default()),
                }
            }
        });
        let status = finish(&group);
        // Something the child left behind may hold the pipe open.
        drop(group);
        reader.join().map_err(|_| anyhow!("the reader of `{line}` panicked"))??;
        status
    })
}

fn succeeded(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

fn cannot_start(line: &str, error: &io::Error) -> anyhow::Error {
    anyhow!("cannot start `{line}`: {error}")
}

/// The command as a user would type it, without the folder of its program.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    command.get_args().fold(name.into_owned(), |line, argument| line + " " + &argument.to_string_lossy())
}

/// The end of an output, line by line.
#[derive(Default)]
struct LastLines {
    lines: VecDeque<String>,
    unfinished: Vec<u8>,
}

// === impl LastLines ===

impl LastLines {
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.end_line();
            } else {
                self.unfinished.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.unfinished).trim_end().to_owned();
        self.unfinished.clear();
        if line.is_empty() {
            return;
        }
        if self.lines.len() == LAST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn newest(&self) -> &str {
        self.lines.back().map_or("", String::as_str)
    }

    fn text(mut self) -> String {
        self.end_line();
        Vec::from(self.lines).join("\n")
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_quiet_child_that_fails_shows_its_last_lines() {
        let error = quiet(&mut shell("seq 30; echo last >&2; exit 3"), &Progress::hidden()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("last") && text.contains("exit status: 3"), "{text}");
        assert!(!text.contains("\n11\n"), "{text}");
    }

    #[test]
    fn output_is_read_until_the_child_ends() {
        let (output, writer) = io::pipe().unwrap();
        let mut seen = Vec::new();
        let mut child = shell("echo one; exit 2");
        let status = pump(child.stdout(writer), output, |bytes| seen.extend_from_slice(bytes)).unwrap();
        assert_eq!(status.code(), Some(2));
        assert_eq!(seen, b"one\n");
    }

    #[test]
    fn what_a_child_leaves_behind_is_ended_with_it() {
        let (output, writer) = io::pipe().unwrap();
        let mut seen = Vec::new();
        // The sleeper holds the pipe open: were it not ended, this would wait for it.
        let mut child = shell("sleep 600 & echo $!");
        pump(child.stdout(writer), output, |bytes| seen.extend_from_slice(bytes)).unwrap();
        let orphan = Pid::from_raw(String::from_utf8(seen).unwrap().trim().parse().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while kill(orphan, None).is_ok() && !is_zombie(orphan) {
            assert!(Instant::now() < deadline, "{orphan} is still running");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Killed, but not yet collected by the process that adopted it.
    fn is_zombie(process: Pid) -> bool {
        std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = answer(&mut Command::new("no-such-program")).unwrap_err();
        assert!(error.to_string().contains("no-such-program"));
    }
}
