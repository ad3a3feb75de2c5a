//! What one caller can have this worker do, with a token and without.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

const WEBHOOK: &str = r#", "mlflow": {"cluster": "mlflow", "model": "my-model", "follow": {"alias": "production"}, "webhook": {},
    "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}}"#;

/// A call whose body never comes.
fn unfinished(api: &Fixture, head: &Head) -> Result<Flow, u32> {
    match api.api.receive(&api.context, head) {
        Ok(call) => {
            let body = std::future::pending::<Body>();
            let takes_body = call.takes_body();
            let mut flow: Flow = match takes_body {
                true => Box::pin(call.answer(Rc::clone(&api.context), body)),
                false => Box::pin(call.answer(Rc::clone(&api.context), std::future::ready(Body::Complete(Vec::new())))),
            };
            api.drive(&mut flow).map_or(Ok(flow), |response| Err(response.status))
        }
        Err(Refusal::AtOnce(response)) => Err(response.status),
        Err(Refusal::Slowly(answer)) => Ok(answer),
    }
}

#[test]
fn so_many_calls_wait_and_those_after_them_are_told_to_come_again() {
    let api = Fixture::new();
    let promote = head("POST", &format!("{IRIS}/promote"), Some("op"));
    let mut waiting: Vec<Flow> = (0..PLACES).map(|_| unfinished(&api, &promote).expect("it waits")).collect();
    let refused = api.call(&promote, b"");
    assert_eq!(refused.status, 503);
    assert!(refused.headers.contains(&("retry-after", "1".to_owned())), "{refused:?}");
    for path in ["/bluegreen/healthz", "/bluegreen/readyz"] {
        assert_eq!(unfinished(&api, &head("GET", path, None)).err(), Some(200), "{path}");
    }
    assert_eq!(unfinished(&api, &head("GET", IRIS, None)).err(), Some(401));
    waiting.pop();
    assert_eq!(api.call(&promote, b"").status, 200, "a place is free");
}

#[test]
fn no_body_is_awaited_from_a_caller_without_a_role() {
    let api = Fixture::new();
    for (method, path, token, status) in [
        ("GET", "/bluegreen/healthz", None, 200),
        ("GET", "/bluegreen/healthz", Some("op"), 200),
        ("GET", "/bluegreen/readyz", Some("wrong"), 200),
        ("POST", "/bluegreen/healthz", None, 405),
        ("POST", "/bluegreen/v1/deployments/iris/promote", None, 401),
        ("POST", "/bluegreen/v1/deployments/iris/promote", Some("view"), 403),
        ("POST", "/bluegreen/nowhere", None, 401),
        ("POST", "/bluegreen/v1/mlflow/webhook", None, 404),
    ] {
        assert_eq!(unfinished(&api, &head(method, path, token)).err(), Some(status), "{method} {path} {token:?}");
    }
}

#[test]
fn a_delivery_is_waited_for_only_when_its_head_may_be_mlflows_and_few_at_once() {
    let api = Fixture::with(WEBHOOK);
    let well_formed = webhook::Sent::default().headers();
    let mut waiting = Vec::new();
    for _ in 0..PLACES_OF_DELIVERIES {
        waiting.push(unfinished(&api, &webhook::head_of(&api, &well_formed)).expect("it waits"));
    }
    assert_eq!(unfinished(&api, &webhook::head_of(&api, &well_formed)).err(), Some(503));
    assert_eq!(api.operate("GET", IRIS).0, 200, "operators have places of their own");
    for (name, value) in [
        ("x-mlflow-signature", "v1,c2hvcnQ="),
        ("x-mlflow-signature", "v1,"),
        ("x-mlflow-delivery-id", ""),
        ("x-mlflow-timestamp", "1"),
        ("x-mlflow-timestamp", ""),
    ] {
        let mut headers = webhook::Sent::default().headers();
        headers.0.insert(name, value.to_owned());
        assert_eq!(unfinished(&api, &webhook::head_of(&api, &headers)).err(), Some(401), "{name}: {value}");
    }
}

#[test]
fn long_input_is_refused_where_its_length_shows_and_not_repeated() {
    let api = Fixture::with(WEBHOOK);
    let (names, long) = ((0..9_000).map(|place| format!("&{place}=")).collect::<String>(), "x".repeat(60_000));
    let cases = [
        ("GET", format!("/bluegreen/healthz?{names}"), None, 400),
        ("GET", format!("/bluegreen/readyz?{}", "&".repeat(60_000)), None, 200),
        ("GET", format!("/bluegreen/readyz?{long}"), None, 400),
        (long.as_str(), "/bluegreen/healthz".to_owned(), None, 405),
        ("GET", format!("/bluegreen/{long}"), Some("op"), 404),
        ("GET", format!("/bluegreen{}", "/a".repeat(30_000)), Some("op"), 404),
        ("GET", format!("/bluegreen{}", "/a".repeat(30_000)), None, 401),
        ("GET", IRIS.to_owned(), Some(long.as_str()), 401),
        ("PATCH", format!("{IRIS}?{names}"), Some("op"), 400),
        ("PATCH", format!("{IRIS}?{long}"), Some("op"), 400),
        ("PATCH", format!("{IRIS}?reason={long}"), Some("op"), 422),
        ("PATCH", format!("{IRIS}?active={long}"), Some("op"), 422),
        ("PATCH", format!("{IRIS}?canary_percent={long}"), Some("op"), 422),
        ("POST", format!("{IRIS}/drain?colour=blue&timeout={long}"), Some("op"), 422),
    ];
    for (method, path, token, status) in cases {
        let response = api.call(&head(method, &path, token), b"");
        let shown = path.get(..40).unwrap_or(&path);
        assert_eq!(response.status, status, "{shown}");
        assert!(response.body.len() < 2_000, "{shown}: {} bytes", response.body.len());
    }
}

#[test]
fn a_body_is_read_up_to_its_first_unknown_or_seventeenth_member() {
    let api = Fixture::new();
    let members = (0..4_000).map(|place| format!("\"{place}\": 1")).collect::<Vec<_>>().join(", ");
    let (status, problem) = api.operate_with("PATCH", IRIS, &format!("{{{members}}}"), None);
    assert_eq!((status, problem["type"].as_str()), (400, Some("urn:bluegreen:problem:invalid-json")), "{problem}");
}

#[test]
fn every_answer_tells_a_browser_to_keep_and_show_nothing() {
    let api = Fixture::new();
    for (path, token) in [("/bluegreen/healthz", None), (IRIS, Some("op")), (IRIS, None), ("/bluegreen/x", Some("op"))]
    {
        let answer = api.call(&head("GET", path, token), b"");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert!(answer.headers.contains(&(name, value.to_owned())), "{path} {name}");
        }
    }
}

#[test]
fn a_refused_call_leaves_a_count_and_a_right_token_is_never_waited_for() {
    let api = Fixture::new();
    for (token, times) in [(None, 3), (Some("wrong"), 200), (Some("view"), 1)] {
        for _ in 0..times {
            let call = head("POST", &format!("{IRIS}/promote"), token);
            drop(api.begin(&call, b""));
        }
    }
    for (reason, count) in [("no-token", 3), ("wrong-token", 200), ("forbidden", 1)] {
        assert_eq!(api.host.counter(&format!("bluegreen.reason.{reason}.admin_refused_total")), count, "{reason}");
    }
    assert_eq!(api.operate("POST", &format!("{IRIS}/promote")).0, 200);
}
