//! The image that `cargo xtask image` has written: a real registry takes it, and what meshes fetch from there is the
//! module.
//!
//! `cargo xtask test --suite image` runs this; it sees to the image, to skopeo and to a registry (Debian's).

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::ports::{free, loopback};
use bluegreen_testbed::process::ManagedProcess;
use bluegreen_testbed::{repository, wait};
use flate2::read::GzDecoder;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The type of an OCI image's manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What Istio's agent accepts: its fetcher takes either format.
const ACCEPTED: &str =
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";

/// A registry on loopback, without a password. It ends with this value.
struct Registry {
    address: SocketAddr,
    _process: ManagedProcess,
    _folder: TempDir,
}

// === impl Registry ===

impl Registry {
    async fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let address = loopback(free()?);
        let settings = serde_json::json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
            "http": {"addr": address.to_string()},
        });
        let file = folder.path().join("config.yml");
        fs::write(&file, settings.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file);
        let registry = Self { address, _process: ManagedProcess::start("docker-registry", command)?, _folder: folder };
        wait::until("the registry", || registry.get("", "*/*"), |_| true).await?;
        Ok(registry)
    }

    /// A `GET` below `/v2/`, which must succeed.
    async fn get(&self, path: &str, accept: &str) -> Result<reqwest::Response> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let answer = http.get(format!("http://{}/v2/{path}", self.address)).header(ACCEPT, accept).send().await?;
        Ok(answer.error_for_status()?)
    }
}

fn skopeo(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(arguments).current_dir(repository::root());
    let output = command.output().context("skopeo cannot be started")?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The digest that `cargo xtask image` has printed, and the layout with its tag.
fn written() -> Result<(String, String)> {
    let digest = fs::read_to_string(repository::root().join("dist/image.digest")).context("run cargo xtask image")?;
    Ok((digest.trim().to_owned(), format!("oci:dist/image:{}", env!("CARGO_PKG_VERSION"))))
}

#[test]
fn skopeo_reads_the_layout_its_labels_and_its_digest() -> Result<()> {
    let (digest, layout) = written()?;
    let seen: Value = serde_json::from_str(&skopeo(&["inspect", &layout])?)?;
    ensure!(seen["Digest"] == digest.as_str(), "{seen:#}");
    let label = |name: &str| seen["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    ensure!((label("title"), label("licenses")) == ("bluegreen", "Apache-2.0"), "{seen:#}");
    ensure!(label("version") == env!("CARGO_PKG_VERSION"), "{seen:#}");
    Ok(())
}

#[tokio::test]
async fn a_registry_takes_the_image_and_a_mesh_finds_the_module_in_it() -> Result<()> {
    let registry = Registry::start().await?;
    let (digest, layout) = written()?;
    let there = format!("docker://{}/bluegreen:0.1.0", registry.address);
    skopeo(&["copy", "--dest-tls-verify=false", &layout, &there])?;

    let answer = registry.get("bluegreen/manifests/0.1.0", ACCEPTED).await?;
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    ensure!(header(CONTENT_TYPE.as_str()).as_deref() == Some(MANIFEST), "{:?}", answer.headers());
    // A tag can be moved, so production pins the digest: pushing must not have changed it.
    ensure!(header("docker-content-digest").as_deref() == Some(&digest), "{:?}", answer.headers());
    let manifest: Value = answer.json().await?;
    ensure!(manifest["annotations"]["module.wasm.image/variant"] == "compat", "{manifest:#}");
    let layers = manifest["layers"].as_array().context("no layers")?;
    let [layer] = layers.as_slice() else { anyhow::bail!("one layer is looked at: {manifest:#}") };
    ensure!(layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip", "{layer}");

    let name = layer["digest"].as_str().context("no digest")?;
    let packed = registry.get(&format!("bluegreen/blobs/{name}"), "*/*").await?.bytes().await?;
    ensure!(
        name == format!("sha256:{}", hex::encode(Sha256::digest(&packed))),
        "another layer came than was asked for"
    );
    let mut archive = tar::Archive::new(GzDecoder::new(&packed[..]));
    let mut entry = archive.entries()?.next().context("the layer is empty")??;
    ensure!(entry.path()?.to_string_lossy() == "plugin.wasm", "{:?}", entry.path());
    let mut module = Vec::new();
    entry.read_to_end(&mut module)?;
    ensure!(module == fs::read(repository::wasm()?)?, "another module came out than went in");
    Ok(())
}
