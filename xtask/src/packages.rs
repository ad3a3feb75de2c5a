//! Debian's packages, installed without a question when this user may.

use std::process::Command;

use anyhow::Result;
use nix::unistd::geteuid;

use crate::missing::Missing;
use crate::process;
use crate::progress::Progress;

/// How this user may install packages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Right {
    Root,
    Sudo,
    None,
}

/// Installs those of `programs`, each with its package, that are not there.
pub fn provide(programs: &[(&str, &str)], purpose: &str) -> Result<()> {
    let absent = programs.iter().filter(|(program, _)| !process::exists(program));
    let packages: Vec<_> = absent.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages, purpose) }
}

/// Installs `packages` because `purpose` needs them. What stands in the way is [`Missing`]: the machine's, not ours.
pub fn install(packages: &[&str], purpose: &str) -> Result<()> {
    let names = packages.join(" ");
    if !process::exists("apt-get") {
        return Err(Missing::error(format!(
            "{purpose} needs what Debian calls {names}, and there is no apt-get here: install the like of it"
        )));
    }
    let right = Right::of_this_user();
    if right == Right::None {
        return Err(Missing::error(format!("{purpose} needs packages: run `sudo apt-get install {names}`")));
    }
    let progress = Progress::start(format!("Installing {names}"));
    // A fresh machine knows no packages and an old one knows outdated ones: the second attempt follows an update.
    let installed = process::quiet(&mut right.install(packages), &progress).or_else(|_| {
        process::quiet(&mut right.apt_get(&["update"]), &progress)?;
        process::quiet(&mut right.install(packages), &progress)
    });
    installed.map_err(|error| {
        Missing::error(format!("{purpose} needs the packages {names}, and apt-get could not install them: {error:#}"))
    })?;
    progress.done(&format!("Installed {names}"));
    Ok(())
}

// === impl Right ===

impl Right {
    fn of_this_user() -> Self {
        if geteuid().is_root() {
            Self::Root
        } else if process::exists("sudo") && process::answer(Command::new("sudo").args(["-n", "true"])).is_ok() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    fn install(self, packages: &[&str]) -> Command {
        // Nothing of the user's may go for the sake of a build: `--no-remove` makes apt-get refuse instead.
        let mut command = self.apt_get(&["install", "--yes", "--no-install-recommends", "--no-remove"]);
        command.args(packages);
        command
    }

    fn apt_get(self, arguments: &[&str]) -> Command {
        let mut command = match self {
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
                sudo
            }
            Self::Root | Self::None => Command::new("apt-get"),
        };
        command.args(["--quiet", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_to_install_a_package() {
        for right in [Right::Root, Right::Sudo] {
            let command = right.install(&["lld-19"]);
            let arguments: Vec<_> = command.get_args().collect();
            assert!(arguments.contains(&"--no-remove".as_ref()) && arguments.contains(&"lld-19".as_ref()));
        }
    }
}
