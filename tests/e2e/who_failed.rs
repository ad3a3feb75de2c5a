//! Who failed: an answer counts for a colour only if that colour was tried, whatever the client sees.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::bootstrap::elements;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, raw, wait};
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS};
use serde_json::{Value, json};

/// How many requests in a row that do not reach green lead back to blue.
const AFTER: u64 = 3;

/// A way in which requests for green end.
struct Case {
    name: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static [u8])],
    /// What green does.
    behaviour: Behaviour,
    /// A key of Envoy's runtime that is set meanwhile.
    runtime: Option<(&'static str, &'static str)>,
    /// What the client gets; nothing when the connection breaks.
    status: Option<u16>,
    verdict: Verdict,
}

/// For whom it counts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// For nobody: no counter of a colour moves, and there is no failover.
    Nobody,
    /// Against green, which was not reached: failover.
    Unreached,
    /// For green, as this class. It was reached: no failover.
    Served(&'static str),
}

impl Case {
    fn new(name: &'static str, path: &'static str, status: u16, verdict: Verdict) -> Self {
        let (headers, behaviour) = (&[][..], Behaviour::Answer);
        Self { name, path, headers, behaviour, runtime: None, status: Some(status), verdict }
    }

    fn with(self, headers: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { headers, ..self }
    }

    fn green(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    fn runtime(self, key: &'static str, value: &'static str) -> Self {
        Self { runtime: Some((key, value)), ..self }
    }

    fn broken(self) -> Self {
        Self { status: None, ..self }
    }
}

fn cases() -> Vec<Case> {
    use Verdict::{Nobody, Served, Unreached};
    let plain = "/invocations";
    vec![
        Case::new("an answer", plain, 200, Served("2xx")),
        Case::new("green's own 503", plain, 503, Served("5xx")).green(Behaviour::Status(503)),
        Case::new("green's own 404", plain, 404, Served("4xx")).green(Behaviour::Status(404)),
        Case::new("an answer that breaks off", plain, 200, Served("cut"))
            .green(Behaviour::BreakOff { one_in: 1 })
            .broken(),
        Case::new("fault filter before", plain, 503, Nobody).with(&[("x-front", b"on")]),
        Case::new("fault filter behind", plain, 503, Nobody).with(&[("x-behind", b"on")]),
        Case::new("fault filter, gRPC", plain, 200, Nobody)
            .with(&[("x-behind", b"on"), ("content-type", b"application/grpc")]),
        Case::new("fault filter, mapped to 200", plain, 200, Nobody).with(&[("x-behind", b"on"), ("x-map", b"200")]),
        Case::new("local rate limit", "/invocations/limited", 503, Nobody),
        Case::new("direct response", "/invocations/direct", 200, Nobody),
        Case::new("redirect by the route", "/invocations/moved", 301, Nobody),
        Case::new("no route", "/invocations/nowhere", 404, Nobody).with(&[("x-no-route", b"on")]),
        Case::new("maintenance", plain, 503, Nobody).runtime("upstream.maintenance_mode.green", "100"),
        Case::new("circuit breaker", plain, 503, Nobody).runtime("circuit_breakers.green.default.max_requests", "0"),
        Case::new("connection closed", plain, 503, Unreached).green(Behaviour::Close),
        Case::new("connection closed, mapped to 502", plain, 502, Unreached)
            .green(Behaviour::Close)
            .with(&[("x-map", b"502")]),
        Case::new("connection closed, mapped to 200", plain, 200, Unreached)
            .green(Behaviour::Close)
            .with(&[("x-map", b"200")]),
        Case::new("connection closed, gRPC", plain, 200, Unreached)
            .green(Behaviour::Close)
            .with(&[("content-type", b"application/grpc")]),
        Case::new("connection closed twice", "/invocations/retried", 503, Unreached).green(Behaviour::Close),
        Case::new("timeout", "/invocations/timeout", 504, Unreached).green(Behaviour::Hang),
        Case::new("timeout of each try", "/invocations/try", 504, Unreached).green(Behaviour::Hang),
        Case::new("idle stream", "/invocations/idle", 504, Unreached).green(Behaviour::Hang),
        Case::new("longest stream", "/invocations/longest", 504, Unreached).green(Behaviour::Hang),
    ]
}

fn fault(name: &str, header: &str) -> Value {
    json!({"name": name, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"http_status": 503, "percentage": {"numerator": 100}},
        "headers": [{"name": header, "string_match": {"exact": "on"}}],
    }})
}

/// A rate limit that lets nothing through.
fn rate_limit() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limited",
        "status": {"code": "ServiceUnavailable"},
        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": {"numerator": 100}},
        "filter_enforced": {"default_value": {"numerator": 100}},
    })
}

/// Envoy's own answers get another status where the request asks for it.
fn mapped(status: u16) -> Value {
    let wants = json!({"header": {"name": "x-map", "string_match": {"exact": status.to_string()}}});
    json!({"filter": {"header_filter": wants}, "status_code": status})
}

fn routes() -> Value {
    let to_colour = |path: &str, more: Value| {
        let mut route = json!({"cluster_header": "x-bluegreen-cluster", "timeout": "0s"});
        if let (Some(route), Value::Object(more)) = (route.as_object_mut(), more) {
            route.extend(more);
        }
        json!({"match": {"prefix": path}, "route": route})
    };
    let mut limited = to_colour("/invocations/limited", json!({}));
    limited["typed_per_filter_config"] = json!({"limit": rate_limit()});
    json!([
        limited,
        {"match": {"prefix": "/invocations/direct"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/invocations/moved"}, "redirect": {"path_redirect": "/elsewhere"}},
        to_colour("/invocations/timeout", json!({"timeout": "0.1s"})),
        to_colour("/invocations/try", json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s"}})),
        to_colour("/invocations/retried", json!({"retry_policy": {"retry_on": "5xx,reset", "num_retries": 1}})),
        to_colour("/invocations/idle", json!({"idle_timeout": "0.1s"})),
        to_colour("/invocations/longest", json!({"max_stream_duration": {"max_stream_duration": "0.1s"}})),
        {"match": {"prefix": "/invocations", "headers": [{"name": "x-no-route", "invert_match": true, "present_match": true}]},
         "route": {"cluster_header": "x-bluegreen-cluster", "timeout": "0s"}},
    ])
}

fn bootstrap() -> Result<Bootstrap> {
    let shipped = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["failover"] = json!({"after": AFTER});
        iris["bake"] = json!({"for": "10m"});
        iris["probe"] = json!({"path": "/ping", "interval": "250ms", "timeout": "1s"});
    });
    Ok(shipped.edit(|tree| {
        tree["layered_runtime"] = json!({"layers": [{"name": "admin", "admin_layer": {}}]});
        let traffic = elements(tree, "/static_resources/listeners").find(|listener| listener["name"] == "traffic");
        let manager = traffic.and_then(|listener| listener.pointer_mut("/filter_chains/0/filters/0/typed_config"));
        let Some(manager) = manager else { return };
        manager["local_reply_config"] = json!({"mappers": [mapped(502), mapped(200)]});
        manager["route_config"]["virtual_hosts"][0]["routes"] = routes();
        if let Some(filters) = manager["http_filters"].as_array_mut() {
            let limit = json!({"name": "limit", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
                "stat_prefix": "unused",
            }});
            filters.splice(1..1, [fault("behind", "x-behind"), limit]);
            filters.insert(0, fault("front", "x-front"));
        }
    }))
}

/// What was counted about green, by class, and about nobody, as `local`.
async fn counted(env: &Environment) -> Result<BTreeMap<String, u64>> {
    let samples = env.envoy.prometheus().await?;
    let mut counted = BTreeMap::new();
    for sample in samples.named("bluegreen_") {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        let key = match sample.name.as_str() {
            "bluegreen_responses_total" if label("colour") == "green" => label("class"),
            "bluegreen_requests_total" if label("colour") == "green" => "requests".to_owned(),
            "bluegreen_retries_total" if label("colour") == "green" => "retries".to_owned(),
            "bluegreen_local_replies_total" => "local".to_owned(),
            _ => continue,
        };
        if sample.value > 0.0 {
            counted.insert(key, sample.value as u64);
        }
    }
    Ok(counted)
}

/// What came on top.
fn more(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let added = |(key, count): (&String, &u64)| (key.clone(), count - before.get(key).copied().unwrap_or_default());
    after.iter().map(added).filter(|(_, count)| *count > 0).collect()
}

async fn ensure_case(env: &Environment, case: &Case) -> Result<()> {
    let name = case.name;
    env.green.behave(case.behaviour.clone());
    if let Some((key, value)) = case.runtime {
        env.envoy.tell(&format!("/runtime_modify?{key}={value}")).await?;
    }
    let before = counted(env).await?;
    let requests = if case.verdict == Verdict::Unreached { AFTER } else { AFTER + 1 };
    for _ in 0..requests {
        let answer = raw::exchange(env.envoy.traffic()?, get(case.path, case.headers)).await.ok();
        let status = answer.as_ref().map(|answer| answer.status);
        ensure!(status == case.status, "{status:?} instead of {:?}: {answer:?}", case.status);
        // An answer that green did not serve does not name green.
        let mark = answer.as_ref().and_then(|answer| answer.header("x-bluegreen-colour"));
        let expected = matches!(case.verdict, Verdict::Served(_)).then_some("green");
        ensure!(answer.is_none() || mark == expected, "marked {mark:?} instead of {expected:?}");
    }
    let of = |key: &str, count: u64| (key.to_owned(), count);
    let expected: BTreeMap<_, _> = match case.verdict {
        // The filter in front hides the request from the filter behind it, which so has nothing to count.
        Verdict::Nobody if name == "fault filter before" => BTreeMap::new(),
        Verdict::Nobody => [of("local", requests)].into(),
        Verdict::Served(class) => [of(class, requests), of("requests", requests)].into(),
        Verdict::Unreached if matches!(case.path, "/invocations/try" | "/invocations/retried") => {
            [of("5xx", requests), of("requests", requests), of("retries", requests)].into()
        }
        Verdict::Unreached => [of("5xx", requests), of("requests", requests)].into(),
    };
    let look = || async { Ok(more(&before, &counted(env).await?)) };
    wait::until(&format!("{expected:?}"), look, |added| *added == expected).await?;
    let state = env.deployment().await?;
    let active = if case.verdict == Verdict::Unreached { "blue" } else { "green" };
    ensure!(state.active == active, "{} is active: {:?}", state.active, env.newest_change().await?);
    if let Some((key, _)) = case.runtime {
        env.envoy.tell(&format!("/runtime_modify?{key}=")).await?;
    }
    if state.active == "blue" {
        let change = env.newest_change().await?;
        ensure!(change.source == "failover", "{change:?}");
        env.envoy.admin()?.promote(IRIS).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_for_a_colour_only_if_that_colour_was_tried() -> Result<()> {
    let env = Environment::with(1, bootstrap()?).await?;
    let probed = |state: &bluegreen_testbed::admin::Deployment| {
        ["blue", "green"].iter().all(|colour| state.probe(colour).is_ok_and(|probe| probe.healthy))
    };
    env.until("both healthy", probed).await?;
    // The one request that the rate limit lets through.
    raw::exchange(env.envoy.traffic()?, get("/invocations/limited", &[])).await?;
    env.envoy.admin()?.promote(IRIS).await?;
    for case in cases() {
        ensure_case(&env, &case).await.with_context(|| format!("case {}", case.name))?;
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_retry_that_hides_a_failure_is_counted_and_shown_as_a_mistake_in_the_set_up() -> Result<()> {
    let env = Environment::with(1, bootstrap()?).await?;
    env.blue.behave(Behaviour::Sometimes { status: 503, one_in: 2 });
    for _ in 0..6 {
        let answer = raw::exchange(env.envoy.traffic()?, get("/invocations/retried", &[])).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let samples = || async {
        let retries = [("deployment", IRIS), ("colour", "blue")];
        Ok(env.envoy.prometheus().await?.value("bluegreen_retries_total", &retries).unwrap_or_default())
    };
    wait::until("counted retries", samples, |retries| *retries >= 5.0).await?;
    let view = env.envoy.admin()?.get(&format!("/v1/deployments/{IRIS}")).await?.json()?;
    ensure!(view["setup"].to_string().contains("retries-hide-failures"), "{:#}", view["setup"]);
    Ok(())
}
