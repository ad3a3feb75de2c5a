//! A deployment follows a model registry: its marks move traffic, its absence does not, and its webhook is verified.
//!
//! The registry here is one in memory; `mlflow.rs` is about the real one.

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Reply;
use bluegreen_testbed::registry::{Delivery, Registry};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, envoy, wait};
use bluegreen_tests::following::{active, last_change, not_told, told};
use bluegreen_tests::{IRIS, Stage};
use serde_json::{Value, json};

/// The secret in `envoy/mlflow/webhook-secret.yaml`.
const SECRET: &str = "demo-webhook-secret";

/// The header in which Envoy hands it over.
const SECRET_HEADER: &str = "x-bluegreen-webhook-secret";

/// No poll but the first, so that only a webhook can have done it.
const NEVER: &str = "1h";

async fn registry() -> Result<Registry> {
    Registry::start(&[("blue", "1"), ("green", "2"), ("production", "1")]).await
}

/// The shipped configuration, which asks `registry` at this interval.
async fn following(registry: &mut Registry, interval: &str, change: impl Fn(Bootstrap) -> Bootstrap) -> Result<Stage> {
    let bootstrap = Bootstrap::shipped_with_mlflow()?
        .with_cluster("mlflow", registry.upstream().address())
        .deployment(IRIS, |iris| iris["mlflow"]["poll_interval"] = json!(interval));
    let stage = Stage::with(2, change(bootstrap)).await?;
    told(&stage.envoy, "\"version\":").await?;
    Ok(stage)
}

fn ensure_problem(reply: &Reply, status: u16, kind: &str) -> Result<()> {
    let problem = reply.json()?;
    let expected = format!("urn:bluegreen:problem:{kind}");
    ensure!((reply.status, &problem["type"]) == (status, &expected.into()), "expected {status} {kind}, got {reply:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_alias_moves_traffic_and_moving_it_back_brings_it_back() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let load = stage.load()?.start();
    load.more(50).await?;
    registry.set("production", "2");
    active(&stage.envoy, "green").await?;
    last_change(&stage.envoy, "version 1 -> 2: alias production was moved").await?;
    load.more(50).await?;
    registry.set("production", "1");
    let state = active(&stage.envoy, "blue").await?;
    ensure!(state.revision == 2, "{state:?}");
    last_change(&stage.envoy, "version 2 -> 1: alias production was moved").await?;
    load.more(50).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    ensure!(report.count("green") >= 50 && report.count("blue") >= 50, "{:?}", report.colours());
    stage.ensure_no_trap()
}

#[tokio::test]
async fn the_registry_is_asked_with_the_credential_that_only_envoy_knows() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let question = registry.last_question()?;
    let values = |name: &str| -> Vec<String> {
        let of = question.headers.iter().filter(|(known, _)| known == name);
        of.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    ensure!(question.path == "/api/2.0/mlflow/registered-models/get?name=my%2Dmodel", "{question:?}");
    ensure!(values("authorization") == ["Bearer demo-registry-token"], "{question:?}");
    ensure!(values("host") == ["localhost"], "{question:?}");
    ensure!(values(SECRET_HEADER).is_empty(), "{question:?}");
    let configuration = stage.envoy.ask("/config_dump").await?;
    for credential in ["demo-registry-token", SECRET] {
        ensure!(!configuration.contains(credential), "{credential} stands in Envoy's configuration");
    }
    Ok(())
}

#[tokio::test]
async fn an_alias_that_stays_where_it_is_leaves_an_operators_switch_alone() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    stage.envoy.admin()?.promote(IRIS).await?;
    let asked = registry.upstream().requests();
    registry.upstream().wait_for_requests(asked + 4).await?;
    ensure!(stage.envoy.admin()?.deployment(IRIS).await?.active == "green", "the registry took the switch back");
    registry.set("production", "7");
    told(&stage.envoy, "names version 7, which is neither blue (1) nor green (2)").await?;
    ensure!(stage.envoy.admin()?.deployment(IRIS).await?.active == "green", "version 7 moved traffic");
    registry.set("production", "1");
    active(&stage.envoy, "blue").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_registry_is_away_traffic_goes_on_and_operators_switch() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let load = stage.load()?.start();
    registry.upstream().stop().await;
    let seen = told(&stage.envoy, "away since ").await?;
    ensure!(seen["value"]["version"] == "1", "what was known is lost: {seen}");
    stage.envoy.admin()?.promote(IRIS).await?;
    load.more(50).await?;
    registry.upstream().listen().await?;
    not_told(&stage.envoy, "away since ").await?;
    ensure!(stage.envoy.admin()?.deployment(IRIS).await?.active == "green", "the registry took the switch back");
    load.stop().await.ensure_no_failures()?;
    stage.ensure_no_trap()
}

#[tokio::test]
async fn versions_shown_to_clients_and_operators_are_the_registrys() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    registry.set("blue", "12");
    told(&stage.envoy, "\"blue\":\"12\"").await?;
    let shown = stage.envoy.admin()?.deployment(IRIS).await?;
    ensure!(shown.colour("blue")?.version == "12" && shown.colour("green")?.version == "2", "{shown:?}");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let look = || async {
        let answer = http.get(stage.envoy.url("/invocations")?).send().await?;
        Ok(answer.headers().get("x-bluegreen-version").map(|value| value.to_str().unwrap_or_default().to_owned()))
    };
    wait::until("an answer of version 12", look, |version| version.as_deref() == Some("12")).await?;
    Ok(())
}

#[tokio::test]
async fn a_version_whose_server_is_sick_waits_until_it_is_well() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    stage.green.behave_when_probed(Behaviour::Status(500));
    registry.set("production", "2");
    told(&stage.envoy, "green would get traffic, and its probe failed just now: answered 500").await?;
    ensure!(stage.envoy.admin()?.deployment(IRIS).await?.revision == 0, "a sick colour got traffic");
    stage.green.behave_when_probed(Behaviour::Answer);
    active(&stage.envoy, "green").await?;
    let seen = told(&stage.envoy, "\"version\":\"2\"").await?;
    ensure!(seen["refusal"].is_null(), "{seen}");
    Ok(())
}

#[tokio::test]
async fn without_enforcement_the_registry_switches_to_a_sick_server_and_that_is_recorded() -> Result<()> {
    let mut registry = registry().await?;
    let lenient = |bootstrap: Bootstrap| bootstrap.deployment(IRIS, |iris| iris["mlflow"]["enforce"] = json!(false));
    let stage = following(&mut registry, "250ms", lenient).await?;
    stage.green.behave_when_probed(Behaviour::Status(500));
    registry.set("production", "2");
    active(&stage.envoy, "green").await?;
    let change = last_change(&stage.envoy, "version 1 -> 2: alias production was moved").await?;
    ensure!(change.forced, "{change:?}");
    Ok(())
}

#[tokio::test]
async fn a_configured_canary_begins_when_the_alias_moves_and_ends_when_it_moves_back() -> Result<()> {
    let mut registry = registry().await?;
    let canary = |bootstrap: Bootstrap| bootstrap.deployment(IRIS, |iris| iris["mlflow"]["canary_percent"] = json!(10));
    let stage = following(&mut registry, "250ms", canary).await?;
    let admin = stage.envoy.admin()?;
    for (version, percent) in [("2", 10.0), ("1", 0.0)] {
        registry.set("production", version);
        let look = || async { admin.deployment(IRIS).await };
        let state = wait::until(&format!("{percent} %"), look, |state| state.canary_percent == percent).await?;
        ensure!(state.active == "blue", "{state:?}");
    }
    Ok(())
}

#[tokio::test]
async fn after_a_restart_of_envoy_the_registry_brings_the_state_back() -> Result<()> {
    let mut registry = registry().await?;
    let mut stage = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    registry.set("production", "2");
    active(&stage.envoy, "green").await?;
    stage.envoy.kill()?;
    stage.envoy.restart().await?;
    active(&stage.envoy, "green").await?;
    last_change(&stage.envoy, "version 2 bears alias production").await?;
    Ok(())
}

#[tokio::test]
async fn a_signed_delivery_has_the_registry_asked_at_once() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, NEVER, |bootstrap| bootstrap).await?;
    let admin = stage.envoy.admin()?;
    registry.set("production", "2");
    let delivery = Delivery::now(SECRET, "first");
    let reply = delivery.send(&admin, &[]).await?;
    ensure!((reply.status, reply.json()?) == (202, json!({"accepted": true, "asks_for": ["iris"]})), "{reply:?}");
    active(&stage.envoy, "green").await?;
    ensure_problem(&delivery.send(&admin, &[]).await?, 409, "replayed-delivery")?;
    // What a delivery says is not believed: the registry is asked.
    let wrong = Delivery { body: delivery.body.replace("\"2\"", "\"1\""), ..Delivery::now(SECRET, "second") };
    let asked = registry.upstream().requests();
    wrong.send(&admin, &[]).await?.accepted()?;
    registry.upstream().wait_for_requests(asked + 1).await?;
    ensure!(admin.deployment(IRIS).await?.active == "green", "a delivery was believed");
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_is_not_signed_with_envoys_secret_is_refused_and_asks_nobody() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, NEVER, |bootstrap| bootstrap).await?;
    let admin = stage.envoy.admin()?;
    let asked = registry.upstream().requests();
    let honest = Delivery::now(SECRET, "a");
    // Somebody signs with a secret of their own, and says so: Envoy's copy of the header wins.
    let forged = Delivery::now("mine", "b");
    for headers in [&[][..], &[(SECRET_HEADER, "mine")], &[(SECRET_HEADER, "mine"), (SECRET_HEADER, "mine")]] {
        ensure_problem(&forged.send(&admin, headers).await?, 401, "bad-signature")?;
    }
    let altered = Delivery { timestamp: honest.timestamp - 301, ..honest.clone() };
    ensure_problem(&altered.send(&admin, &[]).await?, 401, "stale-delivery")?;
    let ahead = Delivery { timestamp: honest.timestamp + 400, ..honest.clone() };
    ensure_problem(&ahead.send(&admin, &[]).await?, 401, "stale-delivery")?;
    let unsigned = admin.anonymous().call(reqwest::Method::POST, "/v1/mlflow/webhook").body(honest.body.clone());
    ensure_problem(&unsigned.send().await?, 401, "bad-signature")?;
    ensure!(registry.upstream().requests() == asked, "a refused delivery had the registry asked");
    ensure!(admin.deployment(IRIS).await?.revision == 0, "a refused delivery changed the state");
    stage.ensure_no_trap()
}

#[tokio::test]
async fn without_envoys_secret_no_delivery_is_taken_whatever_a_client_sends() -> Result<()> {
    let mut registry = registry().await?;
    let stage = following(&mut registry, NEVER, without_injector).await?;
    let admin = stage.envoy.admin()?;
    let forged = Delivery::now("mine", "a");
    for headers in [&[][..], &[(SECRET_HEADER, "mine")]] {
        let reply = forged.send(&admin, headers).await?;
        ensure_problem(&reply, 503, "webhook-secret-missing")?;
        ensure!(reply.text.contains("credential injector"), "{reply:?}");
    }
    Ok(())
}

/// The shipped configuration without the filter that hands the secret over; what removes a client's copy stays.
fn without_injector(bootstrap: Bootstrap) -> Bootstrap {
    bootstrap.edit(|tree| {
        let listeners = tree.pointer_mut("/static_resources/listeners").and_then(Value::as_array_mut);
        for listener in listeners.into_iter().flatten().filter(|listener| listener["name"] == envoy::ADMIN) {
            let filters = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters");
            if let Some(filters) = filters.and_then(Value::as_array_mut) {
                filters.retain(|filter| filter["name"] != "envoy.filters.http.credential_injector");
            }
        }
    })
}
