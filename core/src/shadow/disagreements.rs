//! The last disagreements, for people to look at.

use serde::Serialize;
use xxhash_rust::xxh64::xxh64;

use super::answer::cut;
use super::record::Difference;
use crate::json::FromJson;
use crate::model::time::Timestamp;

/// The last [`Disagreements::MOST`] that differ in input or field, from old to new.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct Disagreements(Vec<Disagreement>);

/// A request whose answers disagreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Disagreement {
    /// When it was found.
    pub at: Timestamp,
    /// The request's `x-request-id`, at most 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The first field that differs.
    pub field: String,
    /// What the active colour answered there, at most 200 bytes.
    pub active: String,
    /// What the candidate answered.
    pub candidate: String,
    /// What the active colour answered when it was asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
    /// XXH64 of the request's body with the seed 0, 16 hexadecimal digits.
    pub input_hash: String,
    /// The request's body, at most 4 KiB of it, where `keep_inputs` is set. What is no UTF-8 in it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Whether more of the body was there to be kept.
    #[serde(default)]
    pub input_truncated: bool,
    /// How often this input was answered differently in this field, as far as the list reaches back; the rest is about the
    /// last time. A record of an earlier release, which has none, says once.
    #[serde(default = "once")]
    pub times: u64,
}

/// The most that is kept of an input, in bytes.
const LONGEST_INPUT: usize = 4 << 10;
/// The most that is kept of a request's id, in characters.
const LONGEST_ID: usize = 64;

// === impl Disagreements ===

impl Disagreements {
    /// How many are kept.
    pub const MOST: usize = 20;

    /// All, from old to new.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Disagreement> {
        self.0.iter()
    }

    /// Adds one, by its time. It takes the place of the one with the same input and field, or else that of the oldest if
    /// there are enough.
    pub fn push(&mut self, disagreement: Disagreement) {
        self.insert(disagreement);
        self.forget();
    }

    /// Adds those of another worker.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|disagreement| self.insert(disagreement.clone()));
        // Not before all are in: what another has found again may be the oldest here.
        self.forget();
    }

    fn insert(&mut self, mut disagreement: Disagreement) {
        if let Some(place) = self.0.iter().position(|known| known.is_like(&disagreement)) {
            let mut known = self.0.remove(place);
            let times = known.times.saturating_add(disagreement.times);
            if known.at > disagreement.at {
                std::mem::swap(&mut known, &mut disagreement);
            }
            disagreement.times = times;
        }
        let place = self.0.partition_point(|known| known.at <= disagreement.at);
        self.0.insert(place, disagreement);
    }

    /// Lets the oldest go if there are too many.
    fn forget(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(Self::MOST));
    }
}

// === impl Disagreement ===

impl Disagreement {
    /// One that was found at `at`, of a request with this body. The body is kept only if `keep_input` is set.
    pub fn new(at: Timestamp, request_id: Option<&str>, difference: Difference, body: &[u8], keep_input: bool) -> Self {
        let Difference { field, active, candidate, again } = difference;
        let request_id = request_id.map(|id| id.chars().take(LONGEST_ID).collect());
        let input_hash = format!("{:016x}", xxh64(body, 0));
        let start = body.get(..LONGEST_INPUT).unwrap_or(body);
        // A replacement takes more room than what it stands for.
        let input = keep_input.then(|| cut(String::from_utf8_lossy(start).into_owned(), LONGEST_INPUT));
        let input_truncated = keep_input && start.len() < body.len();
        Self { at, request_id, field, active, candidate, again, input_hash, input, input_truncated, times: once() }
    }

    /// Whether it is about the same input and field.
    fn is_like(&self, other: &Self) -> bool {
        self.input_hash == other.input_hash && self.field == other.field
    }
}

fn once() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn difference() -> Difference {
        Difference {
            field: "/predictions/*".to_owned(),
            active: "0".to_owned(),
            candidate: "1".to_owned(),
            again: Some("0".to_owned()),
        }
    }

    fn at(millis: u64) -> Disagreement {
        Disagreement::new(
            Timestamp::from_millis(millis),
            Some("id"),
            difference(),
            millis.to_string().as_bytes(),
            false,
        )
    }

    /// The same input each time.
    fn again_at(millis: u64) -> Disagreement {
        Disagreement { at: Timestamp::from_millis(millis), ..at(0) }
    }

    fn moments(disagreements: &Disagreements) -> Vec<u64> {
        disagreements.iter().map(|disagreement| disagreement.at.as_millis()).collect()
    }

    #[test]
    fn the_last_twenty_are_kept_by_time_whichever_worker_found_them() {
        let (mut a, mut b) = (Disagreements::default(), Disagreements::default());
        for millis in 0..30 {
            if millis % 3 == 0 { a.push(at(millis)) } else { b.push(at(29 - millis)) }
        }
        assert!(moments(&b).is_sorted() && b.iter().count() == Disagreements::MOST);
        let mut merged = a.clone();
        merged.merge(&b);
        b.merge(&a);
        assert_eq!(moments(&merged), moments(&b));
        assert_eq!(merged.iter().count(), Disagreements::MOST);
        assert_eq!(moments(&merged).last(), Some(&28));
    }

    #[test]
    fn the_same_input_again_takes_its_older_place_and_the_times_add_up() {
        let mut disagreements = Disagreements::default();
        (1..=20).for_each(|millis| disagreements.push(at(millis)));
        for millis in [30, 40, 35] {
            disagreements.push(again_at(millis));
        }
        assert_eq!(moments(&disagreements), (2..=20).chain([40]).collect::<Vec<_>>());
        assert_eq!(disagreements.iter().map(|it| it.times).collect::<Vec<_>>(), [&[1; 19][..], &[3]].concat());
        let other_field = Disagreement { field: "/outputs/*".to_owned(), ..again_at(50) };
        disagreements.push(other_field);
        assert_eq!(moments(&disagreements), (3..=20).chain([40, 50]).collect::<Vec<_>>());
    }

    #[test]
    fn what_two_workers_have_found_often_adds_up_whichever_is_read_first() {
        let (mut a, mut b) = (Disagreements::default(), Disagreements::default());
        a.push(again_at(1));
        (2..=20).for_each(|millis| a.push(at(millis)));
        (21..=39).for_each(|millis| b.push(at(millis)));
        (40..=44).for_each(|millis| b.push(again_at(millis)));
        let mut merged = a.clone();
        merged.merge(&b);
        b.merge(&a);
        assert_eq!(merged, b);
        assert_eq!(merged.iter().count(), Disagreements::MOST);
        assert_eq!(merged.iter().next_back().map(|it| (it.at.as_millis(), it.times)), Some((44, 6)));
    }

    #[test]
    fn an_input_is_hashed_always_and_kept_only_if_asked_for_and_bounded() {
        let body = b"\xff".repeat(20 << 10);
        let of = |keep| Disagreement::new(Timestamp::default(), Some(&"\u{e9}".repeat(100)), difference(), &body, keep);
        let without = of(false);
        assert_eq!((without.input, without.input_truncated), (None, false));
        assert_eq!(without.request_id.map(|id| id.chars().count()), Some(64));
        let with = of(true);
        assert!(with.input.as_ref().is_some_and(|input| input.len() <= LONGEST_INPUT) && with.input_truncated);
        assert_eq!(with.input_hash, without.input_hash);
        // XXH64 of nothing, as its specification gives it.
        let empty = Disagreement::new(Timestamp::default(), None, difference(), b"", true);
        assert_eq!((empty.input_hash.as_str(), empty.input.as_deref()), ("ef46db3751d8e999", Some("")));
    }

    #[test]
    fn they_are_read_as_they_were_written() {
        let mut disagreements = Disagreements::default();
        disagreements.push(at(1));
        let written = serde_json::to_string(&disagreements).expect("serialises");
        assert!(written.starts_with(r#"[{"at":"1970-01-01T00:00:00.001Z","request_id":"id","field":"/predictions/*""#));
        assert_eq!(json::from_str::<Disagreements>(&written).expect("parses"), disagreements);
        let without_times = written.replace(r#","times":1"#, "");
        assert_ne!(without_times, written);
        assert_eq!(json::from_str::<Disagreements>(&without_times).expect("parses"), disagreements);
    }
}
