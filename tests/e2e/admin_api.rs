//! What the admin API does over real sockets: writers that meet, bodies in every shape, tags and history.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::{ADMIN, TRAFFIC};
use bluegreen_testbed::raw::{self, Answer, Connection};
use bluegreen_testbed::{Admin, Bootstrap};
use bluegreen_tests::admin::ensure_problem;
use bluegreen_tests::request::admin_call;
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_writers_with_the_same_condition_exactly_one_wins() -> Result<()> {
    for workers in [2, 4] {
        let env = Environment::new(workers).await?;
        for round in 0..25_u64 {
            let mut writers = JoinSet::new();
            for writer in 0..4 {
                let admin = env.envoy.admin()?;
                let percent = format!("{}.{}", 1 + round, 1 + writer);
                writers.spawn(async move {
                    admin.patching(IRIS).query(&[("canary_percent", &percent)]).if_match(round).send().await
                });
            }
            let mut statuses = Vec::new();
            let mut won = None;
            while let Some(reply) = writers.join_next().await {
                let reply = reply??;
                statuses.push(reply.status);
                if reply.status == 200 {
                    won = Some(reply.deployment()?);
                }
            }
            statuses.sort_unstable();
            ensure!(statuses == [200, 412, 412, 412], "{workers} workers, round {round}: {statuses:?}");
            let state = env.deployment().await?;
            let same = won.as_ref().is_some_and(|won| won.settings() == state.settings());
            ensure!(same && state.revision == round + 1, "{state:?} is not what won: {won:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_without_a_condition_all_succeed_and_no_revision_is_lost() -> Result<()> {
    let env = Environment::new(4).await?;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let admin = env.envoy.admin()?;
        writers.spawn(async move {
            let mut revisions = Vec::new();
            for write in 1..=5 {
                // A share that nobody else writes: each write is a change.
                let share = (writer * 5 + write).to_string();
                let reply = admin.patch(IRIS, &[("shadow_percent", &share)]).await?;
                revisions.push(reply.deployment()?.revision);
            }
            anyhow::Ok(revisions)
        });
    }
    let mut revisions = BTreeSet::new();
    while let Some(written) = writers.join_next().await {
        revisions.extend(written??);
    }
    ensure!(revisions == (1..=40).collect(), "40 writes made these revisions: {revisions:?}");
    let history = env.history().await?;
    let recorded: Vec<_> = history.iter().map(|change| change.revision).collect();
    ensure!(recorded == (1..=40).rev().collect::<Vec<_>>(), "the history has {recorded:?}");
    let chained = history.windows(2).all(|pair| matches!(pair, [later, earlier] if later.from == earlier.to));
    ensure!(chained, "each change starts where the one before ended: {history:#?}");
    Ok(())
}

#[tokio::test]
async fn parameters_mean_the_same_in_the_query_and_in_a_json_body() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    let by_query = [("canary_percent", "12.5"), ("shadow_percent", "1"), ("reason", "a b+c/d \u{e9}")];
    let first = admin.patch(IRIS, &by_query).await?.deployment()?;
    admin.patch(IRIS, &[("canary_percent", "0"), ("shadow_percent", "0")]).await?.accepted()?;
    let body = json!({"canary_percent": 12.5, "shadow_percent": 1, "reason": "a b+c/d \u{e9}"});
    let second = admin.patching(IRIS).json(&body).send().await?.deployment()?;
    for state in [&first, &second] {
        let seen = (state.canary_percent, state.shadow_percent, state.reason.as_deref());
        ensure!(seen == (12.5, 1.0, Some("a b+c/d \u{e9}")), "{state:?}");
        ensure!(state.changed_by.as_deref() == Some("demo-operator"), "{state:?}");
    }
    let state = admin.promoting(IRIS).json(&json!({"reason": "by body"})).send().await?.deployment()?;
    ensure!((state.active.as_str(), state.reason.as_deref()) == ("green", Some("by body")), "{state:?}");
    let state = admin.rolling_back(IRIS).json(&json!({})).send().await?.deployment()?;
    ensure!((state.active.as_str(), state.reason.as_deref()) == ("blue", Some("")), "{state:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_may_come_in_pieces() -> Result<()> {
    let env = Environment::new(2).await?;
    let head =
        "PATCH /bluegreen/v1/deployments/iris HTTP/1.1\r\nhost: a\r\nauthorization: Bearer demo-operator-token\r\n";
    let mut chunked = Connection::open(env.envoy.listener(ADMIN)?).await?;
    chunked.write(format!("{head}transfer-encoding: chunked\r\n\r\n")).await?;
    for piece in [r#"{"can"#, r#"ary_per"#, r#"cent": "#, "2", "5}"] {
        chunked.write(format!("{:x}\r\n{piece}\r\n", piece.len())).await?;
        // Each piece is to arrive on its own; Envoy is seen to have got on with its work in between.
        env.envoy.ask("/ready").await?;
    }
    chunked.write("0\r\n\r\n").await?;
    let answer = chunked.answer().await?;
    ensure!(answer.status == 200 && answer.body.contains("25"), "{answer:?}");

    let body = r#"{"canary_percent": 30}"#;
    let mut sized = Connection::open(env.envoy.listener(ADMIN)?).await?;
    sized.write(format!("{head}content-length: {}\r\n\r\n", body.len())).await?;
    for piece in body.as_bytes().chunks(5) {
        sized.write(piece).await?;
        env.envoy.ask("/ready").await?;
    }
    let answer = sized.answer().await?;
    ensure!(answer.status == 200 && answer.body.contains("30"), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_of_64_kib_is_read_and_a_byte_more_is_refused() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    let padded = |size: usize| {
        let call = r#"{"canary_percent": 5}"#;
        format!("{call}{}", " ".repeat(size - call.len()))
    };
    let reply = admin.patching(IRIS).body(padded(64 * 1024)).send().await?;
    ensure!(reply.deployment()?.canary_percent == 5.0, "{reply:?}");
    for size in [64 * 1024 + 1, 65 * 1024, 300_000] {
        let request = admin_call("POST", "/bluegreen/v1/deployments/iris/promote", "", padded(size).as_bytes());
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, request).await?;
        ensure!(answer.status == 413, "{size} bytes: {answer:?}");
        ensure_problem("a large body", &answer)?;
    }
    let state = admin.deployment(IRIS).await?;
    ensure!((state.revision, state.active.as_str()) == (1, "blue"), "{state:?}");
    env.ensure_no_trap()
}

/// Sends a call whose body is `body`, announced to be longer by `missing` bytes, and returns what is answered.
async fn answer_to_body(env: &Environment, body: &str, missing: usize) -> Result<Answer> {
    let mut connection = Connection::open(env.envoy.listener(ADMIN)?).await?;
    let head =
        "PATCH /bluegreen/v1/deployments/iris HTTP/1.1\r\nhost: a\r\nauthorization: Bearer demo-operator-token\r\n";
    connection.write(format!("{head}content-length: {}\r\n\r\n{body}", body.len() + missing)).await?;
    connection.answer().await
}

#[tokio::test]
async fn a_body_that_envoy_withholds_is_answered_with_advice_instead_of_hanging() -> Result<()> {
    let bootstrap =
        Bootstrap::shipped()?.wasm_filters(|filter| filter["config"]["allow_on_headers_stop_iteration"] = Value::Null);
    let env = Environment::with(2, bootstrap).await?;
    let began = Instant::now();
    let answer = answer_to_body(&env, r#"{"active": "green"}"#, 0).await?;
    ensure!(answer.status == 408, "{answer:?}");
    ensure_problem("a withheld body", &answer)?;
    ensure!(began.elapsed() < Duration::from_secs(15), "answered after {:?}", began.elapsed());
    env.ensure_untouched("a withheld body").await?;
    // What the answer advises: the query string works everywhere.
    let state = env.patch(&[("active", "green")]).await?;
    ensure!(state.active == "green", "{state:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_and_changes_nothing() -> Result<()> {
    let env = Environment::new(2).await?;
    let (half, whole) = (r#"{"active""#, r#"{"active": "green"}"#);
    let answers = tokio::join!(answer_to_body(&env, half, 10), answer_to_body(&env, whole, 10));
    for (body, answer) in [(half, answers.0?), (whole, answers.1?)] {
        ensure!(answer.status == 408, "{body}: {answer:?}");
        ensure_problem(body, &answer)?;
        env.ensure_untouched(body).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_entity_tag_is_the_revision() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    for (revision, to) in (0..).zip(["green", "blue", "green"]) {
        let reply = admin.get("/v1/deployments/iris").await?;
        ensure!(reply.header("etag") == Some(&format!("\"{revision}\"")), "{revision}: {:?}", reply.headers);
        let reply = admin.promoting(IRIS).query(&[("to", to)]).if_match(revision).send().await?;
        ensure!(reply.header("etag") == Some(&format!("\"{}\"", revision + 1)), "after a write: {:?}", reply.headers);
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_no_change() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    let state = admin.patch(IRIS, &[("active", "blue"), ("canary_percent", "0")]).await?.deployment()?;
    ensure!(state.revision == 0, "{state:?}");
    ensure!(admin.history(IRIS).await?.is_empty(), "{:?}", admin.history(IRIS).await?);
    Ok(())
}

#[tokio::test]
async fn the_history_keeps_the_last_fifty_changes_newest_first() -> Result<()> {
    let env = Environment::new(2).await?;
    for number in 1..=53 {
        let reason = format!("change {number}");
        let to = if number % 2 == 0 { "blue" } else { "green" };
        let call = env.envoy.admin()?.promoting(IRIS).query(&[("reason", reason.as_str()), ("to", to)]);
        call.send().await?.accepted()?;
    }
    let history = env.history().await?;
    let revisions: Vec<_> = history.iter().map(|change| change.revision).collect();
    ensure!(revisions == (4..=53).rev().collect::<Vec<_>>(), "{revisions:?}");
    let newest = history.first().context("empty")?;
    let seen = (newest.by.as_str(), newest.source.as_str(), newest.reason.as_str());
    ensure!(seen == ("demo-operator", "admin", "change 53"), "{newest:?}");
    ensure!((newest.from.active.as_str(), newest.to.active.as_str()) == ("blue", "green"), "{newest:?}");
    Ok(())
}

#[tokio::test]
async fn the_traffic_listener_serves_the_api_only_when_it_is_configured_to() -> Result<()> {
    let env = Environment::new(2).await?;
    let on_traffic = |env: &Environment| Ok::<_, anyhow::Error>(Admin::new(&env.envoy.url("/bluegreen")?));
    let reply = on_traffic(&env)?.get("/healthz").await?;
    ensure!(reply.status == 404, "the shipped traffic listener: {reply:?}");

    let bootstrap = Bootstrap::shipped()?.plugin(|plugin| {
        if plugin["admin"].is_null() {
            plugin["admin"] = json!({"path_prefix": "/bluegreen", "open": true});
        }
    });
    let env = Environment::with(2, bootstrap).await?;
    let admin = on_traffic(&env)?;
    let state = admin.promote(IRIS).await?;
    ensure!(state.active == "green", "{state:?}");
    let elsewhere = env.deployment().await?;
    ensure!(elsewhere.settings() == state.settings(), "{TRAFFIC} says {state:?}, {ADMIN} says {elsewhere:?}");
    let report = env.load()?.at_most(20).run().await;
    ensure!(report.count("green") == 20, "{:?}", report.colours());
    Ok(())
}
