//! Who makes a change, through which door, and why.

use serde::Serialize;

use crate::json::FromJson;
use crate::model::name::{HolderName, Reason};

/// Through which door a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, FromJson)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A plugin configuration whose `initial` differs from the one before.
    Config,
    /// The admin API.
    Admin,
    /// A rule that watches a deployment.
    Guard,
    /// A series of canary steps.
    Rollout,
    /// Requests or probes that do not reach the active colour.
    Failover,
    /// Envoy's runtime.
    Runtime,
    /// MLflow's model registry.
    Mlflow,
    /// The fleet's store.
    Etcd,
    /// The `spec` of a `BlueGreen` object.
    Kubernetes,
}

/// Who makes a change, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Author {
    /// The token's holder, or the source itself.
    pub by: HolderName,
    /// Through which door.
    pub source: Source,
    /// In the author's words; empty when none was given.
    pub reason: Reason,
    /// Whether a rule that stood against it was overridden.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forced: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands references over")]
fn is_false(flag: &bool) -> bool {
    !flag
}

// === impl Source ===

impl Source {
    /// The name in API and log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Config => "config",
            Source::Admin => "admin",
            Source::Guard => "guard",
            Source::Rollout => "rollout",
            Source::Failover => "failover",
            Source::Runtime => "runtime",
            Source::Mlflow => "mlflow",
            Source::Etcd => "etcd",
            Source::Kubernetes => "kubernetes",
        }
    }
}

// === impl Author ===

impl Author {
    /// An author who overrides no rule.
    pub const fn new(by: HolderName, source: Source, reason: Reason) -> Self {
        Self { by, source, reason, forced: false }
    }

    /// A source that acts by itself.
    pub const fn automatic(source: Source, reason: Reason) -> Self {
        Self::new(HolderName::literal(source.as_str()), source, reason)
    }

    /// The plugin configuration as an author.
    pub fn config() -> Self {
        Self::automatic(Source::Config, Reason::none())
    }
}
