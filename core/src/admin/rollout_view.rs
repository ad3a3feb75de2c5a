//! A rollout as the API shows it.

use serde::Serialize;

use crate::controllers::rollout::{shown_to_disagree, waits_for};
use crate::deployment::Deployment;
use crate::guard::analysis::CanaryAnalysis;
use crate::guard::verdict::sentence;
use crate::model::author::Source;
use crate::model::time::Timestamp;
use crate::state::State;
use crate::state::rollout::{Phase, Rollout};
use crate::store::Store;
use crate::store::source_status;

/// A rollout.
#[derive(Clone, Debug, Serialize)]
pub struct RolloutView {
    phase: Phase,
    /// From 1.
    step: usize,
    /// How many there are; 0 when the configuration has none any more.
    steps: usize,
    began: Timestamp,
    since: Timestamp,
    /// In words; empty when the phase waits for nothing.
    waits_for: Vec<String>,
    /// What is known about the candidate, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<String>,
}

/// Whether what was counted is about this rollout, and not about an earlier one or a later canary.
fn belongs_to(rollout: Rollout, analysis: &CanaryAnalysis) -> bool {
    let is_later = !rollout.is_live() && rollout.phase != Phase::Promoted && analysis.began > rollout.since;
    analysis.candidate == rollout.candidate && analysis.began >= rollout.began && !is_later
}

// === impl RolloutView ===

impl RolloutView {
    /// The rollout of a deployment with the canary's analysis.
    pub fn new(
        rollout: Rollout,
        deployment: &Deployment,
        state: &State,
        analysis: Option<&CanaryAnalysis>,
        store: &dyn Store,
        now: Timestamp,
    ) -> Self {
        let operator = |what: &str| vec![format!("for an operator: {what}")];
        let waits_for = match rollout.phase {
            Phase::Running => {
                let refusal =
                    source_status::read(store, &deployment.name, Source::Rollout).and_then(|status| status.refusal);
                match (waits_for(deployment, state, analysis, now), refusal) {
                    (None, _) => operator("the configuration has no such step"),
                    (Some(waits), Some(refusal)) if waits.is_empty() => {
                        vec![format!("the next step is refused: {refusal}")]
                    }
                    (Some(waits), _) => waits,
                }
            }
            Phase::Breached => {
                let why = analysis.and_then(|analysis| shown_to_disagree(deployment, state, analysis));
                operator(&why.map_or("resume, skip or abort".to_owned(), |why| format!("{why}: skip or abort")))
            }
            Phase::Paused => operator("resume, skip or abort"),
            Phase::Complete => operator("skip promotes, abort goes back"),
            Phase::Promoted | Phase::Aborted | Phase::RolledBack | Phase::Replaced => Vec::new(),
        };
        let guard = deployment.guard.as_ref();
        Self {
            phase: rollout.phase,
            step: rollout.step.saturating_add(1),
            steps: deployment.rollout.as_ref().map_or(0, |plan| plan.steps.len()),
            began: rollout.began,
            since: rollout.since,
            waits_for,
            evidence: analysis
                .filter(|analysis| belongs_to(rollout, analysis) && analysis.is_about(state))
                .zip(guard)
                .map(|(analysis, guard)| sentence(analysis, guard)),
        }
    }
}
