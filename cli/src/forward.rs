//! Pods of Kubernetes, reached through `kubectl port-forward`, which knows clusters and how to log in to them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::contexts::Pods;

/// A pod's port on this machine, as long as this lives.
#[derive(Debug)]
pub struct Forward {
    child: Child,
    /// The pod.
    pub pod: String,
    /// Its API here.
    pub url: String,
}

/// How long kubectl may take until it forwards.
const PATIENCE: Duration = Duration::from_secs(20);

/// Forwards to each of the pods that run.
///
/// # Errors
/// kubectl cannot be run or refuses, or there is no such pod.
pub fn to(pods: &Pods) -> Result<Vec<Forward>> {
    let Pods { selector, .. } = pods;
    let listed = kubectl(pods)
        .args(["get", "pods", "--selector", selector, "--field-selector", "status.phase=Running", "--output", "json"])
        .output()
        .context("cannot run kubectl, which --selector needs")?;
    ensure!(listed.status.success(), "kubectl get pods: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let listed: Value =
        serde_json::from_slice(&listed.stdout).context("kubectl get pods --output json printed no JSON")?;
    let items = listed["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    // One that is going away takes no traffic soon, and no port-forward already.
    let staying = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let names: Vec<&str> = staying.filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    if names.is_empty() {
        let namespace =
            pods.namespace.as_deref().map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        bail!("no pod with the labels {selector} runs{namespace}");
    }
    let started: Vec<_> = names.iter().map(|name| Started::new(pods, name)).collect::<Result<_>>()?;
    started.into_iter().map(|started| started.ready(&pods.path_prefix)).collect()
}

fn kubectl(pods: &Pods) -> Command {
    let mut command = Command::new("kubectl");
    if let Some(context) = &pods.kube_context {
        command.args(["--context", context]);
    }
    if let Some(namespace) = &pods.namespace {
        command.args(["--namespace", namespace]);
    }
    command.stdin(Stdio::null());
    command
}

/// A kubectl that has yet to say its port.
struct Started {
    forward: Forward,
    port: mpsc::Receiver<u16>,
}

// === impl Started ===

impl Started {
    fn new(pods: &Pods, name: &str) -> Result<Self> {
        let mut child = kubectl(pods)
            .args(["port-forward", "--address", "127.0.0.1", &format!("pod/{name}"), &format!(":{}", pods.port)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl port-forward")?;
        let stdout = child.stdout.take().context("kubectl port-forward has no output")?;
        let (found, port) = mpsc::channel();
        // To the end: a full pipe would stop it.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(port) = port_in(&line) {
                    let _ = found.send(port);
                }
            }
        });
        Ok(Self { forward: Forward { child, pod: name.to_owned(), url: String::new() }, port })
    }

    fn ready(mut self, prefix: &str) -> Result<Forward> {
        match self.port.recv_timeout(PATIENCE) {
            Ok(port) => {
                self.forward.url = format!("http://127.0.0.1:{port}{prefix}");
                Ok(self.forward)
            }
            Err(_) => {
                let _ = self.forward.child.kill();
                let mut said = String::new();
                if let Some(stderr) = &mut self.forward.child.stderr {
                    let _ = stderr.read_to_string(&mut said);
                }
                bail!(
                    "kubectl port-forward pod/{}: {}",
                    self.forward.pod,
                    match said.trim() {
                        "" => "it did not forward in time",
                        said => said,
                    }
                )
            }
        }
    }
}

/// The port in `Forwarding from 127.0.0.1:40123 -> 10001`.
fn port_in(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_what_kubectl_says() {
        let cases = [
            ("Forwarding from 127.0.0.1:40123 -> 10001", Some(40_123)),
            ("Forwarding from [::1]:40123 -> 10001", None),
            ("Handling connection for 40123", None),
        ];
        for (line, port) in cases {
            assert_eq!(port_in(line), port, "{line}");
        }
    }
}
