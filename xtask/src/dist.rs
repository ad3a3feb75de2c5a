//! What a release consists of, in `dist/`: the module, its image, its bill of materials, the command line, and their
//! checksums.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bluegreen_programs::musl::Processor;
use bluegreen_programs::toolchain::WasmToolchain;
use bluegreen_programs::{Checkout, Progress, Unavailable, process};

use crate::digest::sha256;
use crate::image::{Image, archive, gzip};
use crate::module;
use crate::program::{Build, Program};
use crate::sbom;

/// The version of the whole workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bill of materials beside the module.
const SBOM: &str = "bluegreen.cdx.json";

/// The image's digest, for the one that signs it.
const DIGEST: &str = "image.digest";

/// The checksums of the other files, as `sha256sum --check` reads them.
const CHECKSUMS: &str = "SHA256SUMS";

/// Where images are published; `docker-compose.yml` reads it too.
const IMAGES: &str = "BLUEGREEN_IMAGES";

/// What `docker-compose.yml` needs beside images.
const COMPOSE: &[&str] = &[
    "docker-compose.yml",
    "docker/prometheus.yml",
    "envoy/compose/bluegreen-fleet.yaml",
    "envoy/compose/bluegreen-local.yaml",
    "envoy/compose/bluegreen-mlflow.yaml",
];

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

/// `cargo xtask dist`: everything that a release has, but for what this machine cannot build.
pub fn run(checkout: &Checkout) -> Result<()> {
    image(checkout)?;
    let folder = checkout.dist();
    let layout = format!("bluegreen-{VERSION}.oci.tar");
    put(&folder.join(&layout), &pack(&folder.join("image"))?)?;
    let compose = format!("bluegreen-{VERSION}-compose.tar.gz");
    put(&folder.join(&compose), &compose_archive(checkout)?)?;
    let mut names = vec!["bluegreen.wasm".to_owned(), SBOM.to_owned(), DIGEST.to_owned(), layout, compose];
    names.extend(programs(checkout)?);
    let mut sums = String::new();
    for name in names {
        let bytes = fs::read(folder.join(&name)).with_context(|| format!("dist/{name}"))?;
        sums += &format!("{}  {name}\n", sha256(&bytes));
    }
    put(&folder.join(CHECKSUMS), sums.as_bytes())?;
    print!("{sums}");
    Ok(())
}

/// The command line for each processor, packed; the names of the archives.
fn programs(checkout: &Checkout) -> Result<Vec<String>> {
    let mut built = Vec::new();
    for processor in Processor::ALL {
        match Program::build(checkout, processor, Build::Release) {
            Ok(program) => built.push((processor, program)),
            Err(error) if Unavailable::is(&error) => {
                println!("dist: without the program for {}: {error:#}", processor.name());
            }
            Err(error) => return Err(error),
        }
    }
    // Only a program of this machine's own processor runs here.
    let Some((_, runs_here)) = built.iter().find(|(processor, _)| Some(*processor) == Processor::here()) else {
        println!("dist: without programs, because none was built that runs here and writes the completions");
        return Ok(Vec::new());
    };
    let completions = runs_here.completions()?;
    let mut names = Vec::new();
    for (_, program) in &built {
        let name = format!("{}.tar.gz", program.name(VERSION));
        put(&checkout.dist().join(&name), &program.archive(checkout, VERSION, &completions)?)?;
        names.push(name);
    }
    Ok(names)
}

/// What `docker compose up` takes with published images: no sources.
fn compose_archive(checkout: &Checkout) -> Result<Vec<u8>> {
    let folder = PathBuf::from(format!("bluegreen-{VERSION}-compose"));
    let mut files = Vec::new();
    for name in COMPOSE {
        files.push((folder.join(name), fs::read(checkout.root().join(name)).with_context(|| (*name).to_owned())?));
    }
    // Both compose programs read it: where the images of this release are.
    if let Some(images) = env::var_os(IMAGES).filter(|images| !images.is_empty()) {
        files.push((folder.join(".env"), format!("{IMAGES}={}\n", images.to_string_lossy()).into_bytes()));
    }
    gzip(&archive(&files.iter().map(|(path, bytes)| (path.as_path(), bytes.as_slice())).collect::<Vec<_>>())?)
}

/// Builds the image of the last commit in two clean clones, and fails unless both have the same digest.
pub fn reproduce(checkout: &Checkout) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let progress = Progress::start("Building the image in two clean clones");
    let build = |name: &str| {
        let clone = folder.path().join(name);
        let mut git = Command::new("git");
        process::quiet(git.args(["clone", "--quiet"]).arg(checkout.root()).arg(&clone), &progress)?;
        // This very program, for another checkout.
        let mut xtask = Command::new(env::current_exe()?);
        xtask.arg("image").current_dir(&clone).env("CARGO_MANIFEST_DIR", clone.join("xtask"));
        process::quiet(xtask.env("CARGO_TARGET_DIR", clone.join("target")), &progress)?;
        anyhow::Ok(fs::read_to_string(clone.join("dist").join(DIGEST))?)
    };
    // Side by side: most of a build is one long link, which uses one processor.
    let digests = thread::scope(|scope| {
        let builds = ["one", "two-with-a-longer-path"].map(|name| scope.spawn(move || build(name)));
        builds.map(|build| build.join().unwrap_or_else(|_| bail!("a build panicked")))
    });
    let digests = digests.into_iter().collect::<Result<Vec<String>>>()?;
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
