//! Waiting for what a model registry brings about.

use std::fmt;

use anyhow::{Result, ensure};
use bluegreen_testbed::admin::{Change, Deployment};
use bluegreen_testbed::{Admin, Envoy, wait};
use serde_json::Value;

use crate::IRIS;

/// Waits until `colour` is active.
pub async fn active(envoy: &Envoy, colour: &str) -> Result<Deployment> {
    let admin = envoy.admin()?;
    let look = || async { admin.deployment(IRIS).await };
    let seen = wait::until(&format!("active: {colour}"), look, |state| state.active == colour).await;
    match seen {
        Ok(state) => Ok(state),
        Err(error) => Err(error.context(format!("the registry was seen as {}", sighting(&admin).await?))),
    }
}

/// Waits until what the API tells about the registry contains `words`.
pub async fn told(envoy: &Envoy, words: &str) -> Result<Value> {
    let admin = envoy.admin()?;
    wait::until(words, || sighting(&admin), |seen| seen.to_string().contains(words)).await
}

/// Waits until what the API tells about the registry is free of `words`.
pub async fn not_told(envoy: &Envoy, words: &str) -> Result<Value> {
    let admin = envoy.admin()?;
    let without = |seen: &Value| seen.is_object() && !seen.to_string().contains(words);
    wait::until(&format!("no {words}"), || sighting(&admin), without).await
}

/// The newest change, which must be the registry's.
pub async fn last_change(envoy: &Envoy, reason: impl fmt::Display) -> Result<Change> {
    let history = envoy.admin()?.history(IRIS).await?;
    let Some(change) = history.into_iter().next() else { anyhow::bail!("the history is empty") };
    let reason = reason.to_string();
    ensure!((&*change.source, &*change.by) == ("mlflow", "mlflow"), "{change:?}");
    ensure!(change.reason == reason, "expected the reason {reason:?}, got {change:?}");
    Ok(change)
}

async fn sighting(admin: &Admin) -> Result<Value> {
    admin.sighting(IRIS, "mlflow").await
}
