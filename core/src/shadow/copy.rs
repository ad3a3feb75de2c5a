//! One request of which a copy is kept, and of the active colour's answer to it, while the client's exchange goes its way.
//!
//! Nothing here holds the exchange up. What does not fit is let go of at once, with the reason.

use std::time::Duration;

use super::dropped::Dropped;
use crate::config::Compare;

/// A copy under way.
#[derive(Debug)]
pub struct Copy {
    request: CopiedRequest,
    /// The most bytes that are kept of a body.
    most: usize,
    answer: Option<CopiedAnswer>,
}

/// A request that can be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedRequest {
    /// Pseudo-headers and headers, without those of one connection and those that Envoy and this filter add.
    pub headers: Vec<(String, String)>,
    /// The body, as it came.
    pub body: Vec<u8>,
}

/// An answer as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedAnswer {
    /// Its status.
    pub status: u16,
    /// Its body, as it came.
    pub body: Vec<u8>,
    /// How much of the body is JSON, where the rest is the binary part of the Open Inference Protocol.
    pub json_length: Option<usize>,
    /// The time until its head came.
    pub took: Duration,
}

/// What the head of an answer says about its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerHead {
    /// `:status`
    pub status: u16,
    /// `content-type`
    pub content_type: Option<Vec<u8>>,
    /// `content-encoding`
    pub content_encoding: Option<Vec<u8>>,
    /// `content-length`, in bytes.
    pub content_length: Option<Vec<u8>>,
    /// `inference-header-content-length`, in bytes.
    pub json_length: Option<Vec<u8>>,
}

/// Tells a model server that a request is a copy, whose answer goes to nobody.
pub const COPY_HEADER: &str = "x-bluegreen-copy";

/// Headers of one connection (RFC 9110, section 7.6.1), and those that are made anew for a request of our own.
const LEFT_OUT: [&str; 12] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "accept-encoding",
    "host",
    ":scheme",
];

/// Headers that Envoy and this filter write for themselves.
const OWN: [&str; 2] = ["x-envoy-", "x-bluegreen-"];

/// What [`Copy`] keeps of a head: more is no request for a model.
const MOST_HEADERS: usize = 128;

// === impl Copy ===

impl Copy {
    /// Begins with a request that chance has drawn, by its headers.
    ///
    /// # Errors
    /// It cannot be sent again, or is too large.
    pub fn begin(headers: Vec<(String, String)>, rules: &Compare) -> Result<Self, Dropped> {
        let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if !rules.is_safe(header(":method").unwrap_or_default(), header(":path").unwrap_or_default()) {
            return Err(Dropped::NotSafe);
        }
        let is_stream = header("upgrade").is_some()
            || header("content-type")
                .is_some_and(|kind| media_type(kind.as_bytes()).to_ascii_lowercase().starts_with(b"application/grpc"));
        if is_stream {
            return Err(Dropped::Streaming);
        }
        let most = rules.max_body;
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        if headers.len() > MOST_HEADERS || length.is_some_and(|length| length > most) {
            return Err(Dropped::TooLarge);
        }
        let headers = headers.into_iter().filter(|(name, _)| is_sent_again(name)).collect();
        Ok(Self { request: CopiedRequest { headers, body: Vec::new() }, most, answer: None })
    }

    /// A piece of the request's body has come, of `size` bytes, which `read` gets.
    ///
    /// # Errors
    /// The body is too large.
    pub fn on_request_body(&mut self, size: usize, read: impl FnOnce() -> Vec<u8>) -> Result<(), Dropped> {
        append(&mut self.request.body, self.most, size, read)
    }

    /// The head of the active colour's own answer has come, after this time.
    ///
    /// # Errors
    /// The answer cannot be compared.
    pub fn on_answer(&mut self, head: &AnswerHead, took: Duration) -> Result<(), Dropped> {
        let number =
            |value: &Option<Vec<u8>>| std::str::from_utf8(value.as_deref()?).ok()?.trim().parse::<usize>().ok();
        if head.status >= 500 {
            return Err(Dropped::NotAnswered);
        }
        let kind = head.content_type.as_deref().map(media_type).unwrap_or_default();
        if kind.eq_ignore_ascii_case(b"text/event-stream") {
            return Err(Dropped::Streaming);
        }
        if head.content_encoding.as_deref().is_some_and(|encoding| encoding.trim_ascii() != b"identity") {
            return Err(Dropped::Encoding);
        }
        if number(&head.content_length).is_some_and(|length| length > self.most) {
            return Err(Dropped::TooLarge);
        }
        self.answer =
            Some(CopiedAnswer { status: head.status, body: Vec::new(), json_length: number(&head.json_length), took });
        Ok(())
    }

    /// A piece of that answer's body has come, of `size` bytes, which `read` gets.
    ///
    /// # Errors
    /// The body is too large.
    pub fn on_answer_body(&mut self, size: usize, read: impl FnOnce() -> Vec<u8>) -> Result<(), Dropped> {
        match &mut self.answer {
            Some(answer) => append(&mut answer.body, self.most, size, read),
            None => Err(Dropped::NotAnswered),
        }
    }

    /// All of both has come.
    ///
    /// # Errors
    /// There was no answer.
    pub fn finish(self) -> Result<(CopiedRequest, CopiedAnswer), Dropped> {
        Ok((self.request, self.answer.ok_or(Dropped::NotAnswered)?))
    }
}

/// The media type without its parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn is_sent_again(name: &str) -> bool {
    !LEFT_OUT.contains(&name) && !OWN.iter().any(|prefix| name.starts_with(prefix))
}

fn append(body: &mut Vec<u8>, most: usize, size: usize, read: impl FnOnce() -> Vec<u8>) -> Result<(), Dropped> {
    if body.len().saturating_add(size) > most {
        return Err(Dropped::TooLarge);
    }
    if size > 0 {
        body.extend_from_slice(&read());
    }
    Ok(())
}

// === impl CopiedRequest ===

impl CopiedRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::json;

    fn rules() -> Compare {
        json::from_str(r#"{"safe": [{"method": "POST", "path_prefix": "/invocations"}], "max_body": "1KiB"}"#)
            .expect("valid")
    }

    fn begin(more: &[(&str, &str)]) -> Result<Copy, Dropped> {
        let headers = [(":method", "POST"), (":path", "/invocations"), (":authority", "a")]
            .into_iter()
            .chain(more.iter().copied());
        Copy::begin(headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), &rules())
    }

    fn head(status: u16) -> AnswerHead {
        AnswerHead { status, content_type: Some(b"application/json".to_vec()), ..AnswerHead::default() }
    }

    #[test]
    fn a_request_that_cannot_be_sent_twice_is_refused_by_its_head() {
        let many: Vec<(String, String)> = (0..200).map(|number| (format!("x-{number}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let cases: [(&[(&str, &str)], Dropped); 5] = [
            (&[("upgrade", "websocket")], Dropped::Streaming),
            (&[("content-type", "application/grpc+proto")], Dropped::Streaming),
            (&[("content-type", "Application/gRPC; a=b")], Dropped::Streaming),
            (&[("content-length", "1025")], Dropped::TooLarge),
            (&many, Dropped::TooLarge),
        ];
        for (headers, reason) in cases {
            assert_eq!(begin(headers).err(), Some(reason), "{headers:?}");
        }
        let unsafe_one = Copy::begin(vec![(":method".to_owned(), "DELETE".to_owned())], &rules());
        assert_eq!(unsafe_one.err(), Some(Dropped::NotSafe));
    }

    #[test]
    fn the_headers_of_one_connection_and_of_envoy_are_not_sent_again() {
        let copy = begin(&[
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-bluegreen-cluster", "blue"),
            ("x-request-id", "r-1"),
            ("accept-encoding", "gzip"),
        ]);
        let mut copy = copy.expect("fits");
        copy.on_answer(&head(200), Duration::ZERO).expect("fits");
        let (request, _) = copy.finish().expect("whole");
        let names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [":method", ":path", ":authority", "x-request-id"]);
        assert_eq!(request.header("x-request-id"), Some("r-1"));
    }

    #[test]
    fn bodies_are_kept_up_to_the_limit_and_nothing_is_read_beyond_it() {
        let mut copy = begin(&[]).expect("fits");
        let piece = |size: usize| move || vec![b'x'; size];
        copy.on_request_body(1_000, piece(1_000)).expect("fits");
        copy.on_request_body(0, || panic!("nothing is read")).expect("fits");
        copy.on_request_body(24, piece(24)).expect("fits");
        assert_eq!(copy.on_request_body(1, || panic!("nothing is read")), Err(Dropped::TooLarge));
        copy.on_answer(&head(200), Duration::from_millis(5)).expect("fits");
        copy.on_answer_body(1_024, piece(1_024)).expect("fits");
        assert_eq!(copy.on_answer_body(1, || panic!("nothing is read")), Err(Dropped::TooLarge));
        let (request, answer) = copy.finish().expect("whole");
        assert_eq!((request.body.len(), answer.body.len(), answer.took), (1_024, 1_024, Duration::from_millis(5)));
    }

    #[test]
    fn an_answer_that_cannot_be_compared_is_let_go_of_by_its_head() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        let cases = [
            (
                AnswerHead { content_type: some("text/event-stream; charset=utf-8"), ..head(200) },
                Err(Dropped::Streaming),
            ),
            (AnswerHead { content_encoding: some("gzip"), ..head(200) }, Err(Dropped::Encoding)),
            (AnswerHead { content_encoding: some(" identity"), ..head(200) }, Ok(())),
            (AnswerHead { content_length: some("1025"), ..head(200) }, Err(Dropped::TooLarge)),
            (AnswerHead { content_length: some("no number"), ..head(200) }, Ok(())),
            (head(503), Err(Dropped::NotAnswered)),
            (head(422), Ok(())),
        ];
        for (head, expected) in cases {
            assert_eq!(begin(&[]).expect("fits").on_answer(&head, Duration::ZERO), expected, "{head:?}");
        }
        let mut without = begin(&[]).expect("fits");
        assert_eq!(without.on_answer_body(1, Vec::new), Err(Dropped::NotAnswered));
        assert_eq!(without.finish().err(), Some(Dropped::NotAnswered));
        let mut binary = begin(&[]).expect("fits");
        binary.on_answer(&AnswerHead { json_length: some("12"), ..head(200) }, Duration::ZERO).expect("fits");
        assert_eq!(binary.finish().expect("whole").1.json_length, Some(12));
    }
}
