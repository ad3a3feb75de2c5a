//! The API's description, as tools of others read it: a validator, and Schemathesis, which makes up calls from it.
//!
//! Both are in the Python environment that the environment variable `SCHEMATHESIS` names.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::schemathesis::SCHEMATHESIS;
use bluegreen_testbed::envoy::{ADMIN, OPERATOR, VIEWER};
use bluegreen_testbed::repository;
use bluegreen_tests::Environment;
use tokio::process::Command;

/// How long Schemathesis may take for one caller, in seconds, on a machine that does something else as well.
const PATIENCE: &str = "300";

fn program(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(SCHEMATHESIS).context("run this by cargo xtask test --suite openapi")?;
    Ok(PathBuf::from(folder).join("bin").join(name))
}

async fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    println!("{said}");
    Ok(())
}

#[tokio::test]
async fn the_description_is_valid_openapi_3_1() -> Result<()> {
    let validator = program("openapi-spec-validator")?;
    let document = repository::root().join("docs/openapi.json");
    run(Command::new(validator).args(["--schema", "3.1"]).arg(document)).await
}

/// Makes up calls of a caller with this token, or with none.
async fn try_as(token: Option<&str>) -> Result<()> {
    let env = Environment::with_deployment(2, |iris| {
        iris.as_object_mut().map(|iris| iris.remove("bake"));
    })
    .await?;
    let url = format!("http://{}/bluegreen/v1/openapi.json", env.envoy.listener(ADMIN)?);
    let folder = repository::root().join("tests/openapi");
    let mut command = Command::new("timeout");
    command.arg(PATIENCE).arg(program("schemathesis")?).arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.args(["run", &url, "--no-color", "--continue-on-failure", "--max-examples=10"]);
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", &folder).env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(env.envoy.directory());
    match token {
        Some(token) => command.arg("--header").arg(format!("Authorization: Bearer {token}")),
        // Made-up tokens are guesses, each of which is answered after a second.
        None => command.args(["--generation-with-security-parameters=false", "--exclude-checks=ignored_auth"]),
    };
    run(&mut command).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn an_operator_gets_no_answer_that_is_not_described() -> Result<()> {
    try_as(Some(OPERATOR)).await
}

#[tokio::test]
async fn a_viewer_gets_no_answer_that_is_not_described() -> Result<()> {
    try_as(Some(VIEWER)).await
}

#[tokio::test]
async fn a_caller_without_a_token_gets_no_answer_that_is_not_described() -> Result<()> {
    try_as(None).await
}
