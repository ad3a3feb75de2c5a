//! A push puts another version behind a colour.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::config::ConfigPush;
use crate::controllers::{config_push, versions};

const SECTIONS: &str = r#", "probe": {"path": "/ping"}, "smoke_test": {"requests": [{"path": "/test"}]}"#;
const V3: &str = r#"{"cluster": "v3", "version": "3"}"#;

fn well() -> HttpReply {
    HttpReply::Answered { status: 200, body: Vec::new() }
}

fn sick() -> HttpReply {
    HttpReply::Answered { status: 500, body: Vec::new() }
}

fn kind(problem: &serde_json::Value) -> &str {
    problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:bluegreen:problem:")).unwrap_or_default()
}

impl Fixture {
    /// Under a probe and a required smoke test, as configured at its start.
    fn started(sections: &str) -> Self {
        let fixture = Self::with(sections);
        config_push::load(&fixture.context, ConfigPush::default());
        fixture
    }

    /// A configuration is delivered to one of the workers.
    fn push(&mut self, blue: &str, green: &str, sections: &str) {
        let config = Self::config(blue, green, sections, "");
        self.context.worker.leave(&*self.host, &self.context.deployments);
        self.context = Rc::new(Context::new(Rc::<TestHost>::clone(&self.host), &config, None));
        self.context.worker.on_stream(&*self.host);
        config_push::load(&self.context, ConfigPush::default());
    }

    /// What waits is tried again.
    fn try_again(&self) {
        let context = Rc::clone(&self.context);
        let mut flow: Flow = Box::pin(async move {
            versions::try_again(&context, 0, ConfigPush::default(), None).await;
            Response::json(200, &())
        });
        self.drive(&mut flow).expect("it waits");
    }

    fn shown(&self) -> serde_json::Value {
        self.operate("GET", IRIS).1
    }

    /// Version and cluster of a colour.
    fn serves(&self, colour: &str) -> (String, String) {
        let shown = &self.shown()["colours"][colour];
        let text = |member: &str| shown[member].as_str().unwrap_or_default().to_owned();
        (text("version"), text("cluster"))
    }

    /// The problems that are noted.
    fn problems(&self) -> Vec<String> {
        let setup = self.shown()["setup"].clone();
        setup
            .as_array()
            .expect("a list")
            .iter()
            .map(|noted| noted["problem"].as_str().expect("a text").to_owned())
            .collect()
    }

    fn test_passes(&self, query: &str) -> serde_json::Value {
        self.will_reply([well()]);
        let (status, answer) = self.operate("POST", &format!("{IRIS}/test{query}"));
        assert_eq!((status, &answer["passed"]), (200, &true.into()), "{answer}");
        answer
    }

    fn promote(&self) {
        self.test_passes("");
        self.will_reply([well()]);
        assert_eq!(self.operate("POST", &format!("{IRIS}/promote")).0, 200);
        self.asked();
    }
}

fn pair(version: &str, cluster: &str) -> (String, String) {
    (version.to_owned(), cluster.to_owned())
}

#[test]
fn a_candidate_without_traffic_is_taken_over_recorded_and_has_to_be_tested_anew() {
    let mut api = Fixture::started(SECTIONS);
    api.test_passes("");
    // All threads load the same configuration.
    for _ in 0..3 {
        api.push(BLUE, V3, SECTIONS);
    }
    assert_eq!((api.serves("green"), api.revision()), (pair("3", "v3"), 1));
    let (_, history) = api.operate("GET", &format!("{IRIS}/history"));
    let change = &history["changes"][0];
    let expected = serde_json::json!({"colour": "green", "from": {"cluster": "green", "version": "2"},
        "to": {"cluster": "v3", "version": "3"}});
    assert_eq!((&change["source"], &change["replaced"], &change["forced"]), (&"config".into(), &expected, &().into()));
    assert_eq!(kind(&api.operate("POST", &format!("{IRIS}/promote")).1), "smoke-test-missing");
    api.asked();
    api.test_passes("");
    assert_eq!(api.asked(), ["POST v3 /test"]);
}

#[test]
fn a_canary_of_the_replaced_version_ends_and_the_next_one_gets_nothing_of_it() {
    let plan = format!(r#"{SECTIONS}, "rollout": {{"steps": [{{"canary_percent": 10, "hold": "1s"}}]}}"#);
    let mut api = Fixture::started(&plan);
    api.test_passes("");
    api.will_reply([well()]);
    assert_eq!(api.operate("POST", &format!("{IRIS}/rollout/start")).0, 200);
    api.push(BLUE, V3, &plan);
    let shown = api.shown();
    assert_eq!((&shown["canary_percent"], &shown["rollout"]["phase"]), (&0.into(), &"replaced".into()));
    assert_eq!((api.serves("green"), &shown["rollout"]["waits_for"]), (pair("3", "v3"), &serde_json::json!([])));
    let (_, history) = api.operate("GET", &format!("{IRIS}/history"));
    assert_eq!(history["changes"][0]["rollout"], "replaced");
    assert_eq!(kind(&api.operate("POST", &format!("{IRIS}/rollout/start")).1), "smoke-test-missing");
}

#[test]
fn the_active_colour_goes_on_as_it_was_until_the_next_version_is_ready() {
    let mut api = Fixture::started(SECTIONS);
    api.push(V3, GREEN, SECTIONS);
    assert_eq!((api.serves("blue"), api.revision()), (pair("1", "blue"), 0));
    api.try_again();
    assert!(api.asked().is_empty(), "it is not tested");
    let waiting = api.shown()["colours"]["blue"]["waiting"].clone();
    let why = "it has not passed the required smoke test: POST …/test?colour=blue";
    assert_eq!(waiting, serde_json::json!({"cluster": "v3", "version": "3", "why": why}));
    assert_eq!(api.problems(), ["version-waits"]);
    let is_about =
        |line: &String| line.contains("setup=version-waits: version 3 (cluster v3) is configured for blue and waits");
    assert_eq!(api.host.take_log().iter().filter(|line| is_about(line)).count(), 1);

    // A pass is not enough while its probe fails.
    api.will_reply([well(), sick()]);
    let (_, tested) = api.operate("POST", &format!("{IRIS}/test?colour=blue"));
    assert_eq!(
        (&tested["candidate"], &tested["version"], &tested["passed"]),
        (&"blue".into(), &"3".into(), &true.into())
    );
    assert_eq!(api.asked(), ["POST v3 /test", "GET v3 /ping"]);
    assert_eq!((api.serves("blue"), api.revision()), (pair("1", "blue"), 0));
    let why = api.shown()["colours"]["blue"]["waiting"]["why"].clone();
    assert!(why.as_str().expect("a text").starts_with("its probe failed just now: answered 500"), "{why}");

    api.will_reply([well()]);
    api.try_again();
    assert_eq!((api.serves("blue"), api.revision(), api.problems()), (pair("3", "v3"), 1, vec![]));
    assert_eq!(api.shown()["colours"]["blue"]["waiting"], serde_json::Value::Null);
    assert_eq!(kind(&api.operate("POST", &format!("{IRIS}/test?colour=blue")).1), "nothing-to-test");
}

#[test]
fn the_way_back_is_kept_until_the_next_version_has_passed_and_then_the_test_brings_it() {
    let mut api = Fixture::started(SECTIONS);
    api.promote();
    api.push(V3, GREEN, SECTIONS);
    assert_eq!(api.serves("blue"), pair("1", "blue"));
    let (_, problem) = api.operate("POST", &format!("{IRIS}/promote"));
    assert_eq!(kind(&problem), "nothing-to-promote", "behind blue is what was just left");
    api.will_reply([well(), well()]);
    let (_, tested) = api.operate("POST", &format!("{IRIS}/test"));
    assert_eq!((&tested["version"], &tested["revision"]), (&"3".into(), &2.into()));
    assert_eq!(api.serves("blue"), pair("3", "v3"));
    api.will_reply([well()]);
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).1["active"], "blue");
}

#[test]
fn a_push_back_ends_the_waiting_and_another_one_takes_its_place() {
    let mut api = Fixture::started(SECTIONS);
    api.push(V3, GREEN, SECTIONS);
    api.push(r#"{"cluster": "v4", "version": "4"}"#, GREEN, SECTIONS);
    assert_eq!(api.shown()["colours"]["blue"]["waiting"]["version"], "4");
    api.push(BLUE, GREEN, SECTIONS);
    assert_eq!(api.shown()["colours"]["blue"]["waiting"], serde_json::Value::Null);
    assert_eq!((api.problems(), api.revision()), (vec![], 0));
    // And where it was taken over, it is taken back.
    api.push(BLUE, V3, SECTIONS);
    api.push(BLUE, GREEN, SECTIONS);
    assert_eq!((api.serves("green"), api.revision()), (pair("2", "green"), 2));
}

#[test]
fn an_old_configuration_that_lives_on_takes_nothing_back() {
    let mut api = Fixture::started(SECTIONS);
    let old = Rc::clone(&api.context);
    api.push(BLUE, V3, SECTIONS);
    api.context = old;
    api.try_again();
    assert_eq!((api.serves("green"), api.revision()), (pair("3", "v3"), 1));
}

#[test]
fn without_rules_everything_is_taken_over_at_once_and_a_rollback_still_knows_what_served() {
    let mut api = Fixture::started("");
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).0, 200);
    api.push(V3, GREEN, "");
    assert_eq!((api.serves("blue"), api.revision()), (pair("3", "v3"), 2));
    let (status, problem) = api.operate("POST", &format!("{IRIS}/rollback"));
    assert_eq!((status, kind(&problem)), (409, "way-back-replaced"));
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.starts_with("version 3 (cluster v3) came behind blue after the switch"), "{detail}");
    assert_eq!(api.operate("POST", &format!("{IRIS}/rollback?force=true")).1["active"], "blue");
    let (_, history) = api.operate("GET", &format!("{IRIS}/history"));
    assert_eq!(history["changes"][0]["forced"], true);
}

#[test]
fn a_rollback_ends_the_canary_of_what_has_come_to_the_way_back() {
    let mut api = Fixture::started("");
    api.operate("POST", &format!("{IRIS}/promote"));
    api.push(V3, GREEN, "");
    api.operate("PATCH", &format!("{IRIS}?canary_percent=10"));
    let (status, shown) = api.operate("POST", &format!("{IRIS}/rollback"));
    assert_eq!((status, &shown["active"], &shown["canary_percent"]), (200, &"green".into(), &0.into()));
}

#[test]
fn by_force_a_promote_takes_the_waiting_version() {
    let mut api = Fixture::started(SECTIONS);
    api.promote();
    api.push(V3, GREEN, SECTIONS);
    let promote = |revision: &str| {
        let path = format!("{IRIS}/promote?force=true&reason=urgent");
        api.operate_with("POST", &path, "", Some(revision))
    };
    assert_eq!((promote("\"7\"").0, api.serves("blue")), (412, pair("1", "blue")));
    let (status, shown) = promote("\"1\"");
    assert_eq!((status, &shown["active"], &shown["revision"]), (200, &"blue".into(), &3.into()));
    assert_eq!((api.serves("blue"), api.problems()), (pair("3", "v3"), vec![]));
    let (_, history) = api.operate("GET", &format!("{IRIS}/history"));
    for change in &history["changes"].as_array().expect("a list")[..2] {
        assert_eq!((&change["by"], &change["forced"]), (&"alice".into(), &true.into()));
    }
}

#[test]
fn an_initial_waits_for_the_version_that_it_is_meant_for() {
    let api = Fixture::started(SECTIONS);
    api.promote();
    let active = |colour: &str| format!(r#"{SECTIONS}, "initial": {{"active": "{colour}"}}"#);
    let mut api = api;
    // Others had green active already: only the next push asks for anything.
    api.push(BLUE, GREEN, &active("green"));
    api.push(V3, GREEN, &active("blue"));
    let shown = api.shown();
    assert_eq!((&shown["active"], &shown["colours"]["blue"]["version"]), (&"green".into(), &"1".into()));
    assert!(shown["sources"]["config"]["pending"].is_object(), "{shown}");
    api.will_reply([well(), well()]);
    api.operate("POST", &format!("{IRIS}/test"));
    assert_eq!(api.serves("blue"), pair("3", "v3"));
    // What waited for the version was asked for before it came, and still is.
    let on = api.shown()["sources"]["config"]["pending"]["on"].clone();
    assert_eq!(on, api.revision());
}

#[test]
fn what_the_configuration_takes_the_traffic_from_gets_nothing_else_before() {
    let mut api = Fixture::started(PROBED);
    let switched = format!(r#"{PROBED}, "initial": {{"active": "green"}}"#);
    api.push(V3, GREEN, &switched);
    assert_eq!((api.serves("blue"), api.revision()), (pair("1", "blue"), 0));
    let wanted = config_push::wanted(&api.host.store, &api.context.deployments.all()[0]);
    assert_eq!(wanted.map(|initial| initial.active.as_str()), Some("green"));
    let context = Rc::clone(&api.context);
    let mut flow: Flow = Box::pin(async move {
        versions::try_again(&context, 0, ConfigPush::default(), wanted).await;
        Response::json(200, &())
    });
    api.drive(&mut flow).expect("it waits");
    assert_eq!((api.asked(), api.serves("blue")), (vec![], pair("1", "blue")));
}

const PROBED: &str = r#", "probe": {"path": "/ping"}"#;

#[test]
fn a_colour_that_is_asked_for_again_is_no_change() {
    let api = Fixture::started(PROBED);
    api.will_reply([well()]);
    let to = |call: &str, colour: &str| api.operate("POST", &format!("{IRIS}/{call}?to={colour}"));
    for _ in 0..3 {
        // The colour's probe would fail by now: it is not asked.
        let (status, shown) = to("promote", "green");
        assert_eq!((status, &shown["active"], &shown["revision"]), (200, &"green".into(), &1.into()));
    }
    assert_eq!(api.asked(), ["GET green /ping"]);
    let (status, problem) = api.operate("POST", &format!("{IRIS}/promote"));
    assert_eq!((status, kind(&problem)), (409, "nothing-to-promote"));
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("rollback, or promote to=blue"), "{detail}");

    api.will_reply([well()]);
    for _ in 0..3 {
        let (status, shown) = to("rollback", "blue");
        assert_eq!((status, &shown["active"], &shown["revision"]), (200, &"blue".into(), &2.into()));
    }
    assert_eq!((to("rollback", "green").0, kind(&to("rollback", "green").1)), (409, "nothing-to-roll-back-to"));
    assert_eq!(to("promote", "red").0, 422);
    // What was rolled back from is promoted again without a word.
    api.will_reply([well()]);
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).1["active"], "green");
}
