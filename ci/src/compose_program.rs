//! Version 2 of the compose program, for a machine that has only version 1: the compose file is promised to work with both.
//!
//! It is one static binary in Debian's package of a later release, which is unpacked under `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::{Checkout, Progress, process, tool};

/// The release of Debian that has version 2, for a machine of an older one.
const RELEASE: &str = "trixie";

/// What the package puts where.
const BINARY: &str = "usr/libexec/docker/cli-plugins/docker-compose";

/// The binary out of Debian's package, which apt has verified.
pub fn obtain(checkout: &Checkout) -> Result<PathBuf> {
    tool::once(checkout, &format!("compose-{RELEASE}"), BINARY, download)
}

fn download(folder: &Path) -> Result<()> {
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
        let options =
            [("Dir::State::lists", &lists), ("Dir::Cache", &folder.to_owned()), ("Dir::Etc::sourcelist", &sources)];
        for (option, path) in options {
            apt.arg("-o").arg(format!("{option}={}", path.display()));
        }
        apt.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User="]).current_dir(folder);
        apt
    };
    process::quiet(apt().arg("update"), &progress)?;
    process::quiet(apt().args(["download", "docker-compose"]), &progress)?;
    let unpack =
        "dpkg-deb --extract docker-compose_*.deb . && rm -rf docker-compose_*.deb lists archives *.bin usr/share";
    process::quiet(Command::new("sh").args(["-c", unpack]).current_dir(folder), &progress)?;
    progress.done(&format!("Downloaded docker-compose of Debian's {RELEASE}"));
    Ok(())
}
