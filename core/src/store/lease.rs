//! Work that one VM does for all: every worker thread ticks, and the one that holds the lease does it.

use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::json::{self, FromJson};
use crate::model::name::DeploymentName;
use crate::model::time::Timestamp;
use crate::store::key::{Key, LeaseRole};
use crate::store::{CasToken, Store, update};

/// One instance: a configuration in one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// A number that no other instance in this Envoy has.
    number: u64,
    /// When it was configured.
    since: Timestamp,
    /// A number that stands for its deployments.
    configuration: u64,
}

/// Who leads, and until when unless they renew.
#[derive(Clone, Copy, Debug, Serialize, FromJson)]
struct Lease {
    holder: u64,
    since: Timestamp,
    #[serde(default)]
    configuration: u64,
    until: Timestamp,
}

/// How long a leader that stopped ticking is waited for.
pub const LEASE: Duration = Duration::from_secs(5);
/// The same for the follower of a fleet: until it is replaced no change arrives here, and two that follow at once do no
/// harm.
pub const FOLLOWER_LEASE: Duration = Duration::from_millis(1_500);
/// When the first tick comes after a configuration: no call can be made before.
pub const FIRST_TICK: Duration = Duration::from_millis(1);
/// In place of [`TICK`](crate::model::time::TICK) while the fleet's states have not come yet, for at most [`STARTUP_WINDOW`] after a configuration.
pub const FIRST_TICKS: Duration = Duration::from_millis(20);
/// How long ticks may come as fast as that.
pub const STARTUP_WINDOW: Duration = Duration::from_secs(5);

/// Numbers that are drawn after another plugin has written over the last one begin here.
const AFTER_ANOTHER: u64 = 1 << 32;

/// The instances of one configuration are made within this time of each other. Where a busy thread takes longer, its
/// instance takes the lease over once, which does no harm.
const ONE_CONFIGURATION: Duration = Duration::from_millis(100);

/// The key of the lease for a role towards a configuration's deployments. Two listeners with the same deployments share
/// one leader. Sources and fleets have leases of their own because not every listener's configuration has them.
pub fn lease_key(config: &Config, role: LeaseRole) -> String {
    let names: Vec<&str> = config.deployments.keys().map(DeploymentName::as_str).collect();
    Key::Lease(xxhash_rust::xxh64::xxh64(names.join(" ").as_bytes(), 0), role).to_string()
}

// === impl Instance ===

impl Instance {
    /// Draws the next number; the same for two instances only while the store is out of reach.
    pub fn register(store: &dyn Store, now: Timestamp) -> Self {
        let mut number: u64 = 0;
        let drawn = update(store, &Key::Instances.to_string(), &mut |last| {
            // Where another plugin has written, the number of its write: each is used once, and is ahead of all numbers that
            // were drawn since the last one.
            let unknown = match last.token {
                CasToken::Write(write) => AFTER_ANOTHER.saturating_add(write.into()),
                CasToken::Never => 0,
            };
            let value = last.value.unwrap_or_default();
            number = json::from_slice(&value).unwrap_or(unknown).wrapping_add(1);
            Some(number.to_string().into_bytes())
        });
        Self { number: if drawn.is_ok() { number } else { 0 }, since: now, configuration: 0 }
    }

    /// The same, with deployments that this number stands for.
    #[must_use]
    pub const fn with_configuration(self, configuration: u64) -> Self {
        Self { configuration, ..self }
    }

    /// When it was configured.
    pub const fn since(self) -> Timestamp {
        self.since
    }

    /// The number that stands for its deployments.
    pub const fn configuration(self) -> u64 {
        self.configuration
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.number
    }

    /// Takes or renews the lease under `key`; whether this instance leads now.
    ///
    /// An instance of an earlier configuration gives way: it lives until its last stream has ended, which for a listener
    /// that drains is minutes, and would go on by rules that are not in force any more.
    pub fn leads(self, store: &dyn Store, key: &str, now: Timestamp) -> bool {
        self.holds(store, key, LEASE, now)
    }

    /// The same with a lease that lasts for `span`.
    pub fn holds(self, store: &dyn Store, key: &str, span: Duration, now: Timestamp) -> bool {
        let taken = update(store, key, &mut |known| {
            let known = Lease::decode(known.value);
            // Numbers tell which came first: the clock may have been set in between.
            let earlier = |lease: &Lease| {
                let is_other = lease.configuration != self.configuration;
                lease.holder < self.number && (is_other || lease.since.apart(self.since) > ONE_CONFIGURATION)
            };
            if known.is_some_and(|lease| lease.holder != self.number && lease.is_valid(span, now) && !earlier(&lease)) {
                return None;
            }
            self.lease(span, now)
        });
        taken == Ok(true)
    }

    /// Whether this instance is the first that comes to `key` within `span`: for what has to be done once.
    pub fn is_first(self, store: &dyn Store, key: &str, span: Duration, now: Timestamp) -> bool {
        let taken = update(store, key, &mut |known| {
            let known = Lease::decode(known.value).filter(|lease| lease.is_valid(span, now));
            if known.is_some() { None } else { self.lease(span, now) }
        });
        taken == Ok(true)
    }

    fn lease(self, span: Duration, now: Timestamp) -> Option<Vec<u8>> {
        let (holder, since, configuration) = (self.number, self.since, self.configuration);
        serde_json::to_vec(&Lease { holder, since, configuration, until: now.plus(span) }).ok()
    }
}

// === impl Lease ===

impl Lease {
    fn decode(value: Option<Vec<u8>>) -> Option<Self> {
        json::from_slice(&value.unwrap_or_default()).ok()
    }

    /// One that ends later than any could was written before the clock was set back, or by another plugin.
    fn is_valid(&self, span: Duration, now: Timestamp) -> bool {
        self.until > now && self.until <= now.plus(span)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::MemoryStore;

    fn member(number: u64) -> Instance {
        Instance { number, since: at(0), configuration: 0 }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_795_446_000_000 + seconds * 1_000)
    }

    #[test]
    fn a_configuration_that_comes_at_once_after_another_takes_over_and_one_of_the_same_deployments_does_not() {
        let store = MemoryStore::default();
        let soon = Timestamp::from_millis(at(0).as_millis() + 5);
        let first = member(1).with_configuration(1);
        let (same, other) =
            (Instance { number: 2, since: soon, ..first }, Instance { number: 3, since: soon, configuration: 2 });
        assert!(first.leads(&store, "lease", soon));
        assert!(!same.leads(&store, "lease", soon));
        assert!(other.leads(&store, "lease", soon) && !first.leads(&store, "lease", soon));
    }

    #[test]
    fn a_number_is_drawn_once_also_when_another_plugin_writes_over_the_last_again_and_again() {
        let store = MemoryStore::default();
        let mut numbers = Vec::new();
        for round in 0..5 {
            numbers.extend((0..round).map(|_| Instance::register(&store, at(0)).get()));
            store.put(&Key::Instances.to_string(), b"not ours");
        }
        let drawn = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), drawn, "{numbers:?}");
    }

    #[test]
    fn numbers_are_drawn_once() {
        let store = MemoryStore::default();
        let drawn: Vec<u64> = (0..5).map(|_| Instance::register(&store, at(0)).get()).collect();
        assert_eq!(drawn, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn one_member_leads_until_it_stops_renewing() {
        let store = MemoryStore::default();
        let [first, second] = [member(1), member(2)];
        for second_of_day in 0..20 {
            assert!(first.leads(&store, "lease", at(second_of_day)));
            assert!(!second.leads(&store, "lease", at(second_of_day)));
        }
        assert!(!second.leads(&store, "lease", at(23)));
        assert!(second.leads(&store, "lease", at(24)));
        assert!(!first.leads(&store, "lease", at(24)));
    }

    #[test]
    fn an_instance_of_an_earlier_configuration_gives_way_and_does_not_come_back() {
        let store = MemoryStore::default();
        let (old, new) = (member(1), Instance { number: 2, since: at(10), configuration: 0 });
        assert!(old.leads(&store, "lease", at(10)));
        for second in 10..15 {
            assert!(new.leads(&store, "lease", at(second)));
            assert!(!old.leads(&store, "lease", at(second)));
        }
    }

    #[test]
    fn of_two_that_ask_at_once_one_leads() {
        let store = MemoryStore::default();
        store.before_next_swap(|store| assert!(member(2).leads(store, "lease", at(0))));
        assert!(!member(1).leads(&store, "lease", at(0)));
    }

    #[test]
    fn what_has_to_be_done_once_is_done_by_the_first_and_again_when_the_clock_was_set_again() {
        let store = MemoryStore::default();
        let is_first = |number, second| member(number).is_first(&store, "clock", LEASE, at(second));
        assert!(is_first(1, 3_600) && !is_first(2, 3_601) && !is_first(1, 3_601));
        assert!(is_first(2, 2) && !is_first(1, 3));
        assert!(is_first(2, 3_602));
    }

    #[test]
    fn a_configuration_that_comes_after_the_clock_was_set_back_takes_over_all_the_same() {
        let store = MemoryStore::default();
        let old = Instance { number: 1, since: at(3_600), configuration: 1 };
        let new = Instance { number: 2, since: at(0), configuration: 2 };
        assert!(old.leads(&store, "lease", at(0)));
        assert!(new.leads(&store, "lease", at(1)) && !old.leads(&store, "lease", at(1)));
        let pushed = Instance { number: 3, since: at(10), ..new };
        assert!(pushed.leads(&store, "lease", at(10)) && !new.leads(&store, "lease", at(10)));
    }

    #[test]
    fn a_clock_set_back_or_a_foreign_value_does_not_leave_everybody_without_a_leader() {
        let store = MemoryStore::default();
        assert!(member(1).leads(&store, "lease", at(1_000_000)));
        assert!(member(2).leads(&store, "lease", at(0)));
        store.put("foreign", b"\xff");
        assert!(member(1).leads(&store, "foreign", at(0)));
    }
}
