//! A deployment follows a model registry: its marks move traffic, its absence does not, and its webhook is verified.
//!
//! The registry here is one in memory; `tests/mlflow` has a real one.

use anyhow::{Result, ensure};
use bluegreen_testbed::registry::{Delivery, Registry};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, envoy, wait};
use bluegreen_tests::admin::ensure_problem_type;
use bluegreen_tests::registry::{WEBHOOK_SECRET, last_change, until_active, until_not_shown, until_shown};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// The header in which Envoy hands it over.
const SECRET_HEADER: &str = "x-bluegreen-webhook-secret";

/// No poll but the first, so that only a webhook can have done it.
const NEVER: &str = "1h";

async fn registry() -> Result<Registry> {
    Registry::start(&[("blue", "1"), ("green", "2"), ("production", "1")]).await
}

/// The shipped configuration, which asks `registry` at this interval.
async fn following(
    registry: &mut Registry,
    interval: &str,
    change: impl Fn(Bootstrap) -> Bootstrap,
) -> Result<Environment> {
    let bootstrap = Bootstrap::shipped_with_mlflow()?
        .with_cluster("mlflow", registry.upstream().address())
        .deployment(IRIS, |iris| iris["mlflow"]["poll_interval"] = json!(interval));
    let env = Environment::with(2, change(bootstrap)).await?;
    until_shown(&env.envoy, "\"version\":").await?;
    Ok(env)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_alias_moves_traffic_and_moving_it_back_returns_it() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let load = env.load()?.start();
    load.more(50).await?;
    registry.set("production", "2");
    until_active(&env.envoy, "green").await?;
    last_change(&env.envoy, "version 1 -> 2: alias production was moved").await?;
    load.more(50).await?;
    registry.set("production", "1");
    let state = until_active(&env.envoy, "blue").await?;
    ensure!(state.revision == 2, "{state:?}");
    last_change(&env.envoy, "version 2 -> 1: alias production was moved").await?;
    load.more(50).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    ensure!(report.count("green") >= 50 && report.count("blue") >= 50, "{:?}", report.colours());
    env.ensure_no_trap()
}

#[tokio::test]
async fn the_registry_is_polled_with_the_credential_that_only_envoy_knows() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let question = registry.last_question()?;
    let values = |name: &str| -> Vec<String> {
        let of = question.headers.iter().filter(|(known, _)| known == name);
        of.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    ensure!(question.path == "/api/2.0/mlflow/registered-models/get?name=my%2Dmodel", "{question:?}");
    ensure!(values("authorization") == ["Bearer demo-registry-token"], "{question:?}");
    ensure!(values("host") == ["localhost"], "{question:?}");
    ensure!(values(SECRET_HEADER).is_empty(), "{question:?}");
    let configuration = env.envoy.ask("/config_dump").await?;
    for credential in ["demo-registry-token", WEBHOOK_SECRET] {
        ensure!(!configuration.contains(credential), "{credential} stands in Envoy's configuration");
    }
    Ok(())
}

#[tokio::test]
async fn a_registry_under_a_path_prefix_is_followed() -> Result<()> {
    let mut registry = registry().await?;
    let prefixed =
        |bootstrap: Bootstrap| bootstrap.deployment(IRIS, |iris| iris["mlflow"]["path_prefix"] = json!("/ml/flow/"));
    let env = following(&mut registry, "250ms", prefixed).await?;
    let question = registry.last_question()?;
    ensure!(question.path == "/ml/flow/api/2.0/mlflow/registered-models/get?name=my%2Dmodel", "{question:?}");
    registry.set("production", "2");
    until_active(&env.envoy, "green").await?;
    Ok(())
}

#[tokio::test]
async fn an_alias_that_stays_where_it_is_leaves_an_operators_switch_alone() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let asked = registry.upstream().requests();
    registry.upstream().wait_for_requests(asked + 4).await?;
    ensure!(env.deployment().await?.active == "green", "the registry took the switch back");
    registry.set("production", "7");
    until_shown(&env.envoy, "names version 7, which is neither blue (1) nor green (2)").await?;
    ensure!(env.deployment().await?.active == "green", "version 7 moved traffic");
    registry.set("production", "1");
    until_active(&env.envoy, "blue").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_registry_is_unreachable_traffic_goes_on_and_operators_switch() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    let load = env.load()?.start();
    registry.upstream().stop().await;
    let seen = until_shown(&env.envoy, "away since ").await?;
    ensure!(seen["value"]["version"] == "1", "what was known is lost: {seen}");
    env.envoy.admin()?.promote(IRIS).await?;
    load.more(50).await?;
    registry.upstream().listen().await?;
    until_not_shown(&env.envoy, "away since ").await?;
    ensure!(env.deployment().await?.active == "green", "the registry took the switch back");
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn versions_shown_to_clients_and_operators_are_the_registrys() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    registry.set("blue", "12");
    until_shown(&env.envoy, "\"blue\":\"12\"").await?;
    let shown = env.deployment().await?;
    ensure!(shown.colour("blue")?.version == "12" && shown.colour("green")?.version == "2", "{shown:?}");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let look = || async {
        let answer = http.get(env.envoy.url("/invocations")?).send().await?;
        Ok(answer.headers().get("x-bluegreen-version").map(|value| value.to_str().unwrap_or_default().to_owned()))
    };
    wait::until("an answer of version 12", look, |version| version.as_deref() == Some("12")).await?;
    Ok(())
}

#[tokio::test]
async fn a_colours_alias_that_is_moved_ends_its_canary_and_is_recorded() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    env.patch(&[("canary_percent", "10")]).await?;
    registry.set("green", "3");
    let state = env.until("version 3", |state| state.colour("green").is_ok_and(|green| green.version == "3")).await?;
    ensure!((state.revision, state.canary_percent) == (2, 0.0), "{state:?}");
    let change = last_change(&env.envoy, "version 2 -> 3: the alias green is on it").await?;
    ensure!(change.replaced.is_some_and(|replaced| replaced["to"]["cluster"] == "green"), "the cluster stays");
    // And what is followed goes on from there.
    registry.set("production", "3");
    until_active(&env.envoy, "green").await?;
    Ok(())
}

#[tokio::test]
async fn a_version_whose_server_is_unhealthy_waits_until_it_is_healthy() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    env.green.behave_when_probed(Behaviour::Status(500));
    registry.set("production", "2");
    until_shown(&env.envoy, "green would get traffic, and its probe failed just now: answered 500").await?;
    ensure!(env.deployment().await?.revision == 0, "an unhealthy colour got traffic");
    env.green.behave_when_probed(Behaviour::Answer);
    until_active(&env.envoy, "green").await?;
    let seen = until_shown(&env.envoy, "\"version\":\"2\"").await?;
    ensure!(seen["refusal"].is_null(), "{seen}");
    Ok(())
}

#[tokio::test]
async fn without_enforcement_the_registry_switches_to_an_unhealthy_server_and_that_is_recorded() -> Result<()> {
    let mut registry = registry().await?;
    let lenient = |bootstrap: Bootstrap| bootstrap.deployment(IRIS, |iris| iris["mlflow"]["enforce"] = json!(false));
    let env = following(&mut registry, "250ms", lenient).await?;
    env.green.behave_when_probed(Behaviour::Status(500));
    registry.set("production", "2");
    until_active(&env.envoy, "green").await?;
    let change = last_change(&env.envoy, "version 1 -> 2: alias production was moved").await?;
    ensure!(change.forced, "{change:?}");
    Ok(())
}

#[tokio::test]
async fn a_configured_canary_begins_when_the_alias_moves_and_ends_when_it_moves_back() -> Result<()> {
    let mut registry = registry().await?;
    let canary = |bootstrap: Bootstrap| bootstrap.deployment(IRIS, |iris| iris["mlflow"]["canary_percent"] = json!(10));
    let env = following(&mut registry, "250ms", canary).await?;
    let admin = env.envoy.admin()?;
    for (version, percent) in [("2", 10.0), ("1", 0.0)] {
        registry.set("production", version);
        let look = || async { admin.deployment(IRIS).await };
        let state = wait::until(&format!("{percent} %"), look, |state| state.canary_percent == percent).await?;
        ensure!(state.active == "blue", "{state:?}");
    }
    Ok(())
}

#[tokio::test]
async fn after_a_restart_of_envoy_the_registry_restores_the_state() -> Result<()> {
    let mut registry = registry().await?;
    let mut env = following(&mut registry, "250ms", |bootstrap| bootstrap).await?;
    registry.set("production", "2");
    until_active(&env.envoy, "green").await?;
    env.envoy.kill()?;
    env.envoy.restart().await?;
    until_active(&env.envoy, "green").await?;
    last_change(&env.envoy, "version 2 has alias production").await?;
    Ok(())
}

#[tokio::test]
async fn a_signed_delivery_polls_the_registry_at_once() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, NEVER, |bootstrap| bootstrap).await?;
    let admin = env.envoy.admin()?;
    registry.set("production", "2");
    let delivery = Delivery::now(WEBHOOK_SECRET, "first");
    let reply = delivery.send(&admin, &[]).await?;
    ensure!((reply.status, reply.json()?) == (202, json!({"accepted": true, "asks_for": ["iris"]})), "{reply:?}");
    until_active(&env.envoy, "green").await?;
    ensure_problem_type(&delivery.send(&admin, &[]).await?, 409, "replayed-delivery")?;
    // What a delivery says is not believed: the registry is asked.
    let wrong = Delivery { body: delivery.body.replace("\"2\"", "\"1\""), ..Delivery::now(WEBHOOK_SECRET, "second") };
    let asked = registry.upstream().requests();
    wrong.send(&admin, &[]).await?.accepted()?;
    registry.upstream().wait_for_requests(asked + 1).await?;
    ensure!(admin.deployment(IRIS).await?.active == "green", "a delivery was believed");
    Ok(())
}

#[tokio::test]
async fn a_delivery_that_is_not_signed_with_envoys_secret_is_refused_and_polls_nothing() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, NEVER, |bootstrap| bootstrap).await?;
    let admin = env.envoy.admin()?;
    let honest = Delivery::now(WEBHOOK_SECRET, "a");
    // Somebody signs with a secret of their own, and says so: Envoy's copy of the header wins.
    let forged = Delivery::now("mine", "b");
    let altered = Delivery { timestamp: honest.timestamp - 301, ..honest.clone() };
    let ahead = Delivery { timestamp: honest.timestamp + 400, ..honest.clone() };
    let registry = registry.upstream();
    let polls_by_refused = || async {
        let asked = registry.requests();
        for headers in [&[][..], &[(SECRET_HEADER, "mine")], &[(SECRET_HEADER, "mine"), (SECRET_HEADER, "mine")]] {
            ensure_problem_type(&forged.send(&admin, headers).await?, 401, "bad-signature")?;
        }
        ensure_problem_type(&altered.send(&admin, &[]).await?, 401, "stale-delivery")?;
        ensure_problem_type(&ahead.send(&admin, &[]).await?, 401, "stale-delivery")?;
        let unsigned = admin.anonymous().call(reqwest::Method::POST, "/v1/mlflow/webhook").body(honest.body.clone());
        ensure_problem_type(&unsigned.send().await?, 401, "bad-signature")?;
        Ok(registry.requests() - asked)
    };
    // A worker that starts late, on a busy machine, takes the lease over once and polls: hence more than one attempt.
    wait::until("refused deliveries without a poll", polls_by_refused, |polls| *polls == 0).await?;
    ensure!(admin.deployment(IRIS).await?.revision == 0, "a refused delivery changed the state");
    env.ensure_no_trap()
}

#[tokio::test]
async fn without_envoys_secret_no_delivery_is_taken_whatever_a_client_sends() -> Result<()> {
    let mut registry = registry().await?;
    let env = following(&mut registry, NEVER, without_injector).await?;
    let admin = env.envoy.admin()?;
    let forged = Delivery::now("mine", "a");
    for headers in [&[][..], &[(SECRET_HEADER, "mine")]] {
        let reply = forged.send(&admin, headers).await?;
        ensure_problem_type(&reply, 503, "webhook-secret-missing")?;
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
