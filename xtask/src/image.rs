//! The module as a container image, in the form that meshes fetch ("compat"): an OCI layout, written without a Docker
//! engine.
//!
//! `FROM scratch`, one layer with `plugin.wasm`. Beside the image, as its referrer, the layout has the software bill of
//! materials. Nothing in it is of this machine or this moment: equal modules give equal digests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{Descriptor, Digest as OciDigest, MediaType, SCHEMA_VERSION};
use serde_json::{Value, json};

use crate::digest::sha256;

/// The name that Istio's agent and Envoy Gateway look for in the layer.
const FILE: &str = "plugin.wasm";

/// The type of the bill of materials.
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";

/// What an image is made of.
pub struct Image<'a> {
    /// The wasm module.
    pub module: &'a [u8],
    /// Its bill of materials.
    pub sbom: &'a [u8],
    /// The version, which is also the tag.
    pub version: &'a str,
    /// The commit that it was built from; none when the checkout has changes of its own.
    pub revision: Option<&'a str>,
}

// === impl Image ===

impl Image<'_> {
    /// Replaces `layout` by this image, and returns the digest of its manifest.
    pub fn write(&self, layout: &Path) -> Result<String> {
        if layout.exists() {
            fs::remove_dir_all(layout).with_context(|| format!("cannot replace {}", layout.display()))?;
        }
        fs::create_dir_all(layout.join("blobs/sha256"))
            .with_context(|| format!("cannot create {}", layout.display()))?;

        let archive = archive(&[(FILE.as_ref(), self.module)])?;
        let layer = put(layout, MediaType::ImageLayerGzip, &gzip(&archive)?)?;
        let mut labels = self.labels();
        let config = json!({
            // What `docker build` writes into an image `FROM scratch`; who fetches plugins does not look at it.
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [digest(&archive)]},
            "history": [],
        });
        labels.insert("module.wasm.image/variant".to_owned(), "compat");
        let manifest = json!({
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": MediaType::ImageManifest,
            "config": put(layout, MediaType::ImageConfig, &canonical(config)?)?,
            "layers": [layer],
            "annotations": labels,
        });
        let mut image = put(layout, MediaType::ImageManifest, &canonical(manifest)?)?;
        let digest = image.digest().to_string();
        let referrer = self.bill_of_materials(layout, &image)?;
        let tag = ("org.opencontainers.image.ref.name".to_owned(), self.version.to_owned());
        image.set_annotations(Some([tag].into()));
        let index = json!({
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": MediaType::ImageIndex,
            "manifests": [image, referrer],
        });
        fs::write(layout.join("index.json"), canonical(index)?)?;
        fs::write(layout.join("oci-layout"), canonical(json!({"imageLayoutVersion": "1.0.0"}))?)?;
        Ok(digest)
    }

    /// The referrer that says what the image contains.
    fn bill_of_materials(&self, layout: &Path, image: &Descriptor) -> Result<Descriptor> {
        let manifest = json!({
            "schemaVersion": SCHEMA_VERSION,
            "mediaType": MediaType::ImageManifest,
            "artifactType": CYCLONEDX,
            "config": put(layout, MediaType::EmptyJSON, b"{}")?,
            "layers": [put(layout, CYCLONEDX.into(), self.sbom)?],
            "subject": image,
        });
        let mut referrer = put(layout, MediaType::ImageManifest, &canonical(manifest)?)?;
        referrer.set_artifact_type(Some(CYCLONEDX.into()));
        Ok(referrer)
    }

    fn labels(&self) -> BTreeMap<String, &str> {
        let labels = [
            ("title", Some("bluegreen")),
            ("description", Some("Blue-green routing of inference requests, an Envoy filter (proxy-wasm)")),
            ("version", Some(self.version)),
            ("licenses", Some("Apache-2.0")),
            ("revision", self.revision),
        ];
        let known = |(name, value): (&str, _)| Some((format!("org.opencontainers.image.{name}"), value?));
        labels.into_iter().filter_map(known).collect()
    }
}

/// Adds a blob to the layout.
fn put(layout: &Path, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
    let digest = digest(bytes);
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Descriptor::new(media_type, u64::try_from(bytes.len())?, OciDigest::from_str(&digest)?))
}

/// JSON with its members in order, whatever order serde_json was built to keep.
fn canonical(mut tree: Value) -> Result<Vec<u8>> {
    tree.sort_all_objects();
    Ok(serde_json::to_vec(&tree)?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

/// A tar archive of files that belong to nobody and are of no time.
pub fn archive(files: &[(&Path, &[u8])]) -> Result<Vec<u8>> {
    archive_with_modes(&files.iter().map(|(path, bytes)| (*path, 0o644, *bytes)).collect::<Vec<_>>())
}

/// The same for files with modes of their own.
pub fn archive_with_modes(files: &[(&Path, u32, &[u8])]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        archive.append_data(&mut header, path, *bytes)?;
    }
    Ok(archive.into_inner()?)
}

/// Compressed, equal bytes for equal bytes.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // 255: no particular operating system.
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut encoder, bytes)?;
    Ok(encoder.finish()?)
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use oci_spec::image::{ImageIndex, ImageManifest};
    use tempfile::TempDir;

    use super::*;

    const IMAGE: Image<'_> = Image {
        module: b"\0asm and more",
        sbom: b"{\"bomFormat\": \"CycloneDX\"}",
        version: "0.1.0",
        revision: Some("abc"),
    };

    fn blob(layout: &Path, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let bytes = fs::read(layout.join("blobs").join(descriptor.digest().to_string().replace(':', "/")))?;
        assert_eq!(digest(&bytes), descriptor.digest().to_string());
        assert_eq!(bytes.len() as u64, descriptor.size());
        Ok(bytes)
    }

    #[test]
    fn what_istios_agent_and_envoy_gateway_look_for_is_there() -> Result<()> {
        let folder = TempDir::new()?;
        let layout = folder.path().join("image");
        let digest = IMAGE.write(&layout)?;
        let index = ImageIndex::from_file(layout.join("index.json"))?;
        let [image, referrer] = &index.manifests()[..] else { panic!("{index:#?}") };
        assert_eq!(image.digest().to_string(), digest);
        let name =
            image.annotations().as_ref().and_then(|annotations| annotations.get("org.opencontainers.image.ref.name"));
        assert_eq!(name.map(String::as_str), Some("0.1.0"));

        let manifest = ImageManifest::from_reader(&blob(&layout, image)?[..])?;
        // One layer of this very type, in which a file of this name is looked for.
        let [layer] = &manifest.layers()[..] else { panic!("{manifest:#?}") };
        assert_eq!(layer.media_type().to_string(), "application/vnd.oci.image.layer.v1.tar+gzip");
        let packed = blob(&layout, layer)?;
        let mut archive = tar::Archive::new(GzDecoder::new(&packed[..]));
        let mut entry = archive.entries()?.next().context("an empty layer")??;
        assert_eq!(entry.path()?.to_string_lossy(), "plugin.wasm");
        let mut module = Vec::new();
        entry.read_to_end(&mut module)?;
        assert_eq!(module, IMAGE.module);

        let config: serde_json::Value = serde_json::from_slice(&blob(&layout, manifest.config())?)?;
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.revision"], "abc");
        let bill = ImageManifest::from_reader(&blob(&layout, referrer)?[..])?;
        assert_eq!(bill.subject().as_ref().map(|subject| subject.digest().to_string()), Some(digest));
        assert_eq!(blob(&layout, &bill.layers()[0])?, IMAGE.sbom);
        Ok(())
    }

    #[test]
    fn equal_modules_give_equal_bytes_and_others_do_not() -> Result<()> {
        let folder = TempDir::new()?;
        let (one, two, other) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("other"));
        assert_eq!(IMAGE.write(&one)?, IMAGE.write(&two)?);
        for file in ["index.json", "oci-layout"] {
            assert_eq!(fs::read(one.join(file))?, fs::read(two.join(file))?, "{file}");
        }
        assert_ne!(IMAGE.write(&one)?, Image { module: b"\0asm", ..IMAGE }.write(&other)?);
        Ok(())
    }

    #[test]
    fn an_older_image_is_gone_after_writing() -> Result<()> {
        let folder = TempDir::new()?;
        let layout = folder.path().join("image");
        Image { module: b"\0asm", ..IMAGE }.write(&layout)?;
        IMAGE.write(&layout)?;
        // Layer, config, manifest; empty config, bill, referrer.
        assert_eq!(layout.join("blobs/sha256").read_dir()?.count(), 6);
        Ok(())
    }
}
