//! What is behind a colour.

use std::fmt;

use serde::Serialize;

use crate::json::FromJson;
use crate::model::name::{ClusterName, HostName, Version};

/// Where a colour's requests go, and which model version answers there. Another one in the same slot is another candidate:
/// nothing that was shown about the one says anything about the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The Envoy cluster.
    pub cluster: ClusterName,
    /// Further clusters with the same endpoints: gateways make one of each of their rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<ClusterName>,
    /// The model version.
    pub version: Version,
    /// What the colour's requests ask for in `:authority`; absent: what the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<HostName>,
}

// === impl Identity ===

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {} (cluster {})", self.version.as_str(), self.cluster.as_str())
    }
}
