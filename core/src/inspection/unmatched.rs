//! Requests that no deployment takes, though they were meant for one: their answer shows it.

use crate::change::context::Context;
use crate::deployment::Deployment;
use crate::setup::{self, SetupProblem};
use crate::store::key::Key;
use crate::store::update;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `:method`.
    pub method: Vec<u8>,
    /// `:authority`.
    pub authority: Vec<u8>,
    /// `:path`.
    pub path: Vec<u8>,
}

/// Where the answer came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerFrom {
    /// From this cluster.
    Cluster(String),
    /// From Envoy, which explains it so.
    Envoy(String),
}

/// So many deployments are named in a line.
const MOST_NAMED: usize = 5;
/// The longest part of a request in a line, in characters.
const LONGEST: usize = 80;
/// Warns of the first request in this Envoy that no deployment takes.
pub fn first(context: &Context, asked: &Asked) {
    let host = &*context.host;
    let is_first = update(host.store(), &Key::Unmatched.to_string(), &mut |before| {
        before.value.is_none_or(|value| value.is_empty()).then(|| b"1".to_vec())
    });
    if is_first == Ok(true) {
        let matches = matches(context.deployments.all());
        host.warn(&format!(
            "bluegreen: no deployment takes {asked}: such requests pass unchanged, and bluegreen_unmatched_requests_total counts them; the matches are {matches}"
        ));
    }
}

/// Takes up where the answer to such a request came from. From a cluster of a deployment, or from Envoy because the routing
/// header named none: then the request was meant for a deployment. Any other answer is somebody else's business.
pub fn answered(context: &Context, asked: &Asked, from: &AnswerFrom) {
    let all = context.deployments.all();
    let (of, seen): (Vec<&Deployment>, String) = match from {
        AnswerFrom::Cluster(cluster) => {
            let has = |deployment: &&Deployment| {
                [&deployment.colours.blue, &deployment.colours.green]
                    .iter()
                    .any(|upstream| upstream.cluster.as_str() == cluster)
            };
            (
                all.iter().filter(has).collect(),
                format!("was answered by cluster {cluster:?}, whichever colour is active"),
            )
        }
        AnswerFrom::Envoy(details) if details == "cluster_not_found" => {
            (all.iter().collect(), "was answered 503, because nothing named its cluster".to_owned())
        }
        AnswerFrom::Envoy(_) => return,
    };
    let matches = matches(all);
    for deployment in of {
        let detail = format!("{asked} {seen}: no deployment takes it, the matches are {matches}");
        setup::note(&*context.host, deployment, SetupProblem::UnmatchedRequests, detail);
    }
}

fn matches(deployments: &[Deployment]) -> String {
    let mut named: Vec<String> = deployments
        .iter()
        .take(MOST_NAMED)
        .map(|deployment| format!("{}: {}", deployment.name, short(deployment.rules.to_string().as_bytes())))
        .collect();
    if let Some(more) = deployments.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        named.push(format!("and {more} more"));
    }
    named.join("; ")
}

/// As much as fits into a line, without anything that a terminal would take for a command.
fn short(bytes: &[u8]) -> String {
    let text: String = bytes.escape_ascii().to_string().chars().take(LONGEST.saturating_add(1)).collect();
    if text.len() > LONGEST { format!("{}…", text.get(..LONGEST).unwrap_or_default()) } else { text }
}

// === impl Asked ===

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What follows the path may be anybody's secret.
        let path = self.path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        write!(f, "{} {} at {}", short(&self.method), short(path), short(&self.authority))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::setup::noted;
    use crate::testing::{context_of, iris};

    fn asked(path: &str) -> Asked {
        Asked { method: b"POST".to_vec(), authority: b"h".to_vec(), path: path.as_bytes().to_vec() }
    }

    #[test]
    fn the_first_request_that_nobody_takes_is_warned_of_and_no_other() {
        let (host, context) = context_of(r#", "match": {"path_prefix": "/invocations"}"#);
        first(&context, &asked("/invocation?token=secret"));
        first(&context, &asked("/other"));
        let log = host.take_log();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("no deployment takes POST /invocation at h:"), "{log:?}");
        assert!(
            log[0].contains("the matches are iris: path_prefix /invocations") && !log[0].contains("secret"),
            "{log:?}"
        );
    }

    #[test]
    fn only_what_was_meant_for_a_deployment_is_a_mistake() {
        let cases = [
            (AnswerFrom::Cluster("blue".to_owned()), true),
            (AnswerFrom::Cluster("web".to_owned()), false),
            (AnswerFrom::Envoy("cluster_not_found".to_owned()), true),
            (AnswerFrom::Envoy("route_not_found".to_owned()), false),
            (AnswerFrom::Envoy(String::new()), false),
        ];
        for (from, expected) in cases {
            let (host, context) = context_of("");
            answered(&context, &asked("/x"), &from);
            assert_eq!(
                noted(&host.store, &iris()).contains_key(&SetupProblem::UnmatchedRequests),
                expected,
                "{from:?}"
            );
        }
    }

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        let (host, context) = context_of("");
        let path = format!("/\u{1b}[2J{}", "\u{e9}".repeat(500));
        answered(&context, &asked(&path), &AnswerFrom::Cluster("blue".to_owned()));
        let detail = noted(&host.store, &iris()).remove(&SetupProblem::UnmatchedRequests).expect("noted").detail;
        assert!(
            detail.starts_with("POST /\\x1b[2J\\xc3") && detail.len() < 400 && detail.contains("every request"),
            "{detail}"
        );
    }
}
