//! What stays behind in a real Envoy when configurations come and go and callers leave: no more than there was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::upstream::{Behaviour, Prediction};
use bluegreen_testbed::{Bootstrap, Envoy, proc, wait};
use bluegreen_tests::{Environment, IRIS, PATH};
use reqwest::Method;
use serde_json::json;

/// The names of the filter's stats.
async fn stats(envoy: &Envoy) -> Result<Vec<String>> {
    let text = envoy.ask("/stats?filter=bluegreen").await?;
    let mut names: Vec<String> = text.lines().filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_hundred_pushes_there_are_as_many_workers_and_stats_as_before_and_hardly_more_memory() -> Result<()> {
    const UPDATES: &str = "listener_manager.listener_modified";
    let mut watched = Watched::lds()?;
    let env = Environment::start(watched.bootstrap(), |options| options.concurrency(2).drain_time(1)).await?;
    let push = async |watched: &mut Watched, number: u64| -> Result<()> {
        let before = env.envoy.stat(UPDATES).await?;
        let share = json!(number % 2 + 1);
        watched.deliver(|listeners| {
            listeners.deployment(IRIS, |iris| iris["initial"]["canary_percent"] = share.clone())
        })?;
        wait::until(UPDATES, || env.envoy.stat(UPDATES), |count| *count >= before + 2).await?;
        env.until("the pushed share", |state| (state.canary_percent - (number % 2 + 1) as f64).abs() < 0.01).await?;
        env.load()?.at_most(20).run().await.ensure_no_failures()
    };
    for number in 0..20 {
        push(&mut watched, number).await?;
    }
    let drained = "listener_manager.total_filter_chains_draining";
    let all_drained = async || wait::until(drained, || env.envoy.stat(drained), |count| *count == 0).await;
    all_drained().await?;
    let (names, workers) = (stats(&env.envoy).await?, env.deployment().await?.workers.len());
    let memory = env.envoy.stat("server.memory_allocated").await?;
    for number in 20..120 {
        push(&mut watched, number).await?;
    }
    all_drained().await?;
    let (names_now, workers_now) = (stats(&env.envoy).await?, env.deployment().await?.workers.len());
    let new: Vec<&String> = names_now.iter().filter(|name| !names.contains(name)).collect();
    ensure!(new.is_empty(), "new: {new:?}");
    ensure!(workers_now == workers, "{workers_now} workers were {workers}");
    let grown = env.envoy.stat("server.memory_allocated").await?.saturating_sub(memory);
    println!("{} KB more after a hundred pushes, of {} KB", grown / 1024, memory / 1024);
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_caller_leaves_is_finished_so_that_nobody_remembers_it() -> Result<()> {
    let test = json!({"requests": [{"path": PATH}], "timeout": "30s"});
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["smoke_test"] = test.clone());
    let env = Environment::with(1, bootstrap).await?;
    let answered = async || env.envoy.stat("cluster.green.upstream_rq_200").await;
    let before = answered().await?;
    env.green.behave(Behaviour::Slow(Duration::from_secs(2)));
    let seen = env.green.requests();
    let admin = env.envoy.admin()?;
    let caller = tokio::spawn(async move { admin.test(IRIS).await });
    env.green.wait_for_requests(seen + 1).await?;
    caller.abort();
    let gone = "http.bluegreen_admin.downstream_cx_destroy_remote";
    wait::until(gone, || env.envoy.stat(gone), |count| *count > 0).await?;
    wait::until("the answer", answered, |count| *count > before).await.context("the call ended with its caller")?;
    // The worker goes on.
    env.green.behave(Behaviour::Answer);
    env.envoy.admin()?.test(IRIS).await?.accepted()?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_comparisons_leave_no_more_memory_than_the_first_thousand() -> Result<()> {
    let safe = json!([{"method": "POST", "path_prefix": PATH}]);
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["initial"] = json!({"shadow_percent": 100});
        iris["shadow"] = json!({"compare": {"safe": safe, "keep_inputs": true, "max_in_flight": 64}});
    });
    let env = Environment::with(1, bootstrap).await?;
    // Other labels and other fields each time, so that everything that is bounded is full after the first thousand.
    let odd: fn(&[u8], u64) -> Prediction = |_, number| {
        Prediction::json(json!({"label": format!("l-{number}"), format!("f-{number}"): number}).to_string())
    };
    env.blue.behave(Behaviour::Model(odd));
    env.green.behave(Behaviour::Model(odd));
    let compared = async |count: u64| -> Result<u64> {
        loop {
            let load = env.load()?.body(Method::POST, vec![b'x'; 6_000]).connections(8).at_most(500);
            load.run().await.ensure_no_failures()?;
            if env.envoy.admin()?.comparison(IRIS).await?["shadow"]["compared"].as_u64() >= Some(count) {
                return proc::linear_memories(env.envoy.id())?.into_iter().max().context("no virtual machine");
            }
        }
    };
    let first = compared(1_000).await?;
    let last = compared(10_000).await?;
    ensure!(last == first, "{last} bytes after 10,000 comparisons, {first} after 1,000");
    env.ensure_no_trap()
}
