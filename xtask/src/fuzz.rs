//! The fuzz targets in `fuzz/`: built as cargo-fuzz builds them, by the compiler that is there, and run for some seconds each.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bluegreen_programs::{Checkout, Progress, Unavailable, packages, process};
use cargo_metadata::MetadataCommand;

/// What libFuzzer needs to see of a program, as cargo-fuzz has rustc put it there. There is no address sanitizer: there is no
/// unsafe code either.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// An input that takes longer is a failure. The machine may be busy: work is bounded in the targets, by what it allocates.
const LONGEST: Duration = Duration::from_secs(20);

/// The most memory of a target, in MiB.
const MEMORY: u32 = 2_048;

/// The longest input that is made up, in bytes.
const LONGEST_INPUT: u32 = 4_096;

/// The targets, built.
pub struct Targets {
    folder: PathBuf,
    /// Where crashes, logs and what was found out about inputs are kept.
    scratch: PathBuf,
    programs: PathBuf,
    names: Vec<String>,
}

// === impl Targets ===

impl Targets {
    /// Builds all of them.
    ///
    /// # Errors
    /// One does not compile; [`Unavailable`] where crates or a compiler are missing.
    pub fn build(checkout: &Checkout) -> Result<Self> {
        let folder = checkout.root().join("fuzz");
        let manifest = folder.join("Cargo.toml");
        let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec()?;
        let targets = metadata.packages.iter().flat_map(|package| &package.targets);
        let names = targets.filter(|target| target.is_bin()).map(|target| target.name.clone()).collect();

        if env::var_os("CXX").is_none() {
            packages::provide(&[("c++", "g++")], "libFuzzer")?;
        }
        let progress = Progress::start("Fetching the crates of the fuzz targets");
        process::quiet(checkout.cargo("fetch").arg("--locked").arg("--manifest-path").arg(&manifest), &progress)
            .map_err(|error| {
                Unavailable::error(format!("the crates of fuzz/ cannot be fetched from here: {error:#}"))
            })?;
        progress.done("Fetched the crates of the fuzz targets");

        let scratch = checkout.fuzz();
        let host = host(checkout)?;
        let mut cargo = checkout.cargo("build");
        // With a target named, the flags are not those of build scripts and macros.
        cargo.args(["--release", "--locked", "--target", &host]).arg("--manifest-path").arg(&manifest);
        cargo.arg("--target-dir").arg(scratch.join("build")).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        process::show(&mut cargo)?;
        let programs = scratch.join("build").join(host).join("release");
        Ok(Self { folder, scratch, programs, names })
    }

    /// Their names, those that contain `filter`.
    pub fn named(&self, filter: Option<&str>) -> Vec<&str> {
        let names = self.names.iter().map(String::as_str);
        names.filter(|name| filter.is_none_or(|filter| name.contains(filter))).collect()
    }

    /// Runs the seeds of a target, and then inputs that are made of them for so long.
    ///
    /// # Errors
    /// An input fails; the error says which, and how to run it again.
    pub fn run(&self, name: &str, time: Duration) -> Result<()> {
        let seeds = self.folder.join("seeds").join(name);
        let (corpus, crashes, logs) = (self.folder_of("corpus", name)?, self.folder_of("crashes", name)?, self.logs()?);
        let program = self.programs.join(name);
        let mut command = Command::new(&program);
        command.arg(&corpus).arg(&seeds).current_dir(&self.folder);
        command.arg(format!("-dict={}", self.folder.join("words.dict").display()));
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        command.args([format!("-timeout={}", LONGEST.as_secs()), format!("-rss_limit_mb={MEMORY}")]);
        command.args([format!("-max_len={LONGEST_INPUT}"), "-print_final_stats=1".to_owned()]);
        command.arg(match time.as_secs() {
            0 => "-runs=0".to_owned(),
            seconds => format!("-max_total_time={seconds}"),
        });
        let log = logs.join(format!("{name}.log"));
        let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
        command.stdout(file.try_clone()?).stderr(file).env("RUST_BACKTRACE", "1");
        let ended = process::show(&mut command);
        let said = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        match ended {
            Ok(()) => {
                println!("fuzz {name}: {} inputs", executed(&said).unwrap_or("no"));
                Ok(())
            }
            Err(error) => bail!("{}", failure(name, &said, &program, &log, &error)),
        }
    }

    fn folder_of(&self, kind: &str, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(kind).join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    fn logs(&self) -> Result<PathBuf> {
        self.folder_of("logs", "")
    }
}

/// How many inputs were tried.
fn executed(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).map(str::trim)
}

/// What failed, with which input, and how to see it again.
fn failure(name: &str, said: &str, program: &Path, log: &Path, error: &anyhow::Error) -> String {
    let panic = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
    let why = panic.or_else(|| said.lines().find(|line| line.contains("ERROR: libFuzzer")));
    let input = said.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim());
    let why = why.map_or_else(|| format!("{error:#}"), str::to_owned);
    let again = match input {
        Some(input) => format!("\n  input: {input}\n  again: {} {input}", program.display()),
        None => String::new(),
    };
    format!("{name}: {why}{again}\n  log:   {}", log.display())
}

/// The triple of this machine.
fn host(checkout: &Checkout) -> Result<String> {
    let version = process::answer(checkout.rustc().arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_owned())
}

// === tests ===

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    const CRASH: &str = "thread '<unnamed>' (1) panicked at targets/config.rs:9:9:\nleft is not right\nstack backtrace:\n\
        ==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='/c/'; Test unit written to /c/crash-da39\nBase64: \n";

    fn told(said: &str) -> String {
        failure("config", said, Path::new("/t/config"), Path::new("/l/config.log"), &anyhow!("it failed"))
    }

    #[test]
    fn a_crash_is_told_with_its_input_and_how_to_run_it_again() {
        let expected = "config: left is not right\n  input: /c/crash-da39\n  again: /t/config /c/crash-da39\n  log:   /l/config.log";
        assert_eq!(told(CRASH), expected);
    }

    #[test]
    fn a_target_that_ends_without_a_word_is_told_by_how_it_ended() {
        assert_eq!(told(""), "config: it failed\n  log:   /l/config.log");
        assert!(told("==1== ERROR: libFuzzer: out-of-memory (used: 2049Mb)\n").contains("out-of-memory"));
    }

    #[test]
    fn the_inputs_that_were_tried_are_counted() {
        assert_eq!(executed("#1\nstat::number_of_executed_units: 123\nstat::peak_rss_mb: 4\n"), Some("123"));
        assert_eq!(executed(""), None);
    }
}
