//! What the API server means by its answers, by its conventions (*API conventions, HTTP status codes*) and as tried on 1.36.
//!
//! | status | what it means | carried out? |
//! | --- | --- | --- |
//! | 400, 413, 415, 422 | the object is not valid, or too large | no |
//! | 401 | the token is not valid: expired, of another issuer, or missing | no |
//! | 403 | the service account may not do this | no |
//! | 404 without a `Status` | there is no such resource: the CRD is not installed | no |
//! | 404 | there is no such object, or no such namespace | no |
//! | 405 | whatever answers there is no API server | no |
//! | 409 | the object is not the one that was read | no: the condition of every write here |
//! | 410 | what is asked for is too old to be remembered | no |
//! | 429 | too many requests | no, and a moment later it may be |
//! | 500, database space exceeded | etcd behind it has no space left | **perhaps**: the write that meets the limit is carried out *and* answered so. The object tells |
//! | other 5xx, a broken connection, silence | the answer was lost, on the way or behind an etcd that lost its leader | nobody knows |

use std::time::Duration;

use crate::fleet::refusal::{NoResponse, Refusal};
use crate::host::http::HttpReply;
use crate::json::{self, FromJson};

/// The part of a `Status` object that is read here.
#[derive(Debug, Default, FromJson)]
struct Status {
    #[serde(default)]
    message: String,
}

/// Why a reply has no object that is understood.
pub fn no_response(reply: &HttpReply, timeout: Duration) -> NoResponse {
    let HttpReply::Answered { status, body } = reply else {
        let refusal = matches!(reply, HttpReply::UnknownCluster(_)).then_some(Refusal::Unsent);
        return NoResponse { why: reply.describe(timeout), refusal };
    };
    let said = json::from_slice::<Status>(body).ok().map(|status| status.message).filter(|text| !text.is_empty());
    let why = match (status, &said) {
        (200..=299, _) => "the answer is not understood".to_owned(),
        (404, None) => "answered 404: the API server knows no bluegreens: is the CRD installed?".to_owned(),
        (401, _) => {
            "answered 401: the token is missing or not valid: look at the cluster's credential injector".to_owned()
        }
        (_, Some(message)) => format!("answered {status}: {}", shortened(message)),
        (_, None) => reply.describe(timeout),
    };
    let is_full = said.is_some_and(|message| message.contains("database space exceeded"));
    let refusal = match status {
        400..=428 | 430..=499 => Some(Refusal::Final),
        429 => Some(Refusal::Passing),
        500 if is_full => Some(Refusal::OutOfSpace),
        _ => None,
    };
    NoResponse { why, refusal }
}

fn shortened(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::name::ClusterName;

    #[test]
    fn an_answer_that_says_why_not_is_a_refusal_and_a_lost_one_is_not() {
        let status = |message: &str| format!(r#"{{"kind": "Status", "status": "Failure", "message": "{message}"}}"#);
        let cases = [
            (400, status("bad"), Some(Refusal::Final), "answered 400: bad"),
            (401, status("Unauthorized"), Some(Refusal::Final), "the token is missing or not valid"),
            (403, status("bluegreens is forbidden"), Some(Refusal::Final), "answered 403: bluegreens is forbidden"),
            (404, "404 page not found\\n".to_owned(), Some(Refusal::Final), "is the CRD installed?"),
            (404, status("namespaces \\\"x\\\" not found"), Some(Refusal::Final), "answered 404: namespaces"),
            (422, status("is invalid: spec"), Some(Refusal::Final), "answered 422: is invalid: spec"),
            (429, status("too many"), Some(Refusal::Passing), "answered 429: too many"),
            (500, status("etcdserver: mvcc: database space exceeded"), Some(Refusal::OutOfSpace), "space exceeded"),
            (500, status("etcdserver: request timed out"), None, "answered 500: etcdserver"),
            (503, "no healthy upstream".to_owned(), None, "answered 503: no healthy upstream"),
            (504, "upstream request timeout".to_owned(), None, "no answer within 1s"),
            (200, "<html>".to_owned(), None, "the answer is not understood"),
        ];
        for (status, body, refusal, words) in cases {
            let reply = HttpReply::Answered { status, body: body.clone().into_bytes() };
            let no_response = no_response(&reply, Duration::from_secs(1));
            assert_eq!(no_response.refusal, refusal, "{status} {body}");
            assert!(no_response.why.contains(words), "{status} {body}: {}", no_response.why);
        }
        let cluster = ClusterName::new("kube").expect("valid");
        let of = |reply: HttpReply| no_response(&reply, Duration::from_secs(1)).refusal;
        assert_eq!((of(HttpReply::Broken), of(HttpReply::UnknownCluster(cluster))), (None, Some(Refusal::Unsent)));
    }
}
