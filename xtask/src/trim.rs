//! Takes out of the module what Envoy would call in vain.
//!
//! The SDK exports every callback of the ABI, implemented or not, and Envoy enters the VM for each one that is exported:
//! for every chunk of every answer's body, for instance. Without the export it does not, and what only that callback
//! needed can go too.

use anyhow::{Context, Result, ensure};
use walrus::{Module, ModuleConfig, passes};

/// What the host needs to run the module, and the callbacks that the filter implements.
const EXPORTS: &[&str] = &[
    "_initialize",
    "malloc",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_grpc_close",
    "proxy_on_grpc_receive",
    "proxy_on_http_call_response",
    "proxy_on_log",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_response_headers",
    "proxy_on_tick",
];

/// The module without all other exports, and without what nothing reaches any more.
pub fn to_callbacks(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut module = ModuleConfig::new().parse(bytes).context("not a wasm module")?;
    for name in EXPORTS {
        ensure!(module.exports.iter().any(|export| export.name == *name), "the module does not export {name}");
    }
    remove_other_exports(&mut module);
    passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

fn remove_other_exports(module: &mut Module) {
    let others: Vec<_> = module
        .exports
        .iter()
        .filter(|export| !EXPORTS.contains(&export.name.as_str()))
        .map(|export| export.id())
        .collect();
    for export in others {
        module.exports.delete(export);
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that exports these names and has one function that only the last export reaches.
    fn module(names: &[&str]) -> Vec<u8> {
        let exports: String =
            names.iter().filter(|name| **name != "memory").map(|name| format!("(func (export \"{name}\"))")).collect();
        let text = format!(
            "(module (memory (export \"memory\") 1) (func $deep) {exports} (func (export \"proxy_on_response_body\") call $deep))"
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn what_the_filter_does_not_implement_is_gone_with_all_that_only_it_needed() {
        let trimmed = Module::from_buffer(&to_callbacks(&module(EXPORTS)).unwrap()).unwrap();
        let mut names: Vec<&str> = trimmed.exports.iter().map(|export| export.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, EXPORTS);
        assert_eq!(trimmed.funcs.iter().count(), EXPORTS.len() - 1);
    }

    #[test]
    fn a_module_without_a_callback_that_the_filter_implements_is_refused() {
        let error = to_callbacks(&module(&EXPORTS[..5])).unwrap_err().to_string();
        assert!(error.contains("does not export proxy_on_"), "{error}");
    }
}
