//! The filter as a host sees it: what it calls, what it leaves in headers, metrics and shared data.

use std::time::Duration;

use crate::fake_host::{Exchange, FakeEnvoy, Next, Worker, values};

const TOKEN_SUM: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"; // of "test"
const STATE: &str = "bluegreen/v1/iris";

/// A configuration for `/invocations`, with more in the deployment and in the document.
fn config(in_deployment: &str, in_document: &str) -> String {
    format!(
        r#"{{"deployments": {{"iris": {{
            "match": {{"path_prefix": "/invocations"}},
            "colours": {{"blue": {{"cluster": "b1", "version": "1"}}, "green": {{"cluster": "g2", "version": "2"}}}}
            {in_deployment}}}}} {in_document}}}"#
    )
}

fn admin() -> String {
    let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
    config("", &format!(r#", "admin": {{"tokens": [{tokens}]}}"#))
}

fn worker(envoy: &FakeEnvoy, configuration: &str) -> Worker {
    envoy.worker(configuration).unwrap_or_else(|| panic!("{:?}", envoy.logs()))
}

/// The cluster that an inference request with more headers goes to.
fn cluster(worker: Worker, more: &[(&str, &[u8])]) -> String {
    let exchange = infer(worker, more);
    let clusters = exchange.request_header("x-bluegreen-cluster");
    exchange.answer("200");
    exchange.end();
    clusters.join(",")
}

fn infer(worker: Worker, more: &[(&str, &[u8])]) -> Exchange {
    let mut headers: Vec<(&str, &[u8])> = vec![(":method", b"POST"), (":path", b"/invocations"), (":authority", b"h")];
    headers.extend_from_slice(more);
    let exchange = worker.request(&headers);
    assert_eq!(exchange.send_headers(false), Next::Continue);
    exchange
}

fn call(worker: Worker, method: &str, path: &str) -> Exchange {
    let path = format!("/bluegreen/v1/deployments/iris{path}");
    let headers: [(&str, &[u8]); 3] =
        [(":method", method.as_bytes()), (":path", path.as_bytes()), ("authorization", b"Bearer test")];
    worker.request(&headers)
}

/// Makes a call without a body, and gives its status.
fn operate(worker: Worker, method: &str, path: &str) -> u32 {
    let exchange = call(worker, method, path);
    assert_eq!(exchange.send_headers(true), Next::Pause);
    let replies = exchange.replies();
    assert_eq!(replies.len(), 1, "{replies:?}");
    exchange.end();
    replies[0].status
}

mod host_calls {
    use super::*;

    /// The calls of one exchange on a worker that has seen traffic before.
    fn of_exchange(in_deployment: &str, more: &[(&str, &[u8])]) -> Vec<&'static str> {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &config(in_deployment, ""));
        cluster(worker, more);
        envoy.take_calls();
        cluster(worker, more);
        envoy.take_calls()
    }

    #[test]
    fn a_plain_exchange_makes_17() {
        let expected = [
            "get_header",       // :path
            "get_metric",       // the epoch
            "get_current_time", // the start
            "set_header",       // colour
            "remove_header",    // shadow
            "set_header",       // cluster
            "increment_metric", // requests
            "increment_metric", // in flight
            "get_header",       // :status
            "get_current_time", // the first byte
            "set_header",       // colour
            "set_header",       // version
            "increment_metric", // in flight
            "get_current_time", // the last byte
            "increment_metric", // class
            "increment_metric", // first byte
            "increment_metric", // last byte
        ];
        assert_eq!(of_exchange("", &[]), expected);
    }

    #[test]
    fn a_sticky_exchange_makes_one_more_while_a_canary_runs_and_none_otherwise() {
        let sticky = r#", "sticky": {"header": "x-user"}, "initial": {"canary_percent": 10}"#;
        assert_eq!(of_exchange(sticky, &[("x-user", b"alice")]).len(), of_exchange("", &[]).len() + 1);
        let idle = sticky.replace("10", "0");
        assert_eq!(of_exchange(&idle, &[("x-user", b"alice")]).len(), of_exchange("", &[]).len());
    }

    #[test]
    fn an_override_makes_one_more_whether_it_is_used_or_not() {
        let open = r#", "override": {"header": "x-want"}"#;
        for more in [&[][..], &[("x-want", &b"green"[..])]] {
            assert_eq!(of_exchange(open, more).len(), of_exchange("", &[]).len() + 1);
        }
    }

    #[test]
    fn a_request_without_a_deployment_makes_4_and_its_answer_none() {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &config("", ""));
        let exchange = worker.request(&[(":path", b"/other"), ("x-bluegreen-cluster", b"evil")]);
        envoy.take_calls();
        assert_eq!(exchange.send_headers(true), Next::Continue);
        exchange.answer("200");
        assert_eq!(envoy.take_calls(), ["get_header", "remove_header", "remove_header", "remove_header"]);
        assert!(exchange.request_header("x-bluegreen-cluster").is_empty());
        exchange.end();
        assert!(envoy.take_calls().is_empty());
    }

    #[test]
    fn shared_data_is_read_once_after_each_write_and_not_per_request() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        let traffic = worker(&envoy, &config("", ""));
        for _ in 0..3 {
            assert_eq!(operate(operator, "POST", "/promote"), 200);
            envoy.take_calls();
            for _ in 0..10 {
                cluster(traffic, &[]);
            }
            let reads = envoy.take_calls().into_iter().filter(|call| *call == "get_shared_data").count();
            // One for the state, and up to two when a bucket is counted in for the first time.
            assert!((1..=3).contains(&reads), "{reads}");
        }
    }
}

mod switching {
    use super::*;

    #[test]
    fn every_worker_uses_the_new_state_as_soon_as_the_write_is_answered() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        let workers = [0, 1, 2, 3].map(|_| worker(&envoy, &config("", "")));
        for (path, expected) in [("/promote", "g2"), ("/rollback", "b1"), ("/promote", "g2")] {
            assert_eq!(operate(operator, "POST", path), 200);
            assert_eq!(workers.map(|worker| cluster(worker, &[])), [expected; 4].map(str::to_owned));
        }
    }

    #[test]
    fn a_change_is_one_log_line_with_who_from_and_to() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        operate(operator, "PATCH", "?canary_percent=10&reason=a%20try");
        operate(operator, "PATCH", "?canary_percent=10");
        let changes: Vec<String> = envoy.logs().into_iter().filter(|line| line.contains("state changed")).collect();
        let expected = "bluegreen: state changed deployment=iris revision=1 active=blue->blue canary_percent=0->10 \
                        shadow_percent=0->0 by=alice source=admin reason=\"a try\"";
        assert_eq!(changes, [expected]);
    }

    #[test]
    fn the_gauges_show_the_state() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        operate(operator, "POST", "/promote");
        operate(operator, "PATCH", "?canary_percent=12.5&shadow_percent=1");
        let gauge = |name: &str| envoy.metric(&format!("bluegreen.deployment.iris.{name}")).expect(name);
        assert_eq!((gauge("colour.green.active"), gauge("colour.blue.active")), (1, 0));
        assert_eq!(
            (gauge("canary_basis_points"), gauge("canary_percent"), gauge("shadow_basis_points")),
            (1_250, 13, 100)
        );
        assert_eq!(gauge("revision"), 2);
    }

    #[test]
    fn a_configuration_push_switches_only_when_its_initial_is_another() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        operate(operator, "POST", "/promote");
        for _ in 0..4 {
            assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "g2");
        }
        let green = r#", "initial": {"active": "green"}"#;
        assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "g2");
        operate(operator, "POST", "/rollback");
        assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "b1");
        assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "b1");
        assert_eq!(cluster(worker(&envoy, &config(green, "")), &[]), "g2");
        assert!(envoy.logs().iter().any(|line| line.contains("revision=3") && line.contains("source=config")));
    }
}

mod failure {
    use super::*;

    #[test]
    fn a_refused_configuration_names_its_field() {
        let envoy = FakeEnvoy::start();
        assert!(envoy.worker(&config(r#", "initial": {"canary_percent": 101}"#, "")).is_none());
        let line = envoy.logs().pop().expect("a line");
        assert_eq!(
            line,
            "bluegreen: configuration refused: deployments.iris.initial.canary_percent: 101 is not between 0 and 100"
        );
        assert!(envoy.worker("").is_none());
    }

    #[test]
    fn while_shared_data_is_out_of_reach_requests_follow_the_last_good_state_and_writes_are_503() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        let traffic = worker(&envoy, &config("", ""));
        operate(operator, "POST", "/promote");
        assert_eq!(cluster(traffic, &[]), "g2");
        envoy.set_shared_reachable(false);
        assert_eq!(operate(operator, "POST", "/rollback"), 503);
        assert_eq!(cluster(traffic, &[]), "g2");
        assert_eq!(cluster(worker(&envoy, &config("", "")), &[]), "b1");
        envoy.set_shared_reachable(true);
        assert_eq!(operate(operator, "GET", ""), 200);
        assert_eq!(cluster(traffic, &[]), "g2");
    }

    #[test]
    fn a_foreign_value_under_our_key_is_warned_of_once_and_counted_and_the_last_good_state_stays() {
        let envoy = FakeEnvoy::start();
        let operator = worker(&envoy, &admin());
        let traffic = worker(&envoy, &config("", ""));
        operate(operator, "POST", "/promote");
        assert_eq!(cluster(traffic, &[]), "g2");
        let fresh = worker(&envoy, &config("", ""));
        envoy.put_shared(STATE, b"\xff another plugin's");
        for _ in 0..3 {
            assert_eq!(cluster(traffic, &[]), "g2");
            assert_eq!(cluster(fresh, &[]), "b1");
        }
        let warnings = envoy.logs().iter().filter(|line| line.contains("is not a state")).count();
        assert_eq!((warnings, envoy.metric("bluegreen.deployment.iris.fallbacks_total")), (1, Some(1)));
    }

    #[test]
    fn bytes_that_are_no_text_in_any_header_are_routed_like_others() {
        let everything = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}},
            "override": {"header": "x-want"}, "initial": {"canary_percent": 50}"#;
        let envoy = FakeEnvoy::start();
        let traffic = worker(&envoy, &config(everything, r#", "admin": {}"#));
        let raw: &[u8] = b"\xff\xfe\x00";
        let exchange = infer(traffic, &[("x-want", raw), ("cookie", raw), ("authorization", raw)]);
        assert_eq!(exchange.request_header("x-bluegreen-colour").len(), 1);
        for path in [&b"/bluegreen/\xff"[..], b"/bluegreen/v1/deployments/\xff?\xff=\xff"] {
            let bad = traffic.request(&[(":method", raw), (":path", path), ("if-match", raw)]);
            bad.send_headers(true);
            assert_eq!(bad.replies()[0].status, 401);
        }
    }

    #[test]
    fn a_client_never_chooses_a_cluster() {
        let envoy = FakeEnvoy::start();
        let traffic = worker(&envoy, &config("", ""));
        let evil: [(&str, &[u8]); 5] = [
            ("x-bluegreen-cluster", b"g2"),
            ("x-bluegreen-cluster", b"g2"),
            ("x-bluegreen-colour", b"green"),
            ("x-bluegreen-shadow", b"g2"),
            ("x-bluegreen-shadow", b"g2"),
        ];
        let exchange = infer(traffic, &evil);
        assert_eq!(exchange.request_header("x-bluegreen-cluster"), ["b1"]);
        assert_eq!(exchange.request_header("x-bluegreen-colour"), ["blue"]);
        assert!(exchange.request_header("x-bluegreen-shadow").is_empty());
    }
}

mod measuring {
    use super::*;

    fn metric(envoy: &FakeEnvoy, name: &str) -> u64 {
        envoy.metric(&format!("bluegreen.deployment.iris.colour.blue.{name}")).unwrap_or_default()
    }

    #[test]
    fn an_exchange_is_in_flight_until_its_stream_is_over_however_it_ends() {
        let envoy = FakeEnvoy::start();
        let traffic = worker(&envoy, &config("", ""));
        let (answered, abandoned) = (infer(traffic, &[]), infer(traffic, &[]));
        assert_eq!(metric(&envoy, "in_flight"), 2);
        answered.answer("503");
        assert_eq!(metric(&envoy, "in_flight"), 2);
        answered.end();
        abandoned.end();
        assert_eq!(metric(&envoy, "in_flight"), 0);
        let ended =
            ["class.5xx", "class.none", "class.2xx"].map(|class| metric(&envoy, &format!("{class}.responses_total")));
        assert_eq!(ended, [1, 1, 0]);
    }

    #[test]
    fn the_answer_tells_colour_and_version_whatever_the_upstream_said() {
        let envoy = FakeEnvoy::start();
        let sticky = r#", "sticky": {"cookie": {"name": "c", "max_age": "1h"}}"#;
        let exchange = infer(worker(&envoy, &config(sticky, "")), &[]);
        let answer = exchange.answer("200");
        assert_eq!(values(&answer, "x-bluegreen-colour"), ["blue"]);
        assert_eq!(values(&answer, "x-bluegreen-version"), ["1"]);
        assert_eq!(values(&answer, "set-cookie").len(), 1);
    }

    #[test]
    fn first_and_last_byte_are_counted_in_the_buckets_of_their_times() {
        let envoy = FakeEnvoy::start();
        let exchange = infer(worker(&envoy, &config("", "")), &[]);
        envoy.advance(Duration::from_millis(2));
        exchange.answer("200");
        envoy.advance(Duration::from_secs(1));
        exchange.end();
        assert_eq!(metric(&envoy, "bucket_us.2048.first_byte_total"), 1);
        assert_eq!(metric(&envoy, "bucket_us.1048576.exchange_total"), 1);
    }

    #[test]
    fn one_of_all_workers_takes_the_samples_and_no_unused_bucket_becomes_a_stat() {
        let envoy = FakeEnvoy::start();
        let workers = [0, 1, 2].map(|_| worker(&envoy, &admin()));
        for _ in 0..25 {
            workers.iter().for_each(|worker| worker.tick());
            cluster(workers[1], &[]);
            envoy.advance(Duration::from_secs(1));
        }
        let samples = (0..92).filter(|slot| envoy.shared(&format!("{STATE}/sample/{slot}")).is_some()).count();
        assert_eq!(samples, 3);
        let exchange = call(workers[2], "GET", "/comparison");
        exchange.send_headers(true);
        let body = exchange.replies()[0].body.clone();
        assert!(body.contains(r#""blue":{"requests":25,"#), "{body}");
        let buckets = envoy.metric_names().iter().filter(|name| name.contains("bucket_us")).count();
        assert_eq!(buckets, 2, "{:?}", envoy.metric_names());
    }
}

mod admin_calls {
    use super::*;

    #[test]
    fn a_body_in_parts_is_waited_for_and_acted_on_once() {
        let envoy = FakeEnvoy::start();
        let exchange = call(worker(&envoy, &admin()), "PATCH", "");
        assert_eq!(exchange.send_headers(false), Next::Pause);
        assert_eq!(exchange.send_body(b"{\"canary_per", false), Next::Pause);
        assert!(exchange.replies().is_empty());
        assert_eq!(exchange.send_body(b"cent\": 5}", true), Next::Pause);
        assert_eq!(exchange.replies().len(), 1);
        assert!(exchange.replies()[0].body.contains("\"canary_percent\":5,"));
    }

    #[test]
    fn a_body_that_ends_with_trailers_counts_too() {
        let envoy = FakeEnvoy::start();
        let exchange = call(worker(&envoy, &admin()), "PATCH", "");
        exchange.send_headers(false);
        exchange.send_body(b"{\"active\": \"green\"}", false);
        assert_eq!(exchange.send_trailers(), Next::Pause);
        assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [200]);
    }

    #[test]
    fn a_body_too_large_is_refused_once_and_changes_nothing() {
        let envoy = FakeEnvoy::start();
        let exchange = call(worker(&envoy, &admin()), "PATCH", "?active=green");
        exchange.send_headers(false);
        for _ in 0..40 {
            exchange.send_body(&[b' '; 4096], false);
        }
        exchange.send_body(b"", true);
        assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [413]);
        assert_eq!(envoy.metric("bluegreen.deployment.iris.revision"), Some(0));
    }

    #[test]
    fn a_body_that_never_comes_is_given_up_and_answered_once() {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &admin());
        let (silent, gone, late) = (call(worker, "PATCH", ""), call(worker, "PATCH", ""), call(worker, "PATCH", ""));
        for exchange in [&silent, &gone, &late] {
            exchange.send_headers(false);
        }
        late.send_body(b"{\"active\"", false);
        gone.end();
        for _ in 0..10 {
            envoy.advance(Duration::from_secs(1));
            worker.tick();
        }
        assert_eq!(silent.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [408]);
        silent.send_body(b"{\"active\": \"green\"}", true);
        assert_eq!(silent.replies().len(), 1);
        late.send_body(b": \"green\"}", true);
        assert_eq!(late.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [200]);
    }

    #[test]
    fn a_call_that_may_not_be_made_is_refused_without_waiting_for_its_body() {
        let envoy = FakeEnvoy::start();
        let worker = worker(&envoy, &admin());
        let exchange = worker.request(&[(":method", b"POST"), (":path", b"/bluegreen/v1/deployments/iris/promote")]);
        exchange.send_headers(false);
        exchange.send_body(b"{}", true);
        assert_eq!(exchange.replies().iter().map(|reply| reply.status).collect::<Vec<_>>(), [401]);
        assert_eq!(values(&exchange.replies()[0].headers, "www-authenticate").len(), 1);
    }

    #[test]
    fn without_an_admin_section_the_path_is_traffic_like_any_other() {
        let envoy = FakeEnvoy::start();
        let exchange = call(worker(&envoy, &config("", "")), "POST", "/promote");
        assert_eq!(exchange.send_headers(true), Next::Continue);
        assert!(exchange.replies().is_empty());
    }
}

mod readiness {
    use super::*;
    use crate::fake_host::SentCall;

    /// An operator's worker over these sections.
    fn ready(envoy: &FakeEnvoy, sections: &str) -> Worker {
        let tokens = format!(r#"{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}"#);
        worker(envoy, &config(sections, &format!(r#", "admin": {{"tokens": [{tokens}]}}"#)))
    }

    const PROBE: &str = r#", "probe": {"path": "/ping", "interval": "2s"}"#;

    fn statuses(exchange: &Exchange) -> Vec<u32> {
        exchange.replies().iter().map(|reply| reply.status).collect()
    }

    fn one(sent: Vec<SentCall>) -> SentCall {
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent[0].clone()
    }

    #[test]
    fn a_promote_asks_the_candidate_now_and_answers_when_it_has_replied() {
        let envoy = FakeEnvoy::start();
        let operator = ready(&envoy, PROBE);
        for (status, expected) in [(Some("500"), 409), (None, 409), (Some("200"), 200)] {
            let exchange = call(operator, "POST", "/promote");
            exchange.send_headers(true);
            assert!(exchange.replies().is_empty());
            let probe = one(envoy.take_sent());
            assert_eq!((probe.cluster.as_str(), values(&probe.headers, ":path")), ("g2", vec!["/ping".to_owned()]));
            envoy.reply(&probe, status, "");
            assert_eq!(statuses(&exchange), [expected]);
            exchange.end();
        }
        assert_eq!(cluster(operator, &[]), "g2");
    }

    #[test]
    fn a_cluster_that_envoy_does_not_know_is_refused_at_once() {
        let envoy = FakeEnvoy::start();
        let sections = PROBE.to_owned();
        let unknown = ready(&envoy, &sections);
        let configuration = config(&sections, "").replace("g2", "unknown");
        let tokens = format!(
            r#""admin": {{"tokens": [{{"name": "a", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}, "deployments""#
        );
        let operator = worker(&envoy, &configuration.replacen(r#""deployments""#, &tokens, 1));
        let exchange = call(operator, "POST", "/promote");
        exchange.send_headers(true);
        assert_eq!(statuses(&exchange), [409]);
        assert!(exchange.replies()[0].body.contains("cluster 'unknown' is not known to this Envoy"));
        assert_eq!(cluster(unknown, &[]), "b1");
    }

    #[test]
    fn a_caller_who_leaves_before_the_reply_changes_nothing() {
        let envoy = FakeEnvoy::start();
        let operator = ready(&envoy, PROBE);
        let exchange = call(operator, "POST", "/promote");
        exchange.send_headers(true);
        assert_eq!(envoy.take_sent().len(), 1);
        exchange.end();
        assert_eq!(cluster(operator, &[]), "b1");
    }

    #[test]
    fn the_leader_alone_probes_both_colours_at_the_interval() {
        let envoy = FakeEnvoy::start();
        let workers = [ready(&envoy, PROBE), ready(&envoy, PROBE)];
        let mut clusters = Vec::new();
        for _ in 0..16 {
            for worker in workers {
                worker.tick();
            }
            for probe in envoy.take_sent() {
                envoy.reply(&probe, Some("200"), "");
                clusters.push(probe.cluster);
            }
            envoy.advance(Duration::from_millis(250));
        }
        assert_eq!(clusters, ["b1", "g2", "b1", "g2"]);
        let shown = call(workers[1], "GET", "");
        shown.send_headers(true);
        let body = shown.replies()[0].body.clone();
        assert_eq!(body.matches(r#""probe":{"healthy":true"#).count(), 2, "{body}");
    }

    #[test]
    fn a_smoke_test_is_one_request_after_the_other() {
        let envoy = FakeEnvoy::start();
        let smoke = r#", "smoke_test": {"requests": [{"path": "/a"}, {"path": "/b"}]}"#;
        let exchange = call(ready(&envoy, smoke), "POST", "/test");
        exchange.send_headers(true);
        for path in ["/a", "/b"] {
            let sent = one(envoy.take_sent());
            assert_eq!(values(&sent.headers, ":path"), [path]);
            envoy.reply(&sent, Some("200"), "{}");
        }
        assert!(exchange.replies()[0].body.contains(r#""passed":true"#));
    }

    #[test]
    fn a_drain_is_answered_at_the_tick_after_the_last_request() {
        let envoy = FakeEnvoy::start();
        let operator = ready(&envoy, "");
        let slow = infer(operator, &[]);
        assert_eq!(operate(operator, "POST", "/promote"), 200);
        let drain = call(operator, "POST", "/drain?colour=blue");
        drain.send_headers(true);
        let gone = call(operator, "POST", "/drain?colour=blue");
        gone.send_headers(true);
        gone.end();
        envoy.advance(Duration::from_secs(1));
        operator.tick();
        assert!(drain.replies().is_empty());
        slow.end();
        operator.tick();
        operator.tick();
        assert_eq!(statuses(&drain), [200]);
    }

    #[test]
    fn requests_that_do_not_reach_the_new_colour_lead_back_and_the_log_says_why() {
        let envoy = FakeEnvoy::start();
        let sections = format!(r#"{PROBE}, "bake": {{"for": "10m"}}, "failover": {{"after": 3}}"#);
        let workers = [ready(&envoy, &sections), ready(&envoy, &sections)];
        workers[0].tick();
        for probe in envoy.take_sent() {
            envoy.reply(&probe, Some("200"), "");
        }
        assert_eq!(operate(workers[0], "POST", "/promote?force=true"), 200);
        let fail = |worker: Worker, details: &str| {
            let exchange = infer(worker, &[]);
            envoy.set_code_details(details);
            exchange.answer("503");
            exchange.end();
        };
        fail(workers[0], "no_healthy_upstream");
        fail(workers[1], "no_healthy_upstream");
        // The model server's own 503 reached it, so the row begins anew.
        fail(workers[0], "via_upstream");
        fail(workers[0], "no_healthy_upstream");
        fail(workers[1], "no_healthy_upstream");
        assert_eq!(cluster(workers[1], &[]), "g2");
        for worker in [workers[0], workers[1], workers[0]] {
            fail(worker, "no_healthy_upstream");
        }
        assert_eq!(workers.map(|worker| cluster(worker, &[])), ["b1", "b1"]);
        let line = envoy.logs().pop().expect("a line");
        assert!(line.contains("active=green->blue") && line.contains("by=guard source=guard"), "{line}");
        assert!(line.contains("3 requests in a row did not reach green (last: no_healthy_upstream)"), "{line}");
    }
}
