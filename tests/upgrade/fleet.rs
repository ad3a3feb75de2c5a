//! Two releases in one fleet, as while its gateways are upgraded one after the other.

use std::path::Path;

use anyhow::{Result, ensure};
use bluegreen_testbed::{Bootstrap, Etcd, Fleet, Load, Upstream, repository, wait};
use bluegreen_tests::environment::{ROLLOUT_PATIENCE, ensure_no_trap};
use bluegreen_tests::{IRIS, PATH};
use serde_json::{Value, json};

const JUDGES: &str = "this Envoy judges the canary for the fleet";

/// Waits until an Envoy of each release shows the same state with the same history.
async fn until_same(fleet: &Fleet, revision: u64) -> Result<()> {
    fleet.until_at(IRIS, revision).await?;
    let (first, second) = (fleet.admin(0)?.deployment(IRIS).await?, fleet.admin(1)?.deployment(IRIS).await?);
    ensure!(first.settings() == second.settings() && first.kept == second.kept, "{first:?}\n{second:?}");
    let (first, second) = (fleet.admin(0)?.history(IRIS).await?, fleet.admin(1)?.history(IRIS).await?);
    ensure!(first == second, "{first:#?}\n{second:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_releases_write_and_follow_one_record_and_judge_one_canary() -> Result<()> {
    let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
    let bootstrap = |module: &Path| {
        let step = |share: u64| json!({"canary_percent": share, "hold": "1s"});
        anyhow::Ok(
            Bootstrap::shipped()?
                .with_wasm(module)
                .with_cluster("blue", blue.address())
                .with_cluster("green", green.address())
                .deployment(IRIS, |iris| {
                    iris["guard"] = json!({});
                    iris["rollout"] = json!({"steps": [step(10), step(30), step(50)]});
                }),
        )
    };
    let (old, new) = (bootstrap(&repository::last_release()?)?, bootstrap(&repository::wasm()?)?);
    // The last release alone, and then the first gateway of this one.
    let mut fleet = Fleet::on(Etcd::start(3).await?, 1, &old, |options| options).await?;
    let first = fleet.admin(0)?.promote_to(IRIS, "green").await?;
    fleet.join(&new, |options| options).await?;
    fleet.until_ready(1).await?;
    until_same(&fleet, first.revision).await?;

    // Both write.
    for (envoy, colour) in [(1, "blue"), (0, "green"), (1, "blue")] {
        let revision = fleet.admin(envoy)?.promote_to(IRIS, colour).await?.revision;
        until_same(&fleet, revision).await?;
    }
    // A rollout that one release begins the other takes further.
    fleet.admin(0)?.rollout(IRIS, "start").await?;
    fleet.admin(1)?.rollout(IRIS, "pause").await?;
    let here = fleet.admin(0)?.rollout(IRIS, "skip").await?;
    until_same(&fleet, here.revision).await?;
    let ended = fleet.admin(1)?.rollout(IRIS, "abort").await?;
    until_same(&fleet, ended.revision).await?;

    // The canary is judged by one of them, with the requests of both.
    let start = |envoy| {
        let load = Load::new(fleet.envoy(envoy)?.traffic()?, PATH).connections(4).rate(100.0);
        anyhow::Ok(load.lasting(ROLLOUT_PATIENCE * 2).start())
    };
    let loads = [start(0)?, start(1)?];
    let canary = fleet.admin(1)?.patch(IRIS, &[("canary_percent", "20")]).await?.deployment()?;
    until_same(&fleet, canary.revision).await?;
    let judged = |seen: &Value| seen["verdict"]["colours"]["green"]["requests"].as_u64().unwrap_or_default();
    for (envoy, load) in loads.iter().enumerate() {
        let admin = fleet.admin(envoy)?;
        let own = || load.so_far().count("green");
        let both = |seen: &Value| judged(seen) >= 100 && judged(seen) > own() * 5 / 4;
        let seen =
            wait::until_within(ROLLOUT_PATIENCE, "the evidence of both", || admin.comparison(IRIS), both).await?;
        println!("Envoy {envoy}: {} requests of green were judged, {} were its own", judged(&seen), own());
    }
    let says = |envoy: usize| fleet.envoy(envoy).map(|envoy| !envoy.log().lines_with(JUDGES).is_empty());
    let judges = [says(0)?, says(1)?];
    ensure!(judges.iter().any(|judges| *judges), "nobody judges");
    println!("the last release judges: {}, this one: {}", judges[0], judges[1]);

    for load in loads {
        load.stop().await.ensure_no_failures()?;
    }
    fleet.envoys.iter().try_for_each(ensure_no_trap)
}
