//! A child with what it started, and the end of all children when a signal ends this process.
//!
//! A child that leads a process group takes along what it started: a killed cargo leaves no test, a killed test no
//! Envoy. Such a group gets no Ctrl-C from the terminal, hence the handler here.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use shared_child::SharedChild;
use shared_child::unix::SharedChildExt;

/// How long a child may take to end on SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a shell reports for a command ended by Ctrl-C.
const EXIT_CODE: i32 = 130;

/// A child; dropping it ends it, and its process group when it leads one.
#[derive(Debug)]
pub struct Group {
    child: Arc<SharedChild>,
    leads: bool,
}

/// The signal that ends a child when this process is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSignal {
    /// SIGKILL: nothing is left to chance.
    Kill,
    /// SIGTERM: for a child that has children of its own, which it then ends.
    Terminate,
}

struct Running {
    handles_signals: bool,
    ending: bool,
    /// The leaders of process groups, by process id.
    leaders: BTreeMap<u32, Arc<SharedChild>>,
}

static RUNNING: Mutex<Running> =
    Mutex::new(Running { handles_signals: false, ending: false, leaders: BTreeMap::new() });

/// A command to start, and where to send the child.
type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that starts children: `PR_SET_PDEATHSIG` is tied to the thread that started the child, so that has to be
/// one that lives as long as this process.
static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, started) in inbox {
            // The one who ordered may have gone; the child is then dropped, and nobody can own it.
            if let Err(mpsc::SendError(Ok(mut orphan))) = started.send(command.spawn()) {
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    orders
});

/// Has Ctrl-C, SIGTERM and SIGHUP end every child that leads a group, grandchildren included, and then this process.
pub fn end_all_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        let leaders: Vec<_> = {
            let mut running = running();
            running.ending = true;
            running.leaders.values().cloned().collect()
        };
        end(&leaders);
        eprintln!("interrupted: everything that was started has ended");
        std::process::exit(EXIT_CODE);
    })
    .context("cannot handle signals")?;
    running().handles_signals = true;
    Ok(())
}

/// Does not return once a signal has come: a child ended by the signal must not be reported as a failure.
pub fn wait_for_exit_if_ending() {
    let ending = running().ending;
    if ending {
        wait_for_exit();
    }
}

fn wait_for_exit() -> ! {
    loop {
        thread::park();
    }
}

/// SIGTERM for all, and SIGKILL for what is left after [`GRACE`].
fn end(leaders: &[Arc<SharedChild>]) {
    for leader in leaders {
        let _ = killpg(id(leader), Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    // A leader that nobody has waited for would keep its group in existence.
    let remains = |leader: &Arc<SharedChild>| leader.try_wait().is_err() || killpg(id(leader), None).is_ok();
    while leaders.iter().any(remains) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    for leader in leaders {
        let _ = killpg(id(leader), Signal::SIGKILL);
    }
}

fn id(child: &SharedChild) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Group ===

impl Group {
    /// Starts a child that leads a process group.
    pub fn lead(command: Command, last: LastSignal) -> io::Result<Self> {
        Self::start(command, last, true)
    }

    /// Starts a child that leads a process group where the handler of signals can end that, and else belongs to this
    /// process's group: the end of that group, which a task brings about for its tests, is the child's end too.
    pub fn join(command: Command, last: LastSignal) -> io::Result<Self> {
        let leads = running().handles_signals;
        Self::start(command, last, leads)
    }

    fn start(mut command: Command, last: LastSignal, leads: bool) -> io::Result<Self> {
        if leads {
            command.process_group(0);
        }
        die_with_parent(&mut command, last);
        let mut running = running();
        // Once the end has begun nothing new may start; the handler exits soon.
        if running.ending {
            drop(running);
            wait_for_exit();
        }
        let gone = || io::Error::other("the thread that starts processes has ended");
        let (started, child) = mpsc::channel();
        STARTER.send((command, started)).map_err(|_| gone())?;
        let child = Arc::new(SharedChild::new(child.recv().map_err(|_| gone())??)?);
        if leads {
            running.leaders.insert(child.id(), Arc::clone(&child));
        }
        Ok(Self { child, leads })
    }

    /// The child itself.
    pub fn child(&self) -> &SharedChild {
        &self.child
    }

    /// Signals the child, and its group when it leads one. That it has ended already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.leads {
            // "No such process": the leader has ended and left nothing behind.
            let _ = killpg(id(&self.child), signal);
            return Ok(());
        }
        self.child.send_signal(signal as i32)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
        running().leaders.remove(&self.child.id());
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, last: LastSignal) {
    use nix::sys::prctl::set_pdeathsig;

    let signal = match last {
        LastSignal::Kill => Signal::SIGKILL,
        LastSignal::Terminate => Signal::SIGTERM,
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a plain system call and the
    // conversion of its error allocates nothing.
    unsafe {
        command.pre_exec(move || set_pdeathsig(signal).map_err(io::Error::from));
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _last: LastSignal) {}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Group {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Group::lead(command, LastSignal::Kill).unwrap()
    }

    fn runs(group: &Group) -> bool {
        killpg(id(&group.child), None).is_ok()
    }

    #[test]
    fn the_end_of_all_takes_no_longer_than_they_need() {
        let groups = [shell("exec sleep 600"), shell("exec sleep 600")];
        assert!(groups.iter().all(runs));
        let began = Instant::now();
        end(&groups.each_ref().map(|group| Arc::clone(&group.child)));
        assert!(began.elapsed() < GRACE, "{:?}", began.elapsed());
        assert!(!groups.iter().any(runs));
    }

    #[test]
    fn dropping_a_group_ends_its_leader() {
        let group = shell("exec sleep 600");
        let leader = id(&group.child);
        assert!(runs(&group));
        drop(group);
        assert!(killpg(leader, None).is_err(), "{leader} is still there");
    }

    #[test]
    fn without_a_handler_of_signals_a_child_stays_in_this_process_group() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let group = Group::join(command, LastSignal::Kill).unwrap();
        assert_eq!(nix::unistd::getpgid(Some(id(&group.child))), nix::unistd::getpgid(None));
        group.signal(Signal::SIGTERM).unwrap();
        assert!(group.child().wait().is_ok_and(|status| !status.success()));
    }
}
