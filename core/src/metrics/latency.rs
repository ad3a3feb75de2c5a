//! Latency as counts in log-spaced buckets, so that any number of workers add up and any period is a difference.
//!
//! The buckets are log-linear as in HdrHistogram: four of equal width per power of two, so a bucket's bounds lie at most
//! 25 % apart. They start at 64 µs and end at 134 s.

use std::time::Duration;

use serde::Serialize;

use crate::json::FromJson;
use crate::model::sorted_map::SortedMap;

/// One of the buckets, [`Bucket::COUNT`] in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(transparent)]
pub struct Bucket(u8);

/// One of the upper bounds of the histograms that Prometheus reads, itself included: 1, 2 and 5 of each power of ten
/// milliseconds, since people set their goals at such numbers. The last has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Le(u8);

/// How many exchanges took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
#[serde(transparent)]
pub struct Histogram(SortedMap<Bucket, u64>);

/// The width of the first buckets in microseconds, as a power of two.
const UNIT_BITS: u32 = 6;
/// Two bits below the highest one choose among the four buckets of a power of two.
const SUB_BITS: u32 = 2;
/// The bucket of everything that took longer than all others cover.
const OVERFLOW: u8 = 80;

/// The bounds, in milliseconds, with what Prometheus calls them. Each is a series of its own of each colour and time.
const BOUNDS: [(u64, &str); 16] = [
    (1, "1"),
    (2, "2"),
    (5, "5"),
    (10, "10"),
    (20, "20"),
    (50, "50"),
    (100, "100"),
    (200, "200"),
    (500, "500"),
    (1_000, "1000"),
    (2_000, "2000"),
    (5_000, "5000"),
    (10_000, "10000"),
    (30_000, "30000"),
    (60_000, "60000"),
    (120_000, "120000"),
];

/// A time in whole microseconds. `Duration::as_micros` divides 128 bits, which takes a wasm module hundreds of instructions.
pub fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}

// === impl Bucket ===

impl Bucket {
    /// How many buckets there are.
    pub const COUNT: usize = OVERFLOW as usize + 1;

    /// All buckets, from fast to slow.
    pub fn all() -> impl Iterator<Item = Bucket> {
        (0..=OVERFLOW).map(Bucket)
    }

    /// The place among all buckets.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The bucket of a latency.
    pub fn of(latency: Duration) -> Self {
        let units = micros(latency) >> UNIT_BITS;
        let index = match units.checked_ilog2() {
            Some(bits) if bits >= SUB_BITS => {
                let shift = bits.saturating_sub(SUB_BITS);
                // `units >> shift` is 4 to 7: 4 more for each power of two.
                u64::from(shift).saturating_mul(4).saturating_add(units.checked_shr(shift).unwrap_or_default())
            }
            _ => units,
        };
        Self(u8::try_from(index).map_or(OVERFLOW, |index| index.min(OVERFLOW)))
    }

    /// Where the bucket ends, in microseconds, itself excluded; `None` for the last, which has no end.
    pub fn end_micros(self) -> Option<u64> {
        (self.0 < OVERFLOW).then(|| Self(self.0.saturating_add(1)).start_micros())
    }

    /// Where the bucket starts, in microseconds.
    fn start_micros(self) -> u64 {
        let index = u64::from(self.0);
        let units = match u32::from(self.0 / 4).checked_sub(1) {
            Some(shift) => (index % 4).saturating_add(4).checked_shl(shift).unwrap_or(u64::MAX),
            None => index,
        };
        units.saturating_mul(1 << UNIT_BITS)
    }
}

// === impl Le ===

impl Le {
    /// How many there are.
    pub const COUNT: usize = BOUNDS.len() + 1;

    /// All of them, from fast to slow.
    pub fn all() -> impl Iterator<Item = Le> {
        (0..=BOUNDS.len()).map(|place| Le(u8::try_from(place).unwrap_or(u8::MAX)))
    }

    /// The lowest that a latency does not exceed.
    pub fn of(latency: Duration) -> Self {
        // A latency that is a nanosecond longer than a bound exceeds it.
        let micros = micros(latency).saturating_add(u64::from(!latency.subsec_nanos().is_multiple_of(1_000)));
        let place = BOUNDS.iter().position(|(millis, _)| micros <= millis.saturating_mul(1_000));
        Self(u8::try_from(place.unwrap_or(BOUNDS.len())).unwrap_or(u8::MAX))
    }

    /// The place among all.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// What Prometheus calls it.
    pub fn as_str(self) -> &'static str {
        BOUNDS.get(self.index()).map_or("+Inf", |(_, name)| *name)
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts `count` exchanges more in `bucket`.
    pub fn add(&mut self, bucket: Bucket, count: u64) {
        if count > 0 {
            match self.0.get_mut(&bucket) {
                Some(sum) => *sum = sum.saturating_add(count),
                None => drop(self.0.insert(bucket, count)),
            }
        }
    }

    /// Adds what another worker has counted.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(bucket, count)| self.add(*bucket, *count));
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self::default();
        for (bucket, count) in self.0.iter() {
            let before = earlier.0.get(bucket).copied().unwrap_or_default();
            difference.add(*bucket, count.saturating_sub(before));
        }
        difference
    }

    /// All exchanges.
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The exchanges in buckets above this one.
    pub fn above(&self, bound: Bucket) -> u64 {
        self.0.iter().filter(|(bucket, _)| **bucket > bound).fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The bucket in which the latency lies that `permille` of a thousand exchanges did not exceed.
    pub fn percentile_bucket(&self, permille: u16) -> Option<Bucket> {
        let rank = self.total().saturating_mul(u64::from(permille)).div_ceil(1_000).max(1);
        let mut up_to = 0_u64;
        self.0.iter().find_map(|(bucket, count)| {
            up_to = up_to.saturating_add(*count);
            (up_to >= rank).then_some(*bucket)
        })
    }

    /// The latency in milliseconds that `percent` of the exchanges (0 to 100) did not exceed, by nearest rank, with the
    /// exchanges of a bucket spread evenly over its width; `None` without exchanges. A true value above 134 s is given
    /// as 134 s.
    pub fn percentile_millis(&self, percent: u8) -> Option<f64> {
        let rank = self.total().saturating_mul(u64::from(percent)).div_ceil(100).max(1);
        let mut below = 0_u64;
        for (bucket, count) in self.0.iter() {
            let up_to = below.saturating_add(*count);
            if up_to >= rank {
                let start = bucket.start_micros();
                let width = bucket.end_micros().unwrap_or(start).saturating_sub(start);
                let place = (rank.saturating_sub(below) as f64 - 0.5) / *count as f64;
                let millis = (start as f64 + width as f64 * place) / 1_000.0;
                return Some((millis * 1_000.0).round() / 1_000.0);
            }
            below = up_to;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_buckets_cover_all_time_without_gap_or_overlap() {
        let mut expected_start = 0;
        for bucket in Bucket::all() {
            assert_eq!(bucket.start_micros(), expected_start);
            assert_eq!(Bucket::of(Duration::from_micros(expected_start)), bucket);
            let Some(end) = bucket.end_micros() else { break };
            assert_eq!(Bucket::of(Duration::from_micros(end - 1)), bucket);
            expected_start = end;
        }
        assert_eq!(expected_start, 134_217_728);
        assert_eq!(Bucket::of(Duration::MAX).index(), Bucket::COUNT - 1);
    }

    #[test]
    fn a_latency_belongs_to_the_lowest_bound_that_it_does_not_exceed() {
        for (micros, le) in
            [(0, "1"), (1_000, "1"), (1_001, "2"), (100_000, "100"), (120_000_000, "120000"), (120_000_001, "+Inf")]
        {
            assert_eq!(Le::of(Duration::from_micros(micros)).as_str(), le, "{micros} µs");
        }
        let names: Vec<&str> = Le::all().map(Le::as_str).collect();
        assert_eq!((names.len(), names.last().copied()), (Le::COUNT, Some("+Inf")));
        assert!(BOUNDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(BOUNDS.iter().all(|(millis, name)| millis.to_string() == *name));
    }

    #[test]
    fn beyond_the_first_four_a_bucket_is_at_most_a_quarter_wide() {
        for bucket in Bucket::all().skip(4) {
            let Some(end) = bucket.end_micros() else { break };
            assert!((end - bucket.start_micros()) * 4 <= bucket.start_micros());
        }
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        for millis in 1..=1_000_u64 {
            histogram.add(Bucket::of(Duration::from_millis(millis)), 1);
        }
        for (percent, truth) in [(50, 500.0), (95, 950.0), (99, 990.0), (100, 1_000.0)] {
            let estimate = histogram.percentile_millis(percent).expect("not empty");
            assert!((estimate - truth).abs() / truth < 0.05, "p{percent}: {estimate}");
        }
        assert_eq!(Histogram::default().percentile_millis(50), None);
    }

    #[test]
    fn a_single_exchange_is_every_percentile() {
        let mut histogram = Histogram::default();
        histogram.add(Bucket::of(Duration::from_millis(10)), 1);
        let (low, high) = (histogram.percentile_millis(0), histogram.percentile_millis(100));
        assert_eq!(low, high);
        assert!((9.0..11.0).contains(&low.expect("not empty")));
    }

    #[test]
    fn a_period_is_the_difference_of_two_counts() {
        let (fast, slow) = (Bucket::of(Duration::from_millis(1)), Bucket::of(Duration::from_secs(1)));
        let mut earlier = Histogram::default();
        earlier.add(fast, 5);
        let mut now = earlier.clone();
        now.add(slow, 2);
        let mut expected = Histogram::default();
        expected.add(slow, 2);
        assert_eq!(now.since(&earlier), expected);
    }
}
