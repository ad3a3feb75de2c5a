//! What the admin API refuses, over real sockets, and that a refusal changes nothing.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::{ADMIN, VIEWER};
use bluegreen_testbed::raw;
use bluegreen_testbed::{Admin, Bootstrap};
use bluegreen_tests::Environment;
use bluegreen_tests::admin::ensure_problem;
use bluegreen_tests::request::admin_call;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn every_bad_request_is_refused_with_a_problem_document_and_changes_nothing() -> Result<()> {
    const P: &str = "/bluegreen/v1/deployments/iris";
    let long = format!("PATCH {P}?active=green&reason={}", "x".repeat(201));
    let cases: Vec<(&str, &[u16])> = vec![
        // Values.
        ("PATCH {P}?canary_percent=101", &[422]),
        ("PATCH {P}?canary_percent=-1", &[422]),
        ("PATCH {P}?canary_percent=0.001", &[422]),
        ("PATCH {P}?canary_percent=ten", &[422]),
        ("PATCH {P}?canary_percent=NaN", &[422]),
        ("PATCH {P}?canary_percent=", &[422]),
        ("PATCH {P}?canary_percent=99999999999999999999999", &[422]),
        ("PATCH {P}?shadow_percent=100.01", &[422]),
        ("PATCH {P}?active=red", &[422]),
        ("PATCH {P}?active=Green", &[422]),
        ("PATCH {P}?active=", &[422]),
        ("PATCH {P}?active=green&canary_percent=101", &[422]),
        (&long, &[422]),
        ("PATCH {P}?active=green&reason=two%0Alines", &[422]),
        ("PATCH {P}?active=green&reason=%1B%5B2Jcleared", &[422]),
        ("PATCH {P}?active=green&reason=zero%E2%80%8Bwidth", &[422]),
        ("PATCH {P}?active=green&reason=%E2%80%AEdesrever", &[422]),
        ("PATCH {P}", &[400, 422]),
        ("PATCH {P}?reason=nothing+else", &[400, 422]),
        // The query.
        ("PATCH {P}?actve=green", &[400]),
        ("PATCH {P}?active=green&colour=green", &[400]),
        ("PATCH {P}?active=green&active=green", &[400]),
        ("PATCH {P}?active=green&active=blue", &[400]),
        ("PATCH {P}?active=green&canary_percent=1&canary%5Fpercent=2", &[400]),
        ("PATCH {P}?active=%67reen%", &[400]),
        ("PATCH {P}?active=green&reason=%zz", &[400]),
        ("PATCH {P}?active=green&reason=%f", &[400]),
        ("PATCH {P}?active=green&reason=%ff%fe", &[400]),
        ("POST {P}/promote?active=green", &[400]),
        ("POST {P}/rollback?canary_percent=1", &[400]),
        // The path.
        ("PATCH /bluegreen/v1/deployments/IRIS?active=green", &[404]),
        ("PATCH /bluegreen/v1/deployments/rose?active=green", &[404]),
        ("PATCH /bluegreen/v1/deployments/?active=green", &[400, 404]),
        ("PATCH /bluegreen//v1/deployments/iris?active=green", &[400]),
        ("PATCH /bluegreen/v1//deployments/iris?active=green", &[400]),
        ("PATCH /bluegreen/v1/deployments/iris/?active=green", &[400, 404]),
        ("PATCH /bluegreen/v1/../v1/deployments/iris?active=green", &[400]),
        ("PATCH /bluegreen/./v1/deployments/iris?active=green", &[400]),
        ("PATCH /bluegreen/v1/deployments/rose/../iris?active=green", &[400]),
        ("PATCH /bluegreen/v1/deployments/%2e%2e/deployments/iris?active=green", &[400, 404]),
        ("PATCH /bluegreen/v1/deployments/iris%00?active=green", &[400, 404]),
        ("PATCH /bluegreen/v1/deployments/iris%2fpromote?active=green", &[400, 404]),
        ("PATCH /bluegreen/v1/deployments/%zz?active=green", &[400]),
        ("POST {P}/promote/promote", &[404]),
        ("POST {P}/demote", &[404]),
        ("POST /bluegreen/v2/deployments/iris/promote", &[404]),
        // The method.
        ("POST {P}?active=green", &[405]),
        ("PUT {P}?active=green", &[405]),
        ("DELETE {P}", &[405]),
        ("PATCH {P}/promote", &[405]),
        ("GET {P}/promote", &[405]),
        ("GET {P}/rollback", &[405]),
        ("POST {P}/history", &[405]),
        ("POST /bluegreen/v1/deployments", &[405]),
        // The state.
        ("POST {P}/rollback", &[409]),
    ];
    let env = Environment::new(2).await?;
    for (line, expected) in cases {
        let line = line.replace("{P}", P);
        let (method, path) = line.split_once(' ').context("a case without a method")?;
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, admin_call(method, path, "", b"")).await?;
        ensure!(expected.contains(&answer.status), "{line}: expected {expected:?}: {answer:?}");
        ensure_problem(&line, &answer)?;
        if answer.status == 405 {
            ensure!(answer.header("allow").is_some_and(|allow| !allow.is_empty()), "{line}: no Allow in {answer:?}");
        }
        env.ensure_untouched(&line).await?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn every_bad_body_or_condition_is_refused_and_changes_nothing() -> Result<()> {
    let env = Environment::new(2).await?;
    let path = "/bluegreen/v1/deployments/iris";
    let bodies: [(&[u8], &[u16]); 16] = [
        (b"{", &[400]),
        (b"{}x", &[400]),
        (b"[]", &[400]),
        (b"null", &[400]),
        (b"\"active=green\"", &[400]),
        (b"active=green", &[400]),
        (b"\xff\xfe", &[400]),
        (b"{\"active\": \"gr\xffen\"}", &[400]),
        (br#"{"active": "green", "active": "green"}"#, &[400]),
        (br#"{"actve": "green"}"#, &[400]),
        (br#"{"active": 1}"#, &[400, 422]),
        (br#"{"active": "red"}"#, &[422]),
        (br#"{"active": "green", "canary_percent": "ten"}"#, &[400, 422]),
        (br#"{"active": "green", "canary_percent": 100.5}"#, &[422]),
        (br#"{"active": "green", "canary_percent": 1e400}"#, &[400, 422]),
        (br#"{"active": "green", "reason": {"a": 1}}"#, &[400, 422]),
    ];
    for (body, expected) in bodies {
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, admin_call("PATCH", path, "", body)).await?;
        let sent = body.escape_ascii().to_string();
        ensure!(expected.contains(&answer.status), "{sent}: expected {expected:?}: {answer:?}");
        ensure_problem(&sent, &answer)?;
        env.ensure_untouched(&sent).await?;
    }
    // Nested deeper than any parser's stack should go.
    let deep = [b"{\"active\": ".as_slice(), &b"[".repeat(30_000)].concat();
    let answer = raw::exchange(env.envoy.listener(ADMIN)?, admin_call("PATCH", path, "", &deep)).await?;
    ensure!([400, 422].contains(&answer.status), "deeply nested: {answer:?}");
    let both = admin_call("PATCH", &format!("{path}?active=green"), "", br#"{"active": "green"}"#);
    let answer = raw::exchange(env.envoy.listener(ADMIN)?, both).await?;
    ensure!(answer.status == 400, "the same parameter in query and body: {answer:?}");
    for (condition, expected) in [
        ("\"1\"", 412),
        ("\"99999999999999999999999\"", 412),
        ("1", 400),
        ("abc", 400),
        ("\"abc\"", 412),
        ("\"", 400),
        ("", 400),
        ("\"-1\"", 412),
    ] {
        let bytes = admin_call("POST", &format!("{path}/promote"), &format!("if-match: {condition}\r\n"), b"");
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, bytes).await?;
        let sent = format!("if-match: {condition}");
        ensure!(answer.status == expected, "{sent}: expected {expected}: {answer:?}");
        ensure_problem(&sent, &answer)?;
        env.ensure_untouched(&sent).await?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn bytes_that_are_no_http_never_change_the_state() -> Result<()> {
    let env = Environment::new(2).await?;
    for bytes in [
        &b"FOO /bluegreen/v1/deployments/iris HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"[..],
        b"PATCH /bluegreen/v1/deployments/iris?active=green HTTP/9.9\r\nhost: a\r\n\r\n",
        b"PATCH /bluegreen/v1/deployments/iris?active=green HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"PATCH /bluegreen/v1/deployments/iris?active=green HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ] {
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, bytes).await;
        let refused = answer.as_ref().map_or(true, |answer| (400..500).contains(&answer.status));
        ensure!(refused, "{}: {answer:?}", bytes.escape_ascii());
        env.ensure_untouched(&bytes.escape_ascii().to_string()).await?;
    }
    env.ensure_no_trap()
}

/// Every kind of call, and whether it changes something.
const CALLS: [(&str, &str, bool); 8] = [
    ("GET", "/v1/deployments", false),
    ("GET", "/v1/deployments/iris", false),
    ("GET", "/v1/deployments/iris/history", false),
    ("GET", "/v1/deployments/iris/comparison", false),
    ("PATCH", "/v1/deployments/iris?canary_percent=1", true),
    ("POST", "/v1/deployments/iris/promote", true),
    ("POST", "/v1/deployments/iris/rollback", true),
    ("PATCH", "/v1/deployments/iris?active=blue", true),
];

async fn status(admin: &Admin, method: &str, path: &str) -> Result<u16> {
    Ok(admin.call(Method::from_bytes(method.as_bytes())?, path).send().await?.status)
}

#[tokio::test]
async fn who_may_do_what_is_decided_by_the_token() -> Result<()> {
    let env = Environment::new(2).await?;
    let operator = env.envoy.admin()?;
    for (name, admin, read, write) in [
        ("nobody", operator.anonymous(), 401, 401),
        ("a stranger", operator.token("demo-operator-token2"), 401, 401),
        ("an empty token", operator.token(""), 401, 401),
        (
            "the token's sum",
            operator.token("61112491d046c3f6f8ab801f170d9b2d0c734a17ceff60dee92123fb507cfc3f"),
            401,
            401,
        ),
        ("a viewer", operator.token(VIEWER), 200, 403),
        ("an operator", operator.clone(), 200, 200),
    ] {
        for (method, path, writes) in CALLS {
            let expected = if writes { write } else { read };
            let seen = status(&admin, method, path).await?;
            ensure!(seen == expected, "{name}: {method} {path} answered {seen} instead of {expected}");
        }
        // Without a token the answer does not show whether a deployment exists.
        let seen = status(&admin, "GET", "/v1/deployments/rose").await?;
        let expected = if read == 401 { 401 } else { 404 };
        ensure!(seen == expected, "{name}: a missing deployment answered {seen} instead of {expected}");
        let seen = status(&admin, "GET", "/healthz").await?;
        ensure!(seen == 200, "{name}: healthz answered {seen}");
    }
    let refused = operator.anonymous().get("/v1/deployments").await?;
    ensure!(refused.header("www-authenticate").is_some(), "401 without WWW-Authenticate: {:?}", refused.headers);
    Ok(())
}

#[tokio::test]
async fn other_ways_to_present_a_token_are_not_accepted() -> Result<()> {
    let env = Environment::new(2).await?;
    for authorization in
        ["demo-operator-token", "Basic demo-operator-token", "Bearer", "Bearer  ", "Bearer demo-operator-token x"]
    {
        let request = format!(
            "GET /bluegreen/v1/deployments HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: {authorization}\r\n\r\n"
        );
        let answer = raw::exchange(env.envoy.listener(ADMIN)?, request).await?;
        ensure!(answer.status == 401, "authorization: {authorization}: {answer:?}");
    }
    let in_query =
        "GET /bluegreen/v1/deployments?token=demo-operator-token HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = raw::exchange(env.envoy.listener(ADMIN)?, in_query).await?;
    ensure!(answer.status == 401, "a token in the query: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn without_tokens_only_an_open_api_admits_a_caller() -> Result<()> {
    for open in [false, true] {
        let bootstrap = Bootstrap::shipped()?.plugin(|plugin| {
            if let Some(admin) = plugin.get_mut("admin") {
                *admin = json!({"open": open});
            }
        });
        let env = Environment::with(2, bootstrap).await?;
        let admin = env.envoy.admin()?.anonymous();
        let expected = if open { 200 } else { 401 };
        for (method, path, _) in CALLS {
            let seen = status(&admin, method, path).await?;
            ensure!(seen == expected, "open: {open}: {method} {path} answered {seen}");
        }
        ensure!(status(&admin, "GET", "/healthz").await? == 200, "open: {open}: healthz");
        if open {
            let newest = env.newest_change().await?;
            ensure!(newest.by == "anonymous", "{newest:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_get_never_changes_anything() -> Result<()> {
    let env = Environment::new(2).await?;
    let admin = env.envoy.admin()?;
    for path in [
        "/v1/deployments?active=green",
        "/v1/deployments/iris?active=green&canary_percent=50",
        "/v1/deployments/iris/promote",
        "/v1/deployments/iris/rollback?reason=x",
        "/v1/deployments/iris/history?active=green",
        "/v1/deployments/iris/comparison?active=green",
        "/healthz?active=green",
    ] {
        for override_header in ["x-http-method-override", "x-method-override", "x-http-method"] {
            admin.call(Method::GET, path).header(override_header, "PATCH").send().await?;
        }
        admin.call(Method::HEAD, path).send().await?;
        admin.call(Method::OPTIONS, path).send().await?;
        env.ensure_untouched(path).await?;
    }
    env.ensure_no_trap()
}
