//! Ctrl-C, SIGTERM and SIGHUP end everything that was started, grandchildren included.
//!
//! Every child leads a process group of its own, so that ending it takes along what it started: a killed cargo leaves no
//! test, a killed test no Envoy. Such a group gets no Ctrl-C from the terminal, hence the handler here.

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;

/// How long a child may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a shell reports for a command ended by Ctrl-C.
const EXIT_CODE: i32 = 130;

struct Running {
    ending: bool,
    groups: BTreeSet<i32>,
    cleanups: Vec<Box<dyn FnOnce() + Send>>,
}

static RUNNING: Mutex<Running> = Mutex::new(Running { ending: false, groups: BTreeSet::new(), cleanups: Vec::new() });

/// Installs the handler of the signals.
pub fn install() -> Result<()> {
    ctrlc::set_handler(end_everything).context("cannot handle signals")
}

/// Runs `cleanup` when a signal ends this process; at a normal end it does not run.
pub fn on_signal(cleanup: impl FnOnce() + Send + 'static) {
    running().cleanups.push(Box::new(cleanup));
}

/// Starts a child that leads a process group, and keeps account of it. The caller must [`forget`] the group in the end.
pub fn spawn(command: &mut Command) -> std::io::Result<(Child, Pid)> {
    let mut running = running();
    // Once the end has begun nothing new may start; the handler exits soon.
    if running.ending {
        drop(running);
        wait_for_exit();
    }
    let child = command.process_group(0).spawn()?;
    let group = Pid::from_raw(child.id().cast_signed());
    running.groups.insert(group.as_raw());
    Ok((child, group))
}

/// Ends what is left of a group whose leader has ended, and drops it from the account.
pub fn forget(group: Pid) {
    // "No such process" is the usual answer: the leader left nothing behind.
    let _ = killpg(group, Signal::SIGKILL);
    running().groups.remove(&group.as_raw());
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

fn end_everything() {
    let (groups, cleanups) = {
        let mut running = running();
        running.ending = true;
        (running.groups.clone(), std::mem::take(&mut running.cleanups))
    };
    let groups: Vec<Pid> = groups.into_iter().map(Pid::from_raw).collect();
    for group in &groups {
        let _ = killpg(*group, Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    while groups.iter().any(|group| killpg(*group, None).is_ok()) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    for group in &groups {
        let _ = killpg(*group, Signal::SIGKILL);
    }
    for cleanup in cleanups {
        cleanup();
    }
    eprintln!("interrupted: everything that was started has ended");
    std::process::exit(EXIT_CODE);
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
