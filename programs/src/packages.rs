//! Debian's packages. Only in continuous integration they are installed; elsewhere the error names the command that does.

use std::process::Command;

use anyhow::Result;
use nix::unistd::geteuid;

use crate::checkout::is_ci;
use crate::process;
use crate::progress::Progress;
use crate::unavailable::Unavailable;

/// Nothing of the user's may go for the sake of a build: `--no-remove` makes apt-get refuse instead.
const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "--no-remove"];

/// Sees to it that `programs`, each with its package, are there.
///
/// # Errors
/// [`Unavailable`] when one is not there and may not or cannot be installed.
pub fn provide(programs: &[(&str, &str)], purpose: &str) -> Result<()> {
    let absent = programs.iter().filter(|(program, _)| !process::exists(program));
    let packages: Vec<_> = absent.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages, purpose) }
}

/// Installs `packages` because `purpose` needs them.
///
/// # Errors
/// [`Unavailable`] outside of continuous integration, and where apt-get fails.
pub fn install(packages: &[&str], purpose: &str) -> Result<()> {
    let names = packages.join(" ");
    if !process::exists("apt-get") {
        return Err(Unavailable::error(format!(
            "{purpose} needs the programs of Debian's packages {names}, and there is no apt-get here: install them another way"
        )));
    }
    if !is_ci() {
        return Err(Unavailable::error(format!("{purpose} needs packages: run `sudo apt-get install {names}`")));
    }
    let progress = Progress::start(format!("Installing {names}"));
    let install = || process::quiet(apt_get().args(INSTALL).args(packages), &progress);
    // A fresh machine knows no packages and an old one knows outdated ones: the second attempt follows an update.
    let installed = install().or_else(|_| {
        process::quiet(apt_get().arg("update"), &progress)?;
        install()
    });
    installed.map_err(|error| {
        Unavailable::error(format!(
            "{purpose} needs the packages {names}, and apt-get could not install them: {error:#}"
        ))
    })?;
    progress.done(&format!("Installed {names}"));
    Ok(())
}

fn apt_get() -> Command {
    let mut command = if geteuid().is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env"]);
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=120"]);
    command
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_to_install_a_package() {
        let mut command = apt_get();
        let arguments: Vec<_> = command.args(INSTALL).arg("lld-19").get_args().collect();
        assert!(arguments.contains(&"--no-remove".as_ref()) && arguments.contains(&"lld-19".as_ref()));
    }
}
