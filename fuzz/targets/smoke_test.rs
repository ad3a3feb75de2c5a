//! What a smoke test expects, and what it gets. The first section is one of its requests, as JSON; the second the status and,
//! after a line break, the body of the answer.

#![no_main]

use bluegreen_core::config::Config;
use bluegreen_core::deployment::Deployments;
use bluegreen_core::host::http::HttpReply;
use bluegreen_core::model::colour::Colour;
use bluegreen_fuzz::script::{parts, split_line};
use bluegreen_fuzz::work::bounded;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let Ok(mut request) = serde_json::from_slice::<Value>(parts[0]) else { return };
    let (status, body) = split_line(parts.get(1).copied().unwrap_or_default());
    let status = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let Some(deployments) = configured(&request) else { return };
    let reply = HttpReply::Answered { status, body: body.to_vec() };
    bounded(input, 64 << 10, 1 << 10, || judge(&deployments, &reply, &request));

    // What stands at a pointer passes when that is what is expected.
    let Some(pointer) = request.pointer("/expect/json/pointer").and_then(Value::as_str).map(str::to_owned) else {
        return;
    };
    let Ok(document) = serde_json::from_slice::<Value>(body) else { return };
    let there = document.pointer(&pointer).cloned();
    let expected = there.clone().unwrap_or(Value::Bool(true));
    request["expect"] = json!({"status": 200, "json": {"pointer": pointer, "equals": expected}});
    let Some(deployments) = configured(&request) else { return };
    // As it is written anew: a number with more digits than a double has is read as one that is not always written the same.
    let reply = HttpReply::Answered { status: 200, body: document.to_string().into_bytes() };
    // `equals: null` is as if nothing had been said.
    assert_eq!(judge(&deployments, &reply, &request), there.is_some(), "{request} {document}");
});

fn configured(request: &Value) -> Option<Deployments> {
    let document = json!({"deployments": {"iris": {
        "colours": {"blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "green", "version": "2"}},
        "smoke_test": {"requests": [request]}}}});
    Some(Deployments::new(&Config::from_bytes(document.to_string().as_bytes()).ok()?))
}

fn judge(deployments: &Deployments, reply: &HttpReply, request: &Value) -> bool {
    let deployment = &deployments.all()[0];
    let test = deployment.smoke_test.as_ref().expect("configured");
    let outgoing = test.request(0, deployment, deployment.colours.get(Colour::Green)).expect("the first");
    for (name, value) in &outgoing.headers {
        assert!(!name.is_empty() && !value.contains(['\r', '\n', '\0']), "{name}: {value:?}");
    }
    let result = test.judge(0, reply).expect("the first");
    let shown = serde_json::to_string(&result).expect("serialises");
    let written = request.to_string().len();
    assert!(shown.len() <= 4_096 + 8 * written, "{shown}");
    result.passed
}
