//! A fleet: Envoys that follow one etcd, in front of the same two model servers.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::etcd::Etcd;
use crate::relay::Relay;
use crate::{Bootstrap, Envoy, envoy, repository, wait};

/// What lies between an Envoy and etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything is passed on.
    Open,
    /// Connections are closed.
    Cut,
    /// Connections stay, and nothing is passed on.
    Silent,
}

/// The shipped configuration of the cluster `etcd`, relative to the repository's root.
const CLUSTER: &str = "envoy/etcd/cluster.yaml";

/// Envoys and their etcd.
#[derive(Debug)]
pub struct Fleet {
    /// The record.
    pub etcd: Etcd,
    /// Those who follow it.
    pub envoys: Vec<Envoy>,
    /// Between each Envoy and each member of etcd.
    lines: Vec<Vec<Relay>>,
}

// === impl Fleet ===

impl Fleet {
    /// Starts three members of etcd and this many Envoys with a configuration, and waits until all are in step.
    pub async fn start(
        envoys: usize,
        bootstrap: &Bootstrap,
        options: impl Fn(envoy::Options) -> envoy::Options,
    ) -> Result<Self> {
        Self::around(Etcd::start(3).await?, envoys, bootstrap, options).await
    }

    /// Starts this many Envoys that follow an etcd which is there.
    pub async fn around(
        etcd: Etcd,
        envoys: usize,
        bootstrap: &Bootstrap,
        options: impl Fn(envoy::Options) -> envoy::Options,
    ) -> Result<Self> {
        let mut fleet = Self { etcd, envoys: Vec::new(), lines: Vec::new() };
        for _ in 0..envoys {
            fleet.join(bootstrap, &options).await?;
        }
        for index in 0..envoys {
            fleet.until_ready(index).await?;
        }
        Ok(fleet)
    }

    /// Starts one more Envoy.
    pub async fn join(
        &mut self,
        bootstrap: &Bootstrap,
        options: impl Fn(envoy::Options) -> envoy::Options,
    ) -> Result<()> {
        let mut lines = Vec::new();
        for member in self.etcd.clients() {
            let relay = Relay::start().await?;
            relay.lead_to(member);
            lines.push(relay);
        }
        let members: Vec<SocketAddr> = lines.iter().map(Relay::address).collect();
        self.envoys.push(options(Envoy::with(in_fleet(bootstrap.clone(), &members)?)).start().await?);
        self.lines.push(lines);
        Ok(())
    }

    /// One of the Envoys.
    pub fn envoy(&self, index: usize) -> Result<&Envoy> {
        self.envoys.get(index).with_context(|| format!("no Envoy {index}"))
    }

    /// One Envoy's admin API.
    pub fn admin(&self, index: usize) -> Result<Admin> {
        self.envoy(index)?.admin()
    }

    /// Changes what lies between one Envoy and all members of etcd.
    pub fn set_line(&self, index: usize, line: Line) {
        for (relay, member) in self.lines.get(index).into_iter().flatten().zip(self.etcd.clients()) {
            match line {
                Line::Open => relay.lead_to(member),
                Line::Cut => relay.cut(),
                Line::Silent => relay.fall_silent(),
            }
        }
    }

    /// Has etcd's side of one Envoy fall silent as soon as a request with this text went there, which is carried out.
    pub fn fall_silent_after(&self, index: usize, text: &str) {
        Relay::fall_silent_after(self.lines.get(index).map_or(&[], Vec::as_slice), text.as_bytes());
    }

    /// Waits until an Envoy says that it is in step.
    pub async fn until_ready(&self, index: usize) -> Result<()> {
        let envoy = self.envoy(index)?;
        let admin = envoy.admin()?;
        let ready = wait::until("readyz", || admin.get("/readyz"), |reply| reply.status == 200).await;
        ready.with_context(|| format!("Envoy {index}'s log ends with:\n{}", envoy.log().tail(20)))?;
        Ok(())
    }

    /// Waits until every Envoy shows this revision of a deployment.
    pub async fn until_at(&self, name: &str, revision: u64) -> Result<()> {
        for index in 0..self.envoys.len() {
            let admin = self.admin(index)?;
            let what = format!("revision {revision} on Envoy {index}");
            wait::until(&what, || admin.deployment(name), |state| state.revision == revision).await?;
        }
        Ok(())
    }
}

/// A configuration with the cluster of these members and the `etcd` section that names it.
pub fn in_fleet(bootstrap: Bootstrap, members: &[SocketAddr]) -> Result<Bootstrap> {
    let mut cluster = Bootstrap::read(&repository::root().join(CLUSTER))?.tree().clone();
    let endpoint = |member: &SocketAddr| {
        let address = json!({"address": member.ip().to_string(), "port_value": member.port()});
        json!({"endpoint": {"address": {"socket_address": address}}})
    };
    let endpoints: Vec<Value> = members.iter().map(endpoint).collect();
    cluster["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    let clusters = bootstrap.tree().pointer("/static_resources/clusters").and_then(Value::as_array);
    ensure!(clusters.is_some(), "the configuration has no clusters");
    Ok(bootstrap
        .edit(|tree| {
            let clusters = tree.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
            clusters.into_iter().for_each(|clusters| clusters.push(cluster.clone()));
        })
        .plugin(|plugin| plugin["etcd"] = json!({"cluster": "etcd"})))
}
