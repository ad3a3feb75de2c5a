//! Another module in one Envoy. It runs in another virtual machine, with the shared data of the same `vm_id`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Change, Deployment};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{repository, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// A deployment that was promoted, and whose former colour keeps a share.
const ROSE: &str = "rose";

/// A deployment with a canary.
const LILY: &str = "lily";

const ALL: [&str; 3] = [IRIS, ROSE, LILY];

/// How long Envoy may take to compile another module, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is shown of a deployment, apart from what moves by itself.
type Shown = (Deployment, Vec<Change>);

fn configuration(plugin: &mut Value) {
    let deployments = &mut plugin["deployments"];
    deployments[IRIS]["rollout"] = json!({"steps": [
        {"canary_percent": 5, "hold": "1s"}, {"canary_percent": 25, "hold": "1s"}, {"canary_percent": 50, "hold": "1s"},
    ]});
    deployments[IRIS]["smoke_test"] = json!({"required": true, "requests": [{"method": "GET", "path": "/version"}]});
    deployments[IRIS]["guard"] = json!({});
    for name in [ROSE, LILY] {
        deployments[name] = deployments[IRIS].clone();
        deployments[name]["match"] = json!({"path_prefix": format!("/{name}")});
    }
    deployments[ROSE]["bake"] = json!({"for": "1h"});
    deployments[ROSE]["guard"] = json!({"also_after_promote": "30m", "keep_percent": 3});
}

/// What the API shows of all deployments.
async fn shown(env: &Environment) -> Result<Vec<Shown>> {
    let admin = env.envoy.admin()?;
    let mut all = Vec::new();
    for name in ALL {
        all.push((admin.deployment(name).await?, admin.history(name).await?));
    }
    Ok(all)
}

/// Fails where something that was written is not shown any more, or differs.
fn ensure_same(before: &[Shown], after: &[Shown]) -> Result<()> {
    for ((old, old_history), (new, new_history)) in before.iter().zip(after) {
        ensure!(old.settings() == new.settings(), "{old:?}\nbecame\n{new:?}");
        ensure!(old.kept == new.kept, "{:?} became {:?}", old.kept, new.kept);
        ensure!(old_history == new_history, "{old_history:#?}\nbecame\n{new_history:#?}");
        let rollout = |state: &Deployment| state.rollout.as_ref().map(|rollout| (rollout.phase.clone(), rollout.step));
        ensure!(rollout(old) == rollout(new), "{:?} became {:?}", old.rollout, new.rollout);
    }
    Ok(())
}

fn workers(state: &Deployment) -> BTreeSet<u64> {
    state.workers.iter().map(|worker| worker.id).collect()
}

/// Delivers another module, and waits until its workers are the only ones.
async fn deliver(env: &Environment, watched: &mut Watched, module: &Path) -> Result<()> {
    let before = workers(&env.deployment().await?);
    watched.deliver(|resource| resource.with_wasm(module))?;
    let replaced = |state: &Deployment| {
        let after = workers(state);
        !after.is_empty() && after.is_disjoint(&before) && state.in_force.confirmed == state.in_force.of
    };
    let (admin, began) = (env.envoy.admin()?, Instant::now());
    let what = "the workers of the other module";
    wait::until_within(PATIENCE, what, || admin.deployment(IRIS), replaced).await?;
    println!("the other module is in force after {:?}", began.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_module_goes_on_where_the_first_one_stopped_and_no_request_is_lost() -> Result<()> {
    let (old, new) = (repository::last_release()?, repository::wasm()?);
    let mut watched = Watched::ecds_with(&old)?;
    watched.deliver(|resource| resource.plugin(configuration))?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let admin = env.envoy.admin()?;
    let load = env.load()?.connections(8).rate(200.0).lasting(PATIENCE * 3).start();

    // The last release writes: two switches, a passed smoke test, a rollout that waits, a kept share, a canary.
    for name in ALL {
        ensure!(admin.test(name).await?.json()?["passed"] == true, "{name}");
    }
    for (colour, reason) in [("green", "there"), ("blue", "and back")] {
        admin.promoting(IRIS).query(&[("to", colour), ("reason", reason)]).send().await?.accepted()?;
        // Of the candidate, which gets traffic only once it has passed.
        ensure!(admin.test(IRIS).await?.json()?["passed"] == true, "after {colour}");
    }
    admin.rollout(IRIS, "start").await?;
    admin.rollout(IRIS, "skip").await?;
    admin.rollout(IRIS, "pause").await?;
    let rose = admin.promote_to(ROSE, "green").await?;
    ensure!(rose.kept.is_some() && rose.canary_percent == 3.0, "{rose:?}");
    admin.patch(LILY, &[("canary_percent", "12.5"), ("shadow_percent", "5")]).await?.accepted()?;
    let before = shown(&env).await?;

    // The upgrade.
    load.more(50).await?;
    deliver(&env, &mut watched, &new).await?;
    ensure_same(&before, &shown(&env).await?)?;
    load.more(50).await?;
    // Green passed its test under the last release: that is required here, and counts.
    admin.patch(LILY, &[("canary_percent", "20")]).await?.accepted()?;
    let resumed = admin.rollout(IRIS, "resume").await?;
    let here = resumed.rollout.as_ref().map(|rollout| (rollout.phase.as_str(), rollout.step));
    ensure!((here, resumed.revision) == (Some(("running", 2)), before[0].0.revision), "{resumed:?}");
    let ended = env.until_rollout("promoted", |rollout| rollout.phase == "promoted").await?;
    ensure!(ended.active == "green", "{ended:?}");
    let back = admin.rollback(ROSE).await?;
    ensure!((back.active.as_str(), back.canary_percent) == ("blue", 0.0), "the way back: {back:?}");

    // The downgrade: what this release has written the last one reads.
    let before = shown(&env).await?;
    deliver(&env, &mut watched, &old).await?;
    ensure_same(&before, &shown(&env).await?)?;
    let promoted = admin.promote_to(LILY, "green").await?;
    ensure!(promoted.revision == before[2].0.revision + 1, "{promoted:?}");
    load.more(50).await?;

    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    println!("{} requests through an upgrade and a downgrade, none lost", report.records.len());
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_of_the_guard_outlives_the_other_module() -> Result<()> {
    let (old, new) = (repository::last_release()?, repository::wasm()?);
    let mut watched = Watched::ecds_with(&old)?;
    watched.deliver(|resource| resource.deployment(IRIS, |iris| iris["guard"] = json!({})))?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let admin = env.envoy.admin()?;
    let load = env.load()?.connections(8).rate(200.0).lasting(PATIENCE * 3).start();
    admin.patch(IRIS, &[("canary_percent", "50")]).await?.accepted()?;
    let judged = |seen: &Value| seen["verdict"]["colours"]["green"]["requests"].as_u64().unwrap_or_default();
    let before = wait::until("evidence", || admin.comparison(IRIS), |seen| judged(seen) >= 150).await?;
    deliver(&env, &mut watched, &new).await?;
    let goes_on = |seen: &Value| judged(seen) > judged(&before) + 50;
    let after = wait::until("more evidence", || admin.comparison(IRIS), goes_on).await?;
    ensure!(after["verdict"]["since"] == before["verdict"]["since"], "{before:#}\nwas followed by\n{after:#}");
    let state = env.deployment().await?;
    ensure!(state.canary_percent == 50.0, "{state:?}");
    println!("{} requests of green were judged before, {} after", judged(&before), judged(&after));
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap().context("trap")
}
