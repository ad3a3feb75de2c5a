//! One Envoy between a blue and a green upstream, and what tests ask it again and again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::admin::{Change, Deployment, Rollout};
use bluegreen_testbed::{Bootstrap, Envoy, Load, Upstream, envoy, wait};
use serde_json::Value;

use crate::{IRIS, PATH};

/// How long a rollout may take to reach a step or its end.
pub const ROLLOUT_PATIENCE: Duration = Duration::from_secs(60);

/// A blue upstream, a green one, and an Envoy in front of them.
#[derive(Debug)]
pub struct Environment {
    /// The Envoy.
    pub envoy: Envoy,
    /// The upstream behind the cluster `blue`.
    pub blue: Upstream,
    /// The upstream behind the cluster `green`.
    pub green: Upstream,
}

// === impl Environment ===

impl Environment {
    /// The shipped configuration with this many worker threads.
    pub async fn new(workers: u32) -> Result<Self> {
        Self::with(workers, Bootstrap::shipped()?).await
    }

    /// The shipped configuration with a changed deployment.
    pub async fn with_deployment(workers: u32, change: impl FnMut(&mut Value)) -> Result<Self> {
        Self::with(workers, Bootstrap::shipped()?.deployment(IRIS, change)).await
    }

    /// Any configuration, in front of the two upstreams.
    pub async fn with(workers: u32, bootstrap: Bootstrap) -> Result<Self> {
        Self::start(bootstrap, |options| options.concurrency(workers)).await
    }

    /// Any configuration and any options of Envoy.
    pub async fn start(bootstrap: Bootstrap, options: impl FnOnce(envoy::Options) -> envoy::Options) -> Result<Self> {
        let blue = Upstream::start("blue").await?;
        let green = Upstream::start("green").await?;
        let bootstrap = bootstrap.with_cluster("blue", blue.address()).with_cluster("green", green.address());
        let envoy = options(Envoy::with(bootstrap)).start().await?;
        Ok(Self { envoy, blue, green })
    }

    /// Traffic for the deployment.
    pub fn load(&self) -> Result<Load> {
        Ok(Load::new(self.envoy.traffic()?, PATH))
    }

    /// The deployment's state, over a new connection, hence from any worker.
    pub async fn deployment(&self) -> Result<Deployment> {
        self.envoy.admin()?.deployment(IRIS).await
    }

    /// The deployment's changes, newest first.
    pub async fn history(&self) -> Result<Vec<Change>> {
        self.envoy.admin()?.history(IRIS).await
    }

    /// The newest change; an error when there was none.
    pub async fn newest_change(&self) -> Result<Change> {
        self.history().await?.into_iter().next().context("the history is empty")
    }

    /// Sets parameters of the deployment, which must succeed.
    pub async fn patch(&self, parameters: &[(&str, &str)]) -> Result<Deployment> {
        self.envoy.admin()?.patch(IRIS, parameters).await?.deployment()
    }

    /// Waits until the deployment is as `accept` wants it; `what` is for the message.
    pub async fn until(&self, what: &str, accept: impl Fn(&Deployment) -> bool) -> Result<Deployment> {
        wait::until(what, || self.deployment(), accept).await
    }

    /// Waits until the deployment's rollout is as `accept` wants it, for at most [`ROLLOUT_PATIENCE`].
    pub async fn until_rollout(&self, what: &str, accept: impl Fn(&Rollout) -> bool) -> Result<Deployment> {
        let accept = |state: &Deployment| state.rollout.as_ref().is_some_and(&accept);
        wait::until_within(ROLLOUT_PATIENCE, what, || self.deployment(), accept).await
    }

    /// Fails when anything has changed the deployment since Envoy started; `sent` is what might have.
    pub async fn ensure_untouched(&self, sent: &str) -> Result<()> {
        let state = self.deployment().await?;
        let untouched = state.revision == 0 && state.active == "blue" && state.canary_percent == 0.0;
        ensure!(untouched, "{sent} changed the state: {state:?}");
        Ok(())
    }

    /// Fails when a VM of the Envoy has trapped.
    pub fn ensure_no_trap(&self) -> Result<()> {
        ensure_no_trap(&self.envoy)
    }
}

/// Fails when a VM has trapped: under the shipped failure policy nothing else shows it.
pub fn ensure_no_trap(envoy: &Envoy) -> Result<()> {
    for sign in ["Function: proxy_on_", "panicked at", "Proxy-Wasm plugin in-VM backtrace"] {
        let lines = envoy.log().lines_with(sign);
        ensure!(lines.is_empty(), "the filter trapped: {lines:#?}");
    }
    Ok(())
}
