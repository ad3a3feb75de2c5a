//! Shadow answers, compared: what the active colour and the candidate answer to one and the same request.
//!
//! The filter keeps a sampled request and its answer, and sends the request to the candidate once the client has what it
//! asked for. Models can be noisy: where the two answers disagree, and in a random sample, the active colour is asked once
//! more, and only what it would not have done to itself counts against the candidate.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`dropped`] | why a request was not compared |
//! | [`copy`] | a request and its answer, kept while they go their way |
//! | [`answer`] | an answer, as the values of its fields |
//! | [`compare`] | what differs between two answers |
//! | [`excess`] | whether the candidate disagrees more than the active colour with itself, judged at any time |
//! | [`record`] | what all comparisons of a worker add up to |
//! | [`disagreements`] | the last disagreements, for people to look at |
//! | [`findings`] | all that in the words of the admin API |

pub mod dropped;
pub mod copy;
pub mod answer;
pub mod compare;
pub mod excess;
pub mod record;
pub mod disagreements;
pub mod findings;
