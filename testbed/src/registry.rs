//! A model registry in memory: what MLflow answers to the one question that the filter asks, and what its webhooks send.
//!
//! For tests of what a real registry does not do at will: answering late, nonsense, or with a bad signature. See
//! [`crate::mlflow`] for the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinHandle;

use crate::admin::{Admin, Reply};
use crate::seen::Seen;
use crate::upstream::Upstream;

/// A registry with one model.
#[derive(Debug)]
pub struct Registry {
    upstream: Upstream,
    aliases: Arc<Mutex<BTreeMap<String, String>>>,
    answering: JoinHandle<()>,
}

/// A delivery as MLflow signs it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The webhook's secret.
    pub secret: String,
    /// The delivery's id.
    pub id: String,
    /// When it was sent, in seconds since the epoch.
    pub timestamp: u64,
    /// What it says.
    pub body: String,
}

// === impl Registry ===

impl Registry {
    /// Starts one on a free port with these aliases.
    pub async fn start(aliases: &[(&str, &str)]) -> Result<Self> {
        let upstream = Upstream::start("registry").await?;
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        let mut script = upstream.script();
        let marks = Arc::clone(&known);
        let answering = tokio::spawn(async move {
            loop {
                // Nobody may ask for a long time; that is no end.
                let Ok(mut exchange) = script.next().await else { continue };
                let text = registered(&marks.lock().unwrap_or_else(PoisonError::into_inner)).to_string();
                // An error only says that the filter went away.
                if let Ok(mut reply) = exchange.answer(200, &[("content-type", "application/json")]) {
                    let _ = reply.piece(text).await;
                }
            }
        });
        let registry = Self { upstream, aliases: known, answering };
        for (alias, version) in aliases {
            registry.set(alias, version);
        }
        Ok(registry)
    }

    /// Points an alias to a version.
    pub fn set(&self, alias: &str, version: &str) {
        let mut aliases = self.aliases.lock().unwrap_or_else(PoisonError::into_inner);
        aliases.insert(alias.to_owned(), version.to_owned());
    }

    /// What it listens on and has seen.
    pub fn upstream(&mut self) -> &mut Upstream {
        &mut self.upstream
    }

    /// The last question that reached it.
    pub fn last_question(&self) -> Result<Seen> {
        self.upstream.seen().pop().context("nobody asked the registry")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

fn registered(aliases: &BTreeMap<String, String>) -> Value {
    let aliases: Vec<Value> =
        aliases.iter().map(|(alias, version)| json!({"alias": alias, "version": version})).collect();
    json!({"registered_model": {"name": "my-model", "latest_versions": [], "aliases": aliases}})
}

// === impl Delivery ===

impl Delivery {
    /// One that says that an alias of `my-model` was moved, sent now.
    pub fn now(secret: &str, id: &str) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let body = json!({"entity": "model_version_alias", "action": "created",
            "data": {"name": "my-model", "alias": "production", "version": "2"}});
        Self {
            secret: secret.to_owned(),
            id: id.to_owned(),
            timestamp: since.map_or(0, |since| since.as_secs()),
            body: body.to_string(),
        }
    }

    /// The signature that MLflow would send.
    pub fn signature(&self) -> Result<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).context("a secret of any length")?;
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.body).as_bytes());
        Ok(format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())))
    }

    /// Sends it without a token, with these headers besides its own.
    pub async fn send(&self, admin: &Admin, more: &[(&str, &str)]) -> Result<Reply> {
        let mut call = admin
            .anonymous()
            .call(reqwest::Method::POST, "/v1/mlflow/webhook")
            .header("content-type", "application/json")
            .header("x-mlflow-delivery-id", &self.id)
            .header("x-mlflow-timestamp", &self.timestamp.to_string())
            .header("x-mlflow-signature", &self.signature()?);
        for (name, value) in more {
            call = call.header(name, value);
        }
        call.body(self.body.clone()).send().await
    }
}
