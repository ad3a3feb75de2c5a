//! Where the objects are, and the requests that read and change them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::object::{API_VERSION, Object, mod_revision};
use super::refusal::no_response;
use crate::config::Kubernetes;
use crate::fleet::refusal::NoResponse;
use crate::fleet::store::{Entry, Turns};
use crate::host::Host;
use crate::host::http::{HttpReply, HttpRequest};
use crate::json::{self, FromJson};
use crate::model::name::{ClusterName, DeploymentName, HostName, NamespaceName};
use crate::store::record::ModRevision;

/// The objects of a namespace.
#[derive(Debug)]
pub struct KubernetesStore {
    pub(super) cluster: ClusterName,
    pub(super) namespace: NamespaceName,
    host: HostName,
    pub(super) timeout: Duration,
    pub(super) turns: Rc<Turns>,
    /// The objects as they were last read on this thread: a status is written with what the object asks for.
    seen: RefCell<BTreeMap<String, Object>>,
    /// The same of all objects, where this instance follows.
    pub(super) followed: RefCell<BTreeMap<String, Object>>,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// The items.
    pub items: Vec<Value>,
    /// The last write of all when the list was made.
    pub at: ModRevision,
    /// By which the next page is asked for; empty at the end.
    pub r#continue: String,
}

/// What is kept beside the objects: a small object of the kind `BlueGreenNote`.
#[derive(Clone, Copy, Debug)]
pub struct Note<'n> {
    /// The deployment that it is about.
    pub about: &'n DeploymentName,
    /// What kind of note: a word for a label.
    pub kind: &'static str,
    /// Tells it from others of its kind; empty where there is one.
    pub of: &'n str,
}

#[derive(FromJson)]
struct RawPage {
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(FromJson)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

#[derive(FromJson)]
struct RawNote {
    metadata: NoteMetadata,
    #[serde(default)]
    data: String,
}

#[derive(FromJson)]
#[serde(rename_all = "camelCase")]
struct NoteMetadata {
    name: String,
    resource_version: String,
}

/// So many objects are read at once: one with a full history has some 20 KB, and 1 MB of an answer is read.
const PAGE: usize = 32;

/// How long a window lasts in which the API server collects what happens.
pub const WINDOW: Duration = Duration::from_secs(1);

// === impl KubernetesStore ===

impl KubernetesStore {
    /// Compiles the section.
    pub fn new(section: &Kubernetes) -> Self {
        Self {
            cluster: section.cluster.clone(),
            namespace: section.namespace.clone(),
            host: section.host.clone(),
            timeout: section.timeout,
            turns: Rc::default(),
            seen: RefCell::default(),
            followed: RefCell::default(),
        }
    }

    /// Reads one object.
    pub fn get(&self, name: &str, within: Duration) -> HttpRequest {
        self.request("GET", &self.path("bluegreens", &format!("/{name}")), None, within)
    }

    /// Creates one that asks for nothing.
    pub fn create(&self, name: &str, within: Duration) -> HttpRequest {
        self.request("POST", &self.path("bluegreens", ""), Some(&Object::to_create(name)), within)
    }

    /// Replaces an object's status.
    pub fn replace_status(&self, name: &str, object: &Value, within: Duration) -> HttpRequest {
        self.request("PUT", &self.path("bluegreens", &format!("/{name}/status")), Some(object), within)
    }

    /// Lists a page of all objects. It takes a quorum of the etcd behind the API server.
    pub fn list(&self, r#continue: &str) -> HttpRequest {
        let next = if r#continue.is_empty() { String::new() } else { format!("&continue={}", escaped(r#continue)) };
        self.request("GET", &self.path("bluegreens", &format!("?limit={PAGE}{next}")), None, self.timeout)
    }

    /// Waits for what happens to any object after this write, for as long as a window lasts.
    pub fn window(&self, after: ModRevision) -> HttpRequest {
        let (after, seconds) = (after.0, WINDOW.as_secs());
        let query = format!("?watch=1&resourceVersion={after}&timeoutSeconds={seconds}&allowWatchBookmarks=true");
        self.request("GET", &self.path("bluegreens", &query), None, WINDOW.saturating_add(self.timeout))
    }

    /// Remembers an object as it was read.
    pub fn note(&self, object: &Object) {
        let mut seen = self.seen.borrow_mut();
        if seen.get(&object.name).is_none_or(|known| known.mod_revision <= object.mod_revision) {
            seen.insert(object.name.clone(), object.clone());
        }
    }

    /// An object as it was at this write, if that is what was read last.
    pub fn seen(&self, name: &str, at: ModRevision) -> Option<Object> {
        self.seen.borrow().get(name).filter(|known| known.mod_revision == at).cloned()
    }

    // --- notes

    /// Reads a note.
    pub fn get_note(&self, note: Note<'_>) -> HttpRequest {
        self.request("GET", &self.path("bluegreennotes", &format!("/{}", note.name())), None, self.timeout)
    }

    /// Creates a note. Where `of` ends with a dash the API server adds something that no other note has.
    pub fn create_note(&self, note: Note<'_>, data: &str) -> HttpRequest {
        let mut object = note.object(data);
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && note.of.ends_with('-')
            && let Some(name) = metadata.remove("name")
        {
            metadata.insert("generateName".to_owned(), name);
        }
        self.request("POST", &self.path("bluegreennotes", ""), Some(&object), self.timeout)
    }

    /// Replaces a note, on the condition that this is its last write.
    pub fn replace_note(&self, note: Note<'_>, last: ModRevision, data: &str) -> HttpRequest {
        let mut object = note.object(data);
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), last.0.to_string().into());
        }
        self.request("PUT", &self.path("bluegreennotes", &format!("/{}", note.name())), Some(&object), self.timeout)
    }

    /// Replaces what a note says, whatever it said.
    pub fn patch_note(&self, note: Note<'_>, data: &str) -> HttpRequest {
        let path = self.path("bluegreennotes", &format!("/{}", note.name()));
        let mut request = self.request("PATCH", &path, Some(&json!({"data": data})), self.timeout);
        for (name, value) in &mut request.headers {
            if name == "content-type" {
                "application/merge-patch+json".clone_into(value);
            }
        }
        request
    }

    /// Lists the notes of a kind about a deployment, all of them.
    pub fn list_notes(&self, note: Note<'_>) -> HttpRequest {
        let query = format!("?labelSelector={}", note.selector());
        self.request("GET", &self.path("bluegreennotes", &query), None, self.timeout)
    }

    /// Deletes them.
    pub fn delete_notes(&self, note: Note<'_>) -> HttpRequest {
        let query = format!("?labelSelector={}", note.selector());
        self.request("DELETE", &self.path("bluegreennotes", &query), None, self.timeout)
    }

    fn path(&self, resource: &str, rest: &str) -> String {
        format!("/apis/{API_VERSION}/namespaces/{}/{resource}{rest}", self.namespace)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>, within: Duration) -> HttpRequest {
        let mut request = HttpRequest::new(&self.cluster, self.host.as_str(), method, path, within);
        request.headers.push(("accept".to_owned(), "application/json".to_owned()));
        if let Some(body) = body.and_then(|body| serde_json::to_vec(body).ok()) {
            request.headers.push(("content-type".to_owned(), "application/json".to_owned()));
            request.headers.push(("content-length".to_owned(), body.len().to_string()));
            request.body = Some(body);
        }
        request
    }
}

/// A token of the API server's in a query. It is base64 of some kind.
fn escaped(token: &str) -> String {
    percent_encoding::utf8_percent_encode(token, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Sends a request, and reads the answer's JSON. The status too.
///
/// # Errors
/// There is no answer, or it is none of success, not found and conflict.
pub async fn call(host: &dyn Host, request: &HttpRequest) -> Result<(u16, Value), NoResponse> {
    let reply = host.http(request).await;
    if let HttpReply::Answered { status, body } = &reply
        && let Ok(value) = json::from_slice::<Value>(body)
        && matches!(status, 200..=299 | 404 | 409)
    {
        return Ok((*status, value));
    }
    Err(no_response(&reply, request.timeout))
}

/// The refusal that an answer is which [`call`] lets through.
pub fn refusal_of((status, value): &(u16, Value), timeout: Duration) -> NoResponse {
    let body = serde_json::to_vec(value).unwrap_or_default();
    no_response(&HttpReply::Answered { status: *status, body }, timeout)
}

// === impl Page ===

impl Page {
    /// Reads one; none where it is not understood.
    pub fn read(value: &Value) -> Option<Self> {
        let RawPage { metadata, items } = json::from_value(value).ok()?;
        Some(Self { items, at: mod_revision(&metadata.resource_version)?, r#continue: metadata.r#continue })
    }
}

// === impl Note ===

impl Note<'_> {
    fn name(&self) -> String {
        let dot = if self.of.is_empty() { "" } else { "." };
        format!("{}.{}{dot}{}", self.about, self.kind, self.of)
    }

    fn selector(&self) -> String {
        // An equals sign and a comma, escaped.
        format!("bluegreen.dev%2Fdeployment%3D{}%2Cbluegreen.dev%2Fkind%3D{}", self.about, self.kind)
    }

    fn object(&self, data: &str) -> Value {
        let labels = json!({"bluegreen.dev/deployment": self.about, "bluegreen.dev/kind": self.kind});
        json!({
            "apiVersion": API_VERSION,
            "kind": "BlueGreenNote",
            "metadata": {"name": self.name(), "labels": labels},
            "data": data
        })
    }
}

/// What a note says, and its write; none where it is no note.
pub fn entry(value: &Value) -> Option<Entry> {
    let RawNote { metadata, data } = json::from_value(value).ok()?;
    let mod_revision = mod_revision(&metadata.resource_version)?;
    Some(Entry { key: metadata.name.into_bytes(), mod_revision, value: data.into_bytes() })
}
