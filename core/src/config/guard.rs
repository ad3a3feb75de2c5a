//! The `guard` section: by which rules the candidate is compared with the active colour, and what happens when it fails.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::model::time::{deserialize_optional_span, deserialize_span};

/// Rules that compare the candidate with the active colour.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// One less the chance that a candidate which is no worse is ever accused in one canary, by all rules together.
    #[serde(deserialize_with = "confidence")]
    pub confidence: f64,
    /// The rule about errors.
    pub error: ErrorRule,
    /// The rule about latency; absent: none.
    pub slow: Option<SlowRule>,
    /// What follows when a rule is broken.
    pub on_breach: OnBreach,
    /// How long the candidate is watched after its promotion; absent: not at all.
    #[serde(deserialize_with = "deserialize_optional_span")]
    pub also_after_promote: Option<Duration>,
}

/// How many more errors than the active colour the candidate may make.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ErrorRule {
    /// By how much its error rate may be above the active colour's, as a share of the requests.
    #[serde(deserialize_with = "share")]
    pub max_increase: f64,
    /// The error rate at which no evidence is waited for; absent: none.
    #[serde(deserialize_with = "positive_share")]
    pub max_rate: Option<f64>,
    /// After how many answers of the candidate `max_rate` applies.
    pub after: u64,
    /// Whether a 4xx is an error too.
    pub count_4xx: bool,
}

/// How many more slow answers than the active colour the candidate may give.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlowRule {
    /// Above which latency an answer is slow.
    pub over: Over,
    /// Which latency.
    #[serde(default)]
    pub of: LatencyOf,
    /// By how much its share of slow answers may be above the active colour's.
    #[serde(default = "two_percent", deserialize_with = "share")]
    pub max_increase: f64,
}

/// Above which latency an answer is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Above the 95th percentile of the active colour's first answers in the canary.
    Auto,
    /// Above this.
    Latency(Duration),
}

/// Which latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyOf {
    /// The time to the last byte.
    #[default]
    Total,
    /// The time to the first byte.
    FirstByte,
}

/// What follows when a rule is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBreach {
    /// The candidate gets no more traffic.
    #[default]
    Rollback,
    /// The rollout waits for an operator.
    Pause,
}

const fn two_percent() -> f64 {
    0.02
}

/// Reads a number, which Envoy hands over as a text when it has decimals.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.ok_or_else(|| de::Error::custom(format!("{value} is not a number")))
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = number(deserializer)?;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(de::Error::custom(format!("{share} is not a share: use 0 or more, below 1, such as 0.02 for 2 %")))
    }
}

fn positive_share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let share = share(deserializer)?;
    if share > 0.0 {
        Ok(Some(share))
    } else {
        Err(de::Error::custom("0 would be broken by any candidate: leave it out"))
    }
}

fn confidence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let confidence = number(deserializer)?;
    if (0.5..=0.999_999).contains(&confidence) {
        Ok(confidence)
    } else {
        Err(de::Error::custom(format!("{confidence} is not between 0.5 and 0.999999")))
    }
}

// === impl Guard ===

impl Guard {
    /// How likely a candidate that is no worse may be accused by one rule: all of them share the whole equally.
    pub fn alpha_per_rule(&self) -> f64 {
        let rules = if self.slow.is_some() { 2.0 } else { 1.0 };
        (1.0 - self.confidence) / rules
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            confidence: 0.99,
            error: ErrorRule::default(),
            slow: None,
            on_breach: OnBreach::default(),
            also_after_promote: None,
        }
    }
}

// === impl ErrorRule ===

impl Default for ErrorRule {
    fn default() -> Self {
        Self { max_increase: 0.0, max_rate: None, after: 50, count_4xx: false }
    }
}

// === impl Over ===

impl<'de> Deserialize<'de> for Over {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(Self::Auto);
        }
        deserialize_span(de::value::StringDeserializer::<D::Error>::new(text)).map(Self::Latency)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        assert_eq!(serde_json::from_str::<Guard>("{}").expect("valid"), Guard::default());
        let slow: SlowRule = serde_json::from_str(r#"{"over": "auto"}"#).expect("valid");
        assert_eq!((slow.over, slow.of, slow.max_increase), (Over::Auto, LatencyOf::Total, 0.02));
    }

    #[test]
    fn numbers_may_be_texts_as_envoy_writes_fractions() {
        let json = r#"{"confidence": "0.995", "error": {"max_increase": "0.01", "max_rate": 0.2},
            "slow": {"over": "250ms"}, "also_after_promote": "10m"}"#;
        let guard: Guard = serde_json::from_str(json).expect("valid");
        assert_eq!((guard.error.max_increase, guard.error.max_rate, guard.error.after), (0.01, Some(0.2), 50));
        assert!((guard.alpha_per_rule() - 0.0025).abs() < 1e-12);
        assert_eq!(guard.slow.expect("given").over, Over::Latency(Duration::from_millis(250)));
        assert_eq!(guard.also_after_promote, Some(Duration::from_secs(600)));
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
            (r#"{"on_breach": "panic"}"#, "unknown variant"),
            (r#"{"also_after_promote": "0s"}"#, "no time at all"),
        ];
        for (json, reason) in cases {
            let error = serde_json::from_str::<Guard>(json).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
