//! What `bluegreen validate` says about a file, and what the filter says that runs with it: the same word.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::{Bootstrap, raw, repository, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// The words of what validate warns of in a file.
fn offline(bootstrap: &Bootstrap) -> Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("envoy.json");
    std::fs::write(&file, bootstrap.tree().to_string())?;
    let output =
        Command::new(repository::command_line()?).args(["validate", "--output", "json"]).arg(&file).output()?;
    let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let findings = said["findings"].as_array().context("no findings")?.iter();
    let matters = findings.filter(|finding| finding["level"] != "note");
    Ok(matters.filter_map(|finding| finding["problem"].as_str()).map(str::to_owned).collect())
}

/// The words that the running filter shows.
async fn running(env: &Environment) -> Result<BTreeSet<String>> {
    raw::exchange(env.envoy.traffic()?, get(PATH, &[])).await?;
    let deployment = env.envoy.admin()?.get("/v1/deployments/iris").await?.json()?;
    let setup = deployment["setup"].as_array().context("no setup in the answer")?;
    Ok(setup.iter().filter_map(|noted| noted["problem"].as_str()).map(str::to_owned).collect())
}

/// The connection manager of the traffic listener.
fn manager(bootstrap: Bootstrap, change: impl FnOnce(&mut Value)) -> Bootstrap {
    bootstrap.edit(|tree| {
        change(&mut tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]);
    })
}

#[tokio::test]
async fn the_running_filter_and_validate_use_the_same_word() -> Result<()> {
    type Case = (&'static str, fn(Bootstrap) -> Bootstrap);
    let cases: [Case; 4] = [
        ("cluster-unknown", |good| good.deployment(IRIS, |iris| iris["colours"]["green"]["cluster"] = json!("gren"))),
        ("not-seeded", |good| manager(good, |manager| manager["early_header_mutation_extensions"] = json!([]))),
        ("answers-from-elsewhere", |good| {
            manager(good, |manager| {
                // The filter chooses blue, and green answers.
                manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"] = json!({"cluster": "green"});
            })
        }),
        ("stats-filtered", |good| {
            good.edit(|tree| {
                let matcher = json!({"exclusion_list": {"patterns": [{"prefix": "wasmcustom."}]}});
                tree["stats_config"]["stats_matcher"] = matcher;
            })
        }),
    ];
    ensure!(offline(&Bootstrap::shipped()?)?.is_empty(), "the shipped file is not clean");
    for (word, spoil) in cases {
        let bootstrap = spoil(Bootstrap::shipped()?);
        ensure!(offline(&bootstrap)?.contains(word), "validate does not say {word}");
        let env = Environment::with(1, bootstrap).await?;
        wait::until(word, || running(&env), |words| words.contains(word)).await?;
        env.ensure_no_trap()?;
    }
    Ok(())
}
