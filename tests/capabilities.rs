//! The host calls and callbacks that the module needs, as an Envoy that allows these and no others sees it.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::Deployment;
use bluegreen_testbed::envoy::{ADMIN, OPERATOR};
use bluegreen_testbed::{Bootstrap, repository, wait};
use bluegreen_tests::{IRIS, Stage};
use serde_json::{Map, Value, json};
use walrus::{ExportItem, Module};

/// The file with the list for people to copy.
const DOCUMENT: &str = "docs/install.md";

/// What the module imports from the host and exports to it. Envoy restricts both directions by the same list; what the
/// WebAssembly embedding itself needs (memory, allocator, initialiser, the ABI's version) is not among it.
fn capabilities() -> Result<BTreeSet<String>> {
    let module = Module::from_file(repository::wasm()?)?;
    let imported = module.imports.iter().map(|import| import.name.clone());
    let exported = module.exports.iter().filter(|export| matches!(export.item, ExportItem::Function(_)));
    let callbacks = exported.map(|export| export.name.clone()).filter(|name| name.starts_with("proxy_on_"));
    Ok(imported.chain(callbacks).collect())
}

/// The names in the document's example.
fn documented() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository::root().join(DOCUMENT))?;
    let (_, example) = text.split_once("allowed_capabilities:\n").context("the document has no list")?;
    let (example, _) = example.split_once("```").context("the list does not end")?;
    let names = example.lines().map(|line| {
        let name = line.trim().strip_suffix(": {}").with_context(|| format!("{line:?} is no capability"))?;
        Ok(name.to_owned())
    });
    names.collect()
}

/// Whether the Envoy under test takes the list in `vm_config`, where 1.40 moved it, or beside that.
fn in_vm_config() -> Result<bool> {
    let answer = Command::new(repository::envoy()?).arg("--version").output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let minor = answer.split('/').find_map(|part| part.strip_prefix("1.")?.split('.').next()?.parse::<u32>().ok());
    Ok(minor.with_context(|| format!("no version in {answer:?}"))? >= 40)
}

/// The shipped configuration, in which the module may use these and no others.
fn restricted(capabilities: &BTreeSet<String>) -> Result<Bootstrap> {
    let allowed: Map<String, Value> = capabilities.iter().map(|name| (name.clone(), json!({}))).collect();
    let restriction = json!({"allowed_capabilities": allowed});
    let in_vm_config = in_vm_config()?;
    Ok(Bootstrap::shipped()?.wasm_filters(|filter| {
        let config = &mut filter["config"];
        let holder = if in_vm_config { &mut config["vm_config"] } else { config };
        holder["capability_restriction_config"] = restriction.clone();
    }))
}

#[test]
fn the_document_lists_what_the_module_imports_and_exports() -> Result<()> {
    let (needed, documented) = (capabilities()?, documented()?);
    let missing: Vec<_> = needed.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&needed).collect();
    ensure!(missing.is_empty() && stale.is_empty(), "{DOCUMENT} lacks {missing:?} and has {stale:?} in vain");
    Ok(())
}

#[tokio::test]
async fn the_module_works_with_exactly_the_listed_capabilities() -> Result<()> {
    let stage = Stage::with(2, restricted(&capabilities()?)?).await?;
    let admin = stage.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "50"), ("shadow_percent", "50")]).await?.accepted()?;
    let report = stage.load()?.at_most(80).run().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    ensure!(report.count("blue") > 0 && report.count("green") > 0, "{:?}", report.colours());
    let url = format!("http://{}/bluegreen/v1/deployments/{IRIS}", stage.envoy.listener(ADMIN)?);
    let body = json!({"canary_percent": 10, "shadow_percent": 0});
    let patched = reqwest::Client::new().patch(url).bearer_auth(OPERATOR).json(&body).send().await?;
    ensure!(patched.status() == 200, "{patched:?}");
    admin.promote(IRIS).await?;
    let probed =
        |state: &Deployment| state.colours.values().all(|colour| colour.probe.as_ref().is_some_and(|p| p.healthy));
    wait::until("the probes", || admin.deployment(IRIS), probed).await?;
    ensure!(admin.rollback(IRIS).await?.active == "blue" && admin.history(IRIS).await?.len() == 4, "lost a change");
    admin.comparison(IRIS).await?;
    let metrics = stage.envoy.prometheus().await?;
    let counted = metrics.value("bluegreen_requests_total", &[("deployment", IRIS), ("colour", "blue")]);
    ensure!(counted.is_some_and(|count| count > 0.0), "no metrics: {counted:?}");
    ensure!(!stage.envoy.log().lines_with("state changed").is_empty(), "no log");
    stage.ensure_no_trap()
}

#[tokio::test]
async fn the_list_is_enforced() -> Result<()> {
    let mut fewer = capabilities()?;
    ensure!(fewer.remove("proxy_on_response_headers"), "the module does not look at answers any more");
    let stage = Stage::with(1, restricted(&fewer)?).await?;
    let report = stage.load()?.at_most(4).run().await;
    report.ensure_no_failures()?;
    ensure!(report.count("none") == 4, "a callback that is not allowed was called: {:?}", report.colours());
    Ok(())
}
