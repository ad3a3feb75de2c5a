//! A rollout goes through its steps automatically, and only its last step or an operator ends it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::discovery::Watched;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, repository, wait};
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};
use tempfile::TempDir;
use walrus::ir::{BinaryOp, Value as Constant};
use walrus::{ExportItem, FunctionBuilder, Module, ValType};

const RATE: f64 = 400.0;

/// A reply of this many bytes makes the VM trap that asked, in the module that [`trapping`] makes.
const DEADLY: i32 = 7_777;

fn plan(hold: &str) -> Value {
    json!({"steps": [
        {"canary_percent": 1, "hold": hold, "min_requests": 5},
        {"canary_percent": 10, "hold": hold, "min_requests": 20},
        {"canary_percent": 50, "hold": hold, "min_requests": 50},
    ]})
}

fn with_plan(iris: &mut Value, hold: &str) {
    iris["rollout"] = plan(hold);
    iris["guard"] = json!({"slow": {"over": "500ms"}});
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_candidate_goes_from_one_percent_to_promoted_without_a_failed_request() -> Result<()> {
    let env = Environment::with_deployment(2, |iris| with_plan(iris, "2s")).await?;
    let load = env.load()?.connections(8).rate(RATE).lasting(ROLLOUT_PATIENCE).start();
    load.more(50).await?;
    let started = env.envoy.admin()?.rollout(IRIS, "start").await?;
    ensure!((started.canary_percent, started.revision) == (1.0, 1), "{started:?}");
    let again = env.envoy.admin()?.call(reqwest::Method::POST, "/v1/deployments/iris/rollout/start").send().await?;
    ensure!(again.status == 409, "{again:?}");

    let promoted = env.until_rollout("promoted", |rollout| rollout.phase == "promoted").await?;
    ensure!((promoted.active.as_str(), promoted.canary_percent) == ("green", 0.0), "{promoted:?}");
    load.more(100).await?;
    let report = load.stop().await;
    report.ensure_no_failures()?;
    println!("{} requests, none failed: {:?}", report.records.len(), report.colours());

    let history = env.history().await?;
    let seen: Vec<_> = history.iter().map(|change| (change.source.as_str(), change.to.canary_percent)).collect();
    ensure!(seen == [("rollout", 0.0), ("rollout", 50.0), ("rollout", 10.0), ("admin", 1.0)], "{seen:?}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_controls_a_rollout_and_an_operators_own_share_ends_it() -> Result<()> {
    let env = Environment::with_deployment(2, |iris| with_plan(iris, "1h")).await?;
    let admin = env.envoy.admin()?;
    admin.rollout(IRIS, "start").await?;
    let skipped = admin.rollout(IRIS, "skip").await?;
    ensure!(skipped.canary_percent == 10.0, "{skipped:?}");
    let paused = admin.rollout(IRIS, "pause").await?;
    ensure!(paused.rollout.is_some_and(|rollout| rollout.phase == "paused" && rollout.step == 2));
    let resumed = admin.rollout(IRIS, "resume").await?;
    ensure!(resumed.rollout.is_some_and(|rollout| rollout.phase == "running"));
    admin.patch(IRIS, &[("canary_percent", "20")]).await?.accepted()?;
    let state = env.deployment().await?;
    ensure!(state.rollout.is_some_and(|rollout| rollout.phase == "aborted"));
    let newest = env.newest_change().await?;
    ensure!(newest.rollout.as_deref() == Some("aborted") && newest.source == "admin", "{newest:?}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_rollout_outlives_a_new_configuration() -> Result<()> {
    let mut watched = Watched::ecds()?;
    let deliver = |watched: &mut Watched, note: &str| {
        watched.deliver(|resource| {
            resource.deployment(IRIS, |iris| {
                with_plan(iris, "1s");
                iris["colours"]["blue"]["version"] = json!(note);
            })
        })
    };
    deliver(&mut watched, "1")?;
    let env = Environment::with(2, watched.bootstrap()).await?;
    let load = env.load()?.connections(8).rate(RATE).lasting(ROLLOUT_PATIENCE).start();
    let admin = env.envoy.admin()?;
    admin.rollout(IRIS, "start").await?;
    env.until_rollout("the second step", |rollout| rollout.step == 2).await?;
    let paused = admin.rollout(IRIS, "pause").await?;
    // Another version behind the active colour: the rollout is the candidate's.
    deliver(&mut watched, "1.1")?;
    let version = |state: &Deployment| state.colours["blue"].version == "1.1";
    let pushed = env.until("the new configuration", version).await?;
    ensure!(pushed.rollout.as_ref().map(|rollout| rollout.phase.as_str()) == Some("paused"), "{pushed:?}");
    ensure!((pushed.canary_percent, pushed.revision) == (paused.canary_percent, paused.revision + 1), "{pushed:?}");
    admin.rollout(IRIS, "resume").await?;
    env.until_rollout("promoted", |rollout| rollout.phase == "promoted").await?;
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_goes_on_when_the_vm_that_runs_it_traps() -> Result<()> {
    let folder = TempDir::new()?;
    let bootstrap = Bootstrap::shipped()?.with_wasm(&trapping(folder.path())?).deployment(IRIS, |iris| {
        with_plan(iris, "3s");
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s"});
    });
    let env = Environment::with(2, bootstrap).await?;
    let load = env.load()?.connections(8).rate(RATE).lasting(ROLLOUT_PATIENCE).start();
    env.envoy.admin()?.rollout(IRIS, "start").await?;
    env.until_rollout("the second step", |rollout| rollout.step == 2).await?;
    // Only the leader probes: the next reply ends its VM, and nobody else's.
    env.blue.behave_when_probed(Behaviour::Bytes(usize::try_from(DEADLY)?));
    env.envoy.log().wait_for("proxy_on_http_call_response").await?;
    env.blue.behave_when_probed(Behaviour::Answer);

    let promoted = wait::until_within(
        ROLLOUT_PATIENCE,
        "green to be active",
        || async {
            // A worker whose VM has trapped serves no admin API any more: another connection reaches another worker.
            let reply = env.envoy.admin()?.get(&format!("/v1/deployments/{IRIS}")).await?;
            Ok(reply.deployment().ok())
        },
        |state: &Option<Deployment>| state.as_ref().is_some_and(|state| state.active == "green"),
    );
    let promoted = promoted.await?.context("no state")?;
    ensure!(promoted.rollout.is_some_and(|rollout| rollout.phase == "promoted"));
    let report = load.stop().await;
    // What was in flight in the VM, and what came until Envoy had made it anew: FAIL_RELOAD lets none pass unfiltered.
    let (failed, sent) = (report.failures().len(), report.records.len());
    println!("{failed} of {sent} requests failed");
    ensure!(failed < 200 && sent > 2_000, "{failed} of {sent} requests failed");
    Ok(())
}

/// The module with one change: its VM traps when a reply to a request of its own has [`DEADLY`] bytes.
fn trapping(folder: &Path) -> Result<PathBuf> {
    const CALLBACK: &str = "proxy_on_http_call_response";
    let mut module = Module::from_file(repository::wasm()?)?;
    let original = module.exports.get_func(CALLBACK)?;
    let parameters = [ValType::I32; 5];
    let arguments = parameters.map(|kind| module.locals.add(kind));
    let mut function = FunctionBuilder::new(&mut module.types, &parameters, &[]);
    let size = arguments[3];
    function
        .name(CALLBACK.to_owned())
        .func_body()
        .local_get(size)
        .const_(Constant::I32(DEADLY))
        .binop(BinaryOp::I32Eq)
        .if_else(
            None,
            |deadly| {
                deadly.unreachable();
            },
            |alive| {
                for argument in arguments {
                    alive.local_get(argument);
                }
                alive.call(original);
            },
        );
    let function = function.finish(arguments.to_vec(), &mut module.funcs);
    let export = module.exports.iter_mut().find(|export| export.name == CALLBACK).context("not exported")?;
    export.item = ExportItem::Function(function);
    let path = folder.join("trapping.wasm");
    module.emit_wasm_file(&path)?;
    Ok(path)
}
