//! Which answers of etcd are refusals: what was asked was not carried out, and will not be.
//!
//! A write that got no answer may have been carried out, or may be later. A refusal is an answer, and the caller is owed
//! etcd's own reason at once. etcd gives a code of gRPC with each of its errors (`api/v3rpc/rpctypes/error.go`, looked up in
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

use std::fmt;

use crate::deployment::Deployment;
use crate::host::Host;
use crate::host::grpc::{GrpcReply, GrpcStatus};
use crate::setup::{self, SetupProblem};

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was not carried out, and no other member would do it either.
    Final,
    /// It was not carried out, and may be when it is sent again: another member gets it then.
    Passing,
    /// Etcd is out of space. The key tells whether it was carried out.
    OutOfSpace,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoResponse {
    /// In words.
    pub why: String,
    /// What it refuses; none where nobody knows what became of the request.
    pub refusal: Option<Refusal>,
}

const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
const UNIMPLEMENTED: u32 = 12;
const DATA_LOSS: u32 = 15;
const UNAUTHENTICATED: u32 = 16;

/// Shows in a deployment's set-up that etcd does not take its state, and why.
pub fn note(host: &dyn Host, deployment: &Deployment, why: &str) {
    let detail =
        format!("etcd refuses the state of this deployment: {why}. Until that is fixed, no change can be made");
    setup::note(host, deployment, SetupProblem::EtcdRefuses, detail);
}

/// Takes that back: etcd took one.
pub fn clear(host: &dyn Host, deployment: &Deployment) {
    setup::clear(host, deployment, SetupProblem::EtcdRefuses);
}

// === impl Refusal ===

impl Refusal {
    /// What a status refuses; none where nobody knows what became of the request.
    pub fn of(status: &GrpcStatus) -> Option<Self> {
        match status.code {
            INVALID_ARGUMENT | PERMISSION_DENIED | UNIMPLEMENTED | UNAUTHENTICATED => Some(Self::Final),
            RESOURCE_EXHAUSTED if status.message.contains("too many requests") => Some(Self::Passing),
            RESOURCE_EXHAUSTED => Some(Self::OutOfSpace),
            FAILED_PRECONDITION | DATA_LOSS => Some(Self::Passing),
            _ => None,
        }
    }
}

// === impl NoResponse ===

impl NoResponse {
    /// For a reply without a response that is understood.
    pub fn of(reply: &GrpcReply) -> Self {
        match reply {
            GrpcReply::Failed(status) => Self { why: status.to_string(), refusal: Refusal::of(status) },
            GrpcReply::NotSent => Self {
                why: "the call could not be sent: is the cluster in Envoy's configuration?".to_owned(),
                refusal: None,
            },
            GrpcReply::Answered(_) => Self { why: "the answer is not understood".to_owned(), refusal: None },
        }
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
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
            assert_eq!(Refusal::of(&status), expected, "{code} {message}");
        }
    }
}
