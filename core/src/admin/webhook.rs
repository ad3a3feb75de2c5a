//! MLflow's webhook: a signed delivery makes the leader ask the registry at once.
//!
//! A delivery is only a hint. What it says is not acted upon: the registry is asked, as for a poll. So the worst that
//! anybody who knows the secret can do is to have the registry asked too often.
//!
//! The signature is that of the Standard Webhooks specification as MLflow 3 writes it:
//! `v1,` and base64(HMAC-SHA256(secret, "{delivery id}.{unix seconds}.{body}")).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;

use super::problems::Problem;
use super::response::Response;
use crate::controllers::mlflow;
use crate::deployment::{Deployment, Deployments};
use crate::json;
use crate::model::name::{DeploymentName, HeaderName};
use crate::model::time::Timestamp;
use crate::routing::matching::RequestHeaders;
use crate::store::key::Key;
use crate::store::{Store, StoreError, update};

/// What the headers of a delivery say. Nothing in it is trusted before it is verified, except what Envoy put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    id: Vec<u8>,
    timestamp: Vec<u8>,
    signature: Vec<u8>,
    secrets: Vec<(HeaderName, Secret)>,
}

/// A webhook's secret, of which nothing is ever shown; empty when Envoy put none there.
#[derive(Clone, PartialEq, Eq)]
struct Secret(Vec<u8>);

/// The answer to a delivery that was taken.
#[derive(Serialize)]
struct Accepted<'a> {
    accepted: bool,
    /// The deployments whose registry is asked now.
    asks_for: Vec<&'a DeploymentName>,
}

/// How far a delivery's clock may be from Envoy's, in seconds. Older ones may be replayed.
const WINDOW: u64 = 300;

/// The longest id and signature that are looked at, in bytes.
const LONGEST_ID: usize = 256;

/// The length of an HMAC-SHA256, in bytes.
const SIGNATURE: usize = 32;

/// How many deliveries are remembered. A repeated one that is older than as many others is taken again, at the price of
/// one more poll of the registry.
const REMEMBERED: usize = 256;

// === impl Delivery ===

impl Delivery {
    /// Takes from a request's headers what is needed to verify it.
    pub fn read(deployments: &Deployments, request: &dyn RequestHeaders) -> Self {
        let header = |name: &str| request.header(name).unwrap_or_default();
        let mut secrets: Vec<(HeaderName, Secret)> = Vec::new();
        for (_, name) in webhooks(deployments) {
            if !secrets.iter().any(|(known, _)| known == name) {
                secrets.push((name.clone(), Secret(header(name.as_str()))));
            }
        }
        Self {
            id: header("x-mlflow-delivery-id"),
            timestamp: header("x-mlflow-timestamp"),
            signature: header("x-mlflow-signature"),
            secrets,
        }
    }

    /// Refuses what no body can make good: who sends it has no token, and is not waited for in vain.
    ///
    /// # Errors
    /// Nobody takes deliveries, or this one cannot be MLflow's, or is too old.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Problem> {
        self.known_secrets()?;
        let is_signature = self.signature().is_some_and(|signature| signature.len() == SIGNATURE);
        if self.id.is_empty() || self.id.len() > LONGEST_ID || !is_signature {
            return Err(Problem::BadSignature);
        }
        self.check_age(now)
    }

    /// Takes the delivery if it is MLflow's, new and recent.
    ///
    /// # Errors
    /// It is none of these, or the store is out of reach.
    pub(super) fn accept(
        &self,
        body: &[u8],
        deployments: &Deployments,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Response, Problem> {
        let signers = self.verify(body)?;
        self.check_age(now)?;
        remember(store, &self.id, now)?;
        let document: serde_json::Value = json::from_slice(body).unwrap_or_default();
        let model = document.pointer("/data/name").and_then(serde_json::Value::as_str).unwrap_or_default();
        let concerned = webhooks(deployments).filter(|(deployment, header)| {
            signers.contains(header) && deployment.mlflow.as_ref().is_some_and(|mlflow| mlflow.model.as_str() == model)
        });
        let asks_for: Vec<&DeploymentName> = concerned.map(|(deployment, _)| &deployment.name).collect();
        for name in &asks_for {
            mlflow::trigger(store, name, &self.id).map_err(|_| Problem::StoreUnavailable)?;
        }
        Ok(Response::json(202, &Accepted { accepted: true, asks_for }))
    }

    /// The headers whose secrets the delivery is signed with.
    fn verify(&self, body: &[u8]) -> Result<Vec<&HeaderName>, Problem> {
        let known = self.known_secrets()?;
        let signature = self.signature().ok_or(Problem::BadSignature)?;
        let signed = |(_, secret): &&(HeaderName, Secret)| {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&secret.0) else { return false };
            for part in [self.id.as_slice(), b".", self.timestamp.as_slice(), b".", body] {
                mac.update(part);
            }
            // In constant time.
            mac.verify_slice(&signature).is_ok()
        };
        let signers: Vec<&HeaderName> = known.into_iter().filter(signed).map(|(header, _)| header).collect();
        if signers.is_empty() { Err(Problem::BadSignature) } else { Ok(signers) }
    }

    /// Those that Envoy has put there, one of them at least.
    fn known_secrets(&self) -> Result<Vec<&(HeaderName, Secret)>, Problem> {
        let known: Vec<_> = self.secrets.iter().filter(|(_, secret)| !secret.0.is_empty()).collect();
        match (known.first(), self.secrets.first()) {
            (Some(_), _) => Ok(known),
            (None, Some((header, _))) => Err(Problem::WebhookSecretMissing(header.clone())),
            (None, None) => Err(Problem::NoWebhook),
        }
    }

    fn signature(&self) -> Option<Vec<u8>> {
        let encoded = self.signature.strip_prefix(b"v1,").filter(|encoded| encoded.len() <= LONGEST_ID)?;
        BASE64.decode(encoded).ok()
    }

    fn check_age(&self, now: Timestamp) -> Result<(), Problem> {
        let sent: Option<u64> = std::str::from_utf8(&self.timestamp).ok().and_then(|text| text.parse().ok());
        let now = now.as_millis() / 1_000;
        if sent.is_some_and(|sent| sent.abs_diff(now) <= WINDOW) { Ok(()) } else { Err(Problem::StaleDelivery) }
    }
}

/// The deployments that take deliveries, each with the header of its secret.
fn webhooks(deployments: &Deployments) -> impl Iterator<Item = (&Deployment, &HeaderName)> {
    deployments
        .all()
        .iter()
        .filter_map(|deployment| Some((deployment, &deployment.mlflow.as_ref()?.webhook.as_ref()?.secret_header)))
}

/// Remembers a delivery that was verified, if it is not remembered already.
fn remember(store: &dyn Store, id: &[u8], now: Timestamp) -> Result<(), Problem> {
    // The signer chooses the id: a long one must not fill the store.
    let id = xxhash_rust::xxh64::xxh64(id, 0);
    let until = now.as_millis() / 1_000;
    let mut is_new = false;
    let remembered = update(store, &Key::Deliveries.to_string(), &mut |known| {
        let mut known: Vec<(u64, u64)> = json::from_slice(&known.value.unwrap_or_default()).unwrap_or_default();
        is_new = !known.iter().any(|(remembered, _)| *remembered == id);
        if !is_new {
            return None;
        }
        // One that was sent up to a window ahead of this clock is too old two windows after it was taken.
        known.retain(|(_, taken)| until.saturating_sub(*taken) <= WINDOW.saturating_mul(2));
        known.truncate(REMEMBERED.saturating_sub(1));
        known.insert(0, (id, until));
        serde_json::to_vec(&known).ok()
    });
    match remembered {
        Ok(_) if is_new => Ok(()),
        Ok(_) => Err(Problem::ReplayedDelivery),
        Err(StoreError) => Err(Problem::StoreUnavailable),
    }
}

// === impl Secret ===

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "absent" } else { "present" })
    }
}
