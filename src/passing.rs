//! A request that no deployment takes: counted and left alone, but for what clients could have written into routing headers.

use bluegreen_core::inspection::unmatched::{self, AnswerFrom, Asked};
use bluegreen_core::routing::incoming::Whose;
use bluegreen_core::routing::matching::RequestHeaders;

use crate::host;
use crate::plugin::Plugin;

/// Lets a request pass whose headers are under way; what was asked, if its answer is to be looked at.
pub fn pass(plugin: &Plugin, request: &host::Request) -> Option<Asked> {
    plugin.unmatched.count();
    let incoming = &plugin.incoming;
    if incoming.wants_look(Whose::Nobody) {
        let is_there = |name: &str| request.header(name).is_some();
        incoming.saw(Whose::Nobody, plugin.cluster_headers.iter().all(|header| is_there(header.as_str())));
    }
    if incoming.are_open() && !host::is_vouched_for() {
        let others = [&plugin.routing.colour_header, &plugin.routing.shadow_header];
        for header in plugin.cluster_headers.iter().chain(others) {
            host::remove_request_header(header.as_str());
        }
    }
    if !plugin.unmatched.cadence.takes_next() {
        return None;
    }
    let header = |name| request.header(name).unwrap_or_default();
    let asked = Asked { method: header(":method"), authority: header(":authority"), path: header(":path") };
    if !plugin.unmatched.is_warned_of.replace(true) {
        unmatched::first(&plugin.context, &asked);
    }
    Some(asked)
}

/// Looks where the answer came from.
pub fn on_answer(plugin: &Plugin, asked: &Asked) {
    let from = match host::route_cluster() {
        Some(cluster) => AnswerFrom::Cluster(cluster),
        None => AnswerFrom::Envoy(host::text_property(["response", "code_details"])),
    };
    unmatched::answered(&plugin.context, asked, &from);
}
