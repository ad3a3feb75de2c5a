use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn shipped(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// What is found in files with these texts, given together.
fn found_in(texts: &[&str]) -> Vec<Finding> {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |(number, text): (usize, &&str)| {
        let path = folder.path().join(format!("{number}.yaml"));
        fs::write(&path, text).expect("written");
        path
    };
    let files: Vec<PathBuf> = texts.iter().enumerate().map(write).collect();
    check(&files).findings
}

/// The words of what matters.
fn words(findings: &[Finding]) -> BTreeSet<&'static str> {
    findings.iter().filter(|found| found.level > Level::Note).map(|found| found.check.as_str()).collect()
}

/// A text with a part of it replaced, everywhere.
fn replaced(text: &str, part: &str, by: &str) -> String {
    assert!(text.contains(part), "the shipped file has no {part:?} any more");
    text.replace(part, by)
}

/// What to spoil: the part of the file that is replaced, by what, the words that are found, and what one of the details says.
type Case = (&'static str, &'static str, &'static [&'static str], &'static str);

const ENVOY: &[Case] = &[
    ("canary_percent: 0,", "canary_percent: 101,", &["configuration"], "101 is not between 0 and 100"),
    ("colours:", "colors:", &["configuration"], "unknown field `colors`"),
    (
        "vm_config: *vm",
        "vm_config: {vm_id: other, runtime: envoy.wasm.runtime.v8, code: {local: {filename: dist/bluegreen.wasm}}}",
        &["no-traffic-worker"],
        "\"other\" here and \"bluegreen\" in the listener traffic",
    ),
    (
        "vm_config: *vm",
        "vm_config: {vm_id: bluegreen, runtime: envoy.wasm.runtime.v8, code: {local: {filename: other.wasm}}}",
        &["no-traffic-worker"],
        "both need the same code",
    ),
    (
        "deployments: *deployments",
        "deployments: {iris: {colours: {blue: {cluster: blue, version: \"1\"}, green: {cluster: green, version: \"3\"}}, match: {path_prefix: /invocations}}}",
        &["workers-disagree"],
        "write deployments once",
    ),
    ("vm_id: bluegreen", "vm_id: \"\"", &["vm-id-shared"], "set vm_config.vm_id"),
    (
        "cluster_header: x-bluegreen-cluster",
        "cluster: blue",
        &["answers-from-elsewhere"],
        "whichever colour the filter chooses",
    ),
    (
        "cluster_header: x-bluegreen-cluster",
        "weighted_clusters: {clusters: [{name: blue, weight: 1}]}",
        &["answers-from-elsewhere"],
        "weighted_clusters",
    ),
    (
        "cluster_header: x-bluegreen-cluster",
        "cluster_header: x-cluster",
        &["answers-from-elsewhere"],
        "follows the header x-cluster",
    ),
    (
        "      - name: iris\n",
        "      - {match: {prefix: /}, redirect: {path_redirect: /x}}\n              - name: iris\n",
        &["answers-from-elsewhere"],
        "answers by itself",
    ),
    (
        "path_separated_prefix: /invocations",
        "path_separated_prefix: /v1",
        &["no-route", "unmatched-requests"],
        "no route of this listener",
    ),
    ("domains: [\"*\"]\n              routes", "domains: [\"rose.example.com\"]\n              routes", &[], ""),
    ("{path_prefix: /invocations}", "{path_prefix: /invocations, authority: iris.example.com}", &[], ""),
    ("cluster: green, version", "cluster: gren, version", &["cluster-unknown"], "there are blue, green"),
    ("key: x-bluegreen-cluster, value: blue", "key: x-other, value: blue", &["not-seeded"], "seed it with \"blue\""),
    (
        "key: x-bluegreen-cluster, value: blue",
        "key: x-bluegreen-cluster, value: green",
        &["wrong-seed"],
        "use \"blue\"",
    ),
    ("append_action: OVERWRITE_IF_EXISTS_OR_ADD", "append_action: ADD_IF_ABSENT", &["wrong-seed"], "is not replaced"),
    ("              - remove: x-bluegreen-colour\n", "", &["client-headers"], "clients can write x-bluegreen-colour"),
    ("timeout: 0s", "retry_policy: {retry_on: \"5xx,connect-failure\"}", &["retries-hide-failures"], "(5xx)"),
    ("timeout: 0s", "retry_policy: {retry_on: \"connect-failure,refused-stream,unavailable\"}", &[], ""),
    (
        "- cluster_header: x-bluegreen-shadow",
        "- cluster_header: x-shadow",
        &["shadow-route"],
        "the filter writes x-bluegreen-shadow",
    ),
    (
        "stats_config:\n",
        "stats_config:\n  stats_matcher: {exclusion_list: {patterns: [{prefix: wasmcustom}]}}\n",
        &["stats-filtered"],
        "wasmcustom.bluegreen",
    ),
    (
        "stats_config:\n",
        "stats_config:\n  stats_matcher: {inclusion_list: {patterns: [{prefix: http.}]}}\n",
        &["stats-filtered"],
        "wasmcustom.bluegreen",
    ),
    (
        "stats_config:\n",
        "stats_config:\n  stats_matcher: {inclusion_list: {patterns: [{prefix: http.}, {prefix: wasmcustom.}]}}\n",
        &[],
        "",
    ),
    ("tag_name: colour", "tag_name: color", &["stats-labels"], "the label colour"),
    (
        "          - name: envoy.filters.http.router\n",
        "          - name: auth\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz}\n          - name: envoy.filters.http.router\n",
        &["filter-order"],
        "ext_authz stands behind",
    ),
    (
        "          - name: envoy.filters.http.router\n",
        "          - name: late\n            typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {request_mutations: [{remove: x-bluegreen-cluster}]}}\n          - name: envoy.filters.http.router\n",
        &["answers-from-elsewhere"],
        "writes x-bluegreen-cluster again",
    ),
    (
        "          http_filters:\n          - name: bluegreen\n",
        "          http_filters:\n          - disabled: true\n            name: bluegreen\n",
        &["filter-off"],
        "does not turn it on",
    ),
    ("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_CLOSED", &["failure-policy"], "FAIL_RELOAD"),
    ("failure_policy: FAIL_RELOAD", "fail_open: true", &[], ""),
    ("                allow_on_headers_stop_iteration: true\n", "", &["request-bodies"], "408"),
    (
        "                  vm_id: bluegreen\n",
        "                  vm_id: bluegreen\n                  capability_restriction_config: {allowed_capabilities: {proxy_log: {}}}\n",
        &["capabilities"],
        "proxy_on_tick",
    ),
    ("- name: demo-operator\n", "- name: alice\n", &["demo-token"], "this is not the demo's configuration"),
    (
        "address: 127.0.0.1, port_value: 10001",
        "address: 10.0.0.7, port_value: 10001",
        &["admin-exposed", "demo-token"],
        "can be reached from other machines",
    ),
    ("port_value: 10000", "port_value: 10000, protocol: TCP", &[], ""),
    ("request_headers_timeout: 10s", "request_timeout: 10s", &["admin-timeout"], "cuts off a drain"),
];

/// The one that all cases of [`ENVOY`] spoil.
const SHIPPED: &str = "envoy/envoy.yaml";

#[test]
fn each_mistake_in_an_envoy_file_is_found_and_nothing_else() {
    let good = shipped(SHIPPED);
    assert_eq!(words(&found_in(&[&good])), BTreeSet::new());
    for (part, by, expected, detail) in ENVOY {
        let findings = found_in(&[&replaced(&good, part, by)]);
        assert_eq!(words(&findings), expected.iter().copied().collect(), "{part:?} by {by:?}: {findings:#?}");
        assert!(findings.iter().any(|found| found.detail.contains(detail)), "{detail}: {findings:#?}");
        let placed = findings.iter().all(|found| found.line > 0 && !found.path.is_empty());
        assert!(placed, "{findings:#?}");
    }
}

#[test]
fn each_mistake_in_a_configuration_alone_is_found() {
    let colours = "colours: {blue: {cluster: blue, version: \"1\"}, green: {cluster: green, version: \"2\"}}";
    let sum = "61112491d046c3f6f8ab801f170d9b2d0c734a17ceff60dee92123fb507cfc3f";
    let cases: [(String, &[&str], u64); 9] = [
        (format!("deployments:\n  iris:\n    {colours}\n"), &["no-probe"], 2),
        (
            format!("deployments:\n  iris:\n    {colours}\n    override: {{header: x-o}}\n"),
            &["no-probe", "override-open"],
            2,
        ),
        (
            format!("deployments:\n  iris:\n    {colours}\n    probe: {{path: /}}\nadmin: {{open: true}}\n"),
            &["admin-open", "not-durable"],
            2,
        ),
        (
            format!(
                "deployments:\n  iris:\n    {colours}\n    probe: {{path: /}}\nadmin: {{}}\netcd: {{cluster: etcd}}\n"
            ),
            &["no-tokens"],
            5,
        ),
        (
            format!(
                "deployments:\n  iris:\n    {colours}\n    probe: {{path: /}}\netcd: {{cluster: etcd}}\nadmin:\n  tokens:\n  - {{name: demo-operator, role: operator, sha256: {sum}}}\n"
            ),
            &["demo-token"],
            8,
        ),
        (
            "deployments:\n  iris:\n    colours: {blue: {cluster: blue, version: \"1\"}}\n".to_owned(),
            &["configuration"],
            3,
        ),
        ("deployments: [\n".to_owned(), &["unreadable"], 1),
        (String::new(), &["unreadable"], 0),
        ("deployment:\n  iris: {}\n".to_owned(), &["unknown-document"], 1),
    ];
    for (text, expected, line) in cases {
        let findings = found_in(&[&text]);
        let found: BTreeSet<&str> = findings.iter().map(|found| found.check.as_str()).collect();
        assert_eq!(found, expected.iter().copied().collect(), "{text}");
        assert_eq!(findings[0].line, line, "{text}{findings:#?}");
    }
}

/// A configuration that comes as JSON in a text.
#[test]
fn json_in_a_string_value_is_read_too() {
    let good = shipped(SHIPPED);
    let (before, after) = good.split_once("                configuration:\n").expect("a configuration");
    let (_, after) = after.split_once("                    # No `admin` here").expect("its end");
    let json = |path: &str| {
        format!(
            r#"{{"deployments": {{"iris": {{"match": {{"path_prefix": "{path}"}}, "colours": {{"blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}}}}}}}}"#
        )
    };
    let with = |path: &str| {
        let value = format!(
            "                configuration:\n                  \"@type\": type.googleapis.com/google.protobuf.StringValue\n                  \
             value: '{}'\n                    # No `admin` here",
            json(path)
        );
        // The anchor is gone with the object.
        replaced(
            &format!("{before}{value}{after}"),
            "deployments: *deployments",
            &format!("deployments: {}", &json(path)[16..json(path).len() - 1]),
        )
    };
    assert_eq!(words(&found_in(&[&with("/invocations")])), BTreeSet::new());
    let findings = found_in(&[&with("invocations")]);
    assert_eq!(words(&findings), ["configuration"].into());
    let path = "typed_config.config.configuration.value.deployments.iris.match.path_prefix";
    assert!(findings.iter().any(|found| found.path.ends_with(path)), "{findings:#?}");
}

#[test]
fn several_configurations_and_their_mistakes_are_all_told() {
    let good = shipped(SHIPPED);
    let spoilt = replaced(&good, "- remove: x-bluegreen-colour", "- remove: x-other");
    let spoilt = replaced(&spoilt, "cluster_header: x-bluegreen-cluster\n", "cluster: blue\n");
    let spoilt = replaced(&spoilt, "path_prefix: /bluegreen", "path_prefix: bluegreen");
    let expected = ["answers-from-elsewhere", "client-headers", "configuration"];
    assert_eq!(words(&found_in(&[&spoilt])), expected.into());
}

#[test]
fn deployments_that_share_nothing_may_have_a_listener_each() {
    let good = shipped(SHIPPED);
    let iris = "iris: {colours: {blue: {cluster: blue, version: \"1\"}, green: {cluster: green, version: \"2\"}}}";
    let other = iris.replace("iris", "rose");
    let text = replaced(&good, "deployments: *deployments", &format!("deployments: {{{other}}}"));
    let text = replaced(
        &text,
        "vm_config: *vm",
        "vm_config: {vm_id: rose, runtime: envoy.wasm.runtime.v8, code: {local: {filename: dist/bluegreen.wasm}}}",
    );
    assert_eq!(words(&found_in(&[&text])), BTreeSet::new());
}

#[test]
fn each_listener_may_have_the_routes_of_some_of_the_deployments() {
    let good = shipped(SHIPPED);
    let rose = "deployments: &deployments\n                      rose: {match: {path_prefix: /rose}, colours: {blue: {cluster: blue, \
                version: \"1\"}, green: {cluster: green, version: \"2\"}}}";
    let both = replaced(&good, "deployments: &deployments", rose);
    assert_eq!(words(&found_in(&[&both])), ["no-route"].into());
    let (before, listeners) = both.split_once("  listeners:\n").expect("listeners");
    let (traffic, admin) = listeners.split_once("  # [8]").expect("two listeners");
    let second =
        traffic.replace("name: traffic", "name: roses").replace("path_separated_prefix: /invocations", "prefix: /rose");
    let second = second.replace("vm_config: &vm", "vm_config: &other_vm").replace("&deployments", "&other_deployments");
    let text = format!("{before}  listeners:\n{traffic}{second}  # [8]{admin}");
    assert_eq!(words(&found_in(&[&text])), BTreeSet::new());
}

/// As control planes write filters that they do not know.
#[test]
fn a_filter_in_a_typed_struct_is_read_too() {
    let wrapped = |path: &str| {
        format!(
            r#"{{"static_resources": {{"listeners": [{{"name": "l", "filter_chains": [{{"filters": [{{"typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "rds": {{"route_config_name": "elsewhere"}},
                "httpFilters": [{{"name": "bluegreen", "typedConfig": {{
                    "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                    "type_url": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                    "value": {{"config": {{"failOpen": true, "vm_config": {{"vm_id": "bluegreen"}}, "configuration": {{"value": {{"deployments": {{"iris": {{
                        "match": {{"path_prefix": "{path}"}},
                        "colours": {{"blue": {{"cluster": "blue", "version": "1"}}, "green": {{"cluster": "green", "version": "2"}}}}
                    }}}}}}}}}}}}
                }}}}]
            }}}}]}}]}}], "clusters": [{{"name": "blue"}}, {{"name": "green"}}]}}}}"#
        )
    };
    let is_about_stats = |words: BTreeSet<&str>| words == ["stats-labels"].into();
    assert!(is_about_stats(words(&found_in(&[&wrapped("/a")]))));
    assert!(words(&found_in(&[&wrapped("a")])).contains("configuration"));
}

#[test]
fn another_plugin_does_not_share_the_state() {
    let good = shipped(SHIPPED);
    let other = "          http_filters:\n          - name: other\n            typed_config:\n              \"@type\": \
                 type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              config: {name: other, vm_config: {vm_id: \
                 bluegreen, code: {local: {filename: other.wasm}}}}\n";
    let findings = found_in(&[&replaced(&good, "          http_filters:\n", other)]);
    assert_eq!(words(&findings), ["vm-id-shared"].into());
    assert_eq!(
        words(&found_in(&[&replaced(
            &good,
            "          http_filters:\n",
            &other.replace("vm_id: bluegreen", "vm_id: other")
        )])),
        BTreeSet::new()
    );
}

#[test]
fn a_configuration_that_no_bootstrap_names_is_read_all_the_same() {
    let spoilt = replaced(&shipped("envoy/ecds/bluegreen.yaml"), "canary_percent: 0,", "canary_percent: 101,");
    assert_eq!(words(&found_in(&[&shipped(SHIPPED), &spoilt])), ["configuration"].into());
}

#[test]
fn one_chain_does_not_decide_twice() {
    let good = shipped(SHIPPED);
    let (_, filter) = good.split_once("          http_filters:\n").expect("filters");
    let (filter, _) = filter.split_once("          - name: envoy.filters.http.router").expect("a router");
    let again = filter.replace("&vm", "").replace("&deployments", "");
    let text = good.replacen(
        "          - name: envoy.filters.http.router",
        &format!("{again}          - name: envoy.filters.http.router"),
        1,
    );
    assert!(words(&found_in(&[&text])).contains("two-filters"));
}

#[test]
fn a_token_has_one_role_in_all_listeners() {
    let good = shipped(SHIPPED);
    let sum = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let with =
        |role: &str| format!("admin: {{tokens: [{{name: alice, role: {role}, sha256: {sum}}}]}}\n                    ");
    let text =
        replaced(&good, "# No `admin` here: this listener serves no admin API.\n", &format!("{}\n", with("viewer")));
    let text = replaced(&text, "61112491d046c3f6f8ab801f170d9b2d0c734a17ceff60dee92123fb507cfc3f", sum);
    let findings = found_in(&[&text]);
    assert!(
        findings.iter().any(|found| found.check == Check::TokenRoles && found.detail.contains("alice (viewer)")),
        "{findings:#?}"
    );
}

#[test]
fn etcd_needs_http_2_and_every_listener_needs_etcd() {
    let good = shipped(SHIPPED);
    let cluster = "  clusters:\n  - {name: etcd, connect_timeout: 1s, load_assignment: {cluster_name: etcd}}\n";
    let text = replaced(&good, "  clusters:\n", cluster);
    let text = replaced(
        &text,
        "deployments: *deployments",
        "deployments: *deployments\n                    etcd: {cluster: etcd}",
    );
    assert_eq!(words(&found_in(&[&text])), ["etcd-http2", "workers-disagree"].into());
    let text = replaced(&text, "# No `admin` here", "etcd: {cluster: etcd} #");
    let http2 = "name: etcd, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {explicit_http_config: {http2_protocol_options: {}}}}";
    assert_eq!(words(&found_in(&[&text])), ["etcd-http2"].into());
    assert_eq!(words(&found_in(&[&replaced(&text, "name: etcd, ", &format!("{http2}, "))])), BTreeSet::new());
}

#[test]
fn copies_need_a_mirror_policy_once_there_are_any() {
    let good = shipped(SHIPPED);
    let none = replaced(
        &good,
        "request_mirror_policies:\n                  - cluster_header: x-bluegreen-shadow",
        "idle_timeout: 0s",
    );
    assert_eq!(words(&found_in(&[&none])), BTreeSet::new());
    assert_eq!(
        words(&found_in(&[&replaced(&none, "shadow_percent: 0", "shadow_percent: 5")])),
        ["shadow-route"].into()
    );
    // What the filter compares it sends by itself.
    let comparing = |share: &str| {
        let section = format!(
            "shadow_percent: 5}}\n                        shadow: {{compare: {{sample_percent: {share}, safe: [{{method: POST, path_prefix: /invocations}}]}}}}"
        );
        words(&found_in(&[&replaced(&none, "shadow_percent: 0}", &section)]))
    };
    assert_eq!((comparing("100"), comparing("50")), (BTreeSet::new(), ["shadow-route"].into()));
    // A route of its own for requests of which a copy is made, in each way of saying that of a header.
    for absent in ["present_match: false", "present_match: true, invert_match: true"] {
        let apart = replaced(&good, "present_match: false", absent);
        assert_eq!(words(&found_in(&[&replaced(&apart, "shadow_percent: 0", "shadow_percent: 5")])), BTreeSet::new());
    }
    // A route of theirs that goes elsewhere.
    let elsewhere = good.replace(
        "cluster_header: x-bluegreen-cluster\n                  request_mirror_policies:",
        "cluster: blue\n                  request_mirror_policies:",
    );
    assert_ne!(elsewhere, good);
    assert_eq!(words(&found_in(&[&elsewhere])), ["answers-from-elsewhere"].into());
    // Without a condition the first route takes them too.
    let first = replaced(&good, ", headers: [{name: x-bluegreen-shadow, present_match: false}]", "");
    assert_eq!(
        words(&found_in(&[&replaced(&first, "shadow_percent: 0", "shadow_percent: 5")])),
        ["shadow-route"].into()
    );
}

#[test]
fn paths_with_a_colon_need_a_prefix() {
    let good = replaced(&shipped(SHIPPED), "path_prefix: /invocations", "path_prefix: /v1/models/iris");
    let separated = replaced(&good, "path_separated_prefix: /invocations", "path_separated_prefix: /v1/models/iris");
    assert_eq!(words(&found_in(&[&separated])), ["path-colon"].into());
    assert_eq!(words(&found_in(&[&replaced(&separated, "path_separated_prefix:", "prefix:")])), BTreeSet::new());
}

#[test]
fn routes_that_match_the_colour_follow_the_filter_too() {
    let good = shipped(SHIPPED);
    let route = "cluster_header: x-bluegreen-cluster\n";
    let green = |cluster: &str| {
        format!(
            "      - match: {{prefix: /invocations, headers: [{{name: x-bluegreen-colour, string_match: {{exact: green}}}}]}}\n                \
             route: {{cluster: {cluster}}}\n              - name: iris\n"
        )
    };
    let by_colour = replaced(&replaced(&good, route, "cluster: blue\n"), "      - name: iris\n", &green("green"));
    assert_eq!(words(&found_in(&[&by_colour])), BTreeSet::new());
    let wrong = replaced(&replaced(&good, route, "cluster: blue\n"), "      - name: iris\n", &green("blue"));
    let findings = found_in(&[&wrong]);
    assert_eq!(words(&findings), ["answers-from-elsewhere"].into());
    assert!(findings.iter().any(|found| found.detail.contains("gives to green")), "{findings:#?}");
}

#[test]
fn manifests_are_checked_with_what_stands_beside_them() {
    let istio =
        ["envoy/istio/routes.yaml", "envoy/istio/wasmplugin.yaml", "envoy/istio/authorizationpolicy.yaml"].map(shipped);
    let gateway = ["envoy/gateway/routes.yaml", "envoy/gateway/extensionpolicy.yaml"].map(shipped);
    let filter = [shipped("envoy/istio/envoyfilter.yaml")];
    let cases: [(&[String], Case); 13] = [
        (&istio, ("failStrategy: FAIL_OPEN", "priority: 1", &["failure-policy"], "failStrategy")),
        (
            &istio,
            (
                "failStrategy: FAIL_OPEN",
                "failStrategy: FAIL_OPEN\n  phase: AUTHN",
                &["filter-order"],
                "leave phase out",
            ),
        ),
        (&istio, ("/bluegreen, /bluegreen/*", "/other", &["admin-exposed"], "no AuthorizationPolicy names /bluegreen")),
        (
            &istio,
            (
                "8080|green|iris",
                "8080|gren|iris",
                &["answers-from-elsewhere", "cluster-unknown"],
                "outbound|8080|green|iris",
            ),
        ),
        (
            &istio,
            (
                "{x-bluegreen-colour: {exact: green}}",
                "{x-bluegreen-color: {exact: green}}",
                &["answers-from-elsewhere"],
                "x-bluegreen-colour: green",
            ),
        ),
        (&istio, ("initial: {active: blue,", "initial: {active: green,", &["wrong-seed"], "initial.active")),
        (&istio, ("canary_percent: 0,", "canary: 0,", &["configuration"], "unknown field `canary`")),
        (&gateway, ("failOpen: true", "failOpen: false", &["failure-policy"], "failOpen")),
        (
            &gateway,
            (
                "green: {cluster: httproute/models/iris/rule/1,",
                "green: {cluster: httproute/models/iris/rule/7,",
                &["answers-from-elsewhere", "cluster-unknown"],
                "rule/7",
            ),
        ),
        (
            &gateway,
            (
                "remove: [x-bluegreen-cluster, x-bluegreen-colour, ",
                "remove: [x-bluegreen-cluster, ",
                &["client-headers"],
                "x-bluegreen-colour",
            ),
        ),
        (
            &filter,
            (
                "cluster_header: x-bluegreen-cluster",
                "cluster_header: x-cluster",
                &["answers-from-elsewhere"],
                "the filter writes x-bluegreen-cluster",
            ),
        ),
        (&filter, ("value: outbound|8080|blue", "value: outbound|8080|green", &["wrong-seed"], "initial.active")),
        (&filter, ("key: x-bluegreen-cluster", "key: x-other", &["not-seeded"], "seed it with")),
    ];
    for (files, (part, by, expected, detail)) in cases {
        let texts: Vec<&str> = files.iter().map(String::as_str).collect();
        assert_eq!(words(&found_in(&texts)), BTreeSet::new(), "as shipped");
        assert!(texts.iter().any(|text| text.contains(part)), "no file has {part:?}");
        let spoilt: Vec<String> = texts.iter().map(|text| text.replace(part, by)).collect();
        let findings = found_in(&spoilt.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(words(&findings), expected.iter().copied().collect(), "{part:?} by {by:?}: {findings:#?}");
        assert!(findings.iter().any(|found| found.detail.contains(detail)), "{detail}: {findings:#?}");
    }
}

#[test]
fn two_policies_are_two_states() {
    let policy = shipped("envoy/gateway/extensionpolicy.yaml");
    let both = [policy.as_str(), &policy.replace("name: bluegreen, namespace", "name: other, namespace")];
    assert!(words(&found_in(&both)).contains("no-traffic-worker"));
}

/// The shipped files that are used together.
const TOGETHER: &[&[&str]] = &[
    &["envoy/envoy.yaml"],
    &["envoy/ecds/envoy.yaml"],
    &["envoy/ecds/envoy.yaml", "envoy/ecds/bluegreen.yaml"],
    &["envoy/ecds/bluegreen.yaml"],
    &["envoy/mlflow/envoy.yaml", "envoy/mlflow/registry-credential.yaml", "envoy/mlflow/webhook-secret.yaml"],
    &["envoy/etcd/cluster.yaml"],
    &["envoy/istio/routes.yaml", "envoy/istio/wasmplugin.yaml", "envoy/istio/authorizationpolicy.yaml"],
    &["envoy/istio/routes.yaml", "envoy/istio/trafficextension.yaml", "envoy/istio/authorizationpolicy.yaml"],
    &["envoy/istio/routes.yaml", "envoy/istio/envoyfilter.yaml"],
    &["envoy/istio/wasmplugin.yaml"],
    &["envoy/gateway/routes.yaml", "envoy/gateway/extensionpolicy.yaml", "envoy/gateway/proxy.yaml"],
];

fn paths(files: &[&str]) -> Vec<PathBuf> {
    files.iter().map(|file| root().join(file)).collect()
}

#[test]
fn every_shipped_file_is_clean() {
    for files in TOGETHER {
        let outcome = check(&paths(files));
        assert_eq!(words(&outcome.findings), BTreeSet::new(), "{files:?}: {:#?}", outcome.findings);
    }
    // In a container it listens at all addresses, and docker-compose.yml publishes it on loopback.
    let compose = ["envoy.yaml", "bluegreen-fleet.yaml", "bluegreen-local.yaml", "bluegreen-mlflow.yaml"];
    let compose: Vec<String> = compose.iter().map(|file| format!("envoy/compose/{file}")).collect();
    let outcome = check(&paths(&compose.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(words(&outcome.findings), ["admin-exposed", "demo-token"].into(), "{:#?}", outcome.findings);
    assert!(outcome.findings.iter().all(|found| found.level < Level::Error || found.check == Check::DemoToken));
}

#[test]
fn a_configuration_that_comes_from_elsewhere_is_said_to_be_missing() {
    let findings = found_in(&[&shipped("envoy/compose/envoy.yaml")]);
    assert!(findings.iter().any(|found| found.check == Check::NotHere && found.level == Level::Note), "{findings:#?}");
}

#[test]
fn what_bluegreen_does_not_know_is_none_of_its_business() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: iris}\n---\napiVersion: extensions.istio.io/v1alpha1\n\
                kind: WasmPlugin\nmetadata: {name: other}\nspec: {url: oci://example.com/other, pluginConfig: {a: 1}}\n";
    assert_eq!(found_in(&[text]), []);
}

#[test]
fn every_check_can_be_seen_to_find_something() {
    let tests = include_str!("tests.rs");
    for check in Check::ALL {
        let variant = format!("Check::{check:?}");
        assert!(tests.contains(&format!("\"{}\"", check.as_str())) || tests.contains(&variant), "{}", check.as_str());
    }
}

#[test]
fn the_document_has_the_list_of_checks() {
    let listed: String = Check::ALL
        .iter()
        .map(|check| format!("| `{}` | {} | {} |\n", check.as_str(), check.level(), check.meaning()))
        .collect();
    assert!(shipped("docs/validate.md").contains(&listed), "docs/validate.md has to have this table:\n{listed}");
}

#[test]
fn the_list_of_capabilities_is_that_of_the_document() {
    let document = shipped("docs/install.md");
    let documented: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.trim().strip_suffix(": {}"))
        .filter(|name| name.starts_with("proxy_"))
        .collect();
    assert_eq!(
        documented,
        checks::CAPABILITIES.into_iter().chain(checks::FOR_ETCD).chain([checks::FOR_COMPARING]).collect()
    );
}

#[test]
fn a_finding_is_one_line_that_says_where_and_what() {
    let outcome = check(&paths(&["envoy/no-such-file.yaml"]));
    let text = report::text(&outcome, false);
    assert!(text.contains("envoy/no-such-file.yaml: error[unreadable]: it cannot be read"), "{text}");
    assert!(text.ends_with("1 error, 0 warnings: 1 file, nothing of bluegreen in it\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report::json(&outcome).expect("JSON")).expect("JSON");
    assert_eq!((&json["ok"], &json["findings"][0]["problem"]), (&false.into(), &"unreadable".into()));
    let clean = report::text(&check(&paths(&["envoy/envoy.yaml"])), false);
    assert_eq!(clean.lines().count(), 1, "{clean}");
    assert!(clean.starts_with("ok: 1 file with 2 configurations, 1 deployment, 2 listeners"), "{clean}");
}
