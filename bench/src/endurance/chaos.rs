//! Everything around a fleet goes wrong, in an order that a seed gives, while several writers write to all its Envoys. After
//! each round no acknowledged write is lost, none is doubled, and what each Envoy's API says is what its clients get.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bluegreen_programs::prepared::Prepared;
use bluegreen_programs::wait;
use bluegreen_testbed::admin::{Deployment, Reply};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{Admin, Etcd, Fleet, Load, Upstream};
use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::chooser::Chooser;
use super::faults::{self, Fault};
use super::ledger::{Ledger, Told};

/// How much to break.
#[derive(Args)]
pub struct Options {
    /// What decides which faults come when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many rounds, each of one or two faults
    #[arg(long)]
    rounds: Option<usize>,
    /// A few rounds only
    #[arg(long)]
    quick: bool,
}

/// A fleet, what stands around it, and what was written.
struct Chaos {
    fleet: Fleet,
    watched: Watched,
    upstreams: BTreeMap<&'static str, Upstream>,
    ledger: Ledger,
    chooser: Chooser,
    /// Numbers the writes: each has a reason of its own.
    writes: Arc<AtomicUsize>,
}

const IRIS: &str = "iris";
const ENVOYS: usize = 3;
const WRITERS: usize = 6;
/// The history keeps fifty changes, and those of a round have to be among them, with the pushed ones.
const WRITES_A_ROUND: usize = 40;
const PAUSE: Duration = Duration::from_millis(120);
/// A writer hears nothing from an Envoy that stands still.
const WRITER_WAITS: Duration = Duration::from_secs(9);
/// After a fault Envoys start, etcd elects, and what was sent before is carried out: on a busy machine that takes a while.
const RECOVERY: Duration = Duration::from_secs(60);
/// Requests to each Envoy after a round.
const REQUESTS: u64 = 60;
const ROUNDS: usize = 24;
const QUICK: usize = 3;

/// Breaks everything.
pub async fn run(prepared: &Prepared, options: &Options) -> Result<()> {
    bluegreen_programs::etcd::obtain()?;
    let rounds = options.rounds.unwrap_or(if options.quick { QUICK } else { ROUNDS });
    let mut chaos = Chaos::begin(prepared, options.seed).await?;
    let mut waiting: Vec<Fault> = Vec::new();
    for round in 1..=rounds {
        if waiting.len() < 2 {
            let more = Fault::all(&mut chaos.chooser, ENVOYS, chaos.fleet.etcd.members());
            waiting.extend(more);
        }
        let faults = drawn(&mut waiting, chaos.chooser.below(2) == 0);
        let told = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(", ");
        println!("round {round}: {told}");
        if let Err(error) = chaos.round(round, &faults).await {
            chaos.show_logs();
            bail!("seed {}, round {round} ({told}): {error:#}", options.seed);
        }
    }
    let of = |told: fn(&Told) -> bool| chaos.ledger.count(told);
    println!(
        "seed {}, {rounds} rounds: {} writes acknowledged, {} refused, {} without an answer; none lost, none doubled",
        options.seed,
        of(|told| matches!(told, Told::Made(_))),
        of(|told| *told == Told::Refused),
        of(|told| *told == Told::Nothing),
    );
    Ok(())
}

/// The next fault, and another one that can be at the same time.
fn drawn(waiting: &mut Vec<Fault>, two: bool) -> Vec<Fault> {
    let mut faults: Vec<Fault> = waiting.pop().into_iter().collect();
    if two && let Some(place) = waiting.iter().position(|other| faults.iter().all(|fault| fault.goes_with(*other))) {
        faults.push(waiting.remove(place));
    }
    faults
}

// === impl Chaos ===

impl Chaos {
    async fn begin(prepared: &Prepared, seed: u64) -> Result<Self> {
        let mut upstreams = BTreeMap::new();
        for colour in ["blue", "green"] {
            upstreams.insert(colour, Upstream::start(colour).await?);
        }
        let mut watched = Watched::lds()?;
        watched.deliver(|listeners| {
            let listeners = listeners.with_wasm(&prepared.module);
            listeners.plugin(|plugin| plugin["etcd"] = serde_json::json!({"cluster": "etcd"}))
        })?;
        let mut bootstrap = watched.bootstrap();
        for (colour, upstream) in &upstreams {
            bootstrap = bootstrap.with_cluster(colour, upstream.address());
        }
        let quota = (faults::QUOTA << 20).to_string();
        let etcd = Etcd::with(3, &["--quota-backend-bytes", &quota]).await?;
        let fleet = Fleet::on(etcd, ENVOYS, &bootstrap, |options| options.binary(&prepared.envoy).fake_clock()).await?;
        let chooser = Chooser::new(seed);
        Ok(Self { fleet, watched, upstreams, ledger: Ledger::default(), chooser, writes: Arc::default() })
    }

    async fn round(&mut self, round: usize, faults: &[Fault]) -> Result<()> {
        let admins = (0..ENVOYS).map(|index| self.fleet.admin(index)).collect::<Result<Vec<_>>>()?;
        let loads = self.start_loads()?;
        let left = Arc::new(AtomicUsize::new(WRITES_A_ROUND));
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let admin = admins.get(writer % ENVOYS).context("no such Envoy")?.clone();
            writers.spawn(write(admin, Arc::clone(&left), Arc::clone(&self.writes), Arc::clone(&told)));
        }
        let mut healings = Vec::new();
        for fault in faults {
            sleep(self.chooser.between(Duration::ZERO, PAUSE * 4)).await;
            healings.push(
                fault.begin(&mut self.fleet, &mut self.watched, round).await.with_context(|| format!("{fault}"))?,
            );
        }
        sleep(self.chooser.between(faults::LASTS.0, faults::LASTS.1)).await;
        for healing in healings {
            healing.end(&mut self.fleet).await.context("the fault could not be ended")?;
        }
        while let Some(writer) = writers.join_next().await {
            writer.context("a writer")?;
        }
        for (reason, told) in std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.ledger.note(reason, told);
        }
        for load in loads {
            // What was under way when an Envoy was killed has no answer; what has one tells the truth.
            load.stop().await.ensure_truthful()?;
        }
        self.settle().await?;
        self.compare().await?;
        faults::compact(&self.fleet)
    }

    /// Traffic beside the writes.
    fn start_loads(&self) -> Result<Vec<bluegreen_testbed::load::Running>> {
        let load = |envoy: &bluegreen_testbed::Envoy| {
            let load = Load::new(envoy.traffic()?, "/invocations").connections(1).rate(50.0);
            Ok(load.request_timeout(Duration::from_secs(2)).start())
        };
        self.fleet.envoys.iter().map(load).collect()
    }

    /// Waits until all Envoys are at one revision, all their workers follow it, and no write is on its way.
    async fn settle(&mut self) -> Result<()> {
        for envoy in &mut self.fleet.envoys {
            envoy.ensure_running()?;
        }
        let mut last = None;
        let fleet = &self.fleet;
        let states = || async {
            let mut states = Vec::new();
            for index in 0..ENVOYS {
                ensure!(
                    fleet.admin(index)?.anonymous().get("/readyz").await?.status == 200,
                    "Envoy {index} is not ready"
                );
                states.push(fleet.admin(index)?.deployment(IRIS).await?);
            }
            let settings = states.iter().map(settings).collect::<Vec<_>>();
            ensure!(settings.iter().all(|one| settings.first() == Some(one)), "the Envoys differ: {settings:?}");
            for state in &states {
                let all = state.in_force.confirmed == state.in_force.of && state.in_force.revision == state.revision;
                ensure!(all && state.in_force.of > 0 && state.stale != Some(true), "{:?}", state.in_force);
            }
            settings.into_iter().next().context("no Envoy")
        };
        loop {
            let now = wait::until_within(RECOVERY, "Envoys that agree", states, |_| true).await?;
            // A write that its Envoy had not read before it stood still is made now.
            if last.as_ref() == Some(&now) {
                return Ok(());
            }
            last = Some(now);
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Compares what the histories say with what the writers were told, and what the APIs say with what clients get.
    async fn compare(&mut self) -> Result<()> {
        let mut revision = 0;
        for index in 0..ENVOYS {
            let admin = self.fleet.admin(index)?;
            revision = admin.deployment(IRIS).await?.revision;
            self.ledger.take_in(&format!("Envoy {index}"), &admin.history(IRIS).await?)?;
        }
        self.ledger.judge(revision)?;

        // Without canary and copies each request shows where the traffic goes.
        let index = self.chooser.below(ENVOYS);
        let colour = self.chooser.one_of(&["blue", "green"]).unwrap_or("blue");
        let reason = format!("after revision {revision}");
        let parameters = [("active", colour), ("canary_percent", "0"), ("shadow_percent", "0"), ("reason", &reason)];
        let reply = self.fleet.admin(index)?.patching(IRIS).query(&parameters).force().send().await?;
        let state = reply.in_force().context("the write after the round")?;
        self.fleet.until_at(IRIS, state.revision).await?;
        self.settle().await?;
        let before = self.requests();
        for index in 0..ENVOYS {
            let load = Load::new(self.fleet.envoy(index)?.traffic()?, "/invocations").connections(6).at_most(REQUESTS);
            let report = load.run().await;
            report.ensure_no_failures()?;
            report.ensure_truthful()?;
            let shown = self.fleet.admin(index)?.deployment(IRIS).await?.active;
            ensure!(
                shown == colour && report.count(colour) == REQUESTS,
                "Envoy {index} shows {shown}, {colour} was acknowledged, and clients get {:?}",
                report.colours()
            );
        }
        for (name, count) in self.requests() {
            let new = count - before.get(name).copied().unwrap_or(0);
            let expected = if name == colour { REQUESTS * ENVOYS as u64 } else { 0 };
            ensure!(new == expected, "{name} has got {new} requests, {expected} were sent there");
        }
        for (index, envoy) in self.fleet.envoys.iter().enumerate() {
            for sign in ["Function: proxy_on_", "panicked at", "in-VM backtrace"] {
                ensure!(envoy.log().lines_with(sign).is_empty(), "the filter of Envoy {index} has trapped");
            }
        }
        Ok(())
    }

    fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.upstreams.iter().map(|(name, upstream)| (*name, upstream.requests())).collect()
    }

    fn show_logs(&self) {
        for (index, envoy) in self.fleet.envoys.iter().enumerate() {
            eprintln!("Envoy {index}'s log ends with:\n{}", envoy.log().tail(25));
        }
    }
}

/// What all Envoys have to say alike.
fn settings(state: &Deployment) -> (u64, String, String) {
    let shares = format!("{}/{}", state.canary_percent, state.shadow_percent);
    (state.revision, state.active.clone(), shares)
}

/// Writes until the round has no writes left.
async fn write(admin: Admin, left: Arc<AtomicUsize>, writes: Arc<AtomicUsize>, told: Arc<Mutex<Vec<(String, Told)>>>) {
    let is_left = |left: usize| left.checked_sub(1);
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok() {
        let number = writes.fetch_add(1, Ordering::SeqCst);
        let reason = format!("write {number}");
        // A share that no other write near it has: each is a change.
        let share = format!("{}.{:02}", number % 10_000 / 100, number % 100);
        let colour = if number.is_multiple_of(2) { "green" } else { "blue" };
        let parameters = [("active", colour), ("canary_percent", "0"), ("shadow_percent", &share), ("reason", &reason)];
        let reply = timeout(WRITER_WAITS, admin.patching(IRIS).query(&parameters).force().send()).await;
        let outcome = match reply {
            Ok(Ok(reply)) => understood(&reply, &reason),
            Ok(Err(_)) | Err(_) => Told::Nothing,
        };
        told.lock().unwrap_or_else(PoisonError::into_inner).push((reason, outcome));
        sleep(PAUSE).await;
    }
}

/// What an answer says about the write with this reason.
fn understood(reply: &Reply, reason: &str) -> Told {
    match reply.status {
        200 | 202 => match reply.deployment() {
            Ok(state) if state.reason.as_deref() == Some(reason) => Told::Made(state.revision),
            // An acknowledgement of something else: it is looked for under a number that there is not.
            _ => Told::Made(u64::MAX),
        },
        400..=499 => Told::Refused,
        503 if reply.text.contains("urn:bluegreen:problem:") => Told::Refused,
        _ => Told::Nothing,
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, text: &str) -> Reply {
        Reply { status, headers: BTreeMap::new(), text: text.to_owned() }
    }

    #[test]
    fn only_the_filters_own_refusal_says_that_nothing_was_made() {
        assert_eq!(
            understood(&reply(503, r#"{"type": "urn:bluegreen:problem:store-unavailable"}"#), "a"),
            Told::Refused
        );
        assert_eq!(understood(&reply(503, "no healthy upstream"), "a"), Told::Nothing);
        assert_eq!(understood(&reply(504, r#"{"type": "urn:bluegreen:problem:outcome-unknown"}"#), "a"), Told::Nothing);
        assert_eq!(understood(&reply(409, "{}"), "a"), Told::Refused);
        assert_eq!(understood(&reply(200, "{}"), "a"), Told::Made(u64::MAX));
    }

    #[test]
    fn two_faults_at_a_time_do_not_stand_in_each_others_way() {
        let mut chooser = Chooser::new(3);
        for _ in 0..20 {
            let mut waiting = Fault::all(&mut chooser, ENVOYS, 3);
            while !waiting.is_empty() {
                match drawn(&mut waiting, true).as_slice() {
                    [one, other] => assert!(one.goes_with(*other) && other.goes_with(*one), "{one}, {other}"),
                    faults => assert_eq!(faults.len(), 1),
                }
            }
        }
    }
}
