//! What a load left behind: one record for each request, and questions to ask of them.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Just before the request was written.
    pub began: Instant,
    /// When the answer's last byte had been read, or when the request failed.
    pub ended: Instant,
    /// The answer, or why there is none.
    pub outcome: std::result::Result<Answer, String>,
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// What the filter's header says.
    pub colour: Option<String>,
    /// What the upstream itself says: the member `colour` of a JSON body.
    pub body_colour: Option<String>,
}

/// Everything that a load did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One record for each request, in the order in which they ended.
    pub records: Vec<Record>,
}

// === impl Record ===

impl Record {
    /// Whether it got a complete answer with status 2xx.
    pub fn succeeded(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|answer| (200..300).contains(&answer.status))
    }

    /// The colour that the filter's header named.
    pub fn colour(&self) -> Option<&str> {
        self.outcome.as_ref().ok()?.colour.as_deref()
    }
}

// === impl Report ===

impl Report {
    /// The records that did not succeed.
    pub fn failures(&self) -> Vec<&Record> {
        self.records.iter().filter(|record| !record.succeeded()).collect()
    }

    /// The records whose request began after `instant`.
    pub fn begun_after(&self, instant: Instant) -> Self {
        Self { records: self.records.iter().filter(|record| record.began > instant).cloned().collect() }
    }

    /// How many requests each colour answered, by the filter's header; `none` counts answers without it and requests
    /// without an answer.
    pub fn colours(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for record in &self.records {
            *counts.entry(record.colour().unwrap_or("none").to_owned()).or_default() += 1;
        }
        counts
    }

    /// How many requests `colour` answered.
    pub fn count(&self, colour: &str) -> u64 {
        self.colours().get(colour).copied().unwrap_or(0)
    }

    /// Fails, showing the first few, unless every request succeeded and there was at least one.
    pub fn ensure_no_failures(&self) -> Result<()> {
        let failures = self.failures();
        let first = failures.iter().take(5).map(|record| &record.outcome).collect::<Vec<_>>();
        ensure!(failures.is_empty(), "{} of {} requests failed: {first:?}", failures.len(), self.records.len());
        ensure!(!self.records.is_empty(), "not a single request was sent");
        Ok(())
    }

    /// Fails unless in every answer the colour in the body is the one in the header.
    pub fn ensure_truthful(&self) -> Result<()> {
        let mut answers = self.records.iter().filter_map(|record| record.outcome.as_ref().ok());
        let liar = answers.find(|answer| answer.colour != answer.body_colour);
        ensure!(liar.is_none(), "the header and the upstream do not agree: {liar:?}");
        Ok(())
    }
}
