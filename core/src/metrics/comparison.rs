//! Both colours side by side over the last minutes.
//!
//! Counters only grow, so a period is a difference: now less then. What "then" was is written down every ten seconds by
//! the leader, in slots of the shared store that are used in turn, so that any worker thread can answer and a change of
//! leader loses nothing.

use std::time::Duration;

use serde::Serialize;

use crate::json::{self, FromJson};
use crate::metrics::counters::ColourCounts;
use crate::metrics::latency::Histogram;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::DeploymentName;
use crate::model::time::{Timestamp, millis};
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// Everything counted about a deployment up to a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, FromJson)]
pub struct Sample {
    /// The moment.
    pub at: Timestamp,
    /// The counts of each colour.
    pub counts: PerColour<ColourCounts>,
}

/// The comparison over one period.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Window {
    /// How long the period really is, in seconds: a little over what was asked for, or less soon after a start.
    pub seconds: f64,
    /// Each colour's figures.
    pub colours: PerColour<Figures>,
}

/// One colour's figures over a period.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests sent to the colour.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Share of answers that were a 5xx, 0 to 1; null without answers.
    pub error_rate: Option<f64>,
    /// Exchanges that ended without an answer: the client went away, or the stream was reset.
    pub unanswered: u64,
    /// Time to first byte in milliseconds.
    pub ttfb_ms: Percentiles,
    /// Time to the last byte in milliseconds.
    pub total_ms: Percentiles,
}

/// Latencies that a share of the answers did not exceed, in milliseconds; null without answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

/// How far apart samples are taken.
pub const SAMPLE_PERIOD: Duration = Duration::from_secs(10);
/// The periods of the comparison, with their names in the API.
pub const WINDOWS: [(&str, Duration); 3] =
    [("1m", Duration::from_secs(60)), ("5m", Duration::from_secs(300)), ("15m", Duration::from_secs(900))];
/// Enough for the longest period, one sample before it, and the one being written.
const SLOTS: u64 = 92;

/// The number of the sample period that `at` lies in: the leader takes one sample in each.
pub fn period_of(at: Timestamp) -> u64 {
    at.as_millis().checked_div(millis(SAMPLE_PERIOD)).unwrap_or_default()
}

/// Writes a sample down, over the one that is too old to be needed. The first sample of a period stands.
///
/// # Errors
/// The store cannot be reached; the comparison then reaches further back than asked for.
pub fn record(store: &dyn Store, name: &DeploymentName, sample: &Sample) -> Result<(), StoreError> {
    let period = period_of(sample.at);
    update(store, &slot_key(name, period), &mut |known| {
        // Another instance has just taken this period's sample: it is as good as ours.
        if decode(known.value, period).is_some() { None } else { serde_json::to_vec(sample).ok() }
    })
    .map(|_| ())
}

/// Writes a sample of these counts down if this period has none: requests are about to be counted of a deployment that nobody
/// may have sampled yet.
///
/// # Errors
/// The store cannot be reached.
pub fn begin(
    store: &dyn Store,
    name: &DeploymentName,
    at: Timestamp,
    counts: impl FnOnce() -> PerColour<ColourCounts>,
) -> Result<(), StoreError> {
    match read(store, name, period_of(at))? {
        Some(_) => Ok(()),
        None => record(store, name, &Sample { at, counts: counts() }),
    }
}

/// Compares over each of [`WINDOWS`], up to `now`; not further back than `since`, if that is given: before that something
/// else was behind a colour.
///
/// # Errors
/// The store cannot be reached.
pub fn windows(
    store: &dyn Store,
    name: &DeploymentName,
    now: &Sample,
    since: Option<Timestamp>,
) -> Result<Vec<(&'static str, Window)>, StoreError> {
    let compare = |(label, length): &(&'static str, Duration)| {
        let start = now.at.minus(*length);
        let then = match since.filter(|since| *since > start) {
            Some(since) => oldest(store, name, period_of(since), since, now)?,
            None => baseline(store, name, now, start)?,
        };
        Ok((*label, Window::between(&then, now)))
    };
    WINDOWS.iter().map(compare).collect()
}

/// The newest sample from before the period; soon after a start, when there is none, the oldest of all, which was taken
/// when the deployment was configured.
fn baseline(store: &dyn Store, name: &DeploymentName, now: &Sample, start: Timestamp) -> Result<Sample, StoreError> {
    let first_period = period_of(start);
    for back in 0..SLOTS {
        let Some(period) = first_period.checked_sub(back) else { break };
        if let Some(sample) = read(store, name, period)?.filter(|sample| sample.at <= start) {
            return Ok(sample);
        }
    }
    oldest(store, name, first_period, start, now)
}

/// The oldest sample from `first_period` on that was not taken before `start`; `now` if there is none.
fn oldest(
    store: &dyn Store,
    name: &DeploymentName,
    first_period: u64,
    start: Timestamp,
    now: &Sample,
) -> Result<Sample, StoreError> {
    for period in first_period..=period_of(now.at) {
        if let Some(oldest) = read(store, name, period)?.filter(|sample| sample.at >= start) {
            return Ok(oldest);
        }
    }
    Ok(now.clone())
}

fn read(store: &dyn Store, name: &DeploymentName, period: u64) -> Result<Option<Sample>, StoreError> {
    Ok(decode(store.read(&slot_key(name, period))?.value, period))
}

/// The sample in a slot, unless it is one of an earlier turn.
fn decode(value: Option<Vec<u8>>, period: u64) -> Option<Sample> {
    let sample: Sample = json::from_slice(&value?).ok()?;
    (period_of(sample.at) == period).then_some(sample)
}

fn slot_key(name: &DeploymentName, period: u64) -> String {
    let slot = period.checked_rem(SLOTS).unwrap_or_default();
    Key::Sample(name, slot).to_string()
}

// === impl Window ===

impl Window {
    fn between(then: &Sample, now: &Sample) -> Self {
        let seconds = now.at.since(then.at).as_secs_f64();
        let figures = |colour: Colour| Figures::new(&now.counts.get(colour).since(then.counts.get(colour)), seconds);
        Self { seconds, colours: PerColour::from_fn(figures) }
    }
}

// === impl Figures ===

impl Figures {
    fn new(counts: &ColourCounts, seconds: f64) -> Self {
        let rounded = |value: f64| (value * 10_000.0).round() / 10_000.0;
        Self {
            requests: counts.requests,
            rate: if seconds > 0.0 { rounded(counts.requests as f64 / seconds) } else { 0.0 },
            error_rate: (counts.answered > 0).then(|| rounded(counts.failed as f64 / counts.answered as f64)),
            unanswered: counts.unanswered,
            ttfb_ms: Percentiles::of(&counts.first_byte),
            total_ms: Percentiles::of(&counts.exchange),
        }
    }
}

// === impl Percentiles ===

impl Percentiles {
    fn of(histogram: &Histogram) -> Self {
        let at = |percent| histogram.percentile_millis(percent);
        Self { p50: at(50), p95: at(95), p99: at(99) }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::{MemoryStore, iris};

    const START: u64 = 1_795_446_000_000;

    /// A deployment whose green colour gets one request a second, a tenth of which fail.
    fn sample(second: u64) -> Sample {
        let green = ColourCounts { requests: second, answered: second, failed: second / 10, ..ColourCounts::default() };
        let counts = PerColour { blue: ColourCounts::default(), green };
        Sample { at: Timestamp::from_millis(START + second * 1_000), counts }
    }

    fn run(store: &MemoryStore, seconds: std::ops::RangeInclusive<u64>) {
        for second in seconds.filter(|second| second % 10 == 1) {
            record(store, &iris(), &sample(second)).expect("in reach");
        }
    }

    fn compare(store: &MemoryStore, second: u64) -> Vec<(f64, u64)> {
        let windows = windows(store, &iris(), &sample(second), None).expect("in reach");
        windows.into_iter().map(|(_, window)| (window.seconds, window.colours.green.requests)).collect()
    }

    #[test]
    fn each_window_counts_its_own_period_and_says_how_long_it_was() {
        let store = MemoryStore::default();
        run(&store, 0..=10_000);
        assert_eq!(compare(&store, 10_005), [(64.0, 64), (304.0, 304), (904.0, 904)]);
        assert_eq!(compare(&store, 10_001), [(60.0, 60), (300.0, 300), (900.0, 900)]);
    }

    #[test]
    fn soon_after_a_start_every_window_begins_with_the_first_sample() {
        let store = MemoryStore::default();
        assert_eq!(compare(&store, 5), [(0.0, 0), (0.0, 0), (0.0, 0)]);
        run(&store, 0..=30);
        assert_eq!(compare(&store, 35), [(34.0, 34), (34.0, 34), (34.0, 34)]);
        run(&store, 31..=100);
        assert_eq!(compare(&store, 100), [(69.0, 69), (99.0, 99), (99.0, 99)]);
    }

    #[test]
    fn after_a_long_silence_only_what_came_since_is_counted() {
        let store = MemoryStore::default();
        run(&store, 0..=2_000);
        run(&store, 50_000..=50_100);
        let (seconds, requests) = compare(&store, 50_100)[0];
        assert_eq!((seconds, requests), (69.0, 69));
    }

    #[test]
    fn no_window_reaches_back_to_another_version() {
        let store = MemoryStore::default();
        run(&store, 0..=10_000);
        let replaced = |second: u64| Some(Timestamp::from_millis(START + second * 1_000));
        let compare = |since| {
            let windows = windows(&store, &iris(), &sample(10_005), since).expect("in reach");
            windows.into_iter().map(|(_, window)| window.seconds).collect::<Vec<_>>()
        };
        assert_eq!(compare(replaced(9_700)), [64.0, 304.0, 304.0]);
        // The first sample since then.
        assert_eq!(compare(replaced(9_975)), [24.0, 24.0, 24.0]);
        assert_eq!(compare(replaced(10_004)), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn rates_are_per_second_and_per_answer() {
        let store = MemoryStore::default();
        run(&store, 0..=1_000);
        let windows = windows(&store, &iris(), &sample(1_001), None).expect("in reach");
        let (label, minute) = &windows[0];
        assert_eq!(*label, "1m");
        assert_eq!((minute.colours.green.rate, minute.colours.green.error_rate), (1.0, Some(0.1)));
        assert_eq!((minute.colours.blue.requests, minute.colours.blue.error_rate), (0, None));
    }

    #[test]
    fn foreign_values_in_the_slots_are_passed_over() {
        let store = MemoryStore::default();
        for slot in 0..SLOTS {
            store.put(&format!("bluegreen/v1/iris/sample/{slot}"), b"\xffnot ours");
        }
        assert_eq!(compare(&store, 5), [(0.0, 0), (0.0, 0), (0.0, 0)]);
    }
}
