//! Changes, breaches and refusals reach a real HTTP server, and no change waits for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::script::{Exchange, Script};
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Relay, Upstream, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// The path of the receiver, of which no line of the log may show the last part.
const HOOK: &str = "/services/T000/B000/SECRET";

/// An Envoy with the receiver as its cluster `hooks`.
async fn environment(
    workers: u32,
    hooks: &Upstream,
    receiver: Value,
    change: impl FnMut(&mut Value),
) -> Result<Environment> {
    Environment::with(workers, configured(hooks, receiver)?.deployment(IRIS, change)).await
}

/// The shipped configuration with this receiver as the cluster `hooks`.
fn configured(hooks: &Upstream, mut receiver: Value) -> Result<Bootstrap> {
    receiver["cluster"] = json!("hooks");
    receiver["path"] = json!(HOOK);
    let bootstrap = Bootstrap::shipped()?.with_cluster("hooks", hooks.address());
    Ok(bootstrap
        .plugin(|plugin| plugin["notify"] = json!([receiver]))
        .edit(|tree| tree["node"] = json!({"id": "edge-1", "cluster": "edge"})))
}

/// The next notification, answered with this status.
async fn next(script: &mut Script, status: u16) -> Result<(Exchange, Value)> {
    let mut exchange = script.next().await?;
    let mut body = Vec::new();
    while let Some(piece) = exchange.piece().await? {
        body.extend_from_slice(&piece);
    }
    exchange.answer(status, &[])?.end();
    Ok((exchange, serde_json::from_slice(&body)?))
}

async fn sent(env: &Environment, result: &str) -> Result<f64> {
    let samples = env.envoy.prometheus().await?;
    Ok(samples.value("bluegreen_notifications_total", &[("result", result)]).unwrap_or_default())
}

fn ensure_secret_is_kept(env: &Environment) -> Result<()> {
    let lines = env.envoy.log().lines_with("SECRET");
    ensure!(lines.is_empty(), "the path is in the log: {lines:#?}");
    Ok(())
}

#[tokio::test]
async fn each_change_comes_once_and_in_order_from_an_envoy_with_four_workers() -> Result<()> {
    let hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let env = environment(4, &hooks, json!({"headers": {"authorization": "Bearer abc"}}), |_| {}).await?;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "10"), ("reason", "a tenth first")]).await?.accepted()?;
    admin.promoting(IRIS).query(&[("reason", "v2 \"passed\" <all>")]).send().await?.accepted()?;
    admin.patch(IRIS, &[("active", "green")]).await?.accepted()?;
    let (exchange, canary) = next(&mut script, 200).await?;
    ensure!((exchange.head.method.as_str(), exchange.head.path.as_str()) == ("POST", HOOK), "{:?}", exchange.head);
    ensure!(exchange.head.values("authorization") == [b"Bearer abc"], "{:?}", exchange.head);
    ensure!(exchange.head.values("content-type") == [b"application/json"], "{:?}", exchange.head);
    let id = canary["id"].as_str().unwrap_or_default().to_owned();
    ensure!(exchange.head.values("idempotency-key") == [id.as_bytes()], "{:?} {canary:#}", exchange.head);
    let (_, promote) = next(&mut script, 200).await?;
    for (seen, revision, text) in [
        (&canary, 1, "iris: canary 10 %, was 0 % (revision 1 by demo-operator, source admin): a tenth first"),
        (
            &promote,
            2,
            "iris: green (version 2) is active now, blue was; canary 0 %, was 10 % \
             (revision 2 by demo-operator, source admin): v2 \"passed\" <all>",
        ),
    ] {
        let about = (&seen["type"], &seen["deployment"], &seen["revision"], &seen["text"], &seen["source"]);
        let expected = (&json!("change"), &json!("iris"), &json!(revision), &json!(text), &json!("admin"));
        ensure!(about == expected, "{seen:#}");
    }
    ensure!(promote["envoy"] == "edge-1", "{promote:#}");
    // A third one is there only if one came twice, or for the patch that changed nothing.
    admin.promote_to(IRIS, "blue").await?;
    let (_, third) = next(&mut script, 200).await?;
    ensure!(third["revision"] == 3, "{third:#}");
    wait::until("three sent", || sent(&env, "sent"), |sent| *sent == 3.0).await?;
    ensure_secret_is_kept(&env)?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn slack_gets_a_sentence_that_mentions_nobody() -> Result<()> {
    let hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let env = environment(2, &hooks, json!({"format": "slack"}), |_| {}).await?;
    env.envoy.admin()?.promoting(IRIS).query(&[("reason", "<!channel> & co")]).send().await?.accepted()?;
    let (exchange, body) = next(&mut script, 200).await?;
    let text = "iris: green (version 2) is active now, blue was (revision 1 by demo-operator, source admin): \
                &lt;!channel&gt; &amp; co";
    ensure!(body == json!({"text": text}), "{body:#}");
    ensure!(exchange.head.values("host") == [b"hooks.slack.com"], "{:?}", exchange.head);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_of_the_guard_and_the_change_that_follows_both_come() -> Result<()> {
    let hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let env = environment(2, &hooks, json!({}), |iris| {
        iris["guard"] = json!({});
        iris["initial"]["canary_percent"] = json!(50);
    })
    .await?;
    env.green.behave(Behaviour::Status(500));
    let load = env.load()?.connections(4).start();
    let (_, breach) = next(&mut script, 200).await?;
    let seen = [&breach["type"], &breach["rule"], &breach["colour"], &breach["source"]];
    ensure!(seen == ["breach", "error", "green", "guard"], "{breach:#}");
    let (_, change) = next(&mut script, 200).await?;
    ensure!((&change["type"], &change["source"]) == (&json!("change"), &json!("guard")), "{change:#}");
    ensure!(change["to"]["canary_percent"] == 0, "{change:#}");
    load.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_automatic_change_that_is_refused_comes_with_the_reason() -> Result<()> {
    let hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let relay = Relay::start().await?;
    let bootstrap = configured(&hooks, json!({"events": ["refused"]}))?
        .with_cluster("envoy_admin", relay.address())
        .plugin(|plugin| plugin["runtime"] = json!({"cluster": "envoy_admin", "poll_interval": "250ms"}))
        .edit(|tree| tree["layered_runtime"] = json!({"layers": [{"name": "admin", "admin_layer": {}}]}))
        .deployment(IRIS, |iris| {
            iris["smoke_test"] = json!({"required": true, "requests": [{"path": "/invocations"}]});
        });
    let env = Environment::with(2, bootstrap).await?;
    relay.lead_to(env.envoy.own_admin());
    // A change is not wanted, and so it is passed over. The first look at the runtime has nothing to say.
    env.patch(&[("shadow_percent", "1")]).await?;
    env.until("a first look", |state| state.sources.get("runtime").is_some_and(|seen| seen.error.is_none())).await?;
    env.envoy.tell("/runtime_modify?bluegreen.iris.active=green").await?;
    let (_, refused) = next(&mut script, 200).await?;
    let seen = [&refused["type"], &refused["source"], &refused["deployment"]];
    ensure!(seen == ["refused", "runtime", "iris"], "{refused:#}");
    ensure!(refused["reason"].as_str().is_some_and(|why| why.contains("smoke test")), "{refused:#}");
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_was_down_gets_all_once_it_is_back() -> Result<()> {
    let mut hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let env = environment(2, &hooks, json!({}), |_| {}).await?;
    hooks.stop().await;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "1")]).await?.accepted()?;
    admin.patch(IRIS, &[("canary_percent", "2")]).await?.accepted()?;
    env.until("noted", |state| state.has_problem("notifications-failing")).await?;
    hooks.listen().await?;
    let (refused, first) = next(&mut script, 503).await?;
    let (again, repeated) = next(&mut script, 200).await?;
    ensure!((&first, first["revision"].as_u64()) == (&repeated, Some(1)), "{first:#} {repeated:#}");
    let keys = [refused, again].map(|exchange| exchange.head.values("idempotency-key").concat());
    ensure!(keys[0] == keys[1] && !keys[0].is_empty(), "{keys:?}");
    let (_, second) = next(&mut script, 200).await?;
    ensure!(second["revision"] == 2, "{second:#}");
    env.until("taken back", |state| !state.has_problem("notifications-failing")).await?;
    ensure_secret_is_kept(&env)
}

#[tokio::test]
async fn a_promote_is_answered_at_once_while_the_receiver_hangs() -> Result<()> {
    let hooks = Upstream::start("hooks").await?;
    let mut script = hooks.script();
    let env = environment(2, &hooks, json!({}), |_| {}).await?;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "1")]).await?.accepted()?;
    // It is held open, and with it all that comes after.
    let hanging = script.next().await?;
    let began = Instant::now();
    for colour in ["green", "blue", "green", "blue"] {
        timeout(Duration::from_secs(3), admin.promote_to(IRIS, colour))
            .await
            .context("it waits for the receiver")??;
    }
    println!("four promotes took {:?}", began.elapsed());
    env.load()?.at_most(40).run().await.ensure_no_failures()?;
    drop(hanging);
    env.ensure_no_trap()
}
