//! The benches: bluegreen beside what people would use instead, in a real Envoy.
//!
//! Each subject ([`overhead`], [`instructions`], [`switch`], [`split`], [`scale`], [`idle`], [`size`], [`guard`],
//! [`disagreement`], [`shadow`], [`hostile`], [`fleet`])
//! measures and returns a
//! [`report`], which is printed, kept as JSON under `target/bench`, and becomes a section of `docs/benchmarks.md`,
//! or of `docs/guard-simulation.md` ([`document`]). [`gateway`] has the Envoy configurations that are compared, [`variants`] those of a request by name, [`rounds`] compares them fairly, [`callgrind`] counts instructions, [`lab`] is
//! what all subjects measure with; [`wrk`] and [`open_loop`] are the loads, [`processors`] keeps them off Envoy's, [`run_metadata`]
//! asks the kernel. [`endurance`] measures nothing: it passes or fails.

mod callgrind;
mod disagreement;
mod document;
mod endurance;
mod ext_proc;
mod fleet;
mod gateway;
mod guard;
mod hostile;
mod idle;
mod instructions;
mod lab;
mod lean_filter;
mod open_loop;
mod overhead;
mod paced_clock;
mod processors;
mod report;
mod rounds;
mod run_metadata;
mod scale;
mod shadow;
mod size;
mod split;
mod startup;
mod statistics;
mod switch;
mod variants;
mod wrk;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::prepared::Prepared;
use bluegreen_programs::{Checkout, task};
use clap::{Parser, ValueEnum};

use endurance::Endurance;
use lab::Lab;
use report::{BenchReport, Record};
use run_metadata::RunMetadata;

/// Measure the filter against what people would use instead
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    endurance: Option<Endurance>,
    /// What to measure; everything if not said
    subjects: Vec<Subject>,
    /// A short run to try things out, with an unoptimised load generator: nothing to rely on, and docs/benchmarks.md stays
    /// as it is, but for instructions, which are the same in a short run
    #[arg(long)]
    quick: bool,
    /// Fail if a request takes more instructions than bench/budgets.json allows, and measure nothing else
    #[arg(long, conflicts_with_all = ["subjects", "scenario", "runs"])]
    within_budget: bool,
    /// Play this scenario of the guard and nothing else: a file as in bench/guard
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many times a scenario of the guard is played
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Only the JSON of a scenario, no table
    #[arg(long, requires = "scenario")]
    json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Subject {
    /// Processor time and latency of a routed request, beside native Envoy, Lua, wasm and ext_proc
    Overhead,
    /// Instructions of a routed request, beside native Envoy, Lua and wasm
    Instructions,
    /// A thousand switches under load, beside Envoy's runtime and file discovery
    Switch,
    /// How exactly the candidate gets its share
    Split,
    /// One to a thousand deployments: processor time, memory, configuration time
    Scale,
    /// One to ten thousand deployments without a request: processor time, memory, and what waits for a tick
    Idle,
    /// Bytes of the module, and what loading it takes
    Size,
    /// Simulated canaries, healthy and not, judged by the guard and by the rules of today's controllers
    Guard,
    /// Simulated models whose answers are compared, alike and not, noisy and not
    Disagreement,
    /// What comparing answers costs the client, the processor and memory
    Shadow,
    /// What a caller without a token can take up
    Hostile,
    /// Four Envoys and etcd: how soon after a switch on one the others follow
    Fleet,
}

/// The page that explains the guard's tables and has a place for them.
const GUARD_PAGE: &str = "docs/guard-simulation.md";

const SUBJECTS: [Subject; 12] = [
    Subject::Overhead,
    Subject::Instructions,
    Subject::Switch,
    Subject::Split,
    Subject::Scale,
    Subject::Idle,
    Subject::Size,
    Subject::Guard,
    Subject::Disagreement,
    Subject::Shadow,
    Subject::Hostile,
    Subject::Fleet,
];

fn main() -> ExitCode {
    let options = Options::parse();
    task::run(|checkout| {
        if let Some(endurance) = &options.endurance {
            endurance.run(checkout)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(path) = &options.scenario {
            ensure!(
                matches!(options.subjects[..], [] | [Subject::Guard]),
                "--scenario goes with the subject `guard` alone"
            );
            return guard::play_file(path, options.runs, options.json);
        }
        // Load and external processor are part of this program: unoptimised, they would measure themselves.
        ensure!(
            !cfg!(debug_assertions) || options.quick || options.within_budget,
            "this program is unoptimised and would measure itself: run `cargo xtask bench`"
        );
        measure(checkout, &options)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Measures, prints and writes down.
fn measure(checkout: &Checkout, options: &Options) -> Result<()> {
    let prepared = Prepared::obtain(checkout)?;
    let subjects = if options.subjects.is_empty() { &SUBJECTS[..] } else { &options.subjects };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the asynchronous runtime")?.block_on(async {
        let lab = Lab::open(&prepared, options.quick).await?;
        if options.within_budget {
            return instructions::check_budgets(&lab).await;
        }
        for subject in subjects {
            // For each of them: a run of all takes a while.
            let metadata = RunMetadata::of_this_run(checkout, &prepared.envoy, subject.name(), options.quick)?;
            let report = subject
                .measure(&lab, checkout, options.runs)
                .await
                .with_context(|| format!("bench {}", subject.name()))?;
            let record = Record { subject: subject.name().to_owned(), metadata, report };
            print(&record.report);
            keep(checkout, &record)?;
        }
        Ok(())
    })
}

fn print(report: &BenchReport) {
    println!("\n{}\n", report.title);
    for table in report.tables.iter().chain(&report.verdicts()) {
        println!("{}\n", table.for_terminal());
    }
    for note in &report.notes {
        println!("* {note}");
    }
}

/// Writes the JSON, and the section of the document unless the run was too short for that. Instructions are counted, and a run
/// whose counts differ fails: a short one says of its variants what a long one does.
fn keep(checkout: &Checkout, record: &Record) -> Result<()> {
    let path = checkout.bench_results().join(format!("{}.json", record.subject));
    fs::create_dir_all(checkout.bench_results()).context("cannot create the folder of the results")?;
    let text = serde_json::to_string_pretty(record).context("cannot write JSON")?;
    fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    if record.metadata.quick && record.subject != Subject::Instructions.name() {
        return Ok(());
    }
    // From the JSON, as a reader of it would have it.
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let written: Record = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    if written.subject == Subject::Guard.name() {
        // It belongs to its explanation.
        return document::embed(&checkout.root().join(GUARD_PAGE), &written);
    }
    document::update(&checkout.root().join("docs/benchmarks.md"), &written, &SUBJECTS.map(Subject::name))
}

// === impl Subject ===

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Overhead => "overhead",
            Self::Instructions => "instructions",
            Self::Switch => "switch",
            Self::Split => "split",
            Self::Scale => "scale",
            Self::Idle => "idle",
            Self::Size => "size",
            Self::Guard => "guard",
            Self::Disagreement => "disagreement",
            Self::Shadow => "shadow",
            Self::Hostile => "hostile",
            Self::Fleet => "fleet",
        }
    }

    async fn measure(self, lab: &Lab, checkout: &Checkout, runs: Option<usize>) -> Result<BenchReport> {
        match self {
            Self::Overhead => overhead::run(lab).await,
            Self::Instructions => instructions::run(lab).await,
            Self::Switch => switch::run(lab).await,
            Self::Split => split::run(lab).await,
            Self::Scale => scale::run(lab).await,
            Self::Idle => idle::run(lab).await,
            Self::Size => size::run(lab).await,
            Self::Guard => guard::run(checkout, lab.quick, runs),
            Self::Disagreement => disagreement::run(lab.quick),
            Self::Shadow => shadow::run(lab).await,
            Self::Hostile => hostile::run(lab).await,
            Self::Fleet => fleet::run(lab).await,
        }
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn the_page_about_the_simulation_has_a_place_for_its_tables() {
        let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(GUARD_PAGE);
        let copy = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::copy(page, copy.path()).expect("the page is there");
        let report = BenchReport { title: "Measured anew".to_owned(), ..BenchReport::default() };
        let record = Record { subject: Subject::Guard.name().to_owned(), metadata: Default::default(), report };
        document::embed(copy.path(), &record).expect("it has a place");
        let text = fs::read_to_string(copy.path()).expect("the page is text");
        assert!(text.contains("## Measured anew") && text.starts_with("# The guard in a simulation"), "{text}");
    }
}
