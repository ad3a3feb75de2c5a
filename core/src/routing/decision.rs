//! What becomes of one request: deployment, then override, then stickiness, then the canary's rotation.

use std::cell::OnceCell;

use super::cookie;
use super::matching::{Matcher, RequestHeaders};
use super::override_header;
use super::rotation::{Rotation, Seed};
use super::sticky::Buckets;
use crate::config::{Config, DeploymentConfig, Override, Sticky, StickyKey};
use crate::deployment::DeploymentIndex;
use crate::model::colour::Colour;
use crate::model::name::HeaderName;
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
    r#override: Option<Override>,
}

/// What one worker thread remembers of a deployment from request to request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotations {
    canary: Rotation,
    shadow: Rotation,
}

/// Whether a request is a CORS preflight, found out when it first matters.
struct Preflight<'r> {
    request: &'r dyn RequestHeaders,
    known: OnceCell<bool>,
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
    /// What came of the override header.
    pub by_override: ByOverride,
    /// What chance shared out, if it did.
    pub draw: Option<Draw>,
}

/// Why a request went where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingReason {
    /// It asked for its colour by the override header.
    Override,
    /// Its user or cookie decides.
    Sticky,
    /// It was drawn for the canary's share.
    Canary,
    /// Ordinary traffic goes to the active colour.
    Active,
}

/// What chance shared out between the colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// This request.
    Request,
    /// The key with this hash, and all its requests with it.
    Key(u64),
}

/// What came of a request's override header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByOverride {
    /// The request has none, or the deployment does not know one.
    #[default]
    Absent,
    /// It asks for nothing that there is, or comes without a token that may ask.
    Ignored,
    /// It chose the colour.
    Chosen,
}

// === impl Decision ===

impl Decision {
    /// Why the request went to its colour under this split.
    pub fn reason(&self, split: &Split) -> RoutingReason {
        match (self.by_override, self.draw) {
            (ByOverride::Chosen, _) => RoutingReason::Override,
            (_, Some(Draw::Key(_))) => RoutingReason::Sticky,
            _ if self.colour != split.active => RoutingReason::Canary,
            _ => RoutingReason::Active,
        }
    }
}

// === impl RoutingReason ===

impl RoutingReason {
    /// The name in access logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Override => "override",
            Self::Sticky => "sticky",
            Self::Canary => "canary",
            Self::Active => "active",
        }
    }
}

// === impl Router ===

impl Router {
    /// Compiles a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            matcher: Matcher::new(config),
            choices: config.deployments.values().map(|section| Choice::new(section)).collect(),
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
    fn new(deployment: &DeploymentConfig) -> Self {
        Self { sticky: deployment.sticky.clone(), r#override: deployment.r#override.clone() }
    }

    /// Decides one request. `buckets` are those of the candidate. `fresh_key` makes a key that no other request gets, for a browser without its cookie.
    pub fn decide(
        &self,
        split: &Split,
        buckets: Buckets,
        rotations: &mut Rotations,
        request: &dyn RequestHeaders,
        fresh_key: impl FnOnce() -> String,
    ) -> Decision {
        let asked = self.r#override.as_ref().and_then(|by| Some((by, request.header(by.header.as_str())?)));
        let by_override = match asked.map(|(by, value)| override_header::colour(by, &value)) {
            // A tester's request takes no part in anything that ordinary requests are counted for.
            Some(Some(colour)) => {
                let by_override = ByOverride::Chosen;
                return Decision { colour, shadow: None, set_cookie: None, by_override, draw: None };
            }
            Some(None) => ByOverride::Ignored,
            None => ByOverride::Absent,
        };
        let preflight = Preflight { request, known: OnceCell::new() };
        let (chosen, draw, set_cookie) =
            self.candidate_chosen(split, buckets, rotations, request, &preflight, fresh_key);
        let colour = if chosen { split.candidate() } else { split.active };
        let shadow = !chosen && preflight.rotate(&mut rotations.shadow, split.shadow_percent);
        Decision { colour, shadow: shadow.then_some(split.candidate()), set_cookie, by_override, draw }
    }

    /// The header by which a tester asks for a colour. It goes no further than this filter.
    pub fn override_header(&self) -> Option<&HeaderName> {
        Some(&self.r#override.as_ref()?.header)
    }

    /// Whether the candidate gets this ordinary request, what was drawn for it, and the cookie that keeps it so.
    fn candidate_chosen(
        &self,
        split: &Split,
        buckets: Buckets,
        rotations: &mut Rotations,
        request: &dyn RequestHeaders,
        preflight: &Preflight<'_>,
        fresh_key: impl FnOnce() -> String,
    ) -> (bool, Option<Draw>, Option<String>) {
        let share = split.canary_percent;
        let by_key = |key: &[u8], set_cookie| {
            let hash = buckets.hash(key);
            (Buckets::choose(hash, share), Some(Draw::Key(hash)), set_cookie)
        };
        let mut by_request = || {
            let is_drawn = share > Percent::ZERO && preflight.takes_part(share);
            (is_drawn && rotations.canary.choose(share), is_drawn.then_some(Draw::Request), None)
        };
        // At 0 and 100 the key makes no difference: reading it costs a call to the host, and a cookie burdens the answer.
        match self.sticky.as_ref().filter(|_| is_part(share)).map(|sticky| &sticky.key) {
            Some(StickyKey::Cookie(by)) => match cookie::find(request, by.name.as_str()) {
                Some(key) => by_key(&key, None),
                // A browser sends no cookie with a preflight, and keeps none that its answer sets.
                None if preflight.is_one() => (false, None, None),
                None => {
                    let key = fresh_key();
                    by_key(key.as_bytes(), Some(cookie::issue(by, &key)))
                }
            },
            Some(StickyKey::Header(name)) => match request.header(name.as_str()).filter(|key| !key.is_empty()) {
                Some(key) => by_key(&key, None),
                None => by_request(),
            },
            None => by_request(),
        }
    }
}

/// Whether some requests are in the share and others are not.
fn is_part(share: Percent) -> bool {
    share > Percent::ZERO && share < Percent::ALL
}

// === impl Rotations ===

impl Rotations {
    /// Begins anywhere.
    pub fn new(seed: Seed) -> Self {
        Self { canary: Rotation::new(seed.of_use("canary")), shadow: Rotation::new(seed.of_use("shadow")) }
    }
}

// === impl Preflight ===

impl Preflight<'_> {
    /// Whether the request is in the share.
    fn rotate(&self, rotation: &mut Rotation, share: Percent) -> bool {
        self.takes_part(share) && rotation.choose(share)
    }

    /// A preflight takes no part: it goes with none of the share, and the rotation stays where it is. Nothing is read where
    /// the share leaves no choice.
    fn takes_part(&self, share: Percent) -> bool {
        !(is_part(share) && self.is_one())
    }

    /// A CORS preflight, as the Fetch standard defines it (<https://fetch.spec.whatwg.org/#cors-preflight-request>). The
    /// header that only preflights have is read first: for all other requests it is absent, which costs the host least.
    fn is_one(&self) -> bool {
        let header = |name| self.request.header(name);
        *self.known.get_or_init(|| {
            header("access-control-request-method").is_some()
                && header(":method").is_some_and(|method| method == b"OPTIONS")
                && header("origin").is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::deployment::Deployments;
    use crate::model::colour::PerColour;
    use crate::model::time::Timestamp;
    use crate::store::lease::Instance;
    use crate::testing::{MemoryStore, iris, split};

    type Headers = BTreeMap<&'static str, &'static str>;

    impl RequestHeaders for Headers {
        fn header(&self, name: &str) -> Option<Vec<u8>> {
            self.get(name).map(|value| value.as_bytes().to_vec())
        }

        fn joined(&self, name: &str) -> Option<Vec<u8>> {
            self.header(name)
        }
    }

    /// How requests choose, and the buckets while each colour is the candidate.
    struct Tested {
        choice: Choice,
        buckets: PerColour<Buckets>,
    }

    impl Tested {
        fn decide(
            &self,
            split: &Split,
            rotations: &mut Rotations,
            request: &dyn RequestHeaders,
            fresh_key: impl FnOnce() -> String,
        ) -> Decision {
            self.choice.decide(split, *self.buckets.get(split.candidate()), rotations, request, fresh_key)
        }
    }

    fn choice(extra: &str) -> Tested {
        let json = format!(
            r#"{{"deployments": {{"iris": {{"colours": {{
                "blue": {{"cluster": "b", "version": "1"}}, "green": {{"cluster": "g", "version": "2"}}}} {extra}}}}}}}"#
        );
        let config = Config::from_bytes(json.as_bytes()).expect("valid");
        let deployment = Deployments::new(&config);
        let deployment = &deployment.all()[0];
        let buckets =
            |colour| Buckets::new(&deployment.name, &deployment.colours.get(colour).version, deployment.salt());
        let choice = Router::new(&config).choices.pop().expect("one");
        Tested { choice, buckets: PerColour::from_fn(buckets) }
    }

    fn rotations(seed: u64) -> Rotations {
        let worker = Instance::register(&MemoryStore::default(), Timestamp::default());
        Rotations::new(Seed::new(worker, seed, &iris()))
    }

    fn colours(choice: &Tested, split: Split, headers: &Headers, count: usize) -> Vec<Colour> {
        let mut rotations = rotations(1);
        (0..count).map(|n| choice.decide(&split, &mut rotations, headers, || n.to_string()).colour).collect()
    }

    fn candidates(choice: &Tested, split: Split, headers: &Headers, count: usize) -> usize {
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
    fn without_a_key_the_share_is_off_by_less_than_two() {
        let sticky = choice(r#", "sticky": {"header": "x-user"}"#);
        for headers in [Headers::new(), Headers::from([("x-user", "")])] {
            let candidates = candidates(&sticky, split("blue", "1", "0"), &headers, 1_000);
            assert!((9..=11).contains(&candidates), "{candidates}");
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
    fn a_salt_draws_other_users_with_either_kind_of_key() {
        for (kind, name) in
            [(r#""header": "x-user""#, "x-user"), (r#""cookie": {"name": "c", "max_age": "1h"}"#, "cookie")]
        {
            let by = |salt: &str| choice(&format!(r#", "sticky": {{{kind}{salt}}}"#));
            let early = |choice: Tested| -> Vec<usize> {
                let is_early = |user: &usize| {
                    let value: &'static str = format!("c={user}").leak();
                    candidates(&choice, split("blue", "50", "0"), &Headers::from([(name, value)]), 1) == 1
                };
                (0..64).filter(is_early).collect()
            };
            let plain = early(by(""));
            assert_eq!(plain, early(by("")), "{kind}");
            assert_ne!(plain, early(by(r#", "salt": "s1""#)), "{kind}");
            assert_ne!(early(by(r#", "salt": "s2""#)), early(by(r#", "salt": "s1""#)), "{kind}");
        }
    }

    #[test]
    fn the_reason_says_which_rule_has_chosen_the_colour() {
        let plain = choice(r#", "override": {"header": "x-want"}"#);
        let sticky = choice(r#", "sticky": {"header": "x-user"}, "override": {"header": "x-want"}"#);
        let (user, asks) = (Headers::from([("x-user", "alice")]), Headers::from([("x-want", "blue"), ("x-user", "a")]));
        let (none, misspelt) = (Headers::new(), Headers::from([("x-want", "Green")]));
        let cases = [
            (&plain, "0", &none, RoutingReason::Active),
            (&plain, "100", &none, RoutingReason::Canary),
            (&plain, "50", &asks, RoutingReason::Override),
            (&plain, "0", &misspelt, RoutingReason::Active),
            (&sticky, "50", &user, RoutingReason::Sticky),
            (&sticky, "0", &user, RoutingReason::Active),
            (&sticky, "100", &user, RoutingReason::Canary),
            (&sticky, "50", &asks, RoutingReason::Override),
        ];
        for (choice, share, request, reason) in cases {
            let split = split("blue", share, "0");
            let decision = choice.decide(&split, &mut rotations(1), request, String::new);
            assert_eq!(decision.reason(&split), reason, "{share} {request:?}");
        }
    }

    #[test]
    fn a_missing_cookie_is_issued_and_leads_to_the_colour_that_its_first_request_got() {
        let sticky = choice(r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#);
        let half = split("blue", "50", "0");
        for number in 0..100_u64 {
            let first = sticky.decide(&half, &mut rotations(number), &Headers::new(), || number.to_string());
            let issued = first.set_cookie.expect("issued");
            let pair = issued.split(';').next().expect("a pair").to_owned();
            let again = Headers::from([("cookie", &*pair.leak())]);
            let second = sticky.decide(&half, &mut rotations(number), &again, || panic!("no need"));
            assert_eq!((second.colour, second.set_cookie), (first.colour, None));
        }
    }

    #[test]
    fn a_cookie_is_issued_only_while_a_canary_makes_it_matter() {
        let sticky = choice(r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#);
        for (share, issued) in [("0", false), ("0.01", true), ("99.99", true), ("100", false)] {
            let split = split("blue", share, "0");
            let decision = sticky.decide(&split, &mut rotations(1), &Headers::new(), || "k".to_owned());
            assert_eq!(decision.set_cookie.is_some(), issued, "{share}");
        }
    }

    #[test]
    fn an_override_beats_stickiness_and_canary_and_leaves_the_rotation_alone() {
        let open = choice(r#", "override": {"header": "x-want"}"#);
        let half = split("blue", "50", "100");
        let (mut with, mut without) = (rotations(1), rotations(1));
        let mut decide = |headers: &Headers| open.decide(&half, &mut with, headers, String::new);
        for _ in 0..100 {
            let asked = |value| Headers::from([("x-want", value)]);
            let by_override = ByOverride::Chosen;
            let tested = |colour| Decision { colour, shadow: None, set_cookie: None, by_override, draw: None };
            assert_eq!(decide(&asked("blue")), tested(Colour::Blue));
            assert_eq!(decide(&asked("green")), tested(Colour::Green));
            for ordinary in [Headers::new(), asked("Green"), asked("")] {
                let mut expected = open.decide(&half, &mut without, &Headers::new(), String::new);
                if !ordinary.is_empty() {
                    expected.by_override = ByOverride::Ignored;
                }
                assert_eq!(decide(&ordinary), expected, "{ordinary:?}");
            }
        }
    }

    #[test]
    fn what_was_drawn_is_the_request_or_its_key_and_nothing_where_the_candidate_has_no_share() {
        let (header, cookie) =
            (r#", "sticky": {"header": "x-user"}"#, r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#);
        let (none, user, browser) =
            (Headers::new(), Headers::from([("x-user", "alice")]), Headers::from([("cookie", "c=alice")]));
        let key = |choice: &Tested| Some(Draw::Key(choice.buckets.green.hash(b"alice")));
        let request = |_: &Tested| Some(Draw::Request);
        type Expected<'t> = &'t dyn Fn(&Tested) -> Option<Draw>;
        let cases: [(&str, &str, &Headers, Expected<'_>); 9] = [
            ("", "10", &user, &request),
            ("", "100", &user, &request),
            ("", "0", &user, &|_| None),
            (header, "10", &user, &key),
            (header, "10", &none, &request),
            (header, "100", &user, &request),
            (header, "0", &user, &|_| None),
            (cookie, "10", &browser, &key),
            // The key that its answer sets.
            (cookie, "10", &none, &key),
        ];
        for (kind, share, headers, expected) in cases {
            let choice = choice(kind);
            let fresh_key = || "alice".to_owned();
            let decision = choice.decide(&split("blue", share, "0"), &mut rotations(1), headers, fresh_key);
            assert_eq!(decision.draw, expected(&choice), "{kind} at {share} %: {headers:?}");
        }
    }

    #[test]
    fn a_preflight_goes_to_the_active_colour_and_leaves_the_rotations_alone() {
        let preflight = Headers::from([
            (":method", "OPTIONS"),
            ("origin", "https://ui.example.com"),
            ("access-control-request-method", "POST"),
        ]);
        let kinds =
            ["", r#", "sticky": {"header": "x-user"}"#, r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#];
        for kind in kinds {
            let choice = choice(kind);
            for number in 0..100 {
                let mut rotations = rotations(number);
                let decision =
                    choice.decide(&split("blue", "99.99", "99.99"), &mut rotations, &preflight, || number.to_string());
                let (colour, by_override) = (Colour::Blue, ByOverride::Absent);
                let expected = Decision { colour, shadow: None, set_cookie: None, by_override, draw: None };
                assert_eq!(decision, expected, "{kind}");
                assert_eq!(rotations, self::rotations(number));
            }
        }
        // Nothing is left to choose.
        let all = choice("").decide(&split("blue", "100", "0"), &mut rotations(1), &preflight, String::new);
        assert_eq!(all.colour, Colour::Green);
    }

    #[test]
    fn what_only_looks_like_a_preflight_takes_part_like_any_request() {
        let whole: Headers =
            [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "POST")].into();
        for missing in [":method", "origin", "access-control-request-method"] {
            let mut headers = whole.clone();
            headers.remove(missing);
            let candidates = candidates(&choice(""), split("blue", "50", "0"), &headers, 1_000);
            assert!((499..=501).contains(&candidates), "without {missing}: {candidates}");
        }
        let post: Headers =
            [(":method", "POST"), ("origin", "https://a"), ("access-control-request-method", "X")].into();
        assert!(candidates(&choice(""), split("blue", "50", "0"), &post, 1_000) >= 499);
    }

    #[test]
    fn preflight_and_call_by_turns_leave_the_calls_their_share() {
        for (canary, low, high) in [("50", 499, 501), ("25", 249, 251), ("10", 99, 101)] {
            let mut rotations = rotations(1);
            let preflight: Headers =
                [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "POST")].into();
            let calls = (0..1_000).filter(|_| {
                let split = split("blue", canary, "0");
                choice("").decide(&split, &mut rotations, &preflight, String::new);
                choice("").decide(&split, &mut rotations, &Headers::new(), String::new).colour == Colour::Green
            });
            let calls = calls.count();
            assert!((low..=high).contains(&calls), "{canary} %: {calls} of 1,000 calls");
        }
    }

    #[test]
    fn nobody_can_choose_while_the_override_is_off() {
        let headers = Headers::from([("x-bluegreen-colour", "green"), ("x-want", "green")]);
        assert_eq!(candidates(&choice(""), split("blue", "0", "0"), &headers, 10), 0);
    }

    #[test]
    fn copies_go_to_the_candidate_for_the_configured_share_of_the_active_colours_requests() {
        let both = split("blue", "20", "50");
        let mut rotations = rotations(1);
        let decisions: Vec<Decision> =
            (0..1_000).map(|_| choice("").decide(&both, &mut rotations, &Headers::new(), String::new)).collect();
        let copied = decisions.iter().filter(|decision| decision.shadow == Some(Colour::Green)).count();
        let ordinary = decisions.iter().filter(|decision| decision.colour == Colour::Blue).count();
        assert!((799..=801).contains(&ordinary), "{ordinary}");
        assert!((copied * 2).abs_diff(ordinary) < 4, "{copied} of {ordinary}");
        assert!(decisions.iter().all(|decision| decision.shadow.is_none() || decision.colour == Colour::Blue));
    }
}
