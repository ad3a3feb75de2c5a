//! Into which pieces the outcomes are cut that a test bets on.
//!
//! A bet on a block is fair if chance shared out all its requests in the same way. So a block never spans a change of the share,
//! and its end must not depend on what came: a block that ends with the first request of the rarer colour would put that
//! request at its end, perhaps into an outage that has just begun. Blocks lie on a grid of time instead. Where requests are few,
//! they are longer, so that most have both colours; how long, is settled before a block begins, by how many requests there were
//! before. A block with one colour only says nothing.

use serde::Serialize;

use super::outcomes::Block;
use crate::json::FromJson;
use crate::metrics::cohorts::Epoch;
use crate::model::split::Revision;

/// The block under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Strata {
    piece: Piece,
    revision: Revision,
    /// The first epoch after the block; 0 before the first.
    until: u64,
    /// How many epochs it has, a power of two.
    length: u64,
    /// Requests of the rarer colour in an epoch, of late.
    rarer: f64,
}

/// Outcomes, and what is to be known about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, FromJson)]
pub struct Piece {
    /// The outcomes.
    pub block: Block,
    /// How many of the watched colour's bad ones are not credited.
    pub surplus: u64,
    /// Whether it is unknown which hosts gave them, or there is only one.
    pub is_limited: bool,
}

/// The longest block: an hour and some minutes.
const LONGEST: u64 = 1 << 14;
/// What the last block counts in what there was of late.
const NEWEST: f64 = 0.2;

// === impl Strata ===

impl Strata {
    /// Adds what began in an epoch under a revision, and gives the blocks that are at their end: the one before, and the one
    /// that this belongs to.
    pub fn add(&mut self, epoch: Epoch, revision: Revision, piece: Piece) -> [Option<Piece>; 2] {
        let number = epoch.number();
        let mut ended = [None, None];
        if revision != self.revision || number.saturating_add(self.length) < self.until {
            // The share has changed, or the clock was set back.
            self.piece = Piece::default();
            (self.revision, self.until) = (revision, 0);
        } else if self.until > 0 && number >= self.until {
            ended[0] = self.end();
        }
        if self.until == 0 {
            self.length = self.length.clamp(1, LONGEST);
            // On the grid, so that where it ends does not depend on when its first request came.
            let begins = number.saturating_sub(number.checked_rem(self.length).unwrap_or_default());
            self.until = begins.saturating_add(self.length);
        }
        self.piece = self.piece.and(piece);
        if number.saturating_add(1) >= self.until {
            ended[1] = self.end();
        }
        ended
    }

    /// Ends the block, and settles how long the next one is.
    fn end(&mut self) -> Option<Piece> {
        let piece = std::mem::take(&mut self.piece);
        let Block { active, candidate } = piece.block;
        let rate = active.total.min(candidate.total) as f64 / self.length as f64;
        self.rarer += NEWEST * (rate - self.rarer);
        self.until = 0;
        self.length = if self.rarer * (self.length as f64) < 0.5 {
            self.length.saturating_mul(2).min(LONGEST)
        } else if self.rarer * (self.length as f64) > 2.0 {
            (self.length / 2).max(1)
        } else {
            self.length
        };
        piece.block.compares().then_some(piece)
    }
}

// === impl Piece ===

impl Piece {
    const fn and(self, other: Self) -> Self {
        Self {
            block: self.block.and(other.block),
            surplus: self.surplus.saturating_add(other.surplus),
            is_limited: self.is_limited || other.is_limited,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::outcomes::Outcomes;
    use crate::model::time::Timestamp;

    fn at(number: u64) -> Epoch {
        Epoch::of(Timestamp::from_millis(250 * number))
    }

    fn piece(active: u64, candidate: u64) -> Piece {
        let block = Block { active: Outcomes::new(active, 0), candidate: Outcomes::new(candidate, 0) };
        Piece { block, ..Piece::default() }
    }

    /// The blocks that come of so many epochs, of which each has what `of` gives.
    fn blocks(epochs: std::ops::Range<u64>, of: impl Fn(u64) -> (u64, u64)) -> Vec<(u64, u64)> {
        let mut strata = Strata::default();
        let mut ended = Vec::new();
        for number in epochs {
            let (active, candidate) = of(number);
            ended.extend(strata.add(at(number), Revision::ZERO, piece(active, candidate)).into_iter().flatten());
        }
        ended.into_iter().map(|piece| (piece.block.active.total, piece.block.candidate.total)).collect()
    }

    #[test]
    fn with_enough_requests_each_epoch_is_a_block_of_its_own() {
        let all = blocks(1_000..1_100, |_| (22, 3));
        assert!(all.len() > 85 && all.iter().rev().take(50).all(|block| *block == (22, 3)), "{all:?}");
    }

    #[test]
    fn where_one_colour_is_rare_blocks_grow_until_most_have_both_and_no_end_depends_on_what_came() {
        // One in forty epochs has a request of the candidate.
        let all = blocks(0..40_000, |number| (25, u64::from(number % 40 == 7)));
        let found: u64 = all.iter().map(|(_, candidate)| candidate).sum();
        assert!(found > 900, "{found} of 1,000");
        let late = all.last().expect("some");
        assert!(late.0 >= 25 * 32 && late.0 <= 25 * 128, "{late:?}");
        // The candidate's request lies anywhere in its block, so what comes after it in the block is played too.
        assert!(all.iter().all(|(active, _)| active % 25 == 0));
    }

    #[test]
    fn no_block_spans_a_change_of_the_share() {
        let mut strata = Strata { length: 64, rarer: 0.02, ..Strata::default() };
        let [none, also_none] = strata.add(at(64), Revision::ZERO, piece(0, 900));
        assert_eq!((none, also_none), (None, None));
        let ended: Vec<Piece> = (65..200)
            .flat_map(|number| strata.add(at(number), Revision::ZERO.next(), piece(1, 1)).into_iter().flatten())
            .collect();
        assert!(ended.iter().all(|piece| piece.block.active.total == piece.block.candidate.total), "{ended:?}");
        assert!(!ended.is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_begins_a_new_block() {
        let mut strata = Strata { length: 4, rarer: 0.3, ..Strata::default() };
        strata.add(at(10_000), Revision::ZERO, piece(5, 0));
        let ended: Vec<Piece> = (100..140)
            .flat_map(|number| strata.add(at(number), Revision::ZERO, piece(5, 1)).into_iter().flatten())
            .collect();
        assert!(ended.len() > 5, "{ended:?}");
    }
}
