//! Calls, well-formed and not.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::shadow::answer::Answer;
use crate::shadow::disagreements::Disagreement;
use crate::shadow::record::{Again, Trial};
use crate::testing::split;
use crate::workers::comparer::About;

#[test]
fn a_deployment_is_shown_as_documented() {
    let api = Fixture::new();
    api.operate("POST", &format!("{IRIS}/promote?reason=v2+passed%21"));
    let (status, shown) = api.operate("GET", IRIS);
    let expected = r#"{"name":"iris","revision":1,"active":"green","candidate":"blue","canary_percent":0,"shadow_percent":0,"colours":{"blue":{"cluster":"blue","version":"1","in_flight":0,"safe_to_stop":true},"green":{"cluster":"green","version":"2","in_flight":0,"safe_to_stop":false}},"in_force":{"revision":1,"confirmed":1,"of":1,"silent":[]},"workers":[{"id":1,"revision":1,"routed":0}],"changed_at":"2026-11-23T15:00:00.000Z","changed_by":"alice","source":"admin","reason":"v2 passed!","setup":[{"problem":"not-durable","detail":"the state is kept in this Envoy's memory only, and a restart begins with the configured initial, active: blue. Configure etcd or kubernetes, or put this under deployments.iris: initial: {active: green}","since":"2026-11-23T15:00:00.000Z"}]}"#;
    assert_eq!(status, 200, "{shown}");
    let response = api.call(&head("GET", IRIS, Some("view")), b"");
    assert_eq!(String::from_utf8(response.body).expect("UTF-8").trim_end(), expected);
    assert!(response.headers.contains(&("etag", "\"1\"".to_owned())));
    assert_eq!(api.operate("GET", "/bluegreen/v1/deployments").1, serde_json::json!({"deployments": [shown]}));
}

#[test]
fn a_long_list_comes_page_by_page_in_the_order_of_the_names() {
    let others = ["a", "b", "c", "d"].map(|name| {
        format!(
            r#", "{name}": {{"match": {{"path_prefix": "/{name}"}}, "colours": {{"blue": {BLUE}, "green": {GREEN}}}"#
        )
    });
    let api = Fixture::with(&format!(r#", "match": {{"path_prefix": "/iris"}}}}{}"#, others.join("}")));
    let page = |query: &str| {
        let (status, shown) = api.operate("GET", &format!("/bluegreen/v1/deployments{query}"));
        assert_eq!(status, 200, "{shown}");
        let names = shown["deployments"].as_array().expect("a list").iter();
        let names: Vec<&str> = names.map(|shown| shown["name"].as_str().expect("a name")).collect();
        (names.join(" "), shown["next"].as_str().map(str::to_owned))
    };
    let next = |name: &str| Some(name.to_owned());
    for (query, expected) in [
        ("", ("a b c d iris", None)),
        ("?limit=5", ("a b c d iris", None)),
        ("?limit=2", ("a b", next("b"))),
        ("?limit=2&after=b", ("c d", next("d"))),
        ("?limit=2&after=d", ("iris", None)),
        // One that is gone since.
        ("?limit=1&after=bb", ("c", next("c"))),
        ("?after=iris", ("", None)),
    ] {
        let (names, after) = page(query);
        assert_eq!((names.as_str(), after), expected, "{query}");
    }
    for limit in ["0", "1001", "-1", "many", ""] {
        let (status, problem) = api.operate("GET", &format!("/bluegreen/v1/deployments?limit={limit}"));
        assert_eq!((status, problem["type"].as_str()), (422, Some("urn:bluegreen:problem:invalid-value")), "{problem}");
    }
}

#[test]
fn the_history_shows_each_change_newest_first() {
    let api = Fixture::new();
    api.operate("PATCH", &format!("{IRIS}?canary_percent=0.5"));
    api.operate("POST", &format!("{IRIS}/promote"));
    let (_, history) = api.operate("GET", &format!("{IRIS}/history"));
    let newest = serde_json::json!({
        "revision": 2, "at": "2026-11-23T15:00:00.000Z", "by": "alice", "source": "admin", "reason": "",
        "from": {"active": "blue", "canary_percent": 0.5, "shadow_percent": 0},
        "to": {"active": "green", "canary_percent": 0, "shadow_percent": 0},
    });
    assert_eq!(history["changes"][0], newest);
    assert_eq!(history["changes"].as_array().map(Vec::len), Some(2));
}

#[test]
fn parameters_count_the_same_in_query_and_body() {
    let cases = [
        ("?active=green&canary_percent=12.5&shadow_percent=1", ""),
        ("", r#"{"active": "green", "canary_percent": 12.5, "shadow_percent": 1}"#),
        ("?active=green", r#" {"canary_percent": "12.50", "shadow_percent": "1"} "#),
        ("?%61ctive=gr%65en&&canary_percent=12.5&shadow_percent=1", "\n"),
    ];
    for (query, body) in cases {
        let api = Fixture::new();
        let (status, shown) = api.operate_with("PATCH", &format!("{IRIS}{query}"), body, None);
        assert_eq!(status, 200, "{query} {body}: {shown}");
        let state =
            record::load(&api.host.store, &api.context.deployments.all()[0].name, split("blue", "0", "0"), START)
                .expect("in reach")
                .state;
        assert_eq!(state.split, split("green", "12.5", "1"));
    }
}

#[test]
fn a_bad_call_is_a_clear_error_and_changes_nothing() {
    let big = "x".repeat(201);
    let cases: &[(&str, &str, &str, u32, &str)] = &[
        ("PATCH", "?active=%zz", "", 400, "malformed-query"),
        ("PATCH", "?active=%", "", 400, "malformed-query"),
        ("PATCH", "?active=%ff", "", 400, "malformed-query"),
        ("PATCH", "?active=green&active=green", "", 400, "duplicate-parameter"),
        ("PATCH", "?active=green", r#"{"active": "green"}"#, 400, "duplicate-parameter"),
        ("PATCH", "", r#"{"active": "green", "active": "blue"}"#, 400, "duplicate-parameter"),
        ("PATCH", "?activ=green", "", 400, "unknown-parameter"),
        ("POST", "/promote?canary_percent=1", "", 400, "unknown-parameter"),
        ("GET", "?active=green", "", 400, "unknown-parameter"),
        ("GET", "", r#"{"active": "green"}"#, 400, "unknown-parameter"),
        ("PATCH", "", "active=green", 400, "invalid-json"),
        ("PATCH", "", "[]", 400, "invalid-json"),
        ("PATCH", "", r#"{"active": "green"} x"#, 400, "invalid-json"),
        ("PATCH", "", "{\"active\": \"\\ud800\"}", 400, "invalid-json"),
        ("PATCH", "", "", 422, "empty-patch"),
        ("PATCH", "?reason=x", "", 422, "empty-patch"),
        ("PATCH", "?active=red", "", 422, "invalid-value"),
        ("PATCH", "?active", "", 422, "invalid-value"),
        ("PATCH", "?canary_percent=101", "", 422, "invalid-value"),
        ("PATCH", "?canary_percent=-1", "", 422, "invalid-value"),
        ("PATCH", "?canary_percent=0.001", "", 422, "invalid-value"),
        ("PATCH", "?canary_percent=NaN", "", 422, "invalid-value"),
        ("PATCH", "", r#"{"canary_percent": [1]}"#, 422, "invalid-value"),
        ("PATCH", "", r#"{"active": null}"#, 422, "invalid-value"),
        ("POST", &format!("/promote?reason={big}"), "", 422, "invalid-value"),
        ("POST", "/promote?reason=two%0Alines", "", 422, "invalid-value"),
        ("POST", "/promote?reason=%E2%80%AEdesrever", "", 422, "invalid-value"),
        ("POST", "/promote?reason=zero%E2%80%8Bwidth", "", 422, "invalid-value"),
        ("DELETE", "", "", 405, "method-not-allowed"),
        ("get", "", "", 405, "method-not-allowed"),
        ("GET", "/promote", "", 405, "method-not-allowed"),
        ("POST", "/history", "", 405, "method-not-allowed"),
        ("POST", "/rollback", "", 409, "nothing-to-roll-back-to"),
        ("POST", "/../iris/promote", "", 400, "malformed-path"),
        ("POST", "/%2e%2e/promote", "", 400, "malformed-path"),
        ("POST", "/a%2fb", "", 400, "malformed-path"),
        ("POST", "//promote", "", 400, "malformed-path"),
        ("POST", "/%/promote", "", 400, "malformed-path"),
        ("POST", "/promote/", "", 404, "unknown-path"),
        ("POST", "/Promote", "", 404, "unknown-path"),
        ("POST", "x/promote", "", 404, "unknown-deployment"),
        ("POST", "%20/promote", "", 404, "unknown-path"),
    ];
    for (method, rest, body, status, kind) in cases {
        let api = Fixture::new();
        let (seen, problem) = api.operate_with(method, &format!("{IRIS}{rest}"), body, None);
        assert_eq!(seen, *status, "{method} {rest} {body}: {problem}");
        assert_eq!(problem["type"], format!("urn:bluegreen:problem:{kind}"), "{method} {rest} {body}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
        assert_eq!(api.revision(), 0, "{method} {rest} {body}");
    }
}

#[test]
fn every_method_and_path_needs_the_role_that_it_needs() {
    let api = Fixture::new();
    let cases = [
        ("GET", "/bluegreen/healthz", [200, 200, 200, 200]),
        ("POST", "/bluegreen/healthz", [405, 405, 405, 405]),
        ("GET", "/bluegreen/v1/deployments", [401, 401, 200, 200]),
        ("GET", IRIS, [401, 401, 200, 200]),
        ("GET", "/bluegreen/v1/deployments/rose", [401, 401, 404, 404]),
        ("GET", "/bluegreen", [401, 401, 404, 404]),
        ("GET", "/bluegreen/", [401, 401, 404, 404]),
        ("GET", "/bluegreen/v2/..", [401, 401, 400, 400]),
        ("PATCH", "/bluegreen/v1/deployments/iris?canary_percent=1", [401, 401, 403, 200]),
        ("POST", "/bluegreen/v1/deployments/rose/promote", [401, 401, 403, 404]),
    ];
    for (method, path, statuses) in cases {
        for (token, status) in [None, Some("wrong"), Some("view"), Some("op")].into_iter().zip(statuses) {
            let response = api.call(&head(method, path, token), b"");
            assert_eq!(response.status, status, "{method} {path} {token:?}");
        }
    }
}

#[test]
fn an_error_carries_the_header_that_its_status_asks_for() {
    let api = Fixture::new();
    let header = |head: &Head, name: &str| {
        api.call(head, b"").headers.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    };
    assert_eq!(header(&head("GET", IRIS, None), "www-authenticate").as_deref(), Some("Bearer realm=\"bluegreen\""));
    assert_eq!(header(&head("PUT", IRIS, Some("op")), "allow").as_deref(), Some("GET, PATCH"));
    assert_eq!(header(&head("PUT", IRIS, Some("op")), "content-type").as_deref(), Some("application/problem+json"));
}

#[test]
fn of_two_writers_that_saw_the_same_revision_one_wins() {
    let api = Fixture::new();
    let path = format!("{IRIS}?canary_percent=5");
    assert_eq!(api.operate_with("PATCH", &path, "", Some("\"0\"")).0, 200);
    let (status, problem) = api.operate_with("POST", &format!("{IRIS}/promote"), "", Some("\"0\""));
    assert_eq!(status, 412);
    assert_eq!((&problem["state"]["revision"], &problem["state"]["canary_percent"]), (&1.into(), &5.into()));
    assert_eq!(api.operate_with("POST", &format!("{IRIS}/promote"), "", Some("1")).0, 400);
    assert_eq!(api.revision(), 1);
}

#[test]
fn a_write_that_changes_nothing_keeps_the_revision() {
    let api = Fixture::new();
    let (status, shown) = api.operate("PATCH", &format!("{IRIS}?active=blue&canary_percent=0"));
    assert_eq!((status, &shown["revision"]), (200, &0.into()));
}

#[test]
fn a_store_out_of_reach_is_a_503_for_reads_and_writes_and_changes_nothing() {
    let api = Fixture::new();
    api.host.store.set_reachable(false);
    for (method, path) in [("GET", ""), ("GET", "/history"), ("GET", "/comparison"), ("POST", "/promote")] {
        assert_eq!(api.operate(method, &format!("{IRIS}{path}")).0, 503, "{method} {path}");
    }
    api.host.store.set_reachable(true);
    assert_eq!(api.revision(), 0);
}

#[test]
fn the_comparison_has_all_three_periods_for_both_colours() {
    let (status, shown) = Fixture::new().operate("GET", &format!("{IRIS}/comparison"));
    assert_eq!(status, 200);
    for window in ["1m", "5m", "15m"] {
        for colour in ["blue", "green"] {
            let figures = &shown["windows"][window]["colours"][colour];
            assert_eq!(figures["requests"], 0, "{shown}");
            assert!(figures["error_rate"].is_null() && figures["ttfb_ms"]["p99"].is_null(), "{shown}");
        }
    }
}

/// Compares one answer of the candidate to this input, as a worker does.
fn compare(api: &Fixture, input: &str, active: &str, candidate: &str) {
    let (worker, deployment) = (&api.context.worker, api.context.deployments.get(0).expect("iris"));
    let rules = deployment.compare().expect("it compares");
    let about = About::now(worker.state(0).expect("iris"), rules).expect("known");
    let read = |body: &str| Answer::read(200, body.as_bytes(), None, rules).expect("readable");
    let (first, candidate) = (read(active), read(candidate));
    let took = (Duration::from_millis(2), Duration::from_millis(3));
    let trial = Trial { first: &first, candidate: &candidate, again: Again::Answered(&first), is_sample: true, took };
    assert!(worker.comparer(0, deployment).expect("iris").is_sampled(rules));
    worker.note_comparison(0, &about, |notes| {
        if let Some(difference) = notes.compared.add(&trial, rules) {
            let id = Some("7c1f");
            notes.disagreements.push(Disagreement::new(START, id, difference, input.as_bytes(), rules.keep_inputs));
        }
    });
}

#[test]
fn without_a_comparison_there_are_no_disagreements_to_show() {
    let api = Fixture::new();
    let (status, problem) = api.operate("GET", &format!("{IRIS}/disagreements"));
    assert_eq!((status, &problem["type"]), (409, &"urn:bluegreen:problem:no-comparison".into()));
    assert_eq!(problem["state"]["name"], "iris");
    assert!(api.operate("GET", &format!("{IRIS}/comparison")).1.get("shadow").is_none());
}

#[test]
fn answers_that_differ_are_shown_with_what_both_colours_said() {
    for (keep, input) in [("false", None), ("true", Some(r#"{"inputs": [[6.3, 3.3]]}"#))] {
        let api = Fixture::with(&format!(
            r#", "shadow": {{"compare": {{"keep_inputs": {keep}, "safe": [{{"method": "POST", "path_prefix": "/invocations"}}]}}}}"#
        ));
        let (status, shown) = api.operate("GET", &format!("{IRIS}/disagreements"));
        assert_eq!((status, &shown["disagreements"]), (200, &serde_json::json!([])));
        for (sent, active, candidate) in [
            (r#"{"inputs": [[1], [2]]}"#, r#"{"predictions": [1, 2]}"#, r#"{"predictions": [1, 2]}"#),
            (r#"{"inputs": [[5.6, 2.8]]}"#, r#"{"predictions": [2]}"#, r#"{"predictions": [1]}"#),
            (r#"{"inputs": [[6.3, 3.3]]}"#, r#"{"predictions": [0.5]}"#, r#"{"predictions": [0.75]}"#),
            (r#"{"inputs": [[6.3, 3.3]]}"#, r#"{"predictions": [0.25]}"#, r#"{"predictions": [0.75]}"#),
        ] {
            compare(&api, sent, active, candidate);
        }
        let (_, shown) = api.operate("GET", &format!("{IRIS}/disagreements"));
        assert_eq!((&shown["active"], &shown["candidate"]), (&"blue".into(), &"green".into()));
        let both = |place: usize| {
            let shown = &shown["disagreements"][place];
            [&shown["active"], &shown["candidate"]].map(|said| said.as_str().expect("a text").to_owned())
        };
        assert_eq!([both(1), both(0)], [["2", "1"], ["0.25", "0.75"]], "the newest is first: {shown}");
        let newest = &shown["disagreements"][0];
        assert_eq!((&newest["request_id"], &newest["again"]), (&"7c1f".into(), &"0.25".into()), "{shown}");
        assert_eq!(newest.get("input").and_then(|input| input.as_str()), input);
        assert_eq!((&newest["times"], &shown["disagreements"][1]["times"]), (&2.into(), &1.into()), "{shown}");
        let (_, shown) = api.operate("GET", &format!("{IRIS}/comparison"));
        let shadow = &shown["shadow"];
        assert_eq!((&shadow["compared"], &shadow["disagreed"]), (&4.into(), &3.into()), "{shadow}");
        assert_eq!(shadow["noise"]["rate"], 0.0, "{shadow}");
        assert_eq!(shadow["confusion"]["cells"]["2"]["1"], 1, "{shadow}");
    }
}

#[test]
fn the_api_covers_its_prefix_on_segment_boundaries() {
    let api = Fixture::new().api;
    for (path, covered) in [
        ("/bluegreen", true),
        ("/bluegreen?x", true),
        ("/bluegreen/v1/deployments", true),
        ("/bluegreenx", false),
        ("/", false),
        ("", false),
        ("/invocations?/bluegreen/", false),
    ] {
        assert_eq!(api.covers(path.as_bytes()), covered, "{path}");
    }
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_answered_and_never_change_anything_by_get(
        method in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8),
        rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        if_match in proptest::option::of(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..16)),
        known in 0..4_usize,
    ) {
        let api = Fixture::new();
        let method = ["GET", "PATCH", "POST"].get(known).map_or(method, |method| method.as_bytes().to_vec());
        for prefix in ["/bluegreen", IRIS, "/bluegreen/v1/deployments/iris?active="] {
            let mut path = prefix.as_bytes().to_vec();
            path.extend_from_slice(&rest);
            let head = Head { method: method.clone(), path, if_match: if_match.clone(), ..head("", "", Some("op")) };
            let response = api.call(&head, &body);
            proptest::prop_assert!((200..600).contains(&response.status));
            proptest::prop_assert!(crate::json::from_slice::<serde_json::Value>(&response.body).is_ok());
        }
        proptest::prop_assert!(method != b"GET" || api.revision() == 0);
    }
}
