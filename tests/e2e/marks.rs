//! Marks tell who served: an answer that did not come from the cluster that was chosen does not say that it did.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::raw::{self, Answer};
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::admin::ensure_conflict;
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// Another set of routes on the traffic listener.
fn with_routes(tree: &mut Value, pointer: &str, routes: &Value) {
    let traffic = elements(tree, pointer).find(|listener| listener["name"] == "traffic");
    let host = traffic.and_then(|listener| {
        listener.pointer_mut("/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0")
    });
    host.into_iter().for_each(|host| host["routes"] = routes.clone());
}

fn shipped_with_routes(routes: &Value) -> Result<Bootstrap> {
    Ok(Bootstrap::shipped()?.edit(|tree| with_routes(tree, "/static_resources/listeners", routes)))
}

/// The route that a user forgot to change.
fn kept_cluster() -> Value {
    json!([{"match": {"prefix": PATH}, "route": {"cluster": "blue"}}])
}

async fn ask(env: &Environment, headers: &[(&str, &[u8])]) -> Result<Answer> {
    raw::exchange(env.envoy.traffic()?, get(PATH, headers)).await
}

fn marks(answer: &Answer) -> (Option<&str>, Option<&str>) {
    (answer.header("x-bluegreen-colour"), answer.header("x-bluegreen-version"))
}

async fn setup(env: &Environment) -> Result<Value> {
    Ok(env.envoy.admin()?.get(&format!("/v1/deployments/{IRIS}")).await?.json()?["setup"].clone())
}

/// Whether what is known to be wrong says that answers come from elsewhere.
fn is_elsewhere(setup: &Value) -> bool {
    let mut problems = setup.as_array().into_iter().flatten();
    problems.any(|noted| noted["problem"] == "answers-from-elsewhere")
}

const FOR_GREEN: [(&str, &[u8]); 1] = [("x-bluegreen-override", b"green")];

#[tokio::test]
async fn a_route_that_ignores_the_header_is_found_by_its_answers() -> Result<()> {
    let cases = [
        ("kept cluster", kept_cluster()),
        (
            "weighted clusters",
            json!([{"match": {"prefix": PATH}, "route": {"weighted_clusters": {"clusters": [{"name": "blue", "weight": 1}]}}}]),
        ),
        (
            "a header that the filter does not write",
            json!([
                {"match": {"prefix": PATH, "headers": [{"name": "x-bluegreen-color", "string_match": {"exact": "green"}}]},
                 "route": {"cluster": "green"}},
                {"match": {"prefix": PATH}, "route": {"cluster": "blue"}},
            ]),
        ),
    ];
    for (name, routes) in cases {
        let bootstrap = shipped_with_routes(&routes)?.deployment(IRIS, |iris| iris["bake"] = Value::Null);
        let env = Environment::with(2, bootstrap).await?;
        let admin = env.envoy.admin()?;
        // Blue's own answers are right, and say nothing about green's.
        env.load()?.at_most(8).run().await.ensure_truthful()?;
        ensure!(!is_elsewhere(&setup(&env).await?), "{name}: {:#}", setup(&env).await?);

        let answer = ask(&env, &FOR_GREEN).await?;
        ensure!(marks(&answer) == (Some("blue"), Some("1")), "{name}: {answer:?}");
        let noted = setup(&env).await?;
        let said = "1 of 1 answers came from cluster blue, not green, though green was chosen";
        ensure!(is_elsewhere(&noted) && noted.to_string().contains(said), "{name}: {noted:#}");
        for refused in [admin.promoting(IRIS), admin.patching(IRIS).query(&[("canary_percent", "1")])] {
            ensure_conflict(&refused.send().await?, "not-routed", said).with_context(|| name.to_owned())?;
        }
        let forced = admin.promoting(IRIS).query(&[("force", "true")]).send().await?.deployment()?;
        ensure!(forced.active == "green", "{name}: {forced:?}");

        let before = env.green.requests();
        let report = env.load()?.at_most(20).run().await;
        report.ensure_no_failures()?;
        report.ensure_truthful()?;
        ensure!(report.count("blue") == 20 && env.green.requests() == before, "{name}: {:?}", report.colours());
        let counted = || async {
            let samples = env.envoy.prometheus().await?;
            let of = |colour| samples.value("bluegreen_requests_total", &[("deployment", IRIS), ("colour", colour)]);
            Ok((of("blue").unwrap_or_default(), of("green").unwrap_or_default()))
        };
        wait::until("counted as blue's", counted, |counted| *counted == (28.0, 0.0)).await?;
        let drain = admin.drain(IRIS, "blue", "1s").await?;
        ensure_conflict(&drain, "not-drained", "requests for green are answered by another cluster")?;
        // The way back needs no leave.
        ensure!(admin.rollback(IRIS).await?.active == "blue", "{name}");
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pushed_route_mends_it() -> Result<()> {
    let mut watched = Watched::lds()?;
    let shipped = watched.resource().clone();
    watched.deliver(|resource| resource.edit(|tree| with_routes(tree, "/resources", &kept_cluster())))?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let admin = env.envoy.admin()?;
    ensure!(marks(&ask(&env, &FOR_GREEN).await?).0 == Some("blue"));
    ensure_conflict(&admin.promoting(IRIS).send().await?, "not-routed", "green was chosen")?;
    watched.deliver(|_| shipped)?;
    let served = || async { Ok(marks(&ask(&env, &FOR_GREEN).await?).0.map(str::to_owned)) };
    wait::until("green", served, |colour| colour.as_deref() == Some("green")).await?;
    let seen = || async {
        ask(&env, &FOR_GREEN).await?;
        setup(&env).await
    };
    wait::until("a set-up without it", seen, |setup| !is_elsewhere(setup)).await?;
    ensure!(admin.promote(IRIS).await?.active == "green");
    let report = env.load()?.at_most(20).run().await;
    ensure!(report.count("green") == 20, "{:?}", report.colours());
    Ok(())
}

#[tokio::test]
async fn a_second_filter_that_decides_otherwise_has_the_last_word_and_the_marks_say_so() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.edit(|tree| {
        let traffic = elements(tree, "/static_resources/listeners").find(|listener| listener["name"] == "traffic");
        let filters = traffic.and_then(|listener| {
            listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")?.as_array_mut()
        });
        if let Some(filters) = filters {
            let mut second = filters[0].clone();
            second["name"] = json!("second");
            second["typed_config"]["config"]["vm_config"]["vm_id"] = json!("second");
            filters.insert(1, second);
        }
    });
    let env = Environment::with(1, bootstrap).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let answer = ask(&env, &[]).await?;
    ensure!(marks(&answer) == (Some("blue"), Some("1")), "{answer:?}");
    let noted = setup(&env).await?;
    ensure!(is_elsewhere(&noted), "{noted:#}");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_no_colour_gave_has_no_marks() -> Result<()> {
    let routes = json!([
        {"match": {"prefix": PATH, "headers": [{"name": "x-direct", "present_match": true}]}, "direct_response": {"status": 200}},
        {"match": {"prefix": PATH, "headers": [{"name": "x-other", "present_match": true}]}, "route": {"cluster": "other"}},
        {"match": {"prefix": PATH}, "route": {"cluster_header": "x-bluegreen-cluster"}},
    ]);
    let gold = bluegreen_testbed::Upstream::start("gold").await?;
    let env = Environment::with(1, shipped_with_routes(&routes)?.with_cluster("other", gold.address())).await?;
    for header in ["x-direct", "x-other"] {
        let answer = ask(&env, &[(header, b"on")]).await?;
        ensure!(answer.status == 200 && marks(&answer) == (None, None), "{header}: {answer:?}");
    }
    let answer = ask(&env, &[]).await?;
    ensure!(marks(&answer) == (Some("blue"), Some("1")), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn an_aggregate_cluster_is_the_colour_whichever_member_serves() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| iris["colours"]["green"]["cluster"] = json!("both"));
    let bootstrap = bootstrap.edit(|tree| {
        let clusters = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
        clusters.into_iter().for_each(|clusters| {
            clusters.push(json!({
                "name": "both",
                "connect_timeout": "1s",
                "lb_policy": "CLUSTER_PROVIDED",
                "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                    "clusters": ["green", "blue"],
                }},
            }));
        });
    });
    let env = Environment::with(1, bootstrap).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    let answer = ask(&env, &[]).await?;
    ensure!(answer.status == 200 && marks(&answer) == (Some("green"), Some("2")), "{answer:?}");
    ensure!(env.green.requests() == 1, "{answer:?}");
    ensure!(!is_elsewhere(&setup(&env).await?));
    Ok(())
}
