//! What other plugins write under the filter's keys and into its queues. Whatever stands there, the operator's next switch
//! is made and seen.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use bluegreen_core::admin::api::Head;
use bluegreen_core::config::{Config, Guard};
use bluegreen_core::guard::analysis::CanaryAnalysis;
use bluegreen_core::guard::bounds::Bounds;
use bluegreen_core::guard::evidence::Collector;
use bluegreen_core::host::queue::QueueToken;
use bluegreen_core::json::{self, FromJson};
use bluegreen_core::metrics::cohorts::Cohorts;
use bluegreen_core::metrics::comparison::Sample;
use bluegreen_core::model::name::DeploymentName;
use bluegreen_core::model::percent::Percent;
use bluegreen_core::model::split::{Revision, Split};
use bluegreen_core::state::State;
use bluegreen_core::store::source_status::SourceStatus;
use bluegreen_core::testing::host::START;
use bluegreen_core::workers::message::Message;
use bluegreen_core::workers::report::Report;
use bluegreen_core::{readiness, setup, workers};
use bluegreen_fuzz::script::sections;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::{OPERATOR, World, configuration};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    configuration(
        r#", "probe": {"path": "/ping"}, "bake": {"for": "10m"}, "failover": {"after": 5},
            "rollout": {"steps": [{"canary_percent": 1, "hold": "1s"}]},
            "guard": {"error": {"max_increase": 0.1}, "slow": {"over": "auto"}, "also_after_promote": "1h"},
            "mlflow": {"cluster": "mlflow", "model": "iris", "follow": {"alias": "production"},
                "colours": {"blue": {"alias": "blue"}, "green": {"alias": "green"}},
                "webhook": {"secret_header": "x-secret"}}"#,
        r#", "runtime": {"cluster": "runtime"}"#,
    )
});

fuzz_target!(|input: &[u8]| {
    for section in sections(input) {
        match section.directive().0 {
            "put" => records(section.rest),
            "message" => message(section.rest),
            _ => {}
        }
    }
    bounded(input, 64 << 20, 64 << 10, || {
        let mut world = World::new(&CONFIG);
        sections(input).iter().for_each(|section| world.act(section));
        for _ in 0..4 {
            world.tick(Duration::from_secs(3));
        }
        world.host.set_now(START);
        switch(&world);
    });
});

/// Whatever stands there, an operator gets the colour that she asks for.
fn switch(world: &World) {
    for colour in ["green", "blue"] {
        let head = Head {
            method: b"PATCH".to_vec(),
            path: format!("/bluegreen/v1/deployments/iris?active={colour}&canary_percent=0&force=true").into_bytes(),
            authorization: Some(format!("Bearer {OPERATOR}").into_bytes()),
            ..Head::default()
        };
        let Some(answer) = world.call(&head, b"") else { panic!("a switch waits without an end") };
        let text = String::from_utf8_lossy(&answer.body);
        assert!(matches!(answer.status, 200 | 202), "{text}");
        assert_eq!(world.states()[0].split.active.as_str(), colour, "{text}");
    }
}

/// What can be read is read as the same once it was written again.
fn records(bytes: &[u8]) {
    same::<State>(bytes);
    same::<Report>(bytes);
    same::<workers::roster::Roster>(bytes);
    same::<workers::roster::Heartbeat>(bytes);
    same::<Sample>(bytes);
    same::<readiness::probe::Health>(bytes);
    same::<SourceStatus>(bytes);
    same::<Cohorts>(bytes);
    if let Ok(cohorts) = json::from_slice::<Cohorts>(bytes) {
        let guard = Guard { slow: None, ..Guard::default() };
        let evidence = Collector::default().collect(&cohorts, Revision::ZERO, (&guard, &Bounds::default()), START);
        let state = State::initial(Split { canary_percent: Percent::ALL, ..Split::default() }, START);
        if let Some(mut analysis) = CanaryAnalysis::advance(None, &state, Some(&guard), false, START) {
            evidence.iter().for_each(|piece| analysis.play(piece, &guard, Some(0.01), START));
            assert!(analysis.combined(&guard).is_finite());
        }
    }
    if let Ok(notes) = json::from_slice::<workers::comparer::Notes>(bytes) {
        let mut compared = notes.compared.clone();
        compared.merge(&notes.compared);
        for e_value in [compared.excess.disagreement_e_value(0.02), compared.excess.agreement_e_value(0.02)] {
            assert!(e_value.is_finite());
        }
    }
    // It has floating-point numbers, whose last digit serde_json does not promise.
    let _: Result<CanaryAnalysis, _> = json::from_slice(bytes);
    let iris = DeploymentName::new("iris").expect("valid");
    let store = bluegreen_core::testing::MemoryStore::default();
    store.put("bluegreen/v1/iris/setup", bytes);
    assert!(setup::noted(&store, &iris).len() <= 64);
}

fn same<T: Serialize + FromJson>(bytes: &[u8]) {
    let Ok(read) = json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&read).expect("serialises");
    let again: T = json::from_slice(&written).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&written));
    });
    assert_eq!(
        String::from_utf8_lossy(&serde_json::to_vec(&again).expect("serialises")),
        String::from_utf8_lossy(&written)
    );
}

fn message(bytes: &[u8]) {
    let Some(message) = Message::parse(bytes) else { return };
    let text = message.to_string();
    assert_eq!(Message::parse(text.as_bytes()), Some(message));
    if let Message::Asked { reply_to: QueueToken(queue), .. } = message {
        assert!(text.contains(&queue.to_string()));
    }
}
