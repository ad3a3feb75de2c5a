//! A colour with an authority gets requests that ask for it, as gateways need that route by host.

use anyhow::{Result, ensure};
use bluegreen_testbed::{Bootstrap, Upstream};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::json;

/// What blue's requests ask for.
const BLUE: &str = "iris-blue.ns.example.com";
/// What green's requests ask for.
const GREEN: &str = "iris-green.ns.example.com:8080";

async fn environment() -> Result<Environment> {
    let bootstrap = Bootstrap::shipped()?.deployment(IRIS, |iris| {
        iris["colours"]["blue"]["authority"] = json!(BLUE);
        iris["colours"]["green"]["authority"] = json!(GREEN);
        iris["smoke_test"] = json!({"required": false, "requests": [
            {"method": "GET", "path": "/a", "host": "a.example.com"},
            {"method": "GET", "path": "/b"},
        ]});
    });
    Environment::with(2, bootstrap).await
}

/// The hosts that the last request asked an upstream for.
fn hosts(upstream: &Upstream) -> Vec<String> {
    let seen = upstream.seen().pop();
    let values = seen.iter().flat_map(|seen| seen.values("host"));
    values.map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

#[tokio::test]
async fn each_colour_is_asked_for_its_own_authority() -> Result<()> {
    let env = environment().await?;
    for http2 in [false, true] {
        for (active, upstream, authority) in [("blue", &env.blue, BLUE), ("green", &env.green, GREEN)] {
            env.patch(&[("active", active)]).await?;
            let load = env.load()?.at_most(4);
            let report = if http2 { load.http2() } else { load }.run().await;
            report.ensure_no_failures()?;
            ensure!(report.count(active) == 4, "{active}: {:?}", report.colours());
            ensure!(hosts(upstream) == [authority], "HTTP/2 {http2}, {active}: {:?}", hosts(upstream));
        }
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn probes_and_smoke_tests_ask_for_it_unless_they_have_a_host() -> Result<()> {
    let env = environment().await?;
    let verdict = env.envoy.admin()?.test(IRIS).await?.accepted()?.json()?;
    ensure!(verdict["passed"] == true, "{verdict:#}");
    let seen = env.green.seen();
    let asked: Vec<_> = seen.iter().map(|seen| (seen.path.as_str(), seen.values("host"))).collect();
    ensure!(asked == [("/a", vec![&b"a.example.com"[..]]), ("/b", vec![GREEN.as_bytes()])], "{asked:?}");
    for (upstream, authority) in [(&env.blue, BLUE), (&env.green, GREEN)] {
        let mut probes = upstream.script_of_probes();
        let mut probe = probes.next().await?;
        ensure!(probe.head.values("host") == [authority.as_bytes()], "{:?}", probe.head);
        probe.answer(200, &[])?.end();
    }
    Ok(())
}

#[tokio::test]
async fn a_copy_carries_the_authority_of_the_active_colour() -> Result<()> {
    let env = environment().await?;
    env.patch(&[("shadow_percent", "100")]).await?;
    let answer = reqwest::get(env.envoy.url(PATH)?).await?;
    ensure!(answer.status() == 200, "{answer:?}");
    env.green.wait_for_requests(1).await?;
    let seen = (hosts(&env.blue), hosts(&env.green));
    ensure!(seen == (vec![BLUE.to_owned()], vec![format!("{BLUE}-shadow")]), "{seen:?}");
    Ok(())
}
