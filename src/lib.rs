//! The filter: translates what Envoy reports into small plain values, lets `bluegreen-core` decide, and carries the
//! decision out. Nothing outside this crate knows proxy-wasm; nothing inside it decides anything.
//!
//! One [`root::Root`] lives for each plugin configuration in each VM, one [`stream::Stream`] for each request. The flows of
//! core run on one [`executor::Executor`] for each root.

// The workspace denies panics and overflow in code that runs in the VM; in tests both are how a defect shows itself.
#![cfg_attr(
    test,
    allow(clippy::arithmetic_side_effects, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)
)]

mod host;
mod shared_data;
mod shared_queues;

mod grpc;
mod metrics;

mod executor;
mod question;

mod unmatched;

mod plugin;

mod admin;
mod copying;
mod exchange;
mod passing;

mod stream;

mod root;

#[cfg(all(test, not(target_arch = "wasm32")))]
mod fake_host;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

/// Where Envoy enters a new VM.
mod entry {
    #![allow(missing_docs, reason = "the SDK's macro makes a function without docs")]

    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        proxy_wasm::set_root_context(crate::root::create);
    }}
}
