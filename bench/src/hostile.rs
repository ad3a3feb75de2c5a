//! What a caller without a token can make a worker do: processor time of requests that are as long as Envoy lets them be.

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bluegreen_programs::Progress;
use bluegreen_testbed::proc;
use bluegreen_testbed::raw::Connection;
use bluegreen_testbed::{Bootstrap, Envoy};
use serde_json::json;

use crate::lab::Lab;
use crate::report::{BenchReport, Table, Target};
use crate::statistics::quantile;

/// What the filter may add to a request of 64 KiB, in milliseconds.
const LIMIT_MS: f64 = 1.0;

/// A little less than what Envoy takes with `max_request_headers_kb: 64`.
const LONG: usize = 60_000;

/// A request, and the listener that it is for.
struct Input {
    name: &'static str,
    listener: &'static str,
    request: String,
}

/// The filter's share of the processor time of one request, round by round.
struct Samples {
    name: &'static str,
    with_filter_ms: Vec<f64>,
    without_ms: Vec<f64>,
}

pub async fn run(lab: &Lab) -> Result<BenchReport> {
    let (rounds, requests) = (lab.pick(1, 5), lab.pick(50, 500));
    let with_filter = bootstrap(lab, true)?;
    let without = bootstrap(lab, false)?;
    let mut samples = Vec::new();
    for input in inputs() {
        let progress = Progress::start(format!("{}: {requests} requests", input.name));
        let mut of_input = Samples { name: input.name, with_filter_ms: Vec::new(), without_ms: Vec::new() };
        for _ in 0..rounds {
            of_input.with_filter_ms.push(milliseconds(lab, &with_filter, &input, requests).await?);
            of_input.without_ms.push(milliseconds(lab, &without, &input, requests).await?);
        }
        progress.done(input.name);
        samples.push(of_input);
    }
    Ok(report(&samples, rounds, requests))
}

/// The shipped configuration with everything on that reads what a client sends, or with the filter taken out.
fn bootstrap(lab: &Lab, with_filter: bool) -> Result<Bootstrap> {
    let bootstrap = Bootstrap::shipped()?.with_cluster("blue", lab.blue).with_cluster("green", lab.green);
    let bootstrap = bootstrap.deployment("iris", |iris| {
        iris["match"]["headers"] = json!({"x-tenant": "a"});
        iris["sticky"] = json!({"cookie": {"name": "user", "max_age": "3600s"}});
        iris["initial"]["canary_percent"] = json!(10);
    });
    Ok(bootstrap.edit(|tree| {
        for listener in tree["static_resources"]["listeners"].as_array_mut().into_iter().flatten() {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            manager["max_request_headers_kb"] = json!(96);
            if let Some(filters) = manager["http_filters"].as_array_mut().filter(|_| !with_filter) {
                filters.retain(|filter| filter["name"] != "bluegreen");
            }
        }
    }))
}

fn inputs() -> Vec<Input> {
    let names = (0..9_000).fold(String::new(), |mut query, place| {
        let _ = write!(query, "&p{place}");
        query
    });
    let cookies = (0..7_000).fold(String::new(), |mut cookies, place| {
        let _ = write!(cookies, "c{place}=; ");
        cookies
    });
    let long = "x".repeat(LONG);
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let admin =
        |name, path: &str, headers: &str| Input { name, listener: "bluegreen-admin", request: get(path, headers) };
    let traffic = |name, path: &str, headers: &str| Input { name, listener: "traffic", request: get(path, headers) };
    vec![
        admin("healthz", "/bluegreen/healthz", ""),
        admin("healthz, 9,000 parameters", &format!("/bluegreen/healthz?{names}"), ""),
        admin("healthz, 60,000 times &", &format!("/bluegreen/healthz?{}", "&".repeat(LONG)), ""),
        admin("healthz, one long parameter", &format!("/bluegreen/healthz?{long}"), ""),
        admin("healthz, a long token", "/bluegreen/healthz", &format!("authorization: Bearer {long}\r\n")),
        admin("healthz, a long If-Match", "/bluegreen/healthz", &format!("if-match: {long}\r\n")),
        admin("healthz, a long Origin", "/bluegreen/healthz", &format!("origin: {long}\r\n")),
        admin("readyz, 9,000 parameters", &format!("/bluegreen/readyz?{names}"), ""),
        admin("a path of 30,000 segments", &format!("/bluegreen{}", "/a".repeat(LONG / 2)), ""),
        admin("a long path", &format!("/bluegreen/{long}"), ""),
        admin("60,000 times %", &format!("/bluegreen/{}", "%".repeat(LONG)), ""),
        traffic("a request", "/invocations", "x-tenant: a\r\n"),
        traffic("a request, a long path", &format!("/invocations/{long}"), "x-tenant: a\r\n"),
        traffic(
            "a request, a path of 30,000 segments",
            &format!("/invocations{}", "/a".repeat(LONG / 2)),
            "x-tenant: a\r\n",
        ),
        traffic("no deployment's, by a long header", "/invocations", &format!("x-tenant: {long}\r\n")),
        traffic("a request, 7,000 cookies", "/invocations", &format!("x-tenant: a\r\ncookie: {cookies}\r\n")),
        traffic("a request, a long cookie", "/invocations", &format!("x-tenant: a\r\ncookie: user={long}\r\n")),
        traffic(
            "a request, a long override",
            "/invocations",
            &format!("x-tenant: a\r\nx-bluegreen-override: {long}\r\n"),
        ),
        traffic("no deployment's, a long path", &format!("/{long}"), ""),
    ]
}

/// Processor time of Envoy for each of so many requests, one after the other.
async fn milliseconds(lab: &Lab, bootstrap: &Bootstrap, input: &Input, requests: usize) -> Result<f64> {
    let envoy = lab.start_alone(bootstrap.clone()).await?;
    let address = envoy.listener(input.listener)?;
    send(address, input, 20).await?;
    let before = proc::cpu_time(envoy.id())?;
    send(address, input, requests).await?;
    let spent = proc::cpu_time(envoy.id())?.saturating_sub(before);
    ensure_no_trap(&envoy)?;
    Ok(spent.as_secs_f64() * 1e3 / requests as f64)
}

async fn send(address: SocketAddr, input: &Input, requests: usize) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    for _ in 0..requests {
        let answer = connection.exchange(&input.request).await?;
        ensure!(answer.status < 500, "{}: {answer:?}", input.name);
        // Envoy closes a connection on which a filter has answered 400.
        if answer.headers.contains(&("connection".to_owned(), "close".to_owned())) {
            connection = Connection::open(address).await?;
        }
    }
    Ok(())
}

fn ensure_no_trap(envoy: &Envoy) -> Result<()> {
    let lines = envoy.log().lines_with("Function: proxy_on_");
    ensure!(lines.is_empty(), "the filter trapped: {lines:?}");
    Ok(())
}

fn report(samples: &[Samples], rounds: usize, requests: usize) -> BenchReport {
    let mut table =
        Table::new("Processor time of one request, in ms", &["request", "with the filter", "without", "added"]);
    let mut worst: f64 = 0.0;
    for of_input in samples {
        let median = |values: &[f64]| quantile(values, 0.5);
        let (with_filter, without) = (median(&of_input.with_filter_ms), median(&of_input.without_ms));
        let added = with_filter - without;
        worst = worst.max(added);
        table.row([
            of_input.name.to_owned(),
            format!("{with_filter:.3}"),
            format!("{without:.3}"),
            format!("{added:.3}"),
        ]);
    }
    let why = "the rows of the table say which input takes so long";
    BenchReport {
        title: "Hostile: what a caller without a token can take up".to_owned(),
        method: vec![format!(
            "{rounds} rounds of {requests} requests for each input, with headers of up to 60,000 bytes, to an Envoy with one \
             worker. The deployment has a header match, a sticky cookie, an override header and a canary."
        )],
        tables: vec![table],
        targets: vec![Target::at_most("most that the filter adds to a request of 60 KB", LIMIT_MS, worst, "ms", why)],
        notes: Vec::new(),
        measurements: samples
            .iter()
            .map(|of_input| {
                json!({"input": of_input.name, "with_filter_ms": of_input.with_filter_ms, "without_ms": of_input.without_ms})
            })
            .collect(),
    }
}
