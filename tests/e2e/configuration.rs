//! Configuration is delivered while Envoy runs: a new `initial` switches, the same one does not, a bad one is refused.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::{Bootstrap, Envoy, raw, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// Makes `colour` the configured initial one.
fn initially(colour: &str) -> impl FnOnce(Bootstrap) -> Bootstrap {
    move |resource| resource.deployment(IRIS, |iris| iris["initial"]["active"] = json!(colour))
}

/// Gives green another version: a change of its own, which shows when it has arrived, and no change of `initial`.
fn green_version(version: &str) -> impl FnOnce(Bootstrap) -> Bootstrap {
    move |resource| resource.deployment(IRIS, |iris| iris["colours"]["green"]["version"] = json!(version))
}

fn version(state: &Deployment, colour: &str) -> String {
    state.colours.get(colour).map_or_else(String::new, |colour| colour.version.clone())
}

/// An edit of the watched file switches without a lost request, whichever way the file is delivered.
async fn edit_switches(mut watched: Watched) -> Result<()> {
    let env = Environment::with(4, watched.bootstrap()).await?;
    let load = env.load()?.connections(8).start();
    load.more(100).await?;
    for (revision, colour) in [(1, "green"), (2, "blue"), (3, "green")] {
        watched.deliver(initially(colour))?;
        let state = env.until(colour, |state| state.active == colour).await?;
        let by = (state.revision, state.source.as_deref(), state.changed_by.as_deref());
        ensure!(by == (revision, Some("config"), Some("config")), "{state:?}");
        let change = env.newest_change().await?;
        let seen = (change.source.as_str(), change.from.active != colour, change.to.active.as_str());
        ensure!(seen == ("config", true, colour), "{change:?}");
        load.more(100).await?;
        let after = env.load()?.at_most(40).run().await;
        ensure!(after.count(colour) == 40, "{colour} is active, but: {:?}", after.colours());
    }
    let report = load.stop().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_the_watched_file_switches_under_load_and_is_in_the_history() -> Result<()> {
    edit_switches(Watched::ecds()?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_listener_configuration_switches_likewise() -> Result<()> {
    edit_switches(Watched::lds()?).await
}

#[tokio::test]
async fn a_delivery_with_the_same_initial_does_not_undo_what_an_operator_did() -> Result<()> {
    let mut watched = Watched::ecds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let promoted = env.envoy.admin()?.promote(IRIS).await?;
    for (revision, push) in (promoted.revision + 1..).zip(["2a", "2b", "2c"]) {
        watched.deliver(green_version(push))?;
        let state = env.until("the new version", |state| version(state, "green") == push).await?;
        ensure!((state.revision, state.active.as_str()) == (revision, "green"), "after push {push}: {state:?}");
        let report = env.load()?.connections(8).at_most(40).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 40, "after push {push}: {:?}", report.colours());
    }
    let history = env.history().await?;
    let switches = history.iter().filter(|change| change.from != change.to).count();
    ensure!(switches == 1 && history.len() == 4, "only the operator moved traffic: {history:?}");
    Ok(())
}

#[tokio::test]
async fn a_delivery_with_another_initial_than_the_last_one_counts_also_after_an_operators_switch() -> Result<()> {
    let mut watched = Watched::ecds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    env.patch(&[("canary_percent", "5")]).await?;
    watched.deliver(|resource| resource.deployment(IRIS, |iris| iris["initial"]["canary_percent"] = json!(12.5)))?;
    let state = env.until("the delivered share", |state| state.source.as_deref() == Some("config")).await?;
    ensure!((state.revision, state.canary_percent) == (2, 12.5), "{state:?}");
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_the_fields_path_and_the_old_one_goes_on() -> Result<()> {
    /// A name, what is done to a good deployment, and what the refusal must name.
    type Case = (&'static str, fn(&mut Value), &'static str);
    let cases: [Case; 13] = [
        ("canary", |iris| iris["initial"]["canary_percent"] = json!(101), "deployments.iris.initial.canary_percent"),
        ("colour", |iris| iris["initial"]["active"] = json!("red"), "deployments.iris.initial.active"),
        ("unknown", |iris| iris["colour"] = json!({}), "deployments.iris.colour"),
        ("missing", |iris| iris["colours"]["green"] = Value::Null, "deployments.iris.colours.green"),
        ("twice", |iris| iris["colours"]["green"]["cluster"] = json!("blue"), "deployments.iris.colours.green.cluster"),
        ("prefix", |iris| iris["match"]["path_prefix"] = json!("invocations"), "deployments.iris.match.path_prefix"),
        (
            "both",
            |iris| iris["match"] = json!({"path_prefix": "/a", "path_prefixes": ["/b"]}),
            "deployments.iris.match.path_prefixes: path_prefix is given too",
        ),
        (
            "repeated",
            |iris| iris["match"] = json!({"path_prefixes": ["/a", "/a/"]}),
            "deployments.iris.match.path_prefixes[1]",
        ),
        (
            "pattern",
            |iris| iris["match"]["path_prefix"] = json!("/v1/.*"),
            "deployments.iris.match.path_prefix: \"/v1/.*\" looks like a pattern",
        ),
        (
            "pointer",
            |iris| iris["smoke_test"]["requests"][0]["expect"]["json"]["pointer"] = json!("predictions"),
            "expect.json.pointer: \"predictions\" is not a JSON pointer",
        ),
        (
            "quotes",
            |iris| iris["colours"]["green"]["version"] = json!(2),
            "deployments.iris.colours.green.version: the number 2 is given where a text belongs: write it in quotes, \"2\"",
        ),
        (
            "own header",
            |iris| iris["cluster_header"] = json!("x-bluegreen-colour"),
            "deployments.iris.cluster_header: \"x-bluegreen-colour\" already carries",
        ),
        ("age", |iris| iris["sticky"] = json!({"cookie": {"name": "c", "max_age": "soon"}}), "max_age"),
    ];
    let mut watched = Watched::ecds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let promoted = env.envoy.admin()?.promote(IRIS).await?;
    let good = watched.resource().clone();
    for (name, spoil, path) in cases {
        watched.deliver(|_| good.clone().deployment(IRIS, spoil))?;
        let line = env.envoy.log().wait_for(path).await.with_context(|| format!("case {name}"))?;
        ensure!(line.contains("configuration refused"), "case {name}: {line}");
        let state = env.deployment().await?;
        ensure!(state.settings() == promoted.settings(), "case {name}: {state:?} instead of {promoted:?}");
        let report = env.load()?.connections(8).at_most(40).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count("green") == 40, "case {name}: {:?}", report.colours());
    }
    watched.deliver(|_| green_version("3")(good))?;
    let state = env.until("the corrected configuration", |state| version(state, "green") == "3").await?;
    // Nothing but the version that it brings.
    ensure!((state.revision, state.active.as_str()) == (2, "green"), "after the correction: {state:?}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn what_can_only_be_a_mistake_is_refused_at_the_start() -> Result<()> {
    /// What is done to the plugin's configuration, and what the refusal says.
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 4] = [
        (|plugin| plugin["deployments"] = json!({}), "deployments: there is none"),
        (
            |plugin| plugin["deployments"]["rose"] = plugin["deployments"][IRIS].clone(),
            "deployments.rose.match: iris asks for the same requests",
        ),
        (|plugin| plugin["admin"]["open"] = json!(true), "admin.open: everybody may do everything"),
        (
            |plugin| plugin["admin"]["tokens"][1]["sha256"] = plugin["admin"]["tokens"][0]["sha256"].clone(),
            "admin.tokens[1].sha256: it is the token of demo-operator (operator) too",
        ),
    ];
    for (spoil, refusal) in cases {
        let bad = Bootstrap::shipped()?.plugin(|plugin| {
            if plugin["admin"].is_object() {
                spoil(plugin);
            }
        });
        let check = Envoy::with(bad).validate().await.map_err(|error| format!("{error:#}"));
        ensure!(check.as_ref().is_err_and(|error| error.contains(refusal)), "{refusal}: {check:?}");
    }
    let twice = Bootstrap::shipped()?.wasm_filters(|filter| {
        let text = filter["config"]["configuration"]["value"].to_string();
        let text = text.replacen(r#""initial":"#, r#""initial":{"active":"green"},"initial":"#, 1);
        filter["config"]["configuration"] =
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
    });
    let check = Envoy::with(twice).validate().await.map_err(|error| format!("{error:#}"));
    let refusal = "deployments.iris: \"initial\" is given twice";
    ensure!(check.as_ref().is_err_and(|error| error.contains(refusal)), "{check:?}");
    Ok(())
}

#[tokio::test]
async fn envoy_does_not_start_with_a_bad_configuration_and_says_what_is_wrong() -> Result<()> {
    let bad = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["initial"]["canary_percent"] = json!(101));
    let refusal = "deployments.iris.initial.canary_percent: 101 is not between 0 and 100";
    let start = Envoy::with(bad.clone()).start().await.map(|_| ()).map_err(|error| format!("{error:#}"));
    ensure!(start.as_ref().is_err_and(|error| error.contains(refusal)), "start: {start:?}");
    let check = Envoy::with(bad).validate().await.map_err(|error| format!("{error:#}"));
    ensure!(check.as_ref().is_err_and(|error| error.contains(refusal)), "validate: {check:?}");
    Ok(())
}

#[tokio::test]
async fn a_configuration_given_as_a_json_string_means_the_same_as_one_given_as_a_struct() -> Result<()> {
    // The shipped files write a `Struct`; Istio and Envoy Gateway deliver a `StringValue` with JSON in it.
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["initial"]["canary_percent"] = json!(12.5));
    let as_text = bootstrap.wasm_filters(|filter| {
        let text = filter["config"]["configuration"]["value"].to_string();
        filter["config"]["configuration"] =
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text});
    });
    let env = Environment::with(2, as_text).await?;
    let state = env.deployment().await?;
    ensure!((state.active.as_str(), state.canary_percent) == ("blue", 12.5), "{state:?}");
    let report = env.load()?.connections(1).at_most(80).run().await;
    // Of any run of requests on a worker the share is off by less than 2, and there are two workers.
    ensure!((7..=13).contains(&report.count("green")), "12.5 % of 80: {:?}", report.colours());
    let state = env.envoy.admin()?.promote(IRIS).await?;
    ensure!(state.active == "green", "{state:?}");
    Ok(())
}

#[tokio::test]
async fn deployments_come_and_go_with_the_configuration() -> Result<()> {
    let mut watched = Watched::ecds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let names = || async {
        let deployments = env.envoy.admin()?.deployments().await?;
        Ok(deployments.into_iter().map(|deployment| deployment.name).collect::<Vec<_>>())
    };
    ensure!(names().await? == ["iris"], "at first: {:?}", names().await?);
    watched.deliver(|resource| {
        resource.plugin(|plugin| {
            let mut wine = plugin["deployments"]["iris"].clone();
            wine["match"] = json!({"path_prefix": "/invocations/wine"});
            wine["initial"]["active"] = json!("green");
            plugin["deployments"]["wine"] = wine;
        })
    })?;
    wait::until("the second deployment", names, |names| *names == ["iris", "wine"]).await?;
    // Unlike a state, a configuration reaches each worker in its own time.
    let colour = async |path: &str| {
        let answer = reqwest::get(env.envoy.url(path)?).await?;
        let colour = answer.headers().get("x-bluegreen-colour");
        anyhow::Ok(colour.map(|colour| String::from_utf8_lossy(colour.as_bytes()).into_owned()))
    };
    for (path, expected) in [("/invocations/wine", "green"), ("/invocations/iris", "blue")] {
        wait::until(path, || colour(path), |seen| seen.as_deref() == Some(expected)).await?;
    }

    watched.deliver(|resource| {
        resource.plugin(|plugin| plugin["deployments"] = json!({"iris": plugin["deployments"]["iris"].clone()}))
    })?;
    wait::until("its end", names, |names| *names == ["iris"]).await?;
    let gone = async || env.envoy.admin()?.get("/v1/deployments/wine").await;
    wait::until("404 for the deployment that is gone", gone, |reply| reply.status == 404).await?;
    Ok(())
}

/// The shipped configuration with routes for every path, and the deployments `iris` and `iris2` with these rules.
fn two_models(iris: &Value, iris2: &Value) -> Result<Bootstrap> {
    let bootstrap = Bootstrap::shipped()?.plugin(|plugin| {
        let deployments = &mut plugin["deployments"];
        deployments["iris2"] = deployments[IRIS].clone();
        deployments["iris2"]["match"] = iris2.clone();
        deployments["iris2"]["initial"] = json!({"active": "green"});
        deployments[IRIS]["match"] = iris.clone();
    });
    Ok(bootstrap.edit(|tree| {
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        let route = tree.pointer_mut(&format!("{manager}/route_config/virtual_hosts/0/routes/0"));
        route.into_iter().for_each(|route| route["match"] = json!({"prefix": "/"}));
    }))
}

/// The colour that answers a `GET` with this host header.
async fn colour_of(env: &Environment, path: &str, host: &str) -> Result<Option<String>> {
    let answer = raw::exchange(env.envoy.traffic()?, get(path, &[("host", host.as_bytes())])).await?;
    Ok(answer.header("x-bluegreen-colour").map(str::to_owned))
}

#[tokio::test]
async fn the_verb_behind_a_model_name_belongs_to_the_model() -> Result<()> {
    let bootstrap =
        two_models(&json!({"path_prefix": "/v1/models/iris"}), &json!({"path_prefix": "/v1/models/iris2"}))?;
    let env = Environment::with(2, bootstrap).await?;
    for (path, expected) in [
        ("/v1/models/iris", Some("blue")),
        ("/v1/models/iris:predict", Some("blue")),
        ("/v1/models/iris:explain?a=1", Some("blue")),
        ("/v1/models/iris/versions/2:predict", Some("blue")),
        ("/v1/models/iris2:predict", Some("green")),
        ("/v1/models/iris3:predict", None),
    ] {
        let seen = colour_of(&env, path, "a").await?;
        ensure!(seen.as_deref() == expected, "{path}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deployment_has_several_prefixes() -> Result<()> {
    let bootstrap = two_models(
        &json!({"path_prefixes": ["/invocations", "/v1/models/iris"]}),
        &json!({"path_prefixes": ["/v1/models/", "/invocations/2"]}),
    )?;
    let env = Environment::with(2, bootstrap).await?;
    for (path, expected) in [
        ("/invocations", Some("blue")),
        ("/v1/models/iris:predict", Some("blue")),
        ("/v1/models/rose", Some("green")),
        ("/invocations/2", Some("green")),
        ("/v2", None),
    ] {
        let seen = colour_of(&env, path, "a").await?;
        ensure!(seen.as_deref() == expected, "{path}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_fully_qualified_host_matches_with_and_without_its_dot() -> Result<()> {
    let bootstrap = two_models(&json!({"authority": "iris.example.com"}), &json!({"authority": "*.example.org."}))?;
    let env = Environment::with(2, bootstrap).await?;
    for (host, expected) in [
        ("iris.example.com", Some("blue")),
        ("iris.example.com.", Some("blue")),
        ("Iris.example.com.:10000", Some("blue")),
        ("rose.example.org", Some("green")),
        ("rose.example.org.", Some("green")),
        ("iris.example.com..", None),
    ] {
        let seen = colour_of(&env, PATH, host).await?;
        ensure!(seen.as_deref() == expected, "{host}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_leader_follows_a_new_listener_configuration_while_the_old_one_drains() -> Result<()> {
    let mut watched = Watched::lds()?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    wait::until("a probe", || async { Ok(env.green.probes()) }, |probes| *probes > 0).await?;
    watched.deliver(|resource| resource.deployment(IRIS, |iris| iris["probe"]["path"] = json!("/other")))?;
    let asked = || async { Ok(env.green.seen().iter().any(|seen| seen.path == "/other")) };
    wait::until("a probe of the new configuration", asked, |asked| *asked).await?;
    let probes = env.green.probes();
    let others = || async { Ok(env.green.seen().iter().filter(|seen| seen.path == "/other").count()) };
    wait::until("two more", others, |others| *others > 2).await?;
    ensure!(env.green.probes() <= probes + 1, "the old configuration still probes");
    Ok(())
}
