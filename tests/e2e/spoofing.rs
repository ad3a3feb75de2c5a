//! No client can choose where its request goes, nor bring the filter down, whatever bytes it sends.

use anyhow::{Result, ensure};
use bluegreen_testbed::envoy::ADMIN;
use bluegreen_testbed::raw;
use bluegreen_testbed::seen::Seen;
use bluegreen_testbed::{Bootstrap, bootstrap};
use bluegreen_tests::request::{get, request};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// The values that a spoofer would try in a routing header.
const VALUES: [&[u8]; 8] =
    [b"green", b"GREEN", b" green ", b"green,blue", b"", b"caf\xe9", b"\xff\xfe\xfd", b"no-such-cluster"];

/// One upstream request's routing headers, as text.
fn routing_headers(seen: &Seen) -> Vec<(String, String)> {
    let of_interest = seen.headers.iter().filter(|(name, _)| name.starts_with("x-bluegreen-"));
    of_interest.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect()
}

/// Sends a request and fails unless blue, and blue alone, got it with the filter's own routing headers.
async fn ensure_goes_to_blue(env: &Environment, headers: &[(&str, &[u8])]) -> Result<()> {
    let (blue, green) = (env.blue.requests(), env.green.requests());
    let sent = format!(
        "{:?}",
        headers.iter().map(|(name, value)| (name, value.escape_ascii().to_string())).collect::<Vec<_>>()
    );
    let answer = raw::exchange(env.envoy.traffic()?, get(PATH, headers)).await?;
    ensure!(answer.status == 200 && answer.header("x-bluegreen-colour") == Some("blue"), "{sent}: {answer:?}");
    let reached = (env.blue.requests() - blue, env.green.requests() - green);
    ensure!(reached == (1, 0), "{sent}: {reached:?} requests reached blue and green");
    let seen = env.blue.seen().pop().map(|seen| routing_headers(&seen)).unwrap_or_default();
    let mut expected =
        [("x-bluegreen-cluster", "blue"), ("x-bluegreen-colour", "blue")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    expected.sort();
    let mut sorted = seen.clone();
    sorted.sort();
    ensure!(sorted == expected, "{sent}: the upstream saw {seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_cannot_choose_a_cluster_with_any_routing_header() -> Result<()> {
    for workers in [2, 4] {
        let env = Environment::new(workers).await?;
        for name in [
            "x-bluegreen-cluster",
            "X-BlueGreen-Cluster",
            "x-bluegreen-shadow",
            "X-BLUEGREEN-SHADOW",
            "x-bluegreen-colour",
            "X-Bluegreen-Colour",
        ] {
            for value in VALUES {
                ensure_goes_to_blue(&env, &[(name, value)]).await?;
                ensure_goes_to_blue(&env, &[(name, value), (name, b"green"), (name, value)]).await?;
            }
        }
        let all: Vec<(&str, &[u8])> = ["x-bluegreen-cluster", "x-bluegreen-colour", "x-bluegreen-shadow"]
            .iter()
            .flat_map(|name| VALUES.iter().map(move |value| (*name, *value)))
            .collect();
        ensure_goes_to_blue(&env, &all).await?;
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test]
async fn the_override_header_takes_exactly_blue_and_green() -> Result<()> {
    let env = Environment::new(2).await?;
    let answer = raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-bluegreen-override", b"green")])).await?;
    ensure!(answer.header("x-bluegreen-colour") == Some("green") && answer.body.contains("green"), "{answer:?}");
    let seen = env.green.seen().pop().map(|seen| routing_headers(&seen)).unwrap_or_default();
    let expected = [("x-bluegreen-cluster", "green"), ("x-bluegreen-colour", "green")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ensure!(expected.iter().all(|pair| seen.contains(pair)) && seen.len() == 2, "green saw {seen:?}");
    for value in
        [&b"GREEN"[..], b"Green", b"green,blue", b"green green", b"candidate", b"", b"1", b"caf\xe9", b"gr\xffen"]
    {
        ensure_goes_to_blue(&env, &[("x-bluegreen-override", value)]).await?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn with_tokens_the_override_takes_none_but_theirs_and_no_upstream_sees_one() -> Result<()> {
    // Of "demo-viewer", as `printf %s demo-viewer | sha256sum` prints it.
    let sum = "2c409f0dcce66d0c980ae534d1ccdc0fc6738d7fc35d803949919f4dfa3f8834";
    let env = Environment::with_deployment(2, |iris| {
        iris["override"]["tokens"] = json!([{"name": "qa", "sha256": sum}]);
    })
    .await?;
    let answer =
        raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-bluegreen-override", b"green:demo-viewer")])).await?;
    ensure!(answer.header("x-bluegreen-colour") == Some("green"), "{answer:?}");
    let seen = env.green.seen().pop().map(|seen| routing_headers(&seen)).unwrap_or_default();
    ensure!(seen.len() == 2 && seen.iter().all(|(_, value)| value == "green"), "green saw {seen:?}");
    for value in [&b"green"[..], b"green:", b"green:demo-viewer2", b"green:demo-viewe", b"green:\xff", b":demo-viewer"]
    {
        ensure_goes_to_blue(&env, &[("x-bluegreen-override", value)]).await?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn after_an_internal_redirect_the_colour_of_the_first_deployment_chooses_nothing() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?
        .edit(|tree| {
            let routes = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
            for listener in bootstrap::elements(tree, "/static_resources/listeners") {
                if let Some(routes) = listener.pointer_mut(routes).and_then(Value::as_array_mut) {
                    let policy = json!({"max_internal_redirects": 1, "redirect_response_codes": [302]});
                    let route = json!({"cluster_header": "x-bluegreen-cluster", "internal_redirect_policy": policy});
                    routes.push(json!({"match": {"prefix": "/first"}, "route": route}));
                }
            }
        })
        .plugin(|plugin| {
            let mut first = plugin["deployments"][IRIS].clone();
            // Green serves here, and blue serves iris.
            first["match"] = json!({"path_prefix": "/first"});
            first["initial"] = json!({"active": "green"});
            plugin["deployments"]["first"] = first;
        });
    let env = Environment::with(2, bootstrap).await?;
    let mut script = env.green.script();
    let address = env.envoy.traffic()?;
    for asked in [&[][..], &[("x-bluegreen-override", &b"green"[..])]] {
        let client = tokio::spawn(raw::exchange(address, get("/first", asked)));
        let mut first = script.next().await?;
        let location = format!("http://models.example{PATH}");
        first.answer(302, &[("location", &location), ("content-length", "0")])?.end();
        let answer = client.await??;
        ensure!(answer.status == 200 && answer.header("x-bluegreen-colour") == Some("blue"), "{answer:?}");
        let seen = env.blue.seen().pop().map(|seen| routing_headers(&seen)).unwrap_or_default();
        ensure!(seen.contains(&("x-bluegreen-colour".to_owned(), "blue".to_owned())), "blue saw {seen:?}");
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_request_that_no_deployment_matches_passes_with_the_listeners_seed_alone() -> Result<()> {
    let other = json!({"match": {"prefix": "/other"}, "route": {"cluster": "blue"}});
    let bootstrap = Bootstrap::shipped()?.edit(|tree| {
        for listener in bootstrap::elements(tree, "/static_resources/listeners") {
            let routes = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
            if let Some(routes) = listener.pointer_mut(routes).and_then(Value::as_array_mut) {
                routes.push(other.clone());
            }
        }
    });
    let env = Environment::with(2, bootstrap).await?;
    let headers: &[(&str, &[u8])] =
        &[("x-bluegreen-cluster", b"green"), ("x-bluegreen-colour", b"green"), ("x-bluegreen-shadow", b"green")];
    let answer = raw::exchange(env.envoy.traffic()?, get("/other", headers)).await?;
    ensure!(answer.status == 200 && answer.header("x-bluegreen-colour").is_none(), "{answer:?}");
    let seen = env.blue.seen().pop().map(|seen| routing_headers(&seen));
    let seed = ("x-bluegreen-cluster".to_owned(), "blue".to_owned());
    ensure!(seen == Some(vec![seed]), "the upstream saw {seen:?}");
    ensure!(env.green.requests() == 0, "green got {} requests", env.green.requests());
    Ok(())
}

#[tokio::test]
async fn a_path_that_only_begins_like_the_prefix_is_not_the_deployments() -> Result<()> {
    let env = Environment::new(2).await?;
    for path in ["/invocations2", "/invocation", "/", "/INVOCATIONS", "/x/invocations"] {
        let answer = raw::exchange(env.envoy.traffic()?, get(path, &[])).await?;
        ensure!(answer.status == 404, "{path}: {answer:?}");
    }
    for path in
        ["/invocations", "/invocations/", "/invocations/x", "/invocations?a=b", "//invocations", "/x/../invocations"]
    {
        let answer = raw::exchange(env.envoy.traffic()?, get(path, &[])).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_utf_8_in_any_header_do_no_harm() -> Result<()> {
    let bad: &[u8] = b"caf\xe9 \xff\xfe\x80";
    for sticky in [json!({"header": "x-user-id"}), json!({"cookie": {"name": "bluegreen", "max_age": "60s"}})] {
        let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
            iris["sticky"] = sticky.clone();
            iris["initial"]["canary_percent"] = json!(50);
            iris["initial"]["shadow_percent"] = json!(50);
        });
        let env = Environment::with(2, bootstrap).await?;
        let address = env.envoy.traffic()?;
        for name in [
            "x-user-id",
            "cookie",
            "authorization",
            "user-agent",
            "accept",
            "traceparent",
            "x-request-id",
            "content-type",
        ] {
            for _ in 0..4 {
                let answer = raw::exchange(address, get(PATH, &[(name, bad), (name, bad)])).await?;
                ensure!(answer.status == 200, "{name}: {answer:?}");
            }
        }
        let cookie = [b"bluegreen=", bad, b"; theme=dark"].concat();
        let answer = raw::exchange(address, get(PATH, &[("cookie", &cookie)])).await?;
        ensure!(answer.status == 200, "cookie value: {answer:?}");
        // Envoy itself may refuse these; the filter must survive them either way.
        for bytes in [
            request("GET", b"/invocations/caf\xe9?q=\xff", &[]),
            request("GET", b"/invocations?q=\xff\xfe", &[]),
            get(PATH, &[("host", b"caf\xe9.example")]),
            request("G\u{e9}T", PATH.as_bytes(), &[]),
        ] {
            let answer = raw::exchange(address, &bytes).await?;
            let sent = bytes.escape_ascii();
            ensure!([200, 400, 404].contains(&answer.status), "{sent}: {answer:?}");
        }
        let answer = raw::exchange(address, get(PATH, &[])).await?;
        ensure!(answer.header("x-bluegreen-colour").is_some(), "after all that: {answer:?}");
        env.ensure_no_trap()?;
    }
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_utf_8_do_no_harm_to_the_admin_api() -> Result<()> {
    let env = Environment::new(2).await?;
    let address = env.envoy.listener(ADMIN)?;
    let path = b"/bluegreen/v1/deployments/iris";
    let token: &[u8] = b"Bearer demo-operator-token";
    for (bytes, expected) in [
        (request("GET", path, &[("authorization", b"Bearer \xff\xfe")]), &[401][..]),
        (request("GET", path, &[("authorization", b"Basic \xe9")]), &[401]),
        (request("PATCH", b"/bluegreen/v1/deployments/iris?reason=caf\xe9", &[("authorization", token)]), &[400]),
        (request("PATCH", b"/bluegreen/v1/deployments/ir\xffs?active=green", &[("authorization", token)]), &[400, 404]),
        (
            request(
                "POST",
                b"/bluegreen/v1/deployments/iris/promote",
                &[("authorization", token), ("if-match", b"\"\xff\"")],
            ),
            &[400],
        ),
        (request("GET", path, &[("authorization", token), ("host", b"caf\xe9"), ("accept", b"\xff")]), &[200, 400]),
        (
            request("GET", path, &[("authorization", token), ("cookie", b"\xff"), ("x-bluegreen-colour", b"\xff")]),
            &[200],
        ),
    ] {
        let answer = raw::exchange(address, &bytes).await?;
        ensure!(expected.contains(&answer.status), "expected {expected:?}: {} -> {answer:?}", bytes.escape_ascii());
    }
    let state = env.deployment().await?;
    ensure!((state.revision, state.active.as_str()) == (0, "blue"), "a bad request changed the state: {state:?}");
    env.ensure_no_trap()
}

#[tokio::test]
async fn header_names_in_http_2_and_repeated_values_are_no_way_in_either() -> Result<()> {
    let env = Environment::new(2).await?;
    let client = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build()?;
    for value in VALUES {
        let mut call = client.get(env.envoy.url(PATH)?);
        for name in ["x-bluegreen-cluster", "x-bluegreen-shadow"] {
            for _ in 0..2 {
                call = call.header(name, reqwest::header::HeaderValue::from_bytes(value)?);
            }
        }
        let answer = call.send().await?;
        let colour = answer.headers().get("x-bluegreen-colour").cloned();
        ensure!(answer.status() == 200 && colour.as_ref().is_some_and(|colour| colour == "blue"), "{answer:?}");
    }
    ensure!(env.green.requests() == 0, "green got {} requests", env.green.requests());
    env.ensure_no_trap()
}
