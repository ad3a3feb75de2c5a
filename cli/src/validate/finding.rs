//! What the checks find, and the list of checks.

use std::fmt;
use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::document::{At, Place};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// It may be meant.
    Warning,
    /// It cannot work as it is meant.
    Error,
}

/// Declares the checks: the word for each, how much it matters, and what it finds.
macro_rules! checks {
    ($($check:ident, $word:literal, $level:ident, $meaning:literal;)+) => {
        /// A check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {$(
            #[doc = $meaning]
            $check,
        )+}

        impl Check {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$check),+];

            /// The word for it. Where the running filter finds the same mistake, it is the filter's word.
            pub const fn as_str(self) -> &'static str {
                match self {$(Self::$check => $word),+}
            }

            /// How much it matters, where nothing else is said with a finding.
            pub const fn level(self) -> Level {
                match self {$(Self::$check => Level::$level),+}
            }

            /// What it finds, for people who read the list of checks.
            #[cfg(test)]
            pub const fn meaning(self) -> &'static str {
                match self {$(Self::$check => $meaning),+}
            }
        }
    };
}

checks! {
    Unreadable, "unreadable", Error, "a file that is not there, or is neither YAML nor JSON";
    UnknownDocument, "unknown-document", Error, "a document that is no plugin configuration, Envoy file or manifest";
    Configuration, "configuration", Error, "what the filter's own reader refuses: a field that is unknown, missing or out of range";
    NotHere, "not-here", Note, "a configuration that comes by discovery from a file that is not given";
    NoTrafficWorker, "no-traffic-worker", Error, "listeners with the same deployments and another `vm_id` or another module: each has a state of its own";
    WorkersDisagree, "workers-disagree", Error, "listeners with one `vm_id` and other `deployments`";
    VmIdShared, "vm-id-shared", Warning, "another plugin with the filter's `vm_id`, or an empty one: it can write the filter's state";
    AnswersFromElsewhere, "answers-from-elsewhere", Error, "a route that does not follow the filter: `cluster`, `weighted_clusters`, another `cluster_header`, a later filter that writes the header";
    NoRoute, "no-route", Error, "a deployment whose requests no route takes";
    UnmatchedRequests, "unmatched-requests", Warning, "a route by the filter's header for requests that no deployment takes";
    PathColon, "path-colon", Warning, "`path_separated_prefix` where paths continue with a `:`, as `/v1/models/iris:predict`";
    ClusterUnknown, "cluster-unknown", Error, "a cluster that a configuration names and that is not there";
    NotSeeded, "not-seeded", Warning, "a listener that does not write the cluster header by early header mutation";
    WrongSeed, "wrong-seed", Error, "a seed that is not the cluster of `initial.active`, or that does not replace what clients write";
    ClientHeaders, "client-headers", Warning, "colour or shadow header that clients can write while the filter is bypassed";
    RetriesHideFailures, "retries-hide-failures", Warning, "a retry policy that repeats what a colour has failed";
    ShadowRoute, "shadow-route", Error, "`shadow_percent` without a mirror policy that follows the shadow header, unless `shadow.compare` takes every copy";
    StatsFiltered, "stats-filtered", Warning, "a `stats_matcher` that drops the filter's metrics";
    StatsLabels, "stats-labels", Warning, "`stats_tags` that do not make labels of the filter's metrics";
    FilterOrder, "filter-order", Warning, "a filter behind bluegreen that refuses or answers requests; a router that is not last";
    FilterOff, "filter-off", Error, "a filter that is `disabled` and that the deployment's route does not turn on";
    TwoFilters, "two-filters", Error, "two filters of one chain with the same deployment";
    FailurePolicy, "failure-policy", Warning, "neither `FAIL_RELOAD` nor `fail_open`: once the module has failed, all requests are refused";
    RequestBodies, "request-bodies", Warning, "an admin API that cannot read a request's body";
    Capabilities, "capabilities", Error, "a `capability_restriction_config` without a capability that the filter needs";
    DemoToken, "demo-token", Error, "a token that is published with this project";
    AdminOpen, "admin-open", Warning, "`open: true`: everybody may do everything";
    AdminExposed, "admin-exposed", Warning, "an admin API that other machines reach";
    NoTokens, "no-tokens", Warning, "an admin API with neither tokens nor `open`: each call is answered 401";
    TokenRoles, "token-roles", Warning, "one token with two roles or holders in two listeners";
    AdminTimeout, "admin-timeout", Warning, "a timeout of the admin listener that cuts off a drain";
    EtcdHttp2, "etcd-http2", Error, "an etcd cluster without HTTP/2, which gRPC needs";
    NotDurable, "not-durable", Note, "neither etcd, Kubernetes nor MLflow: a restart begins with `initial`";
    NoProbe, "no-probe", Note, "a deployment without `probe`: a switch trusts the operator";
    OverrideOpen, "override-open", Note, "an `override` without tokens: every client can choose its colour";
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file, as it was named.
    #[serde(serialize_with = "text")]
    pub file: Rc<str>,
    /// The line, from 1; 0 where it is not known.
    pub line: u64,
    /// The column, from 1.
    pub column: u64,
    /// The way to it from the root of its document.
    pub path: String,
    /// How much it matters.
    pub level: Level,
    /// Which check found it.
    #[serde(rename = "problem")]
    pub check: Check,
    /// What is wrong, and what to do.
    pub detail: String,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

fn text<S: Serializer>(text: &Rc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

// === impl Check ===

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === impl Level ===

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

// === impl Findings ===

impl Findings {
    /// Adds what was found at a place.
    pub fn add(&mut self, check: Check, at: &At<'_>, detail: impl Into<String>) {
        self.add_with(check, check.level(), at, detail);
    }

    /// The same, where it matters more or less than usual.
    pub fn add_with(&mut self, check: Check, level: Level, at: &At<'_>, detail: impl Into<String>) {
        self.add_in(check, level, &at.document.file, at.place(), at.path.clone(), detail.into());
    }

    /// Adds what was found where no value is.
    pub fn add_in(&mut self, check: Check, level: Level, file: &Rc<str>, place: Place, path: String, detail: String) {
        let Place { line, column } = place;
        let finding = Finding { file: Rc::clone(file), line, column, path, level, check, detail };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    /// All of them, in the order of files and lines.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.0.sort();
        self.0
    }
}
