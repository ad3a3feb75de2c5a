//! What became of the requests of a canary, as each worker notes it for the guard.

use bluegreen_core::metrics::cohorts::{Bad, Cohorts, Fates, Host, Kind};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::name::DeploymentName;
use bluegreen_core::model::time::Timestamp;
use bluegreen_core::workers::recorder::gathered;
use bluegreen_core::workers::roster::Roster;

use super::*;
use crate::shared_data::SharedData;

/// Half of the requests are the candidate's.
const CANARY: &str = r#", "guard": {}, "override": {"header": "x-want"}, "initial": {"canary_percent": 50}"#;

/// What stands in shared data after the workers' next ticks.
fn noted(envoy: &FakeEnvoy) -> Cohorts {
    envoy.tick_all();
    let name = DeploymentName::new("iris").expect("valid");
    let now = Timestamp::from(crate::host::now());
    gathered(&SharedData, &Roster::read(&SharedData), &name, now)
}

/// The sums of all cohorts.
fn fates(envoy: &FakeEnvoy) -> PerColour<Fates> {
    let mut sums: PerColour<Fates> = PerColour::default();
    for cohort in noted(envoy).all() {
        for colour in Colour::ALL {
            let (sum, of) = (sums.get_mut(colour), cohort.colours.get(colour));
            sum.total += of.total;
            sum.open += of.open;
            sum.drawn += of.drawn;
            sum.firsts += of.firsts;
            sum.waiting += of.waiting;
            sum.bad.extend(&of.bad);
            sum.hosts.extend(&of.hosts);
            sum.latency.merge(&of.latency);
            sum.gone.merge(&of.gone);
        }
    }
    sums
}

/// Of one request, whichever its colour.
fn fate(envoy: &FakeEnvoy) -> Fates {
    let PerColour { blue, green } = fates(envoy);
    assert_eq!(blue.total.min(green.total), 0, "{blue:?} {green:?}");
    if blue.total > 0 { blue } else { green }
}

#[test]
fn a_request_is_noted_when_it_begins_and_what_became_of_it_when_it_ends() {
    let envoy = FakeEnvoy::start();
    envoy.set_upstream("10.0.0.1:8080");
    let exchange = infer(worker(&envoy, &config(CANARY, "")), &[]);
    let begun = fate(&envoy);
    assert_eq!((begun.total, begun.open, begun.units(), begun.waiting), (1, 1, 1, 1));
    envoy.advance(Duration::from_secs(1));
    exchange.answer("200");
    let answered = fate(&envoy);
    assert_eq!((answered.open, answered.waiting, answered.latency.total()), (1, 0, 0));
    exchange.end();
    let over = fate(&envoy);
    assert_eq!((over.open, over.latency.total(), over.hosts), (0, 1, vec![Host::of(b"10.0.0.1:8080")]));
    assert_eq!(over.bad, []);
    assert_eq!(noted(&envoy).all().len(), 1, "it is where it began");
}

#[test]
fn what_went_wrong_is_noted_with_its_kind_and_who_did_it() {
    let host = Host::of(b"10.0.0.1:8080");
    let reset = "upstream_reset_after_response_started{connection_termination}";
    // What the guard's rule counts, the status (none: no head came), the details then and at the end, and the attempts.
    let cases = [
        ("{}", "503", "via_upstream", "via_upstream", 1, Some((Kind::Failed, host))),
        ("{}", "503", "no_healthy_upstream", "no_healthy_upstream", 1, Some((Kind::Failed, host))),
        ("{}", "503", "via_upstream", "via_upstream", 3, Some((Kind::Failed, host))),
        ("{}", "200", "via_upstream", reset, 1, Some((Kind::Failed, host))),
        ("{}", "200", "via_upstream", "downstream_remote_disconnect", 1, None),
        ("{}", "200", "via_upstream", "via_upstream", 2, Some((Kind::Retried, Host::default()))),
        (r#"{"error": {"count_retries": false}}"#, "200", "via_upstream", "via_upstream", 2, None),
        ("{}", "404", "via_upstream", "via_upstream", 1, None),
        (r#"{"error": {"count_4xx": true}}"#, "404", "via_upstream", "via_upstream", 1, Some((Kind::Rejected, host))),
        ("{}", "", "", "downstream_remote_disconnect", 1, Some((Kind::Left, host))),
    ];
    for (guard, status, details, at_the_end, attempts, expected) in cases {
        let envoy = FakeEnvoy::start();
        envoy.set_upstream("10.0.0.1:8080");
        envoy.serve_from(None, attempts);
        let exchange = infer(worker(&envoy, &config(&CANARY.replace("{}", guard), "")), &[]);
        envoy.set_code_details(details);
        if !status.is_empty() {
            exchange.answer(status);
        }
        envoy.set_code_details(at_the_end);
        exchange.end();
        let fate = fate(&envoy);
        let bad = |(kind, host)| Bad { kind, host, key: None, is_unit: true, count: 1 };
        assert_eq!(fate.bad, expected.map(bad).into_iter().collect::<Vec<_>>(), "{status} {details} {at_the_end}");
        assert_eq!((fate.total, fate.open, fate.units(), fate.waiting), (1, 0, 1, 0));
    }
}

#[test]
fn who_cannot_be_blamed_is_in_no_cohort() {
    // The details, the cluster that answers, and the attempts.
    let cases = [
        ("fault_filter_abort", Some("b1"), 0),
        ("via_upstream", Some("elsewhere"), 1),
        ("upstream_reset_before_response_started{overflow}", None, 1),
    ];
    for (details, cluster, attempts) in cases {
        for has_head in [true, false] {
            let envoy = FakeEnvoy::start();
            let exchange = infer(worker(&envoy, &config(CANARY, "")), &[]);
            envoy.set_code_details(details);
            envoy.serve_from(cluster, attempts);
            if has_head {
                exchange.answer("503");
                let PerColour { blue, green } = fates(&envoy);
                assert_eq!((blue.total, green.total), (0, 0), "{details} is known by the head");
            }
            exchange.end();
            let PerColour { blue, green } = fates(&envoy);
            if has_head || cluster.is_some() {
                assert_eq!((blue, green), (Fates::default(), Fates::default()), "{details}");
            }
        }
    }
}

#[test]
fn a_request_in_whose_colour_chance_had_no_part_is_in_no_cohort() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &config(CANARY, ""));
    cluster(worker, &[("x-want", b"green")]);
    let preflight = [
        (":method", &b"OPTIONS"[..]),
        (":path", b"/invocations"),
        ("origin", b"o"),
        ("access-control-request-method", b"POST"),
    ];
    let exchange = worker.request(&preflight);
    exchange.send_headers(true);
    exchange.answer("503");
    exchange.end();
    assert!(noted(&envoy).is_empty());
    cluster(worker, &[]);
    assert_eq!(noted(&envoy).all().len(), 1);
}

#[test]
fn with_a_key_its_first_request_is_the_unit_and_another_candidate_draws_anew() {
    let envoy = FakeEnvoy::start();
    let tokens =
        format!(r#", "admin": {{"tokens": [{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#);
    let sticky = r#", "guard": {}, "sticky": {"header": "x-user"}, "initial": {"canary_percent": 50}"#;
    let worker = worker(&envoy, &config(sticky, &tokens));
    let units = |users: &[&str]| {
        users.iter().for_each(|user| drop(cluster(worker, &[("x-user", user.as_bytes())])));
        let PerColour { blue, green } = fates(&envoy);
        (blue.total + green.total, blue.firsts + green.firsts, blue.drawn + green.drawn)
    };
    assert_eq!(units(&["alice", "bob", "alice", "alice"]), (4, 2, 0));
    // Without a key the request is drawn.
    assert_eq!(units(&[""]), (5, 2, 1));
    // An operator ends the canary, and begins another.
    for body in ["0", "50"] {
        let exchange = call(worker, "PATCH", "");
        exchange.send_headers(false);
        exchange.send_body(format!(r#"{{"canary_percent": {body}}}"#).as_bytes(), true);
        assert_eq!(exchange.replies()[0].status, 200, "{:?}", exchange.replies());
        exchange.end();
    }
    assert_eq!(units(&["alice", "alice"]), (7, 3, 1));
}

#[test]
fn the_time_to_the_first_byte_is_known_with_the_head_where_that_is_compared() {
    let envoy = FakeEnvoy::start();
    let first_byte = CANARY.replace("{}", r#"{"slow": {"over": "auto", "of": "first_byte"}}"#);
    let exchange = infer(worker(&envoy, &config(&first_byte, "")), &[]);
    envoy.advance(Duration::from_millis(100));
    exchange.answer("200");
    let latency = fate(&envoy).latency;
    assert_eq!(latency.total(), 1);
    envoy.advance(Duration::from_millis(900));
    exchange.end();
    assert_eq!(fate(&envoy).latency, latency);
}

#[test]
fn what_was_noted_goes_away_with_the_canary_and_what_a_worker_leaves_behind_stays_for_a_while() {
    let envoy = FakeEnvoy::start();
    let (first, second) = (worker(&envoy, &config(CANARY, "")), worker(&envoy, &config(CANARY, "")));
    cluster(first, &[]);
    let hanging = infer(first, &[]);
    envoy.advance(Duration::from_millis(300));
    cluster(first, &[]);
    cluster(second, &[]);
    let total = |envoy: &FakeEnvoy| {
        let PerColour { blue, green } = fates(envoy);
        (blue.total + green.total, blue.open + green.open)
    };
    assert_eq!(total(&envoy), (4, 1));
    hanging.answer("200");
    first.end();
    // The stream that is under way keeps the worker.
    assert_eq!(total(&envoy), (4, 1));
    hanging.end();
    assert_eq!(total(&envoy), (4, 0));
    for _ in 0..5 {
        envoy.advance(Duration::from_secs(1));
        envoy.tick_all();
    }
    assert_eq!(envoy.shared("bluegreen/v1/iris/cohorts/1"), Some(String::new()));
    envoy.advance(Duration::from_secs(150));
    assert!(noted(&envoy).is_empty());
}
