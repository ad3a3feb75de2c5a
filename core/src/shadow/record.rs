//! What all comparisons of a worker add up to.
//!
//! As JSON it is less than 1 KB for a model with one field, some 20 KB with the most fields and numbers of all sizes in each,
//! and below 64 KB whatever the answers hold, as long as no count has more than six digits.

use std::time::Duration;

use serde::Serialize;

use super::answer::{Answer, Content, OTHER};
use super::compare::{FieldPair, Measure, STATUS, compare, distance};
use super::dropped::Dropped;
use super::excess::Excess;
use crate::config::Compare;
use crate::json::FromJson;
use crate::metrics::latency::{Bucket, Histogram};
use crate::model::percent::Percent;
use crate::model::sorted_map::SortedMap;

/// What was compared, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(default)]
pub struct Compared {
    /// Requests whose answers were compared.
    pub compared: u64,
    /// Those of them whose answers disagreed, in a field that is no noise.
    pub disagreed: u64,
    /// Requests of the random sample to which the active colour answered twice.
    pub sampled: u64,
    /// Those of them to which its two answers disagreed, in a field that is no noise.
    pub noise: u64,
    /// What all compared requests say net of the noise.
    pub excess: Excess,
    /// Requests to which the active colour should have answered twice, and did not.
    pub failed_again: u64,
    /// Requests that were not compared, by reason.
    dropped: SortedMap<Dropped, u64>,
    /// What was found in each field.
    fields: SortedMap<String, FieldTally>,
    /// Which label of the active colour's met which of the candidate's.
    confusion: Option<Confusion>,
    /// How long the active colour took.
    pub active_took: Histogram,
    /// How long the candidate took.
    pub candidate_took: Histogram,
}

/// One request and its answers.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The active colour's, which the client got.
    pub first: &'a Answer,
    /// The candidate's.
    pub candidate: &'a Answer,
    /// The active colour's second one.
    pub again: Again<'a>,
    /// Whether the request was drawn to be sent again whatever the candidate answers.
    pub is_sample: bool,
    /// How long the active colour and the candidate took.
    pub took: (Duration, Duration),
}

/// The active colour's second answer to a request.
#[derive(Clone, Copy, Debug)]
pub enum Again<'a> {
    /// It was not asked.
    NotAsked,
    /// It gave none that can be compared.
    Failed,
    /// It answered.
    Answered(&'a Answer),
}

/// A disagreement: the first field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The field.
    pub field: String,
    /// What the active colour answered, as JSON, at most 200 bytes.
    pub active: String,
    /// What the candidate answered.
    pub candidate: String,
    /// What the active colour answered when it was asked again.
    pub again: Option<String>,
}

/// What was found in a field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(default)]
pub struct FieldTally {
    /// Requests in which either answer has it.
    pub compared: u64,
    /// Those in which the candidate disagreed.
    pub disagreed: u64,
    /// Those with a second answer of the active colour.
    pub rechecked: u64,
    /// Those of them in which it disagreed with itself.
    pub unsteady: u64,
    /// Those with a second answer because they were drawn for the sample.
    pub sampled: u64,
    /// Those of them in which the active colour disagreed with itself.
    pub noise: u64,
    /// Requests in which the candidate disagreed and the active colour agreed with itself.
    pub plus: u64,
    /// Requests in which the active colour disagreed with itself and agreed with the candidate the second time.
    pub minus: u64,
    /// The differences between its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Numbers>,
}

/// Differences between numbers, the candidate's less the active colour's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(default)]
pub struct Numbers {
    /// What is measured.
    pub of: Measure,
    /// How many pairs of numbers there were.
    pub count: u64,
    /// The sum of the differences.
    pub sum: f64,
    /// The sum of their sizes.
    pub sizes: f64,
    /// The largest size.
    pub max: f64,
    /// How many sizes lie in which power of two: [`Numbers::bucket`].
    buckets: SortedMap<u8, u64>,
}

/// Which label met which, in one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
pub struct Confusion {
    /// The field.
    pub field: String,
    /// How often, by the active colour's label and the candidate's.
    pub cells: SortedMap<String, SortedMap<String, u64>>,
}

/// So many fields are counted by their names.
const MOST_FIELDS: usize = 32;
/// So many labels have names.
const MOST_LABELS: usize = 16;
/// So many pairs of labels have a place. One more is for all others.
const MOST_CELLS: usize = 63;
/// Longer labels are cut, in characters.
const LONGEST_LABEL: usize = 40;
/// So many pairs of labels count of one request.
const MOST_PAIRS: usize = 256;
/// So much of a value is shown, in bytes.
const LONGEST_SHOWN: usize = 200;
/// After so many second answers a field can be taken for noise.
const ENOUGH: u64 = 20;
/// Larger differences count as this one: their sums stay finite.
const LARGEST: f64 = 1e100;
/// The powers of two that have buckets of their own: up to `2^-TINY`, and from `2^HUGE`.
const TINY: i32 = 40;
const HUGE: i32 = 40;

// === impl Compared ===

impl Compared {
    /// Whether the active colour should be asked again because of what the candidate answered: the two disagree in a field
    /// that is not known to be noise, and `noise_percent` is not 0.
    pub fn wants_again(&self, first: &Answer, candidate: &Answer, rules: &Compare) -> bool {
        rules.noise_percent > Percent::ZERO && self.differ(&compare(first, candidate, &rules.tolerance))
    }

    /// Counts a request. What differs if the answers disagree.
    ///
    /// Which fields are noise is decided by the requests before: so the test of the excess stays a fair game.
    pub fn add(&mut self, trial: &Trial<'_>, rules: &Compare) -> Option<Difference> {
        let tolerance = &rules.tolerance;
        let Trial { first, candidate, is_sample, .. } = *trial;
        let again = if let Again::Answered(again) = trial.again { Some(again) } else { None };
        let with_candidate = compare(first, candidate, tolerance);
        let with_again = again.map(|again| compare(first, again, tolerance));
        let disagrees = self.differ(&with_candidate);
        let is_unsteady = with_again.as_ref().is_some_and(|pairs| self.differ(pairs));
        let others = again.filter(|_| disagrees).map(|again| compare(again, candidate, tolerance));
        let others_differ = others.as_ref().is_some_and(|pairs| self.differ(pairs));
        // What says nothing about the models does not count in the test: requests that both refuse, and answers in which
        // nothing but noise is left. The rule treats both colours alike, so that the game stays fair.
        let is_refused = !first.is_2xx() && !candidate.is_2xx();
        let counts = !is_refused
            && (disagrees || with_candidate.iter().any(|pair| pair.name != STATUS && !self.is_noise(pair.name)));
        let found = with_candidate
            .iter()
            .filter(|pair| pair.differs_at.is_some() && !self.is_noise(pair.name))
            .min_by_key(|pair| pair.order)
            .map(|pair| difference(trial, pair));

        count(&mut self.compared, true);
        count(&mut self.disagreed, disagrees);
        count(&mut self.sampled, is_sample && again.is_some());
        count(&mut self.noise, is_sample && is_unsteady);
        count(&mut self.failed_again, matches!(trial.again, Again::Failed));
        let excess = &mut self.excess;
        let never_asks = rules.noise_percent == Percent::ZERO;
        let worth = match (disagrees, again.map(|again| again.status() != first.status())) {
            (false, _) => &mut excess.zero,
            (true, None) if never_asks => &mut excess.plus,
            (true, None) => &mut excess.unknown,
            (true, Some(strays)) => match (is_unsteady, others_differ, strays) {
                (false, true, _) => &mut excess.plus,
                (true, false, true) => &mut excess.astray,
                (true, false, false) => &mut excess.minus,
                (_, _, true) => &mut excess.unknown,
                _ => &mut excess.zero,
            },
        };
        count(worth, counts);

        self.note_labels(trial, &with_candidate);
        for pair in &with_candidate {
            let Some(tally) = self.field(pair.name) else { continue };
            let differs = pair.differs_at.is_some();
            count(&mut tally.compared, true);
            count(&mut tally.disagreed, differs);
            count(&mut tally.plus, differs && never_asks && again.is_none());
            tally.measure(trial, pair);
        }
        for pair in with_again.iter().flatten() {
            let differs = pair.differs_at.is_some();
            let differs_in = |pairs: &[FieldPair<'_>]| {
                pairs.iter().any(|other| other.name == pair.name && other.differs_at.is_some())
            };
            let candidate_differs = differs_in(&with_candidate);
            let others_differ = others.as_deref().map(differs_in);
            let Some(tally) = self.field(pair.name) else { continue };
            count(&mut tally.rechecked, true);
            count(&mut tally.unsteady, differs);
            count(&mut tally.sampled, is_sample);
            count(&mut tally.noise, is_sample && differs);
            count(&mut tally.plus, candidate_differs && !differs && others_differ == Some(true));
            count(&mut tally.minus, candidate_differs && differs && others_differ == Some(false));
        }
        if first.has_binary() || candidate.has_binary() {
            self.add_dropped(Dropped::Binary);
        }
        self.active_took.add(Bucket::of(trial.took.0), 1);
        self.candidate_took.add(Bucket::of(trial.took.1), 1);
        found
    }

    /// Counts a request that was not compared.
    pub fn add_dropped(&mut self, reason: Dropped) {
        add_to(&mut self.dropped, reason, 1);
    }

    /// How many requests were not compared for this reason.
    pub fn dropped(&self, reason: Dropped) -> u64 {
        self.dropped.get(&reason).copied().unwrap_or_default()
    }

    /// The fields by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldTally)> + Clone {
        self.fields.iter().map(|(name, tally)| (name.as_str(), tally))
    }

    /// Which labels met, if there are any.
    pub const fn confusion(&self) -> Option<&Confusion> {
        self.confusion.as_ref()
    }

    /// Adds what another worker has counted. In which order makes no difference as long as there are no more names than
    /// fit.
    pub fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.compared, other.compared),
            (&mut self.disagreed, other.disagreed),
            (&mut self.sampled, other.sampled),
            (&mut self.noise, other.noise),
            (&mut self.failed_again, other.failed_again),
        ];
        sums.into_iter().for_each(|(sum, more)| add(sum, more));
        self.excess.merge(&other.excess);
        other.dropped.iter().for_each(|(reason, count)| add_to(&mut self.dropped, *reason, *count));
        for (name, tally) in other.fields.iter() {
            if let Some(own) = self.field(name) {
                own.merge(tally);
            }
        }
        match (&mut self.confusion, &other.confusion) {
            (Some(own), Some(other)) => own.merge(other),
            (own @ None, other) => own.clone_from(other),
            (Some(_), None) => {}
        }
        self.active_took.merge(&other.active_took);
        self.candidate_took.merge(&other.candidate_took);
    }

    /// Whether two answers differ in a field that is not known to be noise.
    fn differ(&self, pairs: &[FieldPair<'_>]) -> bool {
        pairs.iter().any(|pair| pair.differs_at.is_some() && !self.is_noise(pair.name))
    }

    /// A status is none: where it changes, copies are treated otherwise than requests.
    fn is_noise(&self, name: &str) -> bool {
        name != STATUS && self.fields.get(self.counted_as(name)).is_some_and(FieldTally::is_noise)
    }

    /// What is counted of a field; it is always there.
    fn field(&mut self, name: &str) -> Option<&mut FieldTally> {
        let name = self.counted_as(name).to_owned();
        if !self.fields.contains_key(&name) {
            self.fields.insert(name.clone(), FieldTally::default());
        }
        self.fields.get_mut(&name)
    }

    /// The name by which a field is counted: its own as long as there is room.
    fn counted_as<'n>(&self, name: &'n str) -> &'n str {
        if self.fields.contains_key(name) || self.fields.len() < MOST_FIELDS { name } else { OTHER }
    }

    /// Counts the labels of the one field for which that is done: the first that had any.
    fn note_labels(&mut self, trial: &Trial<'_>, pairs: &[FieldPair<'_>]) {
        let of = |pair: &FieldPair<'_>| {
            let (Some(first), Some(candidate)) = pair.both else { return Vec::new() };
            let both = first.values().iter().zip(candidate.values()).take(MOST_PAIRS);
            let labels = both.map(|(first, candidate)| {
                let (first, candidate) = (trial.first.content(*first), trial.candidate.content(*candidate));
                Some((label(&first)?, label(&candidate)?))
            });
            labels.collect::<Option<Vec<_>>>().unwrap_or_default()
        };
        let known = self.confusion.as_ref().map(|confusion| confusion.field.as_str());
        let chosen = match known {
            Some(known) => pairs.iter().find(|pair| pair.name == known),
            None => pairs.iter().filter(|pair| !of(pair).is_empty()).min_by_key(|pair| {
                (!["/pred", "/outp", "/choi"].iter().any(|known| pair.name.starts_with(known)), pair.order)
            }),
        };
        let Some(chosen) = chosen else { return };
        let labels = of(chosen);
        let confusion = self
            .confusion
            .get_or_insert_with(|| Confusion { field: chosen.name.to_owned(), cells: SortedMap::default() });
        for (first, candidate) in labels {
            confusion.add(&first, &candidate, 1);
        }
    }
}

// === impl FieldTally ===

impl FieldTally {
    /// Whether the field is noise: the active colour disagrees with itself in it in more than half of the random sample, or in
    /// nine of ten second answers, which are asked for where the candidate disagrees, and so find more noise than there is.
    /// Such a field makes no request disagree.
    pub const fn is_noise(&self) -> bool {
        (self.sampled >= ENOUGH && self.noise.saturating_mul(2) > self.sampled)
            || (self.rechecked >= ENOUGH && self.unsteady.saturating_mul(10) > self.rechecked.saturating_mul(9))
    }

    fn measure(&mut self, trial: &Trial<'_>, pair: &FieldPair<'_>) {
        let (Some(first), Some(candidate)) = pair.both else { return };
        for (first, candidate) in first.values().iter().zip(candidate.values()) {
            let (first, candidate) = (trial.first.content(*first), trial.candidate.content(*candidate));
            if let Some((of, difference)) = distance(&first, &candidate) {
                self.numbers.get_or_insert_with(|| Numbers { of, ..Numbers::default() }).add(of, difference);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        let sums = [
            (&mut self.compared, other.compared),
            (&mut self.disagreed, other.disagreed),
            (&mut self.rechecked, other.rechecked),
            (&mut self.unsteady, other.unsteady),
            (&mut self.sampled, other.sampled),
            (&mut self.noise, other.noise),
            (&mut self.plus, other.plus),
            (&mut self.minus, other.minus),
        ];
        sums.into_iter().for_each(|(sum, more)| add(sum, more));
        match (&mut self.numbers, &other.numbers) {
            (Some(own), Some(other)) => own.merge(other),
            (own @ None, other) => own.clone_from(other),
            (Some(_), None) => {}
        }
    }
}

// === impl Numbers ===

impl Numbers {
    /// The mean difference; none without numbers.
    pub fn bias(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The mean size of a difference; none without numbers.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sizes / self.count as f64)
    }

    /// The size that `percent` of the differences (0 to 100) do not exceed, by nearest rank, with those of a power of two spread
    /// evenly; none without numbers.
    pub fn percentile(&self, percent: u8) -> Option<f64> {
        let total = self.buckets.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let rank = total.saturating_mul(u64::from(percent)).div_ceil(100).max(1);
        let mut below = 0_u64;
        for (bucket, count) in self.buckets.iter() {
            let up_to = below.saturating_add(*count);
            if up_to >= rank {
                let (start, end) = Self::bounds(*bucket);
                let place = (rank.saturating_sub(below) as f64 - 0.5) / *count as f64;
                return Some((start + (end - start) * place).min(self.max));
            }
            below = up_to;
        }
        None
    }

    /// Differences that measure something else are left out.
    fn add(&mut self, of: Measure, difference: f64) {
        if of != self.of {
            return;
        }
        let difference = difference.clamp(-LARGEST, LARGEST);
        let size = difference.abs();
        add(&mut self.count, 1);
        self.sum += difference;
        self.sizes += size;
        self.max = self.max.max(size);
        add_to(&mut self.buckets, Self::bucket(size), 1);
    }

    fn merge(&mut self, other: &Self) {
        if other.of != self.of {
            return;
        }
        add(&mut self.count, other.count);
        self.sum += other.sum;
        self.sizes += other.sizes;
        self.max = self.max.max(other.max);
        other.buckets.iter().for_each(|(bucket, count)| add_to(&mut self.buckets, *bucket, *count));
    }

    /// 0 for a size of 0, else one for each power of two.
    fn bucket(size: f64) -> u8 {
        if size == 0.0 {
            return 0;
        }
        // Eleven bits, so it fits.
        let biased = ((size.to_bits() >> 52) & 0x7ff) as i32;
        let exponent = biased.saturating_sub(1_023).clamp(-TINY, HUGE);
        u8::try_from(exponent.saturating_add(TINY).saturating_add(1)).unwrap_or_default()
    }

    /// Where a bucket begins and ends.
    fn bounds(bucket: u8) -> (f64, f64) {
        let exponent = i32::from(bucket).saturating_sub(1).saturating_sub(TINY);
        match bucket {
            0 => (0.0, 0.0),
            _ if exponent >= HUGE => (2.0_f64.powi(HUGE), LARGEST),
            1 => (0.0, 2.0_f64.powi(1_i32.saturating_sub(TINY))),
            _ => (2.0_f64.powi(exponent), 2.0_f64.powi(exponent.saturating_add(1))),
        }
    }
}

// === impl Confusion ===

impl Confusion {
    fn add(&mut self, active: &str, candidate: &str, count: u64) {
        let known = |label: &str| if self.has_room_for(label) { label.to_owned() } else { OTHER.to_owned() };
        let active = known(active);
        // The two may be new together.
        if !self.cells.contains_key(&active) && self.pairs() < MOST_CELLS {
            self.cells.insert(active.clone(), SortedMap::default());
        }
        let known = |label: &str| if self.has_room_for(label) { label.to_owned() } else { OTHER.to_owned() };
        let candidate = known(candidate);
        let is_known = self.cells.get(&active).is_some_and(|row| row.contains_key(&candidate));
        let (active, candidate) = if is_known || self.pairs() < MOST_CELLS {
            (active, candidate)
        } else {
            (OTHER.to_owned(), OTHER.to_owned())
        };
        if !self.cells.contains_key(&active) {
            self.cells.insert(active.clone(), SortedMap::default());
        }
        if let Some(row) = self.cells.get_mut(&active) {
            add_to(row, candidate, count);
        }
    }

    /// Adds what another worker has counted of the same field; of two fields the one that is first by name stays.
    fn merge(&mut self, other: &Self) {
        if other.field < self.field {
            self.clone_from(other);
        } else if other.field == self.field {
            for (active, row) in other.cells.iter() {
                row.iter().for_each(|(candidate, count)| self.add(active, candidate, *count));
            }
        }
    }

    fn pairs(&self) -> usize {
        self.cells.values().fold(0, |sum, row| sum.saturating_add(row.len()))
    }

    /// Whether a label has a name here, or may get one.
    fn has_room_for(&self, label: &str) -> bool {
        let mut named: Vec<&str> = Vec::new();
        let all = self.cells.iter().flat_map(|(active, row)| {
            [active.as_str()].into_iter().chain(row.iter().map(|(candidate, _)| candidate.as_str()))
        });
        for known in all {
            if known == label {
                return true;
            }
            if known != OTHER && !named.contains(&known) {
                named.push(known);
            }
        }
        named.len() < MOST_LABELS
    }
}

fn difference(trial: &Trial<'_>, pair: &FieldPair<'_>) -> Difference {
    let from = pair.differs_at.unwrap_or_default();
    let shown = |answer: &Answer| match answer.named(pair.name) {
        _ if pair.name == STATUS => answer.status().to_string(),
        Some(field) => field.shown(answer, from, LONGEST_SHOWN),
        None if answer.is_readable() => "absent".to_owned(),
        None => "no JSON that can be compared".to_owned(),
    };
    Difference {
        field: pair.name.to_owned(),
        active: shown(trial.first),
        candidate: shown(trial.candidate),
        again: if let Again::Answered(again) = trial.again { Some(shown(again)) } else { None },
    }
}

/// The label, if it is one: a short value that is one of a few.
fn label(content: &Content<'_>) -> Option<String> {
    let number_or_word = |text: &str| text.parse::<f64>().is_ok() || matches!(text, "true" | "false" | "null");
    match content {
        // In quotes where it would be taken for something else.
        Content::Text(text) if number_or_word(text) => Some(format!("{:?}", short(text))),
        Content::Text(text) => Some(short(text)),
        Content::Null | Content::Bool(_) | Content::Whole(0..10_000) => Some(content.shown(LONGEST_LABEL)),
        Content::Negative(-9_999..) => Some(content.shown(LONGEST_LABEL)),
        _ => None,
    }
}

fn short(text: &str) -> String {
    let mut letters = text.chars();
    let mut short: String = letters.by_ref().take(LONGEST_LABEL).collect();
    if letters.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

fn count(sum: &mut u64, is_one_more: bool) {
    add(sum, u64::from(is_one_more));
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn add_to<N: Ord>(sums: &mut SortedMap<N, u64>, name: N, more: u64) {
    match sums.get_mut(&name) {
        Some(sum) => add(sum, more),
        None => drop(sums.insert(name, more)),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn rules(fields: &str) -> Compare {
        let safe = r#""safe": [{"method": "POST", "path_prefix": "/"}]"#;
        json::from_str(&format!("{{{safe}{fields}}}")).expect("valid rules")
    }

    fn answer(body: &str) -> Answer {
        Answer::read(200, body.as_bytes(), None, &rules("")).expect(body)
    }

    /// Adds a request with these answers; without a second one it was not asked for.
    fn add(compared: &mut Compared, bodies: [&str; 2], again: Option<&str>, is_sample: bool) -> Option<Difference> {
        let [first, candidate] = bodies.map(answer);
        let second = again.map(answer);
        let again = second.as_ref().map_or(Again::NotAsked, Again::Answered);
        let took = (Duration::from_millis(10), Duration::from_millis(20));
        compared.add(&Trial { first: &first, candidate: &candidate, again, is_sample, took }, &rules(""))
    }

    fn roundtrip(compared: &Compared) -> usize {
        let written = serde_json::to_string(compared).expect("serialises");
        assert_eq!(json::from_str::<Compared>(&written).expect("parses"), *compared);
        written.len()
    }

    #[test]
    fn a_request_speaks_against_the_candidate_only_beyond_the_noise() {
        let excess = |plus, minus, zero, unknown| Excess { plus, minus, zero, unknown, astray: 0 };
        let cases = [
            (["[0]", "[0]"], None, excess(0, 0, 1, 0)),
            (["[0]", "[0]"], Some("[1]"), excess(0, 0, 1, 0)),
            (["[0]", "[1]"], Some("[0]"), excess(1, 0, 0, 0)),
            (["[0]", "[1]"], Some("[1]"), excess(0, 1, 0, 0)),
            (["[0]", "[1]"], Some("[2]"), excess(0, 0, 1, 0)),
            (["[0]", "[1]"], None, excess(0, 0, 0, 1)),
        ];
        for (bodies, again, expected) in cases {
            let mut compared = Compared::default();
            let found = add(&mut compared, bodies, again, false);
            assert_eq!((compared.excess, found.is_some()), (expected, bodies[0] != bodies[1]), "{bodies:?} {again:?}");
            assert_eq!((compared.compared, compared.disagreed), (1, u64::from(found.is_some())));
        }
    }

    #[test]
    fn without_noise_percent_nobody_is_asked_again_and_each_disagreement_counts() {
        let (first, candidate) = (answer("[0]"), answer("[1]"));
        let mut compared = Compared::default();
        assert!(compared.wants_again(&first, &candidate, &rules("")));
        assert!(!compared.wants_again(&first, &first, &rules("")));
        let never = rules(r#", "noise_percent": 0"#);
        assert!(!compared.wants_again(&first, &candidate, &never));
        let took = (Duration::ZERO, Duration::ZERO);
        let trial = Trial { first: &first, candidate: &candidate, again: Again::NotAsked, is_sample: false, took };
        compared.add(&trial, &never);
        assert_eq!(compared.excess, Excess { plus: 1, ..Excess::default() });
        compared.add(&Trial { again: Again::Failed, ..trial }, &rules(""));
        assert_eq!((compared.excess.unknown, compared.failed_again), (1, 1));
    }

    #[test]
    fn what_differs_is_told_by_the_first_field_with_all_three_answers() {
        let mut compared = Compared::default();
        let bodies = [r#"{"label": ["a", "b"], "p": 0.5}"#, r#"{"p": 0.6, "label": ["a", "c"]}"#];
        let found = add(&mut compared, bodies, Some(bodies[0]), false).expect("they differ");
        assert_eq!((found.field.as_str(), found.active.as_str()), ("/label/*", r#"["a", "b"]"#));
        assert_eq!((found.candidate.as_str(), found.again.as_deref()), (r#"["a", "c"]"#, Some(r#"["a", "b"]"#)));
        let absent = add(&mut compared, [r#"{"x": 1}"#, r#"{"y": 1}"#], None, false).expect("they differ");
        assert!([absent.active, absent.candidate].contains(&"absent".to_owned()));
        let long = format!("[\"{}\"]", "é".repeat(1_000));
        let found = add(&mut compared, [&long, "[1]"], None, false).expect("they differ");
        assert!(found.active.len() <= LONGEST_SHOWN && found.active.ends_with('…'));
        // What comes late in a long list is shown with what stands before it.
        let list = |last: &str| format!("[{}{last}]", "0, ".repeat(1_000));
        let found = add(&mut compared, [&list("1"), &list("2")], None, false).expect("they differ");
        assert!(found.active.starts_with("[…, 0, 0, ") && found.active.ends_with(", 0, 1]"), "{found:?}");
        assert!(found.candidate.ends_with(", 0, 2]"), "{found:?}");
        let list = |last: &str| format!("[{}\"{last}\"]", format!("\"{}\", ", "x".repeat(90)).repeat(10));
        let found = add(&mut compared, [&list("late"), &list("later")], None, false).expect("they differ");
        assert!(found.active.contains("\"late\"") && found.active.len() <= LONGEST_SHOWN, "{found:?}");
    }

    #[test]
    fn a_status_and_a_body_that_is_no_json_are_told_as_such() {
        let mut compared = Compared::default();
        let first = answer("[0]");
        let took = (Duration::ZERO, Duration::ZERO);
        let refused = Answer::read(404, b"", None, &rules("")).expect("a status");
        let broken = Answer::read_other(200, b"<html>", None, &rules("")).expect("a status");
        for (candidate, expected) in
            [(&refused, (":status", "200", "404")), (&broken, ("/", "", "no JSON that can be compared"))]
        {
            let trial = Trial { first: &first, candidate, again: Again::Failed, is_sample: false, took };
            let found = compared.add(&trial, &rules("")).expect("they differ");
            assert_eq!((found.field.as_str(), found.candidate.as_str()), (expected.0, expected.2));
            assert!(expected.1.is_empty() || found.active == expected.1);
        }
        assert_eq!(compared.excess.unknown, 2);
    }

    /// Adds a request with these statuses; a status of 200 has the same body each time.
    fn add_statuses(compared: &mut Compared, statuses: [u16; 3]) {
        let [first, candidate, again] =
            statuses.map(|status| Answer::read(status, b"[0]", None, &rules("")).expect("readable"));
        let took = (Duration::ZERO, Duration::ZERO);
        let again = Again::Answered(&again);
        let trial = Trial { first: &first, candidate: &candidate, again, is_sample: true, took };
        compared.add(&trial, &rules(""));
    }

    #[test]
    fn where_a_route_lets_no_copy_through_neither_agreement_nor_disagreement_is_shown() {
        let mut compared = Compared::default();
        (0..500).for_each(|_| add_statuses(&mut compared, [200, 404, 404]));
        assert_eq!(compared.excess, Excess { astray: 500, ..Excess::default() });
        assert!(compared.excess.agreement_e_value(0.02) < 1.0 && compared.excess.disagreement_e_value(0.0) < 1.0);
        assert_eq!(compared.disagreed, 500, "a status is never taken for noise");
        let mut compared = Compared::default();
        (0..500).for_each(|_| add_statuses(&mut compared, [200, 404, 429]));
        assert_eq!(compared.excess, Excess { unknown: 500, ..Excess::default() });
        let mut compared = Compared::default();
        (0..500).for_each(|_| add_statuses(&mut compared, [200, 404, 200]));
        assert_eq!(compared.excess, Excess { plus: 500, ..Excess::default() });
    }

    #[test]
    fn requests_that_both_refuse_and_answers_that_are_nothing_but_noise_show_no_agreement() {
        let mut compared = Compared::default();
        (0..500).for_each(|_| add_statuses(&mut compared, [400, 400, 400]));
        assert_eq!((compared.compared, compared.excess), (500, Excess::default()));
        let text = |number: u32| format!(r#"{{"text": "{number}"}}"#);
        let mut compared = Compared::default();
        for number in 0..500 {
            let bodies = [text(number), text(number + 1_000)];
            add(&mut compared, [&bodies[0], &bodies[1]], Some(&text(number + 2_000)), true);
        }
        assert_eq!(compared.excess, Excess { zero: 20, ..Excess::default() }, "until it is known to be noise");
        // Another status still counts.
        add_statuses(&mut compared, [200, 404, 200]);
        assert_eq!(compared.excess.plus, 1);
    }

    #[test]
    fn a_field_that_always_differs_mutes_itself_and_the_others_stay() {
        let mut compared = Compared::default();
        let body = |label: u32, id: u32| format!(r#"{{"label": {label}, "request": {id}}}"#);
        for number in 0..40 {
            let bodies = [body(0, number), body(0, number + 1_000)];
            add(&mut compared, [&bodies[0], &bodies[1]], Some(&body(0, number + 2_000)), false);
        }
        assert_eq!(compared.excess, Excess { zero: 40, ..Excess::default() });
        assert_eq!(compared.disagreed, 20, "the twenty-first request is the first without it");
        let noise: Vec<&str> = compared.fields().filter(|(_, tally)| tally.is_noise()).map(|(name, _)| name).collect();
        assert_eq!(noise, ["/request"]);
        let found =
            add(&mut compared, [&body(0, 1), &body(1, 2)], Some(&body(0, 3)), false).expect("the label differs");
        assert_eq!((found.field.as_str(), compared.excess.plus), ("/label", 1));
        assert!(!compared.wants_again(&answer(&body(0, 1)), &answer(&body(0, 2)), &rules("")));
    }

    #[test]
    fn a_field_that_is_sometimes_noisy_stays_in_the_test() {
        let mut compared = Compared::default();
        for number in 0..1_000_u32 {
            let mut drawn = [0; 3];
            for (place, label) in drawn.iter_mut().enumerate() {
                let mixed =
                    number.wrapping_mul(2_654_435_761).wrapping_add(place as u32 * 977).wrapping_mul(2_246_822_519)
                        >> 8;
                *label = if mixed % 100 < 30 { mixed % 9 } else { 9 };
            }
            let [first, candidate, second] = drawn.map(|label| format!("[{label}]"));
            let again = (first != candidate).then_some(second.as_str());
            add(&mut compared, [&first, &candidate], again, false);
        }
        assert!(compared.fields().all(|(_, tally)| !tally.is_noise()), "{compared:?}");
        assert!(compared.excess.disagreement_e_value(0.0) < 100.0);
    }

    #[test]
    fn differences_of_numbers_are_summed_up() {
        let mut compared = Compared::default();
        for number in 0..100 {
            let candidate = format!(r#"{{"p": [{}]}}"#, 10.0 + f64::from(number) / 100.0);
            add(&mut compared, [r#"{"p": [10.0]}"#, &candidate], Some(r#"{"p": [10.0]}"#), false);
        }
        let numbers = compared.fields().find_map(|(_, tally)| tally.numbers.clone()).expect("numbers");
        assert_eq!((numbers.of, numbers.count), (Measure::Difference, 100));
        let near = |found: Option<f64>, truth: f64, within: f64| {
            found.is_some_and(|found| (found / truth - 1.0).abs() < within)
        };
        assert!(near(numbers.bias(), 0.495, 1e-9) && near(numbers.mean(), 0.495, 1e-9), "{numbers:?}");
        assert!(near(numbers.percentile(50), 0.495, 0.1) && near(numbers.percentile(95), 0.95, 0.1), "{numbers:?}");
        assert!((numbers.max - 0.99).abs() < 1e-9);
        let odd = ["[NaN]", "[1e308]", "[-1e308]", "[1e-320]", "[0]", "[\"x\"]"];
        for first in odd {
            for candidate in odd {
                add(&mut compared, [first, candidate], None, false);
            }
        }
        roundtrip(&compared);
        assert!(compared.fields().filter_map(|(_, tally)| tally.numbers.as_ref()).all(|numbers| {
            [numbers.sum, numbers.sizes, numbers.max].iter().all(|number| number.is_finite())
                && numbers.percentile(95).is_some_and(f64::is_finite)
        }));
    }

    #[test]
    fn labels_are_counted_by_pair_and_bounded() {
        let mut compared = Compared::default();
        for (first, candidate) in [("setosa", "setosa"), ("setosa", "virginica"), ("setosa", "virginica")] {
            let [first, candidate] =
                [first, candidate].map(|label| format!(r#"{{"model_kind": "m", "predictions": ["{label}"]}}"#));
            add(&mut compared, [&first, &candidate], None, false);
        }
        let confusion = compared.confusion().expect("labels");
        assert_eq!(confusion.field, "/predictions/*");
        assert_eq!(
            serde_json::to_string(&confusion.cells).expect("serialises"),
            r#"{"setosa":{"setosa":1,"virginica":2}}"#
        );
        for number in 0..2_000 {
            let [first, candidate] = [number, number * 7 + 1]
                .map(|label| format!(r#"{{"predictions": ["{}{}"]}}"#, label % 40, "x".repeat(90)));
            add(&mut compared, [&first, &candidate], None, false);
        }
        let confusion = compared.confusion().expect("labels");
        let labels: std::collections::BTreeSet<&str> = confusion
            .cells
            .iter()
            .flat_map(|(active, row)| [active.as_str()].into_iter().chain(row.iter().map(|(name, _)| name.as_str())))
            .collect();
        assert!(labels.len() <= MOST_LABELS + 1 && labels.iter().all(|label| label.chars().count() <= LONGEST_LABEL));
        assert!(confusion.pairs() <= MOST_CELLS + 1, "{}", confusion.pairs());
        let sum: u64 = confusion.cells.values().flat_map(SortedMap::values).sum();
        assert_eq!(sum, 2_003);
        // Measures and texts for people are no labels.
        for body in ["[0.5]", r#"{"choices": [{"text": "once upon a time"}]}"#] {
            let mut compared = Compared::default();
            add(&mut compared, [body, body], None, false);
            let cells = compared.confusion().map(|confusion| confusion.field.clone());
            assert!(cells.is_none_or(|field| field == "/choices"), "{body}");
        }
    }

    #[test]
    fn texts_that_look_like_numbers_are_labels_of_their_own() {
        let shown = |content| label(&content);
        assert_eq!(shown(Content::Text("1")).as_deref(), Some("\"1\""));
        assert_eq!(shown(Content::Whole(1)).as_deref(), Some("1"));
        assert_eq!(shown(Content::Text("true")).as_deref(), Some("\"true\""));
        assert_eq!(shown(Content::Whole(10_000)), None);
        assert_eq!(shown(Content::Double(1.0)), None);
    }

    #[test]
    fn a_record_stays_small_whatever_the_answers_hold() {
        let mut compared = Compared::default();
        for round in 0..50_u32 {
            let body = |shift: u32| {
                let members: Vec<String> = (0..300)
                    .map(|number| {
                        let size = 2.0_f64.powi(((number + shift * 7) % 100) as i32 - 50);
                        format!(r#""{}{number}": {size}"#, "n".repeat(100))
                    })
                    .collect();
                format!("{{{}}}", members.join(","))
            };
            add(&mut compared, [&body(round), &body(round + 1)], Some(&body(round + 2)), true);
            compared.add_dropped(Dropped::ALL[round as usize % Dropped::COUNT]);
        }
        let (fields, written) = (compared.fields().count(), serde_json::to_string(&compared).expect("serialises"));
        assert!(fields <= MOST_FIELDS + 1, "{fields}");
        assert!(written.len() <= 64 << 10, "{}", written.len());
        // The last digit of a sum with many may be read otherwise: no reason to compare all of it.
        let read: Compared = json::from_str(&written).expect("parses");
        assert_eq!((read.fields().count(), read.compared, read.excess), (fields, 50, compared.excess));
        let mut usual = Compared::default();
        add(&mut usual, [r#"{"predictions": [0, 1]}"#; 2], None, false);
        assert!(roundtrip(&usual) < 1_024);
    }

    #[test]
    fn workers_add_up_in_any_order() {
        let mut workers: Vec<Compared> = Vec::new();
        for worker in 0..3_u32 {
            let mut compared = Compared::default();
            for number in 0..30 {
                let label = |place: u32| {
                    format!(r#"{{"predictions": ["{}"], "p": {}.25}}"#, (number * place + worker) % 3, place)
                };
                add(&mut compared, [&label(1), &label(2)], Some(&label(1)), number % 2 == 0);
                compared.add_dropped(Dropped::Busy);
            }
            workers.push(compared);
        }
        let sum = |order: [usize; 3]| {
            let mut sum = Compared::default();
            order.iter().for_each(|worker| sum.merge(&workers[*worker]));
            sum
        };
        assert_eq!(sum([0, 1, 2]), sum([2, 0, 1]));
        assert_eq!((sum([0, 1, 2]).compared, sum([0, 1, 2]).dropped(Dropped::Busy)), (90, 90));
        roundtrip(&sum([0, 1, 2]));
    }

    #[test]
    fn a_binary_part_is_counted_beside_the_comparison() {
        let body = br#"{"outputs":[{"name":"a","shape":[1],"datatype":"FP32"}]}1234"#;
        let answer = Answer::read(200, body, Some(body.len() - 4), &rules("")).expect("JSON in front");
        let mut compared = Compared::default();
        let took = (Duration::ZERO, Duration::ZERO);
        let trial = Trial { first: &answer, candidate: &answer, again: Again::NotAsked, is_sample: false, took };
        compared.add(&trial, &rules(""));
        assert_eq!((compared.compared, compared.dropped(Dropped::Binary)), (1, 1));
    }
}
