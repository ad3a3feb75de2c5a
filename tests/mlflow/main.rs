//! A real MLflow: its Python client moves traffic between two real scikit-learn models, each served by
//! `mlflow models serve`.
//!
//! One tracking server, two model servers and one Python prompt serve all tests; each test registers the two versions
//! under a name of its own, and has an Envoy of its own, which lets the module have what the installation guide lists and
//! nothing else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bluegreen_testbed::capabilities::{documented, restrict};
use bluegreen_testbed::envoy::ADMIN;
use bluegreen_testbed::load::Answer;
use bluegreen_testbed::mlflow::{Mlflow, ModelServer, Python};
use bluegreen_testbed::registry::Delivery;
use bluegreen_testbed::{Bootstrap, Envoy, Load, wait};
use bluegreen_tests::registry::{WEBHOOK_SECRET, last_change, until_active, until_not_shown, until_shown};
use bluegreen_tests::{IRIS, PATH};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A flower on which the two versions differ: it is a virginica (2), and by its petal's length alone a versicolor (1).
const FLOWER: &str = r#"{"inputs": [[5.6, 2.8, 4.9, 2.0]]}"#;

/// The name that the two versions were trained under.
const TRAINED: &str = "trained";

static SHARED: OnceCell<Shared> = OnceCell::const_new();

/// What all tests share.
struct Shared {
    mlflow: Mlflow,
    python: Python,
    blue: ModelServer,
    green: ModelServer,
}

/// A registered model, and an Envoy that follows it.
struct Scene {
    model: String,
    python: &'static Python,
    envoy: Envoy,
}

// === impl Shared ===

impl Shared {
    async fn get() -> Result<&'static Self> {
        SHARED.get_or_try_init(Self::start).await
    }

    async fn start() -> Result<Self> {
        let mlflow = Mlflow::start().await?;
        let python = mlflow.python()?;
        python.run(&format!("train({TRAINED:?})")).await?;
        let (blue, green) = (format!("models:/{TRAINED}/1"), format!("models:/{TRAINED}/2"));
        let (blue, green) = tokio::try_join!(mlflow.serve(&blue), mlflow.serve(&green))?;
        Ok(Self { mlflow, python, blue, green })
    }
}

// === impl Scene ===

impl Scene {
    /// Follows the alias `production`, as shipped; its `poll_interval` is short enough for a test.
    async fn new() -> Result<Self> {
        Self::with(|mlflow| mlflow["poll_interval"] = json!("250ms")).await
    }

    /// With another `mlflow` section.
    async fn with(change: impl Fn(&mut Value)) -> Result<Self> {
        let shared = Shared::get().await?;
        Self::following(&shared.python, shared.mlflow.address(), change).await
    }

    async fn following(
        python: &'static Python,
        registry: std::net::SocketAddr,
        change: impl Fn(&mut Value),
    ) -> Result<Self> {
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let shared = Shared::get().await?;
        let model = format!("model-{}", SCENES.fetch_add(1, Ordering::Relaxed));
        let section = |iris: &mut Value| {
            iris["mlflow"]["model"] = json!(model);
            change(&mut iris["mlflow"]);
        };
        let bootstrap = Bootstrap::shipped_with_mlflow()?
            .with_cluster("blue", shared.blue.address())
            .with_cluster("green", shared.green.address())
            .with_cluster("mlflow", registry)
            .deployment(IRIS, section);
        python.run(&format!("register_again({model:?}, {TRAINED:?})")).await?;
        for (alias, version) in [("blue", "1"), ("green", "2"), ("production", "1")] {
            python.run(&format!("client.set_registered_model_alias({model:?}, {alias:?}, {version:?})")).await?;
        }
        let envoy = Envoy::with(restrict(bootstrap, &documented()?)?).start().await?;
        until_shown(&envoy, "\"at\":").await?;
        Ok(Self { model, python, envoy })
    }

    /// `client.set_registered_model_alias(…)`
    async fn alias(&self, alias: &str, version: &str) -> Result<()> {
        let model = &self.model;
        self.python.run(&format!("client.set_registered_model_alias({model:?}, {alias:?}, {version:?})")).await?;
        Ok(())
    }

    /// `client.transition_model_version_stage(…)`, as tutorials write it.
    async fn transition(&self, version: u32, stage: &str) -> Result<()> {
        let model = &self.model;
        let call = format!("client.transition_model_version_stage(name={model:?}, version={version}, stage={stage:?})");
        self.python.run(&call).await?;
        Ok(())
    }

    /// Predictions of the flower, each held against the colour and the version that its answer names.
    fn load(&self) -> Result<Load> {
        Ok(Load::new(self.envoy.traffic()?, PATH)
            .body(Method::POST, FLOWER)
            .header("content-type", b"application/json")?
            .connections(2)
            .rate(100.0)
            .verify(judge))
    }

    /// All of the next requests are answered by this colour.
    async fn ensure_serves(&self, colour: &str) -> Result<()> {
        let report = self.load()?.at_most(20).run().await;
        report.ensure_no_failures()?;
        ensure!(report.count(colour) == 20, "expected {colour} only, got {:?}", report.colours());
        Ok(())
    }
}

/// The prediction tells which model made it.
fn judge(answer: &Answer, body: &[u8]) -> Result<(), String> {
    let expected = match answer.colour.as_deref() {
        Some("blue") => r#"{"predictions": [1]}"#,
        Some("green") => r#"{"predictions": [2]}"#,
        other => return Err(format!("the answer's colour is {other:?}")),
    };
    if body == expected.as_bytes() { Ok(()) } else { Err(String::from_utf8_lossy(body).into_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_the_alias_in_python_moves_traffic_and_setting_it_back_returns_it() -> Result<()> {
    let scene = Scene::new().await?;
    let load = scene.load()?.start();
    load.more(20).await?;
    scene.alias("production", "2").await?;
    until_active(&scene.envoy, "green").await?;
    last_change(&scene.envoy, "version 1 -> 2: alias production was moved").await?;
    scene.ensure_serves("green").await?;
    scene.alias("production", "1").await?;
    until_active(&scene.envoy, "blue").await?;
    scene.ensure_serves("blue").await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorials_production_mark_moves_traffic() -> Result<()> {
    let by_stage = |mlflow: &mut Value| {
        mlflow["poll_interval"] = json!("250ms");
        mlflow["follow"] = json!({"stage": "Production"});
        mlflow["colours"] = json!({"blue": {"version": "1"}, "green": {"version": "2"}});
    };
    let scene = Scene::with(by_stage).await?;
    until_shown(&scene.envoy, "no version has the followed stage Production").await?;
    let load = scene.load()?.start();
    scene.transition(1, "Production").await?;
    until_not_shown(&scene.envoy, "no version has").await?;
    ensure!(scene.envoy.admin()?.deployment(IRIS).await?.revision == 0, "blue is active already");
    scene.transition(2, "Production").await?;
    until_active(&scene.envoy, "green").await?;
    last_change(&scene.envoy, "version 1 -> 2: stage Production was moved").await?;
    scene.ensure_serves("green").await?;
    // Both are in Production now, and the newest counts: the way back is to take version 2 out of it.
    scene.transition(2, "Archived").await?;
    until_active(&scene.envoy, "blue").await?;
    scene.ensure_serves("blue").await?;
    load.stop().await.ensure_no_failures()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_mlflow_signs_switches_long_before_the_next_poll() -> Result<()> {
    let scene = Scene::with(|mlflow| mlflow["poll_interval"] = json!("1h")).await?;
    let python = scene.python;
    let admin = scene.envoy.listener(ADMIN)?;
    let webhook = format!(
        "client.create_webhook(name=\"bluegreen\", url=\"http://{admin}/bluegreen/v1/mlflow/webhook\", \
         events=[\"model_version_alias.created\"], secret={WEBHOOK_SECRET:?})"
    );
    python.run(&webhook).await?;
    let tested = python.run("client.test_webhook(client.list_webhooks()[0].webhook_id)").await?;
    ensure!(tested.contains("response_status=202"), "MLflow's own test of the webhook: {tested}");

    let moved = Instant::now();
    scene.alias("production", "2").await?;
    until_active(&scene.envoy, "green").await?;
    let took = moved.elapsed();
    println!("from the call in Python to the switch: {took:?}");
    ensure!(took < Duration::from_secs(20), "{took:?}");
    scene.ensure_serves("green").await?;

    // Somebody else's delivery of the same kind.
    let admin = scene.envoy.admin()?;
    let forged = Delivery::now("mine", "a").send(&admin, &[("x-bluegreen-webhook-secret", "mine")]).await?;
    ensure!(forged.status == 401, "{forged:?}");
    python.run("client.delete_webhook(client.list_webhooks()[0].webhook_id)").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_dies_stops_no_traffic_and_is_followed_again_when_it_is_back() -> Result<()> {
    let mlflow = Box::leak(Box::new(Mlflow::start().await?));
    let python = Box::leak(Box::new(mlflow.python()?));
    python.run(&format!("train({TRAINED:?})")).await?;
    let scene = Scene::following(python, mlflow.address(), |mlflow| mlflow["poll_interval"] = json!("250ms")).await?;
    let load = scene.load()?.start();
    mlflow.stop()?;
    let seen = until_shown(&scene.envoy, "away since ").await?;
    ensure!(seen["value"]["version"] == "1", "what was known is lost: {seen}");
    load.more(20).await?;
    ensure!(scene.envoy.admin()?.deployment(IRIS).await?.revision == 0, "its absence moved traffic");
    scene.envoy.admin()?.promote(IRIS).await?;
    mlflow.restart().await?;
    until_not_shown(&scene.envoy, "away since ").await?;
    ensure!(scene.envoy.admin()?.deployment(IRIS).await?.active == "green", "its return took a switch back");
    scene.alias("production", "2").await?;
    until_shown(&scene.envoy, "\"version\":\"2\"").await?;
    scene.alias("production", "1").await?;
    until_active(&scene.envoy, "blue").await?;
    load.stop().await.ensure_no_failures()?;
    mlflow.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_on_a_version_that_nobody_serves_moves_nothing_and_says_so() -> Result<()> {
    let scene = Scene::new().await?;
    let model = &scene.model;
    let third = format!("register_version_again({model:?}, {TRAINED:?}, \"1\")");
    let third = scene.python.run(&third).await?;
    ensure!(third.contains('3'), "the next version is {third}");
    scene.alias("production", "3").await?;
    until_shown(&scene.envoy, "names version 3, which is neither blue (1) nor green (2)").await?;
    ensure!(scene.envoy.admin()?.deployment(IRIS).await?.revision == 0, "version 3 moved traffic");
    scene.python.run(&format!("client.delete_registered_model_alias({model:?}, \"production\")")).await?;
    until_shown(&scene.envoy, "no version has the followed alias production").await?;
    scene.alias("production", "2").await?;
    until_active(&scene.envoy, "green").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_not_registered_is_shown_with_the_registrys_error() -> Result<()> {
    let scene = Scene::with(|mlflow| mlflow["model"] = json!("no such model")).await?;
    until_shown(&scene.envoy, "Registered Model with name=no such model not found").await?;
    ensure!(scene.envoy.admin()?.deployment(IRIS).await?.revision == 0, "nothing moved traffic");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_models_pass_the_shipped_smoke_test_when_it_is_required() -> Result<()> {
    let scene = Scene::new().await?;
    let reply = scene.envoy.admin()?.test(IRIS).await?;
    ensure!(reply.json()?["passed"] == true, "{reply:?}");
    wait::until(
        "a healthy green",
        || async { scene.envoy.admin()?.deployment(IRIS).await },
        |state| state.probe("green").is_ok_and(|probe| probe.healthy),
    )
    .await?;
    Ok(())
}
