//! Which answers of etcd are refusals: what was asked was not carried out, and will not be.
//!
//! etcd gives a code of gRPC with each of its errors (`api/v3rpc/rpctypes/error.go`, looked up in
//! 3.4 to 3.6):
//!
//! | code | what etcd means by it | carried out? |
//! | --- | --- | --- |
//! | 3 `INVALID_ARGUMENT` | the request is too large, the user name is empty (authentication is on and no user is known) | no: looked at before it is proposed (`v3_server.go`) |
//! | 7 `PERMISSION_DENIED` | the user may not do this to this key | no: `apply_auth.go` looks before it applies |
//! | 12 `UNIMPLEMENTED` | whatever answers there is no etcd | no |
//! | 16 `UNAUTHENTICATED` | the token is not valid | no: before it is proposed |
//! | 8 `RESOURCE_EXHAUSTED`, too many requests | so many writes wait that it was not proposed | no, and a moment later it may be |
//! | 8 `RESOURCE_EXHAUSTED`, else | the space is used up | **perhaps**: the write that meets the limit is carried out *and* answered so (`quotaApplierV3.Txn` in `apply/quota.go`), all after it are not (`applierV3Capped`). The key tells. Another's message of this code may be about the answer's size |
//! | 9 `FAILED_PRECONDITION` | this member is a learner, or not the leader | no, and another member may do it |
//! | 15 `DATA_LOSS` | this member is corrupt | no (`applierV3Corrupt`), and another member may do it |
//! | 1 `CANCELLED`, 2 `UNKNOWN`, 4 `DEADLINE_EXCEEDED`, 10 `ABORTED`, 13 `INTERNAL`, 14 `UNAVAILABLE` | the answer was lost, on the way or behind a leader that was lost | nobody knows |
//!
//! What is not in the table counts as not known.

use crate::fleet::refusal::{NoResponse, Refusal};
use crate::host::grpc::{GrpcReply, GrpcStatus};

const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;
const DATA_LOSS: u32 = 15;
const UNAUTHENTICATED: u32 = 16;

/// What a status refuses; none where nobody knows what became of the request.
fn refusal_of(status: &GrpcStatus) -> Option<Refusal> {
    match status.code {
        INVALID_ARGUMENT | PERMISSION_DENIED | UNIMPLEMENTED | UNAUTHENTICATED => Some(Refusal::Final),
        RESOURCE_EXHAUSTED if status.message.contains("too many requests") => Some(Refusal::Passing),
        RESOURCE_EXHAUSTED => Some(Refusal::OutOfSpace),
        FAILED_PRECONDITION | DATA_LOSS => Some(Refusal::Passing),
        _ => None,
    }
}

/// Why a reply has no response that is understood.
pub fn no_response(reply: &GrpcReply) -> NoResponse {
    match reply {
        GrpcReply::Failed(status) => NoResponse { why: status.to_string(), refusal: refusal_of(status) },
        GrpcReply::NotSent => NoResponse {
            why: "the call could not be sent: is the cluster in Envoy's configuration?".to_owned(),
            refusal: Some(Refusal::Unsent),
        },
        GrpcReply::Answered(_) => NoResponse { why: "the answer is not understood".to_owned(), refusal: None },
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn an_answer_that_says_why_not_is_a_refusal_and_a_lost_one_is_not() {
        let cases = [
            (3, "etcdserver: user name is empty", Some(Refusal::Final)),
            (3, "etcdserver: request is too large", Some(Refusal::Final)),
            (7, "etcdserver: permission denied", Some(Refusal::Final)),
            (12, "unknown service etcdserverpb.KV", Some(Refusal::Final)),
            (16, "etcdserver: invalid auth token", Some(Refusal::Final)),
            (8, "etcdserver: mvcc: database space exceeded", Some(Refusal::OutOfSpace)),
            (8, "etcdserver: too many requests", Some(Refusal::Passing)),
            (9, "etcdserver: rpc not supported for learner", Some(Refusal::Passing)),
            (15, "etcdserver: corrupt cluster", Some(Refusal::Passing)),
            (1, "context canceled", None),
            (2, "", None),
            (4, "", None),
            (10, "", None),
            (13, "", None),
            (14, "etcdserver: request timed out", None),
            (99, "", None),
        ];
        for (code, message, expected) in cases {
            let status = GrpcStatus { code, message: message.to_owned() };
            assert_eq!(refusal_of(&status), expected, "{code} {message}");
        }
    }
}
