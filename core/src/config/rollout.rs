//! The `rollout` section: the steps in which a candidate gets its share of the traffic.

use std::time::Duration;

use super::guard::number;
use crate::json::{FieldError, FromJson, Json};
use crate::model::percent::Percent;
use crate::model::time::deserialize_optional_span;

/// A series of canary steps.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RolloutPlan {
    /// The steps: first those that only copy requests, then those with a share, each with a larger one than the one before.
    #[serde(deserialize_with = "growing")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 50)))]
    pub steps: Vec<RolloutStep>,
    /// What follows the last one.
    #[serde(default)]
    pub then: Then,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, FromJson)]
#[serde(try_from = "RawRolloutStep")]
pub struct RolloutStep {
    /// The candidate's share; 0 in a step that only copies requests.
    pub canary_percent: Percent,
    /// The share of the active colour's requests that are copied to the candidate; absent: as the steps before have left it.
    pub shadow_percent: Option<Percent>,
    /// How many answers have to be compared.
    pub compared: u64,
    /// The step waits until it is shown that the candidate disagrees with the active colour more often than that one with
    /// itself by less than this share of the answers.
    pub max_excess: Option<f64>,
    /// How long the step lasts at least.
    pub hold: Duration,
    /// How many answers of the candidate the step waits for.
    pub min_requests: u64,
    /// The step waits until it is shown that the candidate's error rate is above the active colour's by less than this share
    /// of the requests.
    pub no_worse_than: Option<f64>,
    /// But no longer than so long.
    pub hold_at_most: Option<Duration>,
}

#[derive(FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawRolloutStep {
    /// The candidate's share; absent in a step that only copies requests.
    #[serde(default)]
    canary_percent: Percent,
    /// The share of the active colour's requests that are copied to the candidate.
    shadow_percent: Option<Percent>,
    /// How many answers have to be compared.
    compared: Option<u64>,
    /// The step waits until it is shown that the candidate disagrees with the active colour more often than that one with
    /// itself by less than this.
    #[serde(default, deserialize_with = "margin")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::positive_share"))]
    max_excess: Option<f64>,
    /// How long the step lasts at least.
    #[serde(default, deserialize_with = "deserialize_optional_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    hold: Option<Duration>,
    /// How many answers of the candidate the step waits for; 100 if it is left out.
    min_requests: Option<u64>,
    /// The step waits until it is shown that the candidate's error rate is above the active colour's by less than this.
    #[serde(default, deserialize_with = "margin")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::positive_share"))]
    no_worse_than: Option<f64>,
    /// But no longer than so long.
    #[serde(default, deserialize_with = "deserialize_optional_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    hold_at_most: Option<Duration>,
}

/// What follows the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// The candidate is promoted.
    #[default]
    Promote,
    /// An operator is waited for.
    Pause,
}

/// More would not be told apart.
const MOST_STEPS: usize = 50;

/// Without answers there is nothing to conclude from.
const MIN_REQUESTS: u64 = 100;

fn margin(json: &Json<'_>) -> Result<Option<f64>, FieldError> {
    let margin = number(json)?;
    if margin > 0.0 && margin < 1.0 {
        Ok(Some(margin))
    } else {
        Err(FieldError::new(format!("{margin} is not above 0 and below 1, such as 0.01 for one point")))
    }
}

fn growing(json: &Json<'_>) -> Result<Vec<RolloutStep>, FieldError> {
    let steps = Vec::<RolloutStep>::from_json(json)?;
    if steps.is_empty() || steps.len() > MOST_STEPS {
        return Err(FieldError::new(format!("a rollout has 1 to {MOST_STEPS} steps, not {}", steps.len())));
    }
    let mut before = Percent::ZERO;
    for step in &steps {
        if step.only_copies() && before == Percent::ZERO {
            continue;
        }
        if step.only_copies() {
            return Err(FieldError::new(format!(
                "a step without canary_percent stands after one with {before}: steps that only copy requests come first"
            )));
        }
        if step.canary_percent <= before {
            let share = step.canary_percent;
            return Err(FieldError::new(format!("canary_percent {share} is not above {before}: each step goes up")));
        }
        before = step.canary_percent;
    }
    Ok(steps)
}

// === impl RolloutStep ===

impl RolloutStep {
    /// Whether no user is sent to the candidate yet.
    pub fn only_copies(&self) -> bool {
        self.canary_percent == Percent::ZERO
    }

    /// Whether answers have to be compared before the step is over.
    pub const fn awaits_comparison(&self) -> bool {
        self.compared > 0 || self.max_excess.is_some()
    }
}

impl RolloutPlan {
    /// Whether a step says what share is copied. Then all do: what a step leaves out is none.
    pub fn sets_shadow(&self) -> bool {
        self.steps.iter().any(|step| step.shadow_percent.is_some())
    }
}

impl TryFrom<RawRolloutStep> for RolloutStep {
    type Error = &'static str;

    fn try_from(raw: RawRolloutStep) -> Result<Self, Self::Error> {
        let RawRolloutStep { canary_percent, shadow_percent, hold, min_requests, no_worse_than, hold_at_most, .. } =
            raw;
        let (compared, max_excess) = (raw.compared.unwrap_or_default(), raw.max_excess);
        let copies = shadow_percent.is_some_and(|share| share > Percent::ZERO);
        let serves = canary_percent > Percent::ZERO;
        let step = Self {
            canary_percent,
            shadow_percent,
            compared,
            max_excess,
            hold: hold.unwrap_or_default(),
            min_requests: min_requests.unwrap_or(if serves { MIN_REQUESTS } else { 0 }),
            no_worse_than,
            hold_at_most,
        };
        match (hold, hold_at_most) {
            _ if !serves && !copies => {
                Err("a step gives the candidate a share above 0: canary_percent, or shadow_percent")
            }
            _ if !serves && (min_requests.is_some() || no_worse_than.is_some()) => Err(
                "`min_requests` and `no_worse_than` are about users: without canary_percent use `compared` and `max_excess`",
            ),
            _ if step.awaits_comparison() && !copies => {
                Err("`compared` and `max_excess` are about copied requests: add shadow_percent, above 0")
            }
            (None, _) if no_worse_than.is_none() && !step.awaits_comparison() => Err(
                "missing field `hold`: how long the step lasts, unless `no_worse_than`, `compared` or `max_excess` says when it ends",
            ),
            (_, Some(_)) if no_worse_than.is_none() && max_excess.is_none() => {
                Err("`hold_at_most` goes with `no_worse_than` or `max_excess`: without them a step ends after `hold`")
            }
            (Some(least), Some(most)) if most < least => Err("`hold_at_most` is shorter than `hold`"),
            _ => Ok(step),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for RolloutStep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RolloutStep".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RawRolloutStep::json_schema(generator)
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
        let plan: RolloutPlan = json::from_str(r#"{"steps": [{"canary_percent": 1, "hold": "60s"}]}"#).expect("valid");
        assert_eq!((plan.then, plan.steps[0].min_requests), (Then::Promote, 100));
        let json = r#"{"steps": [{"canary_percent": 1, "no_worse_than": "0.01"}]}"#;
        let plan: RolloutPlan = json::from_str(json).expect("valid");
        assert_eq!((plan.steps[0].hold, plan.steps[0].no_worse_than), (Duration::ZERO, Some(0.01)));
        let json = r#"{"steps": [{"shadow_percent": 20, "compared": 500, "max_excess": 0.02}, {"canary_percent": 1, "hold": "60s"}]}"#;
        let plan: RolloutPlan = json::from_str(json).expect("valid");
        let [copying, first] = plan.steps[..] else { panic!("two steps") };
        assert_eq!((copying.only_copies(), copying.min_requests, copying.compared), (true, 0, 500));
        assert_eq!((first.shadow_percent, first.min_requests, plan.sets_shadow()), (None, 100, true));
    }

    #[test]
    fn steps_that_lead_nowhere_are_refused_with_the_reason() {
        let cases = [
            (r#"[]"#, "1 to 50 steps"),
            (r#"[{"canary_percent": 0, "hold": "1s"}]"#, "a share above 0"),
            (r#"[{"canary_percent": 5, "hold": "1s"}, {"canary_percent": 5, "hold": "1s"}]"#, "5 is not above 5"),
            (r#"[{"canary_percent": 5, "hold": "0s"}]"#, "too short"),
            (r#"[{"canary_percent": 5}]"#, "missing field `hold`"),
            (r#"[{"hold": "1s"}]"#, "above 0: canary_percent, or shadow_percent"),
            (r#"[{"shadow_percent": 5, "hold": "1s", "min_requests": 5}]"#, "use `compared` and `max_excess`"),
            (r#"[{"canary_percent": 5, "compared": 5}]"#, "add shadow_percent"),
            (r#"[{"shadow_percent": 0, "max_excess": 0.1}]"#, "above 0: canary_percent, or shadow_percent"),
            (r#"[{"shadow_percent": 5}]"#, "missing field `hold`"),
            (
                r#"[{"shadow_percent": 5, "compared": 5, "hold_at_most": "2s"}]"#,
                "goes with `no_worse_than` or `max_excess`",
            ),
            (
                r#"[{"canary_percent": 5, "hold": "1s"}, {"shadow_percent": 5, "compared": 5}]"#,
                "steps that only copy requests come first",
            ),
            (r#"[{"canary_percent": 5, "no_worse_than": 0}]"#, "not above 0"),
            (r#"[{"canary_percent": 5, "hold": "1s", "hold_at_most": "2s"}]"#, "goes with `no_worse_than` or"),
            (
                r#"[{"canary_percent": 5, "hold": "3s", "no_worse_than": 0.1, "hold_at_most": "2s"}]"#,
                "shorter than `hold`",
            ),
        ];
        for (steps, reason) in cases {
            let json = format!(r#"{{"steps": {steps}}}"#);
            let error = json::from_str::<RolloutPlan>(&json).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
