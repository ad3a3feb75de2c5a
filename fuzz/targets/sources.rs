//! What MLflow, Envoy's runtime and the colours' probes answer.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use bluegreen_core::config::Config;
use bluegreen_core::model::author::Source;
use bluegreen_fuzz::script::sections;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::{World, configuration};
use libfuzzer_sys::fuzz_target;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    configuration(
        r#", "mlflow": {"cluster": "mlflow", "model": "iris", "follow": {"alias": "production"}, "enforce": false,
                "colours": {"blue": {"alias": "blue"}, "green": {"alias": "green"}}, "poll_interval": "1s"}"#,
        r#", "runtime": {"cluster": "runtime", "poll_interval": "1s", "enforce": false}"#,
    )
});

fuzz_target!(|input: &[u8]| {
    bounded(input, 64 << 20, 64 << 10, || {
        let mut world = World::new(&CONFIG);
        world.tick(Duration::from_millis(250));
        let revision = world.states()[0].revision;
        for section in sections(input) {
            // What a source says, and no operator.
            if ["reply", "broken", "tick"].contains(&section.directive().0) {
                world.act(&section);
            }
        }
        for _ in 0..4 {
            world.tick(Duration::from_secs(2));
        }
        let state = &world.states()[0];
        assert!(state.revision >= revision);
        for change in state.history.changes() {
            let by = change.author.source;
            assert!([Source::Mlflow, Source::Runtime, Source::Config].contains(&by), "{by:?}");
        }
    });
});
