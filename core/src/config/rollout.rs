//! The `rollout` section: the steps in which a candidate gets its share of the traffic.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::model::percent::Percent;
use crate::model::time::deserialize_span;

/// A series of canary steps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutPlan {
    /// The steps, each with a larger share than the one before.
    #[serde(deserialize_with = "growing")]
    pub steps: Vec<RolloutStep>,
    /// What follows the last one.
    #[serde(default)]
    pub then: Then,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutStep {
    /// The candidate's share.
    pub canary_percent: Percent,
    /// How long the step lasts at least.
    #[serde(deserialize_with = "deserialize_span")]
    pub hold: Duration,
    /// How many answers of the candidate the step waits for.
    #[serde(default)]
    pub min_requests: u64,
}

/// What follows the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

fn growing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RolloutStep>, D::Error> {
    let steps = Vec::<RolloutStep>::deserialize(deserializer)?;
    if steps.is_empty() || steps.len() > MOST_STEPS {
        return Err(de::Error::custom(format!("a rollout has 1 to {MOST_STEPS} steps, not {}", steps.len())));
    }
    let mut before = Percent::ZERO;
    for step in &steps {
        if step.canary_percent <= before {
            let share = step.canary_percent;
            return Err(de::Error::custom(format!("canary_percent {share} is not above {before}: each step goes up")));
        }
        before = step.canary_percent;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_is_left_out_takes_its_documented_default() {
        let plan: RolloutPlan =
            serde_json::from_str(r#"{"steps": [{"canary_percent": 1, "hold": "60s"}]}"#).expect("valid");
        assert_eq!((plan.then, plan.steps[0].min_requests), (Then::Promote, 0));
    }

    #[test]
    fn steps_that_lead_nowhere_are_refused_with_the_reason() {
        let cases = [
            (r#"[]"#, "1 to 50 steps"),
            (r#"[{"canary_percent": 0, "hold": "1s"}]"#, "0 is not above 0"),
            (r#"[{"canary_percent": 5, "hold": "1s"}, {"canary_percent": 5, "hold": "1s"}]"#, "5 is not above 5"),
            (r#"[{"canary_percent": 5, "hold": "0s"}]"#, "no time at all"),
            (r#"[{"canary_percent": 5}]"#, "missing field `hold`"),
        ];
        for (steps, reason) in cases {
            let json = format!(r#"{{"steps": {steps}}}"#);
            let error = serde_json::from_str::<RolloutPlan>(&json).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
