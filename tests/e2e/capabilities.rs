//! The host calls and callbacks that the module needs, as an Envoy that allows these and no others sees it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::capabilities::{DOCUMENT, documented, restrict};
use bluegreen_testbed::envoy::{ADMIN, OPERATOR};
use bluegreen_testbed::{Bootstrap, repository, wait};
use bluegreen_tests::{Environment, IRIS};
use serde_json::json;
use walrus::{ExportItem, Module};

/// Host calls that the module imports because the SDK's traits name them, and that the filter never makes:
/// `src/fake_host/abi.rs` ends the test in which one is made.
const NEVER_MADE: [&str; 7] = [
    "proxy_close_stream",
    "proxy_continue_stream",
    "proxy_done",
    "proxy_grpc_close",
    "proxy_resolve_shared_queue",
    "proxy_set_buffer_bytes",
    "proxy_set_header_map_pairs",
];

/// What the module imports from the host.
fn imports(module: &Module) -> BTreeSet<String> {
    module.imports.iter().map(|import| import.name.clone()).collect()
}

/// What the host calls. Envoy restricts both directions by one list; what the WebAssembly embedding itself needs (memory,
/// allocator, initialiser, the ABI's version) is not among it.
fn callbacks(module: &Module) -> BTreeSet<String> {
    let exported = module.exports.iter().filter(|export| matches!(export.item, ExportItem::Function(_)));
    exported.map(|export| export.name.clone()).filter(|name| name.starts_with("proxy_on_")).collect()
}

#[test]
fn the_document_lists_the_callbacks_and_the_host_calls_that_are_made() -> Result<()> {
    let module = Module::from_file(repository::wasm()?)?;
    let never_made: BTreeSet<_> = NEVER_MADE.map(str::to_owned).into();
    let imports = imports(&module);
    let gone: Vec<_> = never_made.difference(&imports).collect();
    ensure!(gone.is_empty(), "no longer imported: {gone:?}");
    let needed: BTreeSet<_> = imports.difference(&never_made).cloned().chain(callbacks(&module)).collect();
    let documented = documented()?;
    let missing: Vec<_> = needed.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&needed).collect();
    ensure!(missing.is_empty() && stale.is_empty(), "{DOCUMENT} lacks {missing:?} and has {stale:?} in vain");
    Ok(())
}

#[tokio::test]
async fn the_module_works_with_exactly_the_listed_capabilities() -> Result<()> {
    let env = Environment::with(2, restrict(Bootstrap::shipped()?, &documented()?)?).await?;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "50"), ("shadow_percent", "50")]).await?.accepted()?;
    let report = env.load()?.at_most(80).run().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    ensure!(report.count("blue") > 0 && report.count("green") > 0, "{:?}", report.colours());
    let url = format!("http://{}/bluegreen/v1/deployments/{IRIS}", env.envoy.listener(ADMIN)?);
    let body = json!({"canary_percent": 10, "shadow_percent": 0});
    let patched = reqwest::Client::new().patch(url).bearer_auth(OPERATOR).json(&body).send().await?;
    ensure!(patched.status() == 200, "{patched:?}");
    admin.promote(IRIS).await?;
    let probed =
        |state: &Deployment| state.colours.values().all(|colour| colour.probe.as_ref().is_some_and(|p| p.healthy));
    wait::until("the probes", || admin.deployment(IRIS), probed).await?;
    ensure!(admin.rollback(IRIS).await?.active == "blue" && admin.history(IRIS).await?.len() == 4, "lost a change");
    admin.comparison(IRIS).await?;
    let metrics = env.envoy.prometheus().await?;
    let counted = metrics.value("bluegreen_requests_total", &[("deployment", IRIS), ("colour", "blue")]);
    ensure!(counted.is_some_and(|count| count > 0.0), "no metrics: {counted:?}");
    ensure!(!env.envoy.log().lines_with("state changed").is_empty(), "no log");
    env.ensure_no_trap()
}

#[tokio::test]
async fn the_list_is_enforced() -> Result<()> {
    let mut fewer = documented()?;
    ensure!(fewer.remove("proxy_on_response_headers"), "the module does not look at answers any more");
    let env = Environment::with(1, restrict(Bootstrap::shipped()?, &fewer)?).await?;
    let report = env.load()?.at_most(4).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("none") == 4, "a callback that is not allowed was called: {:?}", report.colours());
    Ok(())
}
