//! What one worker has counted about one colour of a deployment, in its own memory.

use serde::{Serialize, Serializer};

use crate::json::{FieldError, FromJson, Json};
use crate::metrics::counters::{Class, ColourCounts, ColourMetric, Span};
use crate::metrics::latency::{Bucket, Le};

/// Counts by metric, in the order of their places. Those that were never counted take no room. A list, since a map for them
/// alone is 8 KB of code; searched by place, since to compare metrics takes eight times as long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<Counted>);

/// A metric that was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    place: usize,
    metric: ColourMetric,
    count: u64,
}

// === impl Tally ===

impl Tally {
    /// Counts `by` more, or fewer.
    pub fn add(&mut self, metric: ColourMetric, by: i64) {
        match self.find(metric) {
            Ok(at) => {
                if let Some(counted) = self.0.get_mut(at) {
                    counted.count = counted.count.saturating_add_signed(by);
                }
            }
            Err(at) => {
                let count = 0_u64.saturating_add_signed(by);
                self.0.insert(at, Counted { place: metric.index(), metric, count });
            }
        }
    }

    /// Whether nothing was ever counted.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is counted under a metric.
    pub fn get(&self, metric: ColourMetric) -> u64 {
        self.find(metric).ok().and_then(|at| self.0.get(at)).map_or(0, |counted| counted.count)
    }

    /// Where it stands in the list, or belongs.
    fn find(&self, metric: ColourMetric) -> Result<usize, usize> {
        let place = metric.index();
        self.0.binary_search_by_key(&place, |counted| counted.place)
    }

    /// By how much what Envoy shows differs from what it showed of `earlier`. What is new is told also where it is back at
    /// nothing: a gauge of nothing is worth showing.
    pub fn changes_since(&self, earlier: &Self) -> impl Iterator<Item = (ColourMetric, i64)> {
        let single = self.0.iter().filter_map(|&Counted { metric, count, .. }| {
            let (now, then) = (metric.shown(count)?, metric.shown(earlier.get(metric))?);
            let by = now.wrapping_sub(then).cast_signed();
            (by != 0 || earlier.find(metric).is_err()).then_some((metric, by))
        });
        single.chain(Span::ALL.into_iter().flat_map(|span| self.histogram_since(earlier, span)))
    }

    /// The same of a histogram, whose buckets Envoy shows as Prometheus reads them: each has those below it in it. All of
    /// them are there from the first exchange on: without the empty ones nobody knows where the first bucket begins.
    fn histogram_since(&self, earlier: &Self, span: Span) -> impl Iterator<Item = (ColourMetric, i64)> {
        let is_new = earlier.find(ColourMetric::Time(span)).is_err() && self.find(ColourMetric::Time(span)).is_ok();
        let mut so_far = 0_i64;
        let mut bounds = Vec::new();
        for le in Le::all() {
            let within = ColourMetric::Within(span, le);
            let by = self.get(within).wrapping_sub(earlier.get(within)).cast_signed();
            so_far = so_far.saturating_add(by);
            bounds.push((within, so_far));
        }
        bounds.push((ColourMetric::Count(span), so_far));
        bounds.into_iter().filter(move |(_, by)| is_new || *by != 0)
    }

    /// What it comes to.
    pub fn sums(&self) -> ColourCounts {
        let requests = self.get(ColourMetric::Requests);
        let mut counts = ColourCounts { requests, ..ColourCounts::default() };
        for class in Class::all() {
            let ended = self.get(ColourMetric::Responses(class));
            match class {
                Class::Unanswered => counts.unanswered = ended,
                Class::Status(5) | Class::Aborted => counts.failed = counts.failed.saturating_add(ended),
                Class::Status(4) => counts.rejected = ended,
                Class::Status(_) => counts.answered = counts.answered.saturating_add(ended),
            }
        }
        counts.answered = counts.answered.saturating_add(counts.failed).saturating_add(counts.rejected);
        for bucket in Bucket::all() {
            counts.first_byte.add(bucket, self.get(ColourMetric::FirstByte(bucket)));
            counts.exchange.add(bucket, self.get(ColourMetric::Exchange(bucket)));
        }
        counts
    }

    /// Adds what another worker has counted.
    pub fn merge(&mut self, other: &Self) {
        for Counted { metric, count, .. } in &other.0 {
            self.add(*metric, i64::try_from(*count).unwrap_or(i64::MAX));
        }
    }
}

/// As pairs of a metric's place and its count.
impl Serialize for Tally {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|counted| (counted.place, counted.count)))
    }
}

impl FromJson for Tally {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        let mut tally = Self::default();
        for (place, count) in Vec::<(usize, u64)>::from_json(json)? {
            if let Some(metric) = ColourMetric::at(place) {
                tally.add(metric, i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::json;
    use crate::metrics::counters::of_exchange;

    #[test]
    fn what_is_counted_survives_its_way_through_the_store() {
        let mut tally = Tally::default();
        let slow = ColourMetric::Exchange(Bucket::of(Duration::from_secs(3)));
        for metric in [ColourMetric::Requests, ColourMetric::Responses(Class::Aborted), slow, slow] {
            tally.add(metric, 1);
        }
        let bytes = serde_json::to_vec(&tally).expect("serialises");
        assert_eq!(json::from_slice::<Tally>(&bytes).expect("reads"), tally);
    }

    #[test]
    fn only_what_changed_is_told_and_a_gauge_may_go_down() {
        let mut earlier = Tally::default();
        earlier.add(ColourMetric::Requests, 5);
        earlier.add(ColourMetric::InFlight, 2);
        let mut now = earlier.clone();
        now.add(ColourMetric::InFlight, -2);
        now.add(ColourMetric::Responses(Class::Status(2)), 2);
        now.add(ColourMetric::OverrideRequests, 0);
        let changes: BTreeMap<ColourMetric, i64> = now.changes_since(&earlier).collect();
        let expected = [
            (ColourMetric::InFlight, -2),
            (ColourMetric::OverrideRequests, 0),
            (ColourMetric::Responses(Class::Status(2)), 2),
        ];
        assert_eq!(changes, BTreeMap::from(expected));
    }

    #[test]
    fn a_histogram_is_shown_whole_at_first_and_cumulative() {
        let tally = |millis: &[u64]| {
            let mut tally = Tally::default();
            for millis in millis {
                let latency = Duration::from_millis(*millis);
                for (metric, by) in of_exchange(Class::Status(2), Some(latency), latency) {
                    tally.add(metric, by);
                }
            }
            tally
        };
        let shown = |earlier: &[u64], now: &[u64]| -> BTreeMap<String, i64> {
            let of = |metric: ColourMetric| metric.name(&crate::testing::iris(), crate::model::colour::Colour::Blue);
            let name = |metric| of(metric).split_once(".blue.").expect("its colour").1.to_owned();
            let changes = tally(now).changes_since(&tally(earlier)).collect::<Vec<_>>();
            let changes = changes.into_iter().map(|(metric, by)| (name(metric), by));
            changes.filter(|(name, _)| name.contains("first_byte")).collect()
        };
        let first = shown(&[], &[3, 3, 70]);
        let bucket = |le: &str| first[&format!("le.{le}.first_byte_milliseconds_bucket")];
        assert_eq!(["1", "2", "5", "50", "100", "120000", "+Inf"].map(bucket), [0, 0, 2, 2, 3, 3, 3]);
        assert_eq!((first["first_byte_milliseconds_sum"], first["first_byte_milliseconds_count"]), (76, 3));
        assert_eq!(first.len(), Le::COUNT + 2);
        let second = shown(&[3, 3, 70], &[3, 3, 70, 40_000]);
        let expected = [
            ("first_byte_milliseconds_count", 1),
            ("first_byte_milliseconds_sum", 40_000),
            ("le.+Inf.first_byte_milliseconds_bucket", 1),
            ("le.120000.first_byte_milliseconds_bucket", 1),
            ("le.60000.first_byte_milliseconds_bucket", 1),
        ];
        assert_eq!(second, expected.map(|(name, by)| (name.to_owned(), by)).into());
        assert!(shown(&[3], &[3]).is_empty());
    }

    #[test]
    fn what_is_below_a_millisecond_adds_up_in_the_sum() {
        let after = |times: i64| {
            let mut tally = Tally::default();
            tally.add(ColourMetric::Time(Span::Exchange), 600 * times);
            tally
        };
        let mut shown = 0;
        for times in 1..=5 {
            let changes = after(times).changes_since(&after(times - 1)).collect::<Vec<_>>();
            let time = changes.into_iter().find(|(metric, _)| *metric == ColourMetric::Time(Span::Exchange));
            shown += time.map_or(0, |(_, by)| by);
        }
        assert_eq!(shown, 3);
    }

    #[test]
    fn a_count_never_goes_below_nothing() {
        let mut tally = Tally::default();
        tally.add(ColourMetric::InFlight, -1);
        assert_eq!(tally.get(ColourMetric::InFlight), 0);
    }

    #[test]
    fn the_counts_of_several_workers_add_up() {
        let mut sum = Tally::default();
        for count in [3, 4] {
            let mut tally = Tally::default();
            tally.add(ColourMetric::Requests, count);
            sum.merge(&tally);
        }
        assert_eq!(sum.get(ColourMetric::Requests), 7);
    }

    #[test]
    fn an_answer_is_one_whatever_its_class_and_some_of_them_failed() {
        let mut tally = Tally::default();
        Class::all().for_each(|class| tally.add(ColourMetric::Responses(class), 2));
        let bucket = Bucket::of(Duration::from_millis(3));
        tally.add(ColourMetric::FirstByte(bucket), 7);
        let counts = tally.sums();
        assert_eq!((counts.answered, counts.failed, counts.rejected, counts.unanswered), (12, 4, 2, 2));
        assert_eq!((counts.first_byte.total(), counts.exchange.total()), (7, 0));
    }
}
