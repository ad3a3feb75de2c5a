//! Waiting for what a model registry brings about.

use std::fmt;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Change, Deployment};
use bluegreen_testbed::{Admin, Envoy, wait};
use serde_json::Value;

use crate::IRIS;

/// The secret in `envoy/mlflow/webhook-secret.yaml`.
pub const WEBHOOK_SECRET: &str = "demo-webhook-secret";

/// Waits until `colour` is active.
pub async fn until_active(envoy: &Envoy, colour: &str) -> Result<Deployment> {
    let admin = envoy.admin()?;
    let look = || async { admin.deployment(IRIS).await };
    let seen = wait::until(&format!("active: {colour}"), look, |state| state.active == colour).await;
    match seen {
        Ok(state) => Ok(state),
        Err(error) => Err(error.context(format!("the registry was seen as {}", status(&admin).await?))),
    }
}

/// Waits until what the API shows of the registry contains `words`.
pub async fn until_shown(envoy: &Envoy, words: &str) -> Result<Value> {
    let admin = envoy.admin()?;
    wait::until(words, || status(&admin), |seen| seen.to_string().contains(words)).await
}

/// Waits until what the API shows of the registry does not contain `words`.
pub async fn until_not_shown(envoy: &Envoy, words: &str) -> Result<Value> {
    let admin = envoy.admin()?;
    let without = |seen: &Value| seen.is_object() && !seen.to_string().contains(words);
    wait::until(&format!("no {words}"), || status(&admin), without).await
}

/// The newest change, which must be the registry's and have this reason.
pub async fn last_change(envoy: &Envoy, reason: impl fmt::Display) -> Result<Change> {
    let history = envoy.admin()?.history(IRIS).await?;
    let change = history.into_iter().next().context("the history is empty")?;
    let reason = reason.to_string();
    ensure!((&*change.source, &*change.by) == ("mlflow", "mlflow"), "{change:?}");
    ensure!(change.reason == reason, "expected the reason {reason:?}, got {change:?}");
    Ok(change)
}

async fn status(admin: &Admin) -> Result<Value> {
    admin.source_status(IRIS, "mlflow").await
}
