//! Takes out of the module what Envoy would call in vain, and shortens what it prints.
//!
//! The SDK exports every callback of the ABI, implemented or not, and Envoy enters the VM for each one that is exported:
//! for every chunk of every answer's body, for instance. Without the export it does not, and what only that callback
//! needed can go too.
//!
//! A backtrace shows a function's name as it stands in the module. Mangled names take a quarter of it, and nobody can
//! read them.

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
    "proxy_on_queue_ready",
    "proxy_on_request_body",
    "proxy_on_request_headers",
    "proxy_on_request_trailers",
    "proxy_on_response_body",
    "proxy_on_response_headers",
    "proxy_on_response_trailers",
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
    for function in module.funcs.iter_mut() {
        function.name = function.name.as_deref().map(readable);
    }
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

/// A function's path without its hash, with traits by their names alone, and with `_` in place of generic arguments that are
/// several or have their own.
fn readable(mangled: &str) -> String {
    let path = format!("{:#}", rustc_demangle::demangle(mangled)).replace("->", "to");
    let mut short = String::with_capacity(path.len());
    let mut rest = path.as_str();
    while let Some(bracket) = rest.find('<') {
        let (before, opened) = rest.split_at(bracket);
        short.push_str(before);
        short.push('<');
        rest = &opened[1..];
        // After a name the bracket holds arguments; elsewhere it begins a path such as `<Type as Trait>::function`.
        if before.ends_with(|letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':')) {
            let length = arguments_length(rest);
            let (arguments, after) = rest.split_at(length);
            short.push_str(if arguments.contains([',', '<']) { "_" } else { arguments });
            rest = after;
        }
    }
    short.push_str(rest);
    // What serde derives stands in a nameless module.
    traits_by_name(&short.replace("_::<impl ", "<impl "))
}

/// A name in which each trait after `as` or `impl` stands without the path to it.
fn traits_by_name(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(end) = [" as ", "<impl "].iter().filter_map(|word| Some(rest.find(word)? + word.len())).min() {
        let (before, path) = rest.split_at(end);
        short.push_str(before);
        let length = path.find([' ', '<', '>']).unwrap_or(path.len());
        let (path, after) = path.split_at(length);
        short.push_str(path.rsplit("::").next().unwrap_or(path));
        rest = after;
    }
    short + rest
}

/// The length of a list of generic arguments up to the bracket that closes it.
fn arguments_length(text: &str) -> usize {
    let mut depth = 1;
    let closes = |letter: char| {
        depth += match letter {
            '<' => 1,
            '>' => -1,
            _ => 0,
        };
        depth == 0
    };
    text.find(closes).unwrap_or(text.len())
}

// === tests ===

#[cfg(test)]
mod tests {
    use walrus::{FunctionBuilder, FunctionId};

    use super::*;

    /// A module that exports these names and has one function that only the last export reaches.
    fn module(names: &[&str]) -> Vec<u8> {
        fn function(module: &mut Module, calls: Option<FunctionId>) -> FunctionId {
            let mut function = FunctionBuilder::new(&mut module.types, &[], &[]);
            if let Some(callee) = calls {
                function.func_body().call(callee);
            }
            function.finish(Vec::new(), &mut module.funcs)
        }
        let mut module = Module::default();
        let memory = module.memories.add_local(false, false, 1, None, None);
        module.exports.add("memory", memory);
        for name in names.iter().filter(|name| **name != "memory") {
            let exported = function(&mut module, None);
            module.exports.add(name, exported);
        }
        let deep = function(&mut module, None);
        let calls_deep = function(&mut module, Some(deep));
        module.exports.add("proxy_on_new_connection", calls_deep);
        module.emit_wasm()
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
    fn a_name_is_readable_and_says_no_more_than_where_the_function_stands() {
        let cases = [
            (
                "_ZN14bluegreen_core6config6Config10from_bytes17h0123456789abcdefE",
                "bluegreen_core::config::Config::from_bytes",
            ),
            (
                "_ZN73_$LT$bluegreen..root..Root$u20$as$u20$proxy_wasm..traits..RootContext$GT$7on_tick17hf257e9a99e1f9272E",
                "<bluegreen::root::Root as RootContext>::on_tick",
            ),
            (
                "_ZN5alloc11collections5btree3map25BTreeMap$LT$K$C$V$C$A$GT$6insert17h527d6209cff3d824E",
                "alloc::collections::btree::map::BTreeMap<_>::insert",
            ),
            (
                "_ZN1a1_62_$LT$impl$u20$serde_core..de..Deserialize$u20$for$u20$a..B$GT$11deserialize17h527d6209cff3d824E",
                "a::<impl Deserialize for a::B>::deserialize",
            ),
            ("_ZN1a16drop$LT$b..C$GT$17h527d6209cff3d824E", "a::drop<b::C>"),
            ("_ZN37$LT$b..C$LT$d..E$GT$$u20$as$u20$F$GT$1g17h527d6209cff3d824E", "<b::C<d::E> as F>::g"),
            ("proxy_on_tick", "proxy_on_tick"),
        ];
        for (mangled, name) in cases {
            assert_eq!(readable(mangled), name);
        }
    }

    #[test]
    fn a_module_without_a_callback_that_the_filter_implements_is_refused() {
        let error = to_callbacks(&module(&EXPORTS[..5])).unwrap_err().to_string();
        assert!(error.contains("does not export proxy_on_"), "{error}");
    }
}
