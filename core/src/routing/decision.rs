//! What becomes of one request: deployment, then override, then stickiness, then the canary's rotation.

use super::cookie;
use super::matching::{Matcher, RequestHeaders};
use super::rotation::Rotation;
use super::sticky::Buckets;
use crate::config::{Config, DeploymentConfig, Sticky};
use crate::deployment::DeploymentIndex;
use crate::model::colour::{Colour, PerColour};
use crate::model::name::{DeploymentName, HeaderName};
use crate::model::percent::Percent;
use crate::model::split::Split;

/// A configuration as the request path needs it: it only looks things up.
#[derive(Debug)]
pub struct Router {
    matcher: Matcher,
    choices: Vec<Choice>,
}

/// How a request of one deployment chooses its colour.
#[derive(Debug)]
pub struct Choice {
    sticky: Option<Sticky>,
    r#override: Option<HeaderName>,
    /// The buckets in force while this colour is the candidate.
    buckets: PerColour<Buckets>,
}

/// What one worker thread remembers of a deployment from request to request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotations {
    canary: Rotation,
    shadow: Rotation,
}

/// Where a request goes, and what goes along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whose cluster answers.
    pub colour: Colour,
    /// Whose cluster gets a copy.
    pub shadow: Option<Colour>,
    /// The `set-cookie` header for the answer, unless a shared cache may keep it.
    pub set_cookie: Option<String>,
}

// === impl Router ===

impl Router {
    /// Compiles a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            matcher: Matcher::new(config),
            choices: config.deployments.iter().map(|(name, deployment)| Choice::new(name, deployment)).collect(),
        }
    }

    /// The deployment that a request belongs to, and how it chooses.
    pub fn find(&self, request: &dyn RequestHeaders) -> Option<(DeploymentIndex, &Choice)> {
        let index = self.matcher.find(request)?;
        Some((index, self.choices.get(index)?))
    }
}

// === impl Choice ===

impl Choice {
    fn new(name: &DeploymentName, deployment: &DeploymentConfig) -> Self {
        Self {
            sticky: deployment.sticky.clone(),
            r#override: deployment.r#override.as_ref().map(|by| by.header.clone()),
            buckets: PerColour::from_fn(|candidate| Buckets::new(name, &deployment.colours.get(candidate).version)),
        }
    }

    /// Decides one request. `fresh_key` makes a key that no other request gets, for a browser without its cookie.
    pub fn decide(
        &self,
        split: &Split,
        rotations: &mut Rotations,
        request: &dyn RequestHeaders,
        fresh_key: impl FnOnce() -> String,
    ) -> Decision {
        if let Some(colour) = self.asked_for(request) {
            // A tester's request takes no part in anything that ordinary requests are counted for.
            return Decision { colour, shadow: None, set_cookie: None };
        }
        let (chosen, set_cookie) = self.candidate_chosen(split, rotations, request, fresh_key);
        let colour = if chosen { split.candidate() } else { split.active };
        let shadow = !chosen && rotations.shadow.choose(split.shadow_percent);
        Decision { colour, shadow: shadow.then_some(split.candidate()), set_cookie }
    }

    fn asked_for(&self, request: &dyn RequestHeaders) -> Option<Colour> {
        let value = request.header(self.r#override.as_ref()?.as_str())?;
        Colour::from_header(&value)
    }

    /// Whether the candidate gets this ordinary request, and the cookie that keeps it so.
    fn candidate_chosen(
        &self,
        split: &Split,
        rotations: &mut Rotations,
        request: &dyn RequestHeaders,
        fresh_key: impl FnOnce() -> String,
    ) -> (bool, Option<String>) {
        let share = split.canary_percent;
        let sticky = |key: &[u8]| self.buckets.get(split.candidate()).choose(key, share);
        // At 0 and 100 the key makes no difference: reading it costs a call to the host, and a cookie burdens the answer.
        let matters = share > Percent::ZERO && share < Percent::ALL;
        match self.sticky.as_ref().filter(|_| matters) {
            Some(Sticky::Cookie(by)) => match cookie::find(request, by.name.as_str()) {
                Some(key) => (sticky(&key), None),
                None => {
                    let key = fresh_key();
                    (sticky(key.as_bytes()), Some(cookie::issue(by, &key)))
                }
            },
            Some(Sticky::Header(name)) => match request.header(name.as_str()).filter(|key| !key.is_empty()) {
                Some(key) => (sticky(&key), None),
                None => (rotations.canary.choose(share), None),
            },
            None => (rotations.canary.choose(share), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::testing::split;

    type Headers = BTreeMap<&'static str, &'static str>;

    impl RequestHeaders for Headers {
        fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.get(name).map(|value| value.as_bytes().to_vec())
        }

        fn joined(&self, name: &str) -> Option<Vec<u8>> {
            self.header(name)
        }
    }

    fn choice(extra: &str) -> Choice {
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}} {extra}}}}}}}"#
        );
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        Router::new(&config).choices.pop().expect("one")
    }

    fn colours(choice: &Choice, split: Split, headers: &Headers, count: usize) -> Vec<Colour> {
        let mut rotations = Rotations::default();
        (0..count).map(|n| choice.decide(&split, &mut rotations, headers, || n.to_string()).colour).collect()
    }

    fn candidates(choice: &Choice, split: Split, headers: &Headers, count: usize) -> usize {
        colours(choice, split, headers, count).into_iter().filter(|colour| *colour == split.candidate()).count()
    }

    #[test]
    fn nought_is_none_and_a_hundred_is_all_with_every_kind_of_stickiness() {
        let kinds =
            ["", r#", "sticky": {"header": "x-user"}"#, r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#];
        for kind in kinds {
            for headers in [Headers::new(), Headers::from([("x-user", "alice"), ("cookie", "c=1")])] {
                assert_eq!(candidates(&choice(kind), split("blue", "0", "0"), &headers, 1_000), 0, "{kind}");
                assert_eq!(candidates(&choice(kind), split("green", "100", "0"), &headers, 1_000), 1_000, "{kind}");
            }
        }
    }

    #[test]
    fn without_a_key_the_share_is_exact() {
        let sticky = choice(r#", "sticky": {"header": "x-user"}"#);
        for headers in [Headers::new(), Headers::from([("x-user", "")])] {
            assert_eq!(candidates(&sticky, split("blue", "1", "0"), &headers, 1_000), 10);
        }
    }

    #[test]
    fn with_a_key_the_colour_never_changes() {
        let sticky = choice(r#", "sticky": {"header": "x-user"}"#);
        for user in ["alice", "bob", "carol", "dave"] {
            let seen = candidates(&sticky, split("blue", "50", "0"), &Headers::from([("x-user", user)]), 100);
            assert!(seen == 0 || seen == 100, "{user}: {seen}");
        }
    }

    #[test]
    fn a_missing_cookie_is_issued_and_leads_to_the_colour_that_its_first_request_got() {
        let sticky = choice(r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#);
        let half = split("blue", "50", "0");
        for number in 0..100 {
            let first = sticky.decide(&half, &mut Rotations::default(), &Headers::new(), || number.to_string());
            let issued = first.set_cookie.expect("issued");
            let pair = issued.split(';').next().expect("a pair").to_owned();
            let again = Headers::from([("cookie", &*pair.leak())]);
            let second = sticky.decide(&half, &mut Rotations::default(), &again, || panic!("no need"));
            assert_eq!((second.colour, second.set_cookie), (first.colour, None));
        }
    }

    #[test]
    fn a_cookie_is_issued_only_while_a_canary_makes_it_matter() {
        let sticky = choice(r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#);
        for (share, issued) in [("0", false), ("0.01", true), ("99.99", true), ("100", false)] {
            let split = split("blue", share, "0");
            let decision = sticky.decide(&split, &mut Rotations::default(), &Headers::new(), || "k".to_owned());
            assert_eq!(decision.set_cookie.is_some(), issued, "{share}");
        }
    }

    #[test]
    fn an_override_beats_stickiness_and_canary_and_leaves_the_rotation_alone() {
        let open = choice(r#", "override": {"header": "x-want"}"#);
        let mut rotations = Rotations::default();
        let one = split("blue", "50", "100");
        let mut decide = |headers: &Headers| open.decide(&one, &mut rotations, headers, String::new);
        let (green, blue) = (Headers::from([("x-want", "green")]), Headers::from([("x-want", "blue")]));
        assert_eq!(decide(&Headers::new()).colour, Colour::Blue);
        assert_eq!(decide(&blue), Decision { colour: Colour::Blue, shadow: None, set_cookie: None });
        assert_eq!(decide(&green).colour, Colour::Green);
        assert_eq!(decide(&Headers::new()).colour, Colour::Green);
        assert_eq!(decide(&Headers::from([("x-want", "Green")])).colour, Colour::Blue);
        assert_eq!(decide(&Headers::from([("x-want", "")])).colour, Colour::Green);
    }

    #[test]
    fn nobody_can_choose_while_the_override_is_off() {
        let headers = Headers::from([("x-bluegreen-colour", "green"), ("x-want", "green")]);
        assert_eq!(candidates(&choice(""), split("blue", "0", "0"), &headers, 10), 0);
    }

    #[test]
    fn copies_go_to_the_candidate_for_the_configured_share_of_the_active_colours_requests() {
        let both = split("blue", "20", "50");
        let mut rotations = Rotations::default();
        let decisions: Vec<Decision> =
            (0..1_000).map(|_| choice("").decide(&both, &mut rotations, &Headers::new(), String::new)).collect();
        let copied = decisions.iter().filter(|decision| decision.shadow == Some(Colour::Green)).count();
        assert_eq!(copied, 400);
        assert!(decisions.iter().all(|decision| decision.shadow.is_none() || decision.colour == Colour::Blue));
    }
}
