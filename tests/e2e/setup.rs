//! Mistakes in the set-up that Envoy accepts: each is shown while it lasts, in the API, in a gauge and in the log.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{Bootstrap, raw, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// What is known to be wrong: each problem with its detail.
async fn shown(env: &Environment) -> Result<Vec<(String, String)>> {
    let deployment = env.envoy.admin()?.get("/v1/deployments/iris").await?.json()?;
    let all = deployment["setup"].as_array().context("no setup in the answer")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.map(|noted| (text(&noted["problem"]), text(&noted["detail"]))).collect())
}

/// Sends one request, and waits until `problem` is shown, in the gauge too, or no longer.
async fn until_shown(env: &Environment, problem: &str, expected: bool) -> Result<Option<String>> {
    let what = format!("{problem} shown: {expected}");
    let look = || async {
        raw::exchange(env.envoy.traffic()?, get(PATH, &[])).await?;
        Ok(shown(env).await?.into_iter().find(|(shown, _)| shown == problem).map(|(_, detail)| detail))
    };
    let detail = wait::until(&what, look, |detail| detail.is_some() == expected).await?;
    let labels = [("deployment", IRIS), ("problem", problem)];
    let gauge = env.envoy.prometheus().await?.value("bluegreen_setup_problems", &labels);
    ensure!(gauge == Some(f64::from(u8::from(expected))), "{what}: the gauge is {gauge:?}");
    Ok(detail)
}

/// The connection manager of the traffic listener, in a file of listeners.
fn manager(listeners: Bootstrap, change: impl FnOnce(&mut Value)) -> Bootstrap {
    listeners.edit(|tree| {
        if let Some(manager) = tree.pointer_mut("/resources/0/filter_chains/0/filters/0/typed_config") {
            change(manager);
        }
    })
}

#[tokio::test]
async fn each_mistake_is_shown_with_what_to_do_until_it_is_fixed() -> Result<()> {
    /// The problem, how it is made, and what its detail has to say.
    type Case = (&'static str, fn(Bootstrap) -> Bootstrap, &'static [&'static str]);
    let cases: [Case; 4] = [
        (
            "cluster-unknown",
            |good| good.deployment(IRIS, |iris| iris["colours"]["green"]["cluster"] = json!("gren")),
            &["colours.green.cluster \"gren\"", "correct the name"],
        ),
        (
            "not-seeded",
            |good| manager(good, |manager| manager["early_header_mutation_extensions"] = json!([])),
            &["x-bluegreen-cluster", "\"blue\"", "early_header_mutation_extensions"],
        ),
        (
            "unmatched-requests",
            |good| good.deployment(IRIS, |iris| iris["match"]["path_prefix"] = json!("/invocation")),
            &["GET /invocations at models.example", "iris: path_prefix /invocation"],
        ),
        (
            "demo-token",
            |good| {
                good.plugin(|plugin| {
                    if plugin["admin"].is_object() {
                        plugin["admin"]["tokens"][0]["name"] = json!("alice");
                    }
                })
            },
            &["as alice (operator)", "sha256sum"],
        ),
    ];
    let mut watched = Watched::lds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let good = watched.resource().clone();
    for (problem, spoil, words) in cases {
        let seen = shown(&env).await?;
        ensure!(seen.is_empty(), "before {problem}: {seen:?}");
        watched.deliver(|_| spoil(good.clone()))?;
        let detail = until_shown(&env, problem, true).await?.context("shown")?;
        ensure!(words.iter().all(|word| detail.contains(word)), "{problem}: {detail}");
        let lines = env.envoy.log().lines_with(&format!("setup={problem}: {}", detail.get(..20).unwrap_or_default()));
        ensure!(!lines.is_empty(), "{problem} is not in the log");
        watched.deliver(|_| good.clone())?;
        until_shown(&env, problem, false).await?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn no_shipped_configuration_has_a_mistake() -> Result<()> {
    let env = Environment::new(2).await?;
    for _ in 0..40 {
        raw::exchange(env.envoy.traffic()?, get(PATH, &[])).await?;
    }
    // The leader has probed: it has looked at everything else by then.
    env.until("a probe", |state| state.probe("green").is_ok()).await?;
    let seen = shown(&env).await?;
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn looking_for_a_cluster_sends_nothing_to_it() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["probe"] = Value::Null;
        iris["colours"]["green"]["cluster"] = json!("gren");
    });
    let env = Environment::with(2, bootstrap).await?;
    wait::until("the mistake", || shown(&env), |seen| seen.iter().any(|(problem, _)| problem == "cluster-unknown"))
        .await?;
    let seen = [env.blue.seen(), env.green.seen()];
    ensure!(seen.iter().all(Vec::is_empty), "{seen:?}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn stats_that_envoy_rejects_are_shown() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.edit(|tree| {
        tree["stats_config"]["stats_matcher"] = json!({"exclusion_list": {"patterns": [{"prefix": "wasmcustom."}]}});
    });
    let env = Environment::with(2, bootstrap).await?;
    let is_shown = |seen: &Vec<(String, String)>| {
        seen.iter().any(|(problem, detail)| problem == "stats-filtered" && detail.contains("stats_matcher"))
    };
    wait::until("the mistake", || shown(&env), is_shown).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_demo_token_is_shown_where_others_can_reach_the_listener() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.edit(|tree| {
        tree["static_resources"]["listeners"][1]["address"]["socket_address"]["address"] = json!("0.0.0.0");
    });
    let env = Environment::with(1, bootstrap).await?;
    let seen = shown(&env).await?;
    ensure!(seen.is_empty(), "on loopback: {seen:?}");
    // A datagram socket finds out this machine's own address; nothing is sent.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let Ok(own) = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()) else {
        println!("this machine has no address but loopback: nobody else can reach it");
        return Ok(());
    };
    let port = env.envoy.listener(bluegreen_testbed::envoy::ADMIN)?.port();
    raw::exchange((own.ip(), port).into(), get("/bluegreen/healthz", &[])).await?;
    let seen = shown(&env).await?;
    let reached = format!("can be reached at {}", own.ip());
    ensure!(seen.iter().any(|(problem, detail)| problem == "demo-token" && detail.contains(&reached)), "{seen:?}");
    Ok(())
}
