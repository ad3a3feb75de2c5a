//! The two generations of the compose program: `docker compose` (version 2) and `docker-compose` (version 1 or 2).
//!
//! The compose file is promised to work with both, so both are looked for. Where version 2 is not installed, Debian's
//! package of a later release is unpacked under `target/`: it is one static binary.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Error, Result, ensure};
use bluegreen_programs::{Checkout, Progress, Unavailable, process};

/// The Docker client with its plugin, as tests call it.
pub const PLUGIN: &str = "docker compose";

/// The release of Debian that has version 2, for a machine of an older one.
const RELEASE: &str = "trixie";

/// What the package puts where.
const BINARY: &str = "usr/libexec/docker/cli-plugins/docker-compose";

/// Every compose program of this machine, the newest first; at least one.
pub fn all(checkout: &Checkout) -> Result<Vec<String>> {
    let mut programs = Vec::new();
    if plugin_answers() {
        programs.push(PLUGIN.to_owned());
    } else {
        match debians(checkout) {
            Ok(binary) => programs.push(binary.to_string_lossy().into_owned()),
            Err(error) => eprintln!("Version 2 of the compose program is not here and not tested: {error:#}"),
        }
    }
    if process::exists("docker-compose") {
        programs.push("docker-compose".to_owned());
    }
    if programs.is_empty() {
        return Err(missing());
    }
    Ok(programs)
}

/// Fails where there is none and none can be had.
pub fn require() -> Result<()> {
    if plugin_answers() || process::exists("docker-compose") || process::exists("apt-get") {
        return Ok(());
    }
    Err(missing())
}

fn missing() -> Error {
    Unavailable::error("the tests of docker-compose.yml need `docker compose` or docker-compose")
}

fn plugin_answers() -> bool {
    process::answer(Command::new("docker").args(["compose", "version"])).is_ok()
}

/// The binary out of Debian's package, which apt has verified.
fn debians(checkout: &Checkout) -> Result<PathBuf> {
    let folder = checkout.tool(&format!("compose-{RELEASE}"));
    let binary = folder.join(BINARY);
    if binary.is_file() {
        return Ok(binary);
    }
    ensure!(process::exists("apt-get"), "there is no apt-get to download it with");
    let progress = Progress::start(format!("Downloading docker-compose of Debian's {RELEASE}"));
    // Lists of its own: the machine's choice of releases is nobody's business here.
    for sub in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(folder.join(sub)).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let sites =
        Command::new("apt-get").args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]).output()?;
    let sites = String::from_utf8_lossy(&sites.stdout).into_owned();
    let site =
        sites.lines().find(|site| site.ends_with("/debian")).context("apt has no site with Debian's packages")?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = folder.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={keyring}] {site} {RELEASE} main\n"))?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        let lists = folder.join("lists");
        let options = [("Dir::State::lists", &lists), ("Dir::Cache", &folder), ("Dir::Etc::sourcelist", &sources)];
        for (option, path) in options {
            apt.arg("-o").arg(format!("{option}={}", path.display()));
        }
        apt.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User="]).current_dir(&folder);
        apt
    };
    process::quiet(apt().arg("update"), &progress)?;
    process::quiet(apt().args(["download", "docker-compose"]), &progress)?;
    let unpack =
        "dpkg-deb --extract docker-compose_*.deb . && rm -rf docker-compose_*.deb lists archives *.bin usr/share";
    process::quiet(Command::new("sh").args(["-c", unpack]).current_dir(&folder), &progress)?;
    ensure!(binary.is_file(), "Debian's package has no {BINARY}");
    progress.done(&format!("Downloaded docker-compose of Debian's {RELEASE}"));
    Ok(binary)
}
