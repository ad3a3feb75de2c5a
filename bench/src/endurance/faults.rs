//! What may go wrong around a fleet, and how it is made to.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::fleet::Line;
use bluegreen_testbed::{Fleet, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::chooser::Chooser;

/// Something that goes wrong. It is over when the round is.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// An Envoy is killed.
    KillEnvoy(usize),
    /// An Envoy stands still for a while.
    StopEnvoy(usize),
    /// A member of etcd is killed.
    KillMember(usize),
    /// Two members are killed: there is no quorum.
    KillQuorum(usize),
    /// A member of etcd stands still for a while.
    StopMember(usize),
    /// Connections between an Envoy and etcd are closed.
    Cut(usize),
    /// Nothing passes between an Envoy and etcd, and nobody is told.
    Silence(usize),
    /// An Envoy's wall clock is set ahead by so many seconds, or back.
    SetClock(usize, i64),
    /// There is no room left in etcd.
    Full,
    /// Listeners are pushed anew to all Envoys, with a configuration that changes nothing about traffic.
    Push,
    /// A configuration is pushed whose `initial` is another one: a write among the others.
    PushInitial,
}

/// How many kinds there are.
const KINDS: usize = 11;

/// The most room that etcd has, in MiB: the changes of a round take a tenth of it.
pub const QUOTA: usize = 12;

/// By how much clocks are set: an hour, and three centuries, as after a glitch.
const JUMPS: [i64; 3] = [3_600, -3_600, 300 * 365 * 86_400];

/// A fault that is going on: how it ends.
#[derive(Debug)]
pub enum Healing {
    Envoy(usize),
    Process(u32),
    Members(Vec<usize>),
    Line(usize),
    Clock(usize),
    Room,
    Nothing,
}

// === impl Fault ===

impl Fault {
    /// As many as there are kinds, each once, in some order.
    pub fn all(chooser: &mut Chooser, envoys: usize, members: usize) -> Vec<Self> {
        let all = (0..KINDS).map(|kind| {
            let (envoy, member) = (chooser.below(envoys), chooser.below(members));
            match kind {
                0 => Self::KillEnvoy(envoy),
                1 => Self::StopEnvoy(envoy),
                2 => Self::KillMember(member),
                3 => Self::KillQuorum(member),
                4 => Self::StopMember(member),
                5 => Self::Cut(envoy),
                6 => Self::Silence(envoy),
                7 => Self::Full,
                8 => Self::Push,
                9 => Self::SetClock(envoy, chooser.one_of(&JUMPS).unwrap_or_default()),
                _ => Self::PushInitial,
            }
        });
        let all = all.collect();
        chooser.shuffled(all)
    }

    /// Whether two can be at the same time: healing one needs nothing that the other takes away.
    pub fn goes_with(self, other: Self) -> bool {
        let of_etcd =
            |fault: Self| matches!(fault, Self::KillMember(_) | Self::KillQuorum(_) | Self::StopMember(_) | Self::Full);
        let of_an_envoy = |fault: Self| match fault {
            Self::KillEnvoy(index)
            | Self::StopEnvoy(index)
            | Self::Cut(index)
            | Self::Silence(index)
            | Self::SetClock(index, _) => Some(index),
            _ => None,
        };
        let of_a_push = |fault: Self| matches!(fault, Self::Push | Self::PushInitial);
        let same = |of: &dyn Fn(Self) -> bool| of(self) && of(other);
        !same(&of_etcd) && !same(&of_a_push) && (of_an_envoy(self).is_none() || of_an_envoy(self) != of_an_envoy(other))
    }

    /// Makes it so.
    pub async fn begin(self, fleet: &mut Fleet, watched: &mut Watched, round: usize) -> Result<Healing> {
        Ok(match self {
            Self::KillEnvoy(index) => {
                fleet.envoys.get_mut(index).context("no such Envoy")?.kill()?;
                Healing::Envoy(index)
            }
            Self::StopEnvoy(index) => stop(fleet.envoy(index)?.id())?,
            Self::KillMember(index) => {
                fleet.etcd.kill(index)?;
                Healing::Members(vec![index])
            }
            Self::KillQuorum(index) => {
                let other = (index + 1) % fleet.etcd.members();
                fleet.etcd.kill(index)?;
                fleet.etcd.kill(other)?;
                Healing::Members(vec![index, other])
            }
            Self::StopMember(index) => stop(fleet.etcd.id(index)?)?,
            Self::Cut(index) => {
                fleet.set_line(index, Line::Cut);
                Healing::Line(index)
            }
            Self::Silence(index) => {
                fleet.set_line(index, Line::Silent);
                Healing::Line(index)
            }
            Self::SetClock(index, seconds) => {
                fleet.envoy(index)?.set_clock(seconds)?;
                Healing::Clock(index)
            }
            Self::Full => {
                fill(fleet)?;
                Healing::Room
            }
            Self::Push => {
                let interval = format!("{}ms", 2_000 + round);
                watched.deliver(|listeners| {
                    listeners.deployment("iris", |iris| iris["probe"]["interval"] = json!(interval))
                })?;
                Healing::Nothing
            }
            Self::PushInitial => {
                let active = if round.is_multiple_of(2) { "green" } else { "blue" };
                let initial = json!({"active": active, "canary_percent": 1 + round % 50});
                watched.deliver(|listeners| listeners.deployment("iris", |iris| iris["initial"] = initial.clone()))?;
                Healing::Nothing
            }
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillEnvoy(index) => write!(f, "kill -9 of Envoy {index}"),
            Self::StopEnvoy(index) => write!(f, "SIGSTOP of Envoy {index}"),
            Self::KillMember(index) => write!(f, "kill -9 of etcd {index}"),
            Self::KillQuorum(index) => write!(f, "kill -9 of etcd {index} and the next"),
            Self::StopMember(index) => write!(f, "SIGSTOP of etcd {index}"),
            Self::Cut(index) => write!(f, "Envoy {index} cut off"),
            Self::Silence(index) => write!(f, "silence before Envoy {index}"),
            Self::SetClock(index, seconds) => write!(f, "the clock of Envoy {index} set by {seconds} s"),
            Self::Full => write!(f, "etcd full"),
            Self::Push => write!(f, "listeners pushed"),
            Self::PushInitial => write!(f, "another initial pushed"),
        }
    }
}

// === impl Healing ===

impl Healing {
    /// Ends the fault.
    pub async fn end(self, fleet: &mut Fleet) -> Result<()> {
        match self {
            Self::Envoy(index) => fleet.envoys.get_mut(index).context("no such Envoy")?.restart().await?,
            Self::Process(id) => signal(id, Signal::SIGCONT)?,
            Self::Members(all) => {
                for index in all {
                    fleet.etcd.restart(index).await?;
                }
            }
            Self::Line(index) => fleet.set_line(index, Line::Open),
            Self::Clock(index) => fleet.envoy(index)?.set_clock(0)?,
            Self::Room => make_room(fleet).await?,
            Self::Nothing => {}
        }
        Ok(())
    }
}

fn stop(process: u32) -> Result<Healing> {
    signal(process, Signal::SIGSTOP)?;
    Ok(Healing::Process(process))
}

fn signal(process: u32, signal: Signal) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(process)?);
    kill(process, signal).with_context(|| format!("{signal} to process {process}"))
}

/// Writes until etcd takes no more.
fn fill(fleet: &Fleet) -> Result<()> {
    let junk = "x".repeat(100_000);
    for number in 0..QUOTA * 12 {
        if fleet.etcd.put(&format!("junk/{number}"), &junk).is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("etcd takes more than its quota")
}

/// Has etcd give room back. It stays full until it is told that it is not.
async fn make_room(fleet: &Fleet) -> Result<()> {
    let etcd = &fleet.etcd;
    let room = || async {
        etcd.ctl(&["del", "--prefix", "junk/"])?;
        compact(fleet)?;
        etcd.ctl(&["alarm", "disarm"])?;
        etcd.put("junk/room", "is there")
    };
    wait::until("room in etcd", room, |()| true).await
}

/// Forgets the former values, and gives their room back.
pub fn compact(fleet: &Fleet) -> Result<()> {
    // That there is nothing to compact is no fault.
    let _ = fleet.etcd.compact();
    fleet.etcd.ctl(&["defrag"]).map(drop)
}

/// How long faults last.
pub const LASTS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(4_000));
