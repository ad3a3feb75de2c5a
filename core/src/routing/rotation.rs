//! Rotation: the exact share of a canary, without a period.

use xxhash_rust::xxh64::xxh64;

use crate::model::name::DeploymentName;
use crate::model::percent::Percent;
use crate::store::lease::Instance;

/// Picks a share out of a run of requests, one run for each worker thread, deployment and use.
///
/// The shares of the requests are added up. Each whole of that sum is a stratum: of `1 / share` requests in a row one is
/// chosen, at a place that is drawn anew each time. The sum begins at a place that is drawn too. So
///
/// * each request is chosen with a probability of exactly its share, whatever came before it in the traffic: no period of
///   the traffic meets one of ours, and many workers with few requests each send the share all the same;
/// * over any run of requests the number chosen differs from the sum of their shares by less than 2, also when the share
///   changes in between.
///
/// Where a request lies across the end of a stratum the choice is that of J. R. Chromy ("Sequential sample selection
/// methods", 1979): after each request the number chosen is the sum, rounded down or up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How far the sum is into its stratum, in hundredths of a percent, below one whole request.
    position: u16,
    /// Whether this stratum's request has been chosen.
    has_chosen: bool,
    draws: Draws,
}

/// Where a worker's rotations begin. Two that differ in any part have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

/// Random numbers: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), which
/// passes BigCrush and has eight bytes of state. Nothing here is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draws(u64);

const WHOLE: u16 = Percent::ALL.hundredths();

// === impl Seed ===

impl Seed {
    /// The seed of a deployment on a worker: the instance differs by worker, the time by process and configuration.
    pub fn new(worker: Instance, unix_nanos: u64, deployment: &DeploymentName) -> Self {
        let mut parts = Vec::with_capacity(80);
        parts.extend_from_slice(&worker.get().to_be_bytes());
        parts.extend_from_slice(&unix_nanos.to_be_bytes());
        parts.extend_from_slice(deployment.as_str().as_bytes());
        Self(xxh64(&parts, 0))
    }

    /// The seed of one of the worker's rotations: the canary's, the copies'.
    pub fn of_use(self, name: &str) -> Self {
        Self(xxh64(name.as_bytes(), self.0))
    }
}

// === impl Rotation ===

impl Rotation {
    /// Begins anywhere.
    pub fn new(Seed(seed): Seed) -> Self {
        let mut draws = Draws(seed);
        let position = draws.below(WHOLE);
        let has_chosen = draws.below(WHOLE) < position;
        Self { position, has_chosen, draws }
    }

    /// Whether the next request is chosen.
    pub fn choose(&mut self, share: Percent) -> bool {
        let share = share.hundredths();
        let before = self.position;
        let left = WHOLE.saturating_sub(before);
        if share < left {
            self.position = before.saturating_add(share);
            // What has not been chosen up to here is chosen with an equal chance anywhere in what is left.
            let is_chosen = !self.has_chosen && self.draws.below(left) < share;
            self.has_chosen |= is_chosen;
            is_chosen
        } else {
            self.position = share.saturating_sub(left);
            // Its first part ends a stratum. If that one's request is still to come, it is this. If not, its second part
            // may be chosen for the next stratum.
            let for_next = self.has_chosen && self.draws.below(before) < self.position;
            let is_chosen = !self.has_chosen || for_next;
            self.has_chosen = for_next;
            is_chosen
        }
    }
}

// === impl Draws ===

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, each with the same chance to 1 in 10^5 of it; 0 where nothing is below.
    fn below(&mut self, limit: u16) -> u16 {
        let scaled = (self.next() >> 32).wrapping_mul(u64::from(limit)) >> 32;
        u16::try_from(scaled).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::testing::{MemoryStore, iris, percent};

    fn rotation(seed: u64) -> Rotation {
        Rotation::new(Seed(seed).of_use("test"))
    }

    /// The most that a run of requests is off by: its error is the difference of two errors from the start.
    fn worst_run(rotation: &mut Rotation, shares: impl Iterator<Item = Percent>) -> i64 {
        let (mut ahead, mut most, mut least) = (0_i64, 0, 0);
        for share in shares {
            let gained = if rotation.choose(share) { i64::from(WHOLE) } else { 0 };
            ahead += gained - i64::from(share.hundredths());
            (most, least) = (ahead.max(most), ahead.min(least));
        }
        most - least
    }

    #[test]
    fn zero_is_none_and_a_hundred_is_all_whatever_came_before() {
        for seed in 0..200 {
            for before in ["0.01", "33.33", "99.99"] {
                let mut rotation = rotation(seed);
                for _ in 0..seed {
                    rotation.choose(percent(before));
                }
                assert!((0..200).all(|_| !rotation.choose(Percent::ZERO)));
                assert!((0..200).all(|_| rotation.choose(Percent::ALL)));
            }
        }
    }

    #[test]
    fn every_share_is_off_by_less_than_two_over_every_run() {
        for hundredths in 0..=WHOLE {
            let share = Percent::from_hundredths(hundredths).expect("in range");
            let worst = worst_run(&mut rotation(u64::from(hundredths)), std::iter::repeat_n(share, 1_000));
            assert!(worst < 2 * i64::from(WHOLE), "{share} %: off by {worst} hundredths of a percent");
        }
    }

    #[test]
    fn the_candidate_never_waits_for_two_times_the_requests_that_one_takes() {
        let mut rotation = rotation(7);
        let chosen: Vec<usize> = (0..100_000).filter(|_| rotation.choose(percent("1"))).collect();
        assert!(chosen.windows(2).all(|pair| pair[1] - pair[0] < 200));
        // And the places are drawn: no gap is much more frequent than others.
        let gaps: std::collections::BTreeSet<usize> = chosen.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.len() > 150, "{} different gaps", gaps.len());
    }

    #[test]
    fn the_first_request_of_a_worker_is_chosen_as_often_as_any_other() {
        let share = percent("30");
        let workers = 20_000_u32;
        for nth in [0, 1, 2, 5] {
            let is_nth_chosen = |worker: &u32| {
                let mut rotation = rotation(u64::from(*worker));
                (0..nth).for_each(|_| _ = rotation.choose(share));
                rotation.choose(share)
            };
            let chosen = (0..workers).filter(is_nth_chosen).count() as f64;
            // Five standard deviations of independent draws: √(20,000 × 0.3 × 0.7) = 65.
            assert!((chosen - 6_000.0).abs() < 325.0, "{chosen} of {workers} at {nth}");
        }
    }

    /// A worker's error over a run is that of its end less that of its begin. Each is a rounding down or up of a place
    /// anywhere in a stratum, with a variance of ∫f(1−f)df = 1/6; so 16 workers have a standard deviation of
    /// √(16 × 2/6) = 2.3 requests.
    #[test]
    fn a_canary_of_one_percent_on_16_workers_gets_its_share_of_1_000_requests() {
        let share = percent("1");
        let counts: Vec<u32> = (0..1_000_u64)
            .map(|trial| {
                let mut workers: Vec<Rotation> = (0..16).map(|worker| rotation(trial * 16 + worker)).collect();
                // Connections do not spread evenly.
                let mut draws = Draws(trial);
                (0..1_000).map(|_| u32::from(workers[usize::from(draws.below(16))].choose(share))).sum()
            })
            .collect();
        let mean = f64::from(counts.iter().sum::<u32>()) / 1_000.0;
        // Five standard deviations of the mean of 1,000 trials: 5 × 2.3 / √1,000 = 0.37.
        assert!((mean - 10.0).abs() < 0.37, "{mean} on average");
        // Ten is 2.8 standard deviations from 3.5, and 3.7 from 18.5: about 3 trials of 1,000 are out.
        let out = counts.iter().filter(|count| !(4..=18).contains(*count)).count();
        assert!(out <= 12, "{out} of 1,000 trials");
        assert!(!counts.contains(&0));
    }

    #[test]
    fn small_shares_meet_no_round_period_of_the_traffic() {
        for (share, period) in [("1", 100), ("1", 50), ("1", 25), ("10", 10), ("10", 20), ("25", 4), ("50", 2)] {
            ensure_each_phase(percent(share), 1, period, 1_000_000, 1);
        }
    }

    /// Sends traffic of this period through so many workers by turns, and compares each phase's share. A phase has at
    /// most three times the variance of independent draws (its own, and that of what is drawn in the stratum before and
    /// after), and six standard deviations are never exceeded by chance.
    fn ensure_each_phase(share: Percent, workers: usize, period: usize, requests: usize, seed: u64) {
        let mut rotations: Vec<Rotation> =
            (0..workers).map(|worker| rotation(seed ^ ((worker as u64) << 48))).collect();
        let mut chosen = vec![0_u32; period];
        for request in 0..requests {
            if rotations[request % workers].choose(share) {
                chosen[request % period] += 1;
            }
        }
        let (p, each) = (f64::from(share.hundredths()) / 10_000.0, (requests / period) as f64);
        let tolerance = 6.0 * (3.0 * each * p * (1.0 - p)).sqrt() + 2.0;
        for (phase, chosen) in chosen.into_iter().enumerate() {
            let off = (f64::from(chosen) - each * p).abs();
            assert!(off <= tolerance, "{share} %, {workers} workers, phase {phase} of {period}: {chosen} of {each}");
        }
    }

    #[test]
    fn workers_deployments_and_uses_have_seeds_of_their_own() {
        let store = MemoryStore::default();
        let [first, second] = [0, 1].map(|_| Instance::register(&store, Timestamp::default()));
        let other = DeploymentName::new("rose").expect("valid");
        let seeds = [
            Seed::new(first, 1, &iris()),
            Seed::new(second, 1, &iris()),
            Seed::new(first, 2, &iris()),
            Seed::new(first, 1, &other),
            Seed::new(first, 1, &iris()).of_use("canary"),
            Seed::new(first, 1, &iris()).of_use("shadow"),
        ];
        let distinct: std::collections::BTreeSet<u64> = seeds.iter().map(|seed| seed.0).collect();
        assert_eq!(distinct.len(), seeds.len());
        assert_eq!(seeds[0], Seed::new(first, 1, &iris()));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn share() -> impl Strategy<Value = Percent> {
            (0..=WHOLE).prop_map(|share| Percent::from_hundredths(share).expect("in range"))
        }

        proptest! {
            #[test]
            fn every_run_is_off_by_less_than_two_while_the_share_changes(
                seed: u64,
                stretches in prop::collection::vec((share(), 1..500_usize), 1..20),
            ) {
                let shares = stretches.into_iter().flat_map(|(share, run)| std::iter::repeat_n(share, run));
                let worst = worst_run(&mut rotation(seed), shares);
                prop_assert!(worst < 2 * i64::from(WHOLE), "off by {worst} hundredths of a percent");
            }

            #[test]
            fn a_share_that_changes_with_each_request_is_off_by_less_than_two(
                seed: u64,
                shares in prop::collection::vec(share(), 1..2_000),
            ) {
                let worst = worst_run(&mut rotation(seed), shares.into_iter());
                prop_assert!(worst < 2 * i64::from(WHOLE), "off by {worst} hundredths of a percent");
            }
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(64))]

            #[test]
            fn every_phase_of_periodic_traffic_gets_the_share(
                share in share(), workers in 1..=16_usize, period in 2..=50_usize, seed: u64,
            ) {
                ensure_each_phase(share, workers, period, 1_200 * period, seed);
            }
        }
    }
}
