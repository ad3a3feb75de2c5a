//! A canary gets its share, whatever the traffic looks like, and a user stays where the share has put them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::load::Report;
use bluegreen_testbed::raw::{self, Answer};
use bluegreen_testbed::{Bootstrap, Load};
use bluegreen_tests::request::{get, request};
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};

/// The shipped configuration with stickiness.
fn sticky(by: &Value) -> Result<Bootstrap> {
    Ok(Bootstrap::shipped()?.deployment(IRIS, |iris| iris["sticky"] = by.clone()))
}

/// `count` requests over one connection, hence to one worker.
async fn on_one_worker(env: &Environment, count: u64) -> Result<Report> {
    let report = env.load()?.connections(1).at_most(count).run().await;
    report.ensure_no_failures()?;
    report.ensure_truthful()?;
    Ok(report)
}

/// Fails unless the candidate's number of requests is off by less than two on each of these workers.
fn ensure_share(report: &Report, candidate: &str, share: f64, workers: u32) -> Result<()> {
    let target = report.records.len() as f64 * share;
    let off = (report.count(candidate) as f64 - target).abs();
    ensure!(off < f64::from(workers) * 2.0, "{:?} instead of {target} {candidate}", report.colours());
    Ok(())
}

/// Fails unless in every run of requests in a row the candidate's number differs from its share by less than two.
fn ensure_even(report: &Report, share: f64) -> Result<()> {
    // How far the candidate is ahead of its share after each request; a run's deviation is a difference of two.
    let mut ahead = vec![0.0_f64];
    for record in &report.records {
        let last = ahead.last().copied().unwrap_or_default();
        let hit = if record.colour() == Some("green") { 1.0 } else { 0.0 };
        ahead.push(last + hit - share);
    }
    let most = ahead.iter().copied().fold(f64::MIN, f64::max);
    let least = ahead.iter().copied().fold(f64::MAX, f64::min);
    ensure!(
        most - least < 2.0 - 1e-6,
        "at a share of {share} a run of requests was off by {}; in all {:?}",
        most - least,
        report.colours()
    );
    Ok(())
}

fn colour(answer: &Answer) -> Result<String> {
    Ok(answer.header("x-bluegreen-colour").with_context(|| format!("no colour: {answer:?}"))?.to_owned())
}

#[tokio::test]
async fn one_percent_is_one_of_a_hundred_on_each_worker() -> Result<()> {
    for workers in [2, 4] {
        let env = Environment::new(workers).await?;
        env.patch(&[("canary_percent", "1")]).await?;
        // Connections one after the other, so that each has its worker to itself for a while.
        for _ in 0..8 {
            let report = on_one_worker(&env, 300).await?;
            ensure_share(&report, "green", 0.01, 1)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_share_holds_in_every_run_of_requests_for_any_share() -> Result<()> {
    let env = Environment::new(2).await?;
    for percent in ["0.5", "12.5", "33.33", "50", "66.67", "99"] {
        env.patch(&[("canary_percent", percent)]).await?;
        ensure_even(&on_one_worker(&env, 600).await?, percent.parse::<f64>()? / 100.0)?;
    }
    Ok(())
}

#[tokio::test]
async fn the_smallest_step_is_one_request_in_ten_thousand() -> Result<()> {
    let env = Environment::new(2).await?;
    env.patch(&[("canary_percent", "0.01")]).await?;
    let report = on_one_worker(&env, 20_000).await?;
    ensure!(report.count("green") > 0, "{:?}", report.colours());
    ensure_share(&report, "green", 0.0001, 1)
}

#[tokio::test]
async fn over_all_workers_together_the_share_is_off_by_less_than_two_for_each_worker() -> Result<()> {
    let workers = 4;
    let env = Environment::new(workers).await?;
    env.patch(&[("canary_percent", "10")]).await?;
    let report = env.load()?.connections(12).at_most(6_000).run().await;
    report.ensure_no_failures()?;
    ensure_share(&report, "green", 0.1, workers)
}

#[tokio::test]
async fn a_small_canary_gets_its_share_of_few_requests_on_many_workers() -> Result<()> {
    let workers = 16;
    let env = Environment::new(workers).await?;
    env.patch(&[("canary_percent", "1")]).await?;
    // A new connection for each request, hence any worker.
    let mut green = 0;
    for _ in 0..1_000 {
        if colour(&raw::exchange(env.envoy.traffic()?, get(PATH, &[])).await?)? == "green" {
            green += 1;
        }
    }
    // Ten are expected with a standard deviation of √(16 × 2/6) = 2.3, as the rotation's own tests say. Up to 23 is
    // further than five of them; none at all has a chance of 1 in 10^6.
    ensure!((1..=23).contains(&green), "{green} of 1,000 requests went to green");
    Ok(())
}

/// One request of a browser on another site, with what a preflight has.
fn from_browser(method: &str, is_preflight: bool) -> Vec<u8> {
    let mut headers: Vec<(&str, &[u8])> = vec![("origin", b"https://ui.example.com")];
    if is_preflight {
        headers.push(("access-control-request-method", b"POST"));
    }
    request(method, PATH.as_bytes(), &headers)
}

#[tokio::test]
async fn calls_get_their_share_whatever_request_comes_between_two_of_them() -> Result<()> {
    let env = Environment::new(1).await?;
    let address = env.envoy.traffic()?;
    for (percent, share) in [("50", 0.5), ("25", 0.25)] {
        env.patch(&[("canary_percent", percent)]).await?;
        for is_preflight in [true, false] {
            let mut green = 0_u32;
            for _ in 0..200 {
                let first = colour(&raw::exchange(address, from_browser("OPTIONS", is_preflight)).await?)?;
                ensure!(!is_preflight || first == "blue", "a preflight went to {first}");
                let call = raw::exchange(address, from_browser("POST", false)).await?;
                green += u32::from(colour(&call)? == "green");
            }
            // Preflights take no part. Other requests do, so the calls' places are drawn: six standard deviations.
            let bound = if is_preflight { 2.0 } else { 6.0 * (200.0 * share * (1.0_f64 - share)).sqrt() };
            let off = (f64::from(green) - 200.0 * share).abs();
            ensure!(off < bound, "{percent} %: {green} of 200 calls (preflights: {is_preflight})");
        }
    }
    env.ensure_no_trap()
}

#[tokio::test]
async fn zero_is_none_and_a_hundred_is_all() -> Result<()> {
    for bootstrap in [
        Bootstrap::shipped()?,
        sticky(&json!({"header": "x-user-id"}))?,
        sticky(&json!({"cookie": {"name": "bluegreen", "max_age": "3600s"}}))?,
    ] {
        let env = Environment::with(4, bootstrap).await?;
        for (percent, expected) in [("0", "blue"), ("100", "green"), ("0", "blue")] {
            env.patch(&[("canary_percent", percent)]).await?;
            let report = env.load()?.connections(8).header("x-user-id", b"alice")?.at_most(1_000).run().await;
            report.ensure_no_failures()?;
            ensure!(report.count(expected) == 1_000, "at {percent} %: {:?}", report.colours());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_user_on_the_candidate_stays_there_while_the_share_grows() -> Result<()> {
    let env = Environment::with(4, sticky(&json!({"header": "x-user-id"}))?).await?;
    let users: Vec<_> = (0..200).map(|number| format!("user-{number}")).collect();
    let mut before = BTreeSet::new();
    for percent in ["0", "1", "10", "30", "60", "90", "100"] {
        env.patch(&[("canary_percent", percent)]).await?;
        let mut now = BTreeSet::new();
        for user in &users {
            // A new connection each time: any worker may answer, all must agree.
            let request = get(PATH, &[("x-user-id", user.as_bytes())]);
            let first = colour(&raw::exchange(env.envoy.traffic()?, &request).await?)?;
            let again = colour(&raw::exchange(env.envoy.traffic()?, &request).await?)?;
            ensure!(first == again, "{user} at {percent} %: first {first}, then {again}");
            if first == "green" {
                now.insert(user);
            }
        }
        let left = before.difference(&now).collect::<Vec<_>>();
        ensure!(left.is_empty(), "at {percent} % these fell back to the active colour: {left:?}");
        // Five standard deviations; the users and the hash are fixed, so this either always holds or never does.
        let share = percent.parse::<f64>()? / 100.0;
        let off = (now.len() as f64 - 200.0 * share).abs();
        ensure!(off <= 5.0 * (200.0 * share * (1.0 - share)).sqrt(), "{} of 200 at {percent} %", now.len());
        before = now;
    }
    Ok(())
}

#[tokio::test]
async fn a_salt_draws_other_users_and_keeps_each_where_it_is() -> Result<()> {
    let mut early = Vec::new();
    for by in [json!({"header": "x-user-id"}), json!({"header": "x-user-id", "salt": "a secret of the operators"})] {
        let env = Environment::with(4, sticky(&by)?).await?;
        env.patch(&[("canary_percent", "50")]).await?;
        let mut green = Vec::new();
        for user in 0..40 {
            let request = get(PATH, &[("x-user-id", format!("user-{user}").as_bytes())]);
            let first = colour(&raw::exchange(env.envoy.traffic()?, &request).await?)?;
            let again = colour(&raw::exchange(env.envoy.traffic()?, &request).await?)?;
            ensure!(first == again, "{user} with {by}: first {first}, then {again}");
            if first == "green" {
                green.push(user);
            }
        }
        ensure!((5..=35).contains(&green.len()), "{by}: {green:?}");
        early.push(green);
    }
    ensure!(early[0] != early[1], "the salt makes no difference: {early:?}");
    Ok(())
}

#[tokio::test]
async fn a_request_without_the_sticky_header_takes_part_in_the_rotation() -> Result<()> {
    let env = Environment::with(2, sticky(&json!({"header": "x-user-id"}))?).await?;
    env.patch(&[("canary_percent", "25")]).await?;
    ensure_even(&on_one_worker(&env, 400).await?, 0.25)
}

#[tokio::test]
async fn a_missing_cookie_is_issued_and_from_then_on_honoured() -> Result<()> {
    let env = Environment::with(4, sticky(&json!({"cookie": {"name": "visitor", "max_age": "3600s"}}))?).await?;
    env.patch(&[("canary_percent", "50")]).await?;
    let address = env.envoy.traffic()?;
    let mut values = BTreeSet::new();
    let mut colours = BTreeSet::new();
    for _ in 0..40 {
        let answer = raw::exchange(address, get(PATH, &[])).await?;
        let first = colour(&answer)?;
        let cookie = answer.header("set-cookie").with_context(|| format!("no cookie: {answer:?}"))?;
        let mut parts = cookie.split(';').map(str::trim);
        let pair = parts.next().unwrap_or_default().to_owned();
        let attributes: BTreeSet<_> = parts.collect();
        let expected = BTreeSet::from(["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=3600"]);
        ensure!(pair.starts_with("visitor=") && attributes == expected, "set-cookie: {cookie}");
        for _ in 0..3 {
            let request = get(PATH, &[("cookie", format!("theme=dark; {pair}; lang=en").as_bytes())]);
            let again = raw::exchange(address, request).await?;
            ensure!(colour(&again)? == first, "{pair} was on {first}, then: {again:?}");
            ensure!(again.header("set-cookie").is_none(), "{pair} was issued again: {again:?}");
        }
        values.insert(pair);
        colours.insert(first);
    }
    ensure!(values.len() == 40, "cookies are not distinct: {values:?}");
    ensure!(colours.len() == 2, "at 50 % all 40 visitors were on {colours:?}");
    Ok(())
}

#[tokio::test]
async fn the_cookie_is_found_in_any_of_several_cookie_lines() -> Result<()> {
    let env = Environment::with(2, sticky(&json!({"cookie": {"name": "visitor", "max_age": "60s"}}))?).await?;
    env.patch(&[("canary_percent", "50")]).await?;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build()?;
    for visitor in 0..10 {
        let pair = format!("visitor=v{visitor}");
        let alone = raw::exchange(env.envoy.traffic()?, get(PATH, &[("cookie", pair.as_bytes())])).await?;
        for lines in [["a=1", "b=2; c=3", &pair], ["a=1", &pair, "b=2"], ["a=1", &format!("b=2; {pair}"), "c=3"]] {
            let headers = lines.map(|line| ("cookie", line.as_bytes()));
            let answer = raw::exchange(env.envoy.traffic()?, get(PATH, &headers)).await?;
            ensure!(colour(&answer)? == colour(&alone)?, "{lines:?}: {answer:?} instead of {alone:?}");
            ensure!(answer.header("set-cookie").is_none(), "{lines:?}: issued again: {answer:?}");

            let request = lines.iter().fold(http2.get(env.envoy.url(PATH)?), |call, line| call.header("cookie", *line));
            let answer = request.send().await?;
            let seen = answer.headers().get("x-bluegreen-colour").and_then(|colour| colour.to_str().ok());
            ensure!(seen == Some(&*colour(&alone)?), "HTTP/2, {lines:?}: {answer:?} instead of {alone:?}");
            ensure!(answer.headers().get("set-cookie").is_none(), "HTTP/2, {lines:?}: issued again: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn of_a_sticky_header_or_an_override_that_is_given_twice_the_first_line_counts() -> Result<()> {
    let bootstrap = sticky(&json!({"header": "x-user-id"}))?;
    let env =
        Environment::with(2, bootstrap.deployment(IRIS, |iris| iris["override"] = json!({"header": "x-want"}))).await?;
    env.patch(&[("canary_percent", "50")]).await?;
    for user in 0..10 {
        let user = format!("user-{user}");
        let alone = raw::exchange(env.envoy.traffic()?, get(PATH, &[("x-user-id", user.as_bytes())])).await?;
        let twice = [("x-user-id", user.as_bytes()), ("x-user-id", b"somebody")];
        let answer = raw::exchange(env.envoy.traffic()?, get(PATH, &twice)).await?;
        ensure!(colour(&answer)? == colour(&alone)?, "{user}: {answer:?} instead of {alone:?}");
        for (first, second) in [("blue", "green"), ("green", "blue")] {
            let twice = [("x-want", first.as_bytes()), ("x-want", second.as_bytes()), ("x-user-id", user.as_bytes())];
            let answer = raw::exchange(env.envoy.traffic()?, get(PATH, &twice)).await?;
            ensure!(colour(&answer)? == first, "{first}, then {second}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_cookie_of_the_model_server_survives_beside_the_one_that_is_issued() -> Result<()> {
    let env = Environment::with(2, sticky(&json!({"cookie": {"name": "visitor", "max_age": "60s", "secure": true}}))?)
        .await?;
    // A cookie is issued only while it matters. Visitors without one go to blue at this share, but for very few.
    env.patch(&[("canary_percent", "0.01")]).await?;
    let mut script = env.blue.script();
    let address = env.envoy.traffic()?;
    let client = tokio::spawn(async move { raw::exchange(address, get(PATH, &[])).await });
    script.next().await?.answer(200, &[("set-cookie", "session=1"), ("set-cookie", "theme=dark")])?.end();
    let answer = client.await??;
    let cookies = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    let cookies: Vec<_> = cookies.map(|(_, value)| value.as_str()).collect();
    ensure!(cookies.len() == 3 && cookies.contains(&"session=1") && cookies.contains(&"theme=dark"), "{cookies:?}");
    let issued = cookies.iter().find(|cookie| cookie.starts_with("visitor=")).context("no visitor cookie")?;
    ensure!(issued.ends_with("Secure"), "{issued}");
    Ok(())
}

#[tokio::test]
async fn a_cookie_is_issued_only_while_a_canary_makes_it_matter() -> Result<()> {
    let env = Environment::with(2, sticky(&json!({"cookie": {"name": "visitor", "max_age": "60s"}}))?).await?;
    for (percent, issued) in [("0", false), ("50", true), ("100", false), ("1", true), ("0", false)] {
        env.patch(&[("canary_percent", percent)]).await?;
        let answer = raw::exchange(env.envoy.traffic()?, get(PATH, &[])).await?;
        ensure!(answer.header("set-cookie").is_some() == issued, "at {percent} %: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_marked_for_shared_caches_gets_no_cookie() -> Result<()> {
    let env = Environment::with(2, sticky(&json!({"cookie": {"name": "visitor", "max_age": "60s"}}))?).await?;
    env.patch(&[("canary_percent", "0.01")]).await?;
    let cases: [(&[(&str, &str)], bool); 7] = [
        (&[], true),
        (&[("cache-control", "public, max-age=60")], false),
        (&[("cache-control", "max-age=60")], false),
        (&[("cache-control", "must-revalidate"), ("cache-control", "s-maxage=60")], false),
        (&[("cache-control", "private, max-age=60")], true),
        (&[("cache-control", "max-age=60"), ("cache-control", "no-store")], true),
        (&[("cache-control", "no-cache")], true),
    ];
    for http2 in [false, true] {
        let client =
            if http2 { reqwest::Client::builder().http2_prior_knowledge() } else { reqwest::Client::builder() };
        let client = client.no_proxy().build()?;
        for (head, issued) in cases {
            let mut script = env.blue.script();
            let call = tokio::spawn(client.get(env.envoy.url(PATH)?).send());
            script.next().await?.answer(200, head)?.end();
            let answer = call.await??;
            let cookie = answer.headers().get("set-cookie");
            ensure!(cookie.is_some() == issued, "HTTP/2 {http2}, {head:?}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn promoting_ends_the_canary_and_a_new_one_is_counted_from_the_other_side() -> Result<()> {
    let env = Environment::new(2).await?;
    env.patch(&[("canary_percent", "10")]).await?;
    let state = env.envoy.admin()?.promote(IRIS).await?;
    ensure!((state.active.as_str(), state.canary_percent) == ("green", 0.0), "{state:?}");
    let report = Load::new(env.envoy.traffic()?, PATH).at_most(100).run().await;
    ensure!(report.count("green") == 100, "after the promote: {:?}", report.colours());
    env.patch(&[("canary_percent", "10")]).await?;
    let report = on_one_worker(&env, 200).await?;
    ensure_share(&report, "blue", 0.1, 1)
}

#[tokio::test]
async fn requests_that_ask_for_a_colour_do_not_count_towards_the_share() -> Result<()> {
    let env = Environment::new(1).await?;
    env.patch(&[("canary_percent", "10")]).await?;
    let load = env.load()?.connections(1);
    let mut green = 0;
    for _ in 0..20 {
        let asked = load.clone().header("x-bluegreen-override", b"green")?.at_most(3).run().await;
        ensure!(asked.count("green") == 3, "asked for green: {:?}", asked.colours());
        green += load.clone().at_most(10).run().await.count("green");
    }
    ensure!((19..=21).contains(&green), "{green} of 200 ordinary requests went to green instead of 20");
    Ok(())
}
