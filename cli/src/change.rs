//! What moves traffic: promote, rollback, canary, shadow, and the controls of a rollout.

use std::thread;
use std::time::{Duration, Instant};

use bluegreen_core::model::colour::Colour;
use clap::Args;

use crate::api::{ApiError, Call, Deployment, Reply, of};
use crate::envoys::{Answers, Envoy, Envoys, Outcome, Output, ask, difference, is_fleet};
use crate::style;

/// Why, and how firmly.
#[derive(Args, Clone, Debug, Default)]
pub struct How {
    /// Kept in the history
    #[arg(long)]
    pub reason: Option<String>,
    /// Skip the checks of probe and smoke test; the history says so
    #[arg(long)]
    pub force: bool,
}

/// A change that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeRequest {
    /// All traffic for this colour; for the candidate where none is named.
    Promote(Option<Colour>),
    /// Back to what was active before.
    RollBack(Option<Colour>),
    /// The candidate's share.
    Canary(String),
    /// The share of copies.
    Shadow(String),
    /// What becomes of the rollout.
    Rollout(Action),
}

/// What becomes of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Pause,
    Resume,
    Skip,
    Abort,
}

/// A change that an Envoy made, or had made already.
#[derive(Clone, Debug)]
struct Made {
    /// Before it.
    revision: u64,
    /// Since.
    state: Deployment,
}

/// How long the other Envoys of a fleet may take until they follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);

/// How often they are asked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Submits a change to all Envoys, and says what came of it.
pub fn submit(envoys: &Envoys, name: &str, request: &ChangeRequest, how: &How, output: Output) -> Outcome {
    let seen = ask(envoys.all().iter(), |envoy| envoy.client.deployment(name));
    let states: Vec<&Deployment> = seen.given().map(|(_, reply)| &reply.view).collect();
    let answers = if let Some(mistake) = ambiguity(request, &states) {
        eprintln!("bluegreen: {mistake}");
        return Outcome::Failed;
    } else if states.len() > 1 && is_fleet(&states) {
        through_one(envoys, &seen, request, how)
    } else {
        on_each(envoys.all(), &seen, request, how)
    };
    show(&answers, output)
}

/// Why it cannot be said what is wanted.
fn ambiguity(request: &ChangeRequest, states: &[&Deployment]) -> Option<String> {
    let (first, rest) = states.split_first()?;
    let names_colour = matches!(
        request,
        ChangeRequest::Promote(Some(_)) | ChangeRequest::RollBack(Some(_)) | ChangeRequest::Rollout(_)
    );
    if names_colour || rest.iter().all(|state| state.active == first.active) {
        return None;
    }
    Some(match request {
        ChangeRequest::Promote(_) | ChangeRequest::RollBack(_) => {
            format!("{}. Say where to go: --to blue or --to green", difference(states)?)
        }
        _ => format!(
            "{}. A share goes to the candidate, which is not the same everywhere: bluegreen promote {} --to COLOUR first",
            difference(states)?,
            first.name
        ),
    })
}

/// What was seen on an Envoy before.
fn seen_on<'s>(seen: &'s Answers<Deployment>, envoy: &Envoy) -> Result<&'s Deployment, ApiError> {
    match seen.0.iter().find(|(label, _)| *label == envoy.label) {
        Some((_, Ok(reply))) => Ok(&reply.view),
        Some((_, Err(error))) => Err(error.clone()),
        None => Err(ApiError::Unreachable { url: envoy.label.clone(), why: "it was not asked".to_owned() }),
    }
}

/// One by one: each has a state of its own.
fn on_each(all: &[Envoy], seen: &Answers<Deployment>, request: &ChangeRequest, how: &How) -> Answers<Made> {
    ask(all.iter(), |envoy| on_one(envoy, seen_on(seen, envoy)?, request, how))
}

/// A fleet has one state: one Envoy changes it, and the others follow. Those that do not have one of their own.
fn through_one(envoys: &Envoys, seen: &Answers<Deployment>, request: &ChangeRequest, how: &How) -> Answers<Made> {
    // Not one that may have missed a change.
    let mut known = envoys.all().iter().filter_map(|envoy| Some((envoy, seen_on(seen, envoy).ok()?)));
    let writer = known.clone().find(|(_, state)| state.stale == Some(false)).or_else(|| known.next());
    let Some((envoy, state)) = writer else { return on_each(envoys.all(), seen, request, how) };
    let made = on_one(envoy, state, request, how);
    let revision = match &made {
        Ok(made) => made.view.state.revision,
        // What one refuses, all do.
        Err(error) => return Answers(vec![(envoy.label.clone(), Err(error.clone()))]),
    };
    let deadline = Instant::now() + FOLLOWS_WITHIN;
    ask(envoys.all().iter(), |other| {
        if other.label == envoy.label {
            return made.clone();
        }
        let before = seen_on(seen, other)?;
        loop {
            let now = other.client.deployment(&state.name)?;
            if now.view.revision >= revision {
                let is_confirmed = now.view.in_force.silent.is_empty();
                let view = Made { revision: before.revision, state: now.view };
                return Ok(Reply { raw: now.raw, view, is_confirmed });
            }
            if Instant::now() >= deadline {
                return on_one(other, &now.view, request, how);
            }
            thread::sleep(LOOK_EVERY);
        }
    })
}

fn unchanged(reply: &Reply<Deployment>) -> Reply<Made> {
    let view = Made { revision: reply.view.revision, state: reply.view.clone() };
    Reply { raw: reply.raw.clone(), view, is_confirmed: true }
}

/// On the state that was seen, and on no other.
fn on_one(envoy: &Envoy, before: &Deployment, request: &ChangeRequest, how: &How) -> Result<Reply<Made>, ApiError> {
    if request.is_met(before) {
        return envoy.client.deployment(&before.name).map(|reply| unchanged(&reply));
    }
    let mut call = match request {
        ChangeRequest::Promote(_) => Call::post(of(&before.name, "/promote")),
        ChangeRequest::RollBack(_) => Call::post(of(&before.name, "/rollback")),
        ChangeRequest::Canary(_) | ChangeRequest::Shadow(_) => Call::patch(of(&before.name, "")),
        ChangeRequest::Rollout(action) => Call::post(of(&before.name, &format!("/rollout/{}", action.as_str()))),
    };
    call = match request {
        ChangeRequest::Promote(Some(to)) | ChangeRequest::RollBack(Some(to)) => call.with("to", to.as_str()),
        ChangeRequest::Canary(share) => call.with("canary_percent", share),
        ChangeRequest::Shadow(share) => call.with("shadow_percent", share),
        ChangeRequest::Promote(None) | ChangeRequest::RollBack(None) | ChangeRequest::Rollout(_) => call,
    };
    if let Some(reason) = &how.reason {
        call = call.with("reason", reason);
    }
    if how.force {
        call = call.with("force", "true");
    }
    let reply: Reply<Deployment> = envoy.client.send(&call.if_match(before.revision))?;
    let view = Made { revision: before.revision, state: reply.view };
    Ok(Reply { raw: reply.raw, view, is_confirmed: reply.is_confirmed })
}

/// One sentence where all agree, and a line for each Envoy where they do not.
fn show(answers: &Answers<Made>, output: Output) -> Outcome {
    if output.is_json {
        answers.print_json();
    }
    let mut outcome = answers.report_failures();
    let mut sentences: Vec<(String, Vec<(&str, u64)>)> = Vec::new();
    for (label, reply) in answers.given() {
        let sentence = reply.view.sentence();
        let made = (label, reply.view.state.revision);
        match sentences.iter_mut().find(|(known, _)| *known == sentence) {
            Some((_, of)) => of.push(made),
            None => sentences.push((sentence, vec![made])),
        }
        if !reply.is_confirmed {
            outcome = outcome.max(Outcome::Unconfirmed);
            let in_force = &reply.view.state.in_force;
            let place = if answers.is_single() { String::new() } else { format!("{label}: ") };
            eprintln!(
                "bluegreen: warning: {place}{} of {} workers follow this; {} may still follow the old state: bluegreen status {}",
                in_force.confirmed,
                in_force.of,
                silent(&in_force.silent),
                reply.view.state.name
            );
        }
    }
    if output.is_json {
        return outcome;
    }
    if let ([(sentence, of)], false) = (sentences.as_slice(), outcome == Outcome::Failed) {
        println!("{}", in_common(sentence, of));
        return outcome;
    }
    let mut table = output.style.table(["ENVOY", "RESULT"]);
    for (sentence, of) in &sentences {
        for (label, revision) in of {
            table.add_row([label, &*format!("{sentence} (revision {revision})")]);
        }
    }
    for (label, answer) in answers.0.iter().filter(|_| !answers.is_single()) {
        if let Err(error) = answer {
            table.add_row([label.as_str(), &format!("FAILED: {}", style::shortened(&error.to_string(), 100))]);
        }
    }
    if !table.is_empty() {
        output.style.print(&table);
    }
    outcome
}

/// What all of these made: Envoys without a common store count their revisions each for itself.
fn in_common(sentence: &str, of: &[(&str, u64)]) -> String {
    let revisions = of.iter().map(|(_, revision)| *revision);
    let revision = match (revisions.clone().min(), revisions.max()) {
        (Some(least), Some(most)) if least < most => format!("revisions {least} to {most}"),
        (least, _) => format!("revision {}", least.unwrap_or_default()),
    };
    let on = if of.len() > 1 { format!(", on {} Envoys", of.len()) } else { String::new() };
    format!("{sentence} ({revision}){on}")
}

fn silent(workers: &[u64]) -> String {
    let names: Vec<_> = workers.iter().map(u64::to_string).collect();
    format!("worker {}", names.join(", "))
}

// === impl ChangeRequest ===

impl ChangeRequest {
    /// Whether nothing is left to do, so that a call would be refused as one too many.
    fn is_met(&self, state: &Deployment) -> bool {
        let phase = state.rollout.as_ref().map(|rollout| rollout.phase.as_str());
        match self {
            Self::Rollout(Action::Pause) => phase == Some("paused"),
            Self::Rollout(Action::Resume) => phase == Some("running"),
            Self::Rollout(Action::Abort) => phase == Some("aborted"),
            _ => false,
        }
    }
}

// === impl Action ===

impl Action {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Skip => "skip",
            Self::Abort => "abort",
        }
    }
}

// === impl Made ===

impl Made {
    fn sentence(&self) -> String {
        let Self { revision, state } = self;
        let already = if state.revision == *revision { "already: " } else { "" };
        let rollout = match &state.rollout {
            Some(rollout) if rollout.phase == "running" => {
                format!("; step {} of {} of a rollout", rollout.step, rollout.steps)
            }
            Some(rollout) if matches!(rollout.phase.as_str(), "paused" | "breached" | "complete") => {
                format!("; rollout {} at step {} of {}", rollout.phase, rollout.step, rollout.steps)
            }
            _ => String::new(),
        };
        format!("{}: {already}{}{rollout}", state.name, state.traffic())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::tests::iris;

    #[test]
    fn a_repeated_change_says_that_it_was_made_already() {
        let state = iris(|_| ());
        let made = Made { revision: 6, state: state.clone() };
        assert_eq!(made.sentence(), "iris: blue (version 1) gets all traffic");
        let again = Made { revision: 7, state };
        assert_eq!(again.sentence(), "iris: already: blue (version 1) gets all traffic");
    }

    #[test]
    fn what_several_envoys_made_is_one_line() {
        let cases = [
            (vec![("a", 7)], "x (revision 7)"),
            (vec![("a", 7), ("b", 7)], "x (revision 7), on 2 Envoys"),
            (vec![("a", 7), ("b", 3)], "x (revisions 3 to 7), on 2 Envoys"),
        ];
        for (of, line) in cases {
            assert_eq!(in_common("x", &of), line);
        }
    }

    #[test]
    fn where_envoys_differ_a_promote_has_to_say_where_to() {
        let one = iris(|_| ());
        let other = iris(|iris| (iris["active"], iris["candidate"]) = (json!("green"), json!("blue")));
        let cases = [
            (ChangeRequest::Promote(None), vec![&one, &other], true),
            (ChangeRequest::RollBack(None), vec![&one, &other], true),
            (ChangeRequest::Promote(Some(Colour::Green)), vec![&one, &other], false),
            (ChangeRequest::Canary("5".to_owned()), vec![&one, &other], true),
            (ChangeRequest::Rollout(Action::Abort), vec![&one, &other], false),
            (ChangeRequest::Promote(None), vec![&one, &one], false),
            (ChangeRequest::Promote(None), vec![], false),
        ];
        for (request, states, is_ambiguous) in cases {
            assert_eq!(ambiguity(&request, &states).is_some(), is_ambiguous, "{request:?}");
        }
    }

    #[test]
    fn a_rollout_that_is_there_already_is_not_asked_for_again() {
        let with = |phase: &str| {
            iris(|iris| {
                iris["rollout"] = json!({"phase": phase, "step": 1, "steps": 3, "began": "2026-11-23T18:10:08Z",
                    "since": "2026-11-23T18:10:08Z"});
            })
        };
        let cases = [
            (Action::Pause, "paused", true),
            (Action::Pause, "running", false),
            (Action::Resume, "running", true),
            (Action::Abort, "aborted", true),
            (Action::Start, "running", false),
            (Action::Skip, "running", false),
        ];
        for (action, phase, is_met) in cases {
            assert_eq!(ChangeRequest::Rollout(action).is_met(&with(phase)), is_met, "{action:?} {phase}");
        }
    }
}
