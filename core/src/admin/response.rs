//! What the client gets: status, headers and a JSON body.

use serde::Serialize;

use super::problems::Problem;
use super::views::DeploymentView;
use crate::model::split::Revision;

/// An answer, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u32,
    /// Header names in lower case, and values.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, with a line break at its end for those who read it in a terminal.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct ProblemDocument<'a> {
    r#type: String,
    title: &'static str,
    status: u32,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a DeploymentView<'a>>,
}

/// On every answer: a browser is to keep none, to show none as anything but what it is, and to put none into a page.
const FOR_BROWSERS: [(&str, &str); 3] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
];

// === impl Response ===

impl Response {
    /// A JSON answer.
    pub fn json(status: u32, document: &impl Serialize) -> Self {
        Self::with_type(status, "application/json", document)
    }

    /// The answer to a call that was not done, with the state that refused it if one did.
    pub fn problem(problem: &Problem, state: Option<&DeploymentView<'_>>) -> Self {
        let (status, kind, title) = problem.kind();
        let r#type = format!("urn:bluegreen:problem:{kind}");
        let document = ProblemDocument { r#type, title, status, detail: problem.to_string(), state };
        let mut response = Self::with_type(status, "application/problem+json", &document);
        if let Some(state) = state {
            response = response.with_etag(state.revision());
        }
        response.headers.extend(problem.header().map(|(name, value)| (name, value.to_owned())));
        response
    }

    /// The same with the `ETag` of a deployment's state.
    pub fn with_etag(mut self, revision: Revision) -> Self {
        self.headers.push(("etag", format!("\"{revision}\"")));
        self
    }

    /// An answer with a JSON document that is written already.
    pub fn described(body: Vec<u8>) -> Self {
        Self::with_body(200, "application/json", body)
    }

    fn with_type(status: u32, content_type: &str, document: &impl Serialize) -> Self {
        // Serialising to memory cannot fail for these types.
        let mut body = serde_json::to_vec(document).unwrap_or_default();
        body.push(b'\n');
        Self::with_body(status, content_type, body)
    }

    fn with_body(status: u32, content_type: &str, body: Vec<u8>) -> Self {
        let headers = [("content-type", content_type)].into_iter().chain(FOR_BROWSERS);
        Self { status, headers: headers.map(|(name, value)| (name, value.to_owned())).collect(), body }
    }
}
