//! Which workers there are: every instance of the filter that may serve traffic, by the slots that they hold.
//!
//! An instance enrols at its first event after its configuration: a tick or a request. Envoy makes one more of each
//! configuration to try it out, which has neither. From then on it is told of every write before it uses an old state: who
//! writes first and then reads the roster finds every instance that could have read what stood there before.

use std::time::Duration;

use serde::Serialize;

use crate::host::queue::{QueueToken, Queues};
use crate::json::{self, FromJson};
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::lease::Instance;
use crate::store::{Store, StoreError, update};

/// An instance that has enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Member {
    /// Its place, below the number of members. Names of keys and queues are made of it, so there are not more of them than
    /// there were members at once.
    pub slot: u32,
    /// The instance, of which there may have been others in this slot.
    pub number: u64,
    /// Its virtual machine: one for each worker thread, and one for Envoy's main thread. The number of the first instance
    /// in it.
    pub vm: u64,
    /// Where it is told something; none while it has not enrolled altogether, when it has not read anything yet.
    pub queue: Option<QueueToken>,
    /// When it enrolled.
    pub since: Timestamp,
    /// Whether it has not been heard of for [`SILENT_AFTER`].
    #[serde(default)]
    pub silent: bool,
    /// Whether it has taken the place of a machine that had fallen silent.
    #[serde(default)]
    pub replaces: bool,
}

/// A sign of life of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Heartbeat {
    number: u64,
    /// How many there were. Time is counted in them, since clocks jump.
    pub beats: u64,
    /// When it came.
    pub seen: Timestamp,
    /// The highest number of a member by then. Those with a higher one began later, whatever the clock says.
    #[serde(default)]
    pub newest: u64,
    /// When a request last began there.
    pub last_stream: Option<Timestamp>,
}

/// All members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
pub struct Roster {
    members: Vec<Member>,
    /// When it was begun anew because another plugin had written over it.
    #[serde(default)]
    begun_anew: Option<Timestamp>,
}

/// The numbers of members that are gone, so that what they have left behind is not taken for that of a member a second time.
#[derive(Clone, Debug, Default, Serialize, FromJson)]
#[serde(transparent)]
pub struct Gone(Vec<u64>);

/// So many of those that are gone are remembered by number: more than can go while somebody reads.
const REMEMBERED: usize = 256;

/// So long after a roster was begun anew members may be missing: they find it at their next tick.
const INCOMPLETE: Duration = Duration::from_millis(600);

/// So many ticks of the instance that watches may pass without a sign of life.
pub const SILENT_AFTER: u32 = 12;

// === impl Roster ===

impl Roster {
    /// All members; none while the store is out of reach.
    pub fn read(store: &dyn Store) -> Self {
        Self::try_read(store).unwrap_or_default()
    }

    /// All members.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn try_read(store: &dyn Store) -> Result<Self, StoreError> {
        store.read(&key()).map(|stored| decode(stored.value))
    }

    /// Whether an instance that had enrolled is missing: another plugin has written over the roster.
    pub fn lacks(&self, number: u64) -> bool {
        self.members.iter().all(|member| member.number != number)
    }

    /// The highest number of a member: instances that enrol later have higher ones.
    pub fn newest(&self) -> u64 {
        self.members.iter().map(|member| member.number).max().unwrap_or_default()
    }

    /// In the order of their slots.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether members may be missing, because another plugin has written over it a moment ago.
    pub fn may_be_incomplete(&self, now: Timestamp) -> bool {
        self.begun_anew.is_some_and(|at| now.apart(at) < INCOMPLETE)
    }

    /// Changes the roster.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn change(
        store: &dyn Store,
        now: Timestamp,
        change: &mut dyn FnMut(&mut Vec<Member>),
    ) -> Result<(), StoreError> {
        update(store, &key(), &mut |before| {
            let is_foreign = is_foreign(before.value.as_deref());
            let before = decode(before.value);
            let mut after = before.clone();
            change(&mut after.members);
            if after == before {
                return None;
            }
            if is_foreign {
                after.begun_anew = Some(now);
            }
            serde_json::to_vec(&after).ok()
        })
        .map(|_| ())
    }
}

// === impl Member ===

impl Member {
    /// Enrols an instance.
    ///
    /// The slot comes first, since the queue has its name: two that registered the same queue would take it from each other.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn enrol(
        store: &dyn Store,
        queues: &dyn Queues,
        instance: Instance,
        vm: u64,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let number = instance.get();
        // An instance that could not draw a number would be taken for another one.
        if number == 0 {
            return Err(StoreError);
        }
        let mut member = Self { slot: 0, number, vm, queue: None, since: now, silent: false, replaces: false };
        Roster::change(store, now, &mut |members| {
            let is_free = |slot: &u32| members.iter().all(|member| member.slot != *slot);
            member.slot = (0..u32::MAX).find(is_free).unwrap_or_default();
            members.push(member);
            members.sort_unstable_by_key(|member| member.slot);
        })?;
        member.queue = queues.register(&format!("bluegreen/v1/{}", member.slot));
        Roster::change(store, now, &mut |members| {
            if let Some(known) = members.iter_mut().find(|known| known.number == number) {
                known.queue = member.queue;
            }
        })?;
        Ok(member)
    }

    /// Writes a sign of life down.
    pub fn beat(
        &self,
        store: &dyn Store,
        roster: &Roster,
        beats: u64,
        seen: Timestamp,
        last_stream: Option<Timestamp>,
    ) {
        let newest = roster.newest().max(self.number);
        let heartbeat = Heartbeat { number: self.number, beats, seen, newest, last_stream };
        // Without the store nobody could read it either.
        let _: Result<bool, StoreError> =
            update(store, &heartbeat_key(self.slot), &mut |_| serde_json::to_vec(&heartbeat).ok());
    }

    /// The last sign of life; none before the first.
    pub fn heartbeat(&self, store: &dyn Store) -> Option<Heartbeat> {
        let heartbeat: Heartbeat = json::from_slice(&store.read(&heartbeat_key(self.slot)).ok()?.value?).ok()?;
        (heartbeat.number == self.number).then_some(heartbeat)
    }
}

// === impl Gone ===

impl Gone {
    /// Whether the member with this number is known to be gone.
    pub fn has(&self, number: u64) -> bool {
        self.0.contains(&number)
    }

    /// A member goes. Whether that is new.
    pub fn add(&mut self, number: u64) -> bool {
        if self.has(number) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.remove(0);
        }
        self.0.push(number);
        true
    }
}

fn is_foreign(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| !value.is_empty() && json::from_slice::<Roster>(value).is_err())
}

fn decode(value: Option<Vec<u8>>) -> Roster {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

fn key() -> String {
    Key::Workers.to_string()
}

fn heartbeat_key(slot: u32) -> String {
    Key::Heartbeat(slot).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::host::TestHost;

    const NOW: Timestamp = Timestamp::from_millis(1_795_446_000_000);

    fn enrol(host: &TestHost) -> Member {
        let instance = Instance::register(&host.store, NOW);
        Member::enrol(&host.store, host, instance, instance.get(), NOW).expect("in reach")
    }

    #[test]
    fn a_slot_that_became_free_is_the_next_ones_so_that_names_stay_few() {
        let host = TestHost::default();
        let (first, second) = (enrol(&host), enrol(&host));
        assert_eq!((first.slot, second.slot), (0, 1));
        assert_eq!(Roster::read(&host.store).members(), [first, second]);
        Roster::change(&host.store, NOW, &mut |members| members.retain(|member| member.number != first.number))
            .expect("in reach");
        let third = enrol(&host);
        assert_eq!((third.slot, third.queue), (0, first.queue));
        assert_eq!(Roster::read(&host.store).members(), [third, second]);
    }

    #[test]
    fn a_sign_of_life_is_its_own_members_and_not_its_slots() {
        let host = TestHost::default();
        let member = enrol(&host);
        assert_eq!(member.heartbeat(&host.store), None);
        member.beat(&host.store, &Roster::default(), 3, NOW, None);
        assert_eq!(member.heartbeat(&host.store).map(|heartbeat| heartbeat.beats), Some(3));
        assert_eq!(Member { number: 99, ..member }.heartbeat(&host.store), None);
    }

    #[test]
    fn while_the_store_is_out_of_reach_nobody_enrols() {
        let host = TestHost::default();
        let instance = Instance::register(&host.store, NOW);
        host.store.set_reachable(false);
        assert_eq!(Member::enrol(&host.store, &host, instance, 1, NOW), Err(StoreError));
        let without_a_number = Instance::register(&host.store, NOW);
        host.store.set_reachable(true);
        assert_eq!(Member::enrol(&host.store, &host, without_a_number, 1, NOW), Err(StoreError));
        assert!(Roster::read(&host.store).members().is_empty());
    }
}
