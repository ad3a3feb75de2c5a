//! The admin API's tokens in a Secret of a real API server, which the filter may read by the Role that ships.

use std::time::Instant;

use anyhow::{Result, ensure};
use bluegreen_testbed::{Bootstrap, wait};
use bluegreen_tests::IRIS;
use serde_json::json;

use crate::cluster::shared;
use crate::replicas::Replicas;

const SECRET: &str = "bluegreen-admin-tokens";
const NAMESPACE: &str = "tokens";
const OPERATOR: &str = "b0c5e3a1f2d4968778695a4b3c2d1e0f";
const VIEWER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const NEXT: &str = "9d3f60b1c2a54e8f8d7c6b5a49382716";

/// Waits until every replica answers a holder of this token with this status.
async fn until_answered(replicas: &Replicas, token: &str, status: u16) -> Result<()> {
    let began = Instant::now();
    for index in 0..replicas.envoys.len() {
        let admin = replicas.admin(index)?.token(token);
        let what = format!("{status} on Envoy {index}");
        let answered = wait::until(&what, || admin.get("/v1/deployments/iris"), |reply| reply.status == status).await;
        answered.inspect_err(|_| println!("{}", replicas.envoys[index].log().tail(20)))?;
    }
    println!("{status} on every replica after {:?}", began.elapsed());
    Ok(())
}

/// Waits until every replica has logged this.
async fn until_logged(replicas: &Replicas, words: &str) -> Result<()> {
    for envoy in &replicas.envoys {
        envoy.log().wait_for(words).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_says_who_may_call_every_replica_and_a_change_of_it_acts_without_a_restart() -> Result<()> {
    let bootstrap = Bootstrap::shipped()?.plugin(|plugin| {
        if !plugin["admin"].is_null() {
            plugin["admin"] = json!({"path_prefix": "/bluegreen", "tokens_secret": SECRET});
        }
    });
    let replicas = Replicas::start(shared().await?, NAMESPACE, 2, bootstrap).await?;
    let kubectl = &replicas.kubectl;
    until_answered(&replicas, OPERATOR, 401).await?;
    until_logged(&replicas, "setup=admin-tokens: there is no Secret tokens/bluegreen-admin-tokens").await?;

    let literals = [
        format!("--from-literal=operator={OPERATOR}"),
        format!("--from-literal=viewer.grafana={VIEWER}"),
        "--from-literal=operator.ci=REPLACE_ME_BY_A_TOKEN".to_owned(),
    ];
    let mut create = vec!["create", "secret", "generic", SECRET];
    create.extend(literals.iter().map(String::as_str));
    kubectl.ok(&create).await?;
    until_answered(&replicas, OPERATOR, 200).await?;
    until_answered(&replicas, VIEWER, 200).await?;
    until_answered(&replicas, "REPLACE_ME_BY_A_TOKEN", 401).await?;
    let [operator, viewer] = [OPERATOR, VIEWER].map(|token| replicas.admin(0).map(|admin| admin.token(token)));
    let (operator, viewer) = (operator?, viewer?);
    ensure!(viewer.patch(IRIS, &[("canary_percent", "5")]).await?.status == 403);
    let state = operator.patch(IRIS, &[("canary_percent", "5")]).await?.deployment()?;
    ensure!(state.changed_by.as_deref() == Some("operator"), "{state:?}");
    let problem = state.problem("admin-tokens").map(|problem| problem.detail.clone()).unwrap_or_default();
    ensure!(problem.contains("the key operator.ci still has a placeholder"), "{state:?}");
    ensure!(!problem.contains("REPLACE_ME"), "{problem}");

    let next = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "stringData": {"operator": NEXT}});
    kubectl.run_with_input(&["replace", "-f", "-"], &next.to_string()).await?.ok("replace")?;
    until_answered(&replicas, NEXT, 200).await?;
    until_answered(&replicas, OPERATOR, 401).await?;
    until_answered(&replicas, VIEWER, 401).await?;

    // Without the API server who was let in is let in.
    for line in &replicas.lines {
        line.cut();
    }
    until_logged(&replicas, "the tokens that were last read go on working").await?;
    until_answered(&replicas, NEXT, 200).await?;
    for line in &replicas.lines {
        line.lead_to(replicas.server.address());
    }
    kubectl.ok(&["delete", "secret", SECRET]).await?;
    until_answered(&replicas, NEXT, 401).await?;
    replicas.ensure_no_trap()
}
