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
//! | [`outcomes`] | outcomes of both colours, good and bad |
//! | [`bounds`] | what is slow, and how long an answer is waited for |
//! | [`evidence`] | what the cohorts of requests say to each test |
//! | [`strata`] | into which pieces the outcomes are cut |
//! | [`capital`] | how the capital is spread over sizes and beginnings of a fault, and what may be won at once |
//! | [`bursts`] | how much of what went wrong may be one host's doing |
//! | [`odds`] | the bet on requests when the margin is 0: which colour did the bad ones fall on? |
//! | [`margin`] | the bet on requests with a margin |
//! | [`keys`] | the bet where keys are shared out: whose first failure comes next? |
//! | [`sequential`] | the test that puts these together |
//! | [`no_worse`] | the bet the other way round, for a rollout that waits until a step has shown enough |
//! | [`rate_limit`] | the limit on the error rate, which is no bet |
//! | [`interval`] | intervals for a rate and for a difference that hold at any time |
//! | [`analysis`] | the rules of a deployment over the life of a canary |
//! | [`verdict`] | the same in words |
//!
//! The rules of one deployment share α: their e-values are averaged, and the mean is compared with 1/α.

pub mod outcomes;
pub mod bounds;
pub mod evidence;
pub mod strata;
pub mod capital;
pub mod bursts;
pub mod odds;
pub mod margin;
pub mod keys;
pub mod sequential;
pub mod no_worse;
pub mod rate_limit;
pub mod interval;
pub mod analysis;
pub mod verdict;
