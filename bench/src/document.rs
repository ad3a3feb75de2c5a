//! `docs/benchmarks.md`: one section a subject, each made from the JSON of a run and replaced by the next run's.
//!
//! Between runs of single subjects the other sections stay as they are; each says when and with what it was measured.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::Record;

/// The section after all others, which is kept by hand: earlier figures, and those of other machines.
const BY_HAND: &str = "of other machines: kept by hand";

/// What stands before the sections.
const INTRODUCTION: &str = "\
# Benchmarks

What the filter costs, and how exactly and how fast it acts. `cargo xtask bench` measures all of it and writes this file;
`cargo xtask bench <subject>` replaces one section.

| question | section |
| --- | --- |
| What does a request cost, beside native weights, Lua and ext_proc? | [overhead](#overhead-what-a-routed-request-costs) |
| How many instructions is that, on any machine? | [instructions](#instructions-what-a-routed-request-costs-on-any-machine) |
| How fast is a switch, and does a request see the old colour after it? | [switch](#switching-what-a-change-of-the-active-colour-costs) |
| How exact is the candidate's share? | [split](#split-how-exactly-the-candidate-gets-its-share) |
| What do a thousand deployments cost? | [scale](#scale-one-deployment-or-a-thousand), [idle](#idle-thousands-of-deployments) |
| How large is the module, and how long does it take to load? | [size](#size-the-module-and-loading-it) |
| What can a caller without a token take up? | [hostile](#hostile-what-a-caller-without-a-token-can-take-up) |
| How soon do the other Envoys of a fleet follow? | [fleet](#a-fleet-one-switch-for-four-envoys) |
| How soon does the guard find a fault, and how often is it wrong? | [guard-simulation.md](guard-simulation.md) |
| What do clients, processor and memory notice of comparing answers? | [shadow](#comparing-answers-what-the-client-the-processor-and-memory-notice) |
| How soon is a candidate found that answers otherwise, and how often is that wrong? | [disagreement](#disagreement-how-often-shadow-comparisons-are-wrong-and-how-soon-they-are-right) |
| What was measured on other machines? | [other machines](#other-machines) |
| Does it hold for millions of requests, and when things fail? | [hardening.md](hardening.md) |

Everything runs on the loopback interface of one machine, so absolute figures are that machine's. Ratios between variants,
measured in turn in the same minutes, carry over better. Figures are medians, with the quartiles in parentheses. Every figure
is in the JSON of its run, `target/bench/<subject>.json`.
";

/// Puts a run's section into the document at `path`, in place of the subject's former one.
pub fn update(path: &Path, record: &Record, subjects: &[&str]) -> Result<()> {
    let present = fs::read_to_string(path).unwrap_or_default();
    let text = with_section(&present, record, subjects);
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Puts a run's section into a document written by hand, in place of the subject's former one.
pub fn embed(path: &Path, record: &Record) -> Result<()> {
    let present = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let former = former(&present, &record.subject);
    ensure!(former.is_some(), "{} has no place for {}", path.display(), opening(&record.subject));
    let text = present.replace(&former.unwrap_or_default(), &section(record));
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn with_section(present: &str, record: &Record, subjects: &[&str]) -> String {
    let sections = subjects.iter().chain([&BY_HAND]).filter_map(|subject| {
        if *subject == record.subject { Some(section(record)) } else { former(present, subject) }
    });
    sections.fold(INTRODUCTION.to_owned(), |text, section| format!("{text}\n{section}"))
}

/// The section that is there already.
fn former(present: &str, subject: &str) -> Option<String> {
    let begin = present.find(&opening(subject))?;
    let rest = present.get(begin..)?;
    let end = rest.find(&closing(subject))? + closing(subject).len();
    rest.get(..end).map(str::to_owned)
}

fn section(record: &Record) -> String {
    let Record { subject, metadata: at, report } = record;
    let mut text = opening(subject);
    text += &format!("## {}\n\n", report.title);
    text += &format!(
        "`{}` on {}, revision {}, Envoy {}; {} × {}, Linux {}; load average before: {}.\n\n",
        at.command, at.date, at.revision, at.envoy, at.cores, at.processor, at.kernel, at.load_before
    );
    text += &report.method.iter().map(|sentence| format!("{sentence}\n")).collect::<String>();
    for table in &report.tables {
        text += &format!("\n{}", table.for_document());
    }
    if let Some(verdicts) = report.verdicts() {
        text += &format!("\n{}", verdicts.for_document());
    }
    let missed: Vec<_> = report.targets.iter().filter(|target| !target.met && !target.why.is_empty()).collect();
    if !missed.is_empty() {
        text += "\nWhy targets are missed:\n\n";
        // A reason that several share is given once.
        text += &missed
            .chunk_by(|one, next| one.why == next.why)
            .map(|of_one_reason| {
                let whats: Vec<_> = of_one_reason.iter().map(|target| format!("*{}*", target.what)).collect();
                let why = of_one_reason.first().map_or("", |target| target.why.as_str());
                format!("* {}: {why}\n", whats.join(", "))
            })
            .collect::<String>();
    }
    if !report.notes.is_empty() {
        text += "\nWhat to know:\n\n";
        text += &report.notes.iter().map(|note| format!("* {note}\n")).collect::<String>();
    }
    text + &closing(subject)
}

fn opening(subject: &str) -> String {
    format!("<!-- bench {subject} -->\n")
}

fn closing(subject: &str) -> String {
    format!("<!-- end of bench {subject} -->\n")
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{BenchReport, Target};

    fn record(subject: &str, title: &str) -> Record {
        let report = BenchReport { title: title.to_owned(), ..BenchReport::default() };
        Record { subject: subject.to_owned(), metadata: Default::default(), report }
    }

    #[test]
    fn a_run_replaces_its_own_section_and_no_other() {
        let subjects = ["overhead", "switch"];
        let first = with_section("", &record("switch", "Switching, old"), &subjects);
        let second = with_section(&first, &record("overhead", "Overhead"), &subjects);
        let third = with_section(&second, &record("switch", "Switching, new"), &subjects);
        assert!(third.contains("## Overhead") && third.contains("## Switching, new"), "{third}");
        assert!(!third.contains("Switching, old"), "{third}");
        assert!(third.find("Overhead") < third.find("Switching, new"), "sections keep the order of the subjects");
        assert_eq!(third.matches("# Benchmarks\n").count(), 1);
    }

    #[test]
    fn what_is_kept_by_hand_stays_at_the_end() {
        let by_hand = format!("{}## Other machines\n\nA table.\n{}", opening(BY_HAND), closing(BY_HAND));
        let once = with_section(&by_hand, &record("split", "Split"), &["split"]);
        let twice = with_section(&once, &record("split", "Split, again"), &["split"]);
        assert!(twice.ends_with(&by_hand) && twice.contains("## Split, again"), "{twice}");
    }

    #[test]
    fn the_same_run_gives_the_same_document() {
        let once = with_section("", &record("split", "Split"), &["split"]);
        assert_eq!(with_section(&once, &record("split", "Split"), &["split"]), once);
    }

    #[test]
    fn a_missed_target_is_explained_below_the_table() {
        let mut record = record("size", "Size");
        record.report.targets.push(Target::at_most("bytes", 450.0, 693.0, "KB", "names are kept"));
        let text = section(&record);
        assert!(text.contains("missed by 243 KB (54 %)") && text.contains("* *bytes*: names are kept"), "{text}");
    }

    #[test]
    fn targets_that_are_missed_for_one_reason_share_a_line() {
        let mut record = record("size", "Size");
        for what in ["bytes", "bytes, gzip"] {
            record.report.targets.push(Target::at_most(what, 1.0, 2.0, "KB", "names are kept"));
        }
        record.report.targets.push(Target::at_most("ms", 1.0, 2.0, "ms", "it compiles"));
        let text = section(&record);
        assert!(text.contains("\n\n* *bytes*, *bytes, gzip*: names are kept\n* *ms*: it compiles\n"), "{text}");
    }
}
