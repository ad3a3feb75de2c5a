//! Calls of the admin API, whole: head, body, and what the colours answer meanwhile.

#![no_main]

use std::sync::LazyLock;

use bluegreen_core::config::Config;
use bluegreen_fuzz::script::sections;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::{World, configuration};
use libfuzzer_sys::fuzz_target;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    configuration(
        r#", "probe": {"path": "/ping", "timeout": "1s"}, "bake": {"for": "10m"},
            "smoke_test": {"required": false, "timeout": "1s", "requests": [{"path": "/", "expect": {"json": {"pointer": "/a"}}}]},
            "rollout": {"steps": [{"canary_percent": 1, "hold": "1s"}]},
            "guard": {"error": {"max_increase": 0.1}}"#,
        "",
    )
});

fuzz_target!(|input: &[u8]| {
    // The histories of 32 changes are written and shown again and again.
    bounded(input, 64 << 20, 16 << 10, || {
        let mut world = World::new(&CONFIG);
        sections(input).iter().for_each(|section| world.act(section));
    });
});
