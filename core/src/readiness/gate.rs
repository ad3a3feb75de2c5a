//! What stands between a colour and traffic: a probe made now, and a smoke test that it passed.

use std::fmt;
use std::time::Duration;

use crate::deployment::{Deployment, Readiness};
use crate::model::colour::{Colour, PerColour};
use crate::model::name::Version;
use crate::model::percent::Percent;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::state::rollout::Rollout;

/// Why a write has to wait, or may not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// This colour has to be probed first.
    ProbeRequired(Colour),
    /// The candidate has no valid pass of the required smoke test.
    Untested {
        /// The candidate.
        colour: Colour,
        /// What is missing.
        missing: Missing,
    },
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

/// The colour that a change gives traffic to: the new active one, or the candidate of a canary that begins.
pub fn gains_traffic(before: &State, after: &State) -> Option<Colour> {
    let begins = before.split.canary_percent == Percent::ZERO && after.split.canary_percent > Percent::ZERO;
    if before.split.active != after.split.active {
        Some(after.split.active)
    } else {
        begins.then(|| after.split.candidate())
    }
}

/// Whether a change may happen; `versions` are those that the colours serve, and `healthy` are the colours that answered
/// a probe a moment ago.
///
/// # Errors
/// What has to be done first.
pub fn check(
    before: &State,
    after: &State,
    deployment: &Deployment,
    versions: &PerColour<Version>,
    healthy: &PerColour<bool>,
    now: Timestamp,
) -> Result<(), NotReady> {
    let Readiness { probe, smoke_test, .. } = &deployment.readiness;
    let Some(colour) = gains_traffic(before, after) else { return Ok(()) };
    // The colour that a rollback returns to has served production: a test of the candidate says nothing about it. A
    // promotion of the same colour is another matter: after each switch the next version is put there.
    let is_the_way_back = before.rollback_to == Some(colour) && after.rollback_to.is_none();
    // A test that counted when a rollout began counts to its end, which may be days later.
    let ends_rollout = Rollout::ends_with(before.rollout, after.rollout);
    if let Some(test) = smoke_test.as_ref().filter(|test| test.required && !is_the_way_back && !ends_rollout) {
        let pass = before.smoke.as_ref().filter(|pass| pass.colour == colour);
        let missing = match pass {
            None => Some(Missing::NeverPassed),
            Some(pass) if pass.version != *versions.get(colour) => Some(Missing::OtherVersion),
            Some(pass) if now.since(pass.at) > test.valid_for => Some(Missing::Expired(test.valid_for)),
            Some(_) => None,
        };
        if let Some(missing) = missing {
            return Err(NotReady::Untested { colour, missing });
        }
    }
    if probe.is_some() && !healthy.get(colour) {
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
                write!(f, "it passed the smoke test longer ago than {}", humantime::format_duration(*valid_for))
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
    use crate::state::{Command, Patch, SmokePass};

    use crate::testing::{percent, split};

    const NOW: Timestamp = Timestamp::from_millis(10_000_000);

    fn state(active: &str, canary: &str) -> State {
        State::initial(split(active, canary, "0"), NOW)
    }

    fn after(state: &State, command: Command) -> State {
        let author = Author::new("alice", Source::Admin, Reason::none());
        state.after(&command, author, NOW).expect("allowed").unwrap_or_else(|| state.clone())
    }

    fn canary(share: &str) -> Command {
        Command::Patch(Patch { canary_percent: Some(percent(share)), ..Patch::default() })
    }

    #[test]
    fn a_colour_gains_traffic_with_its_first_share_or_with_all_of_it() {
        let cases = [
            (state("blue", "0"), Command::Promote, Some(Colour::Green)),
            (state("blue", "10"), Command::Promote, Some(Colour::Green)),
            (state("blue", "0"), canary("0.01"), Some(Colour::Green)),
            (state("blue", "10"), canary("20"), None),
            (state("blue", "10"), canary("0"), None),
            (state("blue", "10"), Command::RollBack, None),
            (after(&state("blue", "0"), Command::Promote), Command::RollBack, Some(Colour::Blue)),
        ];
        for (before, command, expected) in cases {
            assert_eq!(gains_traffic(&before, &after(&before, command.clone())), expected, "{command:?}");
        }
    }

    fn healthy(colour: Colour) -> PerColour<bool> {
        PerColour::from_fn(|other| other == colour)
    }

    fn checked(before: &State, command: Command, healthy: PerColour<bool>) -> Result<(), NotReady> {
        let json = r#"{"deployments": {"iris": {
            "colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}},
            "probe": {"path": "/ping"}, "smoke_test": {"requests": [{"path": "/"}]}}}}"#;
        let deployments = Deployments::new(&Config::from_bytes(json.as_bytes()).expect("valid"));
        let deployment = &deployments.all()[0];
        let versions = PerColour::from_fn(|colour| deployment.colours.get(colour).version.clone());
        check(before, &after(before, command), deployment, &versions, &healthy, NOW)
    }

    fn tested(before: State, version: &str, ago: Duration) -> State {
        let version = Version::new(version).expect("valid");
        let (colour, revision) = (before.split.candidate(), before.revision);
        State { smoke: Some(SmokePass { colour, version, revision, at: NOW.minus(ago) }), ..before }
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
            assert_eq!(checked(&before, Command::Promote, healthy(Colour::Green)), expected);
            assert_eq!(checked(&before, canary("1"), healthy(Colour::Green)), expected);
        }
    }

    #[test]
    fn a_pass_lasts_through_a_canary_and_ends_with_the_switch() {
        let canary = after(&tested(state("blue", "0"), "2", Duration::ZERO), canary("10"));
        assert_eq!(checked(&canary, Command::Promote, healthy(Colour::Green)), Ok(()));
        let back = after(&after(&canary, Command::Promote), Command::RollBack);
        let again = checked(&back, Command::Promote, healthy(Colour::Green));
        assert_eq!(again, Err(NotReady::Untested { colour: Colour::Green, missing: Missing::NeverPassed }));
    }

    #[test]
    fn the_colour_that_gains_traffic_is_probed_first_and_only_its_own_answer_counts() {
        let before = tested(state("blue", "0"), "2", Duration::ZERO);
        for healthy in [PerColour::default(), healthy(Colour::Blue)] {
            assert_eq!(checked(&before, Command::Promote, healthy), Err(NotReady::ProbeRequired(Colour::Green)));
        }
    }

    #[test]
    fn the_next_version_needs_a_test_of_its_own_though_it_stands_where_the_way_back_leads() {
        let promoted = after(&tested(state("blue", "0"), "2", Duration::ZERO), Command::Promote);
        let untested = Err(NotReady::Untested { colour: Colour::Blue, missing: Missing::NeverPassed });
        assert_eq!(checked(&promoted, Command::Promote, healthy(Colour::Blue)), untested);
        assert_eq!(checked(&promoted, canary("1"), healthy(Colour::Blue)), untested);
    }

    #[test]
    fn the_way_back_needs_a_probe_and_no_test() {
        let promoted = after(&tested(state("blue", "0"), "2", Duration::ZERO), Command::Promote);
        assert_eq!(
            checked(&promoted, Command::RollBack, PerColour::default()),
            Err(NotReady::ProbeRequired(Colour::Blue))
        );
        assert_eq!(checked(&promoted, Command::RollBack, healthy(Colour::Blue)), Ok(()));
    }
}
