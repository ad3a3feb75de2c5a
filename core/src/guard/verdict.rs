//! What the guard has to say, for programs and in plain words.

use serde::Serialize;

use super::analysis::{CanaryAnalysis, Rule, Stage, weight};
use super::bounds::Bound;
use super::interval::{difference, interval};
use super::outcomes::Outcomes;
use super::sequential::{Excess, SequentialTest};
use crate::config::{Guard, LatencyOf, OnBreach};
use crate::model::colour::{Colour, PerColour};
use crate::model::time::{Timestamp, millis};

/// The guard's findings about a canary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The colour that is watched.
    pub candidate: Colour,
    /// `shadow`, `canary`, `promoted`, or `over`.
    pub stage: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// The confidence that all rules share.
    pub confidence: f64,
    /// The e-value of all rules together, and the one at which the guard acts.
    pub e_value: f64,
    /// See there.
    pub threshold: f64,
    /// The rules.
    pub rules: Vec<RuleView>,
    /// What became of each colour's requests since then, by when they began.
    pub colours: PerColour<ColourFindings>,
    /// By how much the watched colour's error rate is above the other's: lower and upper end.
    pub error_difference: [f64; 2],
    /// After this time without the head of an answer a request counts as unanswered.
    pub unanswered_after_ms: u64,
    /// The latencies above which an answer is slow; empty without a rule about it, or while they are being found out.
    pub slow_bounds: Vec<BoundView>,
    /// The rule that was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breached: Option<&'static str>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breached_at: Option<Timestamp>,
    /// What would have followed, where the guard only observes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would: Option<&'static str>,
    /// The same in one sentence.
    pub sentence: String,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleView {
    rule: &'static str,
    max_increase: f64,
    e_value: f64,
    threshold: f64,
    /// Bad outcomes of the watched colour, and how many were due, where the e-value comes from.
    observed: u64,
    expected: f64,
}

/// What one colour did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColourFindings {
    requests: u64,
    errors: u64,
    error_rate: Option<f64>,
    error_interval: [f64; 2],
    unanswered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_interval: Option<[f64; 2]>,
}

/// A bound of the rule about slow answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BoundView {
    /// The percentile of the other colour's first answers that it is; absent where it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    percentile: Option<f64>,
    /// In milliseconds, for the other colour and for the watched one.
    over_ms: f64,
    watched_over_ms: f64,
    e_value: f64,
}

/// From this e-value on it is said what speaks against the candidate.
const TELLING: f64 = 10.0;
/// E-values beyond this are all the same to a reader, and to a JSON parser without exponents.
const MOST: f64 = 1e12;

// === impl Verdict ===

impl Verdict {
    /// What `analysis` amounts to under the rules of `guard`.
    pub fn new(analysis: &CanaryAnalysis, guard: &Guard) -> Self {
        let alpha = guard.alpha();
        let margins = [
            (Rule::Error, guard.error.max_increase, Some(analysis.error.excess())),
            (Rule::Unanswered, guard.unanswered.max_increase, Some(analysis.no_answer.excess())),
            (
                Rule::Slow,
                guard.slow.map_or(0.0, |rule| rule.max_increase),
                guard.slow.map(|_| analysis.slowest().map(|(_, test)| test.excess()).unwrap_or_default()),
            ),
            (
                Rule::Disagreement,
                guard.disagreement.map_or(0.0, |rule| rule.max_excess),
                guard.disagreement.map(|_| {
                    let answers = analysis.answers.counted();
                    Excess { outcomes: answers.total(), bad: answers.plus, due: answers.minus as f64 }
                }),
            ),
        ];
        let rules = margins.into_iter().filter_map(|(rule, max_increase, excess)| {
            let Excess { bad, due, .. } = excess?;
            Some(RuleView {
                rule: rule.as_str(),
                max_increase,
                e_value: shown(analysis.e_value(rule, guard)),
                threshold: significant(1.0 / (alpha * weight(rule, guard))),
                observed: bad,
                expected: significant(due),
            })
        });
        let colours = PerColour::from_fn(|colour| {
            let errors = *analysis.since_began.get(colour);
            let slow = guard.slow.map(|_| *analysis.slow_shares.get(colour));
            ColourFindings {
                requests: errors.total,
                errors: errors.bad,
                error_rate: errors.share().map(significant),
                error_interval: ends(interval(errors, alpha)),
                unanswered: analysis.unanswered.get(colour).bad,
                slow_share: slow.and_then(Outcomes::share).map(significant),
                slow_interval: slow.map(|slow| ends(interval(slow, alpha))),
            }
        });
        let of = |colour: Colour| *analysis.since_began.get(colour);
        Self {
            candidate: analysis.candidate,
            stage: match analysis.stage {
                _ if analysis.over => "over",
                Stage::Shadow => "shadow",
                Stage::Canary => "canary",
                Stage::Promoted(_) => "promoted",
            },
            since: analysis.began,
            confidence: guard.confidence,
            e_value: shown(analysis.combined(guard)),
            threshold: significant(1.0 / alpha),
            rules: rules.collect(),
            colours,
            error_difference: ends(difference(of(analysis.candidate), of(analysis.candidate.other()), alpha)),
            unanswered_after_ms: millis(analysis.bounds.horizon(guard)),
            slow_bounds: bounds(analysis, guard),
            breached: analysis.breach.map(|(rule, _)| rule.as_str()),
            breached_at: analysis.breach.map(|(_, at)| at),
            would: would(analysis, guard),
            sentence: sentence(analysis, guard),
        }
    }
}

/// How much of the evidence that a breach takes there is, in percent: 0 where nothing speaks against the candidate, 100 from
/// the breach on. Evidence multiplies, so this goes by its logarithm.
pub fn evidence_percent(analysis: &CanaryAnalysis, guard: &Guard) -> u64 {
    if analysis.breach.is_some() {
        return 100;
    }
    if analysis.over {
        return 0;
    }
    let share = analysis.combined(guard).max(1.0).ln() / (1.0 / guard.alpha()).ln();
    // A share of a breach that is none yet: below 100 whatever the rounding.
    (share * 100.0).clamp(0.0, 99.0) as u64
}

/// What a guard that only observes would have done about a breach.
pub fn would(analysis: &CanaryAnalysis, guard: &Guard) -> Option<&'static str> {
    analysis.breach.filter(|_| guard.on_breach == OnBreach::Observe)?;
    Some(match analysis.stage {
        Stage::Shadow => "stop the rollout",
        Stage::Canary => "end the canary",
        Stage::Promoted(_) => "roll back",
    })
}

fn bounds(analysis: &CanaryAnalysis, guard: &Guard) -> Vec<BoundView> {
    if guard.slow.is_none() {
        return Vec::new();
    }
    let view = |(place, bound): (usize, &Bound)| BoundView {
        percentile: bound.permille.map(|permille| f64::from(permille) / 10.0),
        over_ms: end_millis(bound, analysis.candidate.other()),
        watched_over_ms: end_millis(bound, analysis.candidate),
        e_value: shown(analysis.slow.get(place).map_or(1.0, SequentialTest::e_value)),
    };
    analysis.bounds.slow.iter().enumerate().map(view).collect()
}

fn end_millis(bound: &Bound, colour: Colour) -> f64 {
    bound.above.get(colour).end_micros().unwrap_or(u64::MAX) as f64 / 1_000.0
}

/// The findings in plain words, fewer than 200 characters.
pub fn sentence(analysis: &CanaryAnalysis, guard: &Guard) -> String {
    let (candidate, active) = (analysis.candidate, analysis.candidate.other());
    if let Some((Rule::MaxRate, _)) = analysis.breach
        && let Some(limit) = analysis.at_limit
    {
        let share = |outcomes: Outcomes| outcomes.share().map_or_else(|| "no".to_owned(), percent);
        let (own, other) = (share(limit.candidate), share(limit.active));
        let most = guard.error.max_rate.map(percent).unwrap_or_default();
        let last = limit.candidate.total;
        return format!(
            "{candidate} fails {own} of its last {last} requests, {active} {other}: at the limit of {most} (max_rate)"
        );
    }
    let rule = analysis.telling_rule(guard);
    if rule == Rule::Disagreement && analysis.e_value(rule, guard) >= TELLING {
        return disagreement(analysis, guard);
    }
    if analysis.stage == Stage::Shadow {
        let compared = analysis.answers.counted().total();
        return format!("{candidate} gets copies only, and {compared} of its answers were compared");
    }
    let (e_value, test, margin) = match (rule, analysis.slowest()) {
        (Rule::Slow, Some((_, test))) => (test.e_value(), test, guard.slow.map_or(0.0, |rule| rule.max_increase)),
        (Rule::Unanswered, _) => (analysis.no_answer.e_value(), &analysis.no_answer, guard.unanswered.max_increase),
        _ => (analysis.error.e_value(), &analysis.error, guard.error.max_increase),
    };
    if e_value < TELLING {
        let of = |colour: Colour| *analysis.since_began.get(colour);
        let (own, other) = (of(candidate), of(active));
        let Some(rate) = own.share().map(percent) else {
            return format!("{candidate} has answered nothing yet");
        };
        let beside = match other.share().map(percent) {
            Some(rate) => format!("{active} {rate} of {}", other.total),
            None => format!("{active} has no requests to compare with"),
        };
        let so_far = if analysis.is_warm() {
            let (found, acts) = (significant(analysis.combined(guard).max(1.0)), significant(1.0 / guard.alpha()));
            format!("an e-value of {found} against {candidate}, and the guard acts at {acts}")
        } else {
            format!("the first {} of {candidate} are its warm-up", guard.warm_up.requests)
        };
        return format!("{candidate} fails {rate} of {} requests, {beside}: {so_far}", own.total);
    }
    let Excess { bad, due, .. } = test.excess();
    let what = match rule {
        Rule::Unanswered => "requests got no answer from".to_owned(),
        Rule::Slow => format!("slow answers ({}) of", bound_in_words(analysis, guard)),
        Rule::Error | Rule::MaxRate | Rule::Disagreement => "errors of".to_owned(),
    };
    let (allowed, no_worse) = if margin > 0.0 { ("allowed", "within that") } else { ("expected", "no worse") };
    let (due, chance) = (significant(due), grouped(e_value));
    format!(
        "{bad} {what} {candidate} where {due} were {allowed}; if {candidate} were {no_worse}, fewer than 1 in {chance} \
         canaries would show this"
    )
}

/// What is said against answers.
fn disagreement(analysis: &CanaryAnalysis, guard: &Guard) -> String {
    let (candidate, active, answers) = (analysis.candidate, analysis.candidate.other(), analysis.answers.counted());
    let (plus, minus, total) = (answers.plus, answers.minus, answers.total());
    let most = guard.disagreement.map_or(0.0, |rule| rule.max_excess);
    let no_worse = if most > 0.0 { format!("within {}", percent(most)) } else { "alike".to_owned() };
    let chance = grouped(analysis.e_value(Rule::Disagreement, guard));
    format!(
        "{candidate} answered {plus} of {total} requests otherwise than {active}, which did so to itself in {minus}; if \
         {candidate} were {no_worse}, fewer than 1 in {chance} canaries would show this"
    )
}

/// The bound at which the watched colour does worst.
fn bound_in_words(analysis: &CanaryAnalysis, guard: &Guard) -> String {
    let of = match guard.slow.map(|rule| rule.of) {
        Some(LatencyOf::FirstByte) => "to the first byte ",
        _ => "",
    };
    let Some(bound) = analysis.slowest().and_then(|(place, _)| analysis.bounds.slow.get(place)) else {
        return "slow".to_owned();
    };
    let over = significant(end_millis(bound, analysis.candidate));
    match bound.permille {
        Some(permille) => format!("{of}over {over} ms, from p{}", f64::from(permille) / 10.0),
        None => format!("{of}over {over} ms"),
    }
}

fn shown(e_value: f64) -> f64 {
    significant(e_value.min(MOST))
}

/// A share as a percentage with two digits that matter.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent >= 9.95 || percent == 0.0 {
        0
    } else if percent >= 0.995 {
        1
    } else {
        2
    };
    format!("{percent:.digits$} %")
}

/// The largest number of one digit and noughts that is not above `number`, with commas.
fn grouped(number: f64) -> String {
    let mut size = 10_u64;
    while size < 1_000_000 && size.saturating_mul(10) as f64 <= number {
        size = size.saturating_mul(10);
    }
    let digit = if size < 1_000_000 { (number / size as f64).floor().clamp(1.0, 9.0) } else { 1.0 };
    let text = format!("{}", digit * size as f64);
    match text.len() {
        0..=3 => text,
        length => {
            let (head, tail) = text.split_at_checked(length.saturating_sub(3)).unwrap_or((&text, ""));
            match head.len() {
                0..=3 => format!("{head},{tail}"),
                _ => "1,000,000".to_owned(),
            }
        }
    }
}

fn ends((low, high): (f64, f64)) -> [f64; 2] {
    [significant(low), significant(high)]
}

/// To four significant digits, as a reader can use them.
fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::guard::evidence::{Test, evidence};
    use crate::json;
    use crate::state::State;
    use crate::testing::split;

    #[test]
    fn chances_are_rounded_to_the_side_of_caution() {
        let cases = [
            (10.0, "10"),
            (99.0, "90"),
            (200.0, "200"),
            (1_234.0, "1,000"),
            (25_000.0, "20,000"),
            (999_999.0, "900,000"),
            (1e300, "1,000,000"),
        ];
        for (e_value, text) in cases {
            assert_eq!(grouped(e_value), text, "{e_value}");
        }
    }

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    /// The analysis of a canary whose colours had these outcomes, epoch by epoch: of blue, then of green.
    fn after(test: Test, guard: &Guard, blocks: &[[(u64, u64); 2]]) -> CanaryAnalysis {
        let state = State::initial(split("blue", "10", "0"), NOW);
        let mut analysis = CanaryAnalysis::advance(None, &state, Some(guard), false, NOW).expect("a canary");
        for (number, [blue, green]) in blocks.iter().enumerate() {
            let outcomes = |(total, bad): &(u64, u64)| Outcomes::new(*total, *bad);
            let piece = evidence(test, number as u64 + 1, outcomes(blue), outcomes(green));
            analysis.play(&piece, guard, None, NOW);
        }
        analysis
    }

    fn guard(json: &str) -> Guard {
        json::from_str(json).expect("valid")
    }

    const COLD: &str = r#""warm_up": {"requests": 0}"#;

    #[test]
    fn the_sentence_tells_the_figures_that_the_evidence_comes_from() {
        // Both fail more while green has little traffic: over all, green fails less than blue.
        let turned = [vec![[(1_000, 200), (10, 10)]; 8], vec![[(100, 1), (1_000, 60)]; 8]].concat();
        // Green was better for a long time.
        let late = [vec![[(1_000, 30), (1_000, 0)]; 20], vec![[(1_000, 10), (1_000, 60)]; 10]].concat();
        let silent = vec![[(1_000, 10), (1_000, 160)]; 10];
        let cases = [
            ("a changed share", Test::Error, turned, "errors of green where"),
            ("a late fault", Test::Error, late, "errors of green where"),
            ("no answers", Test::Unanswered, silent, "requests got no answer from green where"),
        ];
        for (case, test, blocks, what) in cases {
            let rules = guard(&format!(r#"{{{COLD}, "confidence": 0.999}}"#));
            let text = sentence(&after(test, &rules, &blocks), &rules);
            assert!(text.contains(what) && text.contains("fewer than 1 in"), "{case}: {text}");
            assert!(text.len() < 200, "{case}: {text}");
            let figures: Vec<f64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert!(figures[0] > figures[1], "{case}: {text}");
        }
    }

    #[test]
    fn while_little_speaks_against_the_candidate_the_rates_are_told() {
        let rules = guard("{}");
        let cases = [
            (vec![], "green has answered nothing yet"),
            (
                vec![[(0, 0), (10, 1)]],
                "green fails 10 % of 10 requests, blue has no requests to compare with: the first 10 of green are its warm-up",
            ),
            (
                vec![[(1_000, 10), (100, 1)]; 2],
                "green fails 1.0 % of 200 requests, blue 1.0 % of 2000: an e-value of 1 against green, and the guard acts at 100",
            ),
        ];
        for (blocks, expected) in cases {
            assert_eq!(sentence(&after(Test::Error, &rules, &blocks), &rules), expected);
        }
    }

    #[test]
    fn the_limit_is_told_with_the_answers_that_reached_it() {
        let json = format!(r#"{{{COLD}, "confidence": 0.999999, "error": {{"max_rate": 0.2, "after": 50}}}}"#);
        let rules = guard(&json);
        let blocks = [[(1_000, 0), (1_000, 0)], [(100, 0), (50, 16)]];
        let text = sentence(&after(Test::Error, &rules, &blocks), &rules);
        assert_eq!(text, "green fails 32 % of its last 50 requests, blue 0 %: at the limit of 20 % (max_rate)");
    }

    #[test]
    fn a_guard_that_observes_says_what_it_would_have_done() {
        let json = format!(r#"{{{COLD}, "on_breach": "observe"}}"#);
        let rules = guard(&json);
        let healthy = Verdict::new(&after(Test::Error, &rules, &[[(90, 1), (10, 0)]; 4]), &rules);
        assert_eq!((healthy.breached, healthy.would), (None, None));
        let bad = Verdict::new(&after(Test::Error, &rules, &[[(90, 1), (10, 6)]; 4]), &rules);
        assert_eq!((bad.breached, bad.would), (Some("error"), Some("end the canary")));
    }

    #[test]
    fn shares_are_shown_with_the_digits_that_matter() {
        for (share, text) in [(0.0, "0 %"), (0.041, "4.1 %"), (0.0009, "0.09 %"), (0.25, "25 %"), (1.0, "100 %")] {
            assert_eq!(percent(share), text);
        }
        for (value, rounded) in [(0.123_456, 0.1235), (1_234_567.0, 1_235_000.0), (0.0, 0.0)] {
            assert!((significant(value) - rounded).abs() < 1e-9, "{value}");
        }
    }
}
