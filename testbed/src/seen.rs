//! What an upstream saw of a request.

use hyper::Request;
use hyper::body::Incoming;

/// The head of a request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers; each repetition is an entry of its own.
    pub headers: Vec<(String, Vec<u8>)>,
}

// === impl Seen ===

impl Seen {
    /// What is in `request`, body aside.
    pub fn of(request: &Request<Incoming>) -> Self {
        let path = request.uri().path_and_query().map_or_else(String::new, |path| path.as_str().to_owned());
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
        Self { method: request.method().to_string(), path, headers }
    }

    /// All values of one header (its name in lower case).
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(seen, _)| seen == name).map(|(_, value)| value.as_slice()).collect()
    }
}
