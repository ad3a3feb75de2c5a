//! What one worker thread remembers of a deployment from request to request.

use std::cell::{Cell, RefCell};

use super::decision::Rotations;
use super::rotation::Seed;
use super::sticky::Buckets;
use crate::deployment::Deployment;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::split::Split;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::Store;
use crate::store::record::{self, Origin};

/// A worker's memory of a deployment. A VM runs on one thread, so everything that changes is in a `Cell`: nothing can be
/// borrowed twice.
pub struct WorkerState {
    known: Cell<Option<Known>>,
    rotations: Cell<Rotations>,
    /// What is behind each colour, as it was taken over with the split.
    served: RefCell<PerColour<Served>>,
    warned: Cell<bool>,
}

/// A split, current for as long as the epoch stands still.
#[derive(Clone, Copy)]
struct Known {
    epoch: Option<u64>,
    split: Split,
}

/// What is behind a colour, and which users see it first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Served {
    identity: Identity,
    buckets: Buckets,
}

/// The state could not be read, and the last good one was taken instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// What to log, the first time.
    pub warning: Option<String>,
}

// === impl WorkerState ===

impl WorkerState {
    /// A worker that knows nothing yet. Its rotations begin where `seed` says.
    pub fn new(deployment: &Deployment, seed: Seed) -> Self {
        Self {
            known: Cell::new(None),
            rotations: Cell::new(Rotations::new(seed)),
            served: RefCell::new(PerColour::from_fn(|colour| {
                Served::new(deployment, deployment.colours.get(colour).clone())
            })),
            warned: Cell::new(false),
        }
    }

    /// The split in force, and whether it is an old one. The store is read only after the epoch has moved. The epoch was
    /// read first, so what is read is at least as new as it says.
    pub fn current_split(
        &self,
        deployment: &Deployment,
        epoch: Option<u64>,
        store: &dyn Store,
    ) -> (Split, Option<Fallback>) {
        match self.known.get() {
            Some(known) if known.epoch == epoch && epoch.is_some() => (known.split, None),
            last_good => self.read(deployment, epoch, last_good, store),
        }
    }

    /// The split as it was known at the last request.
    pub fn known_split(&self) -> Option<Split> {
        self.known.get().map(|known| known.split)
    }

    /// The rotations as the last decision left them.
    pub fn rotations(&self) -> Rotations {
        self.rotations.get()
    }

    /// Keeps the rotations as a decision left them.
    pub fn store_rotations(&self, rotations: Rotations) {
        self.rotations.set(rotations);
    }

    /// Calls `with` with what is behind `colour`.
    pub fn with_identity(&self, colour: Colour, with: impl FnOnce(&Identity)) {
        with(&self.served.borrow().get(colour).identity);
    }

    /// Which users see `colour` first while it is the candidate.
    pub fn buckets(&self, colour: Colour) -> Buckets {
        self.served.borrow().get(colour).buckets
    }

    fn read(
        &self,
        deployment: &Deployment,
        epoch: Option<u64>,
        last_good: Option<Known>,
        store: &dyn Store,
    ) -> (Split, Option<Fallback>) {
        let fallback = last_good.map_or(deployment.initial, |known| known.split);
        let loaded = match record::load(store, &deployment.name, deployment.initial, Timestamp::default()) {
            Ok(loaded) => loaded,
            Err(error) => return (fallback, Some(self.fall_back(deployment, &error.to_string()))),
        };
        let split = if loaded.origin == Origin::Corrupt { fallback } else { self.take_over(deployment, &loaded.state) };
        self.known.set(Some(Known { epoch, split }));
        let is_overwritten = loaded.origin.is_overwritten();
        let cause = "what is kept under its key is not a state; another plugin may share the vm_id";
        (split, is_overwritten.then(|| self.fall_back(deployment, cause)))
    }

    /// Takes over what is behind each colour, with the split.
    fn take_over(&self, deployment: &Deployment, state: &State) -> Split {
        let mut served = self.served.borrow_mut();
        for colour in Colour::ALL {
            let (known, identity) = (served.get_mut(colour), deployment.identity(state, colour));
            if known.identity != *identity {
                *known = Served::new(deployment, identity.clone());
            }
        }
        state.split
    }

    fn fall_back(&self, deployment: &Deployment, cause: &str) -> Fallback {
        let name = &deployment.name;
        let line = || format!("bluegreen: deployment={name}: {cause}: going on with the last good state");
        Fallback { warning: (!self.warned.replace(true)).then(line) }
    }
}

// === impl Served ===

impl Served {
    fn new(deployment: &Deployment, identity: Identity) -> Self {
        let buckets = Buckets::new(&deployment.name, &identity.version, deployment.salt.as_ref());
        Self { identity, buckets }
    }
}
