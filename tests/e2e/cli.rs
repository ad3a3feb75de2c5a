//! `bluegreen`, the command line, at real Envoys: what its user reads, and what CI sees of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::{ADMIN, OPERATOR, VIEWER};
use bluegreen_testbed::relay::Relay;
use bluegreen_testbed::upstream::Behaviour;
use bluegreen_testbed::{Bootstrap, Envoy, wait};
use bluegreen_tests::command_line::{Cli, url};
use bluegreen_tests::environment::ROLLOUT_PATIENCE;
use bluegreen_tests::{Environment, IRIS, PATH};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Answers as no Envoy here can be made to: each read with a state at revision 7, each write with what the test wants.
struct StandIn {
    url: String,
    conditions: Arc<Mutex<Vec<String>>>,
    to_reads: Arc<Mutex<Value>>,
}

// === impl StandIn ===

impl StandIn {
    async fn start(status: u16, to_writes: Value) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/bluegreen", listener.local_addr()?);
        let conditions = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&conditions);
        let to_reads = Arc::new(Mutex::new(state(7)));
        let shown = Arc::clone(&to_reads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let condition = head.lines().find_map(|line| line.strip_prefix("if-match: "));
                if let (Some(condition), Ok(mut seen)) = (condition, seen.lock()) {
                    seen.push(condition.to_owned());
                }
                let (status, body) = if head.starts_with("GET") {
                    (200, shown.lock().map(|shown| shown.clone()).unwrap_or_default())
                } else {
                    (status, to_writes.clone())
                };
                let body = body.to_string();
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Ok(Self { url, conditions, to_reads })
    }

    /// From now on.
    fn answer_reads_with(&self, state: Value) {
        if let Ok(mut shown) = self.to_reads.lock() {
            *shown = state;
        }
    }

    /// The `If-Match` of each call that had one.
    fn if_match(&self) -> Vec<String> {
        self.conditions.lock().map(|seen| seen.clone()).unwrap_or_default()
    }
}

fn state(revision: u64) -> Value {
    json!({"name": IRIS, "revision": revision, "active": "blue", "candidate": "green", "canary_percent": 0, "shadow_percent": 0,
        "colours": {"blue": {"cluster": "blue", "version": "1"}, "green": {"cluster": "green", "version": "2"}},
        "in_force": {"revision": revision, "confirmed": 3, "of": 3, "silent": []}, "changed_at": "2026-11-23T18:10:08Z",
        "changed_by": "ci", "source": "admin", "reason": ""})
}

/// A deployment that is ready for a release: the test is required, and nothing bakes.
fn iris(iris: &mut Value) {
    iris["smoke_test"] = json!({"required": true, "requests": [
        {"path": PATH, "body": {"inputs": [[1]]}, "expect": {"json": {"pointer": "/colour", "equals": "green"}}}]});
    iris["guard"] = json!({"slow": {"over": "500ms"}});
    iris["rollout"] = plan("1s");
    if let Some(iris) = iris.as_object_mut() {
        iris.remove("bake");
    }
}

fn plan(hold: &str) -> Value {
    json!({"steps": [
        {"canary_percent": 10, "hold": hold, "min_requests": 20},
        {"canary_percent": 50, "hold": hold, "min_requests": 20},
    ]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_from_the_first_look_until_blue_may_be_stopped() -> Result<()> {
    let env = Environment::with_deployment(2, iris).await?;
    let cli = Cli::at(&[&env.envoy])?;
    cli.says("status", 0, &["NAME", "iris  blue 1  green 2", "100 %", "3/3"]).await?;
    let untested = "it has not passed the required smoke test: bluegreen test iris first. --force switches anyway";
    cli.says("promote iris --to green", 1, &[untested]).await?;
    cli.says("test iris -v", 0, &["green (version 2) passed, valid until", "✓ POST /invocations: answered 200"])
        .await?;
    cli.says("canary iris 10% --reason v2", 0, &["iris: blue (version 1) gets 90 %, green (version 2) 10 %"]).await?;
    cli.says("canary iris 10", 0, &["iris: already: blue (version 1) gets 90 %"]).await?;
    cli.says("shadow iris 5", 0, &["green (version 2) copies of 5 %"]).await?;
    cli.says("shadow iris 0", 0, &[]).await?;
    env.load()?.at_most(100).run().await;
    cli.says("compare iris", 0, &["green − blue", "requests", "first byte p95", "verdict: "]).await?;
    cli.says("status iris", 0, &["in force on 3 of 3 workers", "90 %", "10 %", "changed", "by demo-operator (admin)"])
        .await?;
    cli.says("drain iris blue", 1, &["blue is not safe to stop: it is the active colour"]).await?;

    cli.says("promote iris --to green", 0, &["iris: green (version 2) gets all traffic (revision "]).await?;
    let again = cli.says("promote iris --to green", 0, &["iris: already: green (version 2) gets all traffic"]).await?;
    ensure!(again.err.is_empty(), "{again:#?}");
    cli.says("promote iris", 1, &["use bluegreen rollback iris, or bluegreen promote iris --to blue"]).await?;
    cli.says("rollback iris", 0, &["iris: blue (version 1) gets all traffic"]).await?;
    cli.says("rollback iris --to blue", 0, &["already: blue (version 1)"]).await?;
    cli.says("rollback iris", 1, &["nothing to roll back to"]).await?;
    cli.says("promote iris --to green --force", 0, &["green (version 2) gets all traffic"]).await?;
    cli.says("drain iris blue --timeout 20s", 0, &["iris: blue (version 1) is safe to stop"]).await?;
    cli.says("history iris", 0, &["REVISION", "active blue → green", "canary 0 % → 10 %", "forced", "v2"]).await?;
    cli.says("history iris --limit 1", 0, &["older changes: --limit"]).await?;
    cli.says("setup", 0, &["iris: not-durable\n", "initial: {active: green}"]).await?;

    let json: Value = serde_json::from_str(&cli.run("status iris -o json").await?.out)?;
    ensure!(json["active"] == "green" && json["in_force"]["of"] == 3, "{json:#}");
    let refused: Value = serde_json::from_str(&cli.says("drain iris green -o json", 1, &[]).await?.out)?;
    ensure!(refused["type"] == "urn:bluegreen:problem:not-drained", "{refused:#}");
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_a_sentence_that_says_what_to_do() -> Result<()> {
    let env = Environment::with_deployment(1, iris).await?;
    let mut cli = Cli::at(&[&env.envoy])?;
    let here = url(&env.envoy)?;
    cli.says("status rose", 1, &["No deployment is called \"rose\": bluegreen status lists them."]).await?;
    cli.says("canary iris 101", 2, &["give 0 to 100"]).await?;
    cli.says("canary iris 0.001", 1, &["canary_percent"]).await?;
    cli.says("drain iris red", 2, &["give blue or green"]).await?;
    cli.says("rollout pause iris", 1, &["rollout"]).await?;
    cli.says("status --context qa", 2, &["no context qa"]).await?;
    cli.token = None;
    cli.says("status", 1, &["the API wants a token: set BLUEGREEN_TOKEN"]).await?;
    cli.token = Some("guess");
    cli.says("status", 1, &["does not know the token from BLUEGREEN_TOKEN"]).await?;
    cli.token = Some(VIEWER);
    cli.says("status", 0, &["iris"]).await?;
    cli.says("promote iris --to green --force", 1, &["is a viewer", "The token came from BLUEGREEN_TOKEN"]).await?;
    cli.urls = vec![format!("http://{}/bluegreen", env.blue.address())];
    cli.says("status", 1, &["is not bluegreen's API"]).await?;
    cli.urls = vec![format!("{here}/v9")];
    cli.says("status", 1, &["is not a path of this API"]).await?;
    cli.urls = vec!["http://127.0.0.1:1/bluegreen".to_owned()];
    cli.says("status", 1, &["cannot reach the API at http://127.0.0.1:1/bluegreen: "]).await?;
    env.ensure_untouched("refused commands").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ci_fails_when_the_guard_takes_a_bad_green_back() -> Result<()> {
    let env = Environment::with_deployment(2, |deployment| {
        iris(deployment);
        deployment["rollout"] = plan("60s");
    });
    let env = env.await?;
    let cli = Cli::at(&[&env.envoy])?;
    cli.says("test iris", 0, &[]).await?;
    env.green.behave(Behaviour::Sometimes { status: 500, one_in: 5 });
    let load = env.load()?.connections(8).rate(200.0).lasting(ROLLOUT_PATIENCE).start();
    load.more(20).await?;
    let said = cli.says(
        "rollout start iris --follow",
        1,
        &["step 1 of 2: green (version 2) gets 10 %", "ROLLED BACK by guard: "],
    );
    let said = said.await?;
    let verdict = env.newest_change().await?.reason;
    ensure!(said.out.contains(&verdict), "{verdict:?} is not in\n{}", said.out);
    load.stop().await;
    cli.says("status iris", 0, &["rollout    rolled back"]).await?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_followed_to_its_end_through_an_outage_of_the_api() -> Result<()> {
    let env = Environment::with_deployment(2, |deployment| {
        iris(deployment);
        deployment["rollout"] = plan("3s");
    });
    let env = env.await?;
    let relay = Relay::start().await?;
    relay.lead_to(env.envoy.listener(ADMIN)?);
    let mut cli = Cli::at(&[])?;
    cli.urls = vec![format!("http://{}/bluegreen", relay.address())];
    cli.says("test iris", 0, &[]).await?;
    let load = env.load()?.connections(8).rate(200.0).lasting(ROLLOUT_PATIENCE).start();
    let mut following =
        cli.command("rollout start iris --follow")?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("no output")?).lines();
    let mut complaints = BufReader::new(following.stderr.take().context("no output")?).lines();
    let mut text = String::new();
    while !text.contains("step 1 of 2: green (version 2) gets 10 %") {
        text.push_str(&lines.next_line().await?.with_context(|| format!("it ended with {text:?}"))?);
    }
    let refused = cli.says("rollout start iris", 1, &["bluegreen rollout follow iris shows it"]).await?;
    ensure!(refused.out.is_empty(), "{refused:#?}");
    relay.cut();
    let complaint = complaints.next_line().await?.unwrap_or_default();
    ensure!(complaint.contains("asking again for"), "{complaint:?}");
    relay.lead_to(env.envoy.listener(ADMIN)?);
    while let Some(line) = lines.next_line().await? {
        text.push_str(&line);
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), following.wait()).await??;
    ensure!(ended.success() && text.contains("promoted: green (version 2) is active"), "{ended}: {text}");
    load.stop().await.ensure_no_failures()?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_envoys_give_one_answer_and_are_told_apart_where_they_differ() -> Result<()> {
    let env = Environment::with_deployment(1, iris).await?;
    let other = Bootstrap::shipped()?
        .deployment(IRIS, iris)
        .with_cluster("blue", env.blue.address())
        .with_cluster("green", env.green.address());
    let mut other = Envoy::with(other).concurrency(1).start().await?;
    let (one, two) = (url(&env.envoy)?, url(&other)?);
    let mut cli = Cli::at(&[&env.envoy, &other])?;
    let agreed = cli.says("status", 0, &["iris  blue 1", "4/4"]).await?;
    ensure!(!agreed.out.contains(&one), "{agreed:#?}");
    cli.says("test iris", 0, &[&format!("{one}: iris: green"), &format!("{two}: iris: green")]).await?;
    cli.says("canary iris 5", 0, &["green (version 2) 5 % (revision 1), on 2 Envoys"]).await?;

    cli.urls.truncate(1);
    cli.says("promote iris --to green", 0, &[]).await?;
    cli.urls.push(two.clone());
    cli.says("status", 0, &[&format!("iris {one}"), &format!("iris {two}"), "iris differs: on 1 Envoy green"]).await?;
    cli.says("promote iris", 1, &["iris differs", "Say where to go: --to blue or --to green"]).await?;
    let promoted = cli.says("promote iris --to green", 0, &["already: green (version 2) gets all traffic"]).await?;
    ensure!(promoted.out.contains("ENVOY") && promoted.out.lines().count() == 3, "{}", promoted.out);
    cli.says("drain iris blue", 0, &["is safe to stop, on 2 Envoys"]).await?;
    let json: Value = serde_json::from_str(&cli.run("status iris -o json").await?.out)?;
    ensure!(json[&one]["active"] == "green" && json[&two]["active"] == "green", "{json:#}");

    other.kill()?;
    let lost = format!("cannot reach the API at {two}: ");
    cli.says("status", 1, &["iris  green 2", &lost]).await?;
    cli.says("rollback iris --to blue", 1, &["FAILED", &lost, "blue (version 1) gets all traffic"]).await?;
    cli.says("drain iris green", 1, &["safe to stop on 1 of 2 Envoys only", &lost]).await?;
    env.ensure_no_trap()
}

/// What stands in for kubectl: it knows two pods, and its forwards lead to relays of this test.
const KUBECTL: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in
*"get pods"*) cat "$(dirname "$0")/pods.json" ;;
*port-forward*pod/*)
  pod="$(echo "$*" | sed 's/.*pod\/\([a-z0-9-]*\).*/\1/')"
  echo "Forwarding from 127.0.0.1:$(cat "$(dirname "$0")/$pod") -> 10001"
  echo $$ >> "$(dirname "$0")/running"
  exec sleep 600 ;;
*) echo "unknown: $*" >&2; exit 1 ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_a_selector_are_reached_through_kubectl() -> Result<()> {
    let env = Environment::with_deployment(1, iris).await?;
    let folder = TempDir::new()?;
    let relays = [Relay::start().await?, Relay::start().await?];
    let pods = ["envoy-a", "envoy-b"];
    for (relay, pod) in relays.iter().zip(pods) {
        relay.lead_to(env.envoy.listener(ADMIN)?);
        fs::write(folder.path().join(pod), relay.address().port().to_string())?;
    }
    let items: Vec<_> = pods.iter().map(|pod| json!({"metadata": {"name": pod}})).collect();
    fs::write(folder.path().join("pods.json"), json!({"items": items}).to_string())?;
    let kubectl = folder.path().join("kubectl");
    fs::write(&kubectl, KUBECTL)?;
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
    let mut cli = Cli::at(&[])?;
    cli.path = Some(folder.path().to_owned());

    let status = cli.says("status --selector app=envoy -n models", 0, &["iris  blue 1", "4/4"]).await?;
    ensure!(status.err.is_empty(), "{status:#?}");
    cli.says("context add mesh --selector app=envoy -n models", 0, &["mesh is added"]).await?;
    cli.says("status iris -o json", 0, &["\"pod/envoy-a\"", "\"pod/envoy-b\""]).await?;
    let calls = fs::read_to_string(folder.path().join("calls"))?;
    for call in [
        "--namespace models get pods --selector app=envoy --field-selector status.phase=Running --output json",
        "--namespace models port-forward --address 127.0.0.1 pod/envoy-b :10001",
    ] {
        ensure!(calls.contains(call), "{call:?} is not among\n{calls}");
    }
    let running = fs::read_to_string(folder.path().join("running"))?;
    let alive = || async { Ok(running.lines().filter(|id| PathBuf::from(format!("/proc/{id}")).exists()).count()) };
    wait::until("the forwards to be closed", alive, |alive| *alive == 0).await?;

    fs::write(folder.path().join("pods.json"), r#"{"items": []}"#)?;
    cli.says("status", 1, &["no pod with the labels app=envoy runs in namespace models"]).await?;
    env.ensure_no_trap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contexts_name_envoys_and_where_their_tokens_are() -> Result<()> {
    let env = Environment::with_deployment(1, iris).await?;
    let mut cli = Cli::at(&[])?;
    cli.token = None;
    let here = url(&env.envoy)?;
    let token = cli.home.path().join("token");
    fs::write(&token, OPERATOR)?;
    cli.says("context list", 0, &["has no contexts: bluegreen context add"]).await?;
    cli.says(&format!("context add prod --url {here} --token-file {}", token.display()), 0, &["prod is added"]).await?;
    cli.says("context add dev --url http://127.0.0.1:1/bluegreen", 0, &["dev is added"]).await?;
    cli.says("status", 0, &["iris  blue 1"]).await?;
    cli.says("context use dev", 0, &["dev is in use"]).await?;
    cli.says("status", 1, &["cannot reach the API at http://127.0.0.1:1/bluegreen"]).await?;
    cli.says("status --context prod", 0, &["iris  blue 1"]).await?;
    cli.says("status --all", 1, &["iris  blue 1", "cannot reach the API at http://127.0.0.1:1/bluegreen"]).await?;
    cli.says("context list", 0, &["*  dev", "prod", &token.display().to_string()]).await?;

    let file = cli.home.path().join("bluegreen.toml");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o077 == 0, "others can read {}", file.display());
    fs::write(&file, format!("[contexts.prod]\nurls = [\"{here}\"]\ntoken = \"{OPERATOR}\"\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    cli.says("status --context prod", 0, &["has a token, and others on this machine can read it: chmod 600"]).await?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let quiet = cli.says("status --context prod", 0, &["iris"]).await?;
    ensure!(quiet.err.is_empty(), "{quiet:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_is_no_failure_to_complain_of() -> Result<()> {
    let server = StandIn::start(200, state(8)).await?;
    let mut cli = Cli::at(&[])?;
    cli.urls = vec![server.url.clone()];
    let mut command = cli.command("status iris --watch --interval 200ms")?;
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watching.stdout.take().context("no output")?).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    ensure!(first.contains("iris: blue (version 1) gets all traffic (revision 7 by ci)"), "{first:?}");
    drop(lines);
    server.answer_reads_with(state(9));
    let ended = tokio::time::timeout(Duration::from_secs(20), watching.wait_with_output()).await??;
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.code() == Some(141) && complaint.is_empty(), "{:?}: {complaint}", ended.status);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_silent_has_an_exit_code_of_its_own() -> Result<()> {
    let mut promoted = state(8);
    (promoted["active"], promoted["candidate"]) = (json!("green"), json!("blue"));
    promoted["in_force"] = json!({"revision": 8, "confirmed": 2, "of": 3, "silent": [5]});
    let server = StandIn::start(202, promoted).await?;
    let mut cli = Cli::at(&[])?;
    cli.urls = vec![server.url.clone()];
    let silent = "2 of 3 workers follow this; worker 5 may still follow the old state";
    cli.says("promote iris --to green", 3, &[silent, "green (version 2) gets all traffic"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_somebody_else_is_told_and_nothing_is_written_over() -> Result<()> {
    let mut theirs = state(8);
    (theirs["canary_percent"], theirs["changed_by"], theirs["reason"]) = (json!(25), json!("anna"), json!("mine"));
    let problem = json!({"type": "urn:bluegreen:problem:superseded", "title": "Revision mismatch", "status": 412,
        "detail": "…", "state": theirs});
    let server = StandIn::start(412, problem).await?;
    let mut cli = Cli::at(&[])?;
    cli.urls = vec![server.url.clone()];
    let who = "somebody changed iris meanwhile: blue (version 1) gets 75 %, green (version 2) 25 %, by anna (admin), \"mine\"";
    cli.says("promote iris --to green", 1, &[who]).await?;
    let seen = server.if_match();
    ensure!(seen == ["\"7\""], "{seen:?}");
    Ok(())
}
