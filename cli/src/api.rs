//! The admin API of one Envoy: what it is asked, what it answers, and what its refusals mean to the one at the keyboard.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bluegreen_core::model::colour::{Colour, PerColour};
use bluegreen_core::model::time::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Request;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use crate::style;

/// The admin API of one Envoy.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    token: Option<Token>,
}

/// What shows who calls.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// As it is sent.
    pub secret: String,
    /// Where it is from, for messages.
    pub origin: String,
}

/// A call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    method: &'static str,
    path: String,
    query: Vec<(&'static str, &'a str)>,
    if_match: Option<u64>,
    timeout: Duration,
}

/// What was answered: as it came, and as it is understood.
#[derive(Clone, Debug)]
pub struct Reply<T> {
    /// As it came.
    pub raw: Value,
    /// As it is understood.
    pub view: T,
    /// Whether all workers have confirmed (200), or not yet (202).
    pub is_confirmed: bool,
}

/// Why there is no answer to show.
#[derive(Clone, Debug)]
pub enum ApiError {
    /// Nobody answers there.
    Unreachable {
        /// Where.
        url: String,
        /// What was seen.
        why: String,
    },
    /// Something else answers there.
    NotTheApi {
        /// Where.
        url: String,
        /// What it said.
        said: String,
    },
    /// The API refuses.
    Refused(Box<Problem>),
}

/// A refusal, as RFC 9457 has it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The status.
    pub status: u16,
    /// The last part of its type.
    pub kind: String,
    /// In the API's words.
    pub detail: String,
    /// The state that refused it.
    pub state: Option<Deployment>,
    /// Where the token was from, if there was one.
    origin: Option<String>,
    /// As it came.
    pub raw: Value,
}

/// A deployment.
#[derive(Clone, Debug, Deserialize)]
pub struct Deployment {
    pub name: String,
    pub revision: u64,
    pub active: Colour,
    pub candidate: Colour,
    pub canary_percent: f64,
    pub shadow_percent: f64,
    #[serde(default)]
    pub kept: Option<Kept>,
    pub colours: PerColour<ColourState>,
    pub in_force: InForce,
    pub changed_at: Timestamp,
    pub changed_by: String,
    pub source: String,
    #[serde(default)]
    pub reason: String,
    /// In a fleet only.
    #[serde(default)]
    pub stale: Option<bool>,
    #[serde(default)]
    pub setup: Vec<SetupProblem>,
    #[serde(default)]
    pub rollout: Option<Rollout>,
}

/// What the former colour keeps after a promotion.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Kept {
    pub percent: f64,
    pub until: Timestamp,
}

/// A colour of a deployment.
#[derive(Clone, Debug, Deserialize)]
pub struct ColourState {
    pub cluster: String,
    pub version: String,
    #[serde(default)]
    pub waiting: Option<Waiting>,
    #[serde(default)]
    pub in_flight: u64,
    #[serde(default)]
    pub safe_to_stop: bool,
    #[serde(default)]
    pub probe: Option<Probe>,
}

/// What is to come behind a colour.
#[derive(Clone, Debug, Deserialize)]
pub struct Waiting {
    pub version: String,
    pub why: String,
}

/// What the probes found.
#[derive(Clone, Debug, Deserialize)]
pub struct Probe {
    pub healthy: bool,
    pub detail: String,
}

/// How many workers follow the state.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct InForce {
    pub confirmed: u64,
    pub of: u64,
    #[serde(default)]
    pub silent: Vec<u64>,
}

/// What is wrong around the filter.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct SetupProblem {
    pub problem: String,
    pub detail: String,
}

/// A rollout. Its phase is a text: a newer Envoy may have others.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Rollout {
    pub phase: String,
    pub step: u64,
    pub steps: u64,
    pub began: Timestamp,
    pub since: Timestamp,
    #[serde(default)]
    pub waits_for: Vec<String>,
    #[serde(default)]
    pub evidence: Option<String>,
}

/// A page of deployments.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    pub deployments: Vec<Deployment>,
    #[serde(default)]
    pub next: Option<String>,
}

/// The result of a smoke test.
#[derive(Clone, Debug, Deserialize)]
pub struct TestResult {
    pub candidate: Colour,
    pub version: String,
    pub passed: bool,
    #[serde(default)]
    pub valid_until: Option<Timestamp>,
    pub results: Vec<RequestResult>,
}

/// The result of one request of a smoke test.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestResult {
    pub method: String,
    pub path: String,
    pub passed: bool,
    #[serde(default)]
    pub detail: String,
}

/// The comparison of both colours.
#[derive(Clone, Debug, Deserialize)]
pub struct Comparison {
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// Where answers to copied requests are compared.
    #[serde(default)]
    pub shadow: Option<Shadow>,
    pub windows: BTreeMap<String, Window>,
}

/// What the candidate's answers to copied requests say. Shares are 0 to 1.
#[derive(Clone, Debug, Deserialize)]
pub struct Shadow {
    pub compared: u64,
    pub disagreed: u64,
    pub agreement: Option<f64>,
    pub noise: Noise,
    pub excess: Excess,
    /// By reason.
    pub dropped: BTreeMap<String, u64>,
    pub fields: BTreeMap<String, ComparedField>,
    pub confusion: Option<Confusion>,
    pub latency: ShadowLatencies,
    pub sentence: String,
}

/// How often the active colour disagrees with itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Noise {
    pub sampled: u64,
    pub disagreed: u64,
    pub rate: Option<f64>,
    pub failed: u64,
}

/// How much more often the candidate disagrees with the active colour, and the interval of that.
#[derive(Clone, Debug, Deserialize)]
pub struct Excess {
    pub estimate: Option<f64>,
    pub low: f64,
    pub high: f64,
    pub max: f64,
}

/// What was found in a field.
#[derive(Clone, Debug, Deserialize)]
pub struct ComparedField {
    pub compared: u64,
    pub disagreed: u64,
    pub noise: Option<f64>,
    pub excess: Option<f64>,
    pub is_noise: bool,
    #[serde(default)]
    pub numbers: Option<Numbers>,
}

/// Differences between numbers. What is measured is a text: a newer Envoy may measure something else.
#[derive(Clone, Debug, Deserialize)]
pub struct Numbers {
    pub of: String,
    pub count: u64,
    pub bias: Option<f64>,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub max: f64,
}

/// How often which label met which, in one field: by the active colour's, then the candidate's.
#[derive(Clone, Debug, Deserialize)]
pub struct Confusion {
    pub field: String,
    pub cells: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How long both colours took for the requests that were compared.
#[derive(Clone, Debug, Deserialize)]
pub struct ShadowLatencies {
    pub active: ShadowLatency,
    pub candidate: ShadowLatency,
}

/// How long one of them took, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ShadowLatency {
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// The last inputs to which the colours answered differently, newest first.
#[derive(Clone, Debug, Deserialize)]
pub struct Disagreements {
    pub active: Colour,
    pub candidate: Colour,
    pub disagreements: Vec<Disagreement>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Disagreement {
    pub at: Timestamp,
    #[serde(default)]
    pub request_id: Option<String>,
    pub field: String,
    pub active: String,
    pub candidate: String,
    /// What the active colour said when it was asked again.
    #[serde(default)]
    pub again: Option<String>,
    pub input_hash: String,
    #[serde(default)]
    pub input: Option<String>,
    /// How often this input was answered differently.
    pub times: u64,
}

/// What the guard says.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    pub sentence: String,
    pub stage: String,
    #[serde(default)]
    pub breached: Option<String>,
}

/// A period of a comparison.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    pub seconds: f64,
    pub colours: PerColour<Figures>,
}

/// One colour's figures.
#[derive(Clone, Debug, Deserialize)]
pub struct Figures {
    pub requests: u64,
    pub rate: f64,
    pub error_rate: Option<f64>,
    pub unanswered: u64,
    pub ttfb_ms: Percentiles,
    pub total_ms: Percentiles,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// The changes of a deployment, newest first.
#[derive(Clone, Debug, Deserialize)]
pub struct Changes {
    pub changes: Vec<Change>,
}

/// A change.
#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    pub revision: u64,
    pub at: Timestamp,
    pub by: String,
    pub source: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub forced: bool,
    pub from: Split,
    pub to: Split,
    #[serde(default)]
    pub rollout: Option<String>,
    #[serde(default)]
    pub replaced: Option<Replaced>,
}

/// Where traffic goes.
#[derive(Clone, Debug, Deserialize)]
pub struct Split {
    pub active: Colour,
    pub canary_percent: f64,
    pub shadow_percent: f64,
}

/// Something else behind a colour.
#[derive(Clone, Debug, Deserialize)]
pub struct Replaced {
    pub colour: Colour,
    pub from: Identity,
    pub to: Identity,
}

/// What is behind a colour.
#[derive(Clone, Debug, Deserialize)]
pub struct Identity {
    pub cluster: String,
    pub version: String,
}

/// Of the shipped configuration.
pub const DEFAULT_URL: &str = "http://127.0.0.1:10001/bluegreen";

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long to wait for what only has to be looked up.
const READ: Duration = Duration::from_secs(15);

/// How long to wait for a change: a probe may take four minutes.
const WRITE: Duration = Duration::from_secs(300);

/// How long to wait for a smoke test: each of its requests may take four minutes.
const TEST: Duration = Duration::from_secs(3_600);

/// More than any answer has.
const LARGEST_ANSWER: u64 = 64 << 20;

/// What the API's texts say to those who call it, and what it is here.
const IN_COMMANDS: [(&str, &str); 9] = [
    ("POST …/test without colour", "bluegreen test NAME without --colour"),
    ("POST …/test", "bluegreen test NAME"),
    ("GET …/v1/deployments lists them", "bluegreen status lists them"),
    ("PATCH canary_percent=0 ends that", "bluegreen canary NAME 0 ends that"),
    ("use promote, or PATCH active=", "use bluegreen promote NAME --to COLOUR"),
    ("use rollback, or promote to=", "use bluegreen rollback NAME, or bluegreen promote NAME --to "),
    ("use promote to=", "use bluegreen promote NAME --to "),
    ("force=true switches", "--force switches"),
    ("Repeat the call", "Repeat the command"),
];

// === impl Client ===

impl Client {
    /// A client of the API at `url`, which has its prefix: `http://127.0.0.1:10001/bluegreen`.
    ///
    /// # Errors
    /// The URL is none, or the file has no certificate.
    pub fn new(url: &str, token: Option<Token>, ca_cert: Option<&Path>) -> Result<Self> {
        let base = url.trim_end_matches('/').to_owned();
        let uri: ureq::http::Uri = base.parse().with_context(|| format!("{url:?} is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            bail!("{url:?} is not a URL of the API: give one such as http://127.0.0.1:10001/bluegreen");
        }
        if uri.query().is_some() {
            bail!("{url:?} has a query: give the URL up to the path prefix, such as http://127.0.0.1:10001/bluegreen");
        }
        let roots = match ca_cert {
            None => RootCerts::PlatformVerifier,
            Some(path) => {
                let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let certificates: Vec<_> = parse_pem(&file)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if certificates.is_empty() {
                    bail!("{} has no certificate in PEM format", path.display());
                }
                RootCerts::Specific(Arc::new(certificates))
            }
        };
        let host = uri.host().unwrap_or_default();
        let is_local = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            // What this machine says is not fetched through a proxy.
            .proxy(if is_local { None } else { Proxy::try_from_env() })
            // Another connection may reach another worker: what it says is not the word of one thread only.
            .max_idle_connections(0)
            .user_agent(concat!("bluegreen/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .into();
        Ok(Self { agent, base, token })
    }

    /// Asks, and understands the answer as a `T`.
    ///
    /// # Errors
    /// There is no answer, or a refusal.
    pub fn send<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<Reply<T>, ApiError> {
        let (status, body) = self.exchange(call)?;
        let raw: Option<Value> = serde_json::from_slice(&body).ok();
        if (200..300).contains(&status) {
            let understood = raw.and_then(|raw| Some((T::deserialize(&raw).ok()?, raw)));
            let Some((view, raw)) = understood else { return Err(self.not_the_api(status, &body)) };
            return Ok(Reply { raw, view, is_confirmed: status != 202 });
        }
        let origin = self.token.as_ref().map(|token| token.origin.clone());
        match raw.and_then(|raw| Problem::new(status, raw, origin)) {
            Some(problem) => Err(ApiError::Refused(Box::new(problem))),
            None => Err(self.not_the_api(status, &body)),
        }
    }

    fn exchange(&self, call: &Call<'_>) -> Result<(u16, Vec<u8>), ApiError> {
        let unreachable = |error: ureq::Error| ApiError::Unreachable { url: self.base.clone(), why: why(&error) };
        let mut url = format!("{}/{}", self.base, call.path);
        for (at, (name, value)) in call.query.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            url.push_str(&format!("{mark}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
        let mut request = Request::builder().method(call.method).uri(&url);
        if let Some(Token { secret, .. }) = &self.token {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        if let Some(revision) = call.if_match {
            request = request.header("if-match", format!("\"{revision}\""));
        }
        let timeout = Some(call.timeout);
        let mut response = if call.method == "GET" {
            let request = request.body(()).map_err(|error| unreachable(error.into()))?;
            self.agent.run(self.agent.configure_request(request).timeout_global(timeout).build())
        } else {
            let request = request.body("").map_err(|error| unreachable(error.into()))?;
            self.agent.run(self.agent.configure_request(request).timeout_global(timeout).build())
        }
        .map_err(unreachable)?;
        let body = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec().map_err(unreachable)?;
        Ok((response.status().as_u16(), body))
    }

    fn not_the_api(&self, status: u16, body: &[u8]) -> ApiError {
        let text = String::from_utf8_lossy(body);
        let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("an empty body");
        ApiError::NotTheApi { url: self.base.clone(), said: format!("{status}, {}", style::shortened(first, 120)) }
    }

    /// All deployments, page by page.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn deployments(&self) -> Result<Reply<Vec<Deployment>>, ApiError> {
        let (mut raw, mut view, mut after) = (Vec::new(), Vec::new(), None::<String>);
        loop {
            let mut call = Call::get("v1/deployments".to_owned());
            if let Some(after) = &after {
                call.query.push(("after", after));
            }
            let page: Reply<Page> = self.send(&call)?;
            raw.extend(page.raw.get("deployments").and_then(Value::as_array).cloned().unwrap_or_default());
            view.extend(page.view.deployments);
            match page.view.next {
                // A server that turned round would never end.
                Some(next) if after.as_ref().is_none_or(|last| *last < next) => after = Some(next),
                _ => break,
            }
        }
        Ok(Reply { raw: serde_json::json!({"deployments": raw}), view, is_confirmed: true })
    }

    /// One deployment.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn deployment(&self, name: &str) -> Result<Reply<Deployment>, ApiError> {
        self.send(&Call::get(of(name, "")))
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.base
    }
}

/// The path of a deployment, and of what is under it.
pub fn of(name: &str, under: &str) -> String {
    let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
    format!("v1/deployments/{name}{under}")
}

/// Why there was no answer, in the words of the system.
fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(timeout) => format!("no answer in time ({timeout})"),
        ureq::Error::HostNotFound => "no such host".to_owned(),
        error => error.to_string(),
    }
}

// === impl Call ===

impl<'a> Call<'a> {
    /// Looks something up.
    pub fn get(path: String) -> Self {
        Self { method: "GET", path, query: Vec::new(), if_match: None, timeout: READ }
    }

    /// Does something.
    pub fn post(path: String) -> Self {
        Self { method: "POST", path, query: Vec::new(), if_match: None, timeout: WRITE }
    }

    /// Sets something.
    pub fn patch(path: String) -> Self {
        Self { method: "PATCH", ..Self::post(path) }
    }

    /// With a parameter.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'a str) -> Self {
        self.query.push((name, value));
        self
    }

    /// Only on this revision.
    #[must_use]
    pub fn if_match(mut self, revision: u64) -> Self {
        self.if_match = Some(revision);
        self
    }

    /// As long as a smoke test takes.
    #[must_use]
    pub fn lasting_as_a_test(mut self) -> Self {
        self.timeout = TEST;
        self
    }

    /// Waits so long, and a little longer.
    #[must_use]
    pub fn at_least(mut self, time: Duration) -> Self {
        self.timeout = time.saturating_add(READ);
        self
    }
}

// === impl Problem ===

impl Problem {
    fn new(status: u16, raw: Value, origin: Option<String>) -> Option<Self> {
        let kind = raw.get("type")?.as_str()?.strip_prefix("urn:bluegreen:problem:")?.to_owned();
        let detail = raw.get("detail").or_else(|| raw.get("title"))?.as_str()?.to_owned();
        let state = raw.get("state").and_then(|state| Deployment::deserialize(state).ok());
        Some(Self { status, kind, detail, state, origin, raw })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.state.as_ref().map(|state| state.name.as_str());
        match (self.status, &self.origin, &self.state) {
            (401, None, _) => f.write_str(
                "the API wants a token: set BLUEGREEN_TOKEN, or give --token-file FILE, or name one in the context",
            ),
            (401, Some(origin), _) => write!(
                f,
                "this Envoy does not know the token from {origin}: its SHA-256 has to be under admin.tokens of the configuration"
            ),
            (403, Some(origin), _) => write!(f, "{} The token came from {origin}.", self.detail),
            (412, _, Some(state)) => write!(
                f,
                "somebody changed {} meanwhile: {}, by {} ({}){}. Nothing was done. Repeat the command if you still want it.",
                state.name,
                state.traffic(),
                state.changed_by,
                state.source,
                if state.reason.is_empty() { String::new() } else { format!(", {:?}", state.reason) },
            ),
            _ => {
                let mut text = self.detail.clone();
                for (theirs, ours) in IN_COMMANDS {
                    let ours = name.map_or_else(|| ours.to_owned(), |name| ours.replace("NAME", name));
                    text = text.replace(theirs, &ours);
                }
                f.write_str(&text)?;
                match (self.kind.as_str(), name) {
                    ("rollout-under-way", Some(name)) => write!(f, " bluegreen rollout follow {name} shows it."),
                    _ => Ok(()),
                }
            }
        }
    }
}

// === impl ApiError ===

impl ApiError {
    /// Whether the same call may be answered a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // A gateway in front of it, or an Envoy that starts.
            Self::NotTheApi { said, .. } => said.starts_with('5'),
            Self::Refused(problem) => problem.status >= 500,
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        match self {
            Self::Refused(problem) => problem.raw.clone(),
            other => serde_json::json!({"error": other.to_string()}),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, why } if url == DEFAULT_URL => {
                write!(f, "cannot reach the API at {url}: {why}. Is it elsewhere? Give --url URL, or set BLUEGREEN_URL")
            }
            Self::Unreachable { url, why } => write!(f, "cannot reach the API at {url}: {why}"),
            Self::NotTheApi { url, said } => write!(
                f,
                "what answers at {url} is not bluegreen's API ({said}): give the URL of the admin listener with its path prefix, \
                 such as http://127.0.0.1:10001/bluegreen"
            ),
            Self::Refused(problem) => problem.fmt(f),
        }
    }
}

impl std::error::Error for ApiError {}

// === impl Token ===

/// Not the secret: what is debugged is shown to others.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

// === impl Deployment ===

impl Deployment {
    /// `green (version 2)`.
    pub fn side(&self, colour: Colour) -> String {
        format!("{} (version {})", colour.as_str(), self.colours.get(colour).version)
    }

    /// Where traffic goes, in words.
    pub fn traffic(&self) -> String {
        let (active, candidate) = (self.side(self.active), self.side(self.candidate));
        let mut text = match (self.canary_percent, &self.kept) {
            (0.0, _) => format!("{active} gets all traffic"),
            (share, Some(kept)) => format!(
                "{active} gets {}, and {candidate} keeps {} until {}",
                style::percent(100.0 - share),
                style::percent(share),
                style::time_of_day(kept.until),
            ),
            (share, None) => {
                format!("{active} gets {}, {candidate} {}", style::percent(100.0 - share), style::percent(share))
            }
        };
        if self.shadow_percent > 0.0 {
            text.push_str(&format!(", and {candidate} copies of {}", style::percent(self.shadow_percent)));
        }
        text
    }

    /// The rollout, unless it is over.
    pub fn live_rollout(&self) -> Option<&Rollout> {
        let is_over = |phase: &str| matches!(phase, "promoted" | "aborted" | "rolled_back" | "replaced");
        self.rollout.as_ref().filter(|rollout| !is_over(&rollout.phase))
    }

    /// What two Envoys have to agree about.
    pub fn settings(&self) -> impl PartialEq + use<'_> {
        let side = |colour| {
            let side = self.colours.get(colour);
            (side.cluster.as_str(), side.version.as_str())
        };
        let rollout = self.live_rollout().map(|rollout| (rollout.phase.as_str(), rollout.step));
        let split = (self.active, self.canary_percent.to_bits(), self.shadow_percent.to_bits(), self.kept.is_some());
        (split, side(Colour::Blue), side(Colour::Green), rollout)
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// A deployment as the API shows it.
    pub fn iris(change: impl FnOnce(&mut Value)) -> Deployment {
        let colour = |cluster: &str, version: &str| {
            json!({"cluster": cluster, "version": version, "in_flight": 0, "safe_to_stop": false,
                   "probe": {"healthy": true, "checked_at": "2026-11-23T18:10:08.500Z", "detail": "answered 200"}})
        };
        let mut iris = json!({
            "name": "iris", "revision": 7, "active": "blue", "candidate": "green", "canary_percent": 0, "shadow_percent": 0,
            "colours": {"blue": colour("blue", "1"), "green": colour("green", "2")},
            "in_force": {"revision": 7, "confirmed": 3, "of": 3, "silent": []},
            "workers": [{"id": 2, "revision": 7, "routed": 5, "last_seen": "2026-11-23T18:10:08.540Z"}],
            "changed_at": "2026-11-23T18:10:08.776Z", "changed_by": "ci", "source": "admin", "reason": "v2 passed", "setup": []});
        change(&mut iris);
        Deployment::deserialize(&iris).unwrap_or_else(|error| panic!("{error}: {iris}"))
    }

    fn problem(status: u16, detail: &str, state: Option<Value>, origin: Option<&str>) -> String {
        let mut raw = json!({"type": "urn:bluegreen:problem:x", "status": status, "detail": detail});
        if let Some(state) = state {
            raw["state"] = state;
        }
        Problem::new(status, raw, origin.map(str::to_owned)).map(|problem| problem.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_refusal_says_what_to_do_at_a_keyboard() {
        let iris = json!({"name": "iris", "revision": 8, "active": "green", "candidate": "blue", "canary_percent": 0,
            "shadow_percent": 0, "colours": {"blue": {"cluster": "b", "version": "1"}, "green": {"cluster": "g", "version": "2"}},
            "in_force": {"revision": 8, "confirmed": 1, "of": 1}, "changed_at": "2026-11-23T18:10:08Z", "changed_by": "anna",
            "source": "admin", "reason": "mine"});
        let cases = [
            (problem(401, "Send the header", None, None), "set BLUEGREEN_TOKEN"),
            (
                problem(401, "Send the header", None, Some("BLUEGREEN_TOKEN")),
                "does not know the token from BLUEGREEN_TOKEN",
            ),
            (
                problem(403, "\"qa\" is a viewer.", None, Some("--token")),
                "\"qa\" is a viewer. The token came from --token.",
            ),
            (
                problem(412, "", Some(iris.clone()), None),
                "somebody changed iris meanwhile: green (version 2) gets all traffic, by anna (admin), \"mine\".",
            ),
            (
                problem(409, "not tested: POST …/test first. force=true switches all the same.", Some(iris), None),
                "not tested: bluegreen test iris first. --force switches all the same.",
            ),
        ];
        for (said, part) in cases {
            assert!(said.contains(part), "{part:?} is not in {said:?}");
        }
    }

    #[test]
    fn traffic_is_told_in_words() {
        let cases = [
            (json!({}), "blue (version 1) gets all traffic"),
            (json!({"canary_percent": 12.5}), "blue (version 1) gets 87.5 %, green (version 2) 12.5 %"),
            (json!({"shadow_percent": 5}), "blue (version 1) gets all traffic, and green (version 2) copies of 5 %"),
            (
                json!({"active": "green", "candidate": "blue", "canary_percent": 2,
                       "kept": {"percent": 2, "until": "2026-11-23T18:20:08Z"}}),
                "green (version 2) gets 98 %, and blue (version 1) keeps 2 % until 18:20:08Z",
            ),
        ];
        for (change, said) in cases {
            let iris = iris(|iris| {
                let members = change.as_object().into_iter().flatten();
                members.for_each(|(name, value)| iris[name] = value.clone());
            });
            assert_eq!(iris.traffic(), said);
        }
    }

    #[test]
    fn a_url_that_is_none_is_named() {
        for url in ["127.0.0.1:10001", "ftp://host/bluegreen", "http://", "", "http://host/bluegreen?x=1"] {
            let error = Client::new(url, None, None).map_err(|error| format!("{error:#}")).err().unwrap_or_default();
            assert!(error.contains(url), "{url:?}: {error:?}");
        }
        assert!(Client::new("https://envoy.example:10001/bluegreen/", None, None).is_ok());
    }
}
