//! The sequential test of one rule: takes evidence as it comes, and says at any time how much speaks against the watched
//! colour.

use serde::Serialize;

use super::bursts::Bursts;
use super::capital::Capital;
use super::evidence::{Evidence, Test};
use super::keys::{self, Keys};
use super::outcomes::{Block, Outcomes};
use super::strata::{Piece, Strata};
use super::{margin, odds};
use crate::json::FromJson;
use crate::metrics::cohorts::{Epoch, Host};
use crate::model::colour::Colour;

/// A test under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct SequentialTest {
    capital: Capital,
    keys: Keys,
    bursts: Bursts,
    /// The largest e-value that there ever was.
    peak: f64,
    /// What the watched colour has done worse up to now, and up to the moment of the peak.
    running: Excess,
    at_peak: Excess,
    strata: Strata,
    /// The other colour's recent outcomes before them.
    recent: Recent,
}

/// Bad outcomes of the watched colour beside those that were due: its part of the bad ones of both, by the number of requests
/// or keys, and what it is allowed beyond that.
///
/// Counted since the watched colour last was no worse in sum: rates over the whole canary can say the opposite of the capital,
/// when the share changed while the rate of both did, or when a fault began late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Excess {
    /// Outcomes of the watched colour.
    pub outcomes: u64,
    /// Bad ones.
    pub bad: u64,
    /// How many of them were due.
    pub due: f64,
}

/// A rate that forgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Recent {
    total: f64,
    bad: f64,
}

/// About how many outcomes make up what is recent.
const MEMORY: f64 = 2_000.0;

// === impl SequentialTest ===

impl SequentialTest {
    /// Takes the evidence of an epoch about the `watched` colour, under the margin `delta` (0 or more, below 1). Where keys are
    /// shared out, it has this `share` of them (0 to 1).
    ///
    /// It comes in the order in which the requests began. When it comes, and how it is cut, may depend on how many they
    /// were, and not on what became of them. Gives the number of bad units that are not credited to the watched colour, since
    /// one host may be behind them.
    pub fn observe(&mut self, delta: f64, evidence: &Evidence, (watched, share): (Colour, f64)) -> u64 {
        let asked = evidence.hosts.iter().filter(|(colour, ..)| *colour == watched);
        self.bursts.asked(evidence.epoch, asked.clone().map(|(_, host, _)| *host));
        let bad: Vec<(Host, u64)> = asked.map(|(_, host, bad)| (*host, *bad)).filter(|(_, bad)| *bad > 0).collect();
        let not_credited = self.bursts.surplus(evidence.epoch, &bad);
        // Nobody says which hosts gave slow answers.
        let is_unknown = matches!(evidence.test, Test::Slow(_)) || bad.iter().any(|(host, _)| *host == Host::default());
        let piece = Piece {
            block: Block { active: *evidence.units.get(watched.other()), candidate: *evidence.units.get(watched) },
            surplus: not_credited,
            is_limited: is_unknown || self.bursts.is_single(),
        };
        for piece in self.strata.add(evidence.epoch, evidence.revision, piece).into_iter().flatten() {
            self.play(delta, piece, evidence.epoch);
        }
        self.observe_keys(delta, evidence, (watched, share));
        not_credited
    }

    fn play(&mut self, delta: f64, Piece { block, surplus, is_limited }: Piece, epoch: Epoch) {
        let surplus = surplus.min(block.candidate.bad);
        let rate = self.recent.rate();
        let ln_factors =
            |block| if delta > 0.0 { margin::ln_factors(block, delta, rate) } else { odds::ln_factors(block) };
        let mut factors = ln_factors(block);
        if surplus > 0 {
            let credited = Outcomes {
                total: block.candidate.total.saturating_sub(surplus),
                bad: block.candidate.bad.saturating_sub(surplus),
            };
            let less = ln_factors(Block { candidate: credited, ..block });
            for (factor, less) in factors.iter_mut().zip(less) {
                // Nothing that is held back may turn a loss into a gain.
                *factor = factor.min(less);
            }
        }
        self.capital.play(block.candidate.total, &factors, is_limited.then_some(epoch));
        let due = if delta > 0.0 {
            (block.active.share().unwrap_or_default() + delta) * block.candidate.total as f64
        } else {
            let all = block.candidate.and(block.active);
            all.share().unwrap_or_default() * block.candidate.total as f64
        };
        self.weigh(block.candidate, due);
        self.recent.add(block.active);
    }

    /// Plays the first failures of keys.
    fn observe_keys(&mut self, delta: f64, evidence: &Evidence, (watched, share): (Colour, f64)) {
        // What cannot be won is not played for, whichever colour the keys are on: each counts once, and there is a next window.
        if evidence.keys.is_empty() || self.capital.is_at_limit(evidence.epoch) {
            return;
        }
        let allowed = self.recent.allowed_odds(delta);
        for (colour, key, host) in &evidence.keys {
            if !self.keys.is_first(*key) {
                continue;
            }
            let is_watched = *colour == watched;
            let mut limited_at = None;
            if is_watched {
                if self.bursts.surplus(evidence.epoch, &[(*host, 1)]) > 0 {
                    continue;
                }
                limited_at = (*host == Host::default() || self.bursts.is_single()).then_some(evidence.epoch);
            }
            self.capital.play(u64::from(is_watched), &keys::ln_factors(is_watched, share, allowed), limited_at);
            let outcomes = if is_watched { Outcomes::new(1, 1) } else { Outcomes::default() };
            self.weigh(outcomes, share * allowed / (1.0 - share + share * allowed));
            if self.keys.is_full() {
                self.keys.begin_era(self.capital.total());
                self.capital = Capital::default();
            }
        }
        self.recent.add(*evidence.all.get(watched.other()));
    }

    /// Takes note of outcomes that were played, of which so many were `due` to be bad.
    fn weigh(&mut self, outcomes: Outcomes, due: f64) {
        self.running.add(outcomes, due);
        if self.now() > self.peak {
            self.peak = self.now();
            self.at_peak = self.running;
        }
    }

    /// The clock was set: what happened in the last seconds is not known any more to have been then.
    pub fn on_clock_set(&mut self) {
        self.bursts = Bursts::default();
        self.capital.end_window();
    }

    /// How many bad outcomes there were, and how many were due, where the largest e-value comes from.
    pub const fn excess(&self) -> Excess {
        self.at_peak
    }

    /// The e-value as it stands.
    pub fn now(&self) -> f64 {
        self.keys.e_value(self.capital.total())
    }

    /// The largest e-value so far, 1 at least.
    ///
    /// As long as the watched colour is within the margin, the chance that this ever reaches `1/α` is at most `α`.
    pub fn e_value(&self) -> f64 {
        self.peak.max(1.0)
    }
}

// === impl Excess ===

impl Excess {
    fn add(&mut self, outcomes: Outcomes, due: f64) {
        self.outcomes = self.outcomes.saturating_add(outcomes.total);
        self.bad = self.bad.saturating_add(outcomes.bad);
        self.due += due;
        if self.bad as f64 <= self.due {
            *self = Self::default();
        }
    }
}

// === impl Recent ===

impl Recent {
    /// Never 0 and never 1: half an outcome of each kind is imagined before all others.
    pub fn rate(self) -> f64 {
        (self.bad + 0.5) / (self.total + 1.0)
    }

    /// Adds outcomes that are more recent.
    pub fn add(&mut self, outcomes: Outcomes) {
        let kept = (MEMORY / (MEMORY + outcomes.total as f64)).min(1.0);
        self.total = self.total * kept + outcomes.total as f64;
        self.bad = self.bad * kept + outcomes.bad as f64;
    }

    /// The odds ratio that `delta` points more come to at this rate.
    fn allowed_odds(self, delta: f64) -> f64 {
        let odds = |rate: f64| rate / (1.0 - rate);
        if delta > 0.0 { odds((self.rate() + delta).min(0.999_999)) / odds(self.rate()) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::evidence::{Test, evidence};
    use crate::metrics::cohorts::Slot;
    use crate::testing::Chance;

    const GREEN: (Colour, f64) = (Colour::Green, 0.1);

    fn of(chance: &mut Chance, total: u64, rate: f64) -> Outcomes {
        Outcomes::new(total, chance.count(total, rate))
    }

    /// The mean e-value after so many epochs, over so many canaries, each of which is played by `epoch`.
    fn mean(canaries: u64, epochs: u64, mut epoch: impl FnMut(&mut SequentialTest, u64, &mut Chance)) -> f64 {
        let sum: f64 = (0..canaries)
            .map(|canary| {
                let (mut test, mut chance) = (SequentialTest::default(), Chance::new(canary));
                (0..epochs).for_each(|number| epoch(&mut test, number, &mut chance));
                test.now()
            })
            .sum();
        sum / canaries as f64
    }

    /// The capital's distribution has a long tail, so the mean of a sample is off by a few hundredths.
    const FAIR: f64 = 1.1;

    #[test]
    fn the_mean_of_the_e_value_is_at_most_one_if_the_colours_are_alike() {
        // The rate of both rises and falls.
        let rate = |number: u64| if number.is_multiple_of(3) { 0.2 } else { 0.02 };
        let requests = mean(6_000, 6, |test, number, chance| {
            let (blue, green) = (of(chance, 20, rate(number)), of(chance, 3, rate(number)));
            test.observe(0.0, &evidence(Test::Error, number, blue, green), GREEN);
        });
        assert!((0.8..FAIR).contains(&requests), "{requests}");
        let limited = mean(6_000, 6, |test, number, chance| {
            let (blue, green) = (of(chance, 20, rate(number)), of(chance, 3, rate(number)));
            test.observe(0.0, &evidence(Test::Slow(0), number, blue, green), GREEN);
        });
        assert!(limited < FAIR, "{limited}");
        let margin = mean(6_000, 6, |test, number, chance| {
            let (blue, green) = (of(chance, 20, 0.02), of(chance, 3, 0.07));
            test.observe(0.05, &evidence(Test::Unanswered, number, blue, green), GREEN);
        });
        assert!(margin < FAIR, "{margin}");
        let keys = mean(6_000, 6, |test, number, chance| {
            let mut piece = evidence(Test::Error, number, Outcomes::default(), Outcomes::default());
            // A user who fails does so again and again.
            for _ in 0..2 {
                let key = (chance.next_number() * 300.0) as u64;
                let colour = if chance.is_drawn(key, 0.1) { Colour::Green } else { Colour::Blue };
                piece.keys.push((colour, Slot::of(key << 52), Host(1 + (key % 10) as u16)));
            }
            test.observe(0.0, &piece, GREEN);
        });
        assert!(keys < FAIR, "{keys}");
        let single = mean(3_000, 60, |test, number, chance| {
            let mut piece = evidence(Test::Error, number, Outcomes::default(), Outcomes::default());
            piece.hosts = vec![(Colour::Green, Host(1), 0)];
            for _ in 0..3 {
                let key = (chance.next_number() * 300.0) as u64;
                let colour = if chance.is_drawn(key, 0.5) { Colour::Green } else { Colour::Blue };
                piece.keys.push((colour, Slot::of(key << 52), Host(1)));
            }
            test.observe(0.0, &piece, (Colour::Green, 0.5));
        });
        assert!(single < FAIR, "{single}");
    }

    /// A canary in which a fifth of green's requests fail, on two hosts in turns or on one of the two.
    fn failing(hosts: [u16; 2], seconds: u64) -> f64 {
        let mut test = SequentialTest::default();
        for number in 0..4 * seconds {
            let bad = u64::from(number % 2 == 0);
            let mut piece = evidence(Test::Error, number, Outcomes::new(22, 0), Outcomes::new(3, bad));
            piece.hosts = vec![
                (Colour::Green, Host(1), 0),
                (Colour::Green, Host(2), 0),
                (Colour::Green, Host(hosts[number as usize / 2 % 2]), bad),
            ];
            test.observe(0.0, &piece, GREEN);
        }
        test.e_value()
    }

    #[test]
    fn what_one_host_of_two_does_for_three_seconds_ends_nothing_and_what_both_do_is_found_at_once() {
        assert!(failing([1, 1], 3) < 12.0, "{}", failing([1, 1], 3));
        assert!(failing([1, 2], 4) > 200.0, "{}", failing([1, 2], 4));
        // And one host that goes on failing is found in time.
        assert!(failing([1, 1], 30) > 200.0, "{}", failing([1, 1], 30));
    }

    #[test]
    fn one_user_who_always_fails_counts_once_and_many_who_fail_count_each() {
        let seen = |users: u64, colour: Colour| {
            let mut test = SequentialTest::default();
            for number in 0..40 {
                let mut piece = evidence(Test::Error, number, Outcomes::default(), Outcomes::default());
                let user = number % users;
                piece.keys.push((colour, Slot::of(user << 52), Host(1 + (user % 10) as u16)));
                test.observe(0.0, &piece, GREEN);
            }
            test.e_value()
        };
        assert!(seen(1, Colour::Green) < 10.0, "{}", seen(1, Colour::Green));
        assert!(seen(10, Colour::Green) > 1_000.0, "{}", seen(10, Colour::Green));
        assert!(seen(10, Colour::Blue) <= 1.0);
    }

    #[test]
    fn a_single_host_that_fails_for_all_of_eighty_users_at_once_is_found() {
        let mut test = SequentialTest::default();
        for number in 0..80 {
            let mut piece = evidence(Test::Error, number, Outcomes::default(), Outcomes::default());
            piece.hosts = vec![(Colour::Green, Host(1), 0)];
            for user in 0..20 {
                let key = Slot::of((number % 4 * 20 + user) << 52);
                piece.keys.push((Colour::Green, key, Host(1)));
            }
            test.observe(0.0, &piece, (Colour::Green, 0.5));
        }
        assert!(test.e_value() > 400.0, "{}", test.e_value());
    }

    #[test]
    fn what_is_told_is_how_many_were_bad_and_how_many_were_due() {
        let mut test = SequentialTest::default();
        for number in 0..10 {
            test.observe(0.0, &evidence(Test::Error, number, Outcomes::new(90, 1), Outcomes::new(10, 1)), GREEN);
        }
        let Excess { outcomes, bad, due } = test.excess();
        assert_eq!((outcomes, bad), (100, 10));
        assert!((due - 2.0).abs() < 1e-9, "{due}");
    }
}
