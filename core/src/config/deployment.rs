//! One inference service with its two colours.

use std::time::Duration;

use super::guard::Guard;
use super::mlflow::Mlflow;
use super::pattern::MatchRules;
use super::readiness::{Bake, Failover, Probe, SmokeTest};
use super::rollout::{RolloutPlan, RolloutStep};
use super::shadow::Shadow;
use super::token_sum::TokenSum;
use crate::json::{FieldError, FromJson, Json};
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::{CookieName, HeaderName, HolderName};
use crate::model::percent::Percent;
use crate::model::split::Split;
use crate::model::time::deserialize_span;

/// A deployment as configured.
#[derive(Clone, Debug, PartialEq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeploymentConfig {
    /// Which requests belong to it.
    #[serde(default, rename = "match")]
    pub rules: MatchRules,
    /// Names the upstream cluster of its requests; absent: the header that all deployments use.
    pub cluster_header: Option<HeaderName>,
    /// What serves each colour.
    pub colours: PerColour<Identity>,
    /// The split before anybody changed it.
    #[serde(default)]
    pub initial: Initial,
    /// What keeps a user on one colour while the canary grows; absent: exact rotation.
    pub sticky: Option<Sticky>,
    /// Lets a tester reach either colour; absent: no client can choose.
    pub r#override: Option<Override>,
    /// Asks both colours whether they are healthy; absent: a switch trusts the operator.
    pub probe: Option<Probe>,
    /// Requests that the candidate must answer as expected.
    pub smoke_test: Option<SmokeTest>,
    /// How long the former active colour is held ready after a switch; absent: not at all.
    pub bake: Option<Bake>,
    /// When to roll back automatically; absent: never.
    pub failover: Option<Failover>,
    /// The model registry that the deployment follows; absent: none.
    pub mlflow: Option<Box<Mlflow>>,
    /// The steps in which a candidate gets its share; absent: operators take each step.
    pub rollout: Option<RolloutPlan>,
    /// The rules that compare candidate and active colour; absent: none.
    pub guard: Option<Guard>,
    /// What is done with copied requests beyond sending them; absent: nothing.
    pub shadow: Option<Shadow>,
    /// A number that stands for all of this as it was written.
    #[serde(skip)]
    pub digest: u64,
}

/// What a deployment begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Initial {
    /// The colour that ordinary traffic goes to.
    pub active: Colour,
    /// The share that goes to the candidate instead.
    pub canary_percent: Percent,
    /// The share of the active colour's requests that are also copied to the candidate.
    pub shadow_percent: Percent,
    /// What a start does when the active colour does not answer its probe and the other one does; absent: `other`.
    pub when_unhealthy: Option<WhenUnhealthy>,
}

/// What a start does when the colour that should be active does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WhenUnhealthy {
    /// The other colour gets the traffic, if it answers.
    #[default]
    Other,
    /// It keeps the traffic.
    Keep,
}

/// What keeps a user on one colour.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "StickyFields")]
pub struct Sticky {
    /// Where the key that identifies a user comes from.
    pub key: StickyKey,
    /// Goes into each bucket; absent: who knows deployment, version and key knows the bucket.
    pub salt: Option<Salt>,
}

/// A sticky section as users write it.
#[derive(FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct StickyFields {
    /// The request header with the key, such as `x-user-id`.
    header: Option<HeaderName>,
    /// The cookie with the key, which the filter issues when it is missing.
    cookie: Option<CookieSticky>,
    /// Goes into each bucket, so that no client can work out its own.
    salt: Option<Salt>,
}

/// A text that only the operators know, of at least one character, so that no client can work its bucket out.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[serde(try_from = "String")]
pub struct Salt(String);

/// Where the key that identifies a user comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StickyKey {
    /// A request header, such as `x-user-id`. Requests without it take part in the rotation.
    Header(HeaderName),
    /// A cookie that the filter issues when it is missing.
    Cookie(CookieSticky),
}

/// The cookie that identifies a browser.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CookieSticky {
    /// Its name.
    pub name: CookieName,
    /// How long a browser keeps it.
    #[serde(deserialize_with = "deserialize_span")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::model::schema::span"))]
    pub max_age: Duration,
    /// Whether browsers send it over TLS only. Off by default: over plain HTTP a secure cookie would never come back.
    #[serde(default)]
    pub secure: bool,
}

/// The header by which a tester asks for a colour.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Its name; the values are `blue` and `green`, anything else is ignored. It is removed from each request.
    pub header: HeaderName,
    /// Who may ask, by `green:TOKEN`; absent: every client.
    #[serde(default, deserialize_with = "deserialize_tokens")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub tokens: Option<Vec<OverrideToken>>,
}

/// A token with which a tester may ask for a colour.
#[derive(Clone, Debug, PartialEq, Eq, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OverrideToken {
    /// Who holds it, for those who read the configuration.
    pub name: HolderName,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: TokenSum,
}

// === impl DeploymentConfig ===

impl DeploymentConfig {
    /// The field that needs answers to be compared, if one does.
    pub(super) fn uses_comparison(&self) -> Option<String> {
        if self.guard.is_some_and(|guard| guard.disagreement.is_some()) {
            return Some("guard.disagreement".to_owned());
        }
        let place = self.rollout.as_ref()?.steps.iter().position(RolloutStep::awaits_comparison)?;
        Some(format!("rollout.steps[{place}]"))
    }
}

// === impl Initial ===

impl Initial {
    /// How the traffic is shared out.
    pub const fn split(&self) -> Split {
        let Self { active, canary_percent, shadow_percent, .. } = *self;
        Split { active, canary_percent, shadow_percent }
    }

    /// The rule that spans more than one section.
    pub(super) fn check(&self, probe: Option<&Probe>) -> Result<(), (&'static str, &'static str)> {
        match (self.when_unhealthy, probe) {
            (Some(WhenUnhealthy::Other), None) => Err((
                "initial.when_unhealthy",
                "without a probe nobody knows whether a colour answers: add a probe section, or leave \"other\" out",
            )),
            _ => Ok(()),
        }
    }
}

// === impl Sticky ===

impl TryFrom<StickyFields> for Sticky {
    type Error = &'static str;

    fn try_from(fields: StickyFields) -> Result<Self, Self::Error> {
        let key = match (fields.header, fields.cookie) {
            (Some(header), None) => StickyKey::Header(header),
            (None, Some(cookie)) => StickyKey::Cookie(cookie),
            (None, None) => return Err("a user needs a key: add header or cookie"),
            (Some(_), Some(_)) => return Err("header and cookie are two keys of one user: leave one of them out"),
        };
        Ok(Self { key, salt: fields.salt })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Sticky {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sticky".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        StickyFields::json_schema(generator)
    }
}

// === impl Salt ===

impl Salt {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Salt {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            Err("a salt of no characters hides nothing: leave it out, or use a random text")
        } else {
            Ok(Self(text))
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Salt {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Salt".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 1})
    }
}

// === impl Override ===

fn deserialize_tokens(json: &Json<'_>) -> Result<Option<Vec<OverrideToken>>, FieldError> {
    let tokens = Option::<Vec<OverrideToken>>::from_json(json)?;
    if tokens.as_ref().is_some_and(Vec::is_empty) {
        return Err(FieldError::new(
            "nobody could use the override: list a token, leave tokens out for every client, or leave override out",
        ));
    }
    Ok(tokens)
}
