//! Four Envoys and three members of etcd: one record, whichever Envoy writes and whatever fails.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bluegreen_testbed::admin::{Deployment, Reply};
use bluegreen_testbed::capabilities::{documented, restrict};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::fleet::Line;
use bluegreen_testbed::{Bootstrap, Etcd, wait};
use bluegreen_tests::IRIS;
use serde_json::json;
use tokio::task::JoinSet;

use crate::environment::Environment;

const ENVOYS: usize = 4;
const KEY: &str = "/bluegreen/iris";

/// The module may have what the installation guide lists and nothing else.
async fn restricted(envoys: usize) -> Result<Environment> {
    Environment::with(envoys, restrict(Bootstrap::shipped()?, &documented()?)?).await
}

/// Waits until an Envoy's API says that it may be behind, or that it is not.
async fn until_stale(env: &Environment, index: usize, stale: bool) -> Result<Duration> {
    let (admin, began) = (env.fleet.admin(index)?, Instant::now());
    let what = format!("stale: {stale} on Envoy {index}");
    wait::until(&what, || admin.deployment(IRIS), |state| state.stale == Some(stale)).await?;
    Ok(began.elapsed())
}

fn ensure_refused(reply: &Reply) -> Result<()> {
    let refused = reply.status == 503 && reply.text.contains("Nothing was changed");
    ensure!(refused, "a write that cannot be made was answered {reply:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_on_one_envoy_reaches_all_four() -> Result<()> {
    let env = restricted(ENVOYS).await?;
    let mut loads = Vec::new();
    for index in 0..ENVOYS {
        loads.push(env.load(index)?.start());
    }
    for load in &loads {
        load.more(50).await?;
    }
    env.promote(0).await?;
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
    env.fleet.until_at(IRIS, 1).await?;
    for index in 0..ENVOYS {
        let newest = env.newest_change(index).await?;
        ensure!((newest.by.as_str(), newest.to.active.as_str()) == ("demo-operator", "green"), "{newest:?}");
    }
    // Read your writes, through whichever Envoy: a condition on an answer of one holds on all the others.
    for revision in 1..9_usize {
        let admin = env.fleet.admin(revision % ENVOYS)?;
        let to = if revision % 2 == 0 { "green" } else { "blue" };
        let reply = admin.promoting(IRIS).query(&[("to", to)]).if_match(revision as u64).send().await?;
        ensure!(reply.status == 200, "If-Match {revision} on Envoy {}: {reply:?}", revision % ENVOYS);
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_at_once_lose_and_repeat_nothing() -> Result<()> {
    const WRITERS: usize = 200;
    let env = restricted(ENVOYS).await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let admin = env.fleet.admin(writer % ENVOYS)?;
        // A share that nobody else writes: each write is a change.
        let share = format!("{}.{:02}", (writer + 1) / 100, (writer + 1) % 100);
        writers.spawn(async move {
            for _ in 0..5 {
                let reply = admin.patch(IRIS, &[("shadow_percent", &share)]).await?;
                if reply.status != 503 {
                    return Ok(reply.deployment()?.revision);
                }
                // Where the machine is slow there was no time. A write that was refused and made all the same would show as one
                // revision too many.
                ensure_refused(&reply)?;
            }
            bail!("writer {writer} was refused five times")
        });
    }
    let mut revisions = BTreeSet::new();
    while let Some(revision) = writers.join_next().await {
        let revision = revision??;
        ensure!(revisions.insert(revision), "two writers were told of revision {revision}");
    }
    ensure!(revisions.iter().copied().eq(1..=WRITERS as u64), "{revisions:?}");
    env.fleet.until_at(IRIS, WRITERS as u64).await?;
    for index in 0..ENVOYS {
        let seen: Vec<u64> = env.history(index).await?.iter().map(|change| change.revision).collect();
        ensure!(seen.iter().copied().eq((151..=200).rev()), "Envoy {index}: {seen:?}");
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_one_member_nothing_is_noticed_and_without_two_traffic_flows_and_writes_are_refused() -> Result<()> {
    let mut env = restricted(2).await?;
    let loads = [env.load(0)?.rate(200.0).start(), env.load(1)?.rate(200.0).start()];
    // The member whose loss costs most.
    let leader = env.fleet.etcd.leader()?;
    env.fleet.etcd.kill(leader)?;
    // The colours are named: an Envoy that has yet to hear of the other one's change would take the wrong one for the
    // candidate.
    for (write, colour) in ["green", "blue"].into_iter().cycle().take(6).enumerate() {
        let began = Instant::now();
        env.fleet.admin(write % 2)?.promote_to(IRIS, colour).await?;
        println!("write {write} took {:?} with two of three members", began.elapsed());
    }
    env.fleet.until_at(IRIS, 6).await?;

    let other = (leader + 1) % 3;
    env.fleet.etcd.kill(other)?;
    for index in 0..2 {
        ensure_refused(&env.try_promote(index).await?)?;
    }
    for index in 0..2 {
        until_stale(&env, index, true).await?;
        let state = env.deployment(index).await?;
        ensure!(state.revision == 6, "{state:?}");
        ensure_refused(&env.try_promote(index).await?)?;
    }
    env.fleet.etcd.restart(other).await?;
    for index in 0..2 {
        until_stale(&env, index, false).await?;
    }
    ensure!(env.deployment(0).await?.revision == 6, "a refused write was made");
    ensure!(env.promote(1).await? == 7, "a revision was made in between");
    env.fleet.until_at(IRIS, 7).await?;
    for load in loads {
        load.stop().await.ensure_no_failures()?;
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_was_killed_is_synced_within_a_second_and_ready_not_earlier() -> Result<()> {
    let mut env = restricted(2).await?;
    env.promote(0).await?;
    env.fleet.until_at(IRIS, 1).await?;
    for _ in 0..3 {
        env.fleet.envoys[1].kill()?;
        let spawned = Instant::now();
        env.fleet.envoys[1].restart().await?;
        let started = Instant::now();
        env.fleet.until_ready(1).await?;
        println!("ready {:?} after the workers started, {:?} after the process", started.elapsed(), spawned.elapsed());
        ensure!(started.elapsed() < Duration::from_secs(1), "ready only after {:?}", started.elapsed());
        let report = env.load(1)?.at_most(200).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 200, "a request followed `initial`: {:?}", report.colours());
        ensure!(env.history(1).await?.len() == 1, "the history did not survive");
    }
    // Without etcd it starts all the same, and does not claim to be ready.
    env.fleet.set_line(1, Line::Cut);
    env.fleet.envoys[1].kill()?;
    env.fleet.envoys[1].restart().await?;
    let admin = env.fleet.admin(1)?;
    let reply = admin.anonymous().get("/readyz").await?;
    ensure!(reply.status == 503 && reply.text.contains(IRIS), "{reply:?}");
    ensure!(admin.get("/healthz").await?.status == 200, "it is alive");
    let report = env.load(1)?.at_most(20).run().await;
    ensure!(report.count("blue") == 20, "traffic follows `initial`: {:?}", report.colours());
    env.fleet.set_line(1, Line::Open);
    env.fleet.until_ready(1).await?;
    let report = env.load(1)?.at_most(100).run().await;
    ensure!(report.count("green") == 100, "a request followed `initial`: {:?}", report.colours());
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_cut_off_from_etcd_serves_its_last_state_and_catches_up() -> Result<()> {
    let env = restricted(2).await?;
    let mut expected = env.promote(0).await?;
    env.fleet.until_at(IRIS, expected).await?;
    for line in [Line::Cut, Line::Silent] {
        for compacted in [false, true] {
            env.fleet.set_line(1, line);
            let noticed = until_stale(&env, 1, true).await?;
            // More changes than the other side could replay, once they are compacted away.
            for _ in 0..3 {
                expected = env.promote(0).await?;
            }
            if compacted {
                env.fleet.etcd.compact()?;
            }
            let cut_off = env.deployment(1).await?;
            ensure!((cut_off.revision, cut_off.stale) == (expected - 3, Some(true)), "{line:?}: {cut_off:?}");
            ensure_refused(&env.try_promote(1).await?)?;
            let report = env.load(1)?.at_most(50).run().await;
            report.ensure_no_failures()?;
            ensure!(report.count(&cut_off.active) == 50, "{line:?}: {:?}", report.colours());

            env.fleet.set_line(1, Line::Open);
            let began = Instant::now();
            env.fleet.until_at(IRIS, expected).await?;
            let caught_up = began.elapsed();
            until_stale(&env, 1, false).await?;
            println!("{line:?}, compacted: {compacted}: noticed after {noticed:?}, caught up after {caught_up:?}");
            ensure!(env.promote(1).await? == expected + 1, "a refused write was made");
            expected += 1;
        }
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_by_the_filter_and_truthfully_wherever_etcd_falls_silent() -> Result<()> {
    let env = restricted(1).await?;
    let admin = env.fleet.admin(0)?;
    let ensure_problem = |reply: &Reply, status: u16, kind: &str, says: &str| {
        let json = reply.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
        let kind = reply.text.contains(&format!("urn:bluegreen:problem:{kind}"));
        ensure!(reply.status == status && json && kind && reply.text.contains(says), "{reply:?}");
        Ok(())
    };

    // While the key is read.
    env.fleet.set_line(0, Line::Silent);
    let began = Instant::now();
    let reply = admin.promoting(IRIS).query(&[("reason", "never sent")]).send().await?;
    println!("silent from the beginning: answered after {:?}: {}", began.elapsed(), reply.text);
    ensure_problem(&reply, 503, "store-unavailable", "Nothing was changed")?;
    env.fleet.set_line(0, Line::Open);
    until_stale(&env, 0, false).await?;

    // While the change is made: etcd has it, and its answer is lost.
    let reason = "made, and the answer was lost";
    env.fleet.fall_silent_after(0, reason);
    let began = Instant::now();
    let reply = admin.promoting(IRIS).query(&[("reason", reason)]).send().await?;
    println!("silent from the change on: answered after {:?}: {}", began.elapsed(), reply.text);
    ensure_problem(&reply, 504, "outcome-unknown", "it may have been made")?;
    ensure!(env.fleet.etcd.get(KEY)?.contains(reason), "etcd does not have it");
    env.fleet.set_line(0, Line::Open);
    env.fleet.until_at(IRIS, 1).await?;
    let newest = env.newest_change(0).await?;
    ensure!(newest.reason.as_str() == reason, "{newest:?}");
    ensure!(env.promote(0).await? == 2, "the change was made more than once");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_refuses_is_answered_at_once_with_its_reason_until_it_is_fixed() -> Result<()> {
    // One value more than fits.
    const SPACE: usize = 2 << 20;
    let etcd = Etcd::with(1, &[&format!("--quota-backend-bytes={SPACE}")]).await?;
    let env = Environment::on(etcd, 1, restrict(Bootstrap::shipped()?, &documented()?)?).await?;
    let ensure_refused_with = async |reason: &str| {
        let began = Instant::now();
        let reply = env.try_promote(0).await?;
        println!("refused after {:?}: {}", began.elapsed(), reply.text);
        ensure_refused(&reply)?;
        ensure!(reply.text.contains(&format!("etcd refused it ({reason})")), "{reply:?}");
        ensure!(began.elapsed() < Duration::from_secs(1), "only after {:?}", began.elapsed());
        ensure!(env.deployment(0).await?.has_problem("etcd-refuses"), "{:?}", env.deployment(0).await?);
        anyhow::Ok(())
    };

    let filler = "x".repeat(100_000);
    ensure!((0..SPACE / filler.len() + 10).any(|n| env.fleet.etcd.put(&format!("/filler/{n}"), &filler).is_err()));
    ensure_refused_with("gRPC status 8, etcdserver: mvcc: database space exceeded").await?;
    env.fleet.etcd.ctl(&["del", "--prefix", "/filler/"])?;
    env.fleet.etcd.compact()?;
    env.fleet.etcd.ctl(&["defrag"])?;
    env.fleet.etcd.ctl(&["alarm", "disarm"])?;
    ensure!(env.promote(0).await? == 1, "a refused write was made");
    let state = env.deployment(0).await?;
    ensure!((state.revision, state.has_problem("etcd-refuses")) == (1, false), "{state:?}");

    env.fleet.etcd.ctl(&["user", "add", "root:root"])?;
    env.fleet.etcd.ctl(&["user", "grant-role", "root", "root"])?;
    env.fleet.etcd.ctl(&["auth", "enable"])?;
    ensure_refused_with("gRPC status 3, etcdserver: user name is empty").await?;
    until_stale(&env, 0, true).await?;
    env.fleet.envoy(0)?.log().wait_for("etcd refuses to give the states: gRPC status 3").await?;
    env.fleet.etcd.ctl(&["--user", "root:root", "auth", "disable"])?;
    until_stale(&env, 0, false).await?;
    ensure!(env.promote(0).await? == 2, "a refused write was made");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_created_once_from_initial_and_the_next_change_replaces_a_foreign_value() -> Result<()> {
    let env = restricted(2).await?;
    let created = env.fleet.etcd.get(KEY)?;
    ensure!(created.contains(r#""revision":0"#), "{created}");
    env.fleet.etcd.put(KEY, "not a state")?;
    for index in 0..2 {
        let warning = "is not a state: it is ignored until the next change replaces it";
        env.fleet.envoy(index)?.log().wait_for(warning).await?;
        ensure!(env.deployment(index).await?.revision == 0, "the last state is kept");
    }
    ensure!(env.promote(1).await? == 1, "a change from the last state");
    env.fleet.until_at(IRIS, 1).await?;
    env.fleet.etcd.ctl(&["del", KEY])?;
    let look = || async { env.fleet.etcd.get(KEY) };
    wait::until("the key, created again", look, |value| value.contains(r#""revision":1"#)).await?;
    ensure!(env.promote(0).await? == 2, "the history goes on");
    env.fleet.until_at(IRIS, 2).await?;
    for index in 0..2 {
        let warnings = env.fleet.envoy(index)?.log().lines_with("is not a state").len();
        ensure!(warnings == 1, "{warnings} warnings on Envoy {index}");
    }

    // Nor is it one if its author would begin a line of the log.
    let second = env.fleet.etcd.get(KEY)?;
    let forged = second.replace(r#""by":"demo-operator""#, r#""by":"x\n[critical] forged by y""#);
    ensure!(forged != second, "{second}");
    ensure!(env.promote(0).await? == 3, "a change");
    env.fleet.until_at(IRIS, 3).await?;
    env.fleet.etcd.put(KEY, &forged)?;
    for index in 0..2 {
        let log = env.fleet.envoy(index)?.log();
        let warnings = || async { Ok(log.lines_with("is not a state").len()) };
        wait::until("a second warning", warnings, |count| *count == 2).await?;
        ensure!(log.lines_with("forged").is_empty(), "{:?}", log.lines_with("forged"));
        ensure!(env.deployment(index).await?.revision == 3, "the last state is kept");
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_starts_with_another_initial_joins_the_fleet_as_it_is() -> Result<()> {
    let mut env = restricted(1).await?;
    env.promote(0).await?;
    let other = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["initial"] = json!({"canary_percent": 50}));
    env.fleet.join(&other, |options| options).await?;
    env.fleet.until_ready(1).await?;
    env.fleet.until_at(IRIS, 1).await?;
    ensure!(env.history(0).await?.len() == 1, "{:?}", env.history(0).await?);
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_initial_pushed_to_all_envoys_is_one_change_and_an_operators_later_one_wins() -> Result<()> {
    let mut watched = Watched::lds()?;
    watched.deliver(|listeners| listeners.plugin(|plugin| plugin["etcd"] = json!({"cluster": "etcd"})))?;
    let env = Environment::with(3, watched.bootstrap()).await?;
    env.promote(0).await?;
    env.fleet.until_at(IRIS, 1).await?;

    let push = json!({"active": "blue", "canary_percent": 10});
    watched.deliver(|listeners| listeners.deployment(IRIS, |iris| iris["initial"] = push.clone()))?;
    env.fleet.until_at(IRIS, 2).await?;
    let newest = env.newest_change(1).await?;
    let seen = (newest.source.as_str(), newest.from.active.as_str(), newest.to.active.as_str());
    ensure!(seen == ("config", "green", "blue") && (newest.to.canary_percent - 10.0).abs() < 0.01, "{newest:?}");

    ensure!(env.promote(2).await? == 3, "one push made more than one change");
    env.fleet.until_at(IRIS, 3).await?;
    // The same `initial` in another push changes nothing.
    watched.deliver(|listeners| listeners.plugin(|plugin| plugin["config_push"] = json!({"enforce": false})))?;
    for index in 0..3 {
        let updates = "listener_manager.listener_modified";
        let envoy = env.fleet.envoy(index)?;
        wait::until(updates, || envoy.stat(updates), |count| *count >= 4).await?;
    }
    for index in 0..3 {
        let state = env.deployment(index).await?;
        ensure!((state.revision, state.active.as_str()) == (3, "green"), "{state:?}");
    }
    ensure!(env.promote(0).await? == 4, "a push made a change of its own");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_pushed_to_all_envoys_is_one_change_and_an_old_configuration_does_not_take_it_back() -> Result<()> {
    let mut watched = Watched::lds()?;
    watched.deliver(|listeners| listeners.plugin(|plugin| plugin["etcd"] = json!({"cluster": "etcd"})))?;
    let mut env = Environment::with(2, watched.bootstrap()).await?;
    let named = |version: &'static str| {
        move |bootstrap: Bootstrap| {
            bootstrap.deployment(IRIS, |iris| iris["colours"]["green"]["version"] = json!(version))
        }
    };
    watched.deliver(named("3"))?;
    env.fleet.until_at(IRIS, 1).await?;
    let newest = env.newest_change(1).await?;
    let replaced = newest.replaced.clone().unwrap_or_default();
    ensure!(newest.source == "config" && replaced["to"]["version"] == "3", "{newest:?}");

    // One that starts with what the fleet has left behind, and one that starts with what is new to it.
    let shipped = Bootstrap::shipped()?.with_cluster("green", env.green.address());
    env.fleet.join(&shipped, |options| options).await?;
    env.fleet.until_ready(2).await?;
    ensure!(env.promote(2).await? == 2, "the old configuration made a change");
    env.fleet.join(&named("4")(shipped), |options| options).await?;
    env.fleet.until_at(IRIS, 3).await?;
    for index in 0..4 {
        let state = env.deployment(index).await?;
        ensure!(state.colour("green")?.version == "4" && state.active == "green", "Envoy {index}: {state:?}");
        ensure!(env.history(index).await?.len() == 3, "Envoy {index}: {:?}", env.history(index).await?);
    }
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_on_one_envoy_reaches_the_whole_fleet() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["failover"] = json!({"after": 5});
        iris["bake"] = json!({"for": "1m"});
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s", "unhealthy_after": 2});
    });
    let mut env = Environment::with(2, bootstrap).await?;
    let admin = env.fleet.admin(0)?;
    let healthy = |state: &Deployment| state.probe("blue").is_ok_and(|probe| probe.healthy);
    wait::until("a healthy blue", || admin.deployment(IRIS), healthy).await?;
    env.promote(0).await?;
    env.fleet.until_at(IRIS, 1).await?;
    env.green.stop().await;
    // Only one of them has traffic, and sees that nothing reaches green.
    let load = env.load(0)?.connections(4).start();
    env.fleet.until_at(IRIS, 2).await?;
    load.stop().await;
    for index in 0..2 {
        let newest = env.newest_change(index).await?;
        let seen = (newest.source.as_str(), newest.to.active.as_str(), newest.forced);
        ensure!(seen == ("failover", "blue", false), "Envoy {index}: {newest:?}");
        env.load(index)?.at_most(50).run().await.ensure_no_failures()?;
    }
    env.ensure_no_trap()
}
