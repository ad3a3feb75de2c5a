//! Millions of requests through one Envoy while everything changes: at the end the filter's counts are the upstreams' own and
//! the clients', nothing is in flight, and memory has not grown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_programs::Progress;
use bluegreen_programs::prepared::Prepared;
use bluegreen_programs::wait;
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::proc;
use bluegreen_testbed::{Admin, Bootstrap, Envoy};
use clap::Args;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::chooser::Chooser;
use super::client::{Answer, Connection};
use super::counting::{Arrivals, Counting, UNANSWERED};

/// How much to count.
#[derive(Args)]
pub struct Options {
    /// How many requests; ten million if not said
    #[arg(long)]
    requests: Option<u64>,
    /// Only as many as take some seconds, by an unoptimised client
    #[arg(long)]
    quick: bool,
    /// Where the changes of canary and shadow come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    begun: AtomicU64,
    ended: AtomicU64,
    aborted: AtomicU64,
    answered: Mutex<BTreeMap<String, u64>>,
    is_over: AtomicBool,
}

/// How much memory Envoy has, in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    linear: u64,
}

const IRIS: &str = "iris";
const WORKERS: u32 = 2;
const CONNECTIONS: usize = 24;
/// One request in so many is left by its client once it has reached the model server.
const ABORTED: u64 = 50;
/// A change comes after so long.
const BETWEEN_CHANGES: Duration = Duration::from_millis(150);
/// By a fifth of the requests every table and pool has its size; from then on memory may grow by so much.
const RESIDENT_GROWTH: u64 = 16 << 20;
const LINEAR_GROWTH: u64 = 1 << 20;

/// How many requests if nobody says: in a run that counts, and in one of some seconds.
const REQUESTS: u64 = 10_000_000;
const QUICK: u64 = 50_000;

/// Counts.
pub async fn run(prepared: &Prepared, options: &Options) -> Result<()> {
    let requests = options.requests.unwrap_or(if options.quick { QUICK } else { REQUESTS });
    let arrivals = Arrivals::default();
    let (blue, green) = (Counting::start(&arrivals).await?, Counting::start(&arrivals).await?);
    let bootstrap = Bootstrap::shipped()?
        .with_wasm(&prepared.module)
        .with_cluster("blue", blue.address)
        .with_cluster("green", green.address)
        // Its requests to the model servers are its own, and the servers tell them by nothing.
        .deployment(IRIS, |iris| iris["probe"] = serde_json::Value::Null)
        .deployment(IRIS, without_nulls);
    let envoy = Envoy::with(bootstrap).binary(&prepared.envoy).concurrency(WORKERS).start().await?;
    let progress = Progress::start(format!("{requests} requests through switches, canaries, shadows and aborts"));
    let began = Instant::now();
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(client(envoy.traffic()?, Arc::clone(&seen), Arc::clone(&arrivals), requests));
    }
    let changes = tokio::spawn(change(envoy.admin()?, Arc::clone(&seen), options.seed));
    let memory = memory_over_time(&envoy, &seen, requests, &progress);
    let (memory, clients) = tokio::join!(memory, async {
        while let Some(client) = clients.join_next().await {
            client.context("a client")??;
        }
        anyhow::Ok(())
    });
    seen.is_over.store(true, Ordering::SeqCst);
    clients?;
    let changes = changes.await.context("the changes")??;
    let took = began.elapsed();
    let (middle, end) = memory?;
    judge(&envoy, &seen, [("blue", &blue), ("green", &green)]).await?;
    let aborted = seen.aborted.load(Ordering::SeqCst);
    progress.done(&format!(
        "{requests} requests, {aborted} of them left by their clients, {} copies, {changes} changes: {:.0} requests a second",
        blue.copies() + green.copies(),
        requests as f64 / took.as_secs_f64(),
    ));
    println!("every count is the same: the filter's, the upstreams' and the clients'; nothing is in flight");
    println!("memory after a fifth of the requests: {}, at the end: {}", middle.describe(), end.describe());
    let grown = |now: u64, then: u64| now.saturating_sub(then);
    ensure!(
        grown(end.resident, middle.resident) <= RESIDENT_GROWTH && grown(end.linear, middle.linear) <= LINEAR_GROWTH,
        "Envoy's memory has grown by more than {} MiB resident, {} MiB linear",
        RESIDENT_GROWTH >> 20,
        LINEAR_GROWTH >> 20
    );
    Ok(())
}

fn without_nulls(section: &mut serde_json::Value) {
    if let Some(members) = section.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
}

/// One client on one connection, and another connection for each request that it leaves.
async fn client(envoy: std::net::SocketAddr, seen: Arc<Seen>, arrivals: Arrivals, requests: u64) -> Result<()> {
    let mut connection = Connection::open(envoy).await?;
    let mut answered: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let number = seen.begun.fetch_add(1, Ordering::SeqCst);
        if number >= requests {
            break;
        }
        if number.is_multiple_of(ABORTED) {
            leave(envoy, number, &arrivals).await?;
            seen.aborted.fetch_add(1, Ordering::SeqCst);
        } else {
            connection.send("/invocations").await?;
            let Answer { status, colour } = connection.answer().await?;
            let colour = colour.with_context(|| format!("request {number}: an answer {status} of no colour"))?;
            ensure!(status == 200, "request {number} was answered {status}");
            *answered.entry(colour).or_default() += 1;
        }
        seen.ended.fetch_add(1, Ordering::SeqCst);
    }
    let mut all = seen.answered.lock().unwrap_or_else(PoisonError::into_inner);
    for (colour, count) in answered {
        *all.entry(colour).or_default() += count;
    }
    Ok(())
}

/// Sends a request that is never answered, and goes once it has arrived.
async fn leave(envoy: std::net::SocketAddr, number: u64, arrivals: &Arrivals) -> Result<()> {
    let (sender, arrived) = oneshot::channel();
    arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert(number.to_string(), sender);
    let mut connection = Connection::open(envoy).await?;
    connection.send(&format!("{UNANSWERED}{number}")).await?;
    let arrived = tokio::time::timeout(wait::PATIENCE, arrived).await;
    arrived.with_context(|| format!("request {number} has not arrived"))?.context("the upstream has ended")
}

/// Switches, and sets canary and shadow, until the clients are done. How often.
async fn change(admin: Admin, seen: Arc<Seen>, seed: u64) -> Result<u64> {
    let mut chooser = Chooser::new(seed);
    let mut changes = 0;
    while !seen.is_over.load(Ordering::SeqCst) {
        let colour = chooser.one_of(&["blue", "green"]).unwrap_or("blue");
        let share = chooser.one_of(&["0", "0.5", "12.5", "50", "100"]).unwrap_or("0");
        let copies = chooser.one_of(&["0", "1", "10"]).unwrap_or("0");
        let parameters = [("active", colour), ("canary_percent", share), ("shadow_percent", copies)];
        let reply = admin.patching(IRIS).query(&parameters).force().send().await?;
        ensure!(matches!(reply.status, 200 | 202), "a change was refused: {reply:?}");
        changes += 1;
        tokio::time::sleep(BETWEEN_CHANGES).await;
    }
    Ok(changes)
}

/// Memory after a fifth of the requests, and at their end.
async fn memory_over_time(envoy: &Envoy, seen: &Seen, requests: u64, progress: &Progress) -> Result<(Memory, Memory)> {
    let mut middle = None;
    loop {
        let ended = seen.ended.load(Ordering::SeqCst);
        progress.detail(&format!("{ended}"));
        if middle.is_none() && ended >= requests / 5 {
            middle = Some(Memory::of(envoy)?);
        }
        // A client that has failed ends no more requests, and the others go on.
        if seen.begun.load(Ordering::SeqCst) >= requests {
            return Ok((middle.unwrap_or(Memory::of(envoy)?), Memory::of(envoy)?));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Compares all counts.
async fn judge(envoy: &Envoy, seen: &Seen, upstreams: [(&str, &Counting); 2]) -> Result<()> {
    let admin = envoy.admin()?;
    let idle = |state: &Deployment| state.colours.values().all(|colour| colour.in_flight == 0);
    let state = wait::until("nothing in flight", || admin.deployment(IRIS), idle).await?;
    let routed: u64 = state.workers.iter().map(|worker| worker.routed).sum();
    let total: u64 = upstreams.iter().map(|(_, upstream)| upstream.requests()).sum();
    ensure!(routed == total, "the workers have routed {routed} requests, and {total} have come");
    let expected = seen.ended.load(Ordering::SeqCst);
    ensure!(total == expected, "{expected} requests were sent, and {total} have come");

    let answered = seen.answered.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut left = 0;
    for (colour, upstream) in upstreams {
        let clients = answered.get(colour).copied().unwrap_or(0);
        // The workers show what they have counted a tick later.
        let counted = || async {
            let samples = envoy.prometheus().await?;
            let labels = [("deployment", IRIS), ("colour", colour)];
            let value = |name: &str, class: Option<&str>| {
                let labels: Vec<_> = labels.into_iter().chain(class.map(|class| ("class", class))).collect();
                samples.value(name, &labels).unwrap_or(0.0) as u64
            };
            let all: Vec<_> = samples.named("bluegreen_responses_total").into_iter().cloned().collect();
            let ended = all.iter().filter(|sample| sample.has(&labels)).map(|sample| sample.value as u64).sum::<u64>();
            let (ok, none) =
                (value("bluegreen_responses_total", Some("2xx")), value("bluegreen_responses_total", Some("none")));
            Ok((value("bluegreen_requests_total", None), ok, none, ended))
        };
        let requests = upstream.requests();
        let wanted = (requests, clients, requests.saturating_sub(clients), requests);
        wait::until(&format!("{colour}'s counts, {wanted:?}"), counted, |seen| *seen == wanted).await?;
        left += wanted.2;
    }
    let aborted = seen.aborted.load(Ordering::SeqCst);
    ensure!(left == aborted, "{aborted} clients left, and {left} requests have no answer");
    Ok(())
}

// === impl Memory ===

impl Memory {
    fn of(envoy: &Envoy) -> Result<Self> {
        let linear = proc::linear_memories(envoy.id())?.iter().sum();
        Ok(Self { resident: proc::resident(envoy.id())?, linear })
    }

    fn describe(self) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        format!("{:.1} MiB resident, {:.2} MiB linear", mebibytes(self.resident), mebibytes(self.linear))
    }
}
