//! What all comparisons of a worker add up to.
//!
//! As JSON it is some 1 KB for a model with one field, and some 12 KB with the most fields, each of numbers. No answers make
//! it larger than 64 KB: see the consts.

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
        let worth = match (disagrees, again) {
            (false, _) => &mut excess.zero,
            (true, None) if never_asks => &mut excess.plus,
            (true, None) => &mut excess.unknown,
            (true, Some(_)) => match (is_unsteady, others_differ) {
                (false, true) => &mut excess.plus,
                (true, false) => &mut excess.minus,
                _ => &mut excess.zero,
            },
        };
        count(worth, true);

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

    fn is_noise(&self, name: &str) -> bool {
        self.fields.get(self.counted_as(name)).is_some_and(FieldTally::is_noise)
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
