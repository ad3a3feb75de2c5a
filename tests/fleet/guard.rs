//! The guard of a fleet has one evidence: what all Envoys saw together, whichever of them judges.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::load::Running;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::IRIS;
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use serde_json::{Value, json};

use crate::environment::Environment;

const ENVOYS: usize = 3;
const JUDGES: &str = "this Envoy judges the canary for the fleet";

/// A fleet with a guard and a canary of 20 %, and a load at each Envoy.
async fn with_canary() -> Result<(Environment, Vec<Option<Running>>)> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["guard"] = json!({}));
    let env = Environment::with(ENVOYS, bootstrap).await?;
    let start = |index| Ok(Some(env.load(index)?.connections(4).rate(60.0).lasting(ROLLOUT_PATIENCE * 2).start()));
    let loads: Vec<Option<Running>> = (0..ENVOYS).map(start).collect::<Result<_>>()?;
    env.fleet.admin(0)?.patch(IRIS, &[("canary_percent", "20")]).await?.accepted()?;
    Ok((env, loads))
}

/// The verdict that an Envoy shows, once it is as `accept` wants it.
async fn verdict(env: &Environment, index: usize, what: &str, accept: impl Fn(&Value) -> bool) -> Result<Value> {
    let admin = env.fleet.admin(index)?;
    let comparison =
        wait::until_within(ROLLOUT_PATIENCE, what, || admin.comparison(IRIS), |seen| accept(&seen["verdict"]));
    Ok(comparison.await?["verdict"].clone())
}

fn of_green(verdict: &Value) -> u64 {
    verdict["colours"]["green"]["requests"].as_u64().unwrap_or_default()
}

/// The Envoy that was the last to say that it judges.
fn judge(env: &Environment) -> Result<usize> {
    let says = |envoy: &bluegreen_testbed::Envoy| !envoy.log().lines_with(JUDGES).is_empty();
    env.fleet.envoys.iter().position(says).context("nobody judges")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_judge_is_killed_and_what_all_saw_rolls_a_bad_green_back_everywhere() -> Result<()> {
    let (mut env, mut loads) = with_canary().await?;
    let before = verdict(&env, 0, "evidence of all three", |verdict| of_green(verdict) >= 150).await?;
    let judge = judge(&env)?;
    // Its clients lose what was under way, which says nothing about the others.
    if let Some(load) = loads[judge].take() {
        drop(load.stop().await);
    }
    env.fleet.envoys[judge].kill()?;
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 10 });
    let fault = Instant::now();
    let others: Vec<usize> = (0..ENVOYS).filter(|index| *index != judge).collect();
    let mut shown = Vec::new();
    for index in &others {
        let breached = verdict(&env, *index, "a breach", |verdict| verdict["breached"] == "error").await?;
        let state = env.deployment(*index).await?;
        shown.push((breached["breached_at"].clone(), breached["sentence"].clone(), of_green(&breached)));
        let newest = env.newest_change(*index).await?;
        ensure!((newest.source.as_str(), newest.to.canary_percent) == ("guard", 0.0), "{newest:?} {state:?}");
        ensure!(env.history(*index).await?.iter().filter(|change| change.source == "guard").count() == 1);
    }
    println!("{ENVOYS} Envoys, of which the judge was killed: back after {:?}, {shown:?}", fault.elapsed());
    // What was evidence before the judge died still is, and one second's requests of each Envoy are in one sum.
    let seen = shown[0].2;
    ensure!(seen > of_green(&before), "{seen} requests of green after {before:#}");
    let mut own = Vec::new();
    for index in others {
        if let Some(load) = loads[index].take() {
            own.push(load.stop().await.count("green") as u64);
        }
    }
    ensure!(own.iter().all(|own| *own < seen), "{seen} requests were judged, and each Envoy had {own:?} alone");
    // The last judgement is the same everywhere, to the last request.
    let (first, second) = (&shown[0], &shown[1]);
    ensure!((&first.0, &first.1) == (&second.0, &second.1), "{shown:?}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_nothing_is_concluded_and_afterwards_the_evidence_goes_on() -> Result<()> {
    let (mut env, _loads) = with_canary().await?;
    let before = verdict(&env, 1, "evidence", |verdict| of_green(verdict) >= 50).await?;
    for member in 0..2 {
        env.fleet.etcd.kill(member)?;
    }
    env.green.behave(Behaviour::Status(500));
    for index in 0..ENVOYS {
        let admin = env.fleet.admin(index)?;
        wait::until("stale", || admin.deployment(IRIS), |state| state.stale == Some(true)).await?;
        let says = "the guard waits for etcd";
        let envoy = env.fleet.envoy(index)?;
        let lines = || async { Ok(envoy.log().lines_with(says)) };
        wait::until("a line about etcd", lines, |lines: &Vec<String>| !lines.is_empty()).await?;
        ensure!(env.deployment(index).await?.canary_percent > 0.0, "a change was made without etcd");
    }
    env.fleet.etcd.restart(0).await?;
    for index in 0..ENVOYS {
        let breached = verdict(&env, index, "a breach", |verdict| !verdict["breached"].is_null()).await?;
        ensure!(of_green(&breached) > of_green(&before), "{breached:#} began anew after {before:#}");
    }
    env.ensure_no_trap()
}
