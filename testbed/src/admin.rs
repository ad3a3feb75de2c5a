//! A client of the filter's admin API.
//!
//! It sends what it is told to, mistakes included, and keeps the whole answer: tests want to see both.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use bluegreen_openapi::{Description, Exchange};
use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::Value;

/// How long one call may take. The filter itself gives up earlier: a write in a fleet after seven seconds.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The admin API of one filter.
#[derive(Clone, Debug)]
pub struct Admin {
    http: Client,
    base: String,
    token: Option<String>,
}

/// One call that is being put together; [`Call::send`] sends it.
#[derive(Debug)]
pub struct Call {
    request: reqwest::RequestBuilder,
    url: String,
    method: Method,
    path: String,
    query: Vec<(String, String)>,
}

/// What the API answered.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers; of a repeated one, the last.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub text: String,
}

/// The state of one deployment, as the API tells it. To compare two, see [`Deployment::settings`].
#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub name: String,
    /// Grows by one with each change.
    pub revision: u64,
    /// The colour that ordinary traffic goes to.
    pub active: String,
    /// The other colour.
    pub candidate: String,
    /// Share of ordinary requests for the candidate.
    pub canary_percent: f64,
    /// Share of the active colour's requests that are copied to the candidate.
    pub shadow_percent: f64,
    /// The canary share is what the former colour keeps after a promotion.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// Cluster and version of each colour.
    pub colours: BTreeMap<String, Colour>,
    /// How many workers follow this revision.
    pub in_force: InForce,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What is wrong around the filter.
    pub setup: Vec<SetupProblem>,
    /// When it changed last; none before the first change.
    #[serde(default)]
    pub changed_at: Option<String>,
    /// Who changed it.
    #[serde(default)]
    pub changed_by: Option<String>,
    /// What changed it.
    #[serde(default)]
    pub source: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// In a fleet: whether a change may have been missed.
    #[serde(default)]
    pub stale: Option<bool>,
    /// What the sources were seen to say, by their names.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceStatus>,
    /// The rollout under way, or the last one.
    #[serde(default)]
    pub rollout: Option<Rollout>,
}

/// A share that the former colour keeps.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Kept {
    /// How large it is.
    pub percent: f64,
    /// When it ends.
    pub until: String,
}

/// How many workers follow the state.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct InForce {
    /// The revision.
    pub revision: u64,
    /// How many follow it.
    pub confirmed: usize,
    /// How many there are.
    pub of: usize,
    /// Those that have not confirmed.
    pub silent: Vec<u64>,
}

/// A worker.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Worker {
    /// Its number.
    pub id: u64,
    /// The revision that requests there follow.
    #[serde(default)]
    pub revision: Option<u64>,
    /// How many requests it has routed.
    pub routed: u64,
    /// Its last sign of life.
    #[serde(default)]
    pub last_seen: Option<String>,
}

/// A mistake in the set-up.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct SetupProblem {
    /// Its kind.
    pub problem: String,
    /// What was seen, and what to do.
    pub detail: String,
}

/// What a source was seen to say about a deployment.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct SourceStatus {
    /// What it says.
    pub value: Value,
    /// Since when.
    pub at: String,
    /// What of it has still to be brought about.
    #[serde(default)]
    pub pending: Option<Value>,
    /// Why it was not brought about.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Why the source could not be asked or understood.
    #[serde(default)]
    pub error: Option<String>,
}

/// A rollout.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Rollout {
    /// What it is doing.
    pub phase: String,
    /// The step in force, from 1.
    pub step: u64,
    /// How many there are.
    pub steps: u64,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// What is known about the candidate.
    #[serde(default)]
    pub evidence: Option<String>,
}

/// One colour of a deployment.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Colour {
    /// The Envoy cluster.
    pub cluster: String,
    /// The model version that it serves.
    pub version: String,
    /// How many requests to it are under way.
    pub in_flight: u64,
    /// Whether nothing needs it.
    pub safe_to_stop: bool,
    /// What the probes found; none before the first, and without a `probe` section.
    #[serde(default)]
    pub probe: Option<Probe>,
    /// What is to come behind it.
    #[serde(default)]
    pub waiting: Option<Waiting>,
}

/// What waits to come behind a colour.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Waiting {
    /// The Envoy cluster.
    pub cluster: String,
    /// The model version.
    pub version: String,
    /// Why it waits.
    pub why: String,
}

/// What the probes of a colour found.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Probe {
    /// The verdict.
    pub healthy: bool,
    /// When it was asked last.
    pub checked_at: String,
    /// What was seen then.
    pub detail: String,
}

/// One entry of the history.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Change {
    /// The revision that the change made.
    pub revision: u64,
    /// When.
    pub at: String,
    /// Who.
    pub by: String,
    /// What.
    pub source: String,
    /// Why.
    pub reason: String,
    /// Whether it overrode a rule.
    #[serde(default)]
    pub forced: bool,
    /// The phase that it brought a rollout into.
    #[serde(default)]
    pub rollout: Option<String>,
    /// What it put behind a colour, and what that replaced.
    #[serde(default)]
    pub replaced: Option<Value>,
    /// Before.
    pub from: Split,
    /// After.
    pub to: Split,
}

/// How traffic is divided.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Split {
    /// The colour that ordinary traffic goes to.
    pub active: String,
    /// Share for the candidate.
    pub canary_percent: f64,
    /// Share copied to the candidate.
    pub shadow_percent: f64,
}

#[derive(Deserialize)]
struct Deployments {
    deployments: Vec<Deployment>,
}

#[derive(Deserialize)]
struct Changes {
    changes: Vec<Change>,
}

// === impl Admin ===

impl Admin {
    /// The API at `base`, for example `http://127.0.0.1:10001/bluegreen`; without a token.
    pub fn new(base: &str) -> Self {
        let http = Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default();
        Self { http, base: base.trim_end_matches('/').to_owned(), token: None }
    }

    /// The same API with this token.
    #[must_use]
    pub fn token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same API without a token.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// A call to `path` below the base, for example `/v1/deployments`.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method.clone(), &url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        Call { request, url, method, path: path.to_owned(), query: Vec::new() }
    }

    /// `GET` of a path below the base.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.call(Method::GET, path).send().await
    }

    /// The state of one deployment.
    pub async fn deployment(&self, name: &str) -> Result<Deployment> {
        self.get(&format!("/v1/deployments/{name}")).await?.deployment()
    }

    /// What a source was last seen to say about a deployment, and what became of it; null before it was seen.
    pub async fn source_status(&self, name: &str, source: &str) -> Result<Value> {
        let state = self.get(&format!("/v1/deployments/{name}")).await?.accepted()?.json()?;
        Ok(state["sources"][source].clone())
    }

    /// The states of all deployments.
    pub async fn deployments(&self) -> Result<Vec<Deployment>> {
        Ok(self.get("/v1/deployments").await?.accepted()?.decode::<Deployments>()?.deployments)
    }

    /// The last changes of one deployment, newest first.
    pub async fn history(&self, name: &str) -> Result<Vec<Change>> {
        let reply = self.get(&format!("/v1/deployments/{name}/history")).await?;
        Ok(reply.accepted()?.decode::<Changes>()?.changes)
    }

    /// Both colours side by side, as the API tells it.
    pub async fn comparison(&self, name: &str) -> Result<Value> {
        self.get(&format!("/v1/deployments/{name}/comparison")).await?.accepted()?.json()
    }

    /// A `PATCH` with query parameters: `patch("iris", &[("canary_percent", "10")])`.
    pub async fn patch(&self, name: &str, query: &[(&str, &str)]) -> Result<Reply> {
        self.patching(name).query(query).send().await
    }

    /// `promote`, which must be in force.
    pub async fn promote(&self, name: &str) -> Result<Deployment> {
        self.promoting(name).send().await?.in_force()
    }

    /// `promote` to this colour, which must be in force.
    pub async fn promote_to(&self, name: &str, colour: &str) -> Result<Deployment> {
        self.promoting(name).query(&[("to", colour)]).send().await?.in_force()
    }

    /// Makes the candidate active, whichever it is; for one writer at a time.
    pub async fn switch(&self, name: &str) -> Result<Deployment> {
        let candidate = self.deployment(name).await?.candidate;
        self.promote_to(name, &candidate).await
    }

    /// `rollback`, which must be in force.
    pub async fn rollback(&self, name: &str) -> Result<Deployment> {
        self.rolling_back(name).send().await?.in_force()
    }

    /// `start`, `pause`, `resume`, `abort` or `skip` of a rollout, which must succeed.
    pub async fn rollout(&self, name: &str, verb: &str) -> Result<Deployment> {
        self.call(Method::POST, &format!("/v1/deployments/{name}/rollout/{verb}")).send().await?.deployment()
    }

    /// Runs the smoke test.
    pub async fn test(&self, name: &str) -> Result<Reply> {
        self.testing(name).send().await
    }

    /// A smoke test to add to.
    pub fn testing(&self, name: &str) -> Call {
        self.call(Method::POST, &format!("/v1/deployments/{name}/test"))
    }

    /// Waits until `colour` can be stopped, for at most `timeout`, for example `10s`.
    pub async fn drain(&self, name: &str, colour: &str, timeout: &str) -> Result<Reply> {
        let call = self.call(Method::POST, &format!("/v1/deployments/{name}/drain"));
        call.query(&[("colour", colour), ("timeout", timeout)]).send().await
    }

    /// A `PATCH` to add to.
    pub fn patching(&self, name: &str) -> Call {
        self.call(Method::PATCH, &format!("/v1/deployments/{name}"))
    }

    /// A `promote` to add to.
    pub fn promoting(&self, name: &str) -> Call {
        self.call(Method::POST, &format!("/v1/deployments/{name}/promote"))
    }

    /// A `rollback` to add to.
    pub fn rolling_back(&self, name: &str) -> Call {
        self.call(Method::POST, &format!("/v1/deployments/{name}/rollback"))
    }
}

// === impl Deployment ===

impl Deployment {
    /// Whether this mistake in the set-up is noted.
    pub fn has_problem(&self, problem: &str) -> bool {
        self.setup.iter().any(|noted| noted.problem == problem)
    }

    /// One of its colours.
    pub fn colour(&self, name: &str) -> Result<&Colour> {
        self.colours.get(name).with_context(|| format!("no colour {name} in {self:?}"))
    }

    /// What the probes of a colour found; an error before the first.
    pub fn probe(&self, colour: &str) -> Result<&Probe> {
        self.colour(colour)?.probe.as_ref().with_context(|| format!("{colour} was not probed: {self:?}"))
    }

    /// What a source was seen to say; an error before it was asked.
    pub fn source_status(&self, source: &str) -> Result<&SourceStatus> {
        self.sources.get(source).with_context(|| format!("nothing was seen of {source}: {self:?}"))
    }

    /// The set-up problem of this kind, if it is there.
    pub fn problem(&self, kind: &str) -> Option<&SetupProblem> {
        self.setup.iter().find(|problem| problem.problem == kind)
    }

    /// What a change changes, without what moves anyway: requests under way and probes.
    pub fn settings(&self) -> (u64, &str, f64, f64, Option<&str>) {
        (self.revision, &self.active, self.canary_percent, self.shadow_percent, self.changed_at.as_deref())
    }
}

// === impl Call ===

impl Call {
    /// Adds query parameters. Their values are escaped.
    #[must_use]
    pub fn query(mut self, parameters: &[(&str, &str)]) -> Self {
        self.query.extend(parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Past the rules about readiness.
    #[must_use]
    pub fn force(self) -> Self {
        self.query(&[("force", "true")])
    }

    /// Only if the deployment is still at `revision`.
    #[must_use]
    pub fn if_match(self, revision: u64) -> Self {
        self.header("if-match", &format!("\"{revision}\""))
    }

    /// A JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Any body.
    #[must_use]
    pub fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// Sends it and reads the whole answer, which has to be as the API's description says.
    pub async fn send(self) -> Result<Reply> {
        let Self { url, method, path, .. } = self;
        let answer = self.request.query(&self.query).send().await.with_context(|| format!("no answer from {url}"))?;
        let status = answer.status().as_u16();
        let headers = answer.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let headers = headers.collect();
        let text = answer.text().await.with_context(|| format!("the answer of {url} broke off"))?;
        let reply = Reply { status, headers, text };
        reply.ensure_described(method.as_str(), &path)?;
        Ok(reply)
    }
}

// === impl Reply ===

impl Reply {
    /// The deployment, which every worker follows: an error if some have not confirmed.
    pub fn in_force(&self) -> Result<Deployment> {
        ensure!(self.status == 200, "the answer is {self:?}");
        self.deployment()
    }

    fn ensure_described(&self, method: &str, path: &str) -> Result<()> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, body) = (self.status, self.text.as_bytes());
        let exchange = Exchange { method, path, status, headers: &headers, body };
        Description::shipped().check(&exchange).map_err(Error::msg)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        self.decode()
    }

    /// The reply itself when its status is 2xx; else an error that shows it.
    pub fn accepted(&self) -> Result<&Self> {
        ensure!((200..300).contains(&self.status), "the admin API refused: {self:?}");
        Ok(self)
    }

    /// The state of the deployment that a successful answer carries.
    pub fn deployment(&self) -> Result<Deployment> {
        self.accepted()?.decode()
    }

    fn decode<T: for<'a> Deserialize<'a>>(&self) -> Result<T> {
        serde_json::from_str(&self.text).with_context(|| format!("unexpected body: {self:?}"))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.header("content-type").unwrap_or("no content-type");
        write!(formatter, "{} ({kind}) {}", self.status, self.text)
    }
}
