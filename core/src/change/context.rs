//! What every flow of one configuration works with.

use std::rc::Rc;

use crate::config::Config;
use crate::deployment::{Deployment, DeploymentIndex, Deployments};
use crate::etcd::store::EtcdStore;
use crate::fleet::store::FleetStore;
use crate::host::Host;
use crate::kubernetes::store::KubernetesStore;
use crate::store::lease::Instance;
use crate::store::record::{self, Applied};
use crate::workers::publish::publish;
use crate::workers::worker::{Confirmation, Worker};

/// One plugin configuration on one worker thread.
pub struct Context {
    /// The Envoy around it.
    pub host: Rc<dyn Host>,
    /// The deployments of the configuration.
    pub deployments: Deployments,
    /// The fleet's store of record, when this Envoy belongs to one.
    pub fleet: Option<Box<dyn FleetStore>>,
    /// This instance, among all in the process.
    pub instance: Instance,
    /// What it remembers, and says to the others.
    pub worker: Worker,
}

/// So many states are read to find out whether this Envoy is in step.
const LOOKS: usize = 8;

// === impl Context ===

impl Context {
    /// Compiles a configuration and registers this instance of it. `machine` is the number of the first instance in this
    /// virtual machine, if there was one before.
    pub fn new(host: Rc<dyn Host>, config: &Config, machine: Option<u64>) -> Self {
        let (deployments, now) = (Deployments::new(config), host.now());
        let digests = deployments.all().iter().fold(0_u64, |sum, deployment| sum.rotate_left(7) ^ deployment.digest);
        let instance = Instance::register(host.store(), now).with_configuration(digests);
        let worker = Worker::new(&deployments, instance, machine.unwrap_or(instance.get()), now);
        let fleet: Option<Box<dyn FleetStore>> = match (&config.etcd, &config.kubernetes) {
            (Some(section), _) => Some(Box::new(EtcdStore::new(section))),
            (None, Some(section)) => Some(Box::new(KubernetesStore::new(section))),
            (None, None) => None,
        };
        Self { deployments, fleet, instance, worker, host }
    }

    /// Makes a write known.
    pub fn publish(&self, index: DeploymentIndex, deployment: &Deployment, applied: &Applied) {
        publish(&*self.host, &self.worker, index, deployment, applied);
    }

    /// Has all workers take over what stands in the store about a deployment, or about all, and say what they have counted.
    pub async fn ask_workers(&self, about: Option<DeploymentIndex>) -> Confirmation {
        self.worker.ask(&*self.host, &self.deployments, about).await
    }

    /// The deployments whose state has not come from the fleet's store, the first [`LOOKS`] of them. They stay in force when
    /// that store goes away; an Envoy that stands alone has none.
    ///
    /// Anybody may ask this, and often: what this worker has taken over is not read again.
    pub fn unsynced(&self) -> Vec<&Deployment> {
        let (store, now) = (self.host.store(), self.host.now());
        let is_taken_over = |index| self.worker.state(index).is_some_and(|state| state.is_of_fleet());
        let is_known = |deployment: &Deployment| {
            record::load(store, &deployment.name, deployment.initial, now)
                .is_ok_and(|loaded| loaded.mod_revision.is_some())
        };
        let deployments = self.deployments.all().iter().enumerate().filter(|_| self.fleet.is_some());
        let unknown = deployments.filter(|(index, _)| !is_taken_over(*index)).map(|(_, deployment)| deployment);
        unknown
            .enumerate()
            .filter(|(place, deployment)| *place >= LOOKS || !is_known(deployment))
            .map(|(_, deployment)| deployment)
            .take(LOOKS)
            .collect()
    }

    /// Whether the state of each deployment has come from the fleet's store, if there is one.
    pub fn is_synced(&self) -> bool {
        self.unsynced().is_empty()
    }
}
