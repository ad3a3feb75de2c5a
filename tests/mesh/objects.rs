//! The kind `BlueGreen` as people meet it through kubectl: what it refuses, what it shows, who may do what. The filter's part is
//! played by hand here; with the filter itself it is in `store`.

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::kube_apiserver::{Kubectl, Output};
use serde_json::{Value, json};

use crate::cluster::{namespace, shared};

/// An object of the kind.
fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "bluegreen.dev/v1alpha1", "kind": "BlueGreen", "metadata": {"name": name}, "spec": spec})
}

/// A status as the filter writes it.
fn status(generation: u64, accepted: &str) -> Value {
    let condition = |of_type: &str, status: &str, reason: &str| {
        json!({
            "type": of_type, "status": status, "reason": reason, "message": "as it is", "observedGeneration": generation,
            "lastTransitionTime": "2026-11-28T12:00:00Z",
        })
    };
    json!({
        "observedGeneration": generation, "revision": 7, "active": "green", "version": "2", "candidateVersion": "1",
        "canaryPercent": 12.5, "shadowPercent": 0, "rollout": "paused", "changedBy": "alice via admin",
        "reason": "better on Tuesdays", "since": "2026-11-28T12:00:00Z",
        "conditions": [condition("Accepted", accepted, "Applied"), condition("Progressing", "True", "Rollout")],
        "state": {"anything": {"at": ["all"]}},
    })
}

/// Writes the status as the filter does, through the subresource.
async fn write_status(kubectl: &Kubectl, name: &str, status: &Value) -> Result<String> {
    let patch = json!({"status": status}).to_string();
    kubectl.ok(&["patch", "bluegreen", name, "--subresource=status", "--type=merge", "--patch", &patch]).await
}

async fn patch(kubectl: &Kubectl, name: &str, spec: &Value) -> Result<Output> {
    let patch = json!({"spec": spec}).to_string();
    kubectl.run(&["patch", "bluegreen", name, "--type=merge", "--patch", &patch]).await
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_with_the_rule() -> Result<()> {
    let server = shared().await?;
    let kubectl = namespace(&server.kubectl()?, "refused").await?;
    for (name, spec, message) in [
        ("iris", json!({"active": "red"}), r#"Unsupported value: "red": supported values: "blue", "green""#),
        ("iris", json!({"canaryPercent": 10}), "canaryPercent needs active"),
        ("iris", json!({"shadowPercent": 10}), "shadowPercent needs active"),
        ("iris", json!({"active": "blue", "canaryPercent": 101}), "less than or equal to 100"),
        ("iris", json!({"active": "blue", "canaryPercent": -1}), "greater than or equal to 0"),
        ("iris", json!({"active": "blue", "canaryPercent": 12.345}), "use at most two decimals"),
        ("iris", json!({"active": "blue", "shadowPercent": 0.001}), "use at most two decimals"),
        ("iris", json!({"active": "blue", "canaryPercent": "10"}), "spec.canaryPercent"),
        ("iris", json!({"active": "blue", "canary": 10}), "canary"),
        ("iris.models", json!({"active": "blue"}), "use 1 to 63 of a-z, 0-9 and -"),
    ] {
        let refusal = kubectl.apply(&[object(name, &spec)]).await?.refused(&spec)?;
        ensure!(refusal.contains(message), "{name} {spec} -> {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn every_share_of_two_decimals_is_taken() -> Result<()> {
    let server = shared().await?;
    let kubectl = namespace(&server.kubectl()?, "shares").await?;
    // Products with a hundred of which none is whole in binary.
    let shares = [0.01, 0.07, 0.28, 0.29, 0.57, 0.58, 1.1, 4.35, 8.2, 16.08, 33.33, 64.1, 99.99, 100.0];
    let objects = shares.iter().enumerate();
    let objects = objects
        .map(|(index, share)| object(&format!("share-{index}"), &json!({"active": "blue", "canaryPercent": share})));
    kubectl.apply(&objects.collect::<Vec<_>>()).await?.ok(shares)?;
    kubectl.apply(&[object("nothing", &json!({}))]).await?.ok("an empty spec")?;
    Ok(())
}

#[tokio::test]
async fn the_list_shows_who_is_live_and_why() -> Result<()> {
    let server = shared().await?;
    let kubectl = namespace(&server.kubectl()?, "shown").await?;
    kubectl.apply(&[object("iris", &json!({}))]).await?.ok("apply")?;
    write_status(&kubectl, "iris", &status(1, "True")).await?;
    let words = |text: &str| {
        text.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let shown = kubectl.ok(&["get", "bg"]).await?;
    let [head, iris] = &shown.lines().map(words).collect::<Vec<_>>()[..] else { anyhow::bail!("{shown}") };
    ensure!(
        head[..] == ["NAME", "ACTIVE", "VERSION", "CANARY", "SHADOW", "ROLLOUT", "ACCEPTED", "BY", "SINCE"],
        "{shown}"
    );
    ensure!(iris[..8] == ["iris", "green", "2", "12.5", "0", "paused", "True", "alice via admin"], "{shown}");
    let wide = kubectl.ok(&["get", "bluegreens", "--output=wide"]).await?;
    ensure!(wide.contains("REASON") && wide.contains("better on Tuesdays"), "{wide}");
    let explained = kubectl.ok(&["explain", "bluegreen.spec.canaryPercent"]).await?;
    ensure!(explained.contains("go to the other colour"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn waiting_for_accepted_is_waiting_for_this_change() -> Result<()> {
    let server = shared().await?;
    let kubectl = namespace(&server.kubectl()?, "waited").await?;
    kubectl.apply(&[object("iris", &json!({}))]).await?.ok("apply")?;
    write_status(&kubectl, "iris", &status(1, "True")).await?;
    let wait = |patience| ["wait", "--for=condition=Accepted", "bluegreen/iris", patience];
    kubectl.ok(&wait("--timeout=20s")).await?;
    patch(&kubectl, "iris", &json!({"active": "green"})).await?.ok("patch")?;
    // What is true of the spec before is not true of this one.
    kubectl.refused(&wait("--timeout=1s")).await?;
    let patience = wait("--timeout=60s");
    let waits = async { kubectl.ok(&patience).await };
    let second = status(2, "True");
    let accepts = write_status(&kubectl, "iris", &second);
    tokio::try_join!(waits, accepts)?;
    Ok(())
}

#[tokio::test]
async fn the_status_is_written_by_its_subresource_alone() -> Result<()> {
    let server = shared().await?;
    let kubectl = namespace(&server.kubectl()?, "status").await?;
    let mut whole = object("iris", &json!({"active": "blue"}));
    whole["status"] = status(1, "True");
    kubectl.apply(&[whole]).await?.ok("apply")?;
    let stored = kubectl.get("bluegreen", "iris").await?;
    ensure!(stored["status"].is_null(), "a status came in with the spec: {stored:#}");
    // And what writes the status does not write the spec, nor counts as a change of it.
    let both = json!({"spec": {"active": "green"}, "status": status(1, "True")}).to_string();
    kubectl.ok(&["patch", "bluegreen", "iris", "--subresource=status", "--type=merge", "--patch", &both]).await?;
    let stored = kubectl.get("bluegreen", "iris").await?;
    ensure!(stored["spec"]["active"] == "blue" && stored["metadata"]["generation"] == 1, "{stored:#}");
    ensure!(stored["status"]["state"] == json!({"anything": {"at": ["all"]}}), "the record lost something: {stored:#}");
    Ok(())
}

#[tokio::test]
async fn everyone_may_do_what_they_need_and_nothing_else() -> Result<()> {
    const FILTER: &str = "system:serviceaccount:istio-system:istio-ingressgateway-service-account";
    let server = shared().await?;
    let administrator = server.kubectl()?;
    let kubectl = namespace(&administrator, "models").await?;
    let rbac = bluegreen_testbed::repository::root().join("envoy/kubernetes/rbac");
    kubectl.apply_kustomization(&rbac).await?.ok("rbac")?;
    for (person, role) in [("vera", "bluegreen-viewer"), ("edith", "bluegreen-editor")] {
        let (clusterrole, user) = (format!("--clusterrole={role}"), format!("--user={person}"));
        kubectl.run(&["create", "rolebinding", person, &clusterrole, &user]).await?;
    }
    let [vera, edith, filter, nobody] = ["vera", "edith", FILTER, "nobody"].map(|user| kubectl.acting_for(user));
    for (who, verb, what, may) in [
        (&filter, "list", "bluegreens", true),
        (&filter, "watch", "bluegreens", true),
        (&filter, "create", "bluegreens", true),
        (&filter, "get", "bluegreens", true),
        (&filter, "update", "bluegreens/iris", false),
        (&filter, "patch", "bluegreens", false),
        (&filter, "delete", "bluegreens", false),
        (&filter, "update", "bluegreens/iris --subresource=status", true),
        (&filter, "patch", "bluegreens/iris --subresource=status", false),
        (&filter, "create", "bluegreennotes", true),
        (&filter, "deletecollection", "bluegreennotes", true),
        (&filter, "watch", "bluegreennotes", false),
        (&filter, "get", "secrets/bluegreen-admin-tokens", true),
        (&filter, "get", "secrets/another", false),
        (&filter, "list", "secrets", false),
        (&filter, "create", "secrets", false),
        (&vera, "list", "bluegreens", true),
        (&vera, "patch", "bluegreens", false),
        (&edith, "patch", "bluegreens", true),
        (&edith, "delete", "bluegreens", true),
        (&edith, "update", "bluegreens/iris --subresource=status", false),
        (&edith, "list", "bluegreennotes", false),
        (&nobody, "get", "bluegreens", false),
    ] {
        let mut arguments = vec!["auth", "can-i", verb];
        arguments.extend(what.split(' '));
        let answer = who.run(&arguments).await?;
        let expected = if may { "yes" } else { "no" };
        ensure!(answer.text.lines().last() == Some(expected), "{verb} {what}: expected {expected}, got {answer:?}");
    }
    let elsewhere = administrator.in_namespace("default").acting_for(FILTER);
    ensure!(
        elsewhere.run(&["auth", "can-i", "list", "bluegreens"]).await?.text == "no",
        "the filter reads another namespace"
    );
    // Kubernetes adds them to its own roles where a controller manager runs, by these labels.
    for (role, of) in [("bluegreen-viewer", "view"), ("bluegreen-editor", "edit")] {
        let stored = kubectl.get("clusterrole", role).await?;
        let labels = stored["metadata"]["labels"].as_object().context("no labels")?;
        ensure!(labels.contains_key(&format!("rbac.authorization.k8s.io/aggregate-to-{of}")), "{labels:?}");
    }
    Ok(())
}
