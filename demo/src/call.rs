//! One HTTP request that can be shown as the curl command a user would type, and sent.
//!
//! Both come from the same value, so what is printed is what was done. curl itself is not run: it may be missing, and
//! starting it would be most of the time that a switch takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bluegreen_testbed::admin::Reply;
use reqwest::{Client, Method};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The flower on which the two model versions differ: version 1 takes it for a versicolor (1), version 2 for what it
/// is, a virginica (2). It is row 121 of the data set, which neither was fitted on.
pub const FLOWER: &str = r#"{"inputs": [[5.6, 2.8, 4.9, 2.0]]}"#;

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    show_headers: bool,
    patience: Duration,
}

/// What came back, and when.
#[derive(Debug)]
pub struct Answered {
    pub reply: Reply,
    /// Just before the request was sent.
    pub called: Instant,
    /// When the answer had been read.
    pub at: Instant,
}

// === impl Call ===

impl Call {
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: None, show_headers: false, patience: TIMEOUT }
    }

    pub fn get(url: impl Into<String>) -> Self {
        Self::new(Method::GET, url)
    }

    /// A prediction for [`FLOWER`], asked from what listens at `base`.
    pub fn predict(base: &str) -> Self {
        Self { show_headers: true, ..Self::invocation(base, FLOWER) }
    }

    /// A prediction for this body, asked from what listens at `base`.
    pub fn invocation(base: &str, body: impl Into<String>) -> Self {
        let call = Self::new(Method::POST, format!("{base}/invocations"));
        Self { body: Some(body.into()), ..call }.header("content-type", "application/json")
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Waits longer for the answer than for others.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The command, ready to be pasted into a shell.
    pub fn curl(&self) -> String {
        let mut command = String::from("curl -s");
        if self.show_headers {
            command += "i";
        }
        let implied = if self.body.is_some() { Method::POST } else { Method::GET };
        if self.method != implied {
            command += &format!(" -X {}", self.method);
        }
        command += &format!(" {}", quoted(&self.url));
        for (name, value) in &self.headers {
            command += &format!(" \\\n    -H {}", quoted(&format!("{name}: {value}")));
        }
        if let Some(body) = &self.body {
            command += &format!(" \\\n    -d {}", quoted(body));
        }
        command
    }

    pub async fn send(&self, http: &Client) -> Result<Answered> {
        let mut request = http.request(self.method.clone(), &self.url).timeout(self.patience);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.clone());
        }
        let called = Instant::now();
        let answer = request.send().await.with_context(|| format!("no answer from {}", self.url))?;
        let status = answer.status().as_u16();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers: BTreeMap<_, _> =
            answer.headers().iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        let body = answer.text().await.with_context(|| format!("the answer of {} broke off", self.url))?;
        Ok(Answered { reply: Reply { status, headers, text: body }, called, at: Instant::now() })
    }
}

// === impl Answered ===

impl Answered {
    /// From the call to its answer.
    pub fn took(&self) -> Duration {
        self.at - self.called
    }

    pub fn header(&self, name: &str) -> &str {
        self.reply.header(name).unwrap_or("absent")
    }
}

/// One word for the shell. Plain words stay plain, because that is how people type them.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

// === tests ===

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_plain_get_is_a_plain_curl() {
        assert_eq!(Call::get("http://127.0.0.1:1235/ping").curl(), "curl -s http://127.0.0.1:1235/ping");
    }

    #[test]
    fn a_write_names_its_method_and_quotes_what_a_shell_would_eat() {
        let call = Call::new(Method::PATCH, "http://h/iris?canary_percent=10&reason=x").token("demo-operator-token");
        assert_eq!(
            call.curl(),
            "curl -s -X PATCH 'http://h/iris?canary_percent=10&reason=x' \\\n    \
             -H 'authorization: Bearer demo-operator-token'"
        );
    }

    #[test]
    fn a_prediction_shows_the_answers_headers_and_implies_its_method() {
        let command = Call::predict("http://h").curl();
        assert!(command.starts_with("curl -si http://h/invocations \\\n"), "{command}");
        assert!(command.ends_with(&format!("-d '{FLOWER}'")), "{command}");
    }

    #[test]
    fn a_shell_reads_a_quoted_word_as_it_was() {
        for word in ["", "plain", "it's", "a b", "$(x)", r"\", "\"", "?*&"] {
            let echo = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(echo.stdout).unwrap(), word);
        }
    }
}
