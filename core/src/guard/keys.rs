//! The bet where keys are shared out and not requests: whose first failure comes next?
//!
//! With stickiness a user's requests all go where the user goes, so a thousand failures of one user are one fact. And which
//! users are on the candidate was drawn, by a hash that knows nothing of them. So let each key count once, at its first failure:
//! if the colour makes no difference, that key is on the candidate with the probability `p` that is the candidate's share at
//! that moment, whatever the others did before. (That a key has not failed yet says nothing about where it is.) If keys on the
//! candidate have `ψ` times the odds of failing, about `ψ` times as many of the first failures are there, and that player's
//! factors are
//!
//! ```text
//! E = ψ / (1 - p + ψ p)  on the candidate,      1 / (1 - p + ψ p)  on the active colour,
//! ```
//!
//! whose mean is 1. The keys are remembered by a hash, in a set of [`Slot::COUNT`] places: those that share one are taken for
//! one, which changes nothing in the argument.
//!
//! When half of the places are taken, there is little left to see. Then an *era* ends: its capital stays as it is, and a new one
//! begins with an empty set and a new capital. The same users may fail again in it, so the capitals of eras must not be
//! multiplied. They are averaged, with weights that were fixed before: the first era has 9 tenths, the others what is left.

use serde::Serialize;

use super::capital::{ODDS_RATIOS, PLAYERS};
use crate::json::FromJson;
use crate::metrics::cohorts::Slot;

/// The keys that have failed in this era, and what earlier ones came to.
#[derive(Clone, Debug, PartialEq, Serialize, FromJson)]
pub struct Keys {
    failed: Vec<u64>,
    /// How many places are taken.
    taken: usize,
    /// The number of this era, from 1; 0 as long as no key was seen.
    era: u32,
    /// What the capitals of earlier eras came to, each with its weight.
    earlier: f64,
}

/// The weight of the first era.
const FIRST: f64 = 0.9;

// === impl Keys ===

impl Keys {
    /// Whether this is the first failure of a key. It is not from now on.
    pub fn is_first(&mut self, key: Slot) -> bool {
        if self.failed.is_empty() {
            self.failed.resize(Slot::COUNT.div_ceil(64), 0);
        }
        self.era = self.era.max(1);
        let (word, bit) = (key.index() / 64, 1_u64 << (key.index() % 64));
        match self.failed.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                self.taken = self.taken.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// Whether the era is at its end.
    pub const fn is_full(&self) -> bool {
        self.taken.saturating_mul(2) >= Slot::COUNT
    }

    /// Begins another era. What is kept of the one that ends is its capital.
    pub fn begin_era(&mut self, capital: f64) {
        self.earlier += self.weight() * capital;
        self.era = self.era.saturating_add(1);
        self.failed.clear();
        self.taken = 0;
    }

    /// The e-value of all eras, where this one's capital is `capital`.
    pub fn e_value(&self, capital: f64) -> f64 {
        self.earlier + self.weight() * capital
    }

    /// The weights of all eras add up to 1.
    fn weight(&self) -> f64 {
        match self.era {
            0 => 1.0,
            1 => FIRST,
            era => {
                let era = f64::from(era);
                (1.0 - FIRST) / (era * (era - 1.0))
            }
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { failed: Vec::new(), taken: 0, era: 0, earlier: 0.0 }
    }
}

/// The logarithm of each player's factor for a first failure. `share` is the watched colour's share of the keys, and `allowed`
/// the odds ratio that it is allowed, 1 or more.
pub fn ln_factors(is_watched: bool, share: f64, allowed: f64) -> [f64; PLAYERS] {
    let p = share * allowed / (1.0 - share + share * allowed);
    if p <= 0.0 || p >= 1.0 {
        return [0.0; PLAYERS];
    }
    ODDS_RATIOS.map(|odds| {
        let won = if is_watched { odds.ln() } else { 0.0 };
        won - (1.0 - p + odds * p).ln()
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_mean_factor_is_one_if_the_colours_are_alike_and_less_within_what_is_allowed() {
        for share in [0.01, 0.1, 0.5, 0.98] {
            for allowed in [1.0, 1.5, 3.0] {
                let [watched, other] = [true, false].map(|is_watched| ln_factors(is_watched, share, allowed));
                for (watched, other) in watched.iter().zip(other) {
                    let mean = |p: f64| p * watched.exp() + (1.0 - p) * other.exp();
                    let worst = share * allowed / (1.0 - share + share * allowed);
                    assert!((mean(worst) - 1.0).abs() < 1e-12, "{share} {allowed}");
                    assert!(mean(0.9 * worst) < 1.0, "{share} {allowed}");
                }
            }
        }
    }

    #[test]
    fn where_all_or_no_keys_are_on_the_candidate_nothing_is_learned() {
        for share in [0.0, 1.0] {
            assert_eq!(ln_factors(true, share, 1.0), [0.0; PLAYERS]);
        }
    }

    #[test]
    fn a_key_fails_for_the_first_time_once_an_era() {
        let mut keys = Keys::default();
        let slot = |number: u64| Slot::of(number << 52);
        assert!(keys.is_first(slot(7)) && !keys.is_first(slot(7)) && keys.is_first(slot(8)));
        for number in 0..2_048 {
            keys.is_first(slot(number));
        }
        assert!(keys.is_full());
        keys.begin_era(1.0);
        assert!(!keys.is_full() && keys.is_first(slot(7)));
    }

    #[test]
    fn the_weights_of_all_eras_add_up_to_one() {
        let mut keys = Keys::default();
        assert!((keys.e_value(1.0) - 1.0).abs() < 1e-12);
        keys.is_first(Slot::of(0));
        for _ in 0..100_000 {
            // A capital that neither wins nor loses.
            keys.begin_era(1.0);
        }
        assert!((0.999..=1.0).contains(&keys.e_value(0.0)), "{}", keys.e_value(0.0));
    }
}
