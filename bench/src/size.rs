//! How large the module is, and what loading it takes.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bluegreen_testbed::Bootstrap;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tempfile::TempDir;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::Spread;
use crate::{gateway, lean_filter, startup};
use bluegreen_programs::Progress;

/// Kilobytes of 1,000 bytes.
const MODULE_KB: f64 = 600.0;
const GZIP_KB: f64 = 220.0;

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let bytes = fs::read(&lab.module).with_context(|| format!("cannot read {}", lab.module.display()))?;
    let gzip = gzipped(&bytes)?;
    let sections = sections(&bytes);

    let folder = TempDir::with_prefix("bluegreen-bench-")?;
    let variants = [
        ("no filter", gateway::by_header(lab)?),
        ("wasm: does nothing", idle(lab, folder.path())?),
        ("bluegreen", gateway::traffic_only(lab)?),
    ];
    let rounds = lab.pick(2, 15);
    let progress = Progress::start(format!("{rounds} starts of each"));
    let mut loading: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        for ((_, bootstrap), times) in variants.iter().zip(&mut loading) {
            times.push(startup::listeners_ms(lab, bootstrap.clone()).await?);
        }
    }
    progress.done(&format!("{rounds} starts of each"));

    let kilobytes = |bytes: usize| bytes as f64 / 1000.0;
    let mut sizes = Table::new("The module", &["what", "bytes"]);
    sizes.row(["bluegreen.wasm".to_owned(), bytes.len().to_string()]);
    sizes.row(["gzip -9".to_owned(), gzip.to_string()]);
    for (name, size) in &sections {
        sizes.row([format!("section {name}"), size.to_string()]);
    }
    let mut times = Table::new("Loading the listeners when Envoy starts", &["with", "ms"]);
    for ((name, _), values) in variants.iter().zip(&loading) {
        times.row([(*name).to_owned(), Spread::of(values).show(0)]);
    }
    let large = "the code is built for size, and keeps the functions' names for backtraces. The rest is features: JSON, etcd's \
        messages, the guard, and the texts for people";
    Ok(BenchReport {
        title: "Size: the module, and loading it".to_owned(),
        method: vec![format!(
            "The module of `cargo xtask build`, and {rounds} starts of each Envoy in turn: the time in which V8 compiles the \
             module, and two VMs are made and configured."
        )],
        tables: vec![sizes, times],
        targets: vec![
            Target::at_most("bluegreen.wasm", MODULE_KB, kilobytes(bytes.len()), "KB", large),
            Target::at_most("bluegreen.wasm, gzip", GZIP_KB, kilobytes(gzip), "KB", large),
        ],
        notes: Vec::new(),
        measurements: json!({
            "bytes": bytes.len(),
            "gzip": gzip,
            "sections": sections,
            "loading_ms": {"no_filter": loading[0], "idle": loading[1], "bluegreen": loading[2]},
        }),
    })
}

fn idle(lab: &Lab, folder: &Path) -> Result<Bootstrap> {
    gateway::with_filter(lab, "lean", lean_filter::filter(&lean_filter::idle(folder)?, json!({})))
}

fn gzipped(bytes: &[u8]) -> Result<usize> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.len())
}

/// The sections of a module that matter for its size, with their bytes.
fn sections(module: &[u8]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut rest = module.get(8..).unwrap_or_default();
    while let Some((id, after)) = rest.split_first() {
        let Some((size, content)) = length(after) else { break };
        let Some(content) = content.get(..size) else { break };
        let name = match id {
            0 => length(content).and_then(|(size, name)| name.get(..size)).map(String::from_utf8_lossy),
            10 => Some("code".into()),
            11 => Some("data".into()),
            _ => None,
        };
        if let Some(name) = name {
            found.push((name.into_owned(), size));
        }
        let header = rest.len() - after.len() + (after.len() - length(after).map_or(0, |(_, content)| content.len()));
        rest = rest.get(header + size..).unwrap_or_default();
    }
    found
}

/// An unsigned LEB128 number, and what follows it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sections_of_a_module_are_found_with_their_sizes() -> Result<()> {
        let module = wat::parse_str(r#"(module $named (memory 1) (data (i32.const 0) "abc") (func $f (nop)))"#)?;
        let sections = sections(&module);
        let names: Vec<&str> = sections.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["code", "data", "name"]);
        assert!(sections.iter().all(|(_, size)| (3..40).contains(size)), "{sections:?}");
        Ok(())
    }
}
