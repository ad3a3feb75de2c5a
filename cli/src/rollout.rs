//! Follows a rollout to its end, for a terminal and for CI: it fails when the guard takes the traffic back.

use std::thread;
use std::time::{Duration, Instant};

use bluegreen_core::model::colour::Colour;
use bluegreen_core::model::time::Timestamp;

use crate::api::{ApiError, Deployment, Rollout};
use crate::envoys::{Envoy, Envoys, Outcome, Output, ask, is_fleet, report};
use crate::style::{self, percent, time_of_day};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the API may be out of reach.
const OUTAGE: Duration = Duration::from_secs(120);

/// How often it is said what a step waits for.
const REMIND_EVERY: Duration = Duration::from_secs(30);

/// What is known of the rollout that is followed.
#[derive(Debug, Default)]
struct Follower {
    /// Which one it is: when it began, and the colour that it is about.
    which: Option<(Timestamp, Colour)>,
    /// The last phase and step that were told.
    told: Option<(String, u64)>,
    /// The last evidence, about the step that is told.
    evidence: Option<String>,
    /// Whether it was told that the promoted colour is still watched.
    is_kept_told: bool,
}

/// What is to be said, and how it ended if it did.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    lines: Vec<String>,
    end: Option<Outcome>,
}

/// Follows the rollout on all Envoys: once for a fleet, which has one, and on each that is on its own.
pub fn follow(envoys: &Envoys, name: &str, output: Output) -> Outcome {
    let seen = ask(envoys.all().iter(), |envoy| envoy.client.deployment(name));
    let states: Vec<_> = seen.given().map(|(_, reply)| &reply.view).collect();
    let outcome = seen.report_failures();
    if states.is_empty() {
        return outcome;
    }
    let groups: Vec<Vec<&Envoy>> = if is_fleet(&states) {
        vec![envoys.all().iter().collect()]
    } else {
        envoys.all().iter().map(|envoy| vec![envoy]).collect()
    };
    let is_single = groups.len() == 1;
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let followed: Vec<_> = groups
            .iter()
            .map(|group| {
                let label = group.first().map_or("", |envoy| &envoy.label);
                let place = if is_single { String::new() } else { format!("{label}: ") };
                scope.spawn(move || follow_one(group, name, &place, output))
            })
            .collect();
        followed.into_iter().map(|thread| thread.join().unwrap_or(Outcome::Failed)).collect()
    });
    outcomes.into_iter().fold(outcome, Outcome::max)
}

/// Asks any of these, since they all know it.
fn follow_one(group: &[&Envoy], name: &str, place: &str, output: Output) -> Outcome {
    let mut follower = Follower::default();
    let mut last_answer = Instant::now();
    let mut last_line = Instant::now();
    let mut is_lost = false;
    loop {
        match ask_any(group, name) {
            Ok((state, raw)) => {
                if is_lost {
                    eprintln!("{place}the API answers again");
                }
                (is_lost, last_answer) = (false, Instant::now());
                let news = follower.look(&state);
                if output.is_json && !news.lines.is_empty() {
                    // One document a line: a program reads them as they come.
                    println!("{raw}");
                }
                for line in &news.lines {
                    last_line = Instant::now();
                    if !output.is_json {
                        println!("{place}{line}");
                    }
                }
                if let Some(end) = news.end {
                    return end;
                }
                if last_line.elapsed() >= REMIND_EVERY {
                    last_line = Instant::now();
                    if !output.is_json {
                        waiting(&state).into_iter().for_each(|line| println!("{place}{}", output.style.dim(&line)));
                    }
                }
            }
            Err(error) if !error.may_pass() || last_answer.elapsed() >= OUTAGE => {
                report(None, &error);
                eprintln!("bluegreen: the rollout goes on without being followed: bluegreen rollout follow {name}");
                return Outcome::Failed;
            }
            Err(error) => {
                if !is_lost {
                    eprintln!("{place}{error}; asking again for {}", style::span(OUTAGE));
                }
                is_lost = true;
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn ask_any(group: &[&Envoy], name: &str) -> Result<(Deployment, serde_json::Value), ApiError> {
    let mut failure = None;
    for envoy in group {
        match envoy.client.deployment(name) {
            Ok(reply) => return Ok((reply.view, reply.raw)),
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| ApiError::Unreachable { url: String::new(), why: "no Envoy is named".to_owned() }))
}

/// What it waits for, so that a long step is not silent.
fn waiting(state: &Deployment) -> Vec<String> {
    let rollout = state.rollout.as_ref();
    let waits =
        rollout.into_iter().flat_map(|rollout| &rollout.waits_for).map(|wait| format!("          waits {wait}"));
    waits
        .chain(rollout.and_then(|rollout| rollout.evidence.as_ref()).map(|evidence| format!("          {evidence}")))
        .collect()
}

// === impl Follower ===

impl Follower {
    /// What is new about it.
    fn look(&mut self, state: &Deployment) -> News {
        let time = time_of_day(state.changed_at);
        let Some(rollout) = &state.rollout else {
            let line = match self.which {
                None => format!("{} has had no rollout: bluegreen rollout start {}", state.name, state.name),
                Some(_) => "the rollout is gone: this Envoy has started anew".to_owned(),
            };
            return News { lines: vec![line], end: Some(Outcome::Failed) };
        };
        // Once it has promoted the colours have changed places.
        let candidate = if rollout.phase == "promoted" { state.active } else { state.candidate };
        let (began, colour) = *self.which.get_or_insert((rollout.began, candidate));
        if began != rollout.began {
            let line =
                format!("{time}  another rollout began, by {} ({}): this one is over", state.changed_by, state.source);
            return News { lines: vec![line], end: Some(Outcome::Failed) };
        }
        let mut news = News::default();
        let now = (rollout.phase.clone(), rollout.step);
        if self.told.as_ref() != Some(&now) {
            // What was known when the last step ended.
            if let Some(evidence) = self.evidence.take() {
                news.lines.push(format!("           {evidence}"));
            }
            self.told = Some(now);
            let why = if state.reason.is_empty() { String::new() } else { format!(": {}", state.reason) };
            let said = match rollout.phase.as_str() {
                "running" => {
                    let share = match (state.canary_percent, state.shadow_percent) {
                        (share, 0.0) => percent(share),
                        (0.0, copied) => format!("copies of {}", percent(copied)),
                        (share, copied) => format!("{}, and copies of {}", percent(share), percent(copied)),
                    };
                    format!(
                        "step {} of {}: {} gets {share}{}",
                        rollout.step,
                        rollout.steps,
                        state.side(colour),
                        beyond_step(&why, rollout)
                    )
                }
                "promoted" => format!("promoted: {} is active{why}", state.side(colour)),
                "complete" => format!(
                    "all steps are done: bluegreen rollout skip {} promotes, bluegreen rollout abort {} goes back",
                    state.name, state.name
                ),
                "paused" => {
                    format!("paused at step {} of {} by {}{why}", rollout.step, rollout.steps, state.changed_by)
                }
                "breached" => format!(
                    "BREACHED at step {} of {}{why}; bluegreen rollout resume, skip or abort {}",
                    rollout.step, rollout.steps, state.name
                ),
                "rolled_back" => format!("ROLLED BACK by {}{why}", state.changed_by),
                "aborted" => format!("ABORTED by {} ({}){why}", state.changed_by, state.source),
                "replaced" => format!("REPLACED: another version is behind {}{why}", colour.as_str()),
                other => format!("{other}{why}"),
            };
            news.lines.push(format!("{time}  {said}"));
        }
        self.evidence = rollout.evidence.clone().filter(|_| rollout.phase == "running");
        news.end = match rollout.phase.as_str() {
            "promoted" => self.after_promotion(state, colour, &mut news.lines),
            "complete" => Some(Outcome::Done),
            "breached" | "rolled_back" | "aborted" | "replaced" => Some(Outcome::Failed),
            _ => None,
        };
        if matches!(news.end, Some(Outcome::Failed))
            && let Some(evidence) =
                rollout.evidence.as_ref().filter(|evidence| !state.reason.contains(evidence.as_str()))
            && rollout.phase != "promoted"
        {
            news.lines.push(format!("           {evidence}"));
        }
        news
    }

    /// While the former colour keeps a share the guard may still go back.
    fn after_promotion(&mut self, state: &Deployment, colour: Colour, lines: &mut Vec<String>) -> Option<Outcome> {
        let time = time_of_day(state.changed_at);
        if state.active != colour {
            lines.push(format!(
                "{time}  TAKEN BACK by {} ({}): {} is active: {}",
                state.changed_by,
                state.source,
                state.side(state.active),
                state.reason
            ));
            return Some(Outcome::Failed);
        }
        let Some(kept) = &state.kept else { return Some(Outcome::Done) };
        if !self.is_kept_told {
            self.is_kept_told = true;
            lines.push(format!(
                "{time}  {} keeps {} until {}, and the guard goes on",
                state.side(state.candidate),
                percent(kept.percent),
                time_of_day(kept.until)
            ));
        }
        None
    }
}

/// Why a step began, where the reason says more than that it did: of the first it is the caller's.
fn beyond_step(why: &str, rollout: &Rollout) -> String {
    let step = format!(": step {} of {}", rollout.step, rollout.steps);
    if rollout.step > 1 { why.strip_prefix(&step).unwrap_or(why).to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::tests::iris;

    fn state(phase: &str, step: u64, change: impl FnOnce(&mut Value)) -> Deployment {
        iris(|iris| {
            iris["rollout"] = json!({"phase": phase, "step": step, "steps": 3, "began": "2026-11-23T18:10:08Z",
                "since": "2026-11-23T18:10:08Z"});
            iris["canary_percent"] = json!(10 * step);
            iris["reason"] = json!("");
            change(iris);
        })
    }

    fn promoted(change: impl FnOnce(&mut Value)) -> Deployment {
        state("promoted", 3, |iris| {
            (iris["active"], iris["candidate"], iris["canary_percent"]) = (json!("green"), json!("blue"), json!(0));
            change(iris);
        })
    }

    /// All that is said of these, and how it ends.
    fn story(states: &[Deployment]) -> (String, Option<Outcome>) {
        let mut follower = Follower::default();
        let mut text = String::new();
        for state in states {
            let news = follower.look(state);
            text.push_str(&news.lines.iter().map(|line| format!("{line}\n")).collect::<String>());
            if news.end.is_some() {
                return (text, news.end);
            }
        }
        (text, None)
    }

    #[test]
    fn each_step_is_told_once_with_what_was_known_at_its_end() {
        let with = |evidence: &'static str| move |iris: &mut Value| iris["rollout"]["evidence"] = json!(evidence);
        let (text, end) = story(&[
            state("running", 1, with("early")),
            state("running", 1, with("an e-value of 2")),
            state("running", 2, |iris| iris["reason"] = json!("step 2 of 3: green is hardly worse")),
            promoted(|_| ()),
        ]);
        let expected = "\
18:10:08Z  step 1 of 3: green (version 2) gets 10 %
           an e-value of 2
18:10:08Z  step 2 of 3: green (version 2) gets 20 %: green is hardly worse
18:10:08Z  promoted: green (version 2) is active
";
        assert_eq!((text.as_str(), end), (expected, Some(Outcome::Done)));
    }

    #[test]
    fn a_step_that_copies_requests_says_so() {
        for (canary, said) in [(0, "green (version 2) gets copies of 20 %\n"), (1, "gets 1 %, and copies of 20 %\n")] {
            let (text, _) = story(&[state("running", 1, |iris| {
                (iris["canary_percent"], iris["shadow_percent"]) = (json!(canary), json!(20));
            })]);
            assert!(text.ends_with(said), "{text}");
        }
    }

    #[test]
    fn what_ends_badly_fails_and_says_who_ended_it() {
        let by = |who: &'static str, why: &'static str| {
            move |iris: &mut Value| (iris["changed_by"], iris["reason"]) = (json!(who), json!(why))
        };
        let later = |iris: &mut Value| iris["rollout"]["began"] = json!("2026-11-23T19:00:00Z");
        let cases = [
            (vec![state("rolled_back", 1, by("guard", "green fails"))], "ROLLED BACK by guard: green fails"),
            (vec![state("breached", 2, by("guard", "green fails"))], "BREACHED at step 2 of 3: green fails"),
            (vec![state("aborted", 1, by("anna", ""))], "ABORTED by anna (admin)"),
            (vec![state("replaced", 1, |_| ())], "REPLACED: another version is behind green"),
            (vec![state("running", 1, |_| ()), state("running", 1, later)], "another rollout began, by ci (admin)"),
            (vec![state("running", 1, |_| ()), iris(|_| ())], "the rollout is gone"),
            (vec![iris(|_| ())], "iris has had no rollout"),
        ];
        for (states, said) in cases {
            let (text, end) = story(&states);
            assert!(text.contains(said) && end == Some(Outcome::Failed), "{said:?}: {end:?}\n{text}");
        }
    }

    #[test]
    fn a_rollout_that_an_operator_holds_is_waited_for() {
        let (text, end) =
            story(&[state("running", 1, |_| ()), state("paused", 1, |_| ()), state("running", 1, |_| ())]);
        assert!(end.is_none() && text.contains("paused at step 1 of 3 by ci") && text.lines().count() == 3, "{text}");
        assert_eq!(story(&[state("complete", 3, |_| ())]).1, Some(Outcome::Done));
    }

    #[test]
    fn a_promotion_is_followed_as_long_as_the_guard_may_take_it_back() {
        let kept = || {
            promoted(|iris| {
                iris["canary_percent"] = json!(2);
                iris["kept"] = json!({"percent": 2, "until": "2026-11-23T18:20:08Z"});
            })
        };
        let (text, end) = story(&[state("running", 3, |_| ()), kept(), kept()]);
        assert!(end.is_none() && text.contains("blue (version 1) keeps 2 % until 18:20:08Z"), "{text}");
        assert_eq!(story(&[kept(), promoted(|_| ())]).1, Some(Outcome::Done));
        let back =
            state("promoted", 3, |iris| (iris["canary_percent"], iris["changed_by"]) = (json!(0), json!("guard")));
        let (text, end) = story(&[kept(), back]);
        assert!(text.contains("TAKEN BACK by guard (admin): blue (version 1) is active"), "{text}");
        assert_eq!(end, Some(Outcome::Failed));
    }
}
