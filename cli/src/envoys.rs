//! The Envoys of a command: all are asked at once, and there is one answer where they agree.

use std::process::ExitCode;
use std::thread;

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use crate::api::{ApiError, Client, Deployment, Reply};
use crate::contexts::Target;
use crate::forward::{self, Forward};
use crate::style::{Style, count};

/// Those that are meant.
#[derive(Debug)]
pub struct Envoys {
    all: Vec<Envoy>,
    /// They forward as long as they live.
    _forwards: Vec<Forward>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Envoy {
    /// What it is called in messages.
    pub label: String,
    /// Its API.
    pub client: Client,
}

/// What each of them answered, in their order.
#[derive(Debug)]
pub struct Answers<T>(pub Vec<(String, Result<Reply<T>, ApiError>)>);

/// How a command shows its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// As JSON, in place of tables and sentences.
    pub is_json: bool,
    /// The colours.
    pub style: Style,
}

/// How a command ends. The worse one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Done.
    Done,
    /// Done, and a worker has not confirmed it.
    Unconfirmed,
    /// Refused, failed, or taken back.
    Failed,
}

// === impl Envoys ===

impl Envoys {
    /// A client of each target; for those in Kubernetes this forwards ports.
    ///
    /// # Errors
    /// A URL is none, or kubectl fails.
    pub fn connect(targets: &[Target]) -> Result<Self> {
        let (mut all, mut forwards) = (Vec::new(), Vec::new());
        for target in targets {
            match target {
                Target::Url { url, with } => {
                    let client = with.client(url)?;
                    all.push(Envoy { label: client.url().to_owned(), client });
                }
                Target::Pods { pods, with } => {
                    for forward in forward::to(pods)? {
                        all.push(Envoy { label: format!("pod/{}", forward.pod), client: with.client(&forward.url)? });
                        forwards.push(forward);
                    }
                }
            }
        }
        for (at, envoy) in all.iter().enumerate() {
            ensure!(all.iter().take(at).all(|other| other.label != envoy.label), "{} is given twice", envoy.label);
        }
        ensure!(!all.is_empty(), "no Envoy is named: give --url URL");
        Ok(Self { all, _forwards: forwards })
    }

    /// All of them.
    pub fn all(&self) -> &[Envoy] {
        &self.all
    }

    /// Asks all of them at once.
    pub fn ask<T: Send>(&self, question: impl Fn(&Client) -> Result<Reply<T>, ApiError> + Sync) -> Answers<T> {
        ask(self.all.iter(), |envoy| question(&envoy.client))
    }
}

/// Asks several at once.
pub fn ask<'e, T: Send>(
    envoys: impl Iterator<Item = &'e Envoy>,
    question: impl Fn(&Envoy) -> Result<Reply<T>, ApiError> + Sync,
) -> Answers<T> {
    let question = &question;
    Answers(thread::scope(|scope| {
        let asked: Vec<_> = envoys.map(|envoy| (envoy, scope.spawn(move || question(envoy)))).collect();
        let answers = asked.into_iter().map(|(envoy, answer)| {
            let broken = || ApiError::Unreachable { url: envoy.label.clone(), why: "the call broke off".to_owned() };
            (envoy.label.clone(), answer.join().unwrap_or_else(|_| Err(broken())))
        });
        answers.collect()
    }))
}

// === impl Answers ===

impl<T> Answers<T> {
    /// Whether there is one Envoy only, which then needs no name.
    pub fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    /// Those that answered.
    pub fn given(&self) -> impl Iterator<Item = (&str, &Reply<T>)> {
        self.0.iter().filter_map(|(label, answer)| Some((label.as_str(), answer.as_ref().ok()?)))
    }

    /// Names those that did not answer as they should, and says how that ends.
    pub fn report_failures(&self) -> Outcome {
        for (label, answer) in &self.0 {
            let Err(error) = answer else { continue };
            report((!self.is_single()).then_some(label), error);
        }
        if self.0.iter().all(|(_, answer)| answer.is_ok()) { Outcome::Done } else { Outcome::Failed }
    }

    /// Prints what was answered as it came: of one Envoy its answer, of several an object with one member each.
    pub fn print_json(&self) {
        let raw = |answer: &Result<Reply<T>, ApiError>| match answer {
            Ok(reply) => reply.raw.clone(),
            Err(error) => error.json(),
        };
        let json = match self.0.as_slice() {
            [(_, answer)] => raw(answer),
            answers => {
                Value::Object(answers.iter().map(|(label, answer)| (label.clone(), raw(answer))).collect::<Map<_, _>>())
            }
        };
        print_json(&json);
    }
}

/// Prints JSON for people and programs.
pub fn print_json(json: &Value) {
    println!("{json:#}");
}

/// Says why there is no answer.
pub fn report(label: Option<&String>, error: &ApiError) {
    // An error that names the place already.
    let is_named = |label: &String| matches!(error, ApiError::Unreachable { url, .. } | ApiError::NotTheApi { url, .. } if url == label);
    let text = match label.filter(|label| !is_named(label)) {
        Some(label) => format!("{label}: {error}"),
        None => error.to_string(),
    };
    eprintln!("bluegreen: {text}");
}

/// Whether these Envoys have their states in common: those of a fleet do, and the rest are on their own.
pub fn is_fleet(states: &[&Deployment]) -> bool {
    let same = states
        .windows(2)
        .all(|pair| pair.first().map(|state| state.revision) == pair.last().map(|state| state.revision));
    same && states.iter().all(|state| state.stale.is_some())
}

/// In what these Envoys differ about a deployment, if they do.
pub fn difference(states: &[&Deployment]) -> Option<String> {
    let (first, rest) = states.split_first()?;
    if rest.iter().all(|state| state.settings() == first.settings()) {
        return None;
    }
    let mut groups: Vec<(String, u64)> = Vec::new();
    for state in states {
        let rollout = match state.live_rollout() {
            Some(rollout) => format!(", rollout {}", rollout_in_words(&rollout.phase, rollout.step, rollout.steps)),
            None => String::new(),
        };
        let said = format!("{}{rollout}", state.traffic());
        match groups.iter_mut().find(|(known, _)| *known == said) {
            Some((_, number)) => *number += 1,
            None => groups.push((said, 1)),
        }
    }
    if groups.len() == 1 {
        return Some(format!(
            "{} differs: other clusters are behind its colours, or other shares are copied",
            first.name
        ));
    }
    let groups = groups.iter().map(|(said, number)| format!("on {} {said}", count(*number, "Envoy")));
    Some(format!("{} differs: {}", first.name, groups.collect::<Vec<_>>().join("; ")))
}

/// `running 2/3`.
pub fn rollout_in_words(phase: &str, step: u64, steps: u64) -> String {
    let phase = phase.replace('_', " ");
    if matches!(phase.as_str(), "running" | "paused" | "breached") { format!("{phase} {step}/{steps}") } else { phase }
}

// === impl Outcome ===

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Unconfirmed => Self::from(3),
            Outcome::Failed => Self::FAILURE,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::tests::iris;

    #[test]
    fn envoys_agree_about_settings_whatever_each_has_counted() {
        let one = iris(|_| ());
        let other = iris(|iris| {
            iris["revision"] = json!(3);
            iris["colours"]["blue"]["in_flight"] = json!(9);
        });
        assert_eq!(difference(&[&one, &other]), None);
        let promoted = iris(|iris| (iris["active"], iris["candidate"]) = (json!("green"), json!("blue")));
        let said = difference(&[&one, &promoted, &other]).unwrap_or_default();
        assert_eq!(
            said,
            "iris differs: on 2 Envoys blue (version 1) gets all traffic; on 1 Envoy green (version 2) gets all traffic"
        );
        let pushed = iris(|iris| iris["colours"]["green"]["version"] = json!("3"));
        assert!(difference(&[&one, &pushed]).is_some(), "another version is another candidate");
        let moved = iris(|iris| iris["colours"]["green"]["cluster"] = json!("v3"));
        assert!(
            difference(&[&one, &moved]).unwrap_or_default().contains("other clusters"),
            "the same words, another place"
        );
        let over = json!({"phase": "rolled_back", "step": 1, "steps": 2, "began": "2026-11-23T18:10:08Z", "since": "2026-11-23T18:10:08Z"});
        assert_eq!(difference(&[&one, &iris(|iris| iris["rollout"] = over)]), None, "what is over makes no difference");
    }

    #[test]
    fn those_of_a_fleet_have_one_revision() {
        let alone = iris(|_| ());
        let of_fleet = |revision: u64| iris(|iris| (iris["stale"], iris["revision"]) = (json!(false), json!(revision)));
        let cases = [
            (vec![alone.clone(), alone.clone()], false),
            (vec![of_fleet(7), of_fleet(7)], true),
            (vec![of_fleet(7), of_fleet(8)], false),
            (vec![of_fleet(7), alone], false),
        ];
        for (states, expected) in cases {
            assert_eq!(is_fleet(&states.iter().collect::<Vec<_>>()), expected, "{states:?}");
        }
    }

    #[test]
    fn the_worst_outcome_counts() {
        assert_eq!([Outcome::Done, Outcome::Failed, Outcome::Unconfirmed].into_iter().max(), Some(Outcome::Failed));
    }
}
