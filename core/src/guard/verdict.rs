//! What the guard has to say, for programs and in plain words.

use serde::Serialize;

use super::analysis::{Baseline, CanaryAnalysis, Rule, Threshold};
use super::interval::interval;
use super::outcomes::Outcomes;
use crate::config::{Guard, OnBreach};
use crate::metrics::latency::Bucket;
use crate::model::colour::{Colour, PerColour};
use crate::model::time::Timestamp;

/// The guard's findings about a canary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The colour that is watched.
    pub candidate: Colour,
    /// `canary`, `promoted`, or `over`.
    pub stage: &'static str,
    /// Since when.
    pub since: Timestamp,
    /// The confidence that all rules share.
    pub confidence: f64,
    /// The rules.
    pub rules: Vec<RuleView>,
    /// What each colour did since then.
    pub colours: PerColour<ColourFindings>,
    /// The latency above which an answer is slow, in milliseconds; absent without a rule about it, or while it is
    /// being found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_over_ms: Option<f64>,
    /// The rule that was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breached: Option<&'static str>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breached_at: Option<Timestamp>,
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
}

/// What one colour did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColourFindings {
    requests: u64,
    errors: u64,
    error_rate: Option<f64>,
    error_interval: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_interval: Option<[f64; 2]>,
}

/// From this e-value on it is said what speaks against the candidate.
const TELLING: f64 = 10.0;
/// E-values beyond this are all the same to a reader, and to a JSON parser without exponents.
const MOST: f64 = 1e12;

// === impl Verdict ===

impl Verdict {
    /// What `analysis` amounts to under the rules of `guard`.
    pub fn new(analysis: &CanaryAnalysis, guard: &Guard) -> Self {
        let threshold = significant(analysis.threshold(guard));
        let rule = |rule: Rule, max_increase: f64, e_value: f64| RuleView {
            rule: rule.as_str(),
            max_increase,
            e_value: significant(e_value.min(MOST)),
            threshold,
        };
        let slow = guard.slow.map(|slow| rule(Rule::Slow, slow.max_increase, analysis.slow.e_value()));
        let error = rule(Rule::Error, guard.error.max_increase, analysis.error.e_value());
        let alpha = 1.0 - guard.confidence;
        let colours = PerColour::from_fn(|colour| {
            let tally = analysis.since_began.get(colour);
            let slow = guard.slow.map(|_| tally.slow);
            ColourFindings {
                requests: tally.errors.total,
                errors: tally.errors.bad,
                error_rate: tally.errors.share().map(significant),
                error_interval: ends(tally.errors, alpha),
                slow_share: slow.and_then(Outcomes::share).map(significant),
                slow_interval: slow.map(|slow| ends(slow, alpha)),
            }
        });
        let bound = match (&analysis.bound, guard.slow) {
            (Threshold::Above(bucket), Some(_)) => Bucket::end_micros(*bucket).map(|end| end as f64 / 1_000.0),
            _ => None,
        };
        Self {
            candidate: analysis.candidate,
            stage: match analysis.stage {
                _ if analysis.over => "over",
                Baseline::Canary => "canary",
                Baseline::Promoted(_) => "promoted",
            },
            since: analysis.began,
            confidence: guard.confidence,
            rules: [Some(error), slow].into_iter().flatten().collect(),
            colours,
            slow_over_ms: bound,
            breached: analysis.breach.map(|(rule, _)| rule.as_str()),
            breached_at: analysis.breach.map(|(_, at)| at),
            sentence: sentence(analysis, guard),
        }
    }
}

/// The findings in plain words, fewer than 200 characters.
pub fn sentence(analysis: &CanaryAnalysis, guard: &Guard) -> String {
    let (candidate, active) = (analysis.candidate, analysis.candidate.other());
    let slow = guard.slow.is_some()
        && match analysis.breach {
            Some((rule, _)) => rule == Rule::Slow,
            None => analysis.slow.e_value() > analysis.error.e_value(),
        };
    let is_limit = matches!(analysis.breach, Some((Rule::MaxRate, _)));
    let totals = if is_limit { &analysis.at_breach } else { &analysis.since_began };
    let of = |colour: Colour| {
        let tally = totals.get(colour);
        if slow { tally.slow } else { tally.errors }.share()
    };
    let test = if slow { &analysis.slow } else { &analysis.error };
    // What speaks against the candidate is told with the figures that it comes from.
    let (share, beside) = match test.shares().filter(|_| !is_limit && test.e_value() >= TELLING) {
        Some((share, due)) => (Some(share), Some(due)),
        None => (of(candidate), of(active)),
    };
    let does = if slow { "is slow on" } else { "fails" };
    let Some(share) = share else {
        return format!("{candidate} has answered nothing yet");
    };
    let beside = match (beside, analysis.stage) {
        (Some(share), Baseline::Canary) => format!(", {active} {}", percent(share)),
        (_, Baseline::Promoted(allowed)) => {
            let allowed = if slow { allowed.slow } else { allowed.error };
            format!(" since its promotion, {active} before it at most {}", percent(allowed))
        }
        (None, _) => format!(", {active} has answered nothing"),
    };
    let finding = format!("{candidate} {does} {} of requests{beside}", percent(share));
    if is_limit {
        let limit = guard.error.max_rate.map(percent).unwrap_or_default();
        return format!("{finding}: at the limit of {limit} (max_rate)");
    }
    let e_value = test.e_value();
    let margin = if slow { guard.slow.map_or(0.0, |rule| rule.max_increase) } else { guard.error.max_increase };
    let no_worse = if margin > 0.0 {
        format!("were worse by no more than {}", percent(margin))
    } else {
        "were no worse".to_owned()
    };
    if e_value < TELLING {
        return format!("{finding}; that says little against {candidate} so far");
    }
    format!("{finding}; the chance of seeing this if {candidate} {no_worse} is below 1 in {}", grouped(e_value))
}

/// What would have followed on a breach, where the configuration says that it is only observed.
pub fn untaken(analysis: &CanaryAnalysis, guard: &Guard, active: Colour) -> Option<String> {
    analysis.breach.filter(|_| guard.on_breach == OnBreach::Observe)?;
    let candidate = analysis.candidate;
    Some(if candidate == active {
        format!("`on_breach: rollback` would have made {} active again", candidate.other())
    } else {
        format!("`on_breach: rollback` would have taken the traffic from {candidate}")
    })
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

fn ends(outcomes: Outcomes, alpha: f64) -> [f64; 2] {
    let (low, high) = interval(outcomes, alpha);
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
    use crate::guard::analysis::Totals;
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

    /// The analysis of a canary whose colours had these outcomes, block by block: of blue, then of green.
    fn after(guard: &Guard, blocks: &[[(u64, u64); 2]]) -> CanaryAnalysis {
        let state = State::initial(split("blue", "10", "0"), NOW);
        let begun = CanaryAnalysis::advance(None, &state, Some(guard), &PerColour::default(), NOW);
        let mut analysis = begun.expect("a canary");
        for [blue, green] in blocks {
            let totals =
                |(total, bad): &(u64, u64)| Totals { errors: Outcomes::new(*total, *bad), ..Totals::default() };
            let new = PerColour { blue: totals(blue), green: totals(green) };
            analysis.count(&new);
            analysis.conclude(guard, &new, NOW);
        }
        analysis
    }

    fn guard(json: &str) -> Guard {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn the_rates_in_the_sentence_are_those_that_the_chance_comes_from() {
        // Both fail more while green has little traffic: over all, green fails less than blue.
        let turned = [vec![[(1_000, 200), (10, 10)]; 8], vec![[(100, 1), (1_000, 60)]; 8]].concat();
        // Green was better for a long time.
        let late = [vec![[(1_000, 30), (1_000, 0)]; 20], vec![[(1_000, 10), (1_000, 60)]; 10]].concat();
        for (case, blocks) in [("a changed share", turned), ("a late fault", late)] {
            let analysis = after(&guard("{}"), &blocks);
            let [blue, green] = [Colour::Blue, Colour::Green].map(|of| analysis.since_began.get(of).errors.share());
            let text = sentence(&analysis, &guard("{}"));
            assert!(text.contains("is below 1 in"), "{case}: {text}");
            let rates: Vec<f64> = text.split(" %").filter_map(|part| part.rsplit(' ').next()?.parse().ok()).collect();
            assert!(rates[0] > rates[1], "{case}: {text}; over all {green:?} and {blue:?}");
        }
    }

    #[test]
    fn the_limit_is_told_with_the_rates_that_reached_it() {
        let rules = guard(r#"{"confidence": 0.999999, "error": {"max_rate": 0.2, "after": 50}}"#);
        let mut analysis = after(&rules, &[[(1_000, 0), (1_000, 0)]]);
        // As an operator changes the share.
        analysis.since_set = PerColour::default();
        let new = |bad| PerColour {
            blue: Totals { errors: Outcomes::new(100, 0), ..Totals::default() },
            green: Totals { errors: Outcomes::new(50, bad), ..Totals::default() },
        };
        analysis.count(&new(12));
        analysis.conclude(&rules, &new(12), NOW);
        // And the guard takes the traffic away.
        analysis.since_set = PerColour::default();
        let text = sentence(&analysis, &rules);
        assert_eq!(text, "green fails 24 % of requests, blue 0 %: at the limit of 20 % (max_rate)");
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
