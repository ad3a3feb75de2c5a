//! The software bill of materials of the module: a CycloneDX document of the crates that are linked into it.
//!
//! It names no time and no serial number, so that equal sources give equal bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bluegreen_programs::Checkout;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::prelude::*;
use serde_json::Value;

use crate::digest::sha256;
use crate::toolchain::TARGET;

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
    let linked = linked(metadata, &root.id)?;
    let package =
        |id: &PackageId| metadata.packages.iter().find(|package| package.id == *id).context("no such package");
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for (id, needs) in &linked {
        let this = package(id)?;
        let mut needed = needs.iter().map(|id| Ok(reference(package(id)?))).collect::<Result<Vec<_>>>()?;
        needed.sort();
        dependencies.push(Dependency { dependency_ref: reference(this), dependencies: needed });
        if **id != root.id {
            components.push(component(this)?);
        }
    }
    components.sort_by(|one, other| one.bom_ref.cmp(&other.bom_ref));
    dependencies.sort_by(|one, other| one.dependency_ref.cmp(&other.dependency_ref));
    let mut described = component(root)?;
    described.hashes = Some(Hashes(vec![Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sha256(module)) }]));
    let bom = Bom {
        serial_number: None,
        metadata: Some(cyclonedx_bom::models::metadata::Metadata { component: Some(described), ..Default::default() }),
        components: Some(Components(components)),
        dependencies: Some(Dependencies(dependencies)),
        ..Bom::default()
    };
    let mut written = Vec::new();
    bom.output_as_json_v1_5(&mut written).context("cannot write the bill of materials")?;
    let mut tree: Value = serde_json::from_slice(&written)?;
    tree.sort_all_objects();
    Ok(format!("{tree:#}\n").into_bytes())
}

/// What is linked, from the root on: each package, and what it needs. Build scripts and tests are not linked.
fn linked<'m>(metadata: &'m Metadata, root: &'m PackageId) -> Result<BTreeMap<&'m PackageId, BTreeSet<&'m PackageId>>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let mut found = BTreeMap::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if found.contains_key(id) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == *id).context("a package that was not resolved")?;
        let linked =
            |kinds: &[cargo_metadata::DepKindInfo]| kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
        let needs: BTreeSet<&PackageId> = node
            .deps
            .iter()
            .filter(|dependency| linked(&dependency.dep_kinds))
            .map(|dependency| &dependency.pkg)
            .collect();
        open.extend(&needs);
        found.insert(id, needs);
    }
    Ok(found)
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
