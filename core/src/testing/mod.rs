//! What the tests of several modules need, and the fuzzing around this crate: an Envoy in memory, and short ways to write
//! values.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::panic_in_result_fn,
    reason = "nothing here runs in the VM"
)]

pub mod host;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use self::host::TestHost;
use crate::change::context::Context;
use crate::config::Config;
use crate::deployment::Deployments;
use crate::model::identity::Identity;
use crate::model::name::{ClusterName, DeploymentName, HolderName, Version};
use crate::model::percent::Percent;
use crate::model::split::Split;
use crate::store::{CasToken, Store, StoreError, SwapError, Versioned};

type Interruption = Box<dyn FnOnce(&MemoryStore)>;

/// A store in memory that can be out of reach, and that lets another writer in at the worst moment.
#[derive(Default)]
pub struct MemoryStore {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    writes: Cell<u32>,
    calls: Cell<usize>,
    unreachable: Cell<bool>,
    interruption: RefCell<Option<Interruption>>,
}

/// The deployment of most tests.
pub fn iris() -> DeploymentName {
    DeploymentName::new("iris").expect("valid")
}

/// The deployment of most tests, whose green has an authority.
pub fn green_has_an_authority() -> Deployments {
    let json = r#"{"deployments": {"iris": {"colours": {"blue": {"cluster": "blue", "version": "1"},
        "green": {"cluster": "green", "version": "2", "authority": "iris-green.example.com"}}}}}"#;
    Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"))
}

/// A configuration of [`iris`], with more in the deployment.
pub fn config_of(in_deployment: &str) -> Config {
    let json = format!(
        r#"{{"deployments": {{"iris": {{"colours": {{"blue": {{"cluster": "blue", "version": "1"}},
            "green": {{"cluster": "green", "version": "2"}}}} {in_deployment}}}}}}}"#
    );
    Config::from_bytes(json.as_bytes()).expect("valid")
}

/// The same with an Envoy around it.
pub fn context_of(in_deployment: &str) -> (Rc<TestHost>, Context) {
    let host = Rc::new(TestHost::default());
    let context = Context::new(Rc::<TestHost>::clone(&host), &config_of(in_deployment), None);
    (host, context)
}

/// Somebody who makes changes.
pub fn holder(name: &str) -> HolderName {
    HolderName::new(name).expect("valid")
}

/// A version in the cluster of the same name.
pub fn identity(version: &str) -> Identity {
    let (cluster, version) = (ClusterName::new(version).expect("valid"), Version::new(version).expect("valid"));
    Identity { cluster, also: Vec::new(), version, authority: None }
}

/// A share, as users write it.
pub fn percent(text: &str) -> Percent {
    text.parse().expect(text)
}

/// A split, as users write it.
pub fn split(active: &str, canary: &str, shadow: &str) -> Split {
    Split { active: active.parse().expect(active), canary_percent: percent(canary), shadow_percent: percent(shadow) }
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Puts a value there, whatever stood there.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.writes.set(self.writes.get() + 1);
        self.values.borrow_mut().insert(key.to_owned(), (value.to_vec(), self.writes.get()));
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.calls.get()
    }

    /// Whether calls succeed.
    pub fn set_reachable(&self, reachable: bool) {
        self.unreachable.set(!reachable);
    }

    /// Runs `interruption` between the next swap's read and its write.
    pub fn before_next_swap(&self, interruption: impl FnOnce(&MemoryStore) + 'static) {
        *self.interruption.borrow_mut() = Some(Box::new(interruption));
    }
}

impl Store for MemoryStore {
    fn read(&self, key: &str) -> Result<Versioned, StoreError> {
        self.calls.set(self.calls.get() + 1);
        if self.unreachable.get() {
            return Err(StoreError);
        }
        Ok(match self.values.borrow().get(key) {
            Some((value, write)) => Versioned { value: Some(value.clone()), token: CasToken::Write(*write) },
            None => Versioned { value: None, token: CasToken::Never },
        })
    }

    fn compare_and_swap(&self, key: &str, value: &[u8], token: CasToken) -> Result<(), SwapError> {
        self.calls.set(self.calls.get() + 1);
        if self.unreachable.get() {
            return Err(SwapError::Unavailable);
        }
        let interruption = self.interruption.borrow_mut().take();
        if let Some(interruption) = interruption {
            interruption(self);
        }
        let current = self.values.borrow().get(key).map_or(CasToken::Never, |(_, write)| CasToken::Write(*write));
        if current != token {
            return Err(SwapError::Conflict);
        }
        self.put(key, value);
        Ok(())
    }
}

/// What looks drawn by chance, and is the same in each run.
#[derive(Debug)]
pub struct Chance {
    series: u64,
    drawn: u64,
}

// === impl Chance ===

impl Chance {
    /// One of many series.
    pub const fn new(series: u64) -> Self {
        Self { series, drawn: 0 }
    }

    /// The next number, 0 or more and below 1.
    pub fn next_number(&mut self) -> f64 {
        self.drawn = self.drawn.wrapping_add(1);
        Self::number(self.drawn, self.series)
    }

    /// How many of so many are drawn that are with this probability.
    pub fn count(&mut self, of: u64, probability: f64) -> u64 {
        (0..of).map(|_| u64::from(self.next_number() < probability)).sum()
    }

    /// Whether a key is among those that were drawn in this series, each with this probability.
    pub fn is_drawn(&self, key: u64, probability: f64) -> bool {
        Self::number(key, !self.series) < probability
    }

    fn number(of: u64, seed: u64) -> f64 {
        let bits = xxhash_rust::xxh64::xxh64(&of.to_le_bytes(), seed) >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}
