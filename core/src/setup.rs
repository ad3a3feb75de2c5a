//! What is wrong around the filter, found while it runs: a mistake in the set-up that no validation of Envoy's sees.
//!
//! The part of the filter that finds one notes it, and clears it once it is gone. What is noted is kept in shared data, so that any worker can
//! show it, and is worth one line in the log and a gauge.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::deployment::Deployment;
use crate::host::Host;
use crate::json::{self, FromJson};
use crate::metrics::named::Named;
use crate::model::colour::Colour;
use crate::model::name::DeploymentName;
use crate::model::time::Timestamp;
use crate::store::key::Key;
use crate::store::{Store, update};

/// A kind of mistake. `docs/setup.md` says what each means and how to fix it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum SetupProblem {
    /// No worker that shares this state routes requests.
    NoTrafficWorker,
    /// Workers have different configurations of the deployment.
    WorkersDisagree,
    /// Answers came from another cluster than the one that was chosen.
    AnswersFromElsewhere,
    /// Envoy does not know the cluster of a colour.
    ClusterUnknown,
    /// A request came without the header that early header mutation should have seeded.
    NotSeeded,
    /// Requests passed that no deployment takes.
    UnmatchedRequests,
    /// Envoy keeps no stats of the filter.
    StatsFiltered,
    /// Envoy retries requests, so that clients do not see a colour's failures.
    RetriesHideFailures,
    /// The state is kept in memory only.
    NotDurable,
    /// A published demo token can change production traffic.
    DemoToken,
    /// A version that was pushed waits for what its colour has to pass.
    VersionWaits,
    /// The fleet's store refuses to take the state.
    EtcdRefuses,
    /// The API server does not take the state.
    KubernetesRefuses,
    /// A receiver does not take notifications.
    NotificationsFailing,
    /// The Secret with the tokens of the admin API is missing, cannot be read, or has a token that is refused.
    AdminTokens,
}

/// What was noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Noted {
    /// What was seen, and what to do.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
    /// The colours that it is about, where it is not about all of the deployment.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub colours: BTreeSet<Colour>,
}

/// The mistakes that are known of one deployment.
pub type Notes = BTreeMap<SetupProblem, Noted>;

/// The longest detail, in bytes.
const LONGEST_DETAIL: usize = 400;

/// Notes a mistake. The first time is logged; another detail replaces the one before. It costs a read of shared data: not
/// for each request.
///
/// Whether it is one that was not known.
pub fn note(host: &dyn Host, deployment: &Deployment, problem: SetupProblem, detail: String) -> bool {
    note_about(host, deployment, problem, None, detail)
}

/// The same about a colour; [`clear_about`] takes it back.
pub fn note_about(
    host: &dyn Host,
    deployment: &Deployment,
    problem: SetupProblem,
    about: Option<Colour>,
    mut detail: String,
) -> bool {
    detail.truncate(detail.floor_char_boundary(LONGEST_DETAIL));
    let (name, now) = (&deployment.name, host.now());
    let mut is_new = false;
    let written = update(host.store(), &key(name), &mut |before| {
        let mut notes = decode(before.value);
        is_new = !notes.contains_key(&problem);
        let known = notes.get(&problem);
        let since = known.map_or(now, |noted| noted.since);
        let mut colours = known.map(|noted| noted.colours.clone()).unwrap_or_default();
        colours.extend(about);
        let after = Noted { detail: detail.clone(), since, colours };
        if notes.insert(problem, after.clone()).as_ref() == Some(&after) {
            return None;
        }
        serde_json::to_vec(&notes).ok()
    });
    is_new &= written == Ok(true);
    if is_new {
        host.warn(&format!("bluegreen: deployment={name} setup={}: {detail}", problem.as_str()));
    }
    host.set_gauge(&Named::SetupProblems(name, problem.as_str()).to_string(), 1);
    is_new
}

/// Takes a mistake back that is not seen any more.
pub fn clear(host: &dyn Host, deployment: &Deployment, problem: SetupProblem) {
    clear_where(host, deployment, problem, |_| true);
}

/// Takes it back about a colour: it stays while it is about the other one as well.
pub fn clear_about(host: &dyn Host, deployment: &Deployment, problem: SetupProblem, colour: Colour) {
    clear_where(host, deployment, problem, |colours| colours.remove(&colour) && colours.is_empty());
}

/// Takes it back if `ends`, which may also leave fewer colours behind.
fn clear_where(
    host: &dyn Host,
    deployment: &Deployment,
    problem: SetupProblem,
    ends: impl Fn(&mut BTreeSet<Colour>) -> bool,
) {
    let mut is_over = false;
    let cleared = update(host.store(), &key(&deployment.name), &mut |before| {
        let mut notes = decode(before.value);
        let noted = notes.get_mut(&problem)?;
        let colours = noted.colours.len();
        is_over = ends(&mut noted.colours);
        if is_over {
            notes.remove(&problem);
        } else if noted.colours.len() == colours {
            return None;
        }
        serde_json::to_vec(&notes).ok()
    });
    if cleared == Ok(true) && is_over {
        host.info(&format!("bluegreen: deployment={} setup={}: fixed", deployment.name, problem.as_str()));
        host.set_gauge(&Named::SetupProblems(&deployment.name, problem.as_str()).to_string(), 0);
    }
}

/// What is known to be wrong; nothing while the store is out of reach.
pub fn noted(store: &dyn Store, name: &DeploymentName) -> Notes {
    store.read(&key(name)).map(|stored| decode(stored.value)).unwrap_or_default()
}

fn decode(value: Option<Vec<u8>>) -> Notes {
    json::from_slice(&value.unwrap_or_default()).unwrap_or_default()
}

fn key(name: &DeploymentName) -> String {
    Key::Setup(name).to_string()
}

// === impl SetupProblem ===

impl SetupProblem {
    /// The name in API, log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoTrafficWorker => "no-traffic-worker",
            Self::WorkersDisagree => "workers-disagree",
            Self::AnswersFromElsewhere => "answers-from-elsewhere",
            Self::ClusterUnknown => "cluster-unknown",
            Self::NotSeeded => "not-seeded",
            Self::UnmatchedRequests => "unmatched-requests",
            Self::StatsFiltered => "stats-filtered",
            Self::RetriesHideFailures => "retries-hide-failures",
            Self::NotDurable => "not-durable",
            Self::DemoToken => "demo-token",
            Self::VersionWaits => "version-waits",
            Self::EtcdRefuses => "etcd-refuses",
            Self::KubernetesRefuses => "kubernetes-refuses",
            Self::NotificationsFailing => "notifications-failing",
            Self::AdminTokens => "admin-tokens",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::green_has_an_authority;
    use crate::testing::host::TestHost;

    #[test]
    fn a_mistake_is_logged_once_shown_until_it_is_fixed_and_logged_again_when_it_comes_back() {
        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let iris = &deployments.all()[0];
        let problem = SetupProblem::ClusterUnknown;
        note(&host, iris, problem, "gren".to_owned());
        note(&host, iris, problem, "gren, 2 times".to_owned());
        assert_eq!(noted(&host.store, &iris.name)[&problem].detail, "gren, 2 times");
        assert_eq!(host.take_log(), ["bluegreen: deployment=iris setup=cluster-unknown: gren"]);
        clear(&host, iris, problem);
        clear(&host, iris, problem);
        assert_eq!(noted(&host.store, &iris.name), Notes::new());
        assert_eq!(host.take_log(), ["bluegreen: deployment=iris setup=cluster-unknown: fixed"]);
        note(&host, iris, problem, "gren".to_owned());
        assert_eq!(host.take_log().len(), 1);
    }

    #[test]
    fn a_mistake_about_both_colours_stays_until_both_are_fixed() {
        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let iris = &deployments.all()[0];
        let problem = SetupProblem::AnswersFromElsewhere;
        for colour in Colour::ALL {
            note_about(&host, iris, problem, Some(colour), format!("of {colour}"));
        }
        assert_eq!(host.take_log().len(), 1);
        clear_about(&host, iris, problem, Colour::Blue);
        clear_about(&host, iris, problem, Colour::Blue);
        assert_eq!(noted(&host.store, &iris.name)[&problem].colours, [Colour::Green].into());
        assert_eq!(host.take_log(), Vec::<String>::new());
        clear_about(&host, iris, problem, Colour::Green);
        assert_eq!(noted(&host.store, &iris.name), Notes::new());
        assert_eq!(host.take_log(), ["bluegreen: deployment=iris setup=answers-from-elsewhere: fixed"]);
    }

    #[test]
    fn the_names_in_api_log_and_metrics_are_the_same() {
        let problem = SetupProblem::RetriesHideFailures;
        assert_eq!(serde_json::to_value(problem).expect("serialises"), problem.as_str());
    }
}
