//! Answers to copied requests, compared: what is found, what is let go of, and that no client notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::bootstrap::Bootstrap;
use bluegreen_testbed::prometheus::Samples;
use bluegreen_testbed::upstream::{Behaviour, Prediction};
use bluegreen_testbed::{Load, raw, wait};
use bluegreen_tests::request::request;
use bluegreen_tests::{Environment, IRIS, PATH};
use reqwest::Method;
use serde_json::{Value, json};

const INPUT: &str = r#"{"instances": [[6.0, 2.7, 5.1, 1.6]]}"#;

/// All requests are copied, and compared under these further rules.
async fn environment(workers: u32, rules: Value) -> Result<Environment> {
    Environment::with(workers, bootstrap(rules)?).await
}

fn bootstrap(rules: Value) -> Result<Bootstrap> {
    let mut compare = json!({"safe": [{"method": "POST", "path_prefix": PATH}], "max_in_flight": 64});
    let rules = rules.as_object().context("rules")?.clone();
    compare.as_object_mut().context("an object")?.extend(rules);
    Ok(Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["initial"] = json!({"shadow_percent": 100});
        iris["shadow"] = json!({"compare": compare});
    }))
}

fn calls(env: &Environment) -> Result<Load> {
    Ok(env.load()?.body(Method::POST, INPUT).connections(4))
}

async fn findings(env: &Environment) -> Result<Value> {
    Ok(env.envoy.admin()?.comparison(IRIS).await?["shadow"].clone())
}

/// Waits until so many answers were compared.
async fn compared(env: &Environment, count: u64) -> Result<Value> {
    let what = format!("{count} compared answers");
    wait::until(&what, || findings(env), |found| found["compared"].as_u64() >= Some(count)).await
}

/// Waits until so many copies were let go of for this reason.
async fn dropped(env: &Environment, reason: &str, count: u64) -> Result<Value> {
    let what = format!("{count} copies dropped as {reason}");
    wait::until(&what, || findings(env), |found| found["dropped"][reason].as_u64() >= Some(count)).await
}

async fn disagreements(env: &Environment) -> Result<Vec<Value>> {
    let reply = env.envoy.admin()?.get(&format!("/v1/deployments/{IRIS}/disagreements")).await?;
    Ok(reply.accepted()?.json()?["disagreements"].as_array().context("a list")?.clone())
}

#[tokio::test]
async fn a_candidate_that_answers_otherwise_is_found_and_every_client_is_answered_by_the_active_colour() -> Result<()> {
    let env = environment(2, json!({"keep_inputs": true})).await?;
    env.blue.behave(Behaviour::Model(|_, _| Prediction::json(r#"{"predictions": [1]}"#)));
    env.green.behave(Behaviour::Model(|_, number| {
        Prediction::json(if number % 4 == 0 { r#"{"predictions": [2]}"# } else { r#"{"predictions": [1]}"# })
    }));
    let report = calls(&env)?.header("x-envoy-max-retries", b"7")?.at_most(200).run().await;
    report.ensure_no_failures()?;
    let found = compared(&env, 200).await?;
    ensure!(found["compared"] == 200 && found["disagreed"] == 50, "{found:#}");
    // Ten of the rest at least are sent to blue again, and each that differed.
    ensure!((255..=270).contains(&env.blue.requests()), "{} requests at blue", env.blue.requests());
    ensure!(env.green.requests() == 200, "{} requests at green", env.green.requests());
    let last = disagreements(&env).await?;
    // The input was the same each time.
    ensure!(last.len() == 1, "{last:#?}");
    let first = last.first().context("none")?;
    ensure!(first["times"] == 50, "{first:#}");
    ensure!(first["input"] == INPUT && first["active"] == "1" && first["candidate"] == "2", "{first:#}");
    ensure!(first["request_id"].as_str().is_some_and(|id| id.len() == 36), "{first:#}");
    let copy = env.green.seen().pop().context("nothing came")?;
    ensure!(
        copy.values("x-bluegreen-copy") == [b"true"] && copy.values("accept-encoding") == [b"identity"],
        "{copy:?}"
    );
    let own: Vec<&String> =
        copy.headers.iter().map(|(name, _)| name).filter(|name| name.starts_with("x-envoy-")).collect();
    ensure!(
        own == ["x-envoy-internal", "x-envoy-expected-rq-timeout-ms"],
        "what Envoy says of its own calls, and nothing of the client's: {own:?}"
    );
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_model_with_sampled_output_is_no_worse_than_itself() -> Result<()> {
    let env = environment(2, json!({"noise_percent": 20})).await?;
    let sampled: fn(&[u8], u64) -> Prediction = |_, number| {
        // What a language model says at a high temperature: never the same text, and mostly the same way to end.
        let text = format!("answer {}", number.wrapping_mul(0x9e37_79b9) % 10_007);
        let reason = if number.wrapping_mul(2_654_435_761) % 10 < 3 { "length" } else { "stop" };
        Prediction::json(
            json!({"id": format!("chatcmpl-{number}"), "object": "chat.completion", "created": 1_700_000_000 + number,
                "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text},
                "finish_reason": reason}], "usage": {"completion_tokens": number}})
            .to_string(),
        )
    };
    env.blue.behave(Behaviour::Model(sampled));
    env.green.behave(Behaviour::Model(sampled));
    calls(&env)?.at_most(400).run().await.ensure_no_failures()?;
    let found = compared(&env, 300).await?;
    let e_value = found["excess"]["above_e_value"].as_f64().context("an e-value")?;
    ensure!(e_value < 100.0, "noise is taken for disagreement: {found:#}");
    let fields = found["fields"].as_object().context("fields")?;
    let noise = fields.values().filter(|field| field["is_noise"] == true).count();
    ensure!(noise >= 1, "no field was found to be noise: {found:#}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn what_does_not_fit_is_counted_with_its_reason_and_reaches_the_client_as_it_was() -> Result<()> {
    let env = environment(1, json!({"max_body": "64KiB"})).await?;
    let ten_megabytes = vec![b'7'; 10 << 20];
    env.blue.behave(Behaviour::Bytes(10 << 20));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = env.envoy.url(PATH)?;
    let answer = client.post(url.clone()).body(INPUT).send().await?.bytes().await?;
    ensure!(answer.len() == 10 << 20, "{} bytes", answer.len());
    dropped(&env, "too_large", 1).await?;
    env.blue.behave(Behaviour::Model(|input, _| Prediction::json(format!(r#"{{"predictions": [{}]}}"#, input.len()))));
    let answer = client.post(url.clone()).body(ten_megabytes).send().await?.text().await?;
    ensure!(answer == r#"{"predictions": [10485760]}"#, "{answer}");
    dropped(&env, "too_large", 2).await?;
    // Without a length, in pieces.
    let pieces = format!(
        "POST {PATH} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{\"a\":\r\n2\r\n1}}\r\n0\r\n\r\n"
    );
    env.green.behave(Behaviour::Model(|input, _| Prediction::json(format!(r#"{{"predictions": [{}]}}"#, input.len()))));
    let answer = raw::exchange(env.envoy.traffic()?, pieces).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let found = compared(&env, 1).await?;
    ensure!(found["disagreed"] == 0, "the copy has another body: {found:#}");
    for (reason, answer) in [
        (
            "encoding",
            (|_, _| Prediction {
                headers: vec![("content-type", "application/json".to_owned()), ("content-encoding", "gzip".to_owned())],
                body: vec![0x1f, 0x8b, 8, 0].into(),
                after: Duration::ZERO,
            }) as fn(&[u8], u64) -> Prediction,
        ),
        ("streaming", |_, _| Prediction {
            headers: vec![("content-type", "text/event-stream".to_owned())],
            body: "data: {}\n\n".into(),
            after: Duration::ZERO,
        }),
        ("not_json", |_, _| Prediction::json("Internal error")),
    ] {
        env.blue.behave(Behaviour::Model(answer));
        calls(&env)?.at_most(3).run().await.ensure_no_failures()?;
        dropped(&env, reason, 3).await?;
    }
    let get = raw::exchange(env.envoy.traffic()?, request("GET", PATH.as_bytes(), &[])).await?;
    ensure!(get.status == 200, "{get:?}");
    dropped(&env, "not_safe", 1).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_candidate_that_hangs_or_is_gone_costs_no_client_anything_and_holds_no_more_than_allowed() -> Result<()> {
    let mut env = environment(2, json!({"timeout": "300ms", "max_in_flight": 4})).await?;
    env.blue.behave(Behaviour::Model(|_, _| Prediction::json(r#"{"predictions": [1]}"#)));
    env.green.behave(Behaviour::Hang);
    let report = env.load()?.body(Method::POST, INPUT).connections(100).at_most(2_000).run().await;
    report.ensure_no_failures()?;
    let found = dropped(&env, "timeout", 8).await?;
    ensure!(found["dropped"]["busy"].as_u64() > Some(100) && found["compared"] == 0, "{found:#}");
    env.green.stop().await;
    calls(&env)?.connections(1).at_most(20).run().await.ensure_no_failures()?;
    dropped(&env, "unreachable", 1).await?;
    env.green.listen().await?;
    env.green.behave(Behaviour::Model(|_, _| Prediction::json(r#"{"predictions": [1]}"#)));
    calls(&env)?.connections(1).at_most(20).run().await.ensure_no_failures()?;
    compared(&env, 1).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_client_that_goes_away_and_a_switch_in_the_middle_leave_nothing_behind() -> Result<()> {
    let env = environment(1, json!({"max_in_flight": 1, "timeout": "2s"})).await?;
    env.blue.behave(Behaviour::Slow(Duration::from_millis(200)));
    for number in 1..=2 {
        let mut gone = raw::Connection::open(env.envoy.traffic()?).await?;
        let body = format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{INPUT}", INPUT.len());
        gone.write(body).await?;
        env.blue.wait_for_requests(number).await?;
        drop(gone);
        dropped(&env, "client_gone", number).await?;
    }
    // The candidate is asked when the traffic is switched.
    env.blue.behave(Behaviour::Model(|_, _| Prediction::json(r#"{"predictions": [1]}"#)));
    env.green.behave(Behaviour::Model(|_, _| Prediction {
        after: Duration::from_millis(600),
        ..Prediction::json(r#"{"predictions": [2]}"#)
    }));
    calls(&env)?.connections(1).at_most(1).run().await.ensure_no_failures()?;
    env.green.wait_for_requests(1).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let labels = [("deployment", IRIS), ("reason", "version_changed")];
    let counted = |samples: &Samples| samples.value("bluegreen_compare_dropped_total", &labels) == Some(1.0);
    wait::until("a comparison across versions is dropped", || env.envoy.prometheus(), counted).await?;
    let found = findings(&env).await?;
    ensure!(found["disagreed"] == 0, "compared across a switch: {found:#}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_rollout_shows_agreement_before_the_first_user_and_stops_where_there_is_none() -> Result<()> {
    let steps = json!({"steps": [
        {"shadow_percent": 100, "compared": 100, "max_excess": 0.05},
        {"canary_percent": 10, "hold": "1s", "min_requests": 5},
    ]});
    let bootstrap = bootstrap(json!({}))?.deployment(IRIS, |iris| {
        iris["initial"] = json!({});
        iris["rollout"] = steps.clone();
    });
    let env = Environment::with(2, bootstrap).await?;
    let one: fn(&[u8], u64) -> Prediction = |_, _| Prediction::json(r#"{"predictions": [1]}"#);
    env.blue.behave(Behaviour::Model(one));
    env.green.behave(Behaviour::Model(|_, number| {
        Prediction::json(if number % 3 == 0 { r#"{"predictions": [2]}"# } else { r#"{"predictions": [1]}"# })
    }));
    let load = calls(&env)?.rate(200.0).lasting(Duration::from_secs(120)).start();
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let stopped = env.until_rollout("a rollout that was stopped", |rollout| rollout.phase == "breached").await?;
    ensure!((stopped.canary_percent, stopped.shadow_percent) == (0.0, 100.0), "{stopped:?}");
    let why = stopped.rollout.context("a rollout")?.waits_for.join(", ");
    ensure!(why.contains("green disagrees beyond the noise by more than 5 points"), "{why}");
    ensure!(!env.envoy.log().lines_with("rollout: step 1 stops").is_empty(), "nothing was logged");
    env.envoy.admin()?.rollout(IRIS, "abort").await?;
    let aborted = env.deployment().await?;
    ensure!(aborted.shadow_percent == 0.0, "{aborted:?}");
    // Another version, which agrees.
    env.green.behave(Behaviour::Model(one));
    let report = load.so_far();
    report.ensure_no_failures()?;
    ensure!(report.count("green") == 0, "{:?}", report.colours());
    load.stop().await;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_candidate_that_agrees_gets_its_first_users_after_that_was_shown() -> Result<()> {
    let bootstrap = bootstrap(json!({}))?.deployment(IRIS, |iris| {
        iris["initial"] = json!({});
        iris["guard"] = json!({"disagreement": {"max_excess": 0.02}});
        iris["rollout"] = json!({"steps": [
            {"shadow_percent": 100, "compared": 300, "max_excess": 0.05},
            {"canary_percent": 10, "hold": "1s", "min_requests": 5},
        ]});
    });
    let env = Environment::with(2, bootstrap).await?;
    let one: fn(&[u8], u64) -> Prediction = |_, _| Prediction::json(r#"{"predictions": [1]}"#);
    env.blue.behave(Behaviour::Model(one));
    env.green.behave(Behaviour::Model(one));
    let load = calls(&env)?.rate(200.0).lasting(Duration::from_secs(120)).start();
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    let begun = env.until_rollout("the first users", |rollout| rollout.step == 2).await?;
    ensure!((begun.canary_percent, begun.shadow_percent) == (10.0, 0.0), "{begun:?}");
    let found = findings(&env).await?;
    ensure!(found["compared"].as_u64() >= Some(300) && found["disagreed"] == 0, "{found:#}");
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn an_error_of_a_candidate_that_the_guard_watches_is_no_user_s() -> Result<()> {
    let bootstrap = bootstrap(json!({}))?.deployment(IRIS, |iris| {
        iris["guard"] = json!({"disagreement": {"max_excess": 0.02}});
        iris["rollout"] = json!({"steps": [
            {"shadow_percent": 100, "hold": "10m"}, {"canary_percent": 10, "hold": "1s"},
        ]});
        iris["initial"] = json!({});
    });
    let env = Environment::with(2, bootstrap).await?;
    env.blue.behave(Behaviour::Model(|_, _| Prediction::json(r#"{"predictions": [1]}"#)));
    env.green.behave(Behaviour::Status(500));
    let load = calls(&env)?.rate(200.0).lasting(Duration::from_secs(60)).start();
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    env.until_rollout("a rollout that the guard stopped", |rollout| rollout.phase == "breached").await?;
    let verdict = env.envoy.admin()?.comparison(IRIS).await?["verdict"].clone();
    ensure!(verdict["breached"] == "disagreement" && verdict["stage"] == "shadow", "{verdict:#}");
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}
