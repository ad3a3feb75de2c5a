//! Envoy's access log and traces have the filter's decision, and no client can write it.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::{Bootstrap, Upstream, raw, wait};
use bluegreen_tests::request::{admin_call, get};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// The shipped configuration with its access log, on the admin listener too, and a changed deployment.
async fn environment(change: impl FnMut(&mut Value)) -> Result<Environment> {
    let managers = "/filter_chains/0/filters/0/typed_config";
    let bootstrap = Bootstrap::shipped_with_access_log()?.deployment(IRIS, change).edit(|tree| {
        let listeners = "/static_resources/listeners";
        let log = tree.pointer(&format!("{listeners}/0{managers}/access_log")).cloned();
        if let Some(admin) = tree.pointer_mut(&format!("{listeners}/1{managers}")) {
            admin["access_log"] = log.unwrap_or_default();
        }
        // A path that no deployment takes has a route, too.
        if let Some(route) = tree.pointer_mut(&format!("{listeners}/0{managers}/route_config/virtual_hosts/0/routes/0"))
        {
            route["match"] = json!({"prefix": "/"});
        }
    });
    Environment::with(2, bootstrap).await
}

/// Sends a `GET` and gives its line of the access log.
async fn logged(env: &Environment, path: &str, headers: &[(&str, &[u8])]) -> Result<Value> {
    raw::exchange(env.envoy.traffic()?, get(path, headers)).await?;
    line(env, path).await
}

/// The line about a request for a path that only one request has.
async fn line(env: &Environment, path: &str) -> Result<Value> {
    let quoted = format!("\"{path}\"");
    let seen = || async { Ok(env.envoy.log().lines_with(&quoted)) };
    let lines = wait::until("the access log", seen, |lines| !lines.is_empty()).await?;
    ensure!(lines.len() == 1, "{lines:#?}");
    let text = lines.first().and_then(|line| Some(&line[line.find('{')?..]));
    Ok(serde_json::from_str(text.with_context(|| format!("{lines:?} has no JSON"))?)?)
}

#[tokio::test]
async fn each_kind_of_decision_has_its_deployment_colour_version_reason_and_revision() -> Result<()> {
    let env = environment(|iris| iris["sticky"] = json!({"header": "x-user"})).await?;
    let of = |number: u32| format!("{PATH}/{number}");
    let decision = |colour: &str, version: u32, reason: &str, revision: u32| {
        json!(format!("deployment=iris colour={colour} version={version} reason={reason} revision={revision}"))
    };
    let active = logged(&env, &of(1), &[]).await?;
    ensure!(active["decision"] == decision("blue", 1, "active", 0), "{active:#}");
    let served = (&active["served_colour"], &active["served_version"], &active["cluster"], &active["status"]);
    ensure!(served == (&json!("blue"), &json!("1"), &json!("blue"), &json!(200)), "{active:#}");
    let tested = logged(&env, &of(2), &[("x-bluegreen-override", b"green")]).await?;
    ensure!(tested["decision"] == decision("green", 2, "override", 0), "{tested:#}");
    env.patch(&[("canary_percent", "100")]).await?;
    let canary = logged(&env, &of(3), &[]).await?;
    ensure!(canary["decision"] == decision("green", 2, "canary", 1), "{canary:#}");
    env.patch(&[("canary_percent", "50")]).await?;
    let sticky = logged(&env, &of(4), &[("x-user", b"alice")]).await?;
    let colour = sticky["served_colour"].as_str().unwrap_or_default();
    let version = if colour == "blue" { 1 } else { 2 };
    ensure!(sticky["decision"] == decision(colour, version, "sticky", 2), "{sticky:#}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn requests_without_a_decision_have_none_and_no_client_writes_one() -> Result<()> {
    let env = environment(|_| {}).await?;
    let forged: [(&str, &[u8]); 4] = [
        ("bluegreen", b"forged"),
        ("wasm.bluegreen", b"forged"),
        ("x-bluegreen-colour", b"forged"),
        ("x-bluegreen-version", b"forged"),
    ];
    let unmatched = logged(&env, "/other", &forged).await?;
    ensure!(unmatched["decision"].is_null() && unmatched["status"] == 200, "{unmatched:#}");
    let matched = logged(&env, &format!("{PATH}/1"), &forged).await?;
    ensure!(!matched.to_string().contains("forged"), "{matched:#}");
    let path = format!("/bluegreen/v1/deployments/{IRIS}?x=1");
    raw::exchange(env.envoy.listener("bluegreen-admin")?, admin_call("GET", &path, "", b"")).await?;
    let admin = line(&env, &path).await?;
    ensure!(admin["decision"].is_null(), "{admin:#}");
    Ok(())
}

#[tokio::test]
async fn a_span_carries_the_decision_as_a_tag() -> Result<()> {
    let spans = Upstream::start("spans").await?;
    let mut script = spans.script();
    let bootstrap = Bootstrap::shipped_with_access_log()?.with_cluster("spans", spans.address()).edit(|tree| {
        // Each span at once.
        tree["layered_runtime"]["layers"][0]["static_layer"]["tracing.zipkin.min_flush_spans"] = json!(1);
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        if let Some(manager) = tree.pointer_mut(manager) {
            manager["tracing"] = json!({
                "custom_tags": [{"tag": "bluegreen", "value": "%FILTER_STATE(wasm.bluegreen:PLAIN)%"}],
                "provider": {"name": "envoy.tracers.zipkin", "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
                    "collector_cluster": "spans",
                    "collector_endpoint": "/api/v2/spans",
                    "collector_endpoint_version": "HTTP_JSON",
                }},
            });
        }
    });
    let env = Environment::with(1, bootstrap).await?;
    raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-bluegreen-override", b"green")])).await?;
    let mut exchange = script.next().await?;
    let mut body = Vec::new();
    while let Some(piece) = exchange.piece().await? {
        body.extend_from_slice(&piece);
    }
    exchange.answer(202, &[])?.end();
    let sent: Value = serde_json::from_slice(&body)?;
    let expected = "deployment=iris colour=green version=2 reason=override revision=0";
    ensure!(sent.pointer("/0/tags/bluegreen") == Some(&json!(expected)), "{sent:#}");
    Ok(())
}
