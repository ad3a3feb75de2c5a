//! Envoys that follow one etcd, in front of a blue and a green upstream.

use anyhow::{Context, Result};
use bluegreen_testbed::admin::{Change, Deployment, Reply, Rollout};
use bluegreen_testbed::{Bootstrap, Etcd, Fleet, Load, Upstream, wait};
use bluegreen_tests::environment::{ROLLOUT_PATIENCE, ensure_no_trap};
use bluegreen_tests::{IRIS, PATH};

/// A fleet and its upstreams.
pub struct Environment {
    pub fleet: Fleet,
    _blue: Upstream,
    pub green: Upstream,
}

// === impl Environment ===

impl Environment {
    /// Three members of etcd and this many Envoys with this configuration, all of them ready.
    pub async fn with(envoys: usize, bootstrap: Bootstrap) -> Result<Self> {
        Self::on(Etcd::start(3).await?, envoys, bootstrap).await
    }

    /// The same on an etcd that runs.
    pub async fn on(etcd: Etcd, envoys: usize, bootstrap: Bootstrap) -> Result<Self> {
        let (blue, green) = (Upstream::start("blue").await?, Upstream::start("green").await?);
        let bootstrap = bootstrap.with_cluster("blue", blue.address()).with_cluster("green", green.address());
        let fleet = Fleet::on(etcd, envoys, &bootstrap, |options| options).await?;
        Ok(Self { fleet, green, _blue: blue })
    }

    /// Traffic for the deployment through one Envoy.
    pub fn load(&self, index: usize) -> Result<Load> {
        Ok(Load::new(self.fleet.envoy(index)?.traffic()?, PATH).connections(1))
    }

    /// The deployment's state, as one Envoy shows it.
    pub async fn deployment(&self, index: usize) -> Result<Deployment> {
        self.fleet.admin(index)?.deployment(IRIS).await
    }

    /// The deployment's changes, as one Envoy shows them, newest first.
    pub async fn history(&self, index: usize) -> Result<Vec<Change>> {
        self.fleet.admin(index)?.history(IRIS).await
    }

    /// The newest change, as one Envoy shows it; an error when there was none.
    pub async fn newest_change(&self, index: usize) -> Result<Change> {
        self.history(index).await?.into_iter().next().with_context(|| format!("the history of Envoy {index} is empty"))
    }

    /// Waits until the deployment's rollout is as `accept` wants it, as one Envoy shows it, for at most
    /// [`ROLLOUT_PATIENCE`].
    pub async fn until_rollout(
        &self,
        index: usize,
        what: &str,
        accept: impl Fn(&Rollout) -> bool,
    ) -> Result<Deployment> {
        let admin = self.fleet.admin(index)?;
        let accept = |state: &Deployment| state.rollout.as_ref().is_some_and(&accept);
        wait::until_within(ROLLOUT_PATIENCE, what, || admin.deployment(IRIS), accept).await
    }

    /// Makes the candidate the active colour through one Envoy, which must succeed. The new revision.
    pub async fn promote(&self, index: usize) -> Result<u64> {
        Ok(self.fleet.admin(index)?.switch(IRIS).await?.revision)
    }

    /// The same call, whatever is answered.
    pub async fn try_promote(&self, index: usize) -> Result<Reply> {
        let admin = self.fleet.admin(index)?;
        let candidate = admin.deployment(IRIS).await?.candidate;
        admin.promoting(IRIS).query(&[("to", &candidate)]).send().await
    }

    /// Fails when a VM of any Envoy has trapped.
    pub fn ensure_no_trap(&self) -> Result<()> {
        for (index, envoy) in self.fleet.envoys.iter().enumerate() {
            ensure_no_trap(envoy).with_context(|| format!("Envoy {index}"))?;
        }
        Ok(())
    }
}
