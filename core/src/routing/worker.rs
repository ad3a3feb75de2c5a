//! What one worker thread remembers of a deployment from request to request.

use std::cell::{Cell, RefCell};

use super::decision::Rotations;
use super::rotation::Seed;
use super::sticky::Buckets;
use crate::deployment::Deployment;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::split::{Revision, Split};
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::record::{self, Origin};
use crate::store::{CasToken, Store};

/// A worker's memory of a deployment. A VM runs on one thread, so everything that changes is in a `Cell`: nothing can be
/// borrowed twice.
pub struct WorkerState {
    known: Cell<Option<Known>>,
    rotations: Cell<Rotations>,
    /// What is behind each colour, as it was taken over with the split.
    served: RefCell<PerColour<Served>>,
    warned: Cell<bool>,
}

/// What was taken over.
#[derive(Clone, Copy)]
struct Known {
    /// The write that it comes from.
    token: CasToken,
    split: Split,
    revision: Revision,
    /// When the colour that a rollback returns to was left.
    left_at: Option<Timestamp>,
    /// Whether the former colour keeps a share.
    is_kept: bool,
    /// Whether it has come from the fleet's store.
    is_of_fleet: bool,
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

    /// The split that requests follow; none before a state was taken over.
    pub fn known_split(&self) -> Option<Split> {
        self.known.get().map(|known| known.split)
    }

    /// The revision that requests follow.
    pub fn known_revision(&self) -> Option<Revision> {
        self.known.get().map(|known| known.revision)
    }

    /// The write that they come from.
    pub fn known_write(&self) -> Option<CasToken> {
        self.known.get().map(|known| known.token)
    }

    /// Whether the state has come from the fleet's store.
    pub fn is_of_fleet(&self) -> bool {
        self.known.get().is_some_and(|known| known.is_of_fleet)
    }

    /// When the colour that a rollback returns to was left, as far as is known here.
    pub fn left_at(&self) -> Option<Timestamp> {
        self.known.get()?.left_at
    }

    /// Whether the former colour keeps a share after a promotion.
    pub fn is_kept(&self) -> bool {
        self.known.get().is_some_and(|known| known.is_kept)
    }

    /// Takes over what stands in the store. What is left when it cannot be read is the last good state.
    pub fn take_over(&self, deployment: &Deployment, store: &dyn Store) -> Option<Fallback> {
        let known = self.known.get();
        let since = known.map(|known| known.token);
        let loaded = match record::load_since(store, &deployment.name, deployment.initial, since) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return None,
            Err(error) => return Some(self.fall_back(deployment, &error.to_string())),
        };
        if loaded.origin != Origin::Corrupt {
            self.take_over_identities(deployment, &loaded.state);
        }
        let State { split, revision, switched_at, rollback_to, kept, .. } = loaded.state;
        let taken = Known {
            token: loaded.token,
            split,
            revision,
            left_at: switched_at.filter(|_| rollback_to.is_some()),
            is_kept: kept.is_some(),
            is_of_fleet: loaded.mod_revision.is_some(),
        };
        // Something else stands there, and there is no backup: what is known goes on, or what is configured.
        let last_good = known.filter(|_| loaded.origin == Origin::Corrupt).unwrap_or(taken);
        self.known.set(Some(Known { token: loaded.token, ..last_good }));
        let cause = "its value in shared data is not a state; another plugin may share the vm_id";
        loaded.origin.is_overwritten().then(|| self.fall_back(deployment, cause))
    }

    /// Takes over what is behind each colour, with the split.
    fn take_over_identities(&self, deployment: &Deployment, state: &State) {
        let mut served = self.served.borrow_mut();
        for colour in Colour::ALL {
            let (known, identity) = (served.get_mut(colour), deployment.identity(state, colour));
            if known.identity != *identity {
                *known = Served::new(deployment, identity.clone());
            }
        }
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
    pub fn with_identity<R>(&self, colour: Colour, with: impl FnOnce(&Identity) -> R) -> R {
        with(&self.served.borrow().get(colour).identity)
    }

    /// Which users see `colour` first while it is the candidate.
    pub fn buckets(&self, colour: Colour) -> Buckets {
        self.served.borrow().get(colour).buckets
    }

    fn fall_back(&self, deployment: &Deployment, cause: &str) -> Fallback {
        let name = &deployment.name;
        let line = || format!("bluegreen: deployment={name}: {cause}: the last good state stays in force");
        Fallback { warning: (!self.warned.replace(true)).then(line) }
    }
}

// === impl Served ===

impl Served {
    fn new(deployment: &Deployment, identity: Identity) -> Self {
        let buckets = Buckets::new(&deployment.name, &identity.version, deployment.salt());
        Self { identity, buckets }
    }
}
