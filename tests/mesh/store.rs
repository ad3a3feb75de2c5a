//! The API server as the store of record: real Envoys with the module, a real API server, TLS, service-account tokens and RBAC
//! as they ship.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Reply;
use bluegreen_testbed::capabilities::{documented, restrict};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, KubeApiServer, Relay, wait};
use bluegreen_tests::IRIS;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::cluster::{define, shared};
use crate::replicas::{ACCOUNT, Replicas, condition, grant};

/// The module may have what the installation guide lists and nothing else.
fn restricted() -> Result<Bootstrap> {
    restrict(Bootstrap::shipped()?, &documented()?)
}

/// Two replicas on the server that all share.
async fn two(namespace: &str) -> Result<Replicas> {
    Replicas::start(shared().await?, namespace, 2, restricted()?).await
}

/// A server of one's own, to do harm to.
async fn own_server() -> Result<Arc<KubeApiServer>> {
    let server = KubeApiServer::start().await?;
    define(&server.kubectl()?).await?;
    Ok(Arc::new(server))
}

fn ensure_refused(reply: &Reply) -> Result<()> {
    let refused = reply.status == 503 && reply.text.contains("Nothing was changed");
    ensure!(refused, "a write without the API server was answered {reply:?}");
    Ok(())
}

/// Waits until an Envoy's API says that it may be behind, or that it is not.
async fn until_stale(replicas: &Replicas, stale: bool) -> Result<()> {
    replicas.until_all(&format!("stale: {stale}"), |state| state.stale == Some(stale)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_moves_the_traffic_of_every_replica() -> Result<()> {
    let replicas = two("patched").await?;
    let loads = [replicas.load(0)?.rate(200.0).start(), replicas.load(1)?.rate(200.0).start()];
    for load in &loads {
        load.more(50).await?;
    }
    replicas.ask_for(&json!({"active": "green"})).await?;
    let patched = Instant::now();
    replicas.wait_for("Accepted").await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    for load in &loads {
        load.more(100).await?;
    }
    let mut latest = Duration::ZERO;
    for load in loads {
        let report = load.stop().await;
        report.ensure_no_failures()?;
        let old = report.records.iter().filter(|record| record.colour() == Some("blue"));
        latest = old.fold(latest, |latest, record| latest.max(record.began.saturating_duration_since(patched)));
        ensure!(report.count("green") > 0, "{:?}", report.colours());
    }
    println!("the last old-colour request on any replica began {latest:?} after kubectl patch");
    ensure!(latest < Duration::from_secs(5), "a request went to the old colour {latest:?} after the patch");
    replicas.wait_for("InForce").await?;
    let object = replicas.object().await?;
    let status = &object["status"];
    ensure!(status["observedGeneration"] == object["metadata"]["generation"], "{object:#}");
    ensure!((&status["active"], &status["version"]) == (&json!("green"), &json!("2")), "{object:#}");
    ensure!(status["changedBy"].as_str().is_some_and(|by| by.ends_with("via kubernetes")), "{object:#}");
    let shown = replicas.kubectl.ok(&["get", "bluegreens"]).await?;
    ensure!(shown.lines().any(|line| line.starts_with("iris") && line.contains("green")), "{shown}");

    // And a canary, with a share that has decimals.
    replicas.ask_for(&json!({"canaryPercent": 12.5})).await?;
    replicas.wait_for("Progressing").await?;
    replicas.until_all("a canary", |state| state.canary_percent == 12.5).await?;
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_the_admin_api_shows_in_the_object_and_on_the_other_replica() -> Result<()> {
    let replicas = two("called").await?;
    let before = replicas.object().await?;
    let began = Instant::now();
    replicas.admin(0)?.promote_to(IRIS, "green").await?;
    println!("a write took {:?}", began.elapsed());
    let object = replicas.object().await?;
    ensure!(object["status"]["active"] == "green", "the answer came before the write: {object:#}");
    ensure!(object["status"]["changedBy"] == "demo-operator via admin", "{object:#}");
    ensure!(object["spec"] == before["spec"], "the filter wrote the spec: {object:#}");
    let answered = Instant::now();
    replicas.until_all("green", |state| state.active == "green").await?;
    println!("the other replica had it {:?} after the answer", answered.elapsed());
    // A condition on an answer of one holds on the other.
    let revision = replicas.deployment(1).await?.revision;
    let reply = replicas.admin(1)?.promoting(IRIS).query(&[("to", "blue")]).if_match(revision).send().await?;
    ensure!(reply.status == 200, "{reply:?}");
    let reply = replicas.admin(0)?.promoting(IRIS).query(&[("to", "green")]).if_match(revision).send().await?;
    ensure!(reply.status == 412, "{reply:?}");
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_refuses_is_a_condition_with_the_reason() -> Result<()> {
    let replicas = two("refusal").await?;
    replicas.green.behave_when_probed(Behaviour::Status(503));
    let admin = replicas.admin(0)?;
    let is_seen = |state: &bluegreen_testbed::admin::Deployment| state.probe("green").is_ok_and(|probe| !probe.healthy);
    wait::until("green is seen to be ill", || admin.deployment(IRIS), is_seen).await?;
    replicas.ask_for(&json!({"active": "green"})).await?;
    replicas.wait_for("Accepted=false").await?;
    let object = replicas.object().await?;
    let accepted = condition(&object, "Accepted")?;
    ensure!(accepted["reason"] == "ColourUnhealthy", "{accepted:#}");
    ensure!(accepted["message"].as_str().is_some_and(|message| message.contains("green")), "{accepted:#}");
    ensure!(condition(&object, "InForce")?["status"] == "False", "{object:#}");
    replicas.until_all("blue", |state| state.active == "blue" && state.revision == 0).await?;
    // What it was refused for passes, and asking again, in other words, is taken.
    replicas.green.behave_when_probed(Behaviour::Answer);
    let is_well = |state: &bluegreen_testbed::admin::Deployment| state.probe("green").is_ok_and(|probe| probe.healthy);
    for index in 0..2 {
        let admin = replicas.admin(index)?;
        wait::until("green is seen to be well", || admin.deployment(IRIS), is_well).await?;
    }
    replicas.ask_for(&json!({"active": "green", "shadowPercent": 1})).await?;
    replicas.wait_for("Accepted").await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_server_traffic_flows_and_writes_are_refused() -> Result<()> {
    let server = own_server().await?;
    let replicas = Replicas::start(server.clone(), "away", 2, restricted()?).await?;
    replicas.admin(0)?.promote_to(IRIS, "green").await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    let loads = [replicas.load(0)?.rate(100.0).start(), replicas.load(1)?.rate(100.0).start()];
    for standing_still in [false, true] {
        if standing_still {
            server.pause()?
        } else {
            server.kill()?
        }
        for index in 0..2 {
            let began = Instant::now();
            ensure_refused(&replicas.admin(index)?.promoting(IRIS).query(&[("to", "blue")]).send().await?)?;
            let took = began.elapsed();
            println!("a write was refused after {took:?}, standing still: {standing_still}");
            ensure!(took < Duration::from_secs(8), "a write took {took:?} to be refused");
        }
        until_stale(&replicas, true).await?;
        replicas.until_all("green", |state| state.active == "green").await?;
        if standing_still {
            server.resume()?
        } else {
            server.restart().await?
        }
        until_stale(&replicas, false).await?;
        let revision = replicas.deployment(0).await?.revision;
        ensure!(revision == 1, "a refused write was made: {revision}");
    }
    for load in loads {
        load.stop().await.ensure_no_failures()?;
    }
    replicas.admin(1)?.promote_to(IRIS, "blue").await?;
    replicas.until_all("blue", |state| state.active == "blue" && state.revision == 2).await?;
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_at_once_lose_and_repeat_nothing() -> Result<()> {
    const WRITERS: usize = 200;
    let replicas = two("writers").await?;
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let admin = replicas.admin(writer % 2)?;
        // A share that nobody else writes: each write is a change.
        let share = format!("{}.{:02}", (writer + 1) / 100, (writer + 1) % 100);
        writers.spawn(async move { admin.patch(IRIS, &[("shadow_percent", &share)]).await });
    }
    let (mut revisions, mut refused) = (BTreeSet::new(), 0_usize);
    while let Some(reply) = writers.join_next().await {
        let reply = reply??;
        if reply.status == 503 {
            ensure_refused(&reply)?;
            refused += 1;
        } else {
            let revision = reply.deployment()?.revision;
            ensure!(revisions.insert(revision), "two writers were told of revision {revision}");
        }
    }
    println!("{} of {WRITERS} writers at once were done in {:?}, the others refused", revisions.len(), began.elapsed());
    let made = revisions.len() as u64;
    // As many as there is time for: without turns it was 8.
    ensure!(refused + revisions.len() == WRITERS && made >= 20, "{refused} refused, {made} made");
    ensure!(revisions.iter().copied().eq(1..=made), "{revisions:?}");
    replicas.until_all("the last", |state| state.revision == made).await?;
    let object = replicas.object().await?;
    ensure!(object["status"]["revision"] == made, "{object:#}");
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_is_not_ready_before_it_is_in_sync() -> Result<()> {
    let mut replicas = Replicas::start(shared().await?, "joined", 1, restricted()?).await?;
    replicas.ask_for(&json!({"active": "green"})).await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    let line = Relay::start().await?;
    replicas.join_by(line).await?;
    // It has looked, and it takes no traffic.
    let log = || async { Ok(replicas.envoy(1)?.log().lines_with("Kubernetes API").len()) };
    wait::until("a look at the API server", log, |lines| *lines > 0).await?;
    let reply = replicas.admin(1)?.get("/readyz").await?;
    ensure!(reply.status == 503, "a replica that knows nothing says that it is ready: {reply:?}");
    replicas.lines.get(1).context("no line")?.lead_to(replicas.server.address());
    replicas.until_ready(1).await?;
    ensure!(replicas.deployment(1).await?.active == "green", "it was ready with the model of its configuration");
    // A replica that is gone is missed by nobody.
    let mut gone = replicas.envoys.remove(0);
    gone.kill()?;
    replicas.admin(0)?.promote_to(IRIS, "blue").await?;
    ensure!(replicas.object().await?["status"]["active"] == "blue");
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_token_is_taken_without_a_restart() -> Result<()> {
    let replicas = two("tokens").await?;
    // The tokens of a service account that was made again are not those of the one before.
    replicas.kubectl.ok(&["delete", "serviceaccount", ACCOUNT, "--wait=false"]).await?;
    replicas.kubectl.ok(&["create", "serviceaccount", ACCOUNT]).await?;
    until_stale(&replicas, true).await?;
    let reply = replicas.admin(0)?.promoting(IRIS).query(&[("to", "green")]).send().await?;
    ensure!(reply.status == 503 && reply.text.contains("401"), "{reply:?}");
    replicas.volume.write(&replicas.kubectl.token(ACCOUNT).await?)?;
    until_stale(&replicas, false).await?;
    replicas.admin(0)?.promote_to(IRIS, "green").await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_the_set_up_is_named_and_its_repair_is_seen() -> Result<()> {
    let server = Arc::new(KubeApiServer::start().await?);
    let mut replicas = Replicas::prepare(server, "mistakes", restricted()?).await?;
    let token = replicas.kubectl.token(ACCOUNT).await?;
    replicas.volume.write("not a token")?;
    replicas.join().await?;
    let said = async |words: &str| {
        let log = || async { Ok(replicas.envoy(0)?.log().lines_with(words).len()) };
        wait::until(words, log, |lines| *lines > 0).await.map(drop)
    };
    said("answered 401").await?;
    replicas.volume.write(&token)?;
    said("answered 403").await?;
    grant(&replicas.kubectl, "mistakes").await?;
    said("is the CRD installed?").await?;
    let ready = replicas.admin(0)?.get("/readyz").await?;
    ensure!(ready.status == 503, "{ready:?}");
    define(&replicas.kubectl).await?;
    replicas.until_ready(0).await?;
    ensure!(replicas.object().await?["status"]["active"] == "blue");
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_deleted_comes_back_and_moves_nothing() -> Result<()> {
    let replicas = two("deleted").await?;
    replicas.ask_for(&json!({"active": "green"})).await?;
    replicas.until_all("green", |state| state.active == "green").await?;
    replicas.kubectl.ok(&["delete", "bluegreen", IRIS]).await?;
    let is_back = |object: &Result<Value>| object.as_ref().is_ok_and(|object| object["status"]["active"] == "green");
    wait::until("the object", || async { Ok(replicas.object().await) }, is_back).await?.map(drop)?;
    replicas.until_all("green", |state| state.active == "green" && state.revision == 1).await?;
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_people_who_ask_for_different_things_the_last_one_gets_it() -> Result<()> {
    let replicas = two("people").await?;
    let mut people = JoinSet::new();
    for person in 0..8_u32 {
        let kubectl = replicas.kubectl.clone();
        let colour = if person % 2 == 0 { "green" } else { "blue" };
        let patch = json!({"spec": {"active": colour, "shadowPercent": person}}).to_string();
        people.spawn(async move {
            kubectl.ok(&["patch", "bluegreen", IRIS, "--type=merge", "--patch", &patch]).await.map(drop)
        });
    }
    while let Some(done) = people.join_next().await {
        done??;
    }
    let object = replicas.object().await?;
    let asked = &object["spec"];
    let (active, shadow) = (asked["active"].as_str().context("no colour")?, asked["shadowPercent"].as_f64());
    replicas.wait_for("Accepted").await?;
    replicas.until_all("the last wish", |state| state.active == active && Some(state.shadow_percent) == shadow).await?;
    let object = replicas.object().await?;
    ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"], "{object:#}");
    replicas.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_deployments_each_have_their_object() -> Result<()> {
    const COUNT: usize = 200;
    let name = |index: usize| format!("model-{index}");
    let bootstrap = (0..COUNT).fold(restricted()?, |bootstrap, index| {
        let iris = bootstrap.plugins().first().map(|plugin| plugin["deployments"][IRIS].clone()).unwrap_or_default();
        bootstrap.deployment(&name(index), |deployment| {
            *deployment = iris.clone();
            deployment["match"] = json!({"path_prefix": format!("/{}", name(index))});
        })
    });
    let began = Instant::now();
    let replicas = Replicas::start(shared().await?, "many", 2, bootstrap).await?;
    println!("two replicas were ready after {:?}", began.elapsed());
    let list = || async { Ok(replicas.kubectl.ok(&["get", "bluegreens", "--no-headers"]).await?.lines().count()) };
    wait::until_within(Duration::from_secs(120), "all objects", list, |count| *count == COUNT + 1).await?;
    println!("{} objects were there after {:?}", COUNT + 1, began.elapsed());
    let last = name(COUNT - 1);
    let patch = json!({"spec": {"active": "green"}}).to_string();
    replicas.kubectl.ok(&["patch", "bluegreen", &last, "--type=merge", "--patch", &patch]).await?;
    let patched = Instant::now();
    for index in 0..2 {
        let admin = replicas.admin(index)?;
        wait::until("green", || admin.deployment(&last), |state| state.active == "green").await?;
    }
    println!("a patch of one of them was in force on both after {:?}", patched.elapsed());
    replicas.ensure_no_trap()
}
