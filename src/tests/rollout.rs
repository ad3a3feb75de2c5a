//! Rollouts and guards as the leader advances them at its ticks.

use super::*;

const ROLLOUT: &str = r#", "rollout": {"steps": [
    {"canary_percent": 20, "hold": "1s", "min_requests": 5}, {"canary_percent": 50, "hold": "1s", "min_requests": 5}]},
    "guard": {"warm_up": {"requests": 0}, "error": {"max_rate": 0.5, "after": 4}}"#;

fn configured() -> String {
    let tokens =
        format!(r#", "admin": {{"tokens": [{{"name": "alice", "role": "operator", "sha256": "{TOKEN_SUM}"}}]}}"#);
    config(ROLLOUT, &tokens)
}

/// The same with a first step that lasts longer than a hiccup of one host may.
fn patient() -> String {
    configured().replacen(r#""hold": "1s""#, r#""hold": "1m""#, 1)
}

/// Seconds of ten requests and four ticks; `statuses` says what green and blue answer.
fn run(envoy: &FakeEnvoy, workers: &[Worker], seconds: usize, green: &str) {
    for request in 0..seconds * 10 {
        let exchange = infer(workers[request % workers.len()], &[]);
        let is_green = exchange.request_header("x-bluegreen-cluster") == ["g2"];
        exchange.answer(if is_green { green } else { "200" });
        exchange.end();
        envoy.advance(Duration::from_millis(100));
        if request % 2 == 0 {
            workers.iter().for_each(|worker| worker.tick());
        }
    }
}

/// Lets green fail until the guard has rolled it back, for 40 seconds at most, and gives the state then. With two requests of
/// green's a second, from one host, it takes a while.
fn run_until_rolled_back(envoy: &FakeEnvoy, workers: &[Worker]) -> String {
    let mut looks = (0..40).map(|_| {
        run(envoy, workers, 1, "503");
        state(workers[0], "")
    });
    looks.find(|seen| seen.contains(r#""phase":"rolled_back""#)).expect("rolled back within 40 seconds")
}

fn state(worker: Worker, path: &str) -> String {
    let exchange = call(worker, "GET", path);
    exchange.send_headers(true);
    let body = exchange.replies()[0].body.clone();
    exchange.end();
    body
}

#[test]
fn the_leader_takes_a_rollout_through_its_steps_whichever_worker_was_called() {
    let envoy = FakeEnvoy::start();
    let workers = [0, 1].map(|_| worker(&envoy, &configured()));
    assert_eq!(operate(workers[1], "POST", "/rollout/start"), 200);
    assert_eq!(operate(workers[1], "POST", "/rollout/start"), 409);
    run(&envoy, &workers, 2, "200");
    let seen = state(workers[0], "");
    assert!(
        seen.contains(r#""phase":"running","step":1,"steps":2"#) && seen.contains("more answers of green"),
        "{seen}"
    );
    run(&envoy, &workers, 10, "200");
    let seen = state(workers[0], "");
    assert!(seen.contains(r#""active":"green""#) && seen.contains(r#""phase":"promoted""#), "{seen}");
    let lines: Vec<String> = envoy.logs().into_iter().filter(|line| line.contains("source=rollout")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[test]
fn a_new_leader_goes_on_where_the_last_one_was() {
    let envoy = FakeEnvoy::start();
    let first = worker(&envoy, &configured());
    assert_eq!(operate(first, "POST", "/rollout/start"), 200);
    run(&envoy, &[first], 2, "200");
    // The first worker is gone; its lease runs out.
    let second = worker(&envoy, &configured());
    envoy.advance(Duration::from_secs(6));
    // What the first one had under way when it went is waited for.
    let mut looks = (0..20).map(|_| {
        run(&envoy, &[second], 1, "200");
        state(second, "")
    });
    let seen = looks.find(|seen| !seen.contains(r#""canary_percent":20"#)).expect("it goes on");
    assert!(seen.contains(r#""canary_percent":50"#), "{seen}");
}

#[test]
fn a_failing_candidate_is_taken_out_and_the_verdict_says_why() {
    let envoy = FakeEnvoy::start();
    let workers = [worker(&envoy, &patient())];
    assert_eq!(operate(workers[0], "POST", "/rollout/start"), 200);
    let seen = run_until_rolled_back(&envoy, &workers);
    assert!(seen.contains(r#""canary_percent":0"#), "{seen}");
    let verdict = state(workers[0], "/comparison");
    assert!(
        verdict.contains(r#""breached":"max_rate""#) && verdict.contains("green fails 100 % of its last "),
        "{verdict}"
    );
    assert!(envoy.logs().iter().any(|line| line.contains("guard rule=max_rate broken")), "{:?}", envoy.logs());
    let history = state(workers[0], "/history");
    assert!(history.contains(r#""source":"guard""#) && history.contains(r#""rollout":"rolled_back""#), "{history}");
}

#[test]
fn a_guard_goes_on_when_another_plugin_has_written_over_the_state() {
    let envoy = FakeEnvoy::start();
    let workers = [worker(&envoy, &patient())];
    assert_eq!(operate(workers[0], "POST", "/rollout/start"), 200);
    run(&envoy, &workers, 1, "200");
    envoy.put_shared(STATE, b"\xff another plugin's");
    let seen = run_until_rolled_back(&envoy, &workers);
    assert!(seen.contains(r#""canary_percent":0"#), "{seen}");
}

#[test]
fn an_idle_deployment_costs_the_leader_nothing_a_tick() {
    let envoy = FakeEnvoy::start();
    let worker = worker(&envoy, &configured());
    let ticks = |count: usize| {
        for _ in 0..count {
            worker.tick();
        }
        envoy.take_calls()
    };
    ticks(2);
    let (read, write) = ("get_shared_data", "set_shared_data");
    // The time, whether it is in the roster, the sign of life, whether there were writes, the lease read and renewed, and the
    // signs of life of all.
    assert_eq!(ticks(1), ["get_current_time", read, read, write, read, read, write, read, read]);
}

#[test]
fn requests_by_override_neither_end_a_canary_nor_take_a_rollout_on() {
    let envoy = FakeEnvoy::start();
    let configured = configured().replace(r#""match""#, r#""override": {"header": "x-want"}, "match""#);
    let workers = [worker(&envoy, &configured)];
    assert_eq!(operate(workers[0], "POST", "/rollout/start"), 200);
    let tested = |status: &str| {
        for request in 0..200 {
            let exchange = infer(workers[0], &[("x-want", if request % 2 == 0 { b"green" } else { b"blue" })]);
            exchange.answer(if request % 2 == 0 { status } else { "200" });
            exchange.end();
            envoy.advance(Duration::from_millis(100));
            if request % 2 == 0 {
                workers[0].tick();
            }
        }
        state(workers[0], "")
    };
    // The step's time is long over, but nobody ordinary has asked green yet.
    for status in ["200", "503"] {
        let seen = tested(status);
        assert!(seen.contains(r#""canary_percent":20"#) && seen.contains(r#""phase":"running""#), "{status}: {seen}");
    }
    run(&envoy, &workers, 6, "200");
    assert!(!state(workers[0], "").contains(r#""canary_percent":20,"#));
}

/// A worker of a deployment with this guard, whose green was promoted.
fn promoted(envoy: &FakeEnvoy, guard: &str) -> Worker {
    let configured = configured().replace(
        r#""guard": {"warm_up": {"requests": 0}, "error": {"max_rate": 0.5, "after": 4}}"#,
        &format!(r#""guard": {guard}"#),
    );
    let worker = worker(envoy, &configured);
    assert_eq!(operate(worker, "POST", "/promote"), 200);
    worker
}

#[test]
fn what_the_former_colour_keeps_after_a_promotion_is_routed_and_ends_in_time() {
    let envoy = FakeEnvoy::start();
    let worker = promoted(&envoy, r#"{"also_after_promote": "20s", "keep_percent": 20}"#);
    let routed = |seconds: usize| {
        let mut to_blue = 0;
        for request in 0..seconds * 10 {
            let exchange = infer(worker, &[]);
            to_blue += usize::from(exchange.request_header("x-bluegreen-cluster") == ["b1"]);
            exchange.answer("200");
            exchange.end();
            envoy.advance(Duration::from_millis(100));
            if request % 2 == 0 {
                worker.tick();
            }
        }
        to_blue
    };
    let kept = state(worker, "");
    assert!(kept.contains(r#""kept":{"percent":20,"until":"2026-11-23T15:00:20"#), "{kept}");
    let to_blue = routed(19);
    assert!((36..=40).contains(&to_blue), "{to_blue} of 190");
    routed(2);
    let over = state(worker, "");
    assert!(over.contains(r#""active":"green","candidate":"blue","canary_percent":0"#), "{over}");
    assert!(!over.contains(r#""kept""#) && over.contains("blue kept 20 % after the promotion of green"), "{over}");
    assert_eq!(routed(2), 0);
}

#[test]
fn a_promoted_colour_that_fails_gives_the_traffic_back_to_the_one_that_kept_a_share() {
    let envoy = FakeEnvoy::start();
    let worker = promoted(&envoy, r#"{"also_after_promote": "10m", "keep_percent": 20}"#);
    run(&envoy, &[worker], 20, "503");
    let seen = state(worker, "");
    assert!(seen.contains(r#""active":"blue","candidate":"green","canary_percent":0"#), "{seen}");
    assert!(seen.contains(r#""source":"guard""#) && seen.contains("errors of green"), "{seen}");
}

#[test]
fn a_guard_that_observes_says_once_what_it_would_have_done_and_does_nothing() {
    let envoy = FakeEnvoy::start();
    let worker = promoted(&envoy, r#"{"on_breach": "observe", "also_after_promote": "10m", "keep_percent": 20}"#);
    run(&envoy, &[worker], 30, "503");
    let seen = state(worker, "");
    assert!(seen.contains(r#""revision":1,"active":"green""#), "{seen}");
    let verdict = state(worker, "/comparison");
    assert!(verdict.contains(r#""breached":"error""#) && verdict.contains(r#""would":"roll back""#), "{verdict}");
    let lines: Vec<String> = envoy.logs().into_iter().filter(|line| line.contains("guard rule=")).collect();
    assert!(lines.len() == 1 && lines[0].ends_with("(on_breach: rollback would roll back)"), "{lines:?}");
}
