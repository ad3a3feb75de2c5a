//! The software bill of materials of the module: a CycloneDX document of the crates that are linked into it.
//!
//! It names no time and no serial number, so that equal sources give equal bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bluegreen_programs::Checkout;
use bluegreen_programs::toolchain::TARGET;
use cargo_metadata::{DepKindInfo, DependencyKind, Metadata, MetadataCommand, Package};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::*;
use serde_json::Value;

use crate::digest::sha256;

/// The package whose library is the module.
const PACKAGE: &str = "bluegreen";

/// The document for a module with these bytes.
pub fn write(checkout: &Checkout, module: &[u8]) -> Result<Vec<u8>> {
    let mut command = MetadataCommand::new();
    command.manifest_path(checkout.root().join("Cargo.toml"));
    command.other_options(["--locked".to_owned(), format!("--filter-platform={TARGET}")]);
    document(&command.exec().context("cargo metadata")?, module)
}

fn document(metadata: &Metadata, module: &[u8]) -> Result<Vec<u8>> {
    let root = metadata.packages.iter().find(|package| package.name.as_str() == PACKAGE).context("no package")?;
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    // Build scripts and tests are not linked.
    let is_linked = |kinds: &[DepKindInfo]| kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
    let mut dependencies = BTreeMap::new();
    let mut components = BTreeMap::new();
    let mut open = vec![&root.id];
    while let Some(id) = open.pop() {
        if components.contains_key(&reference(&metadata[id])) {
            continue;
        }
        let needed = resolve[id].deps.iter().filter(|needed| is_linked(&needed.dep_kinds)).map(|needed| &needed.pkg);
        open.extend(needed.clone());
        let needed: BTreeSet<String> = needed.map(|id| reference(&metadata[id])).collect();
        dependencies.insert(reference(&metadata[id]), needed);
        components.insert(reference(&metadata[id]), component(&metadata[id])?);
    }
    let mut described = components.remove(&reference(root)).context("the package does not contain itself")?;
    described.hashes = Some(Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sha256(module)) }]));
    let dependency = |(dependency_ref, needed): (_, BTreeSet<_>)| Dependency {
        dependency_ref,
        dependencies: needed.into_iter().collect(),
    };
    let bom = Bom {
        serial_number: None,
        metadata: Some(cyclonedx_bom::models::metadata::Metadata { component: Some(described), ..Default::default() }),
        components: Some(Components(components.into_values().collect())),
        dependencies: Some(Dependencies(dependencies.into_iter().map(dependency).collect())),
        ..Bom::default()
    };
    let mut written = Vec::new();
    bom.output_as_json_v1_5(&mut written).context("cannot write the bill of materials")?;
    let mut tree: Value = serde_json::from_slice(&written)?;
    tree.sort_all_objects();
    Ok(format!("{tree:#}\n").into_bytes())
}

fn component(package: &Package) -> Result<Component> {
    let version = package.version.to_string();
    let mut component = Component::new(Classification::Library, &package.name, &version, Some(reference(package)));
    component.purl = Some(Purl::new("cargo", &package.name, &version)?);
    component.licenses = package
        .license
        .as_ref()
        .map(|license| SpdxExpression::parse_lax(license.clone()))
        .transpose()?
        .map(|expression| Licenses(vec![LicenseChoice::Expression(expression)]));
    Ok(component)
}

/// How the document refers to a package. A package id would name this machine's folders.
fn reference(package: &Package) -> String {
    format!("{}@{}", package.name, package.version)
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_what_is_linked_and_nothing_of_this_machine() -> Result<()> {
        let checkout = Checkout::locate()?;
        let written = write(&checkout, b"a module")?;
        assert_eq!(written, write(&checkout, b"a module")?, "twice the same sources, twice another document");
        let text = String::from_utf8(written)?;
        assert!(!text.contains(&*checkout.root().to_string_lossy()), "{text}");
        let tree: Value = serde_json::from_str(&text)?;
        let names: Vec<&str> = tree["components"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|component| component["name"].as_str())
            .collect();
        for linked in ["bluegreen-core", "proxy-wasm", "serde_json"] {
            assert!(names.contains(&linked), "{linked} is not among {names:?}");
        }
        for not_linked in ["tokio", "proptest", "clap"] {
            assert!(!names.contains(&not_linked), "{not_linked} is among {names:?}");
        }
        assert_eq!(tree["metadata"]["component"]["name"], PACKAGE);
        assert_eq!(tree["metadata"]["component"]["licenses"][0]["expression"], "Apache-2.0");
        Ok(())
    }

    #[test]
    fn the_document_is_valid_by_its_own_rules() -> Result<()> {
        let written = write(&Checkout::locate()?, b"a module")?;
        let bom = Bom::parse_from_json_v1_5(&written[..])?;
        let result = bom.validate_version(SpecVersion::V1_5);
        assert!(result.passed(), "{result:?}");
        Ok(())
    }
}
