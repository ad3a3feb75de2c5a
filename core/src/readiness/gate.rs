//! What stands between a colour and traffic: a probe made now, and a smoke test that it passed.

use std::fmt;
use std::time::Duration;

use crate::config::DeploymentConfig;
use crate::deployment::Deployment;
use crate::model::colour::{Colour, PerColour};
use crate::model::identity::Identity;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::state::rollout::Rollout;

/// Why a write has to wait, or may not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// This colour has to be probed first.
    ProbeRequired(Colour),
    /// The colour has no valid pass of the required smoke test.
    Untested {
        /// The colour.
        colour: Colour,
        /// What is missing.
        missing: Missing,
    },
    /// What a rollback would return to has come there since the switch, and has neither served nor passed the smoke test.
    Unproven(Colour),
}

/// Why a smoke test does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// None was passed since the last switch.
    NeverPassed,
    /// Another version was tested.
    OtherVersion,
    /// It was too long ago.
    Expired(Duration),
}

/// The colour that a change gives traffic to, or that something comes behind on which others rely: the new active one, the
/// candidate of a canary that begins, or one that is active or the way back and gets another version.
pub fn gains_traffic(before: &State, after: &State) -> Option<Colour> {
    let (from, to) = (before.split, after.split);
    if from.active != to.active {
        return Some(to.active);
    }
    // What the former colour keeps is none: an operator who gives it a share puts it on trial.
    if before.lasting_split().canary_percent == Percent::ZERO && after.lasting_split().canary_percent > Percent::ZERO {
        return Some(to.candidate());
    }
    let is_replaced = |colour: &Colour| before.identities.get(*colour) != after.identities.get(*colour);
    // What ends a canary gives the newcomer nothing, and the old one must not go on either.
    let ends_canary = before.lasting_split().canary_percent != after.lasting_split().canary_percent;
    Colour::ALL.into_iter().filter(is_replaced).find(|colour| before.relies_on(*colour) && !ends_canary)
}

/// Whether a change may happen; `healthy` is what answered a probe a moment ago.
///
/// # Errors
/// What has to be done first.
pub fn check(
    before: &State,
    after: &State,
    deployment: &Deployment,
    healthy: &PerColour<Option<Identity>>,
    now: Timestamp,
) -> Result<(), NotReady> {
    let DeploymentConfig { probe, smoke_test, .. } = &**deployment;
    let Some(colour) = gains_traffic(before, after) else { return Ok(()) };
    // The colour that a rollback returns to has served production: a test of the candidate says nothing about it. A
    // promotion of the same colour is another matter: after each switch the next version is put there.
    let is_rollback = before.rollback_to == Some(colour) && after.rollback_to.is_none();
    let identity = deployment.identity(after, colour);
    let pass = before.smoke.get(colour).as_ref();
    let own_pass = pass.filter(|pass| pass.identity == *identity);
    if is_rollback && !before.is_way_back_proven() {
        return Err(NotReady::Unproven(colour));
    }
    let is_the_way_back = is_rollback && !before.is_way_back_replaced();
    // A test that counted when a rollout began counts to its end, which may be days later.
    let ends_rollout = Rollout::ends_with(before.rollout, after.rollout);
    if let Some(test) = smoke_test.as_ref().filter(|test| test.required && !is_the_way_back && !ends_rollout) {
        let missing = match own_pass {
            None if pass.is_some() => Some(Missing::OtherVersion),
            None => Some(Missing::NeverPassed),
            Some(pass) if now.since(pass.at) > test.valid_for => Some(Missing::Expired(test.valid_for)),
            Some(_) => None,
        };
        if let Some(missing) = missing {
            return Err(NotReady::Untested { colour, missing });
        }
    }
    if probe.is_some() && healthy.get(colour).as_ref() != Some(identity) {
        return Err(NotReady::ProbeRequired(colour));
    }
    Ok(())
}

// === impl Missing ===

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NeverPassed => f.write_str("it has not passed the required smoke test"),
            Missing::OtherVersion => f.write_str("the smoke test was passed by another version"),
            Missing::Expired(valid_for) => {
                write!(f, "it passed the smoke test more than {} ago", humantime::format_duration(*valid_for))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;
    use crate::deployment::Deployments;
    use crate::model::author::{Author, Source};
    use crate::model::name::Reason;
    use crate::state::kept::Keep;
    use crate::state::{Command, Patch, SmokePass, SmokeTestOutcome};

    use crate::testing::{identity, percent, split};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn state(active: &str, canary: &str) -> State {
        State::initial(split(active, canary, "0"), NOW).knowing(&configured())
    }

    fn after(state: &State, command: Command) -> State {
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        state.after(&command, author, NOW).expect("allowed").unwrap_or_else(|| state.clone())
    }

    fn canary(share: &str) -> Command {
        Command::Patch(Patch { canary_percent: Some(percent(share)), ..Patch::default() })
    }

    #[test]
    fn a_colour_gains_traffic_with_its_first_share_or_with_all_of_it() {
        let cases = [
            (state("blue", "0"), Command::Promote(None), Some(Colour::Green)),
            (state("blue", "10"), Command::Promote(None), Some(Colour::Green)),
            (state("blue", "0"), canary("0.01"), Some(Colour::Green)),
            (state("blue", "10"), canary("20"), None),
            (state("blue", "10"), canary("0"), None),
            (state("blue", "10"), Command::RollBack(None), None),
            (after(&state("blue", "0"), Command::Promote(None)), Command::RollBack(None), Some(Colour::Blue)),
        ];
        for (before, command, expected) in cases {
            assert_eq!(gains_traffic(&before, &after(&before, command.clone())), expected, "{command:?}");
        }
    }

    #[test]
    fn a_share_that_was_kept_is_no_trial_and_one_that_an_operator_gives_in_its_place_is() {
        let keep = Keep { share: percent("2"), r#for: Duration::from_secs(60) };
        let author = Author::new(crate::testing::holder("alice"), Source::Admin, Reason::none());
        let promoted = state("blue", "0").after_keeping(Some(keep), &Command::Promote(None), author, NOW);
        let kept = promoted.expect("allowed").expect("a change");
        assert_eq!(gains_traffic(&state("blue", "0"), &kept), Some(Colour::Green));
        let cases = [
            (canary("10"), Some(Colour::Blue)),
            (canary("2"), Some(Colour::Blue)),
            (canary("0"), None),
            (Command::RollBack(None), Some(Colour::Blue)),
            // It is the way back all the same.
            (Command::AdoptVersion(Colour::Blue, identity("3")), Some(Colour::Blue)),
        ];
        for (command, expected) in cases {
            assert_eq!(gains_traffic(&kept, &after(&kept, command.clone())), expected, "{command:?}");
        }
    }

    /// What is behind the colours of a deployment that was never changed.
    fn configured() -> PerColour<Identity> {
        PerColour { blue: identity("1"), green: identity("2") }
    }

    fn healthy(colour: Colour) -> PerColour<Option<Identity>> {
        PerColour::from_fn(|other| (other == colour).then(|| configured().get(colour).clone()))
    }

    fn checked(before: &State, command: Command, healthy: PerColour<Option<Identity>>) -> Result<(), NotReady> {
        let json = r#"{"deployments": {"iris": {
            "colours": {"blue": {"cluster": "1", "version": "1"}, "green": {"cluster": "2", "version": "2"}},
            "probe": {"path": "/ping"}, "smoke_test": {"requests": [{"path": "/"}]}}}}"#;
        let deployments = Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"));
        let deployment = &deployments.all()[0];
        check(before, &after(before, command), deployment, &healthy, NOW)
    }

    fn tested(before: State, version: &str, ago: Duration) -> State {
        let pass = SmokePass { identity: identity(version), revision: before.revision, at: NOW.minus(ago) };
        let mut after = before;
        *after.smoke.get_mut(after.split.candidate()) = Some(pass);
        after
    }

    #[test]
    fn without_a_valid_pass_the_candidate_gets_no_traffic() {
        let untested = |missing| Err(NotReady::Untested { colour: Colour::Green, missing });
        let hour = Duration::from_secs(3_600);
        let cases = [
            (state("blue", "0"), untested(Missing::NeverPassed)),
            (tested(state("blue", "0"), "1", Duration::ZERO), untested(Missing::OtherVersion)),
            (tested(state("blue", "0"), "2", hour * 2), untested(Missing::Expired(hour))),
            (tested(state("blue", "0"), "2", hour), Ok(())),
        ];
        for (before, expected) in cases {
            assert_eq!(checked(&before, Command::Promote(None), healthy(Colour::Green)), expected);
            assert_eq!(checked(&before, canary("1"), healthy(Colour::Green)), expected);
        }
    }

    #[test]
    fn a_pass_lasts_through_a_canary_and_ends_with_the_switch() {
        let canary = after(&tested(state("blue", "0"), "2", Duration::ZERO), canary("10"));
        assert_eq!(checked(&canary, Command::Promote(None), healthy(Colour::Green)), Ok(()));
        let back = after(&after(&canary, Command::Promote(None)), Command::RollBack(None));
        let again = checked(&back, Command::Promote(None), healthy(Colour::Green));
        assert_eq!(again, Err(NotReady::Untested { colour: Colour::Green, missing: Missing::NeverPassed }));
    }

    #[test]
    fn the_colour_that_gains_traffic_is_probed_first_and_only_its_own_answer_counts() {
        let before = tested(state("blue", "0"), "2", Duration::ZERO);
        for healthy in [PerColour::default(), healthy(Colour::Blue)] {
            assert_eq!(checked(&before, Command::Promote(None), healthy), Err(NotReady::ProbeRequired(Colour::Green)));
        }
    }

    #[test]
    fn the_next_version_needs_a_test_of_its_own_though_it_stands_where_the_way_back_leads() {
        let promoted = after(&tested(state("blue", "0"), "2", Duration::ZERO), Command::Promote(None));
        let untested = Err(NotReady::Untested { colour: Colour::Blue, missing: Missing::NeverPassed });
        assert_eq!(checked(&promoted, Command::Promote(Some(Colour::Blue)), healthy(Colour::Blue)), untested);
        assert_eq!(checked(&promoted, canary("1"), healthy(Colour::Blue)), untested);
    }

    #[test]
    fn the_way_back_needs_a_probe_and_no_test() {
        let promoted = after(&tested(state("blue", "0"), "2", Duration::ZERO), Command::Promote(None));
        assert_eq!(
            checked(&promoted, Command::RollBack(None), PerColour::default()),
            Err(NotReady::ProbeRequired(Colour::Blue))
        );
        assert_eq!(checked(&promoted, Command::RollBack(None), healthy(Colour::Blue)), Ok(()));
    }

    fn adopt(colour: Colour, version: &str) -> Command {
        Command::AdoptVersion(colour, identity(version))
    }

    #[test]
    fn what_is_put_behind_a_colour_on_which_others_rely_has_to_be_ready_itself() {
        let promoted = || after(&tested(state("blue", "0"), "2", Duration::ZERO), Command::Promote(None));
        let with_pass = |before: State, colour: Colour| {
            let outcome = SmokeTestOutcome { colour, identity: identity("3"), passed: true };
            after(&before, Command::RecordSmokeTest(outcome))
        };
        for (before, colour) in
            [(state("blue", "0"), Colour::Blue), (promoted(), Colour::Blue), (promoted(), Colour::Green)]
        {
            let untested = Err(NotReady::Untested { colour, missing: Missing::NeverPassed });
            assert_eq!(checked(&before, adopt(colour, "3"), healthy(colour)), untested, "{colour}");
            let tested = with_pass(before, colour);
            // The old one's health says nothing about the new one.
            let probe = Err(NotReady::ProbeRequired(colour));
            assert_eq!(checked(&tested, adopt(colour, "3"), healthy(colour)), probe, "{colour}");
            let well = PerColour::from_fn(|other| (other == colour).then(|| identity("3")));
            assert_eq!(checked(&tested, adopt(colour, "3"), well), Ok(()), "{colour}");
        }
    }

    #[test]
    fn what_is_put_behind_a_candidate_without_a_claim_needs_nothing() {
        for before in [state("blue", "0"), state("blue", "10")] {
            assert_eq!(checked(&before, adopt(Colour::Green, "3"), PerColour::default()), Ok(()));
        }
    }

    #[test]
    fn a_rollback_never_goes_to_what_has_neither_served_nor_passed_the_test() {
        let promoted = after(&state("blue", "0"), Command::Promote(None));
        let replaced = after(&promoted, adopt(Colour::Blue, "3"));
        let well = PerColour { blue: Some(identity("3")), green: None };
        let unproven = Err(NotReady::Unproven(Colour::Blue));
        assert_eq!(checked(&replaced, Command::RollBack(None), well.clone()), unproven);
        let outcome = SmokeTestOutcome { colour: Colour::Blue, identity: identity("3"), passed: true };
        let tested = after(&replaced, Command::RecordSmokeTest(outcome));
        assert_eq!(checked(&tested, Command::RollBack(None), well.clone()), Ok(()));
        // The same version again is the one that has served.
        let back = after(&replaced, adopt(Colour::Blue, "1"));
        assert_eq!(checked(&back, Command::RollBack(None), healthy(Colour::Blue)), Ok(()));
    }
}
