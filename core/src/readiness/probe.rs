//! Probes: whether a colour's model server is there and says that it is healthy.
//!
//! The leader asks both colours at a period and keeps what it found. A switch never relies on that: it
//! asks again, now.

use serde::Serialize;

use crate::clusters;
use crate::config::Probe;
use crate::deployment::Deployment;
use crate::host::Host;
use crate::host::http::{HttpReply, HttpRequest};
use crate::json::{self, FromJson};
use crate::metrics::counters::ColourMetric;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::name::DeploymentName;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::store::key::Key;
use crate::store::{Store, update};

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Whether the colour is healthy.
    pub healthy: bool,
    /// What was seen.
    pub detail: String,
}

/// What is known of a colour from the probes up to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromJson)]
pub struct Health {
    /// Whether the colour is healthy: a healthy one stays so for `unhealthy_after` - 1 failures in a row.
    pub healthy: bool,
    /// When it was last asked.
    pub checked_at: Timestamp,
    /// What was seen then.
    pub detail: String,
    /// Failures in a row.
    failures: u16,
    /// What was asked.
    of: Identity,
}

// === impl Probe ===

impl Probe {
    /// The request that asks what is behind a colour.
    pub fn request(&self, deployment: &Deployment, identity: &Identity) -> HttpRequest {
        let host = deployment.host(identity, self.host.as_ref());
        HttpRequest::new(&identity.cluster, host, "GET", self.path.as_str(), self.timeout)
    }

    /// What a reply says about the colour.
    pub fn judge(&self, reply: &HttpReply) -> ProbeResult {
        let well = |status: u16| self.expect_status.map_or(status < 500, |expected| status == expected.get());
        let healthy = matches!(reply, HttpReply::Answered { status, .. } if well(*status));
        let path = self.path.as_str();
        let expected = match (reply, self.expect_status) {
            (HttpReply::Answered { .. }, Some(status)) if !healthy => {
                format!(" (GET {path}, expected {})", status.get())
            }
            (HttpReply::Answered { .. }, None) if !healthy => format!(" (GET {path}, expected any status below 500)"),
            _ => String::new(),
        };
        ProbeResult { healthy, detail: format!("{}{expected}", reply.describe(self.timeout)) }
    }
}

// === impl Health ===

impl Health {
    /// The health of `of` after one more result. What something else answered that was behind the colour does not count.
    pub fn after(
        before: Option<&Self>,
        of: &Identity,
        result: ProbeResult,
        unhealthy_after: u16,
        now: Timestamp,
    ) -> Self {
        let before = before.filter(|health| health.of == *of);
        let failures = match (result.healthy, before) {
            (true, _) => 0,
            (false, before) => before.map_or(0, |health| health.failures).saturating_add(1),
        };
        // A colour that was never seen well is not given the benefit of the doubt.
        let was_healthy = before.is_some_and(|health| health.healthy);
        let healthy = result.healthy || (was_healthy && failures < unhealthy_after);
        Self { healthy, checked_at: now, detail: result.detail, failures, of: of.clone() }
    }
}

/// Asks what is behind a colour, or what waits to be; `None` where the deployment has no probe.
pub async fn ask(host: &dyn Host, deployment: &Deployment, identity: &Identity) -> Option<ProbeResult> {
    let probe = deployment.probe.as_ref()?;
    let request = probe.request(deployment, identity);
    let reply = host.http(&request).await;
    let colour = Colour::ALL.into_iter().find(|colour| deployment.colours.get(*colour).cluster == request.cluster);
    if let Some(colour) = colour {
        let field = format!("colours.{colour}.cluster");
        clusters::saw(host, deployment, &field, &request.cluster, !matches!(reply, HttpReply::UnknownCluster(_)));
    }
    Some(probe.judge(&reply))
}

/// Asks what is behind a colour, and writes down what it says.
pub async fn observe(
    host: &dyn Host,
    deployment: &Deployment,
    colour: Colour,
    identity: &Identity,
) -> Option<ProbeResult> {
    let result = ask(host, deployment, identity).await?;
    let probe = deployment.probe.as_ref()?;
    record(host, &deployment.name, colour, identity, probe, &result);
    Some(result)
}

/// What is known of what is behind both colours in this state; nothing while the store is out of reach.
pub fn health(store: &dyn Store, deployment: &Deployment, state: &State) -> PerColour<Option<Health>> {
    PerColour::from_fn(|colour| {
        let is_in_force = |health: &Health| health.of == *deployment.identity(state, colour);
        read(store, &deployment.name, colour).filter(is_in_force)
    })
}

/// Shows in the gauges what is known. Envoy forgets no gauge: that of a probe which the configuration does not have any more
/// says nothing against the colour.
pub fn show(host: &dyn Host, deployment: &Deployment, state: &State) {
    let name = &deployment.name;
    if deployment.probe.is_none() {
        let was_asked = |colour: &Colour| read(host.store(), name, *colour).is_some();
        Colour::ALL.into_iter().filter(was_asked).for_each(|colour| show_one(host, name, colour, true));
        return;
    }
    let health = health(host.store(), deployment, state);
    for colour in Colour::ALL {
        if let Some(health) = health.get(colour) {
            show_one(host, name, colour, health.healthy);
        }
    }
}

fn show_one(host: &dyn Host, name: &DeploymentName, colour: Colour, healthy: bool) {
    host.set_gauge(&ColourMetric::Healthy.name(name, colour), u64::from(healthy));
}

/// Writes down one more result, and says so where it turns what is known. While the store is out of reach it is lost, as it
/// could not be read either.
fn record(host: &dyn Host, name: &DeploymentName, colour: Colour, of: &Identity, probe: &Probe, result: &ProbeResult) {
    let (mut was_healthy, mut is_healthy) = (None, true);
    let written = update(host.store(), &key(name, colour), &mut |known| {
        let before: Option<Health> = known.value.and_then(|bytes| json::from_slice(&bytes).ok());
        let health = Health::after(before.as_ref(), of, result.clone(), probe.unhealthy_after.get(), host.now());
        was_healthy = before.filter(|before| before.of == *of).map(|before| before.healthy);
        is_healthy = health.healthy;
        serde_json::to_vec(&health).ok()
    });
    if written != Ok(true) {
        return;
    }
    show_one(host, name, colour, is_healthy);
    let detail = &result.detail;
    match (was_healthy, is_healthy) {
        (None | Some(true), false) => {
            host.warn(&format!("bluegreen: deployment={name} colour={colour} is unhealthy: {detail}"));
        }
        (Some(false), true) => {
            host.warn(&format!("bluegreen: deployment={name} colour={colour} is healthy again: {detail}"));
        }
        (None | Some(true), true) | (Some(false), false) => {}
    }
}

fn read(store: &dyn Store, name: &DeploymentName, colour: Colour) -> Option<Health> {
    json::from_slice(&store.read(&key(name, colour)).ok()?.value?).ok()
}

fn key(name: &DeploymentName, colour: Colour) -> String {
    Key::Probe(name, colour).to_string()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::split::Split;
    use crate::testing::host::TestHost;
    use crate::testing::{green_has_an_authority, identity};

    fn probe(more: &str) -> Probe {
        json::from_str(&format!(r#"{{"path": "/ping" {more}}}"#)).expect("valid")
    }

    fn answered(status: u16) -> HttpReply {
        HttpReply::Answered { status, body: Vec::new() }
    }

    #[test]
    fn a_colour_is_asked_with_the_probes_host_or_its_own_authority_or_the_deployments_name() {
        let deployments = green_has_an_authority();
        let own = r#", "host": "iris.example.com:8080""#;
        for (more, colour, host) in [
            ("", Colour::Blue, "iris"),
            ("", Colour::Green, "iris-green.example.com"),
            (own, Colour::Blue, "iris.example.com:8080"),
            (own, Colour::Green, "iris.example.com:8080"),
        ] {
            let iris = &deployments.all()[0];
            let request = probe(more).request(iris, iris.colours.get(colour));
            assert_eq!(request.cluster.as_str(), colour.as_str());
            assert!(request.headers.contains(&(":authority".to_owned(), host.to_owned())), "{request:?}");
        }
    }

    #[test]
    fn without_an_expected_status_any_answer_below_500_is_well() {
        for (status, healthy) in [(200, true), (404, true), (500, false), (503, false), (504, false)] {
            assert_eq!(probe("").judge(&answered(status)).healthy, healthy, "{status}");
        }
        assert!(!probe("").judge(&HttpReply::Broken).healthy);
    }

    #[test]
    fn with_an_expected_status_no_other_is_well_and_the_result_says_so() {
        let strict = probe(r#", "expect_status": 200"#);
        assert!(strict.judge(&answered(200)).healthy);
        let result = strict.judge(&answered(404));
        assert_eq!((result.healthy, result.detail.as_str()), (false, "answered 404 (GET /ping, expected 200)"));
    }

    #[test]
    fn a_healthy_colour_turns_unhealthy_after_so_many_failures_in_a_row() {
        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let (iris, state) = (&deployments.all()[0], State::initial(Split::default(), Timestamp::default()));
        let mut seen = Vec::new();
        for status in [500, 200, 500, 500, 200, 500, 500, 500, 500, 200] {
            let result = probe("").judge(&answered(status));
            record(&host, &iris.name, Colour::Green, &iris.colours.green, &probe(""), &result);
            seen.push(health(&host.store, iris, &state).green.expect("recorded").healthy);
        }
        assert_eq!(seen, [false, true, true, true, true, true, true, false, false, true]);
        assert_eq!(health(&host.store, iris, &state).blue, None);
    }

    #[test]
    fn a_verdict_that_turns_is_one_line_and_the_gauge_follows_it() {
        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let iris = &deployments.all()[0];
        let unhealthy = "bluegreen: deployment=iris colour=green is unhealthy: answered 500 (GET /ping, expected any status below 500)";
        let again = "bluegreen: deployment=iris colour=green is healthy again: answered 200";
        for (status, line, shown) in [
            (500, Some(unhealthy), 0),
            (500, None, 0),
            (200, Some(again), 1),
            (500, None, 1),
            (500, None, 1),
            (500, Some(unhealthy), 0),
            (500, None, 0),
            (200, Some(again), 1),
        ] {
            let result = probe("").judge(&answered(status));
            record(&host, &iris.name, Colour::Green, &iris.colours.green, &probe(""), &result);
            assert_eq!(host.take_warnings(), line.into_iter().collect::<Vec<_>>());
            assert_eq!(host.gauge("bluegreen.deployment.iris.colour.green.healthy"), Some(shown));
        }
        assert_eq!(host.gauge("bluegreen.deployment.iris.colour.blue.healthy"), None, "it was never asked");
    }

    #[test]
    fn a_probe_that_was_taken_out_of_the_configuration_says_nothing_against_a_colour() {
        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let (iris, state) = (&deployments.all()[0], State::initial(Split::default(), Timestamp::default()));
        show(&host, iris, &state);
        assert_eq!(host.gauges().len(), 0);
        let result = probe("").judge(&answered(500));
        record(&host, &iris.name, Colour::Green, &iris.colours.green, &probe(""), &result);
        assert_eq!(host.gauges().into_values().collect::<Vec<_>>(), [0]);
        assert!(iris.probe.is_none());
        show(&host, iris, &state);
        assert_eq!(host.gauges().into_values().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_one_version_answered_says_nothing_about_the_next_in_its_slot() {
        let well = || ProbeResult { healthy: true, detail: String::new() };
        let sick = || ProbeResult { healthy: false, detail: String::new() };
        let known = Health::after(None, &identity("1"), well(), 3, Timestamp::default());
        assert!(Health::after(Some(&known), &identity("1"), sick(), 3, Timestamp::default()).healthy);
        assert!(!Health::after(Some(&known), &identity("2"), sick(), 3, Timestamp::default()).healthy);

        let (host, deployments) = (TestHost::default(), green_has_an_authority());
        let iris = &deployments.all()[0];
        record(&host, &iris.name, Colour::Green, &iris.colours.green, &probe(""), &well());
        let mut state = State::initial(Split::default(), Timestamp::default());
        assert!(health(&host.store, iris, &state).green.is_some());
        state.identities.green = Some(identity("3"));
        assert_eq!(health(&host.store, iris, &state).green, None);
    }
}
