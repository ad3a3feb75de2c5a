//! MLflow's deliveries, signed and not.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use std::collections::BTreeMap;

use base64::Engine;
use hmac::{KeyInit, Mac};

use super::*;
use crate::json;
use crate::routing::matching::RequestHeaders;
use crate::store::Store;
use crate::store::key::Key;

const PATH: &str = "/bluegreen/v1/mlflow/webhook";
const BODY: &str = r#"{"entity": "model_version_alias", "action": "created", "timestamp": "2026-11-23T15:00:00.000000+00:00", "data": {"name": "my-model", "alias": "production", "version": "2"}}"#;
const SECRET: &str = "the webhook's secret";

pub struct Headers(pub BTreeMap<&'static str, String>);

impl RequestHeaders for Headers {
    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        self.header(name)
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name).map(|value| value.clone().into_bytes())
    }
}

/// A delivery as MLflow sends it.
pub struct Sent {
    id: &'static str,
    secret: &'static str,
    seconds_ago: i64,
    body: &'static str,
}

impl Default for Sent {
    fn default() -> Self {
        Self { id: "a", secret: SECRET, seconds_ago: 0, body: BODY }
    }
}

impl Sent {
    pub fn headers(&self) -> Headers {
        let timestamp = (START.as_millis() as i64 / 1_000 - self.seconds_ago).to_string();
        let mut mac = hmac::Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("any length");
        mac.update(format!("{}.{timestamp}.{}", self.id, self.body).as_bytes());
        let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
        Headers(BTreeMap::from([
            ("x-mlflow-delivery-id", self.id.to_owned()),
            ("x-mlflow-timestamp", timestamp),
            ("x-mlflow-signature", format!("v1,{signature}")),
            ("x-bluegreen-webhook-secret", SECRET.to_owned()),
        ]))
    }
}

fn api() -> Fixture {
    Fixture::with(
        r#", "mlflow": {"cluster": "mlflow", "model": "my-model", "follow": {"alias": "production"}, "webhook": {},
             "colours": {"blue": {"version": "1"}, "green": {"version": "2"}}}"#,
    )
}

/// The head of a delivery.
pub fn head_of(api: &Fixture, headers: &Headers) -> Head {
    Head { delivery: Some(Delivery::read(&api.context.deployments, headers)), ..head("POST", PATH, None) }
}

fn post(api: &Fixture, headers: &Headers, body: &str) -> (u32, serde_json::Value) {
    let response = api.call(&head_of(api, headers), body.as_bytes());
    (response.status, json::from_slice(&response.body).expect("JSON"))
}

fn deliver(api: &Fixture, sent: &Sent) -> (u32, serde_json::Value) {
    post(api, &sent.headers(), sent.body)
}

fn is_triggered(api: &Fixture) -> bool {
    api.host.store.read("bluegreen/v1/iris/mlflow/woken").expect("in reach").value.is_some()
}

#[test]
fn a_signed_delivery_needs_no_token_and_has_the_registry_asked() {
    let api = api();
    assert!(api.api.is_webhook(format!("{PATH}?x").as_bytes()));
    assert!(!api.api.is_webhook(IRIS.as_bytes()));
    assert_eq!(deliver(&api, &Sent::default()), (202, serde_json::json!({"accepted": true, "asks_for": ["iris"]})));
    assert!(is_triggered(&api));
}

#[test]
fn a_delivery_about_another_model_is_taken_and_triggers_nothing() {
    let api = api();
    let sent = Sent { body: r#"{"data": {"name": "other"}}"#, ..Sent::default() };
    assert_eq!(deliver(&api, &sent), (202, serde_json::json!({"accepted": true, "asks_for": []})));
    assert!(!is_triggered(&api));
}

#[test]
fn a_delivery_that_is_not_mlflows_is_refused() {
    let api = api();
    let with = |name: &'static str, value: &str| {
        let mut headers = Sent::default().headers();
        headers.0.insert(name, value.to_owned());
        headers
    };
    let unsigned = |text: &str| with("x-mlflow-signature", text);
    let cases = [
        (unsigned(""), 401, "bad-signature"),
        (unsigned("v1,"), 401, "bad-signature"),
        (unsigned("v1,AAAA"), 401, "bad-signature"),
        (unsigned("v1,\u{e9}"), 401, "bad-signature"),
        (unsigned(Sent::default().headers().0["x-mlflow-signature"].trim_start_matches("v1,")), 401, "bad-signature"),
        (with("x-mlflow-delivery-id", "b"), 401, "bad-signature"),
        (with("x-mlflow-timestamp", "1795446001"), 401, "bad-signature"),
        (with("x-bluegreen-webhook-secret", "another"), 401, "bad-signature"),
        (with("x-bluegreen-webhook-secret", ""), 503, "webhook-secret-missing"),
        (Sent { seconds_ago: 301, ..Sent::default() }.headers(), 401, "stale-delivery"),
        (Sent { seconds_ago: -301, ..Sent::default() }.headers(), 401, "stale-delivery"),
    ];
    for (headers, status, kind) in cases {
        let (seen, problem) = post(&api, &headers, BODY);
        let expected = format!("urn:bluegreen:problem:{kind}");
        assert_eq!((seen, problem["type"].as_str()), (status, Some(expected.as_str())), "{problem}");
    }
    let (status, _) = post(&api, &Sent::default().headers(), &BODY.replace("\"2\"", "\"1\""));
    assert_eq!(status, 401);
    assert!(!is_triggered(&api));
    for seconds_ago in [300, -300] {
        let id = if seconds_ago > 0 { "old" } else { "early" };
        assert_eq!(deliver(&api, &Sent { id, seconds_ago, ..Sent::default() }).0, 202);
    }
}

#[test]
fn a_delivery_is_taken_once_and_what_was_refused_is_not_remembered() {
    let api = api();
    assert_eq!(deliver(&api, &Sent { secret: "another", ..Sent::default() }).0, 401);
    assert_eq!(deliver(&api, &Sent::default()).0, 202);
    let (status, problem) = deliver(&api, &Sent::default());
    assert_eq!((status, problem["type"].as_str()), (409, Some("urn:bluegreen:problem:replayed-delivery")));
    assert_eq!(deliver(&api, &Sent { id: "b", ..Sent::default() }).0, 202);
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten_once_the_timestamp_alone_refuses_it() {
    let api = api();
    let remembered = || {
        let stored = api.host.store.read(&Key::Deliveries.to_string()).expect("in reach").value.expect("written");
        json::from_slice::<Vec<(u64, u64)>>(&stored).expect("a list").len()
    };
    for number in 0..300 {
        let id = number.to_string().leak();
        assert_eq!(deliver(&api, &Sent { id, ..Sent::default() }).0, 202);
    }
    assert_eq!(remembered(), 256);
    api.host.set_now(START.plus(std::time::Duration::from_secs(601)));
    assert_eq!(deliver(&api, &Sent { seconds_ago: -601, ..Sent::default() }).0, 202);
    assert_eq!(remembered(), 1);
}

#[test]
fn a_store_out_of_reach_takes_nothing() {
    let api = api();
    api.host.store.set_reachable(false);
    assert_eq!(deliver(&api, &Sent::default()).0, 503);
    api.host.store.set_reachable(true);
    assert_eq!(deliver(&api, &Sent::default()).0, 202);
}

#[test]
fn without_a_webhook_section_nothing_can_be_verified() {
    let api = Fixture::new();
    assert_eq!(deliver(&api, &Sent::default()).0, 404);
    assert_eq!(api.call(&head("GET", PATH, None), b"").status, 405);
}

#[test]
fn a_secret_is_never_shown() {
    let delivery = Delivery::read(&api().context.deployments, &Sent::default().headers());
    assert!(!format!("{delivery:?}").contains(SECRET) && format!("{delivery:?}").contains("present"));
}
