//! Four Envoys and three members of etcd: one record, whoever writes and whatever fails. The module may have what the
//! installation guide lists and nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Change, Deployment, Reply};
use bluegreen_testbed::capabilities::{documented, restrict};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::fleet::Line;
use bluegreen_testbed::{Bootstrap, Fleet, Load, Upstream, wait};
use bluegreen_tests::{IRIS, PATH};
use serde_json::json;
use tokio::task::JoinSet;

const ENVOYS: usize = 4;
const KEY: &str = "/bluegreen/iris";

/// A fleet and its model servers.
struct Stage {
    fleet: Fleet,
    models: [Upstream; 2],
}

// === impl Stage ===

impl Stage {
    async fn new(envoys: usize) -> Result<Self> {
        Self::with(envoys, restrict(Bootstrap::shipped()?, &documented()?)?).await
    }

    async fn with(envoys: usize, bootstrap: Bootstrap) -> Result<Self> {
        let models = [Upstream::start("blue").await?, Upstream::start("green").await?];
        let bootstrap = bootstrap.with_cluster("blue", models[0].address()).with_cluster("green", models[1].address());
        let fleet = Fleet::start(envoys, &bootstrap, |options| options).await?;
        Ok(Self { fleet, models })
    }

    fn load(&self, index: usize) -> Result<Load> {
        Ok(Load::new(self.fleet.envoy(index)?.traffic()?, PATH).connections(1))
    }

    async fn history(&self, index: usize) -> Result<Vec<Change>> {
        self.fleet.admin(index)?.history(IRIS).await
    }

    /// Promotes or rolls back through one Envoy, whichever makes a change; must succeed.
    async fn switch(&self, index: usize) -> Result<u64> {
        Ok(self.fleet.admin(index)?.promote(IRIS).await?.revision)
    }

    async fn try_switch(&self, index: usize) -> Result<Reply> {
        self.fleet.admin(index)?.promoting(IRIS).send().await
    }

    fn ensure_no_trap(&self) -> Result<()> {
        for (index, envoy) in self.fleet.envoys.iter().enumerate() {
            for sign in ["Function: proxy_on_", "panicked at", "Proxy-Wasm plugin in-VM backtrace"] {
                let lines = envoy.log().lines_with(sign);
                ensure!(lines.is_empty(), "the filter of Envoy {index} trapped: {lines:#?}");
            }
        }
        Ok(())
    }
}

/// Waits until an Envoy's API says that it may be behind, or that it is not.
async fn until_stale(stage: &Stage, index: usize, stale: bool) -> Result<Duration> {
    let (admin, began) = (stage.fleet.admin(index)?, Instant::now());
    let what = format!("stale: {stale} on Envoy {index}");
    wait::until(&what, || admin.deployment(IRIS), |state| state.stale == Some(stale)).await?;
    Ok(began.elapsed())
}

fn ensure_refused(reply: &Reply) -> Result<()> {
    let refused = reply.status == 503 && reply.text.contains("Nothing was changed");
    ensure!(refused, "a write without a quorum was answered {reply:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_on_one_envoy_reaches_all_four() -> Result<()> {
    let stage = Stage::new(ENVOYS).await?;
    let mut loads = Vec::new();
    for index in 0..ENVOYS {
        loads.push(stage.load(index)?.start());
    }
    for load in &loads {
        load.more(50).await?;
    }
    stage.switch(0).await?;
    let answered = Instant::now();
    for load in &loads {
        load.more(200).await?;
    }
    let mut latest = Duration::ZERO;
    for load in loads {
        let report = load.stop().await;
        report.ensure_no_failures()?;
        let old = report.records.iter().filter(|record| record.colour() == Some("blue"));
        latest = old.fold(latest, |latest, record| latest.max(record.began.saturating_duration_since(answered)));
        ensure!(report.count("green") > 0, "{:?}", report.colours());
    }
    println!("the last old-colour request on any Envoy began {latest:?} after the answer");
    ensure!(latest < Duration::from_millis(500), "a request went to the old colour {latest:?} after the answer");
    stage.fleet.until_at(IRIS, 1).await?;
    for index in 0..ENVOYS {
        let newest = stage.history(index).await?.into_iter().next().context("no history")?;
        ensure!((newest.by.as_str(), newest.to.active.as_str()) == ("demo-operator", "green"), "{newest:?}");
    }
    // Read your writes, through whichever Envoy: a condition on what one was told holds on all the others.
    for revision in 1..9_usize {
        let admin = stage.fleet.admin(revision % ENVOYS)?;
        let reply = admin.promoting(IRIS).if_match(revision as u64).send().await?;
        ensure!(reply.status == 200, "If-Match {revision} on Envoy {}: {reply:?}", revision % ENVOYS);
    }
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_at_once_lose_and_double_nothing() -> Result<()> {
    const WRITERS: usize = 200;
    let stage = Stage::new(ENVOYS).await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let admin = stage.fleet.admin(writer % ENVOYS)?;
        writers.spawn(async move { admin.promote(IRIS).await.map(|state| state.revision) });
    }
    let mut revisions = BTreeSet::new();
    while let Some(revision) = writers.join_next().await {
        let revision = revision??;
        ensure!(revisions.insert(revision), "two writers were told of revision {revision}");
    }
    ensure!(revisions.iter().copied().eq(1..=WRITERS as u64), "{revisions:?}");
    stage.fleet.until_at(IRIS, WRITERS as u64).await?;
    for index in 0..ENVOYS {
        let seen: Vec<u64> = stage.history(index).await?.iter().map(|change| change.revision).collect();
        ensure!(seen.iter().copied().eq((151..=200).rev()), "Envoy {index}: {seen:?}");
    }
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_one_member_nothing_is_noticed_and_without_two_traffic_flows_and_writes_are_refused() -> Result<()> {
    let mut stage = Stage::new(2).await?;
    let loads = [stage.load(0)?.rate(200.0).start(), stage.load(1)?.rate(200.0).start()];
    // The one that hurts most.
    let leader = stage.fleet.etcd.leader()?;
    stage.fleet.etcd.kill(leader)?;
    for write in 0..6 {
        let began = Instant::now();
        stage.switch(write % 2).await?;
        println!("write {write} took {:?} with two of three members", began.elapsed());
    }
    stage.fleet.until_at(IRIS, 6).await?;

    let other = (leader + 1) % 3;
    stage.fleet.etcd.kill(other)?;
    for index in 0..2 {
        ensure_refused(&stage.try_switch(index).await?)?;
    }
    for index in 0..2 {
        until_stale(&stage, index, true).await?;
        let state = stage.fleet.admin(index)?.deployment(IRIS).await?;
        ensure!(state.revision == 6, "{state:?}");
        ensure_refused(&stage.try_switch(index).await?)?;
    }
    stage.fleet.etcd.restart(other).await?;
    for index in 0..2 {
        until_stale(&stage, index, false).await?;
    }
    ensure!(stage.fleet.admin(0)?.deployment(IRIS).await?.revision == 6, "a refused write was made");
    ensure!(stage.switch(1).await? == 7, "a revision was made in between");
    stage.fleet.until_at(IRIS, 7).await?;
    for load in loads {
        load.stop().await.ensure_no_failures()?;
    }
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_was_killed_is_in_step_within_a_second_and_says_so_not_earlier() -> Result<()> {
    let mut stage = Stage::new(2).await?;
    stage.switch(0).await?;
    stage.fleet.until_at(IRIS, 1).await?;
    for _ in 0..3 {
        stage.fleet.envoys[1].kill()?;
        let spawned = Instant::now();
        stage.fleet.envoys[1].restart().await?;
        let started = Instant::now();
        stage.fleet.until_ready(1).await?;
        println!("ready {:?} after the workers started, {:?} after the process", started.elapsed(), spawned.elapsed());
        ensure!(started.elapsed() < Duration::from_secs(1), "ready only after {:?}", started.elapsed());
        let report = stage.load(1)?.at_most(200).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 200, "a request followed `initial`: {:?}", report.colours());
        ensure!(stage.history(1).await?.len() == 1, "the history did not survive");
    }
    // Without etcd it starts all the same, and does not claim to be ready.
    stage.fleet.set_line(1, Line::Cut);
    stage.fleet.envoys[1].kill()?;
    stage.fleet.envoys[1].restart().await?;
    let admin = stage.fleet.admin(1)?;
    let reply = admin.anonymous().get("/readyz").await?;
    ensure!(reply.status == 503 && reply.text.contains(IRIS), "{reply:?}");
    ensure!(admin.get("/healthz").await?.status == 200, "it is alive");
    let report = stage.load(1)?.at_most(20).run().await;
    ensure!(report.count("blue") == 20, "traffic follows `initial`: {:?}", report.colours());
    stage.fleet.set_line(1, Line::Open);
    stage.fleet.until_ready(1).await?;
    let report = stage.load(1)?.at_most(100).run().await;
    ensure!(report.count("green") == 100, "a request followed `initial`: {:?}", report.colours());
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_cut_off_from_etcd_serves_its_last_state_and_catches_up() -> Result<()> {
    let stage = Stage::new(2).await?;
    let mut expected = stage.switch(0).await?;
    stage.fleet.until_at(IRIS, expected).await?;
    for line in [Line::Cut, Line::Silent] {
        for compacted in [false, true] {
            stage.fleet.set_line(1, line);
            let noticed = until_stale(&stage, 1, true).await?;
            // More changes than the other side could replay, once they are compacted away.
            for _ in 0..3 {
                expected = stage.switch(0).await?;
            }
            if compacted {
                stage.fleet.etcd.compact()?;
            }
            let cut_off = stage.fleet.admin(1)?.deployment(IRIS).await?;
            ensure!((cut_off.revision, cut_off.stale) == (expected - 3, Some(true)), "{line:?}: {cut_off:?}");
            ensure_refused(&stage.try_switch(1).await?)?;
            let report = stage.load(1)?.at_most(50).run().await;
            report.ensure_no_failures()?;
            ensure!(report.count(&cut_off.active) == 50, "{line:?}: {:?}", report.colours());

            stage.fleet.set_line(1, Line::Open);
            let began = Instant::now();
            stage.fleet.until_at(IRIS, expected).await?;
            let caught_up = began.elapsed();
            until_stale(&stage, 1, false).await?;
            println!("{line:?}, compacted: {compacted}: noticed after {noticed:?}, caught up after {caught_up:?}");
            ensure!(stage.switch(1).await? == expected + 1, "a refused write was made");
            expected += 1;
        }
    }
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_by_the_filter_and_truthfully_wherever_etcd_falls_silent() -> Result<()> {
    let stage = Stage::new(1).await?;
    let admin = stage.fleet.admin(0)?;
    let ensure_problem = |reply: &Reply, status: u16, kind: &str, says: &str| {
        let json = reply.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
        let kind = reply.text.contains(&format!("urn:bluegreen:problem:{kind}"));
        ensure!(reply.status == status && json && kind && reply.text.contains(says), "{reply:?}");
        Ok(())
    };

    // While the key is read.
    stage.fleet.set_line(0, Line::Silent);
    let began = Instant::now();
    let reply = admin.promoting(IRIS).query(&[("reason", "never sent")]).send().await?;
    println!("silent from the beginning: answered after {:?}: {}", began.elapsed(), reply.text);
    ensure_problem(&reply, 503, "store-unavailable", "Nothing was changed")?;
    stage.fleet.set_line(0, Line::Open);
    until_stale(&stage, 0, false).await?;

    // While the change is made: etcd has it, and nobody is told.
    let reason = "made, and not heard of";
    stage.fleet.fall_silent_after(0, reason);
    let began = Instant::now();
    let reply = admin.promoting(IRIS).query(&[("reason", reason)]).send().await?;
    println!("silent from the change on: answered after {:?}: {}", began.elapsed(), reply.text);
    ensure_problem(&reply, 504, "outcome-unknown", "it may have been made")?;
    ensure!(stage.fleet.etcd.get(KEY)?.contains(reason), "etcd does not have it");
    stage.fleet.set_line(0, Line::Open);
    stage.fleet.until_at(IRIS, 1).await?;
    let newest = stage.history(0).await?.into_iter().next().context("no history")?;
    ensure!(newest.reason.as_str() == reason, "{newest:?}");
    ensure!(stage.switch(0).await? == 2, "the change was made more than once");
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_created_once_from_initial_and_a_foreign_value_gives_way_to_the_next_change() -> Result<()> {
    let stage = Stage::new(2).await?;
    let created = stage.fleet.etcd.get(KEY)?;
    ensure!(created.contains(r#""revision":0"#), "{created}");
    stage.fleet.etcd.put(KEY, "not a state")?;
    for index in 0..2 {
        let warning = "is not a state: it is ignored until the next change replaces it";
        stage.fleet.envoy(index)?.log().wait_for(warning).await?;
        ensure!(stage.fleet.admin(index)?.deployment(IRIS).await?.revision == 0, "the last state is kept");
    }
    ensure!(stage.switch(1).await? == 1, "a change from the last state");
    stage.fleet.until_at(IRIS, 1).await?;
    stage.fleet.etcd.ctl(&["del", KEY])?;
    let look = || async { stage.fleet.etcd.get(KEY) };
    wait::until("the key, created again", look, |value| value.contains(r#""revision":1"#)).await?;
    ensure!(stage.switch(0).await? == 2, "the history goes on");
    stage.fleet.until_at(IRIS, 2).await?;
    for index in 0..2 {
        let warnings = stage.fleet.envoy(index)?.log().lines_with("is not a state").len();
        ensure!(warnings == 1, "{warnings} warnings on Envoy {index}");
    }
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_starts_with_another_initial_joins_the_fleet_as_it_is() -> Result<()> {
    let mut stage = Stage::new(1).await?;
    stage.switch(0).await?;
    let other = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["initial"] = json!({"canary_percent": 50}));
    stage.fleet.join(&other, |options| options).await?;
    stage.fleet.until_ready(1).await?;
    stage.fleet.until_at(IRIS, 1).await?;
    ensure!(stage.history(0).await?.len() == 1, "{:?}", stage.history(0).await?);
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_initial_pushed_to_all_envoys_is_one_change_and_an_operators_later_one_wins() -> Result<()> {
    let models = [Upstream::start("blue").await?, Upstream::start("green").await?];
    let mut watched = Watched::lds()?;
    watched.deliver(|listeners| listeners.plugin(|plugin| plugin["etcd"] = json!({"cluster": "etcd"})))?;
    let bootstrap =
        watched.bootstrap().with_cluster("blue", models[0].address()).with_cluster("green", models[1].address());
    let fleet = Fleet::start(3, &bootstrap, |options| options).await?;
    let stage = Stage { fleet, models };
    stage.switch(0).await?;
    stage.fleet.until_at(IRIS, 1).await?;

    let push = json!({"active": "blue", "canary_percent": 10});
    watched.deliver(|listeners| listeners.deployment(IRIS, |iris| iris["initial"] = push.clone()))?;
    stage.fleet.until_at(IRIS, 2).await?;
    let newest = stage.history(1).await?.into_iter().next().context("no history")?;
    let seen = (newest.source.as_str(), newest.from.active.as_str(), newest.to.active.as_str());
    ensure!(seen == ("config", "green", "blue") && (newest.to.canary_percent - 10.0).abs() < 0.01, "{newest:?}");

    ensure!(stage.switch(2).await? == 3, "one push made more than one change");
    stage.fleet.until_at(IRIS, 3).await?;
    // The same `initial` in another push changes nothing.
    watched.deliver(|listeners| listeners.plugin(|plugin| plugin["config_push"] = json!({"enforce": false})))?;
    for index in 0..3 {
        let updates = "listener_manager.listener_modified";
        let envoy = stage.fleet.envoy(index)?;
        wait::until(updates, || envoy.stat(updates), |count| *count >= 4).await?;
    }
    for index in 0..3 {
        let state = stage.fleet.admin(index)?.deployment(IRIS).await?;
        ensure!((state.revision, state.active.as_str()) == (3, "green"), "{state:?}");
    }
    ensure!(stage.switch(0).await? == 4, "a push made a change of its own");
    stage.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_on_one_envoy_is_the_whole_fleets() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["failover"] = json!({"after": 5});
        iris["bake"] = json!({"for": "1m"});
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s", "unhealthy_after": 2});
    });
    let mut stage = Stage::with(2, bootstrap).await?;
    let admin = stage.fleet.admin(0)?;
    let healthy = |state: &Deployment| state.probe("blue").is_ok_and(|probe| probe.healthy);
    wait::until("a healthy blue", || admin.deployment(IRIS), healthy).await?;
    stage.switch(0).await?;
    stage.fleet.until_at(IRIS, 1).await?;
    stage.models[1].stop().await;
    // Only one of them has traffic, and sees that nothing reaches green.
    let load = stage.load(0)?.connections(4).start();
    stage.fleet.until_at(IRIS, 2).await?;
    load.stop().await;
    for index in 0..2 {
        let newest = stage.history(index).await?.into_iter().next().context("no history")?;
        let seen = (newest.source.as_str(), newest.to.active.as_str(), newest.forced);
        ensure!(seen == ("guard", "blue", false), "Envoy {index}: {newest:?}");
        stage.load(index)?.at_most(50).run().await.ensure_no_failures()?;
    }
    stage.ensure_no_trap()
}
