//! The API's description drives the API. Beside this, the client of all tests here holds each answer against it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use bluegreen_openapi::{Description, Operation};
use bluegreen_testbed::Admin;
use bluegreen_testbed::admin::{Call, Reply};
use bluegreen_testbed::envoy::VIEWER;
use bluegreen_tests::{Environment, IRIS};
use reqwest::Method;
use serde_json::{Value, json};

/// A call of an operation with the examples of its parameters, in the query or in the body.
fn call(admin: &Admin, operation: &Operation<'_>, in_body: bool) -> Result<Call> {
    let path = operation.path.replace("{name}", IRIS);
    let call = admin.call(operation.method.parse::<Method>()?, &path);
    let parameters = operation.parameters();
    let examples = parameters.iter().filter(|parameter| parameter.place == "query");
    let examples = examples.filter_map(|parameter| Some((parameter.name, parameter.example?)));
    if in_body {
        let members = examples.map(|(name, value)| (name.to_owned(), value.clone()));
        return Ok(call.json(&Value::Object(members.collect())));
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let query: Vec<_> = examples.map(|(name, value)| (name, text(value))).collect();
    Ok(call.query(&query.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>()))
}

/// What an operation needs before it can succeed: the calls that lead there from the start.
fn before(id: &str) -> &'static [(&'static str, &'static str)] {
    match id {
        "rollback" | "drain" => &[("POST", "/promote?to=green")],
        "pauseRollout" | "abortRollout" | "skipRollout" => &[("POST", "/rollout/start")],
        "resumeRollout" => &[("POST", "/rollout/start"), ("POST", "/rollout/pause")],
        _ => &[],
    }
}

/// Adds what the operation `disagreements` needs.
fn comparing(iris: &mut Value) {
    iris["shadow"] = json!({"compare": {"safe": [{"method": "POST", "path_prefix": "/invocations"}]}});
}

/// Takes the deployment back to where it started from: blue active, no canary, no rollout, nothing to go back to.
async fn begin_again(admin: &Admin) -> Result<()> {
    admin.patching(IRIS).query(&[("active", "blue"), ("canary_percent", "0")]).send().await?.accepted()?;
    Ok(())
}

#[tokio::test]
async fn each_operation_succeeds_with_the_examples_of_the_description() -> Result<()> {
    let env = Environment::with_deployment(2, |iris| {
        comparing(iris);
        // Without a window in which the colour that was left is kept, a drain answers at once.
        iris.as_object_mut().map(|iris| iris.remove("bake"));
    })
    .await?;
    let admin = env.envoy.admin()?;
    let served: Value = admin.get("/v1/openapi.json").await?.accepted()?.json()?;
    ensure!(&served == Description::shipped().document(), "it serves another description: {served:#}");
    for operation in Description::shipped().operations() {
        let id = operation.id();
        // MLflow signs what it delivers: the webhook's own tests do that.
        if id == "deliver" {
            continue;
        }
        let mut ways = vec![false];
        ways.extend((!operation.body_members().is_empty()).then_some(true));
        for in_body in ways {
            for (method, rest) in before(id) {
                let call = admin.call(method.parse::<Method>()?, &format!("/v1/deployments/{IRIS}{rest}"));
                call.send().await?.accepted()?;
            }
            let reply = call(&admin, &operation, in_body)?.send().await?;
            ensure!(reply.status == 200, "{id}, body: {in_body}: {reply:?}");
            begin_again(&admin).await?;
        }
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn each_operation_takes_the_role_that_the_description_names() -> Result<()> {
    let env = Environment::with_deployment(2, comparing).await?;
    let operator = env.envoy.admin()?;
    let status = |reply: Reply| reply.status;
    for operation in Description::shipped().operations() {
        let anonymous = call(&operator.anonymous(), &operation, false)?.send().await.map(status)?;
        let viewer = call(&operator.token(VIEWER), &operation, false)?.send().await.map(status)?;
        let is_as_said = match operation.role() {
            Some("operator") => (anonymous, viewer) == (401, 403),
            Some(_) => (anonymous, viewer) == (401, 200),
            None => anonymous == viewer && !matches!(anonymous, 401 | 403),
        };
        ensure!(
            is_as_said,
            "{} takes {:?}: {anonymous} without a token, {viewer} as a viewer",
            operation.id(),
            operation.role()
        );
    }
    env.ensure_untouched("callers without an operator's token").await
}

#[tokio::test]
async fn parameters_that_the_description_does_not_name_are_refused() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    for operation in Description::shipped().operations() {
        if operation.id() == "deliver" {
            continue;
        }
        let reply = call(&admin, &operation, false)?.query(&[("colours", "2")]).send().await?;
        ensure!(reply.status == 400, "{}: {reply:?}", operation.id());
        if !operation.body_members().is_empty() {
            let call = admin.call(operation.method.parse::<Method>()?, &operation.path.replace("{name}", IRIS));
            let reply = call.json(&json!({"colours": 2})).send().await?;
            ensure!(reply.status == 400, "{}: {reply:?}", operation.id());
        }
    }
    env.ensure_untouched("parameters that are none").await
}

#[tokio::test]
async fn a_method_that_the_description_does_not_name_is_refused_with_those_that_it_does() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    let mut described: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in Description::shipped().operations() {
        described.entry(operation.path).or_default().insert(operation.method);
    }
    for (path, known) in described {
        for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
            if known.contains(method) {
                continue;
            }
            let reply = admin.call(method.parse::<Method>()?, &path.replace("{name}", IRIS)).send().await?;
            let allowed: BTreeSet<&str> = reply.header("allow").unwrap_or_default().split(", ").collect();
            ensure!(reply.status == 405 && allowed == known, "{method} {path}: {:?} {reply:?}", reply.headers);
        }
    }
    env.ensure_untouched("methods that are none").await
}
