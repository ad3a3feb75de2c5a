//! The filter instance that follows a fleet for its Envoy, and what it does with the states that it hears of.

use std::future::Future;
use std::time::Duration;

use futures_lite::future;

use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::host::{Host, next_tick};
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::StoreError;
use crate::store::lease::{FOLLOWER_LEASE, Instance};
use crate::store::record::{self, Effect, Loaded, ModRevision, ReplacePolicy};
use crate::workers::publish::publish;
use crate::workers::worker::Worker;

/// The filter instance of an Envoy that may follow the fleet for all.
#[derive(Clone, Copy)]
pub struct Following<'f> {
    /// The Envoy.
    pub host: &'f dyn Host,
    /// The deployments that it follows.
    pub deployments: &'f Deployments,
    /// Which instance.
    pub instance: Instance,
    /// What it says to the others.
    pub worker: &'f Worker,
    /// The key of the lease by which one follows.
    pub lease: &'f str,
}

/// How long to wait after the first failure. With each further one it doubles.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// How long to wait at most.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

// === impl Following ===

impl Following<'_> {
    /// Waits for the lease, and goes on for as long as this instance holds it.
    pub async fn while_it_leads(&self, run: impl Future<Output = ()>) {
        // No call can be made before the first tick.
        loop {
            next_tick(self.host).await;
            if self.leads() {
                break;
            }
        }
        let lease_lost = async {
            loop {
                next_tick(self.host).await;
                if !self.leads() {
                    return;
                }
            }
        };
        future::or(lease_lost, run).await;
    }

    fn leads(&self) -> bool {
        self.instance.holds(self.host.store(), self.lease, FOLLOWER_LEASE, self.host.now())
    }

    /// Takes a state over, and makes it known if it is news.
    pub fn take_over(
        &self,
        (index, deployment): (DeploymentIndex, &Deployment),
        state: &State,
        mod_revision: ModRevision,
        policy: ReplacePolicy,
    ) {
        match record::replace(self.host.store(), &deployment.name, state, mod_revision, policy) {
            Ok(applied) if applied.effect == Effect::None => {}
            Ok(applied) => publish(self.host, self.worker, index, deployment, &applied),
            Err(error) => self.warn(deployment, &error.to_string()),
        }
    }

    /// The last of the fleet's writes that any deployment's state comes from.
    pub fn last_known(&self) -> ModRevision {
        let known = self.deployments.all().iter().filter_map(|deployment| self.load(deployment).ok()?.mod_revision);
        known.max().unwrap_or_default()
    }

    /// A deployment's state as this Envoy knows it.
    ///
    /// # Errors
    /// The store of the workers cannot be read.
    pub fn load(&self, deployment: &Deployment) -> Result<Loaded, StoreError> {
        record::load(self.host.store(), &deployment.name, deployment.initial, self.host.now())
    }

    /// Warns of something about a deployment.
    pub fn warn(&self, deployment: &Deployment, why: &str) {
        self.host.warn(&format!("bluegreen: deployment={}: {why}", deployment.name));
    }
}

/// The pause after so many failures, less up to a half: Envoys that lost the store together must not come back together.
/// There is no randomness in the VM, so the part comes from what differs between them.
pub fn backoff(failures: u32, instance: Instance, now: Timestamp) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    let full = FIRST_BACKOFF.saturating_mul(doubled).min(LONGEST_BACKOFF);
    let seed = instance.get() ^ now.as_millis().rotate_left(32);
    let part = xxhash_rust::xxh64::xxh64(&failures.to_le_bytes(), seed) >> 11;
    // 53 bits fit a double exactly.
    full.mul_f64(0.5 + 0.5 * (part as f64 / (1_u64 << 53) as f64))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::MemoryStore;
    use crate::testing::host::START;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ_between_instances_and_moments() {
        let instance = Instance::register(&MemoryStore::default(), Timestamp::default());
        let pauses: Vec<u128> = (1..12).map(|failures| backoff(failures, instance, START).as_millis()).collect();
        for (failures, pause) in pauses.iter().enumerate() {
            let full = (100 << failures.min(10)).min(1_000);
            assert!((full / 2..=full).contains(pause), "{failures}: {pauses:?}");
        }
        let later = START.plus(Duration::from_millis(1));
        assert_ne!(backoff(9, instance, START), backoff(9, instance, later));
    }
}
