//! The description of the API against the API, both ways. What the other tests here are answered is held against it too.

use std::collections::{BTreeMap, BTreeSet};

use bluegreen_openapi::{Description, Exchange, Operation};

use super::*;
use crate::admin::routes::{ROUTES, Route};
use crate::config::Role;
use crate::json;

/// Fails unless an answer of an API is as the description says.
pub fn check(api: &Api, head: &Head, response: &Response) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (method, path) = (text(&head.method), text(&head.path));
    let headers: Vec<_> = response.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert!(headers.iter().any(|(name, _)| *name == "content-security-policy"), "it is Envoy's own: {response:?}");
    let exchange = Exchange {
        method: &method,
        path: path.strip_prefix(api.access.path_prefix.as_str()).unwrap_or(&path),
        status: response.status.try_into().expect("a status"),
        headers: &headers,
        body: &response.body,
    };
    Description::shipped().check(&exchange).unwrap_or_else(|problem| panic!("{problem}"));
}

fn route_of(operation: &Operation<'_>) -> &'static Route {
    let found = ROUTES.iter().find(|route| {
        operation.method == route.method && operation.path.strip_prefix('/').is_some_and(|path| path == route.path)
    });
    found.unwrap_or_else(|| panic!("no route leads to {} {}", operation.method, operation.path))
}

#[test]
fn every_route_is_described_with_its_parameters_and_its_role() {
    let operations = Description::shipped().operations();
    assert_eq!(operations.len(), ROUTES.len());
    for operation in &operations {
        let (id, route) = (operation.id(), route_of(operation));
        let role = route.role.map(|role| if role == Role::Viewer { "viewer" } else { "operator" });
        assert_eq!(operation.role(), role, "{id}");
        let known: BTreeSet<&str> = route.parameters().iter().copied().collect();
        let parameters = operation.parameters();
        let in_query = parameters.iter().filter(|parameter| parameter.place == "query");
        assert_eq!(in_query.map(|parameter| parameter.name).collect::<BTreeSet<_>>(), known, "{id}");
        let in_body: BTreeSet<&str> = operation.body_members().into_iter().collect();
        // A body of a GET means nothing in HTTP, so nobody is told of it.
        assert!(in_body == known || (route.method == "GET" && in_body.is_empty()), "{id}: {in_body:?}");
        let in_path = parameters.iter().filter(|parameter| parameter.place == "path").count();
        assert_eq!(in_path, usize::from(route.path.contains("{name}")), "{id}");
    }
}

#[test]
fn every_problem_is_described_under_its_status_and_nothing_else_is() {
    let description = Description::shipped();
    let known: BTreeMap<&str, u32> =
        Problem::samples().iter().map(Problem::kind).map(|(status, kind, _)| (kind, status)).collect();
    let mut described: BTreeMap<&str, u32> = BTreeMap::new();
    let mut read = |id: &str, status: u32, kinds: Vec<&'static str>| {
        for kind in kinds {
            assert_eq!(known.get(kind), Some(&status), "{id}: {kind}");
            described.insert(kind, status);
        }
    };
    for operation in description.operations() {
        let answers = operation.answers();
        assert!(answers.iter().any(|(status, _)| *status < 300), "{}", operation.id());
        answers.into_iter().for_each(|(status, kinds)| read(operation.id(), status, kinds));
    }
    read("any", 405, description.types(&description.document()["components"]["responses"]["MethodNotAllowed"]));
    assert_eq!(described, known);
}

#[test]
fn a_problem_says_what_to_do_in_whole_sentences() {
    for problem in Problem::samples() {
        let (detail, kind) = (problem.to_string(), problem.kind().1);
        let is_sentence = detail.ends_with('.') && detail.starts_with(|first: char| !first.is_ascii_lowercase());
        let names_what_is_meant = ["blue", "green", "version "].iter().any(|name| detail.starts_with(name));
        assert!(is_sentence || names_what_is_meant, "{kind}: {detail}");
    }
}

#[test]
fn the_description_is_served_to_everybody_under_the_configured_prefix() {
    let served = |prefix: &str| {
        let access = json::from_value(&serde_json::json!({"path_prefix": prefix})).expect("valid");
        let api = Fixture { api: Api::new(access, None), ..Fixture::new() };
        let response = api.call(&head("GET", &format!("{prefix}/v1/openapi.json"), None), b"");
        assert_eq!(response.status, 200);
        let text = String::from_utf8(response.body).expect("UTF-8");
        assert_eq!(text.trim_end().lines().count(), 1, "it has no white space that means nothing");
        json::from_str::<serde_json::Value>(&text).expect("JSON")
    };
    let mut expected = Description::shipped().document().clone();
    assert_eq!(served("/bluegreen"), expected);
    expected["servers"][0]["url"] = "/switch/api".into();
    assert_eq!(served("/switch/api"), expected);
}

#[test]
fn as_many_descriptions_are_on_their_way_at_once_as_do_no_harm() {
    let api = Fixture::new();
    let head = head("GET", "/bluegreen/v1/openapi.json", None);
    let take =
        || api.api.receive(&api.context, &head).ok().map(|mut call| call.place_until_sent().expect("it is long"));
    let sent: Vec<_> = std::iter::from_fn(take).collect();
    assert_eq!(sent.len(), PLACES_OF_DESCRIPTIONS);
    assert_eq!(api.call(&head, b"").status, 503);
    assert_eq!(api.operate("GET", IRIS).0, 200, "calls with a role have places of their own");
    drop(sent);
    assert_eq!(api.call(&head, b"").status, 200);
}
