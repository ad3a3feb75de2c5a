//! The test programs of this machine's own suites, built by one call of cargo.
//!
//! Cargo unifies the features of the packages that it builds together. Suites that built their packages one by one
//! would compile syn, serde_json and all that stands on them anew for each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Seek};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, MetadataCommand, Package};

use bluegreen_programs::{Checkout, process};

/// What a suite runs of a package.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tests {
    /// All tests of the package with this name.
    Package(&'static str),
    /// One program of `tests/`. Where that needs more than an Envoy, a feature of its name enables it.
    Program(&'static str),
}

/// The test programs that were asked for. One that does not compile is among them, without an executable.
pub struct Programs {
    all: Vec<Program>,
    /// Whether cargo built all that it was asked for.
    complete: bool,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Program {
    package: String,
    name: String,
    is_integration_test: bool,
    /// The folder of the package, where its tests run.
    folder: PathBuf,
    executable: Option<PathBuf>,
}

/// The package of the end-to-end tests.
const END_TO_END: &str = "bluegreen-tests";

// === impl Tests ===

impl Tests {
    fn package(self) -> &'static str {
        match self {
            Self::Package(name) => name,
            Self::Program(_) => END_TO_END,
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Package(_) => None,
            Self::Program(name) => Some(name),
        }
    }

    fn has(self, program: &Program) -> bool {
        let named = |name| program.is_integration_test && program.name == name;
        program.package == self.package() && self.program().is_none_or(named)
    }
}

// === impl Programs ===

impl Programs {
    /// Builds what `chosen` names, or the tests of the whole workspace for `None`. What does not compile keeps nothing
    /// else from being built; cargo has then said why.
    pub fn build(checkout: &Checkout, chosen: Option<&[Tests]>) -> Result<Self> {
        let mut metadata = MetadataCommand::new();
        let metadata = metadata.manifest_path(checkout.root().join("Cargo.toml")).no_deps().exec()?;
        let mut messages = tempfile::tempfile()?;
        let mut cargo = checkout.cargo("build");
        cargo.args(["--keep-going", "--message-format", "json-render-diagnostics"]).stdout(messages.try_clone()?);
        cargo.args(match chosen {
            None => ["--workspace", "--all-features", "--tests"].map(str::to_owned).into(),
            Some(tests) => selection(tests, &optional_programs(&metadata.packages)),
        });
        let complete = process::show(&mut cargo).is_ok();

        messages.rewind()?;
        let mut executables = BTreeMap::new();
        for message in Message::parse_stream(BufReader::new(messages)) {
            if let Message::CompilerArtifact(artifact) = message.context("what cargo said of its build")?
                && artifact.profile.test
                && let Some(executable) = artifact.executable
            {
                executables.insert((artifact.package_id, artifact.target.kind, artifact.target.name), executable);
            }
        }
        let mut programs = Vec::new();
        for package in metadata.packages {
            let folder = package.manifest_path.parent().unwrap_or(&metadata.workspace_root);
            for target in package.targets.iter().filter(|target| target.test) {
                let key = (package.id.clone(), target.kind.clone(), target.name.clone());
                programs.push(Program {
                    package: package.name.to_string(),
                    name: target.name.clone(),
                    is_integration_test: target.is_test(),
                    folder: folder.into(),
                    executable: executables.remove(&key).map(Into::into),
                });
            }
        }
        Ok(Self { all: programs, complete })
    }

    /// Fails when something did not compile.
    pub fn ensure_complete(&self) -> Result<()> {
        ensure!(self.complete, "not all test programs compile");
        Ok(())
    }

    /// Those that a suite runs.
    pub fn of<'a>(&'a self, tests: &'a [Tests]) -> impl Iterator<Item = &'a Program> {
        self.all.iter().filter(|program| tests.iter().any(|tests| tests.has(program)))
    }
}

// === impl Program ===

impl Program {
    /// The command that runs it; an error when it does not compile.
    pub fn command(&self) -> Result<Command> {
        let Self { package, name, folder, .. } = self;
        let executable = self.executable.as_ref();
        let executable = executable.with_context(|| format!("the tests of {package} ({name}) do not compile"))?;
        let mut command = Command::new(executable);
        // As cargo would run it.
        command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        Ok(command)
    }

    /// For the reader of a log.
    pub fn title(&self) -> String {
        format!("{} ({})", self.package, self.name)
    }
}

/// The programs of `tests/` that a feature of their name enables.
fn optional_programs(packages: &[Package]) -> BTreeSet<&str> {
    let package = packages.iter().find(|package| package.name == END_TO_END);
    package.into_iter().flat_map(|package| package.features.keys()).map(String::as_str).collect()
}

/// The arguments that have cargo build these tests. The programs of `tests/` that are not named are left out when nothing
/// but such programs was chosen.
fn selection(tests: &[Tests], optional: &BTreeSet<&str>) -> Vec<String> {
    let packages: BTreeSet<_> = tests.iter().map(|tests| tests.package()).collect();
    let mut arguments: Vec<_> = packages.into_iter().map(|package| format!("--package={package}")).collect();
    let programs: Vec<_> = tests.iter().filter_map(|tests| tests.program()).collect();
    let enabled = programs.iter().filter(|program| optional.contains(*program));
    arguments.extend(enabled.map(|program| format!("--features={END_TO_END}/{program}")));
    if programs.len() == tests.len() {
        arguments.extend(programs.iter().map(|program| format!("--test={program}")));
    } else {
        arguments.push("--tests".to_owned());
    }
    arguments
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(tests: &[Tests]) -> String {
        selection(tests, &BTreeSet::from(["fleet"])).join(" ")
    }

    #[test]
    fn only_the_named_end_to_end_programs_are_built() {
        let tests = [Tests::Program("e2e"), Tests::Program("fleet")];
        let expected = "--package=bluegreen-tests --features=bluegreen-tests/fleet --test=e2e --test=fleet";
        assert_eq!(arguments(&tests), expected);
    }

    #[test]
    fn packages_are_built_with_all_their_tests() {
        let tests = [Tests::Package("xtask"), Tests::Package("bluegreen"), Tests::Program("e2e")];
        assert_eq!(arguments(&tests), "--package=bluegreen --package=bluegreen-tests --package=xtask --tests");
    }

    #[test]
    fn a_program_that_does_not_compile_is_named() {
        let program = Program {
            package: "bluegreen-tests".to_owned(),
            name: "fleet".to_owned(),
            is_integration_test: true,
            folder: PathBuf::new(),
            executable: None,
        };
        let seen = program.command().map(drop).map_err(|error| error.to_string());
        assert_eq!(seen, Err("the tests of bluegreen-tests (fleet) do not compile".to_owned()));
    }
}
