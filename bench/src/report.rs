//! What a subject found out: tables for people, raw measurements for machines, and whether the targets are met.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run_metadata::RunMetadata;

/// The results of one subject, as they stand in `target/bench/<subject>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub subject: String,
    pub metadata: RunMetadata,
    #[serde(flatten)]
    pub report: BenchReport,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    pub title: String,
    /// How it was measured, in sentences.
    pub method: Vec<String>,
    pub tables: Vec<Table>,
    pub targets: Vec<Target>,
    /// What a reader must know not to be misled.
    pub notes: Vec<String>,
    /// Every sample, before medians.
    pub measurements: Value,
}

/// Figures, the first column says of what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub caption: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A figure that was wanted, and the one that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub what: String,
    pub limit: f64,
    pub measured: f64,
    pub unit: String,
    pub met: bool,
    /// Why it was missed, as far as known; empty when it was met.
    pub why: String,
}

// === impl Table ===

impl Table {
    pub fn new(caption: &str, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        Self { caption: caption.to_owned(), columns, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As it looks on a terminal.
    pub fn for_terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(&self.columns).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n{table}", self.caption)
    }

    /// As it looks in a Markdown document.
    pub fn for_document(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut rule = vec!["---".to_owned()];
        rule.resize(self.columns.len(), "---:".to_owned());
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("**{}**\n\n{}{}{rows}", self.caption, line(&self.columns), line(&rule))
    }
}

// === impl Target ===

impl Target {
    /// A figure that must not be larger than `limit`; `why` is told only when it is.
    pub fn at_most(what: &str, limit: f64, measured: f64, unit: &str, why: &str) -> Self {
        let met = measured <= limit;
        let why = if met { String::new() } else { why.to_owned() };
        Self { what: what.to_owned(), limit, measured, unit: unit.to_owned(), met, why }
    }

    /// `met`, or by how much it was missed.
    pub fn verdict(&self) -> String {
        let over = self.measured - self.limit;
        match () {
            () if self.met => "met".to_owned(),
            () if self.limit > 0.0 => {
                format!("missed by {} ({:.0} %)", self.with_unit(over), 100.0 * over / self.limit)
            }
            () => format!("missed by {}", self.with_unit(over)),
        }
    }

    /// What was wanted, what was measured, and the verdict.
    pub fn cells(&self) -> [String; 4] {
        [self.what.clone(), format!("≤ {}", self.with_unit(self.limit)), self.with_unit(self.measured), self.verdict()]
    }

    fn with_unit(&self, value: f64) -> String {
        // As many digits as the figure can carry: 1.08, 5.2, 450.
        let digits = match value.abs() {
            _ if value.fract() == 0.0 => 0,
            size if size < 1.0 => 3,
            size if size < 10.0 => 2,
            size if size < 100.0 => 1,
            _ => 0,
        };
        format!("{value:.digits$} {}", self.unit).trim_end().to_owned()
    }
}

// === impl BenchReport ===

impl BenchReport {
    /// The targets as a table.
    pub fn verdicts(&self) -> Option<Table> {
        let mut table = Table::new("Targets", &["target", "wanted", "measured", "verdict"]);
        table.rows = self.targets.iter().map(|target| target.cells().to_vec()).collect();
        (!table.rows.is_empty()).then_some(table)
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_says_by_how_much_and_why() {
        let missed = Target::at_most("plain", 1.10, 1.21, "×", "writing headers");
        assert_eq!(missed.verdict(), "missed by 0.110 × (10 %)");
        assert_eq!(missed.why, "writing headers");
        let none = Target::at_most("failed requests", 0.0, 3.0, "", "");
        assert_eq!(none.verdict(), "missed by 3");
    }

    #[test]
    fn a_met_target_gives_no_reason() {
        let met = Target::at_most("admin call, p99", 5.0, 1.25, "ms", "slow");
        assert!(met.met && met.why.is_empty());
        assert_eq!(met.cells(), ["admin call, p99", "≤ 5 ms", "1.25 ms", "met"]);
    }

    #[test]
    fn a_table_is_the_same_for_terminal_and_document() {
        let mut table = Table::new("Sizes", &["what", "bytes"]);
        table.row(["module".to_owned(), "7".to_owned()]);
        assert_eq!(table.for_document(), "**Sizes**\n\n| what | bytes |\n| --- | ---: |\n| module | 7 |\n");
        assert!(table.for_terminal().contains("module") && table.for_terminal().starts_with("Sizes\n"));
    }
}
