//! The guard of replicas whose states are in an API server has one evidence: what all of them saw together.

use anyhow::{Result, ensure};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::IRIS;
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use serde_json::{Value, json};

use crate::cluster::shared;
use crate::replicas::{Replicas, condition};

const REPLICAS: usize = 2;
const JUDGES: &str = "this Envoy judges the canary for the fleet";

async fn notes(replicas: &Replicas) -> Result<Vec<String>> {
    let names = replicas.kubectl.ok(&["get", "bluegreennotes", "--output=name"]).await?;
    Ok(names.lines().map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_replicas_saw_rolls_a_bad_green_back_and_the_object_says_why() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["guard"] = json!({}));
    let replicas = Replicas::start(shared().await?, "guarded", REPLICAS, bootstrap).await?;
    let start = |index| Ok(replicas.load(index)?.connections(4).rate(60.0).lasting(ROLLOUT_PATIENCE * 2).start());
    let loads = (0..REPLICAS).map(start).collect::<Result<Vec<_>>>()?;
    replicas.ask_for(&json!({"active": "blue", "canaryPercent": 20})).await?;
    replicas.wait_for("Accepted").await?;
    let of_green = |verdict: &Value| verdict["colours"]["green"]["requests"].as_u64().unwrap_or_default();
    let mut verdicts = Vec::new();
    for index in 0..REPLICAS {
        let admin = replicas.admin(index)?;
        let seen = wait::until_within(
            ROLLOUT_PATIENCE,
            "evidence of all",
            || admin.comparison(IRIS),
            |seen| of_green(&seen["verdict"]) >= 100,
        );
        seen.await?;
    }
    ensure!(notes(&replicas).await?.len() > REPLICAS, "{:?}", notes(&replicas).await?);
    replicas.green.behave(Behaviour::Sometimes { status: 500, one_in: 5 });
    for index in 0..REPLICAS {
        let admin = replicas.admin(index)?;
        let breached = wait::until_within(
            ROLLOUT_PATIENCE,
            "a breach",
            || admin.comparison(IRIS),
            |seen| seen["verdict"]["breached"] == "error",
        );
        let breached = breached.await?["verdict"].clone();
        verdicts.push((breached["breached_at"].clone(), breached["sentence"].clone(), of_green(&breached)));
    }
    replicas.until_all("no canary", |state| state.canary_percent == 0.0).await?;
    // One judgement, which is no single replica's.
    ensure!((&verdicts[0].0, &verdicts[0].1) == (&verdicts[1].0, &verdicts[1].1), "{verdicts:?}");
    let judges = replicas.envoys.iter().filter(|envoy| !envoy.log().lines_with(JUDGES).is_empty()).count();
    ensure!(judges >= 1, "nobody judged");
    let mut own = Vec::new();
    for load in loads {
        own.push(load.stop().await.count("green"));
    }
    ensure!(own.iter().all(|own| *own < verdicts[0].2), "{verdicts:?}, and each replica had {own:?} alone");
    let object = replicas.object().await?;
    let in_force = condition(&object, "InForce")?;
    ensure!((&in_force["status"], &in_force["reason"]) == (&json!("False"), &json!("RolledBack")), "{in_force:#}");
    ensure!(condition(&object, "Accepted")?["status"] == "True", "{object:#}");
    let names = || notes(&replicas);
    wait::until("the statements are gone", names, |names: &Vec<String>| {
        names.iter().all(|name| !name.contains("statement"))
    })
    .await?;
    replicas.ensure_no_trap()
}
