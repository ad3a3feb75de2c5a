//! Which answers get the cookie of cookie stickiness.

use super::*;

/// The cookies that an answer with this head gives to a browser without one, at this share.
fn issued(share: &str, head: &[(&str, &str)]) -> Vec<String> {
    let envoy = FakeEnvoy::start();
    let sticky = format!(
        r#", "sticky": {{"cookie": {{"name": "c", "max_age": "1h"}}}}, "initial": {{"canary_percent": {share}}}"#
    );
    let exchange = infer(worker(&envoy, &config(&sticky, "")), &[]);
    let head: Vec<_> = [(":status", "200")].into_iter().chain(head.iter().copied()).collect();
    let answer = exchange.answer_with(&head);
    exchange.end();
    values(&answer, "set-cookie")
}

#[test]
fn an_answer_gets_a_cookie_while_a_canary_makes_it_matter() {
    for (share, count) in [("0", 0), ("0.01", 1), ("50", 1), ("100", 0)] {
        assert_eq!(issued(share, &[]).len(), count, "{share}");
    }
}

#[test]
fn an_answer_that_is_marked_for_shared_caches_gets_no_cookie() {
    for (head, count) in [
        (&[("cache-control", "public, max-age=60")][..], 0),
        (&[("cache-control", "max-age=60")], 0),
        (&[("cache-control", "s-maxage=60")], 0),
        (&[("cache-control", "must-revalidate"), ("cache-control", "max-age=60")], 0),
        (&[("cache-control", "max-age=60"), ("cache-control", "private")], 1),
        (&[("cache-control", "no-store")], 1),
        (&[("x-cache-control", "public")], 1),
    ] {
        assert_eq!(issued("50", head).len(), count, "{head:?}");
    }
    let beside = issued("50", &[("set-cookie", "a=1")]);
    assert_eq!((beside.len(), beside[0].as_str()), (2, "a=1"));
}
