//! A child process whose output is kept and that never outlives its owner.
//!
//! Dropping a [`Process`] kills it. Should the owner itself be killed, Linux delivers the signal: the child asks for
//! that with `PR_SET_PDEATHSIG`, which is tied to the *thread* that started it, hence the one thread that starts all
//! children and lives as long as the owner's process does.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use anyhow::{Context, Result, bail};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// A running child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Log,
}

/// What a process has written so far, standard output and standard error together.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
}

/// A command to start, and where to send the child.
type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The signal that ends a child when its owner is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSignal {
    /// SIGKILL: nothing is left to chance.
    Kill,
    /// SIGTERM: for a child that has children of its own, which it then ends.
    Terminate,
}

/// The thread that starts children.
static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, reply) in inbox {
            // The one who ordered may have gone; the child is then dropped, and nobody can own it.
            if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    orders
});

// === impl Process ===

impl Process {
    /// Starts `command`; `name` is for messages.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        Self::start_with(name, command, Stdio::null(), LastSignal::Kill)
    }

    /// Starts `command` with this as its standard input, and with this as the end that it gets.
    pub fn start_with(name: &str, mut command: Command, input: Stdio, last: LastSignal) -> Result<Self> {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_parent(&mut command, last);
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, child) = mpsc::channel();
        STARTER.send((command, reply)).ok().context("the thread that starts processes has ended")?;
        let child = child.recv().context("the thread that starts processes has ended")?;
        let mut child = child.with_context(|| format!("{name}: cannot start {program}"))?;
        let log = Log::default();
        if let Some(output) = child.stdout.take() {
            log.follow(output);
        }
        if let Some(output) = child.stderr.take() {
            log.follow(output);
        }
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once, if that is a pipe.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has written.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("{}: cannot ask for its state", self.name))
    }

    /// Fails, with the end of its log, when it is not running any more.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its last lines:\n{}", self.name, self.log.tail(20)),
        }
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let child = Mutex::new(&mut self.child);
        let look = || async { Ok(lock(&child).try_wait()?) };
        let status = wait::until(&what, look, Option::is_some).await?;
        status.context("the process has no exit status")
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a process id out of range")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).with_context(|| format!("{}: cannot be signalled", self.name))
    }

    /// Ends it with SIGKILL, as a crash or an out-of-memory killer would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("{}: cannot be killed", self.name))?;
        self.child.wait().with_context(|| format!("{}: did not end", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error here means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Log ===

impl Log {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// The lines that contain `needle`.
    pub fn lines_with(&self, needle: &str) -> Vec<String> {
        lock(&self.lines).iter().filter(|line| line.contains(needle)).cloned().collect()
    }

    /// The last `count` lines as one text.
    pub fn tail(&self, count: usize) -> String {
        let lines = lock(&self.lines);
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
    }

    /// Waits until a line contains `needle`, and returns the first that does.
    pub async fn wait_for(&self, needle: &str) -> Result<String> {
        let found = wait::until(
            &format!("a log line with {needle:?}"),
            || async { Ok(self.lines_with(needle)) },
            |lines| !lines.is_empty(),
        )
        .await
        .with_context(|| format!("the log ends with:\n{}", self.tail(20)))?;
        found.into_iter().next().context("no line")
    }

    /// Keeps what `output` delivers until it closes. Bytes that are no UTF-8 are replaced.
    fn follow(&self, output: impl Read + Send + 'static) {
        let lines = Arc::clone(&self.lines);
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                lock(&lines).push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
    }
}

/// A lock whose former owner panicked guards plain data here, which is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, last: LastSignal) {
    use std::os::unix::process::CommandExt;

    use nix::sys::prctl::set_pdeathsig;

    let signal = match last {
        LastSignal::Kill => Signal::SIGKILL,
        LastSignal::Terminate => Signal::SIGTERM,
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a plain system call and the
    // conversion of its error allocates nothing.
    unsafe {
        command.pre_exec(move || set_pdeathsig(signal).map_err(std::io::Error::from));
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _last: LastSignal) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("the shell", command)
    }

    #[tokio::test]
    async fn both_outputs_are_kept_line_by_line() -> Result<()> {
        let mut process = shell("echo out; echo err >&2; printf '\\351\\n'")?;
        assert!(process.wait().await?.success());
        process.log().wait_for("err").await?;
        process.log().wait_for("out").await?;
        process.log().wait_for("\u{fffd}").await?;
        Ok(())
    }

    #[tokio::test]
    async fn an_early_end_is_told_with_the_last_lines() -> Result<()> {
        let mut process = shell("echo no such configuration; exit 3")?;
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
        let process = shell("echo $$; exec sleep 600")?;
        let id = process.id().to_string();
        process.log().wait_for(&id).await?;
        drop(process);
        let status = Command::new("kill").args(["-0", &id]).stderr(Stdio::null()).status()?;
        assert!(!status.success(), "process {id} still runs");
        Ok(())
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let seen = Process::start("blue", Command::new("no-such-program")).map_err(|error| error.to_string());
        assert!(seen.as_ref().is_err_and(|text| text.contains("no-such-program")), "{seen:?}");
    }
}
