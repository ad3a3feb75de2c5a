//! The smallest wasm filters there can be: what Envoy asks for the VM itself, for one header written from it, for the
//! host calls that bluegreen makes, and for a configuration that is pushed.
//!
//! They tell the part of the filter's cost that no change to its code can save.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::gateway::CLUSTER_HEADER;

/// Writes the module that does nothing to `folder`.
pub fn idle(folder: &Path) -> Result<PathBuf> {
    write(folder, "idle.wasm", &text("", "", ""))
}

/// Writes the module that sets the cluster header to `blue` to `folder`.
pub fn header(folder: &Path) -> Result<PathBuf> {
    let import = r#"(import "env" "proxy_replace_header_map_value"
        (func $replace (param i32 i32 i32 i32 i32) (result i32)))"#;
    let name = CLUSTER_HEADER.len();
    // Map 0 is the request's headers; name and value lie where the data segments below put them.
    let call =
        format!("(drop (call $replace (i32.const 0) (i32.const 16) (i32.const {name}) (i32.const 64) (i32.const 4)))");
    write(folder, "header.wasm", &text(import, "", &call))
}

/// Writes the module that sets the cluster header to what it is configured with ([`configured_with`]) to `folder`.
pub fn configured(folder: &Path) -> Result<PathBuf> {
    let imports = r#"(import "env" "proxy_replace_header_map_value"
        (func $replace (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))"#;
    // Buffer 7 is the plugin's configuration. The host writes at 96 where it put the bytes, and at 100 how many.
    let read = "(drop (call $buffer (i32.const 7) (i32.const 0) (local.get 1) (i32.const 96) (i32.const 100)))";
    let name = CLUSTER_HEADER.len();
    let call = format!(
        "(drop (call $replace (i32.const 0) (i32.const 16) (i32.const {name}) (i32.load (i32.const 96)) (i32.load (i32.const 100))))"
    );
    write(folder, "configured.wasm", &text(imports, read, &call))
}

/// The plugin configuration of the [`configured`] module: a cluster's name.
pub fn configured_with(cluster: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": cluster})
}

/// Writes the module that makes bluegreen's host calls for a plain exchange, and nothing else, to `folder`.
pub fn same_calls(folder: &Path) -> Result<PathBuf> {
    write(folder, "same_calls.wasm", include_str!("same_calls.wat"))
}

/// The typed configuration of a wasm filter that runs the module at `path`, given this object as its configuration.
pub fn filter(path: &Path, configuration: Value) -> Value {
    filter_with(path, json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration}))
}

/// The same with a configuration of any type.
pub fn filter_with(path: &Path, configuration: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {
            "name": "lean",
            "root_id": "lean",
            "fail_open": true,
            "vm_config": {
                "vm_id": "lean",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": path}},
            },
            "configuration": configuration,
        },
    })
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let module = wat::parse_str(text).context("the lean filter is no WebAssembly")?;
    std::fs::write(&path, module).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The exports that Envoy insists on, and what two callbacks do.
fn text(import: &str, on_configure: &str, on_request_headers: &str) -> String {
    format!(
        r#"(module
  {import}
  (memory (export "memory") 1)
  (data (i32.const 16) "{CLUSTER_HEADER}")
  (data (i32.const 64) "blue")
  (global $free (mut i32) (i32.const 4096))
  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (local.get $size))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    {on_configure}
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    {on_request_headers}
    (i32.const 0)))"#
    )
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_calls_are_those_that_are_pinned_for_bluegreen() -> Result<()> {
        let pinned = std::fs::read_to_string(bluegreen_testbed::repository::root().join("src/tests/host_calls.rs"))?;
        let plain =
            pinned.split("fn a_plain_exchange").nth(1).and_then(|text| text.split("];").next()).unwrap_or_default();
        let named = plain.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once('"'));
        let expected: Vec<&str> = named.map(|(call, _)| call).collect();
        let (_, callbacks) = include_str!("same_calls.wat").split_once("proxy_on_request_headers").unwrap_or_default();
        let made = callbacks.split("(call $").skip(1).filter_map(|text| text.split([' ', '\n', ')']).next());
        let made: Vec<&str> = made.filter(|call| *call != "compile").collect();
        assert!(!expected.is_empty());
        assert_eq!(made, expected);
        Ok(())
    }

    #[test]
    fn the_modules_are_webassembly_and_tiny() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for module in
            [idle(folder.path())?, header(folder.path())?, configured(folder.path())?, same_calls(folder.path())?]
        {
            let bytes = std::fs::read(&module)?;
            assert!(bytes.starts_with(b"\0asm") && bytes.len() < 1_500, "{} bytes", bytes.len());
        }
        Ok(())
    }
}
