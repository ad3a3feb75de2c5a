//! What operators look at: metrics with labels, the comparison of both colours, one log line for each change.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::raw::Connection;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::wait;
use bluegreen_tests::request::get;
use bluegreen_tests::{Environment, IRIS, PATH};
use reqwest::Method;
use serde_json::Value;

/// The value of a metric of the deployment, by its further labels.
async fn metric(env: &Environment, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    let labels = [labels, &[("deployment", IRIS)]].concat();
    Ok(env.envoy.prometheus().await?.value(name, &labels))
}

/// Waits until a metric has a value.
async fn until_metric(env: &Environment, name: &str, labels: &[(&str, &str)], expected: f64) -> Result<()> {
    let what = format!("{name}{labels:?} = {expected}");
    let all = || async {
        let samples = env.envoy.prometheus().await?;
        let named = format!("{:?}", samples.named(name));
        Ok((metric(env, name, labels).await?, named))
    };
    wait::until(&what, all, |(value, _)| *value == Some(expected)).await?;
    Ok(())
}

#[tokio::test]
async fn prometheus_sees_requests_and_responses_by_deployment_colour_and_class() -> Result<()> {
    let env = Environment::new(4).await?;
    let admin = env.envoy.admin()?;
    env.load()?.at_most(70).run().await.ensure_no_failures()?;
    admin.promote(IRIS).await?;
    env.load()?.at_most(30).run().await.ensure_no_failures()?;
    env.green.behave(Behaviour::Status(404));
    env.load()?.at_most(5).run().await;
    env.green.behave(Behaviour::Status(503));
    env.load()?.at_most(7).run().await;

    until_metric(&env, "bluegreen_requests_total", &[("colour", "blue")], 70.0).await?;
    until_metric(&env, "bluegreen_requests_total", &[("colour", "green")], 42.0).await?;
    for (colour, class, expected) in
        [("blue", "2xx", 70.0), ("green", "2xx", 30.0), ("green", "4xx", 5.0), ("green", "5xx", 7.0)]
    {
        let labels = [("colour", colour), ("class", class)];
        until_metric(&env, "bluegreen_responses_total", &labels, expected).await?;
    }
    for (colour, expected) in [("blue", 0.0), ("green", 1.0)] {
        until_metric(&env, "bluegreen_active", &[("colour", colour)], expected).await?;
        until_metric(&env, "bluegreen_in_flight", &[("colour", colour)], 0.0).await?;
    }
    until_metric(&env, "bluegreen_revision", &[], 1.0).await?;
    let samples = env.envoy.prometheus().await?;
    let odd: Vec<_> = samples.named("bluegreen_").into_iter().filter(|sample| sample.name.contains("iris")).collect();
    ensure!(odd.is_empty(), "names that still contain a label: {odd:?}");
    Ok(())
}

#[tokio::test]
async fn requests_that_ask_for_a_colour_are_counted_apart_and_are_no_evidence() -> Result<()> {
    let env = Environment::new(4).await?;
    env.green.behave(Behaviour::Status(500));
    for (colour, count) in [("blue", 20), ("green", 30)] {
        env.load()?.header("x-bluegreen-override", colour.as_bytes())?.at_most(count).run().await;
    }
    env.load()?.at_most(10).run().await.ensure_no_failures()?;
    until_metric(&env, "bluegreen_requests_total", &[("colour", "blue")], 10.0).await?;
    for (colour, class, count) in [("blue", "2xx", 20.0), ("green", "5xx", 30.0)] {
        until_metric(&env, "bluegreen_override_requests_total", &[("colour", colour)], count).await?;
        let labels = [("colour", colour), ("class", class)];
        until_metric(&env, "bluegreen_override_responses_total", &labels, count).await?;
        until_metric(&env, "bluegreen_in_flight", &[("colour", colour)], 0.0).await?;
    }
    let green = metric(&env, "bluegreen_requests_total", &[("colour", "green")]).await?;
    ensure!(green.unwrap_or_default() == 0.0, "{green:?} ordinary requests to green");
    let comparison = env.envoy.admin()?.comparison(IRIS).await?;
    let requests = |colour: &str| comparison["windows"]["15m"]["colours"][colour]["requests"].as_f64();
    ensure!((requests("blue"), requests("green")) == (Some(10.0), Some(0.0)), "{comparison:#}");
    Ok(())
}

#[tokio::test]
async fn the_gauges_follow_the_state() -> Result<()> {
    let env = Environment::new(2).await?;
    until_metric(&env, "bluegreen_active", &[("colour", "blue")], 1.0).await?;
    let admin = env.envoy.admin()?;
    for (canary, shadow, whole, canary_points, shadow_points) in
        [("12.34", "0.5", 12.0, 1234.0, 50.0), ("100", "0", 100.0, 10_000.0, 0.0), ("0", "100", 0.0, 0.0, 10_000.0)]
    {
        admin.patch(IRIS, &[("canary_percent", canary), ("shadow_percent", shadow)]).await?.accepted()?;
        until_metric(&env, "bluegreen_canary_percent", &[], whole).await?;
        until_metric(&env, "bluegreen_canary_basis_points", &[], canary_points).await?;
        until_metric(&env, "bluegreen_shadow_basis_points", &[], shadow_points).await?;
    }
    until_metric(&env, "bluegreen_revision", &[], 3.0).await
}

#[tokio::test]
async fn in_flight_counts_what_is_under_way_and_returns_to_zero_however_it_ends() -> Result<()> {
    let env = Environment::new(2).await?;
    let address = env.envoy.traffic()?;
    let in_flight = |expected| until_metric(&env, "bluegreen_in_flight", &[("colour", "blue")], expected);

    // Waiting for an answer, streaming an answer, and still sending the request.
    let mut script = env.blue.script();
    let mut waiting = Connection::open(address).await?;
    waiting.write(get(PATH, &[])).await?;
    let waiting_upstream = script.next().await?;
    let mut streaming = Connection::open(address).await?;
    streaming.write(get(PATH, &[])).await?;
    let mut body = script.next().await?.answer(200, &[("content-type", "text/event-stream")])?;
    body.piece("data: 1\n\n").await?;
    streaming.until("data: 1").await?;
    let mut sending = Connection::open(address).await?;
    sending.write("POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345").await?;
    let sending_upstream = script.next().await?;
    in_flight(3.0).await?;

    // The clients go away.
    drop(waiting);
    in_flight(2.0).await?;
    drop(streaming);
    in_flight(1.0).await?;
    drop(sending);
    in_flight(0.0).await?;
    drop((waiting_upstream, sending_upstream));

    // The upstream breaks off: before the answer, and in its middle.
    let one = env.load()?.connections(1).at_most(1);
    env.blue.behave(Behaviour::Close);
    one.clone().run().await;
    in_flight(0.0).await?;
    let mut script = env.blue.script();
    let running = one.start();
    let mut body = script.next().await?.answer(200, &[])?;
    body.piece("half").await?;
    in_flight(1.0).await?;
    body.break_off();
    let report = running.stop().await;
    ensure!(report.failures().len() == 1, "an answer that breaks off must reach the client as a failure: {report:?}");
    in_flight(0.0).await?;

    // And after ordinary traffic.
    env.blue.behave(Behaviour::Answer);
    env.load()?.at_most(200).run().await.ensure_no_failures()?;
    in_flight(0.0).await?;
    env.ensure_no_trap()
}

#[tokio::test]
async fn a_request_that_ended_without_a_response_is_counted_as_such() -> Result<()> {
    let env = Environment::new(2).await?;
    env.blue.behave(Behaviour::Hang);
    let load = env.load()?.connections(3).at_most(3).request_timeout(Duration::from_millis(300));
    let report = load.run().await;
    ensure!(report.failures().len() == 3, "{report:?}");
    until_metric(&env, "bluegreen_responses_total", &[("colour", "blue"), ("class", "none")], 3.0).await
}

#[tokio::test]
async fn an_upstream_that_is_gone_shows_as_5xx_of_its_colour() -> Result<()> {
    let mut env = Environment::new(2).await?;
    env.blue.stop().await;
    let report = env.load()?.at_most(9).run().await;
    ensure!(report.failures().len() == 9, "{report:?}");
    ensure!(report.count("none") == 9, "nobody served Envoy's own answer: {:?}", report.colours());
    until_metric(&env, "bluegreen_responses_total", &[("colour", "blue"), ("class", "5xx")], 9.0).await
}

/// A number somewhere in the comparison, or an error that shows the whole of it.
fn number(comparison: &Value, pointer: &str) -> Result<f64> {
    let value = comparison.pointer(pointer).and_then(Value::as_f64);
    value.with_context(|| format!("{pointer} is no number in {comparison:#}"))
}

#[tokio::test]
async fn the_comparison_counts_what_was_sent_and_shows_which_colour_is_slower() -> Result<()> {
    let env = Environment::new(4).await?;
    let admin = env.envoy.admin()?;
    env.green.behave(Behaviour::Slow(Duration::from_millis(60)));
    // Requests that ask for a colour are no evidence: the split sends these.
    env.load()?.connections(8).at_most(300).run().await.ensure_no_failures()?;
    env.patch(&[("canary_percent", "100")]).await?;
    env.load()?.connections(8).at_most(80).run().await.ensure_no_failures()?;
    env.green.behave(Behaviour::Status(500));
    env.load()?.at_most(20).run().await;

    let comparison = wait::until(
        "all requests in the comparison, and a first sample of the counts",
        || admin.comparison(IRIS),
        |seen| {
            number(seen, "/windows/1m/colours/green/requests").is_ok_and(|count| count >= 100.0)
                && number(seen, "/windows/1m/seconds").is_ok_and(|seconds| seconds > 0.0)
        },
    );
    let comparison = comparison.await?;
    ensure!(comparison["name"] == IRIS && comparison["revision"] == 1, "{comparison:#}");
    for window in ["1m", "5m", "15m"] {
        let of =
            |colour: &str, field: &str| number(&comparison, &format!("/windows/{window}/colours/{colour}/{field}"));
        let counts = (of("blue", "requests")?, of("green", "requests")?);
        ensure!(counts == (300.0, 100.0), "{window}: {counts:?} in {comparison:#}");
        let errors = (of("blue", "error_rate")?, of("green", "error_rate")?);
        ensure!(errors.0 == 0.0 && (errors.1 - 0.2).abs() < 1e-9, "{window}: error rates {errors:?}");
        ensure!(of("blue", "rate")? > 0.0, "{window}: {comparison:#}");
        for time in ["ttfb_ms", "total_ms"] {
            let (p50, p95, p99) = (
                of("green", &format!("{time}/p50"))?,
                of("green", &format!("{time}/p95"))?,
                of("green", &format!("{time}/p99"))?,
            );
            ensure!(p50 <= p95 && p95 <= p99, "{window} {time}: {p50} {p95} {p99}");
            // Buckets are log-spaced, so a percentile is coarse. Green slept for 60 ms in most requests.
            ensure!((40.0..1_000.0).contains(&p50), "{window}: green's median {time} is {p50}");
            let blue = of("blue", &format!("{time}/p50"))?;
            ensure!(blue < 40.0, "{window}: blue's median {time} is {blue}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_time_to_the_first_byte_is_told_apart_from_the_whole() -> Result<()> {
    let env = Environment::new(2).await?;
    let mut script = env.blue.script();
    for _ in 0..4 {
        let running = env.load()?.connections(1).at_most(1).start();
        let mut body = script.next().await?.answer(200, &[])?;
        body.piece("first").await?;
        // The duration under test, not a synchronisation.
        tokio::time::sleep(Duration::from_millis(300)).await;
        body.piece("last").await?;
        body.end();
        running.more(1).await?;
    }
    let admin = env.envoy.admin()?;
    let blue = "/windows/1m/colours/blue";
    let comparison = wait::until(
        "four requests",
        || admin.comparison(IRIS),
        |seen| number(seen, &format!("{blue}/total_ms/p50")).is_ok_and(|p50| p50 > 0.0),
    );
    let comparison = comparison.await?;
    let ttfb = number(&comparison, &format!("{blue}/ttfb_ms/p50"))?;
    let total = number(&comparison, &format!("{blue}/total_ms/p50"))?;
    ensure!(ttfb < 150.0 && total > 200.0, "time to first byte {ttfb} ms, total {total} ms");
    Ok(())
}

#[tokio::test]
async fn without_traffic_the_comparison_has_counts_of_zero_and_no_error_rate() -> Result<()> {
    let env = Environment::new(2).await?;
    let comparison = env.envoy.admin()?.comparison(IRIS).await?;
    for window in ["1m", "5m", "15m"] {
        let green = &comparison["windows"][window]["colours"]["green"];
        ensure!(green["requests"] == 0 && green["error_rate"].is_null(), "{window}: {comparison:#}");
    }
    Ok(())
}

#[tokio::test]
async fn each_change_leaves_one_log_line_that_says_who_what_and_why() -> Result<()> {
    let env = Environment::new(4).await?;
    let admin = env.envoy.admin()?;
    admin.patch(IRIS, &[("canary_percent", "10"), ("reason", "a tenth first")]).await?.accepted()?;
    admin.promoting(IRIS).query(&[("reason", "v2 \"passed\" all")]).send().await?.accepted()?;
    admin.patch(IRIS, &[("active", "green")]).await?.accepted()?;
    let line = env.envoy.log().wait_for("revision=2").await?;
    for part in [
        "bluegreen: state changed deployment=iris revision=2 active=blue->green",
        "canary_percent=10->0",
        "shadow_percent=0->0",
        "by=demo-operator",
        "source=admin",
        "reason=",
    ] {
        ensure!(line.contains(part), "{part:?} is not in {line:?}");
    }
    let lines = env.envoy.log().lines_with("state changed");
    ensure!(lines.len() == 2, "two changes, and a patch that changed nothing: {lines:#?}");
    ensure!(lines.iter().any(|line| line.contains("a tenth first")), "{lines:#?}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_logged_for_ordinary_requests() -> Result<()> {
    let env = Environment::new(2).await?;
    let before = env.envoy.log().lines_with("bluegreen").len();
    env.load()?.at_most(500).run().await.ensure_no_failures()?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    client.request(Method::DELETE, env.envoy.url(PATH)?).send().await?;
    let lines = env.envoy.log().lines_with("bluegreen");
    ensure!(lines.len() == before, "{:#?}", lines.get(before..));
    Ok(())
}
