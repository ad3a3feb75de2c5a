//! MLflow's deliveries. The input has the id, the time as seconds from now, the signature, `good` or other bytes, each in a
//! line; the rest is the body.

#![no_main]

use std::rc::Rc;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bluegreen_core::admin::api::Head;
use bluegreen_core::admin::webhook::Delivery;
use bluegreen_core::config::Config;
use bluegreen_core::host::Host;
use bluegreen_core::routing::matching::RequestHeaders;
use bluegreen_fuzz::script::split_line;
use bluegreen_fuzz::work::bounded;
use bluegreen_fuzz::world::{World, configuration};
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    configuration(
        r#", "mlflow": {"cluster": "mlflow", "model": "iris", "follow": {"alias": "production"},
            "colours": {"blue": {"alias": "blue"}, "green": {"alias": "green"}}, "webhook": {"secret_header": "x-secret"}}"#,
        "",
    )
});

/// The headers of a delivery, as Envoy shows them.
struct Headers(Vec<(&'static str, Vec<u8>)>);

impl RequestHeaders for Headers {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    fn joined(&self, name: &str) -> Option<Vec<u8>> {
        self.header(name)
    }
}

/// How far a delivery's clock may be from Envoy's, in seconds.
const WINDOW: i64 = 300;

/// The longest id of a delivery, in bytes.
const LONGEST_ID: usize = 256;

fuzz_target!(|input: &[u8]| bounded(input, 8 << 20, 4 << 10, || run(input)));

fn run(input: &[u8]) {
    let (id, rest) = split_line(input);
    let (skew, rest) = split_line(rest);
    let (signature, body) = split_line(rest);
    let world = World::new(&CONFIG);
    let now = i64::try_from(world.host.now().as_millis() / 1_000).expect("this century");
    let skew: Option<i64> = std::str::from_utf8(skew).ok().and_then(|text| text.parse().ok());
    let timestamp = match skew {
        Some(skew) => now.saturating_add(skew).to_string().into_bytes(),
        None => b"now".to_vec(),
    };
    let right = sign(id, &timestamp, body);
    let is_signed = signature == b"good" || signature == right.as_bytes();
    let signature = if is_signed { right.into_bytes() } else { signature.to_vec() };
    let headers = Headers(vec![
        ("x-mlflow-delivery-id", id.to_vec()),
        ("x-mlflow-timestamp", timestamp),
        ("x-mlflow-signature", signature),
        ("x-secret", b"secret".to_vec()),
    ]);
    let head = Head {
        method: b"POST".to_vec(),
        path: b"/bluegreen/v1/mlflow/webhook".to_vec(),
        delivery: Some(Delivery::read(&Rc::clone(&world.context).deployments, &headers)),
        ..Head::default()
    };
    let status = |head: &Head| world.call(head, body).expect("a delivery waits for nothing").status;
    let is_recent = skew.is_some_and(|skew| skew.checked_abs().is_some_and(|skew| skew <= WINDOW));
    let is_taken = is_signed && is_recent && (1..=LONGEST_ID).contains(&id.len());
    assert_eq!(status(&head) == 202, is_taken, "{head:?}");
    if is_taken {
        assert_eq!(status(&head), 409, "a delivery counts once");
    }
}

fn sign(id: &[u8], timestamp: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").expect("any length will do");
    for part in [id, b".", timestamp, b".", body] {
        mac.update(part);
    }
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}
