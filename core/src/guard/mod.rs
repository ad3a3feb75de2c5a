//! Whether the candidate does worse than the active colour, judged by evidence that may be looked at any time.
//!
//! Both colours serve at the same time, so their outcomes (error or not, slow or not) are two streams of yes and no. The
//! question is whether the candidate's share of bad outcomes exceeds the active colour's by more than a margin. It is
//! asked after every tick, for as long as a rollout lasts, so an ordinary test would be wrong sooner or later. The tests
//! here are bets instead: a capital of 1 is staked against "the candidate is no worse" in a game that is fair if that is
//! true. Whatever the strategy, the chance that a fair game ever multiplies the capital by 1/α is at most α (Ville's
//! inequality). The capital is the *e-value*.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`outcomes`] | a block of outcomes of both colours, the unit that is bet on |
//! | [`evidence`] | what the cohorts of requests say to each test |
//! | [`odds`] | the bet when the margin is 0: which colour did the block's bad outcomes fall on? |
//! | [`margin`] | the bet with a margin |
//! | [`fixed`] | the bet after a promotion, when there is only one colour left |
//! | [`capital`] | how the capital is spread over sizes and beginnings of a fault |
//! | [`sequential`] | the test that puts these together |
//! | [`interval`] | the interval for a colour's rate that holds at any time |
//! | [`analysis`] | the rules of a deployment over the life of a canary |
//! | [`verdict`] | the same in words |
//!
//! The rules of one deployment share α equally (union bound): with two rules at 99 % each has a threshold of 200.

pub mod outcomes;
pub mod evidence;
pub mod capital;
pub mod fixed;
pub mod interval;
pub mod margin;
pub mod odds;
pub mod sequential;
pub mod analysis;
pub mod verdict;
