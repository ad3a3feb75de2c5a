//! The limit on the error rate: no test, but a line that is not crossed.

use serde::Serialize;

use super::outcomes::Block;
use crate::config::ErrorRule;
use crate::json::FromJson;

/// The last answers, from the oldest to the newest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, FromJson)]
#[serde(transparent)]
pub struct LastAnswers(Vec<Block>);

/// The limit looks at the last `after` answers, at this many times as many, and at all between; at more where the other colour
/// has so few that they tell nothing.
const TIMES: u64 = 5;
/// So many pieces make up `after` answers.
const PIECES: u64 = 10;
/// So many answers of the other colour are needed to say that it does better, or `after` if that is less.
const LEAST_OF_OTHER: u64 = 10;
/// The limit is reached by chance less than once in ten million looks: ln 10,000,000.
const NO_CHANCE: f64 = 16.12;
/// So many pieces are kept, however few answers are in them.
const MOST: usize = 256;

fn least_of_other(rule: ErrorRule) -> u64 {
    rule.after.min(LEAST_OF_OTHER)
}

/// How unlikely it is that so many of the bad outcomes are the candidate's, or more, if chance dealt them out: the probability
/// is at most the exponential of minus this. However they came, one by one or in an outage of both, only that is asked.
///
/// Hoeffding's bound for sampling without replacement ("Probability inequalities for sums of bounded random variables", Journal of
/// the American Statistical Association 58, 1963), of which the best of four is taken: the bad ones, the good ones, the candidate's
/// and the other's outcomes are each a sample of all.
fn nats(Block { active, candidate }: Block) -> f64 {
    let all = candidate.and(active);
    let samples = [
        (candidate.bad, all.bad, candidate.total),
        (active.good(), all.good(), active.total),
        (candidate.bad, candidate.total, all.bad),
        (active.good(), active.total, all.good()),
    ];
    samples
        .map(|(hits, of, expected)| excess(hits, of, expected as f64 / all.total as f64))
        .into_iter()
        .fold(0.0, f64::max)
}

/// The same for a sample with so many hits, each of which was expected with a probability.
fn excess(hits: u64, of: u64, expected: f64) -> f64 {
    let rate = hits as f64 / of as f64;
    if of == 0 || rate <= expected {
        return 0.0;
    }
    let part = |seen: f64, against: f64| if seen > 0.0 { seen * (seen / against).ln() } else { 0.0 };
    of as f64 * (part(rate, expected) + part(1.0 - rate, 1.0 - expected))
}

// === impl LastAnswers ===

impl LastAnswers {
    /// Adds answers.
    pub fn add(&mut self, block: Block, rule: ErrorRule) {
        if block == Block::default() {
            return;
        }
        let piece = rule.after.div_ceil(PIECES);
        match self.0.last_mut() {
            Some(newest) if newest.candidate.total < piece => *newest = newest.and(block),
            _ => self.0.push(block),
        }
        let most = rule.after.saturating_mul(TIMES);
        let mut newest = Block::default();
        let enough = |sum: Block| sum.candidate.total >= most && sum.active.total >= least_of_other(rule);
        let kept = self.0.iter().rev().take(MOST).take_while(|piece| {
            let is_wanted = !enough(newest);
            newest = newest.and(**piece);
            is_wanted
        });
        let kept = kept.count();
        self.0.drain(..self.0.len().saturating_sub(kept));
    }

    /// The answers with which the watched colour (the blocks' candidate) is at the limit, while the other colour beside it is not
    /// even half way there: when both fail, neither is to blame. `is_alone` is whether the other gets no requests.
    pub fn beyond(&self, rule: ErrorRule, is_alone: bool) -> Option<Block> {
        let limit = rule.max_rate?;
        let most = rule.after.saturating_mul(TIMES);
        let (mut sum, mut stratum) = (Block::default(), Block::default());
        // How many would have been bad at the rates that the other colour had at the same time. Its rate over all of them could
        // come from a time in which the watched one had next to no requests.
        let mut beside = 0.0;
        for piece in self.0.iter().rev() {
            stratum = stratum.and(*piece);
            if let Some(rate) = stratum.active.share() {
                beside += rate * stratum.candidate.total as f64;
            } else if !is_alone {
                continue;
            }
            sum = sum.and(std::mem::take(&mut stratum));
            let is_known = sum.active.total >= least_of_other(rule);
            if sum.candidate.total < rule.after || !(is_known || is_alone) {
                continue;
            }
            let is_bad = sum.candidate.share().is_some_and(|rate| rate >= limit);
            let is_better = beside < 0.5 * limit * sum.candidate.total as f64;
            // A window of answers is looked at again and again, so chance alone fills one now and then.
            if is_bad && is_better && (!is_known || nats(sum) >= NO_CHANCE) {
                return Some(sum);
            }
            if sum.candidate.total >= most {
                break;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::outcomes::Outcomes;

    const RULE: ErrorRule =
        ErrorRule { max_increase: 0.0, max_rate: Some(0.2), after: 50, count_4xx: false, count_retries: true };

    fn block((active, active_bad): (u64, u64), (candidate, bad): (u64, u64)) -> Block {
        Block { active: Outcomes::new(active, active_bad), candidate: Outcomes::new(candidate, bad) }
    }

    fn after(pieces: &[(u64, Block)]) -> LastAnswers {
        let mut answers = LastAnswers::default();
        for (times, block) in pieces {
            (0..*times).for_each(|_| answers.add(*block, RULE));
        }
        answers
    }

    #[test]
    fn the_limit_is_reached_by_enough_answers_if_the_other_colour_is_known_to_do_better() {
        let cases = [
            ("too few", after(&[(49, block((9, 0), (1, 1)))]), false),
            ("enough", after(&[(50, block((9, 0), (1, 1)))]), true),
            ("below", after(&[(50, block((9, 0), (5, 0))), (9, block((9, 0), (1, 1)))]), false),
            ("both", after(&[(50, block((9, 1), (1, 1)))]), false),
            ("the other is not known", after(&[(1, block((9, 0), (50, 50)))]), false),
        ];
        for (case, answers, expected) in cases {
            assert_eq!(answers.beyond(RULE, false).is_some(), expected, "{case}");
        }
    }

    #[test]
    fn where_the_other_colour_has_few_requests_it_is_compared_over_a_longer_time() {
        // After a promotion: two of a hundred are the former colour's. Everything fails for half a second.
        let healthy = (200, block((1, 0), (49, 0)));
        let blip = after(&[healthy, (1, block((0, 0), (49, 49)))]);
        assert!(blip.beyond(RULE, false).is_none());
        let blip = after(&[healthy, (1, block((1, 1), (49, 49)))]);
        assert!(blip.beyond(RULE, false).is_none());
        let dead = after(&[healthy, (10, block((1, 0), (49, 49)))]);
        assert!(dead.beyond(RULE, false).is_some());
    }

    #[test]
    fn a_long_healthy_time_before_does_not_hide_a_fault() {
        let answers = after(&[(10_000, block((9, 0), (1, 0))), (60, block((9, 0), (1, 1)))]);
        assert!(answers.beyond(RULE, false).is_some());
        assert!(answers.0.len() < 60, "{}", answers.0.len());
    }

    #[test]
    fn chance_alone_reaches_no_limit() {
        // Both fail one in twenty, and the candidate has had bad luck: one in five of fifty.
        let healthy = (60, block((180, 9), (20, 1)));
        let answers = after(&[healthy, (10, block((45, 2), (5, 1)))]);
        assert!(answers.beyond(RULE, false).is_none());
        let answers = after(&[healthy, (10, block((45, 2), (5, 3)))]);
        assert!(answers.beyond(RULE, false).is_some());
    }

    #[test]
    fn the_bound_is_above_the_chance_and_not_far() {
        let choose = |n: u64, k: u64| (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product::<f64>();
        for (active, bad_active, candidate, bad) in
            [(90, 1, 10, 6), (10, 0, 490, 490), (50, 2, 50, 25), (300, 3, 30, 12)]
        {
            let (all, all_bad) = (active + candidate, bad_active + bad);
            let ways = |hits: u64| choose(candidate, hits) * choose(active, all_bad - hits) / choose(all, all_bad);
            let chance: f64 = (bad..=all_bad.min(candidate)).map(ways).sum();
            let bound = nats(block((active, bad_active), (candidate, bad)));
            assert!(-chance.ln() >= bound && bound > -0.6 * chance.ln(), "{chance}: {bound}");
        }
    }

    #[test]
    fn an_outage_of_both_that_begins_as_the_share_grows_is_nobodys() {
        // At one percent, and then at half.
        let answers = after(&[(60, block((99, 0), (1, 0))), (6, block((5, 5), (5, 5)))]);
        assert!(answers.beyond(RULE, false).is_none());
    }

    #[test]
    fn a_slow_fault_shows_in_five_times_as_many() {
        // A fifth and a little more, spread so that no fifty in a row reach it at once is no matter: 250 do.
        let answers = after(&[(60, block((90, 0), (5, 1)))]);
        assert!(answers.beyond(RULE, false).is_some());
    }

    #[test]
    fn where_the_other_colour_gets_nothing_the_limit_stands_alone() {
        let answers = after(&[(60, block((0, 0), (1, 1)))]);
        assert!(answers.beyond(RULE, true).is_some() && answers.beyond(RULE, false).is_none());
    }
}
