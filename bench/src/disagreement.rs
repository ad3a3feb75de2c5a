//! How often models that are alike are said to disagree, and how soon a candidate that disagrees is found.
//!
//! A simulation of models that answer with a label, alike or not, noisy or not. The filter's own code decides whom to ask again
//! ([`Compared::wants_again`]), counts ([`Compared::add`]) and judges ([`Excess`](bluegreen_core::shadow::excess::Excess)).
//! Nothing is measured on this machine: each run has a seed of its own, so the figures are the same on any other.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bluegreen_core::config::Compare;
use bluegreen_core::json;
use bluegreen_core::shadow::answer::Answer;
use bluegreen_core::shadow::record::{Again, Compared, Trial};
use bluegreen_programs::Progress;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use serde_json::json;

use crate::guard::{Quantiles, Share, in_parallel};
use crate::report::{BenchReport, Table, Target};

/// Two models behind one deployment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Models {
    /// How often two answers of one model to one request differ, 0 to 0.6.
    noise: f64,
    /// How much more often the candidate's differs, as a share of all requests.
    excess: f64,
    /// Whether each answer has a field besides that is never the same twice.
    has_id: bool,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
enum Shown {
    /// That the excess is above a bound.
    Disagreement,
    /// That it is below.
    Agreement,
}

/// Some runs of two models, each until it is shown or over.
#[derive(Clone, Copy, Debug, Serialize)]
struct Trials {
    models: Models,
    shown: Shown,
    /// The bound.
    max_excess: f64,
    runs: usize,
    /// Compared requests of a run.
    horizon: u64,
}

/// What became of them.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    trials: Trials,
    /// Runs in which it was shown.
    ended: Share,
    /// Compared requests until then, in the runs in which it was.
    requests: Quantiles,
    /// How many of a thousand compared requests the active colour answered twice.
    asked_again: f64,
}

/// The answers that models give, read once.
struct Answers {
    labels: Vec<Vec<Answer>>,
}

/// The chance of a wrong conclusion that is allowed.
const ALPHA: f64 = 0.01;
/// The labels of both models. The candidate's excess is one more, which the active colour never gives.
const LABELS: usize = 3;
/// Values of the field that is never the same.
const IDS: usize = 1_024;
/// The share of requests in the random sample, the default of `noise_percent`.
const SAMPLED: f64 = 0.05;
/// How often two answers of one model differ.
const NOISES: [f64; 4] = [0.0, 0.01, 0.05, 0.30];
/// By how much more often the candidate's differ.
const EXCESSES: [f64; 3] = [0.01, 0.03, 0.10];

/// How many runs, and how many compared requests in each: fewer only try things out.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// For what must hardly ever happen.
    rare: (usize, u64),
    /// The same, over a long time.
    long: (usize, u64),
    /// For what must happen.
    usual: (usize, u64),
}

const WHOLE: Effort = Effort { rare: (20_000, 2_500), long: (500, 30_000), usual: (300, 500_000) };
const QUICK: Effort = Effort { rare: (1_000, 2_000), long: (40, 20_000), usual: (30, 50_000) };

/// Plays all of it.
pub fn run(quick: bool) -> Result<BenchReport> {
    let effort = if quick { QUICK } else { WHOLE };
    let progress = Progress::start("Comparing simulated answers");
    let play = |trials: &[Trials]| -> Result<Vec<Outcome>> {
        trials
            .iter()
            .map(|trials| {
                let Trials { models, max_excess, .. } = trials;
                progress.detail(&format!("{:?}: {models:?}, bound {max_excess}", trials.shown));
                outcome(*trials)
            })
            .collect()
    };
    let alarms = play(&false_alarms(effort))?;
    let agreements = play(&false_agreements(effort))?;
    let found = play(&detections(effort))?;
    let shown = play(&true_agreements(effort))?;
    progress.done("Compared simulated answers");
    Ok(report(&alarms, &agreements, &found, &shown))
}

fn false_alarms(effort: Effort) -> Vec<Trials> {
    let alike = |noise, has_id| Models { noise, excess: 0.0, has_id };
    let models = [alike(0.0, false), alike(0.01, false), alike(0.05, false), alike(0.3, false), alike(0.6, false)];
    let models = models.into_iter().chain([alike(0.0, true), alike(0.05, true)]);
    let trials = models.flat_map(|models| {
        [effort.rare, effort.long].map(|(runs, horizon)| Trials {
            models,
            shown: Shown::Disagreement,
            max_excess: 0.0,
            runs,
            horizon,
        })
    });
    trials.collect()
}

fn false_agreements(effort: Effort) -> Vec<Trials> {
    let (runs, horizon) = effort.rare;
    let bounds = [0.02, 0.10].into_iter();
    let trials = bounds.flat_map(|bound| {
        NOISES.map(|noise| Trials {
            models: Models { noise, excess: bound, has_id: false },
            shown: Shown::Agreement,
            max_excess: bound,
            runs,
            horizon,
        })
    });
    trials.collect()
}

fn detections(effort: Effort) -> Vec<Trials> {
    let (runs, horizon) = effort.usual;
    let trials = NOISES.into_iter().flat_map(|noise| {
        EXCESSES.map(|excess| Trials {
            models: Models { noise, excess, has_id: false },
            shown: Shown::Disagreement,
            max_excess: 0.0,
            runs,
            horizon,
        })
    });
    trials.collect()
}

fn true_agreements(effort: Effort) -> Vec<Trials> {
    let (runs, horizon) = effort.usual;
    let trials = NOISES.into_iter().flat_map(|noise| {
        [0.01, 0.02, 0.05].map(|max_excess| Trials {
            models: Models { noise, excess: 0.0, has_id: false },
            shown: Shown::Agreement,
            max_excess,
            runs,
            horizon,
        })
    });
    trials.collect()
}

fn outcome(trials: Trials) -> Result<Outcome> {
    let rules = rules()?;
    let answers = Answers::new(trials.models, &rules)?;
    let runs = in_parallel(trials.runs, |run| Ok(play(trials, &answers, &rules, run)))?;
    let ends: Vec<f64> = runs.iter().filter_map(|(end, ..)| *end).map(|end| end as f64).collect();
    let (asked, compared) = runs.iter().fold((0, 0), |(asked, compared), run| (asked + run.1, compared + run.2));
    Ok(Outcome {
        trials,
        ended: Share::new(ends.len(), trials.runs),
        requests: Quantiles::of(&ends),
        asked_again: 1_000.0 * asked as f64 / compared.max(1) as f64,
    })
}

fn rules() -> Result<Compare> {
    let section = r#"{"safe": [{"method": "POST", "path_prefix": "/"}]}"#;
    json::from_str(section).map_err(|error| anyhow!("{error}"))
}

/// One run: after how many compared requests it was shown, how often the active colour was asked again, and how many requests
/// there were.
fn play(trials: Trials, answers: &Answers, rules: &Compare, run: u64) -> (Option<u64>, u64, u64) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(run);
    let mut compared = Compared::default();
    let took = (Duration::from_millis(10), Duration::from_millis(10));
    let mut asked = 0;
    for request in 1..=trials.horizon {
        let first = answers.of_active(trials.models, &mut random);
        let candidate = answers.of_candidate(trials.models, &mut random);
        let is_sample = random.random::<f64>() < SAMPLED;
        let second = answers.of_active(trials.models, &mut random);
        let is_asked = is_sample || compared.wants_again(first, candidate, rules);
        asked += u64::from(is_asked);
        let again = if is_asked { Again::Answered(second) } else { Again::NotAsked };
        let before = compared.excess;
        compared.add(&Trial { first, candidate, again, is_sample, took }, rules);
        let after = compared.excess;
        let is_shown = match trials.shown {
            // Only a request that speaks for it can have made the difference.
            Shown::Disagreement => {
                after.plus > before.plus && after.disagreement_e_value(trials.max_excess) >= 1.0 / ALPHA
            }
            Shown::Agreement => after.plus == before.plus && after.agreement_e_value(trials.max_excess) >= 1.0 / ALPHA,
        };
        if is_shown {
            return (Some(request), asked, request);
        }
    }
    (None, asked, trials.horizon)
}

fn report(alarms: &[Outcome], agreements: &[Outcome], found: &[Outcome], shown: &[Outcome]) -> BenchReport {
    let mut wrong = Table::new(
        "Models that are alike, said to disagree",
        &["noise", "runs", "compared requests of each", "said to disagree (95 % interval)", "asked twice, of 1,000"],
    );
    for Outcome { trials, ended, asked_again, .. } in alarms {
        let id = if trials.models.has_id { ", and a field that always differs" } else { "" };
        wrong.row([
            format!("{}{id}", percent(trials.models.noise)),
            trials.runs.to_string(),
            trials.horizon.to_string(),
            share(*ended),
            format!("{asked_again:.0}"),
        ]);
    }
    let mut unshown = Table::new(
        "Candidates with an excess of exactly what is allowed, said to agree",
        &["noise", "excess", "runs", "said to agree (95 % interval)"],
    );
    for Outcome { trials, ended, .. } in agreements {
        let Models { noise, excess, .. } = trials.models;
        unshown.row([percent(noise), percent(excess), trials.runs.to_string(), share(*ended)]);
    }
    let by_noise = |caption: &str, column: fn(&Trials) -> f64, head: &str, outcomes: &[Outcome]| {
        let columns: Vec<String> =
            outcomes.iter().take(3).map(|outcome| format!("{head} {}", percent(column(&outcome.trials)))).collect();
        let columns: Vec<&str> = ["noise"].into_iter().chain(columns.iter().map(String::as_str)).collect();
        let mut table = Table::new(caption, &columns);
        for row in outcomes.chunks(3) {
            let noise = row.first().map_or(0.0, |outcome| outcome.trials.models.noise);
            table.row([percent(noise)].into_iter().chain(row.iter().map(Outcome::show)));
        }
        table
    };
    let caption = "Candidates that disagree: compared requests until it is shown, median (and 10th to 90th percentile)";
    let detection = by_noise(caption, |trials| trials.models.excess, "excess", found);
    let caption =
        "Models that are alike: compared requests until agreement is shown, median (and 10th to 90th percentile)";
    let agreement = by_noise(caption, |trials| trials.max_excess, "less than", shown);

    let worst = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| 100.0 * outcome.ended.share).fold(0.0, f64::max);
    let missed = found.iter().chain(shown).filter(|outcome| outcome.ended.share < 1.0).count();
    let why = "a run may be too short, or the test wrong: see the tables";
    BenchReport {
        title: "Disagreement: how often shadow comparisons are wrong, and how soon they are right".to_owned(),
        method: METHOD.iter().map(|sentence| (*sentence).to_owned()).collect(),
        tables: vec![wrong, unshown, detection, agreement],
        targets: vec![
            Target::at_most("models alike said to disagree, worst row", 100.0 * ALPHA, worst(alarms), "%", why),
            Target::at_most(
                "excess as large as allowed said to be less, worst row",
                100.0 * ALPHA,
                worst(agreements),
                "%",
                why,
            ),
            Target::at_most(
                "rows of the last two tables in which a run ended without a conclusion",
                0.0,
                missed as f64,
                "",
                why,
            ),
        ],
        notes: NOTES.iter().map(|sentence| (*sentence).to_owned()).collect(),
        measurements: json!({"alarms": alarms, "agreements": agreements, "found": found, "shown": shown}),
    }
}

const METHOD: [&str; 3] = [
    "A simulation: two models answer each request with one of three labels; the filter's own code decides whether to ask the \
     active colour again, counts, and judges after each request, at an α of 1 %. *Noise* is how often two answers of one model \
     to one request differ, *excess* how much more often the candidate's differs from the active colour's. `noise_percent` is 5.",
    "",
    "In the first and the third table no excess is allowed (`max_excess: 0`).",
];

const NOTES: [&str; 2] = [
    "The test may be looked at after each request, for as long as one likes: the promise is about the whole run, however long.",
    "Noise costs requests: an excess of 1 % among 30 % noise takes some hundred times as many as without. Where a part of the \
     answer is noise, `ignore` it or compare only the `pointer` that counts.",
];

fn percent(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 100.0)
}

/// With two digits: they matter below one percent.
fn share(share: Share) -> String {
    let Share { share, from, to } = share;
    format!("{:.2} % ({:.2}–{:.2})", 100.0 * share, 100.0 * from, 100.0 * to)
}

// === impl Models ===

impl Models {
    /// The chance of another label than the usual one, so that two answers differ as often as the noise says.
    fn slip(self) -> f64 {
        let others = (LABELS - 1) as f64;
        let all = LABELS as f64;
        (1.0 - (1.0 - self.noise * all / others).max(0.0).sqrt()) * others / all
    }
}

// === impl Answers ===

impl Answers {
    fn new(models: Models, rules: &Compare) -> Result<Self> {
        let ids = if models.has_id { IDS } else { 1 };
        let answer = |label: usize, id: usize| {
            let body = json!({"predictions": [format!("label {label}")], "request": id}).to_string();
            Answer::read(200, body.as_bytes(), None, rules).map_err(|reason| anyhow!("{body}: {reason:?}"))
        };
        let labels: Result<_> =
            (0..=LABELS).map(|label| (0..ids).map(|id| answer(label, id)).collect::<Result<Vec<_>>>()).collect();
        Ok(Self { labels: labels.context("an answer that cannot be read")? })
    }

    fn of_active(&self, models: Models, random: &mut Xoshiro256PlusPlus) -> &Answer {
        let slips = random.random::<f64>() < models.slip();
        let label = if slips { random.random_range(1..LABELS) } else { 0 };
        self.with_label(label, random)
    }

    /// A label that the active colour never gives disagrees with each of its own: in place of one that would have agreed or not.
    fn of_candidate(&self, models: Models, random: &mut Xoshiro256PlusPlus) -> &Answer {
        if random.random::<f64>() < models.excess / (1.0 - models.noise) {
            return self.with_label(LABELS, random);
        }
        self.of_active(models, random)
    }

    fn with_label(&self, label: usize, random: &mut Xoshiro256PlusPlus) -> &Answer {
        let answers = &self.labels[label];
        &answers[random.random_range(0..answers.len())]
    }
}

// === impl Outcome ===

impl Outcome {
    /// `870 (510–1300)`.
    fn show(&self) -> String {
        let Quantiles { p10, p50, p90, .. } = self.requests;
        let missing = if self.ended.share < 1.0 {
            format!(", {:.0} % of the runs", 100.0 * self.ended.share)
        } else {
            String::new()
        };
        format!("{p50:.0} ({p10:.0}–{p90:.0}){missing}")
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    const ALIKE: Models = Models { noise: 0.0, excess: 0.0, has_id: false };

    fn play_all(models: Models, shown: Shown, max_excess: f64, (runs, horizon): (usize, u64)) -> Outcome {
        outcome(Trials { models, shown, max_excess, runs, horizon }).expect("answers that can be read")
    }

    #[test]
    fn simulated_models_have_the_noise_and_the_excess_that_they_should() {
        let rules = rules().expect("valid");
        for (noise, excess) in [(0.0, 0.0), (0.3, 0.0), (0.6, 0.0), (0.05, 0.1), (0.3, 0.1)] {
            let models = Models { noise, excess, ..ALIKE };
            let answers = Answers::new(models, &rules).expect("readable");
            let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
            let (mut own, mut other) = (0.0, 0.0);
            const DRAWS: usize = 20_000;
            for _ in 0..DRAWS {
                let first = answers.of_active(models, &mut random);
                own += f64::from(u8::from(first != answers.of_active(models, &mut random))) / DRAWS as f64;
                other += f64::from(u8::from(first != answers.of_candidate(models, &mut random))) / DRAWS as f64;
            }
            assert!((own - noise).abs() < 0.015 && (other - noise - excess).abs() < 0.015, "{models:?}: {own} {other}");
        }
    }

    #[test]
    fn models_that_are_alike_are_hardly_ever_said_to_disagree() {
        for models in [Models { noise: 0.3, ..ALIKE }, Models { noise: 0.05, has_id: true, ..ALIKE }] {
            let alarms = play_all(models, Shown::Disagreement, 0.0, (60, 400));
            assert!(alarms.ended.share <= 0.05, "{alarms:?}");
        }
        let agreements = play_all(Models { excess: 0.1, ..ALIKE }, Shown::Agreement, 0.1, (60, 400));
        assert!(agreements.ended.share <= 0.05, "{agreements:?}");
    }

    #[test]
    fn a_candidate_that_disagrees_is_found_and_one_that_does_not_is_shown_to_agree() {
        let found = play_all(Models { noise: 0.01, excess: 0.1, ..ALIKE }, Shown::Disagreement, 0.0, (30, 2_000));
        assert!(found.ended.share > 0.99 && found.requests.p50 < 150.0, "{found:?}");
        // A field that always differs is left out after some requests, and hides nothing.
        let muted = play_all(Models { excess: 0.1, has_id: true, ..ALIKE }, Shown::Disagreement, 0.0, (30, 2_000));
        assert!(muted.ended.share > 0.99 && muted.requests.p50 < 200.0, "{muted:?}");
        let shown = play_all(ALIKE, Shown::Agreement, 0.05, (30, 2_000));
        assert!(shown.ended.share > 0.99 && shown.requests.p50 < 150.0, "{shown:?}");
    }
}
