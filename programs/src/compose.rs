//! What the tests of `docker-compose.yml` need: an engine, a compose program, and the base images that the project's
//! images are built from. The engine pulls those; in continuous integration the crate in `ci/` makes stand-ins for what
//! cannot be pulled.

use std::path::Path;
use std::process::Command;

use crate::checkout::is_ci;
use crate::{Checkout, Unavailable, process};
use anyhow::Result;

/// The variable that tells the tests which compose programs there are, one a line.
pub const PROGRAMS: &str = "BLUEGREEN_COMPOSE";

/// The base images, or what stands in for them as long as this value lives.
pub struct BaseImages<'a> {
    checkout: &'a Checkout,
}

/// Fails at once where the tests cannot run, before anything is built for them.
pub fn require() -> Result<()> {
    if !answers("docker", &["version", "--format", "{{.Server.Version}}"]) {
        return Err(Unavailable::error("the tests of docker-compose.yml need a Docker engine that this user may use"));
    }
    if plugin_answers() || process::exists("docker-compose") || is_ci() {
        return Ok(());
    }
    Err(no_program())
}

/// Every compose program of this machine, the newest first, one a line: `docker compose` (version 2) and
/// `docker-compose` (version 1 or 2). The compose file is promised to work with both.
pub fn programs(checkout: &Checkout) -> Result<String> {
    let mut programs = Vec::new();
    if plugin_answers() {
        programs.push("docker compose".to_owned());
    } else if is_ci() {
        match process::answer(ci(checkout).arg("compose-program")) {
            Ok(program) => programs.push(program),
            Err(error) => eprintln!("Version 2 of the compose program is not here and not tested: {error:#}"),
        }
    }
    if process::exists("docker-compose") {
        programs.push("docker-compose".to_owned());
    }
    if programs.is_empty() { Err(no_program()) } else { Ok(programs.join("\n")) }
}

fn no_program() -> anyhow::Error {
    Unavailable::error("the tests of docker-compose.yml need `docker compose` or docker-compose")
}

fn plugin_answers() -> bool {
    answers("docker", &["compose", "version"])
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    process::answer(Command::new(program).args(arguments)).is_ok()
}

/// The crate in `ci/`.
fn ci(checkout: &Checkout) -> Command {
    let mut cargo = checkout.cargo("run");
    cargo.args(["--quiet", "--package", "bluegreen-ci", "--"]);
    cargo
}

// === impl BaseImages ===

impl<'a> BaseImages<'a> {
    /// `envoy` is what a stand-in for Envoy's image is made of; the module has been built.
    pub fn obtain(checkout: &'a Checkout, envoy: &Path) -> Result<Self> {
        let images = Self { checkout };
        if is_ci() {
            process::show(ci(checkout).args(["stand-ins", "make", "--envoy"]).arg(envoy))?;
        }
        Ok(images)
    }
}

impl Drop for BaseImages<'_> {
    fn drop(&mut self) {
        if is_ci()
            && let Err(error) = process::show(ci(self.checkout).args(["stand-ins", "remove"]))
        {
            eprintln!("{error:#}");
        }
    }
}
