//! What a release consists of, in `dist/`: the module, its image, its bill of materials, and their checksums.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::checkout::Checkout;
use crate::image::Image;
use crate::module;
use crate::process;
use crate::sbom;
use crate::toolchain::WasmToolchain;

/// The version of the whole workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bill of materials beside the module.
const SBOM: &str = "bluegreen.cdx.json";

/// The image's digest, for whoever signs it.
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
        sums += &format!("{}  {name}\n", hex::encode(Sha256::digest(bytes)));
    }
    put(&folder.join(CHECKSUMS), sums.as_bytes())?;
    print!("{sums}");
    Ok(())
}

/// The layout as one file, its entries in order and of no time.
fn pack(layout: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for folder in ["", "blobs/sha256"] {
        let mut files: Vec<_> = layout.join(folder).read_dir()?.collect::<std::io::Result<Vec<_>>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files.iter().map(fs::DirEntry::path).filter(|path| path.is_file()) {
            let bytes = fs::read(&file)?;
            let mut header = tar::Header::new_ustar();
            header.set_size(u64::try_from(bytes.len())?);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, file.strip_prefix(layout)?, &bytes[..])?;
        }
    }
    Ok(archive.into_inner()?)
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
