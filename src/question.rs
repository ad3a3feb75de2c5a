//! One question to Envoy about an answer, in place of four.
//!
//! Reading the status, the code details, the cluster and the number of attempts takes four calls that return bytes, for each
//! of which the host enters the VM again: 43 thousand instructions. Envoy evaluates an expression (CEL) about all four in
//! one call, and the answer that almost all have is one that returns nothing.

use bluegreen_core::metrics::answer::Explanation;
use bluegreen_core::model::name::ClusterName;

use crate::host::{self, ExpressionId};

/// Whether an answer is the expected one: status 200, of the model server, of this cluster, at the first attempt.
pub struct Question {
    /// The cluster that is chosen for the request.
    pub cluster: ClusterName,
    expression: Option<ExpressionId>,
}

// === impl Question ===

impl Question {
    /// Has Envoy compile the question. An Envoy that cannot (no CEL parser, or `proxy_call_foreign_function` is not among
    /// its capabilities) is asked for each fact instead.
    pub fn new(cluster: &ClusterName) -> Self {
        // Of visible ASCII characters Rust escapes those that CEL wants escaped, in the same way.
        let name = cluster.as_str();
        // Null is the one kind of value here that Envoy cannot hand over, so it allocates nothing.
        let text = format!(
            r#"response.code_details == "via_upstream" && xds.cluster_name == {name:?} && upstream.request_attempt_count == 1u && response.headers[":status"] == "200" ? null : 1"#
        );
        Self { cluster: cluster.clone(), expression: host::compile(&text) }
    }

    /// Asks it about the answer whose head is under way. `false` is also what is not known.
    pub fn is_expected(&self) -> bool {
        self.expression.as_ref().is_some_and(host::is_null)
    }

    /// Another cluster is asked about from now on. Who still holds this one is not expected to get a right answer.
    pub fn forget(&self) {
        self.expression.iter().for_each(host::forget);
    }
}

/// What Envoy says about the answer, fact by fact.
pub fn explanation() -> Explanation {
    Explanation {
        code_details: host::text_property(["response", "code_details"]),
        cluster: host::text_property(["xds", "cluster_name"]),
        attempts: host::number_property(["upstream", "request_attempt_count"]),
    }
}
