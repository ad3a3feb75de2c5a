//! An API server in memory, for tests: objects with their writes, notes, lists, windows; and answers that get lost.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "only tests have it"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::object::Object;
use super::store::KubernetesStore;
use crate::config::Kubernetes;
pub use crate::fleet::model::Fate;
use crate::fleet::model::FleetModel;
use crate::fleet::store::FleetStore;
use crate::host::http::{HttpReply, HttpRequest};
use crate::json;
use crate::model::name::ClusterName;
use crate::state::State;
use crate::testing::host::TestHost;

/// The API server.
#[derive(Default)]
pub struct Model {
    revision: u64,
    forgotten: u64,
    /// The objects, by resource and name.
    objects: BTreeMap<(String, String), Value>,
    /// What happened to `bluegreens`: the write, the kind of event, and the object.
    log: Vec<(u64, &'static str, Value)>,
}

const BASE: &str = "/apis/bluegreen.dev/v1alpha1/namespaces/models/";

/// The store of the tests.
pub fn fleet() -> KubernetesStore {
    let section: Kubernetes = json::from_str(r#"{"cluster": "kube", "namespace": "models"}"#).expect("valid");
    KubernetesStore::new(&section)
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r str> {
    request.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn status(code: u16, message: &str) -> HttpReply {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code});
    HttpReply::Answered { status: code, body: body.to_string().into_bytes() }
}

fn ok(code: u16, value: &Value) -> HttpReply {
    HttpReply::Answered { status: code, body: value.to_string().into_bytes() }
}

// === impl Model ===

impl Model {
    /// Carries out a request.
    pub fn call(&mut self, request: &HttpRequest, fate: Fate) -> HttpReply {
        let writes = header(request, ":method") != Some("GET");
        match fate {
            Fate::Refused => HttpReply::UnknownCluster(ClusterName::new("kube").expect("valid")),
            Fate::RequestLost => HttpReply::Broken,
            Fate::Answered => self.carry_out(request),
            Fate::AnswerLost => {
                self.carry_out(request);
                HttpReply::Broken
            }
            Fate::Denied => status(403, "bluegreens.bluegreen.dev is forbidden"),
            Fate::NotNow => status(429, "too many requests"),
            Fate::OutOfSpace if writes => status(500, "etcdserver: mvcc: database space exceeded"),
            Fate::LastSpaceUsed if writes => {
                self.carry_out(request);
                status(500, "etcdserver: mvcc: database space exceeded")
            }
            Fate::OutOfSpace | Fate::LastSpaceUsed => self.carry_out(request),
        }
    }

    fn carry_out(&mut self, request: &HttpRequest) -> HttpReply {
        let (method, path) = (header(request, ":method").expect("a method"), header(request, ":path").expect("a path"));
        assert_eq!(header(request, ":authority"), Some("kubernetes.default.svc"));
        let rest = path.strip_prefix(BASE).unwrap_or_else(|| panic!("no path {path}"));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let parts: Vec<&str> = place.split('/').collect();
        let body: Option<Value> = request.body.as_ref().map(|body| json::from_slice(body).expect("JSON"));
        match (method, parts.as_slice()) {
            ("GET", [_]) if query.starts_with("watch=1") => self.window(query),
            ("GET", [resource]) => self.list(resource, query),
            ("GET", [resource, name]) => match self.objects.get(&key(resource, name)) {
                Some(object) => ok(200, object),
                None => status(404, &format!("{resource} \"{name}\" not found")),
            },
            ("POST", [resource]) => self.create(resource, body.expect("a body")),
            ("PUT", ["bluegreens", name, "status"]) => {
                self.replace("bluegreens", name, &body.expect("a body"), "status")
            }
            ("PUT", ["bluegreennotes", name]) => self.replace("bluegreennotes", name, &body.expect("a body"), "data"),
            ("PATCH", ["bluegreennotes", name]) => {
                assert_eq!(header(request, "content-type"), Some("application/merge-patch+json"));
                self.set("bluegreennotes", name, "data", &body.expect("a body")["data"])
            }
            ("DELETE", [resource]) => {
                let gone: Vec<_> = self.selected(resource, query).map(|(key, _)| key.clone()).collect();
                gone.iter().for_each(|key| self.delete(&key.0, &key.1));
                ok(200, &json!({"metadata": {"resourceVersion": self.revision.to_string()}}))
            }
            _ => panic!("no {method} {path}"),
        }
    }

    fn selected<'m>(
        &'m self,
        resource: &'m str,
        query: &str,
    ) -> impl Iterator<Item = (&'m (String, String), &'m Value)> + use<'m> {
        let wanted = query.split_once("labelSelector=").map(|(_, selector)| {
            let selector = selector.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
            selector.split(',').map(str::to_owned).collect::<Vec<_>>()
        });
        let has = |object: &Value, label: &str| {
            let (name, value) = label.split_once('=').expect("a label");
            object["metadata"]["labels"][name] == value
        };
        self.objects.iter().filter(move |((of, _), object)| {
            of == resource && wanted.as_ref().is_none_or(|labels| labels.iter().all(|label| has(object, label)))
        })
    }

    fn list(&self, resource: &str, query: &str) -> HttpReply {
        let items: Vec<_> = self.selected(resource, query).map(|(_, object)| object.clone()).collect();
        let limit = query.split('&').find_map(|part| part.strip_prefix("limit=")?.parse().ok()).unwrap_or(usize::MAX);
        let from = query.split('&').find_map(|part| part.strip_prefix("continue=")?.parse().ok()).unwrap_or(0);
        let page: Vec<_> = items.iter().skip(from).take(limit).cloned().collect();
        let next = if from + page.len() < items.len() { (from + page.len()).to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.revision.to_string(), "continue": next});
        ok(200, &json!({"kind": "List", "metadata": metadata, "items": page}))
    }

    fn window(&self, query: &str) -> HttpReply {
        let after = query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")?.parse().ok());
        let after: u64 = after.expect("a write");
        let event = |kind: &str, object: &Value| format!("{}\n", json!({"type": kind, "object": object}));
        let body = if after < self.forgotten {
            event("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}}))
        } else {
            self.log.iter().filter(|(at, ..)| *at > after).map(|(_, kind, object)| event(kind, object)).collect()
        };
        HttpReply::Answered { status: 200, body: body.into_bytes() }
    }

    fn create(&mut self, resource: &str, mut object: Value) -> HttpReply {
        if let Some(prefix) = object["metadata"]["generateName"].as_str().map(str::to_owned) {
            object["metadata"]["name"] = format!("{prefix}{}", self.revision + 1).into();
        }
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        // RFC 1123, as the API server has it.
        let is_label = |label: &str| {
            let is_ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            label.bytes().all(is_ok) && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        };
        if !name.split('.').all(is_label) {
            return status(422, &format!("{name:?} is invalid: metadata.name: a lowercase RFC 1123 subdomain"));
        }
        if self.objects.contains_key(&key(resource, &name)) {
            return status(409, &format!("{resource} \"{name}\" already exists"));
        }
        object["metadata"]["generation"] = 1.into();
        // A status is not created with its object.
        object.as_object_mut().expect("an object").remove("status");
        self.write(resource, &name, object, "ADDED");
        ok(201, &self.objects[&key(resource, &name)])
    }

    fn replace(&mut self, resource: &str, name: &str, body: &Value, part: &str) -> HttpReply {
        let Some(known) = self.objects.get(&key(resource, name)) else {
            return status(404, &format!("{resource} \"{name}\" not found"));
        };
        if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
            return status(409, "the object has been modified");
        }
        self.set(resource, name, part, &body[part])
    }

    fn set(&mut self, resource: &str, name: &str, part: &str, value: &Value) -> HttpReply {
        let Some(known) = self.objects.get(&key(resource, name)) else {
            return status(404, &format!("{resource} \"{name}\" not found"));
        };
        // What changes nothing is no write.
        if known[part] != *value {
            let mut object = known.clone();
            object[part] = value.clone();
            self.write(resource, name, object, "MODIFIED");
        }
        ok(200, &self.objects[&key(resource, name)])
    }

    fn write(&mut self, resource: &str, name: &str, mut object: Value, event: &'static str) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        if resource == "bluegreens" {
            self.log.push((self.revision, event, object.clone()));
        }
        self.objects.insert(key(resource, name), object);
    }

    /// Sets what a person asks for, as `kubectl patch` does.
    pub fn ask(&mut self, name: &str, spec: &Value) {
        let mut object = self.object(name).unwrap_or_else(|| Object::to_create(name));
        if object["spec"] != *spec {
            object["spec"] = spec.clone();
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
            self.write("bluegreens", name, object, "MODIFIED");
        }
    }

    /// Puts a state there, as another Envoy does.
    pub fn put(&mut self, name: &str, state: &State) {
        let value = self.object(name).unwrap_or_else(|| json!({"metadata": {"name": name, "resourceVersion": "0"}}));
        let written = Object::read(&value).expect("an object").with_status(state, None, state.since);
        let mut object = self.object(name).unwrap_or_else(|| Object::to_create(name));
        object["status"] = written["status"].clone();
        self.write("bluegreens", name, object, "MODIFIED");
    }

    /// Puts anything in a status.
    pub fn put_status(&mut self, name: &str, status: Value) {
        let mut object = self.object(name).unwrap_or_else(|| Object::to_create(name));
        object["status"] = status;
        self.write("bluegreens", name, object, "MODIFIED");
    }

    /// Removes an object.
    pub fn delete(&mut self, resource: &str, name: &str) {
        self.revision += 1;
        if let Some(mut object) = self.objects.remove(&key(resource, name))
            && resource == "bluegreens"
        {
            object["metadata"]["resourceVersion"] = self.revision.to_string().into();
            self.log.push((self.revision, "DELETED", object));
        }
    }

    /// Forgets what happened up to now.
    pub fn forget(&mut self) {
        self.forgotten = self.revision;
    }

    /// An object.
    pub fn object(&self, name: &str) -> Option<Value> {
        self.objects.get(&key("bluegreens", name)).cloned()
    }

    /// What a condition of an object says: its status and its reason.
    pub fn condition(&self, name: &str, r#type: &str) -> Option<(String, String)> {
        let object = self.object(name)?;
        let conditions = object["status"]["conditions"].as_array()?;
        let one = conditions.iter().find(|condition| condition["type"] == r#type)?;
        Some((one["status"].as_str()?.to_owned(), one["reason"].as_str()?.to_owned()))
    }

    /// The names of the notes.
    pub fn notes(&self) -> Vec<&str> {
        self.objects.keys().filter(|(of, _)| of == "bluegreennotes").map(|(_, name)| name.as_str()).collect()
    }

    /// What a note says, and its write.
    pub fn note(&self, name: &str) -> Option<(String, u64)> {
        let note = self.objects.get(&key("bluegreennotes", name))?;
        let write = note["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
        Some((note["data"].as_str()?.to_owned(), write))
    }
}

fn key(resource: &str, name: &str) -> (String, String) {
    (resource.to_owned(), name.to_owned())
}

// === impl FleetModel for Model ===

impl FleetModel for Model {
    type Call = HttpRequest;

    const WRITERS: u64 = 80;
    const READS_AFTER_LOSS: bool = true;

    fn ready() -> Self {
        let mut model = Self::default();
        model.create("bluegreens", Object::to_create("iris"));
        model
    }

    fn store() -> Box<dyn FleetStore> {
        Box::new(fleet())
    }

    fn next(host: &TestHost) -> Option<HttpRequest> {
        host.http.borrow().first().map(|(call, _)| call.clone())
    }

    fn timeout(call: &HttpRequest) -> Duration {
        call.timeout
    }

    fn is_put(call: &HttpRequest) -> bool {
        header(call, ":method") == Some("PUT")
    }

    fn arrive(&mut self, call: &HttpRequest) {
        self.carry_out(call);
    }

    fn answer(&mut self, host: &TestHost, fate: Fate, after: Duration) {
        let (call, waiter) = host.http.borrow_mut().remove(0);
        let reply = self.call(&call, fate);
        host.pass(after);
        waiter.send(reply).expect("it waits");
    }

    fn state(&self) -> Option<State> {
        Object::read(&self.object("iris")?).and_then(|object| object.state().cloned())
    }

    fn put_foreign(&mut self) {
        self.put_status("iris", json!({"state": {"edition": "another"}}));
    }

    fn words(fate: Fate) -> &'static str {
        match fate {
            Fate::Denied => "answered 403: bluegreens.bluegreen.dev is forbidden",
            Fate::NotNow => "answered 429: too many requests",
            Fate::OutOfSpace => "answered 500: etcdserver: mvcc: database space exceeded",
            _ => "the connection broke before an answer",
        }
    }
}
