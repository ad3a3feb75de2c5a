//! What a release consists of, in `dist/`: the module, its image, its bill of materials, and their checksums.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::{Checkout, Progress, process};

use crate::digest::sha256;
use crate::image::{Image, archive};
use crate::module;
use crate::sbom;

/// The version of the whole workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bill of materials beside the module.
const SBOM: &str = "bluegreen.cdx.json";

/// The image's digest, for the one that signs it.
const DIGEST: &str = "image.digest";

/// The checksums of the other files, as `sha256sum --check` reads them.
const CHECKSUMS: &str = "SHA256SUMS";

/// `cargo xtask image`: builds the module and writes `dist/image`.
pub fn image(checkout: &Checkout) -> Result<()> {
    let module = module::build(checkout, &WasmToolchain::obtain(checkout)?)?;
    let module = fs::read(&module).with_context(|| module.display().to_string())?;
    let folder = checkout.dist();
    let sbom = sbom::write(checkout, &module)?;
    let revision = revision(checkout);
    let image = Image { module: &module, sbom: &sbom, version: VERSION, revision: revision.as_deref() };
    let digest = image.write(&folder.join("image"))?;
    put(&folder.join(SBOM), &sbom)?;
    put(&folder.join(DIGEST), format!("{digest}\n").as_bytes())?;
    if revision.is_none() {
        println!("dist/image: without a revision, because this checkout has changes that are not committed");
    }
    println!("dist/image: {digest}");
    Ok(())
}

/// `cargo xtask dist`: everything that a release has.
pub fn run(checkout: &Checkout) -> Result<()> {
    image(checkout)?;
    let folder = checkout.dist();
    let archive = format!("bluegreen-{VERSION}.oci.tar");
    fs::write(folder.join(&archive), pack(&folder.join("image"))?)?;
    let mut sums = String::new();
    for name in ["bluegreen.wasm", SBOM, DIGEST, &archive] {
        let bytes = fs::read(folder.join(name)).with_context(|| format!("dist/{name}"))?;
        sums += &format!("{}  {name}\n", sha256(&bytes));
    }
    put(&folder.join(CHECKSUMS), sums.as_bytes())?;
    print!("{sums}");
    Ok(())
}

/// Builds the image of the last commit in two clean clones, and fails unless both have the same digest.
pub fn reproduce(checkout: &Checkout) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let progress = Progress::start("Building the image in two clean clones");
    let mut digests = Vec::new();
    for name in ["one", "two-with-a-longer-path"] {
        let clone = folder.path().join(name);
        let mut git = Command::new("git");
        process::quiet(git.args(["clone", "--quiet"]).arg(checkout.root()).arg(&clone), &progress)?;
        // This very program, for another checkout.
        let mut xtask = Command::new(env::current_exe()?);
        xtask.arg("image").current_dir(&clone).env("CARGO_MANIFEST_DIR", clone.join("xtask"));
        process::quiet(xtask.env("CARGO_TARGET_DIR", clone.join("target")), &progress)?;
        digests.push(fs::read_to_string(clone.join("dist").join(DIGEST))?);
        // A build is large, and two of them need not be here at a time.
        fs::remove_dir_all(&clone)?;
    }
    ensure!(digests.first() == digests.last(), "two clean clones gave two images: {digests:?}");
    progress.done("Built the image in two clean clones: one digest");
    Ok(())
}

/// The layout as one file, its entries in order.
fn pack(layout: &Path) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for folder in ["", "blobs/sha256"] {
        for entry in layout.join(folder).read_dir()? {
            let path = entry?.path();
            if path.is_file() {
                files.push((path.strip_prefix(layout)?.to_owned(), fs::read(&path)?));
            }
        }
    }
    files.sort();
    archive(&files.iter().map(|(path, bytes)| (path.as_path(), bytes.as_slice())).collect::<Vec<_>>())
}

/// The commit of a checkout without changes of its own.
fn revision(checkout: &Checkout) -> Option<String> {
    let git =
        |arguments: &[&str]| process::answer(Command::new("git").args(arguments).current_dir(checkout.root())).ok();
    git(&["status", "--porcelain"]).filter(String::is_empty).and_then(|_| git(&["rev-parse", "HEAD"]))
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
