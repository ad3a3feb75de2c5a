//! What the comparisons say, in the words of the admin API.

use serde::Serialize;

use super::compare::{Measure, STATUS};
use super::dropped::Dropped;
use super::record::{Compared, Confusion, FieldTally, Numbers};
use crate::config::Compare;
use crate::metrics::latency::Histogram;
use crate::model::percent::Percent;
use crate::model::sorted_map::SortedMap;

/// What `GET …/comparison` says under `shadow`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Findings {
    /// Requests whose answers were compared.
    pub compared: u64,
    /// Those of them whose answers disagreed.
    pub disagreed: u64,
    /// The share of the compared requests whose answers agreed, 0 to 1; null before the first.
    pub agreement: Option<f64>,
    /// How often the active colour disagrees with itself.
    pub noise: Noise,
    /// How much more often the candidate disagrees with it.
    pub excess: ExcessFindings,
    /// Requests that were not compared, by reason.
    pub dropped: SortedMap<&'static str, u64>,
    /// What was found in each field.
    pub fields: SortedMap<String, FieldFindings>,
    /// Which labels met, in the field that has them; null without labels.
    pub confusion: Option<Confusion>,
    /// How long both took.
    pub latency: Latencies,
    /// What all this means, in at most 240 bytes.
    pub sentence: String,
}

/// How often the active colour disagrees with itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noise {
    /// Requests of the random sample to which it answered twice.
    pub sampled: u64,
    /// Those of them to which its answers disagreed.
    pub disagreed: u64,
    /// Their share, 0 to 1; null before the first.
    pub rate: Option<f64>,
    /// Requests to which it should have answered twice and did not.
    pub failed: u64,
}

/// How much more often the candidate disagrees with the active colour than that with itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExcessFindings {
    /// As a share of the compared requests, -1 to 1; null before the first.
    pub estimate: Option<f64>,
    /// The lower end of the interval that holds at any time.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The bound that both e-values are about.
    pub max: f64,
    /// The evidence that the excess is above the bound.
    pub above_e_value: f64,
    /// The evidence that it is below.
    pub below_e_value: f64,
}

/// What was found in a field.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldFindings {
    /// Requests in which either answer has it.
    pub compared: u64,
    /// Those in which the answers disagreed.
    pub disagreed: u64,
    /// The share of the random sample in which the active colour disagreed with itself, 0 to 1; null before the first.
    pub noise: Option<f64>,
    /// The share of the compared requests in which the candidate disagreed beyond the noise, -1 to 1.
    pub excess: Option<f64>,
    /// Whether the field is noise: then it makes no request disagree.
    pub is_noise: bool,
    /// The differences between its numbers; absent without numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<NumberFindings>,
}

/// Differences between numbers, the candidate's less the active colour's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NumberFindings {
    /// What is measured: `difference`, `length` (the candidate's over the active colour's, less 1) or `cosine` (1 less it).
    pub of: Measure,
    /// How many pairs there were.
    pub count: u64,
    /// The mean difference.
    pub bias: Option<f64>,
    /// The mean size of a difference.
    pub mean: Option<f64>,
    /// The size that half of them do not exceed.
    pub p50: Option<f64>,
    /// The size that 95 of 100 do not exceed.
    pub p95: Option<f64>,
    /// The largest size.
    pub max: f64,
}

/// How long both colours took, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// The active colour.
    pub active: Latency,
    /// The candidate.
    pub candidate: Latency,
}

/// How long one colour took, in milliseconds; null before the first answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// 50 of 100 answers took no longer.
    pub p50_ms: Option<f64>,
    /// 95 of 100 took no longer.
    pub p95_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_ms: Option<f64>,
}

// === impl Findings ===

impl Findings {
    /// What `compared` says about an excess of `max_excess` (0 or more, below 1), at the confidence `1 - alpha`.
    pub fn of(compared: &Compared, rules: &Compare, max_excess: f64, alpha: f64) -> Self {
        let [low, high] = compared.excess.interval(alpha);
        let excess = ExcessFindings {
            estimate: compared.excess.estimate().map(rounded),
            low: rounded(low),
            high: rounded(high),
            max: max_excess,
            above_e_value: compared.excess.disagreement_e_value(max_excess),
            below_e_value: compared.excess.agreement_e_value(max_excess),
        };
        let mut dropped = SortedMap::default();
        for reason in Dropped::ALL {
            let count = compared.dropped(reason);
            if count > 0 {
                dropped.insert(reason.as_str(), count);
            }
        }
        let mut fields = SortedMap::default();
        for (name, tally) in compared.fields() {
            fields.insert(name.to_owned(), FieldFindings::of(name, tally));
        }
        let sentence = sentence(compared, &excess, rules, alpha);
        Self {
            compared: compared.compared,
            disagreed: compared.disagreed,
            agreement: share(compared.compared.saturating_sub(compared.disagreed), compared.compared),
            noise: Noise {
                sampled: compared.sampled,
                disagreed: compared.noise,
                rate: share(compared.noise, compared.sampled),
                failed: compared.failed_again,
            },
            excess,
            dropped,
            fields,
            confusion: compared.confusion().cloned(),
            latency: Latencies {
                active: Latency::of(&compared.active_took),
                candidate: Latency::of(&compared.candidate_took),
            },
            sentence,
        }
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| rounded(part as f64 / whole as f64))
}

/// To the sixth decimal.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// What all this means, and what to do next.
fn sentence(compared: &Compared, excess: &ExcessFindings, rules: &Compare, alpha: f64) -> String {
    let count = compared.compared;
    if count == 0 {
        return why_nothing(compared);
    }
    let [estimate, high, max] =
        [excess.estimate.unwrap_or_default(), excess.high, excess.max].map(|share| (share * 1e4).round() / 100.0);
    let enough = 1.0 / alpha;
    let of =
        if rules.noise_percent == Percent::ZERO { "requests" } else { "requests beyond the active colour's noise" };
    let verdict = if excess.above_e_value >= enough {
        format!("The candidate answers otherwise in {estimate} % of {of}: more than the {max} % that are allowed.")
    } else if excess.max > 0.0 && excess.below_e_value >= enough {
        format!("Shown: the candidate answers otherwise in less than {max} % of {of} ({estimate} % so far).")
    } else if compared.disagreed == 0 {
        format!("Both colours agreed on all {count} compared requests: the excess is below {high} %.")
    } else {
        format!("Nothing is shown yet: the candidate answers otherwise in {estimate} % of {of}, at most {high} %.")
    };
    let steady = || compared.fields().any(|(name, tally)| name.starts_with('/') && !tally.is_noise());
    if steady() { verdict } else { format!("{verdict} But every field is noise, so that only statuses were compared.") }
}

/// Why nothing was compared: the reason that was most frequent, and what to do about it.
fn why_nothing(compared: &Compared) -> String {
    let most =
        Dropped::ALL.into_iter().map(|reason| (compared.dropped(reason), reason)).max_by_key(|(count, _)| *count);
    let Some((count @ 1.., reason)) = most else {
        return "Nothing was compared yet: no request was drawn. shadow_percent says how many are.".to_owned();
    };
    format!("Nothing was compared; {count} times {}: {}.", reason.as_str(), advice(reason))
}

const fn advice(reason: Dropped) -> &'static str {
    match reason {
        Dropped::NotSafe => "no rule of `safe` covers the method and path; list those that change nothing",
        Dropped::TooLarge => "a body is larger than max_body, which can be up to 1MiB",
        Dropped::Busy => "max_in_flight requests were waiting; raise it, or lower sample_percent",
        Dropped::Timeout => "the candidate did not answer in time; raise timeout, or look at its load",
        Dropped::Unreachable => "the candidate did not answer; look whether it runs",
        Dropped::Streaming => "streams are not compared; only requests with a whole answer are",
        Dropped::Encoding => "answers are compressed; compress behind this filter, or have the server not do it",
        Dropped::NotJson => "the active colour's answers are no JSON, and nothing else is compared",
        Dropped::NotAnswered => "the active colour failed, so there is nothing to compare with",
        Dropped::ClientGone => "clients left before they had their answers",
        Dropped::VersionChanged => "versions or traffic changed meanwhile; wait until that is over",
        Dropped::Binary => "tensors in binary are not compared; ask the server for JSON",
        Dropped::UnknownShape => "the answers have nothing to compare; check `pointer` and `ignore`",
    }
}

// === impl FieldFindings ===

impl FieldFindings {
    fn of(name: &str, tally: &FieldTally) -> Self {
        let excess = (tally.plus as f64 - tally.minus as f64) / tally.compared.max(1) as f64;
        Self {
            compared: tally.compared,
            disagreed: tally.disagreed,
            noise: share(tally.noise, tally.sampled),
            excess: (tally.compared > 0).then(|| rounded(excess)),
            is_noise: name != STATUS && tally.is_noise(),
            numbers: tally.numbers.as_ref().map(NumberFindings::of),
        }
    }
}

// === impl NumberFindings ===

impl NumberFindings {
    fn of(numbers: &Numbers) -> Self {
        Self {
            of: numbers.of,
            count: numbers.count,
            bias: numbers.bias(),
            mean: numbers.mean(),
            p50: numbers.percentile(50),
            p95: numbers.percentile(95),
            max: numbers.max,
        }
    }
}

// === impl Latency ===

impl Latency {
    fn of(took: &Histogram) -> Self {
        let [p50_ms, p95_ms, p99_ms] = [50, 95, 99].map(|percent| took.percentile_millis(percent));
        Self { p50_ms, p95_ms, p99_ms }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;
    use crate::shadow::answer::Answer;
    use crate::shadow::record::{Again, Trial};

    fn rules() -> Compare {
        json::from_str(r#"{"safe": [{"method": "POST", "path_prefix": "/"}]}"#).expect("valid rules")
    }

    fn add(compared: &mut Compared, first: &str, candidate: &str, again: &str, times: u64) {
        let [first, candidate, again] =
            [first, candidate, again].map(|body| Answer::read(200, body.as_bytes(), None, &rules()).expect(body));
        for _ in 0..times {
            let took = (Duration::from_millis(10), Duration::from_millis(30));
            let again = Again::Answered(&again);
            compared.add(&Trial { first: &first, candidate: &candidate, again, is_sample: true, took }, &rules());
        }
    }

    fn findings(compared: &Compared) -> Findings {
        let findings = Findings::of(compared, &rules(), 0.02, 0.01);
        assert!(findings.sentence.len() < 240, "{}", findings.sentence);
        let json = serde_json::to_value(&findings).expect("serialises");
        assert!(json["excess"]["high"].is_number() && json["excess"]["above_e_value"].is_number());
        findings
    }

    #[test]
    fn why_nothing_was_compared_is_said_with_what_to_do() {
        assert!(findings(&Compared::default()).sentence.contains("no request was drawn"));
        for reason in Dropped::ALL {
            let mut compared = Compared::default();
            (0..u64::from(u16::MAX)).for_each(|_| compared.add_dropped(reason));
            let found = findings(&compared);
            assert!(found.sentence.contains(reason.as_str()), "{}", found.sentence);
            assert_eq!((found.dropped.get(reason.as_str()), found.dropped.len()), (Some(&65_535), 1));
            assert_eq!((found.agreement, found.excess.low, found.excess.high), (None, -1.0, 1.0));
        }
    }

    #[test]
    fn the_sentence_says_what_is_shown() {
        let mut compared = Compared::default();
        add(&mut compared, "[0]", "[0]", "[0]", 100);
        assert!(findings(&compared).sentence.starts_with("Both colours agreed on all 100"));
        add(&mut compared, "[0]", "[0]", "[0]", 900);
        assert!(findings(&compared).sentence.starts_with("Shown: the candidate answers otherwise in less than 2 %"));
        add(&mut compared, "[0]", "[1]", "[0]", 200);
        let found = findings(&compared);
        assert!(
            found.sentence.contains("16.67 % of requests beyond the active colour's noise: more than the 2 %"),
            "{}",
            found.sentence
        );
        assert_eq!(
            (found.agreement, found.noise.rate, found.excess.estimate),
            (Some(0.833_333), Some(0.0), Some(0.166_667))
        );
        assert_eq!(found.latency.candidate.p50_ms.map(f64::round), Some(31.0));
        let mut open = Compared::default();
        add(&mut open, "[0]", "[1]", "[0]", 1);
        assert!(findings(&open).sentence.starts_with("Nothing is shown yet"));
    }

    #[test]
    fn where_every_field_is_noise_that_is_said() {
        let mut compared = Compared::default();
        for number in 0..50 {
            add(
                &mut compared,
                &format!("[{number}]"),
                &format!("[{}]", number + 100),
                &format!("[{}]", number + 200),
                1,
            );
        }
        let found = findings(&compared);
        assert!(found.sentence.contains("every field is noise"), "{}", found.sentence);
        let field = found.fields.get("/*").expect("counted all the same");
        assert_eq!((field.is_noise, field.noise, field.excess, field.compared), (true, Some(1.0), Some(0.0), 50));
        assert_eq!(field.numbers.as_ref().map(|numbers| (numbers.bias, numbers.max)), Some((Some(100.0), 100.0)));
    }
}
