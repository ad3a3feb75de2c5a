//! Refusals, smoke tests, drains and the way back.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use std::time::Duration;

use super::*;
use crate::json;
use crate::metrics::counters::ColourMetric;
use crate::model::colour::Colour;
use crate::model::name::ClusterName;

const PROBE: &str = r#", "probe": {"path": "/ping", "expect_status": 200}"#;
const SMOKE: &str = r#", "smoke_test": {"requests": [
    {"path": "/invocations", "body": {"inputs": [[1]]}, "expect": {"json": {"pointer": "/predictions/0", "equals": 1}}},
    {"method": "GET", "path": "/ping"}]}"#;
const BAKE: &str = r#", "bake": {"for": "10m"}"#;

fn answered(status: u16, body: &str) -> HttpReply {
    HttpReply::Answered { status, body: body.as_bytes().to_vec() }
}

fn passing() -> [HttpReply; 2] {
    [answered(200, r#"{"predictions": [1]}"#), answered(200, "")]
}

fn kind(problem: &serde_json::Value) -> &str {
    problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:bluegreen:problem:")).unwrap_or_default()
}

#[test]
fn whatever_gives_an_unhealthy_colour_traffic_is_refused_and_changes_nothing() {
    let unhealthy = [
        (answered(500, "no model"), "answered 500: no model"),
        (answered(504, "upstream request timeout"), "no answer within 1s"),
        (answered(503, "upstream connect error"), "upstream connect error"),
        (HttpReply::Broken, "broke"),
        (HttpReply::UnknownCluster(ClusterName::new("gren").expect("valid")), "cluster 'gren' is not known"),
    ];
    for (method, path) in [("POST", "/promote"), ("PATCH", "?active=green"), ("PATCH", "?canary_percent=0.01")] {
        for (reply, seen) in &unhealthy {
            let api = Fixture::with(PROBE);
            api.will_reply([reply.clone()]);
            let (status, problem) = api.operate(method, &format!("{IRIS}{path}"));
            assert_eq!((status, kind(&problem)), (409, "colour-unhealthy"), "{path}: {problem}");
            let detail = problem["detail"].as_str().unwrap_or_default();
            assert!(detail.contains(seen) && detail.contains("force=true"), "{detail}");
            assert_eq!(problem["state"]["colours"]["green"]["probe"]["healthy"], false);
            assert_eq!((api.revision(), api.asked()), (0, vec!["GET green /ping".to_owned()]));
        }
    }
}

#[test]
fn a_rollback_to_an_unhealthy_colour_is_refused_too() {
    let api = Fixture::with(PROBE);
    api.will_reply([answered(200, ""), answered(500, ""), answered(200, "")]);
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).0, 200);
    assert_eq!(api.operate("POST", &format!("{IRIS}/rollback")).0, 409);
    assert_eq!(api.operate("POST", &format!("{IRIS}/rollback")).0, 200);
    assert_eq!(api.asked(), ["GET green /ping", "GET blue /ping", "GET blue /ping"]);
}

const GUARD: &str = r#", "guard": {"also_after_promote": "10m"}"#;

#[test]
fn a_promotion_leaves_a_share_with_the_former_colour_and_says_until_when() {
    let api = Fixture::with(&format!("{BAKE}{GUARD}"));
    let (status, promoted) = api.operate("POST", &format!("{IRIS}/promote"));
    let until = START.plus(Duration::from_secs(600)).to_string();
    assert_eq!((status, &promoted["active"], &promoted["canary_percent"]), (200, &"green".into(), &2.into()));
    assert_eq!(promoted["kept"], serde_json::json!({"percent": 2, "until": until}));
    assert_eq!(promoted["colours"]["blue"]["safe_to_stop"], false);
    let newest = api.operate("GET", &format!("{IRIS}/history")).1["changes"][0].clone();
    assert_eq!((&newest["to"]["canary_percent"], &newest["kept"]["until"]), (&2.into(), &until.clone().into()));

    let again = api.operate("POST", &format!("{IRIS}/promote?to=green"));
    assert_eq!((again.0, &again.1["kept"]["percent"]), (200, &2.into()));
    assert_eq!(kind(&api.operate("POST", &format!("{IRIS}/promote")).1), "nothing-to-promote");
    let (status, problem) = api.operate("POST", &format!("{IRIS}/drain?colour=blue&timeout=1s"));
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert_eq!(status, 409, "{problem}");
    let expected =
        format!("it keeps 2 % of the traffic until {until}, for the guard to compare with: PATCH canary_percent=0");
    assert!(detail.contains(&expected), "{detail}");

    let ended = api.operate("PATCH", &format!("{IRIS}?canary_percent=0")).1;
    assert!(ended["kept"].is_null() && ended["canary_percent"] == 0, "{ended}");
    let back = api.operate("POST", &format!("{IRIS}/rollback")).1;
    assert!(back["kept"].is_null() && back["active"] == "blue" && back["canary_percent"] == 0, "{back}");
}

#[test]
fn nothing_is_left_with_a_colour_whose_probe_fails() {
    let api = Fixture::with(&format!("{PROBE}{GUARD}"));
    // A rollback asks blue.
    let promote = || api.operate("POST", &format!("{IRIS}/promote")).1["canary_percent"].clone();
    for (status, expected) in [(500, 0), (200, 2)] {
        api.will_reply([answered(200, ""), answered(status, "")]);
        promote();
        api.operate("POST", &format!("{IRIS}/rollback"));
        api.operate("POST", &format!("{IRIS}/rollback?to=blue&force=true"));
        api.will_reply([answered(200, "")]);
        assert_eq!(promote(), expected, "blue answers {status}");
        api.operate("POST", &format!("{IRIS}/rollback?force=true"));
    }
}

#[test]
fn a_write_that_gives_nobody_traffic_asks_nobody() {
    let api = Fixture::with(PROBE);
    api.will_reply([answered(200, "")]);
    for query in ["shadow_percent=5", "canary_percent=5", "canary_percent=10", "canary_percent=0"] {
        assert_eq!(api.operate("PATCH", &format!("{IRIS}?{query}")).0, 200, "{query}");
    }
    assert_eq!(api.asked(), ["GET green /ping"]);
}

#[test]
fn force_switches_all_the_same_and_is_recorded() {
    let api = Fixture::with(&format!("{PROBE}{SMOKE}"));
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote?force=true&reason=outage")).0, 200);
    assert_eq!(api.operate("GET", &format!("{IRIS}/history")).1["changes"][0]["forced"], true);
    assert!(api.asked().is_empty());
    let viewer = api.call(&head("POST", &format!("{IRIS}/promote?force=true"), Some("view")), b"");
    assert_eq!(viewer.status, 403);
    for (value, quoted) in [("yes", "\"yes\""), ("", "\"\""), ("1", "\"1\""), ("True", "\"True\"")] {
        let (status, problem) = api.operate("POST", &format!("{IRIS}/promote?force={value}"));
        assert_eq!((status, &problem["detail"]), (422, &format!("force: {quoted} is neither true nor false.").into()));
    }
}

#[test]
fn a_switch_by_others_between_probe_and_write_is_noticed() {
    let api = Fixture::with(PROBE);
    let mut call = api.begin(&head("PATCH", &format!("{IRIS}?canary_percent=5"), Some("op")), b"").expect("allowed");
    let (cluster, green) = api.asks(&mut call);
    assert_eq!(cluster, "green");
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote?force=true")).0, 200);
    green.send(answered(200, "")).expect("it waits");
    let (cluster, blue) = api.asks(&mut call);
    assert_eq!(cluster, "blue");
    blue.send(answered(500, "")).expect("it waits");
    assert_eq!((api.drive(&mut call).expect("answered").status, api.revision()), (409, 1));
}

#[test]
fn a_write_among_many_asks_each_colour_once_and_then_happens_whatever_others_switched_meanwhile() {
    let api = Fixture::with(PROBE);
    let others = |to: &str| assert_eq!(api.operate("POST", &format!("{IRIS}/promote?to={to}&force=true")).0, 200);
    let mut call = api.begin(&head("PATCH", &format!("{IRIS}?canary_percent=5"), Some("op")), b"").expect("allowed");
    for expected in ["green", "blue"] {
        let (cluster, waiter) = api.asks(&mut call);
        assert_eq!(cluster, expected);
        others(expected);
        waiter.send(answered(200, "")).expect("it waits");
    }
    assert_eq!((api.drive(&mut call).expect("answered").status, api.revision()), (200, 3));
}

#[test]
fn a_call_that_is_given_up_while_a_colour_is_asked_changes_nothing() {
    let api = Fixture::with(PROBE);
    let mut call = api.begin(&head("POST", &format!("{IRIS}/promote"), Some("op")), b"").expect("allowed");
    let (_, green) = api.asks(&mut call);
    drop(call);
    assert!(green.is_canceled());
    assert_eq!(api.revision(), 0);
}

#[test]
fn a_required_smoke_test_stands_before_the_first_traffic() {
    let api = Fixture::with(SMOKE);
    let promote = || api.operate("POST", &format!("{IRIS}/promote"));
    assert_eq!(kind(&promote().1), "smoke-test-missing");

    api.will_reply([answered(200, r#"{"predictions": [2]}"#), answered(200, "")]);
    let (status, result) = api.operate("POST", &format!("{IRIS}/test"));
    assert_eq!((status, &result["passed"], &result["results"][0]["passed"]), (200, &false.into(), &false.into()));
    assert_eq!(result["results"][1]["passed"], true);
    assert_eq!(promote().0, 409);

    api.will_reply(passing());
    let (_, result) = api.operate("POST", &format!("{IRIS}/test"));
    assert_eq!((&result["passed"], &result["valid_until"]), (&true.into(), &"2026-11-23T16:00:00.000Z".into()));
    api.host.set_now(START.plus(Duration::from_secs(3_601)));
    assert_eq!(kind(&promote().1), "smoke-test-missing");
    api.host.set_now(START.plus(Duration::from_secs(3_600)));
    assert_eq!(promote().0, 200);
    assert!(api.asked().iter().all(|request| request.contains(" green ")));
}

#[test]
fn a_failed_test_takes_back_an_earlier_pass() {
    let api = Fixture::with(SMOKE);
    api.will_reply(passing());
    api.operate("POST", &format!("{IRIS}/test"));
    api.will_reply([HttpReply::Broken, answered(200, "")]);
    api.operate("POST", &format!("{IRIS}/test"));
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).0, 409);
}

#[test]
fn without_a_smoke_test_there_is_nothing_to_run() {
    let (status, problem) = Fixture::new().operate("POST", &format!("{IRIS}/test"));
    assert_eq!((status, kind(&problem)), (409, "no-smoke-test"));
}

#[test]
fn a_drain_waits_for_the_last_request() {
    let api = Fixture::new();
    api.operate("POST", &format!("{IRIS}/promote"));
    let in_flight = |colour, by| api.context.worker.count(0, colour, [(ColourMetric::InFlight, by)]);
    in_flight(Colour::Blue, 1);
    in_flight(Colour::Green, 7);
    let call = head("POST", &format!("{IRIS}/drain?colour=blue&timeout=30s"), Some("op"));
    let waits_until = |seconds| {
        let mut call = api.begin(&call, b"").expect("allowed");
        assert_eq!(api.drive(&mut call), None);
        api.host.pass(Duration::from_secs(seconds));
        api.host.wake_sleepers();
        api.drive(&mut call)
    };
    assert_eq!(waits_until(29), None);
    assert_eq!(waits_until(30).expect("given up").status, 409);
    let mut waiting = api.begin(&call, b"").expect("allowed");
    assert_eq!(api.drive(&mut waiting), None);
    in_flight(Colour::Blue, -1);
    assert_eq!(api.drive(&mut waiting), None, "not before a tick");
    // No clock that is set ends it.
    api.host.set_now(START.plus(Duration::from_secs(3_600)));
    api.host.pass(Duration::from_secs(29));
    api.context.worker.tick(&*api.host, &api.context.deployments);
    api.host.wake_sleepers();
    let response = api.drive(&mut waiting).expect("drained");
    let shown: serde_json::Value = json::from_slice(&response.body).expect("JSON");
    assert_eq!((response.status, &shown["colours"]["blue"]["safe_to_stop"]), (200, &true.into()));
}

#[test]
fn a_drain_that_time_will_not_help_is_refused_at_once() {
    let api = Fixture::with(BAKE);
    let (status, problem) = api.operate("POST", &format!("{IRIS}/drain?colour=blue"));
    assert_eq!((status, kind(&problem)), (409, "not-drained"));
    api.operate("POST", &format!("{IRIS}/promote"));
    api.host.set_now(START.plus(Duration::from_secs(60)));
    let (status, problem) = api.operate("POST", &format!("{IRIS}/drain?colour=blue"));
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(status == 409 && detail.contains("way back until 2026-11-23T15:10:00.000Z"), "{detail}");
    api.host.set_now(START.plus(Duration::from_secs(600)));
    assert_eq!(api.operate("POST", &format!("{IRIS}/drain?colour=blue")).0, 200);
}

#[test]
fn a_bad_drain_is_a_clear_error() {
    let api = Fixture::new();
    for (query, status) in [
        ("", 422),
        ("colour=red", 422),
        ("colour=blue&timeout=x", 422),
        ("colour=blue&timeout=1h", 422),
        ("colours=blue", 400),
    ] {
        assert_eq!(api.operate("POST", &format!("{IRIS}/drain?{query}")).0, status, "{query}");
    }
}
