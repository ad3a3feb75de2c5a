//! Where the fleet's record is, and the calls that read and change it.

use std::rc::Rc;
use std::time::Duration;

use prost::Message;

use super::messages::{
    Compare, KV, MOD, Operation, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest, WATCH,
    WatchCreateRequest, WatchRequest,
};
use super::refusal::no_response;
use crate::config::Etcd;
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::Turns;
use crate::host::grpc::{GrpcReply, GrpcRequest};
use crate::model::name::{ClusterName, DeploymentName};
use crate::state::State;
use crate::store::record::ModRevision;

/// The record of a fleet.
#[derive(Debug)]
pub struct EtcdStore {
    pub(super) cluster: ClusterName,
    pub(super) prefix: Vec<u8>,
    pub(super) timeout: Duration,
    pub(super) turns: Rc<Turns>,
}

/// Stands where states have the name of a deployment, in the keys of what is no state: who may use the keys under the
/// prefix may use these, and who follows the states does not hear of them.
const BESIDE: &[u8] = b"~";

/// How many keys are read at once: a state with its whole history has some 15 KB.
const PAGE: i64 = 64;

// === impl EtcdStore ===

impl EtcdStore {
    /// Compiles the section.
    pub fn new(etcd: &Etcd) -> Self {
        Self {
            cluster: etcd.cluster.clone(),
            prefix: etcd.prefix.as_str().into(),
            timeout: etcd.timeout,
            turns: Rc::default(),
        }
    }

    /// A deployment's key.
    pub fn key(&self, name: &DeploymentName) -> Vec<u8> {
        [&self.prefix, name.as_str().as_bytes()].concat()
    }

    /// The deployment whose key this is.
    pub fn name_of<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key.strip_prefix(self.prefix.as_slice())?).ok()
    }

    /// The first key after all states. What is kept beside them begins with [`BESIDE`], which comes after every name.
    pub fn end(&self) -> Vec<u8> {
        [self.prefix.as_slice(), BESIDE].concat()
    }

    /// Reads one key.
    pub fn get(&self, name: &DeploymentName) -> GrpcRequest {
        self.range(&RangeRequest { key: self.key(name), ..RangeRequest::default() })
    }

    /// Reads a page of all keys: from `after` on, excluded, as they were at a revision of the store; 0 for now.
    pub fn list(&self, after: Option<&[u8]>, at: ModRevision) -> GrpcRequest {
        let key = after.map_or_else(|| self.prefix.clone(), |last| [last, b"\0"].concat());
        let revision = i64::try_from(at.0).unwrap_or_default();
        self.range(&RangeRequest { key, range_end: self.end(), limit: PAGE, revision, ..RangeRequest::default() })
    }

    /// Reads a page of the keys that were written after `mod_revision`.
    pub fn list_newer(&self, mod_revision: ModRevision) -> GrpcRequest {
        let min_mod_revision = i64::try_from(mod_revision.0).unwrap_or_default().saturating_add(1);
        let key = self.prefix.clone();
        self.range(&RangeRequest {
            key,
            range_end: self.end(),
            limit: PAGE,
            min_mod_revision,
            ..RangeRequest::default()
        })
    }

    /// Watches all keys for what is written after `mod_revision`.
    pub fn watch(&self, mod_revision: ModRevision) -> GrpcRequest {
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: self.end(),
            start_revision: i64::try_from(mod_revision.0).unwrap_or_default().saturating_add(1),
        };
        self.request(WATCH, "Watch", &WatchRequest { create: Some(create) })
    }

    /// Puts a state there if the key's last write is still this one, and else reads it.
    pub fn swap(&self, name: &DeploymentName, expected: ModRevision, state: &State) -> GrpcRequest {
        let key = self.key(name);
        let mod_revision = i64::try_from(expected.0).ok();
        let put = Operation::Put(PutRequest { key: key.clone(), value: state.encode() });
        let get = Operation::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![Compare { target: MOD, key, mod_revision, ..Compare::default() }],
            success: vec![RequestOp { request: Some(put) }],
            failure: vec![RequestOp { request: Some(get) }],
        };
        self.request(KV, "Txn", &request)
    }

    pub(super) fn judgement(&self, name: &DeploymentName) -> Vec<u8> {
        self.beside(&format!("canary/{name}/judgement"))
    }

    pub(super) fn statements(&self, name: &DeploymentName) -> Vec<u8> {
        self.beside(&format!("canary/{name}/envoy/"))
    }

    pub(super) fn beside(&self, what: &str) -> Vec<u8> {
        [self.prefix.as_slice(), BESIDE, what.as_bytes()].concat()
    }

    fn range(&self, request: &RangeRequest) -> GrpcRequest {
        self.request(KV, "Range", request)
    }

    pub(super) fn request(&self, service: &'static str, method: &'static str, request: &impl Message) -> GrpcRequest {
        let message = request.encode_to_vec();
        GrpcRequest { cluster: self.cluster.clone(), service, method, message, timeout: self.timeout }
    }
}

/// The response, or why there is none.
///
/// # Errors
/// The call failed, or its response is not understood.
pub fn decode<M: Message + Default>(reply: &GrpcReply) -> Result<M, NoResponse> {
    if let GrpcReply::Answered(bytes) = reply
        && let Ok(message) = M::decode(bytes.as_slice())
    {
        return Ok(message);
    }
    Err(no_response(reply))
}

/// A revision, which is positive.
pub fn number(revision: i64) -> ModRevision {
    ModRevision(u64::try_from(revision).unwrap_or_default())
}

/// The store's revision when a request was carried out.
pub fn revision_of(header: Option<&ResponseHeader>) -> ModRevision {
    header.map_or(ModRevision(0), |header| number(header.revision))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::etcd::model::fleet;
    use crate::model::name::DeploymentName;
    use crate::testing::iris;

    #[test]
    fn a_prefix_covers_its_own_keys_and_no_others() {
        let fleet = fleet();
        assert_eq!((fleet.key(&iris()), fleet.end()), (b"/bluegreen/iris".to_vec(), b"/bluegreen/~".to_vec()));
        let last = DeploymentName::new("z".repeat(63)).expect("valid");
        assert!(fleet.key(&last) < fleet.end(), "names end before what is kept beside the states");
        let cases: [(&[u8], _); 4] = [
            (b"/bluegreen/iris", Some("iris")),
            (b"/bluegreen", None),
            (b"/other/iris", None),
            (b"/bluegreen/\xff", None),
        ];
        for (key, name) in cases {
            assert_eq!(fleet.name_of(key), name);
        }
    }
}
