//! The `guard` section: by which rules the candidate is compared with the active colour, and what happens when it fails.

use std::time::Duration;

use serde_json::Value;

use crate::json::{FieldError, FromJson, Json};
use crate::model::percent::Percent;
use crate::model::time::{deserialize_optional_span, deserialize_span};

/// Rules that compare the candidate with the active colour.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// One less the chance that a candidate which is no worse is ever accused in one canary, by all rules together.
    #[serde(deserialize_with = "confidence")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "confidences"))]
    pub confidence: f64,
    /// What is left out at the beginning.
    pub warm_up: WarmUp,
    /// The rule about errors.
    pub error: ErrorRule,
    /// The rule about requests that get no answer.
    pub unanswered: UnansweredRule,
    /// The rule about latency; absent: none.
    pub slow: Option<SlowRule>,
    /// The rule about answers that are compared; absent: none.
    pub disagreement: Option<DisagreementRule>,
    /// What follows when a rule is broken.
    pub on_breach: OnBreach,
    /// How long the candidate is watched after its promotion; absent: not at all.
    #[serde(deserialize_with = "deserialize_optional_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub also_after_promote: Option<Duration>,
    /// The share of the requests that the former colour keeps meanwhile, to be compared with.
    #[serde(deserialize_with = "kept")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "kept_shares"))]
    pub keep_percent: Percent,
}

/// What is left out at the beginning of a canary, while caches and connections are cold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WarmUp {
    /// So many of the candidate's first requests.
    pub requests: u64,
    /// And all that begin in this time.
    #[serde(deserialize_with = "any_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub r#for: Duration,
}

/// How many more requests than with the active colour may get no answer from the candidate.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UnansweredRule {
    /// After this time without the head of an answer a request counts as unanswered.
    pub after: Horizon,
    /// By how much the candidate's share of them may be above the active colour's.
    #[serde(deserialize_with = "share")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::share"))]
    pub max_increase: f64,
}

/// How long an answer is waited for before the guard takes it for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Horizon {
    /// Three times as long as 95 of 100 of the active colour's answers take, and at least ten seconds.
    #[default]
    Auto,
    /// So long.
    After(Duration),
}

/// How many more errors than the active colour the candidate may make.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ErrorRule {
    /// By how much its error rate may be above the active colour's, as a share of the requests.
    #[serde(deserialize_with = "share")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::share"))]
    pub max_increase: f64,
    /// The error rate at which no evidence is waited for; absent: none.
    #[serde(deserialize_with = "positive_share")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::positive_share"))]
    pub max_rate: Option<f64>,
    /// After how many answers of the candidate `max_rate` applies.
    pub after: u64,
    /// Whether a 4xx is an error too.
    pub count_4xx: bool,
    /// Whether a request counts as an error whose first attempt failed, however well Envoy's retries ended.
    pub count_retries: bool,
}

/// How much more often than the active colour with itself the candidate may disagree with it.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DisagreementRule {
    /// By how much, as a share of the answers that are compared.
    #[serde(deserialize_with = "share")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::share"))]
    pub max_excess: f64,
}

/// How much slower than the active colour the candidate may be.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[serde(try_from = "RawSlowRule")]
pub struct SlowRule {
    /// Above which latency an answer is slow.
    pub over: Over,
    /// Which latency.
    pub of: LatencyOf,
    /// How many times as long the candidate may take; 1 for a latency that is given, which is the same for both.
    pub max_ratio: f64,
    /// By how much its share of slow answers may be above the active colour's.
    pub max_increase: f64,
}

#[derive(FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawSlowRule {
    /// Above which latency an answer is slow: `auto`, or a time.
    over: Over,
    /// Which latency.
    #[serde(default)]
    of: LatencyOf,
    /// How many times as long the candidate may take, with `over: auto`; 1.25 if it is left out.
    #[serde(default, deserialize_with = "ratio")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "ratios"))]
    max_ratio: Option<f64>,
    /// By how much its share of slow answers may be above the active colour's; 0 with `auto`, else 0.02.
    #[serde(default, deserialize_with = "optional_share")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::share"))]
    max_increase: Option<f64>,
}

/// Above which latency an answer is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Above several percentiles of the active colour's first answers in the canary, each a bound of its own.
    Auto,
    /// Above this.
    Latency(Duration),
}

/// Which latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LatencyOf {
    /// The time to the last byte.
    #[default]
    Total,
    /// The time to the first byte.
    FirstByte,
}

/// What follows when a rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnBreach {
    /// The candidate gets no more traffic.
    #[default]
    Rollback,
    /// The rollout waits for an operator.
    Pause,
    /// Nothing. It is said what would have followed.
    Observe,
}

/// With a candidate that may take this many times as long, the difference is one that users may notice.
const MAX_RATIO: f64 = 1.25;
/// The additional share of answers above a given latency that is allowed.
const MAX_SLOW_INCREASE: f64 = 0.02;
/// Waiting longer than this is no horizon any more.
const LONGEST_HORIZON: Duration = Duration::from_secs(120);

/// Reads a number, which Envoy hands over as a text when it has decimals.
pub(super) fn number(json: &Json<'_>) -> Result<f64, FieldError> {
    let number = json.as_f64().or_else(|| json.as_text()?.parse().ok());
    number.ok_or_else(|| FieldError::new(format!("{} is not a number", Value::from(json))))
}

fn share(json: &Json<'_>) -> Result<f64, FieldError> {
    let share = number(json)?;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(FieldError::new(format!("{share} is not a share: use 0 or more, below 1, such as 0.02 for 2 %")))
    }
}

fn optional_share(json: &Json<'_>) -> Result<Option<f64>, FieldError> {
    share(json).map(Some)
}

fn ratio(json: &Json<'_>) -> Result<Option<f64>, FieldError> {
    let ratio = number(json)?;
    if (1.0..=100.0).contains(&ratio) {
        Ok(Some(ratio))
    } else {
        Err(FieldError::new(format!("{ratio} is not between 1 and 100: 1.25 allows a quarter more time")))
    }
}

fn kept(json: &Json<'_>) -> Result<Percent, FieldError> {
    let share = Percent::from_json(json)?;
    if share > Percent::ZERO && share.hundredths() <= 5_000 {
        Ok(share)
    } else {
        Err(FieldError::new(format!("{share} is not above 0 and at most 50: nothing could be compared")))
    }
}

/// A span that may be none at all.
fn any_span(json: &Json<'_>) -> Result<Duration, FieldError> {
    if json.text()? == "0s" { Ok(Duration::ZERO) } else { deserialize_span(json) }
}

fn positive_share(json: &Json<'_>) -> Result<Option<f64>, FieldError> {
    let share = share(json)?;
    if share > 0.0 { Ok(Some(share)) } else { Err(FieldError::new("0 would be broken by any candidate: leave it out")) }
}

fn confidence(json: &Json<'_>) -> Result<f64, FieldError> {
    let confidence = number(json)?;
    if (0.5..=0.999_999).contains(&confidence) {
        Ok(confidence)
    } else {
        Err(FieldError::new(format!("{confidence} is not between 0.5 and 0.999999")))
    }
}

#[cfg(feature = "schema")]
fn confidences(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(0.5, 0.999_999)
}

#[cfg(feature = "schema")]
fn kept_shares(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(0.01, 50.0)
}

#[cfg(feature = "schema")]
fn ratios(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::model::schema::between(1.0, 100.0)
}

// === impl Guard ===

impl Guard {
    /// The chance that a candidate which is no worse is ever accused, by all rules together.
    pub fn alpha(&self) -> f64 {
        1.0 - self.confidence
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            confidence: 0.99,
            warm_up: WarmUp::default(),
            error: ErrorRule::default(),
            unanswered: UnansweredRule::default(),
            slow: None,
            disagreement: None,
            on_breach: OnBreach::default(),
            also_after_promote: None,
            keep_percent: Percent::from_hundredths(200).unwrap_or(Percent::ZERO),
        }
    }
}

// === impl WarmUp ===

impl Default for WarmUp {
    fn default() -> Self {
        Self { requests: 10, r#for: Duration::ZERO }
    }
}

// === impl UnansweredRule ===

impl Default for UnansweredRule {
    fn default() -> Self {
        Self { after: Horizon::Auto, max_increase: 0.05 }
    }
}

// === impl Horizon ===

impl FromJson for Horizon {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        if json.text()? == "auto" {
            return Ok(Self::Auto);
        }
        let after = deserialize_span(json)?;
        if after > LONGEST_HORIZON {
            return Err(FieldError::new(format!("{after:?} is longer than {LONGEST_HORIZON:?}")));
        }
        Ok(Self::After(after))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Horizon {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Horizon".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::span_or_auto()
    }
}

// === impl ErrorRule ===

impl Default for ErrorRule {
    fn default() -> Self {
        Self { max_increase: 0.0, max_rate: None, after: 50, count_4xx: false, count_retries: true }
    }
}

// === impl SlowRule ===

impl TryFrom<RawSlowRule> for SlowRule {
    type Error = &'static str;

    fn try_from(raw: RawSlowRule) -> Result<Self, Self::Error> {
        let RawSlowRule { over, of, max_ratio, max_increase } = raw;
        match (over, max_ratio) {
            (Over::Latency(_), Some(_)) => {
                Err("max_ratio goes with `over: auto`; a latency is the same for both colours")
            }
            (Over::Latency(_), None) => {
                Ok(Self { over, of, max_ratio: 1.0, max_increase: max_increase.unwrap_or(MAX_SLOW_INCREASE) })
            }
            (Over::Auto, _) => Ok(Self {
                over,
                of,
                max_ratio: max_ratio.unwrap_or(MAX_RATIO),
                max_increase: max_increase.unwrap_or_default(),
            }),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for SlowRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SlowRule".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RawSlowRule::json_schema(generator)
    }
}

// === impl Over ===

impl FromJson for Over {
    fn from_json(json: &Json<'_>) -> Result<Self, FieldError> {
        if json.text()? == "auto" { Ok(Self::Auto) } else { deserialize_span(json).map(Self::Latency) }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Over {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Over".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::model::schema::span_or_auto()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        assert_eq!(json::from_str::<Guard>("{}").expect("valid"), Guard::default());
        let slow: SlowRule = json::from_str(r#"{"over": "auto"}"#).expect("valid");
        assert_eq!((slow.over, slow.of), (Over::Auto, LatencyOf::Total));
        assert_eq!((slow.max_ratio, slow.max_increase), (1.25, 0.0));
        let slow: SlowRule = json::from_str(r#"{"over": "250ms"}"#).expect("valid");
        assert_eq!((slow.max_ratio, slow.max_increase), (1.0, 0.02));
    }

    #[test]
    fn numbers_may_be_texts_as_envoy_writes_fractions() {
        let json = r#"{"confidence": "0.995", "error": {"max_increase": "0.01", "max_rate": 0.2},
            "slow": {"over": "250ms"}, "also_after_promote": "10m", "keep_percent": "0.5",
            "warm_up": {"requests": 0, "for": "0s"}, "unanswered": {"after": "2s", "max_increase": "0.1"}}"#;
        let guard: Guard = json::from_str(json).expect("valid");
        assert_eq!((guard.error.max_increase, guard.error.max_rate, guard.error.after), (0.01, Some(0.2), 50));
        assert!((guard.alpha() - 0.005).abs() < 1e-12);
        assert_eq!(guard.slow.expect("given").over, Over::Latency(Duration::from_millis(250)));
        assert_eq!(guard.also_after_promote, Some(Duration::from_secs(600)));
        assert_eq!((guard.keep_percent.hundredths(), guard.warm_up.requests), (50, 0));
        assert_eq!(guard.unanswered.after, Horizon::After(Duration::from_secs(2)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        let cases = [
            (r#"{"confidence": 1}"#, "not between 0.5 and 0.999999"),
            (r#"{"confidence": "x"}"#, "not a number"),
            (r#"{"error": {"max_increase": 2}}"#, "not a share"),
            (r#"{"error": {"max_rate": 0}}"#, "leave it out"),
            (r#"{"slow": {}}"#, "missing field `over`"),
            (r#"{"slow": {"over": "soon"}}"#, "not a time"),
            (r#"{"on_breach": "panic"}"#, "\"panic\" is not known here"),
            (r#"{"also_after_promote": "0s"}"#, "too short"),
            (r#"{"keep_percent": 0}"#, "not above 0 and at most 50"),
            (r#"{"keep_percent": 51}"#, "not above 0 and at most 50"),
            (r#"{"slow": {"over": "1s", "max_ratio": 2}}"#, "goes with `over: auto`"),
            (r#"{"slow": {"over": "auto", "max_ratio": 0.5}}"#, "not between 1 and 100"),
            (r#"{"unanswered": {"after": "3m"}}"#, "longer than 120s"),
            (r#"{"unanswered": {"after": "never"}}"#, "not a time"),
            (r#"{"warm_up": {"for": "soon"}}"#, "not a time"),
        ];
        for (json, reason) in cases {
            let error = json::from_str::<Guard>(json).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
