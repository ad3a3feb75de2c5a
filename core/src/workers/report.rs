//! What each worker says about a deployment, in a record of its own: which state it has taken over, and what it has
//! counted. The sum of the records is what happened in this Envoy.

use serde::Serialize;

use super::roster::{Gone, Member, Roster};
use crate::json::{self, FromJson};
use crate::metrics::counters::{ColourCounts, ColourMetric};
use crate::metrics::tally::Tally;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::DeploymentName;
use crate::model::split::Revision;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// What a worker says about a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Report {
    /// The member, of which there may have been others in its slot.
    number: u64,
    /// The revision that requests there follow.
    pub revision: Revision,
    /// A number that stands for the deployment's configuration there.
    pub configuration: u64,
    /// What it has counted since it began.
    pub counts: PerColour<Tally>,
    layout: usize,
}

/// What was counted by members that are gone.
#[derive(Clone, Debug, Default, Serialize, FromJson)]
struct Departed {
    numbers: Gone,
    counts: PerColour<Tally>,
    layout: usize,
}

/// The records of another edition of the filter in the same Envoy have their counts in other places.
const LAYOUT: usize = ColourMetric::COUNT;

// === impl Report ===

impl Report {
    /// What `member` says.
    pub fn new(member: &Member, revision: Revision, configuration: u64, counts: PerColour<Tally>) -> Self {
        Self { number: member.number, revision, configuration, counts, layout: LAYOUT }
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The store is out of reach.
    pub fn write(&self, store: &dyn Store, name: &DeploymentName, slot: u32) -> Result<(), StoreError> {
        update(store, &key(name, slot), &mut |_| serde_json::to_vec(self).ok()).map(|_| ())
    }

    /// What `member` said last; none while it has not said anything.
    pub fn read(store: &dyn Store, name: &DeploymentName, member: &Member) -> Option<Self> {
        let report: Self = json::from_slice(&store.read(&key(name, member.slot)).ok()?.value?).ok()?;
        (report.number == member.number && report.layout == LAYOUT).then_some(report)
    }

    /// How many requests it has routed.
    pub fn routed(&self) -> u64 {
        routed_of(&self.counts)
    }
}

/// Keeps what a member has counted, which goes.
///
/// # Errors
/// The store is out of reach.
pub fn keep(store: &dyn Store, name: &DeploymentName, member: &Member) -> Result<(), StoreError> {
    let Some(report) = Report::read(store, name, member) else { return Ok(()) };
    if Colour::ALL.into_iter().all(|colour| report.counts.get(colour).is_empty()) {
        return Ok(());
    }
    update(store, &Key::Departed(name).to_string(), &mut |before| {
        let mut departed = decode(before.value);
        if !departed.numbers.add(member.number) {
            return None;
        }
        for colour in Colour::ALL {
            let mut counts = report.counts.get(colour).clone();
            // Its requests are over, or nobody counts them any more.
            let in_flight = i64::try_from(counts.get(ColourMetric::InFlight)).unwrap_or(i64::MAX);
            counts.add(ColourMetric::InFlight, in_flight.saturating_neg());
            departed.counts.get_mut(colour).merge(&counts);
        }
        serde_json::to_vec(&departed).ok()
    })
    .map(|_| ())
}

/// What all workers have counted, as far as they have said.
///
/// The order of the reads keeps a member that goes meanwhile from being counted twice, or not at all.
pub fn totals(store: &dyn Store, name: &DeploymentName) -> PerColour<Tally> {
    totals_of(store, &Roster::read(store), name)
}

/// The same for a roster that has just been read.
pub fn totals_of(store: &dyn Store, roster: &Roster, name: &DeploymentName) -> PerColour<Tally> {
    let departed = store.read(&Key::Departed(name).to_string()).map(|stored| decode(stored.value)).unwrap_or_default();
    let mut sum = departed.counts;
    for member in roster.members().iter().filter(|member| !departed.numbers.has(member.number)) {
        if let Some(report) = Report::read(store, name, member) {
            for colour in Colour::ALL {
                sum.get_mut(colour).merge(report.counts.get(colour));
            }
        }
    }
    sum
}

/// How many requests were routed, by what was counted.
pub fn routed_of(counts: &PerColour<Tally>) -> u64 {
    let of = |colour| {
        let tally: &Tally = counts.get(colour);
        tally.get(ColourMetric::Requests).saturating_add(tally.get(ColourMetric::OverrideRequests))
    };
    of(Colour::Blue).saturating_add(of(Colour::Green))
}

/// The same, as comparisons and guards need it.
pub fn counts(store: &dyn Store, name: &DeploymentName) -> PerColour<ColourCounts> {
    sums(&totals(store, name))
}

/// The same of what is known already.
pub fn sums(totals: &PerColour<Tally>) -> PerColour<ColourCounts> {
    PerColour::from_fn(|colour| totals.get(colour).sums())
}

fn decode(value: Option<Vec<u8>>) -> Departed {
    let departed: Option<Departed> = json::from_slice(&value.unwrap_or_default()).ok();
    departed.filter(|departed| departed.layout == LAYOUT).unwrap_or(Departed { layout: LAYOUT, ..Departed::default() })
}

fn key(name: &DeploymentName, slot: u32) -> String {
    Key::Report(name, slot).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::store::lease::Instance;
    use crate::testing::host::TestHost;
    use crate::testing::iris;

    fn member(host: &TestHost) -> Member {
        let instance = Instance::register(&host.store, Timestamp::default());
        Member::enrol(&host.store, host, instance, instance.get(), Timestamp::default()).expect("in reach")
    }

    fn say(host: &TestHost, member: &Member, requests: i64, in_flight: i64) {
        let mut counts: PerColour<Tally> = PerColour::default();
        counts.green.add(ColourMetric::Requests, requests);
        counts.green.add(ColourMetric::InFlight, in_flight);
        Report::new(member, Revision::ZERO, 0, counts).write(&host.store, &iris(), member.slot).expect("in reach");
    }

    fn sums(host: &TestHost) -> (u64, u64) {
        let green = totals(&host.store, &iris()).green;
        (green.get(ColourMetric::Requests), green.get(ColourMetric::InFlight))
    }

    #[test]
    fn workers_add_up_and_what_one_says_again_replaces_what_it_said() {
        let host = TestHost::default();
        let (first, second) = (member(&host), member(&host));
        say(&host, &first, 3, 1);
        say(&host, &second, 4, 0);
        assert_eq!(sums(&host), (7, 1));
        say(&host, &first, 5, 0);
        assert_eq!(sums(&host), (9, 0));
    }

    #[test]
    fn what_a_worker_counted_stays_when_it_goes_and_its_slot_is_used_again() {
        let host = TestHost::default();
        let first = member(&host);
        say(&host, &first, 3, 1);
        // A read between these two must not count it twice.
        keep(&host.store, &iris(), &first).expect("in reach");
        assert_eq!(sums(&host), (3, 0));
        keep(&host.store, &iris(), &first).expect("in reach");
        Roster::change(&host.store, Timestamp::default(), &mut Vec::clear).expect("in reach");
        let second = member(&host);
        assert_eq!((second.slot, sums(&host)), (first.slot, (3, 0)));
        say(&host, &second, 10, 2);
        assert_eq!(sums(&host), (13, 2));
    }

    #[test]
    fn a_record_that_is_none_of_ours_counts_nothing() {
        let host = TestHost::default();
        let first = member(&host);
        for bytes in [&b"{}"[..], b"\xff", br#"{"number":1,"revision":0,"configuration":0,"counts":{},"layout":1}"#] {
            host.store.put("bluegreen/v1/iris/worker/0", bytes);
            host.store.put("bluegreen/v1/iris/departed", bytes);
            assert_eq!(sums(&host), (0, 0), "{bytes:?}");
        }
        say(&host, &first, 1, 0);
        assert_eq!(sums(&host), (1, 0));
    }
}
