//! A thread of a process that stands still, as one does that hangs.

use std::fs;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that stands still until this is dropped.
#[derive(Debug)]
pub struct StoppedThread {
    go_on: Option<Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

// === impl StoppedThread ===

impl StoppedThread {
    /// Stops the thread of process `id` that has this name, such as `wrk:worker_0`. A signal would stop the whole process;
    /// a tracer stops one thread.
    pub fn named(id: u32, name: &str) -> Result<Self> {
        let thread = find(id, name)?;
        let (go_on, waits) = mpsc::channel();
        let (stopped, is_stopped) = mpsc::channel();
        // What traces a thread is one thread of the tracer, from the beginning to the end.
        let tracer = thread::spawn(move || {
            let stop = || -> nix::Result<()> {
                ptrace::seize(thread, ptrace::Options::empty())?;
                ptrace::interrupt(thread)?;
                waitpid(thread, Some(WaitPidFlag::__WALL))?;
                Ok(())
            };
            let end = stop();
            let is_up = end.is_ok();
            if stopped.send(end).is_ok() && is_up {
                // Ends when the other end is dropped.
                let _: Result<(), mpsc::RecvError> = waits.recv();
                let _: nix::Result<()> = ptrace::detach(thread, None);
            }
        });
        is_stopped.recv().context("the tracer")?.with_context(|| format!("stopping thread {name} of {id}"))?;
        Ok(Self { go_on: Some(go_on), tracer: Some(tracer) })
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        drop(self.go_on.take());
        drop(self.tracer.take().map(JoinHandle::join));
    }
}

fn find(id: u32, name: &str) -> Result<Pid> {
    for entry in fs::read_dir(format!("/proc/{id}/task"))? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm"))?.trim_end() == name {
            return Ok(Pid::from_raw(entry.file_name().to_string_lossy().parse()?));
        }
    }
    Err(anyhow!("process {id} has no thread {name}"))
}
