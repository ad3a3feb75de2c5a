//! Stand-ins for the base images that the project's images are built from, where those can neither be found nor pulled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bluegreen_programs::{Checkout, Progress, Unavailable, packages, process, tool};
use nix::unistd::geteuid;

/// The authorities of TLS that this machine trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What every stand-in is made from.
const ROOT: &str = "bluegreen-tests/root:bookworm";

/// What every stand-in is marked with, and what is built from one: an image inherits the labels of its base.
const MARK: &str = "bluegreen-tests";
const STAND_IN: &str = "stand-in";

/// A base image and what stands in for it.
struct Base {
    /// The name up to the version, as in the Dockerfile or the compose file.
    repository: &'static str,
    /// The Dockerfile of the stand-in.
    dockerfile: &'static str,
}

const BASES: &[Base] = &[
    Base { repository: "debian", dockerfile: "debian.Dockerfile" },
    Base { repository: "envoyproxy/envoy", dockerfile: "envoy.Dockerfile" },
    Base { repository: "prom/prometheus", dockerfile: "prometheus.Dockerfile" },
    Base { repository: "python", dockerfile: "python.Dockerfile" },
    Base { repository: "rust", dockerfile: "rust.Dockerfile" },
];

/// What is built from the base images, in all profiles.
const BUILT: &[&str] = &[
    "bluegreen/envoy",
    "bluegreen/model-local",
    "bluegreen/model-fleet",
    "bluegreen/etcd",
    "bluegreen/model-mlflow",
    "bluegreen/mlflow",
];

/// Where the base images are named.
const NAMED_IN: &[&str] = &["docker/Dockerfile", "docker-compose.yml"];

/// Makes a stand-in for each base image that is neither there nor can be pulled. `envoy` is what one for Envoy's image is
/// made of; the module has been built.
pub fn make(checkout: &Checkout, envoy: &Path) -> Result<()> {
    for base in BASES {
        let name = base.name(checkout)?;
        let progress = Progress::start(format!("Looking for the image {name}"));
        let present = docker_says(&["image", "inspect", &name]);
        if present || process::quiet(Command::new("docker").args(["pull", "--quiet", &name]), &progress).is_ok() {
            progress.done(&format!("The image {name} is there"));
            continue;
        }
        progress.done(&format!("The image {name} cannot be pulled here: making a stand-in for it"));
        stand_in(base, &name, checkout, envoy)?;
    }
    Ok(())
}

/// Removes the stand-ins and what was built from them: what is left behind could be taken for the real one.
pub fn remove(checkout: &Checkout) -> Result<()> {
    let names = BASES.iter().map(|base| base.name(checkout)).collect::<Result<Vec<_>>>()?;
    let built = BUILT.iter().map(|name| format!("{name}:{}", env!("CARGO_PKG_VERSION")));
    for name in names.into_iter().chain(built).filter(|name| is_marked(name)) {
        let _ = process::answer(Command::new("docker").args(["image", "rm", &name]));
    }
    // Those whose name another build has taken since.
    let filter = format!("label={MARK}={STAND_IN}");
    process::answer(Command::new("docker").args(["image", "prune", "--force", "--filter", &filter])).map(drop)
}

/// Whether an image is a stand-in, or built from one.
fn is_marked(name: &str) -> bool {
    let format = format!("{{{{index .Config.Labels \"{MARK}\"}}}}");
    process::answer(Command::new("docker").args(["image", "inspect", "--format", &format, name]))
        .is_ok_and(|label| label == STAND_IN)
}

// === impl Base ===

impl Base {
    /// The full name with the pinned version.
    fn name(&self, checkout: &Checkout) -> Result<String> {
        for file in NAMED_IN {
            let text = fs::read_to_string(checkout.root().join(file)).with_context(|| (*file).to_owned())?;
            if let Some(name) = self.pinned(&text) {
                return Ok(name.to_owned());
            }
        }
        anyhow::bail!("no image {} is named in {NAMED_IN:?}", self.repository)
    }

    fn pinned<'t>(&self, text: &'t str) -> Option<&'t str> {
        let of_this = |word: &&str| word.strip_prefix(self.repository).is_some_and(|rest| rest.starts_with(':'));
        text.split_whitespace().find(of_this)
    }
}

fn docker_says(arguments: &[&str]) -> bool {
    process::answer(Command::new("docker").args(arguments)).is_ok()
}

/// Builds a stand-in under `name`.
fn stand_in(base: &Base, name: &str, checkout: &Checkout, envoy: &Path) -> Result<()> {
    make_root(checkout)?;
    let sources = checkout.root().join("ci/images");
    let context = tempfile::tempdir()?;
    let copy = |from: &Path, to: &str| {
        fs::copy(from, context.path().join(to)).map(drop).with_context(|| format!("cannot copy {}", from.display()))
    };
    match base.repository {
        "envoyproxy/envoy" => copy(envoy, "envoy")?,
        "prom/prometheus" => copy(&prometheus(checkout)?, "prometheus")?,
        "python" => copy(Path::new(AUTHORITIES), "ca-certificates.crt")?,
        "rust" => {
            process::show(checkout.cargo("build").args(["--package", "bluegreen-model-server"]))?;
            copy(&checkout.debug_binary("model-server"), "model-server")?;
            copy(&checkout.module(), "bluegreen.wasm")?;
            copy(&sources.join("cargo"), "cargo")?;
            copy(&sources.join("rustup"), "rustup")?;
        }
        _ => {}
    }
    let progress = Progress::start(format!("Making a stand-in for {name}"));
    let dockerfile = sources.join(base.dockerfile);
    let mut docker = Command::new("docker");
    docker
        .args(["build", "--label", &format!("{MARK}={STAND_IN}"), "--tag", name, "--file"])
        .arg(dockerfile)
        .arg(context.path());
    process::quiet(&mut docker, &progress)?;
    progress.done(&format!("Made a stand-in for {name}"));
    Ok(())
}

/// The root that all stand-ins have: Debian's packages. It stays in the engine.
fn make_root(checkout: &Checkout) -> Result<()> {
    if docker_says(&["image", "inspect", ROOT]) {
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err(Unavailable::error(
            "no base image can be pulled, and making stand-ins with debootstrap needs root",
        ));
    }
    if !process::exists("debootstrap") {
        packages::install(&["debootstrap"], "making stand-ins for base images")?;
    }
    let folder = checkout.tool("compose-root");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let progress = Progress::start("Making a root of Debian's packages");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include=busybox", "bookworm"]).arg(&folder);
    process::quiet(&mut debootstrap, &progress)
        .map_err(|error| Unavailable::error(format!("debootstrap cannot make stand-ins for base images: {error:#}")))?;
    let archive = folder.with_extension("tar");
    process::quiet(Command::new("tar").arg("-C").arg(&folder).arg("-cf").arg(&archive).arg("."), &progress)?;
    process::quiet(Command::new("docker").arg("import").arg(&archive).arg(ROOT), &progress)?;
    fs::remove_dir_all(&folder)?;
    fs::remove_file(&archive)?;
    progress.done("Made a root of Debian's packages");
    Ok(())
}

/// The binary out of Debian's package.
fn prometheus(checkout: &Checkout) -> Result<PathBuf> {
    tool::once(checkout, "compose-prometheus", "usr/bin/prometheus", |folder| {
        let progress = Progress::start("Downloading Debian's prometheus");
        let unpack = "apt-get download prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb";
        process::quiet(Command::new("sh").args(["-c", unpack]).current_dir(folder), &progress)
            .map_err(|error| Unavailable::error(format!("Debian's prometheus cannot be downloaded: {error:#}")))?;
        progress.done("Downloaded Debian's prometheus");
        Ok(())
    })
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_base_image_is_named_with_a_version() -> Result<()> {
        let checkout = Checkout::locate()?;
        for base in BASES {
            let name = base.name(&checkout)?;
            let version = name.split(':').nth(1).unwrap_or_default();
            assert!(version.chars().any(|character| character.is_ascii_digit()) && version != "latest", "{name}");
        }
        Ok(())
    }

    #[test]
    fn the_compose_file_builds_what_is_removed_with_the_stand_ins() -> Result<()> {
        let text = fs::read_to_string(Checkout::locate()?.root().join("docker-compose.yml"))?;
        let mut built = BTreeSet::new();
        for profile in ["local", "fleet", "mlflow"] {
            let text = text
                .replace("${COMPOSE_PROFILES:-local}", profile)
                .replace("${BLUEGREEN_IMAGES:-bluegreen}", "bluegreen");
            let images = text.lines().filter_map(|line| line.trim().strip_prefix("image: bluegreen/"));
            built.extend(images.map(|image| format!("bluegreen/{image}")));
        }
        let removed = BUILT.iter().map(|name| format!("{name}:{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(built, removed.collect());
        Ok(())
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another_image() {
        let base = Base { repository: "rust", dockerfile: "" };
        assert_eq!(base.pinned("FROM rust-web:1 AS a\nFROM rust:1.95.0-slim AS b"), Some("rust:1.95.0-slim"));
        assert_eq!(base.pinned("FROM trust:1"), None);
    }
}
