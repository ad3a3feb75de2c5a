//! What a request is measured with, by name: natively, with Lua, with the smallest wasm filters, and with bluegreen.

use anyhow::Result;
use bluegreen_testbed::Bootstrap;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ext_proc;
use crate::gateway;
use crate::lab::Lab;
use crate::lean_filter;
use crate::rounds::Variant;

/// What everything is compared with.
pub const NATIVE: &str = "native weighted_clusters";
pub const LUA: &str = "Lua: random canary, sets the header";
/// The host calls that `src/tests/host_calls.rs` pins for a plain exchange.
pub const SAME_CALLS: &str = "wasm: the same host calls and nothing else";
/// One deployment takes all of the listener, which has no admin API.
pub const PLAIN: &str = "bluegreen: plain";
pub const WITH_MATCH: &str = "bluegreen: with match";
pub const EVERYTHING: &str = "bluegreen: everything on";

/// The share of the candidate, wherever a variant has one.
pub const CANARY_PERCENT: u32 = 10;

/// What a deployment has even when it is plain.
const REQUIRED: [&str; 2] = ["colours", "initial"];

/// A random canary as people write it.
const LUA_CODE: &str = r#"
function envoy_on_request(handle)
  local colour = "blue"
  if math.random(10000) <= 1000 then colour = "green" end
  handle:headers():replace("x-bluegreen-cluster", colour)
end
"#;

/// All of them; the modules of the wasm filters are written to `folder`.
pub fn all(lab: &Lab, folder: &TempDir) -> Result<Vec<Variant>> {
    let lean = |module| gateway::with_filter(lab, "lean", lean_filter::filter(module, json!({})));
    let (blue, green) = (100 - CANARY_PERCENT, CANARY_PERCENT);
    let with_runtime = gateway::native(lab, gateway::weights(blue, green, Some("bench")))?;
    let external =
        Variant::new("ext_proc: sets the header", gateway::with_filter(lab, "ext_proc", ext_proc::filter())?);
    let matched = |more: fn(&mut Value)| {
        bluegreen(lab, move |iris| {
            iris["match"] = json!({"path_prefix": "/invocations"});
            more(iris);
        })
    };
    let choice = |iris: &mut Value| iris["override"] = json!({"header": "x-bluegreen-override"});
    Ok(vec![
        Variant::new("static route", gateway::native(lab, json!({"cluster": "blue"}))?),
        Variant::new(NATIVE, gateway::native(lab, gateway::weights(blue, green, None))?),
        Variant::new("native weighted_clusters, runtime_key_prefix", gateway::with_runtime(with_runtime)),
        Variant::new("early_header_mutation + cluster_header", gateway::by_header(lab)?),
        Variant::new(LUA, gateway::with_filter(lab, "lua", lua())?),
        Variant::new("wasm: does nothing", lean(&lean_filter::idle(folder.path())?)?),
        Variant::new("wasm: sets one header", lean(&lean_filter::header(folder.path())?)?),
        Variant::new(SAME_CALLS, lean(&lean_filter::same_calls(folder.path())?)?),
        Variant::new(PLAIN, bluegreen(lab, |_| {})?),
        Variant::new(WITH_MATCH, matched(|_| {})?),
        Variant::new("bluegreen: sticky by header", matched(|iris| iris["sticky"] = by_user())?)
            .header("x-user-id", "user-4711"),
        Variant::new("bluegreen: override offered, not used", matched(choice)?),
        Variant::new("bluegreen: override used", matched(choice)?).header("x-bluegreen-override", "green"),
        Variant::new("bluegreen: with guard", matched(|iris| iris["guard"] = json!({}))?),
        everything(lab)?,
        external.beside_external_processor(),
    ])
}

/// The shipped traffic listener with a canary, without what a deployment may leave out, and with what `change` adds.
fn bluegreen(lab: &Lab, change: impl Fn(&mut Value)) -> Result<Bootstrap> {
    Ok(with_canary(lab)?.deployment("iris", |iris| {
        if let Some(iris) = iris.as_object_mut() {
            iris.retain(|field, _| REQUIRED.contains(&field.as_str()));
        }
        change(iris);
    }))
}

/// All that a deployment can have: what ships (add there what the filter learns), and stickiness, and a narrow match.
///
/// No shadowing: a copy is a request of its own, and would be counted as if the filter had used the time.
fn everything(lab: &Lab) -> Result<Variant> {
    let bootstrap = with_canary(lab)?.deployment("iris", |iris| {
        iris["match"] = json!({
            "path_prefix": "/invocations",
            "authority": "iris.example.com",
            "headers": {"x-model": "iris"},
        });
        iris["sticky"] = by_user();
        iris["override"] = json!({"header": "x-bluegreen-override"});
    });
    let bootstrap = bootstrap.plugin(|plugin| plugin["admin"] = json!({"path_prefix": "/bluegreen", "open": true}));
    let variant = Variant::new(EVERYTHING, bootstrap).header("Host", "iris.example.com").header("x-model", "iris");
    Ok(variant.header("x-user-id", "user-4711"))
}

/// The shipped traffic listener, with the candidate's share.
fn with_canary(lab: &Lab) -> Result<Bootstrap> {
    let initial = json!({"active": "blue", "canary_percent": CANARY_PERCENT, "shadow_percent": 0});
    Ok(gateway::traffic_only(lab)?.deployment("iris", |iris| iris["initial"] = initial.clone()))
}

fn by_user() -> Value {
    json!({"header": "x-user-id"})
}

fn lua() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": LUA_CODE},
    })
}
