//! A request of the filter's own to a colour, and what came back.

use std::time::Duration;

use crate::model::name::ClusterName;

/// A request to an Envoy cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Where to.
    pub cluster: ClusterName,
    /// Pseudo-headers and headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Vec<u8>>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpReply {
    /// An answer, of the model server or of Envoy on its behalf (503 when it cannot be reached, 504 on a timeout).
    Answered {
        /// Its status.
        status: u16,
        /// Its body, or the beginning of a very long one.
        body: Vec<u8>,
    },
    /// The stream broke before there was an answer.
    Broken,
    /// Envoy does not know the cluster.
    UnknownCluster(ClusterName),
}

// === impl HttpRequest ===

impl HttpRequest {
    /// A request with the headers that every request of the filter's own has.
    pub fn new(cluster: &ClusterName, host: &str, method: &str, path: &str, timeout: Duration) -> Self {
        let headers = [(":method", method), (":path", path), (":authority", host), ("user-agent", "bluegreen")];
        Self {
            cluster: cluster.clone(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            body: None,
            timeout,
        }
    }
}

// === impl HttpReply ===

impl HttpReply {
    /// What was seen, in words for an operator, with the beginning of the body of an answer that went wrong.
    pub fn describe(&self, timeout: Duration) -> String {
        match self {
            HttpReply::Answered { status: 504, body } if body.starts_with(b"upstream request timeout") => {
                format!("no answer within {}", humantime::format_duration(timeout))
            }
            HttpReply::Answered { status, body } if *status >= 400 && !body.trim_ascii().is_empty() => {
                let text: String =
                    String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
                format!("answered {status}: {text}")
            }
            HttpReply::Answered { status, .. } => format!("answered {status}"),
            HttpReply::Broken => "the connection broke before an answer".to_owned(),
            HttpReply::UnknownCluster(cluster) => format!("cluster '{cluster}' is not known to this Envoy"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_was_seen_is_told_in_words() {
        let answered = |status, body: &str| HttpReply::Answered { status, body: body.as_bytes().to_vec() };
        let cases = [
            (answered(200, "fine"), "answered 200"),
            (answered(500, " \n"), "answered 500"),
            (answered(500, "model\nnot loaded"), "answered 500: modelnot loaded"),
            (answered(504, "upstream request timeout"), "no answer within 1s"),
            (answered(504, "mine"), "answered 504: mine"),
            (HttpReply::Broken, "the connection broke before an answer"),
        ];
        for (reply, words) in cases {
            assert_eq!(reply.describe(Duration::from_secs(1)), words);
        }
        let unknown = HttpReply::UnknownCluster(ClusterName::new("gren").expect("valid"));
        assert_eq!(unknown.describe(Duration::ZERO), "cluster 'gren' is not known to this Envoy");
    }
}
