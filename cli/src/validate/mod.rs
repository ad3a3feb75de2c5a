//! `bluegreen validate`: finds in files what is wrong with a set-up, before an Envoy reads them.
//!
//! [`document`] reads files into trees whose values know their place. [`setup`] and [`kubernetes`] say what of them an Envoy
//! gets, [`routes`] which requests go where. [`checks`] are functions from that to findings, and [`report`] shows them.

mod document;
mod finding;
mod routes;
mod setup;
mod checks;
mod kubernetes;
mod report;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Args;

use self::document::{At, Document, Place};
use self::finding::{Check, Finding, Findings, Level};
use self::setup::{Carrier, Plugin, Resources, Setup};

/// What to check.
#[derive(Args)]
pub struct Arguments {
    /// Plugin configurations, whole Envoy files, or manifests, in YAML or JSON; `-` reads standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Exit with 1 on warnings too
    #[arg(long)]
    strict: bool,
    /// Show notes as well
    #[arg(long)]
    notes: bool,
    /// Do not report this problem, such as `demo-token`; several with commas
    #[arg(long, value_name = "PROBLEM", value_delimiter = ',', value_parser = known_check)]
    allow: Vec<Check>,
}

/// What was read and what was found.
#[derive(Debug)]
struct Outcome {
    /// How many of each kind of document were looked at.
    seen: Seen,
    findings: Vec<Finding>,
}

/// What was looked at.
#[derive(Debug, Default, serde::Serialize)]
struct Seen {
    files: usize,
    configurations: usize,
    deployments: usize,
    listeners: usize,
    routes: usize,
    clusters: usize,
    manifests: usize,
}

/// What a document is, by what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Configuration,
    Bootstrap,
    /// What an Envoy finds by discovery, or a part of a bootstrap.
    Resources,
    Manifest,
    Unknown,
}

fn known_check(word: &str) -> Result<Check, String> {
    let known = Check::ALL.iter().find(|check| check.as_str() == word);
    known.copied().ok_or_else(|| {
        let words: Vec<&str> = Check::ALL.iter().map(|check| check.as_str()).collect();
        format!("there is no such problem: use one of {}", words.join(", "))
    })
}

/// Checks each file, and prints a line for each problem, or one JSON object.
///
/// # Errors
/// Standard output is closed.
pub fn run(arguments: &Arguments, as_json: bool) -> Result<ExitCode> {
    let mut outcome = check(&arguments.files);
    outcome.findings.retain(|finding| !arguments.allow.contains(&finding.check));
    let worst = outcome.findings.iter().map(|finding| finding.level).max();
    let text = if as_json { report::json(&outcome)? } else { report::text(&outcome, arguments.notes) };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).context("standard output")?;
    let limit = if arguments.strict { Level::Warning } else { Level::Error };
    Ok(if worst >= Some(limit) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads the files, and what they name, and checks all of it.
fn check(files: &[PathBuf]) -> Outcome {
    let mut findings = Findings::default();
    let mut documents: Vec<Rc<Document>> = Vec::new();
    for file in files {
        documents.extend(load(file, &mut findings));
    }
    let given = documents.len();
    let mut referenced = BTreeSet::new();
    let mut place = 0;
    // What is named by what is named counts too.
    while let Some(document) = documents.get(place).map(Rc::clone) {
        place = place.saturating_add(1);
        for path in watched_files(&document.root()) {
            let Some(found) = find(&path, &document.file) else { continue };
            let name = found.display().to_string();
            if documents.iter().all(|known| !is_same_file(&known.file, &found)) {
                documents.extend(load(&found, &mut findings));
            }
            referenced.insert(
                documents
                    .iter()
                    .find(|known| is_same_file(&known.file, &found))
                    .map_or(name, |known| known.file.to_string()),
            );
        }
    }
    let mut seen = Seen { files: files.len(), ..Seen::default() };
    let roots: Vec<At<'_>> = documents.iter().map(|document| document.root()).collect();
    for root in roots.iter().take(given) {
        match form(root) {
            Form::Configuration => configuration(root, &mut seen, &mut findings),
            Form::Unknown => unknown(root, &mut findings),
            Form::Manifest => seen.manifests = seen.manifests.saturating_add(1),
            Form::Bootstrap | Form::Resources => {}
        }
    }
    envoys(&roots, &referenced, &mut seen, &mut findings);
    let manifests: Vec<At<'_>> = roots.iter().filter(|root| form(root) == Form::Manifest).cloned().collect();
    kubernetes::check(&manifests, &mut seen, &mut findings);
    Outcome { seen, findings: findings.sorted() }
}

/// Each Envoy: a bootstrap with what it names, or resources that no bootstrap names.
fn envoys(roots: &[At<'_>], referenced: &BTreeSet<String>, seen: &mut Seen, findings: &mut Findings) {
    let of_form = |wanted: Form| roots.iter().filter(move |root| form(root) == wanted);
    let is_loose = |root: &&At<'_>| !referenced.contains(&*root.document.file);
    let mut loose = Resources::default();
    for root in of_form(Form::Resources).filter(is_loose) {
        loose.extend(Resources::of(root));
    }
    let (mut bootstraps, mut uses_loose) = (0_usize, false);
    for root in of_form(Form::Bootstrap) {
        bootstraps = bootstraps.saturating_add(1);
        let named = watched_files(root);
        let mut resources = Resources::of(root);
        let mut is_whole = true;
        for path in &named {
            let found = find(path, &root.document.file);
            is_whole &= found.is_some();
            let of_file =
                |other: &&At<'_>| found.as_ref().is_some_and(|found| is_same_file(&other.document.file, found));
            for other in of_form(Form::Resources).filter(of_file) {
                resources.extend(Resources::of(other));
            }
        }
        if !is_whole {
            uses_loose = true;
            resources.extend(loose.clone());
        }
        let by_discovery = root.fields(&["dynamic_resources", "cds_config"]);
        let cds_is_here = by_discovery
            .is_none_or(|config| watched_files(&config).iter().any(|path| find(path, &root.document.file).is_some()));
        one_envoy(Some(root.clone()), &resources, cds_is_here, seen, findings);
    }
    if bootstraps == 0 {
        let has_clusters = !loose.clusters.is_empty() && !loose.listeners.is_empty();
        one_envoy(None, &loose, has_clusters, seen, findings);
        uses_loose = !loose.listeners.is_empty();
    }
    if !uses_loose {
        loose_configurations(&loose, seen, findings);
    }
}

/// Configurations for filters that are elsewhere.
fn loose_configurations(loose: &Resources<'_>, seen: &mut Seen, findings: &mut Findings) {
    for (_, extension) in &loose.extensions {
        let config = extension.fields(&["typed_config", "config"]);
        let plugin = config.and_then(|config| Plugin::of_envoy(&config, findings));
        let Some((plugin, config)) = plugin.and_then(|plugin| Some((plugin.clone(), plugin.config?))) else { continue };
        seen.configurations = seen.configurations.saturating_add(1);
        seen.deployments = seen.deployments.saturating_add(config.deployments.len());
        checks::configuration(&plugin, &config, findings);
        config.admin.iter().for_each(|access| checks::published_tokens(&plugin, access, None, findings));
    }
}

fn one_envoy<'d>(
    bootstrap: Option<At<'d>>,
    resources: &Resources<'d>,
    clusters_are_known: bool,
    seen: &mut Seen,
    findings: &mut Findings,
) {
    let same_name = |name: &str| resources.extensions.iter().filter(|(known, _)| known == name).count();
    let variants = resources.extensions.iter().map(|(name, _)| same_name(name)).max().unwrap_or(1);
    for variant in 0..variants {
        let setup = Setup::of(bootstrap.clone(), resources, clusters_are_known, variant, findings);
        checks::all(&setup, findings);
        if variant == 0 {
            seen.count(&setup);
        }
    }
}

/// A plugin configuration in a file of its own.
fn configuration(root: &At<'_>, seen: &mut Seen, findings: &mut Findings) {
    let plugin = Plugin::of_manifest(root.clone(), Carrier::Envoy, root.clone(), findings);
    seen.configurations = seen.configurations.saturating_add(1);
    let Some(config) = &plugin.config else { return };
    seen.deployments = seen.deployments.saturating_add(config.deployments.len());
    checks::configuration(&plugin, config, findings);
    config.admin.iter().for_each(|access| checks::published_tokens(&plugin, access, None, findings));
}

fn unknown(root: &At<'_>, findings: &mut Findings) {
    let names: Vec<&str> = root.members().into_iter().map(|(name, _)| name).take(6).collect();
    let found = if names.is_empty() {
        "no object with fields".to_owned()
    } else {
        format!("an object with {}", names.join(", "))
    };
    let detail = format!(
        "this is {found}, and bluegreen knows a plugin configuration by its deployments, an Envoy file by its static_resources or \
         resources, and a manifest by its kind"
    );
    findings.add(Check::UnknownDocument, root, detail);
}

/// What a document is.
fn form(root: &At<'_>) -> Form {
    let has = |name: &str| root.field(name).is_some();
    if has("kind") && (has("apiVersion") || has("api_version")) {
        Form::Manifest
    } else if ["static_resources", "dynamic_resources", "layered_runtime", "overload_manager"]
        .iter()
        .any(|name| has(name))
    {
        Form::Bootstrap
    } else if root.get("deployments").is_some()
        || ["routing", "config_push", "etcd", "kubernetes"].iter().any(|name| root.get(name).is_some())
    {
        Form::Configuration
    } else if has("resources") || has("filter_chains") || root.type_name().is_some() || setup::is_cluster(root) {
        Form::Resources
    } else {
        Form::Unknown
    }
}

/// The files that an Envoy would read and watch, as they are named.
fn watched_files(at: &At<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(path) = at.fields(&["path_config_source", "path"]).and_then(|path| path.text()) {
        found.push(path.to_owned());
    }
    for (_, member) in at.members() {
        found.extend(watched_files(&member));
    }
    for element in at.elements() {
        found.extend(watched_files(&element));
    }
    found
}

/// Where a file is that another one names: Envoy looks from its working folder, which may be any above the file.
fn find(path: &str, named_in: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let folders = Path::new(named_in).ancestors().skip(1);
    let below = folders.map(|folder| folder.join(path));
    std::iter::once(path.to_owned()).chain(below).find(|candidate| candidate.is_file())
}

fn is_same_file(name: &str, found: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().ok();
    Path::new(name) == found || canonical(Path::new(name)).is_some_and(|known| Some(known) == canonical(found))
}

/// The documents of a file.
fn load(path: &Path, findings: &mut Findings) -> Vec<Rc<Document>> {
    let is_input = path == Path::new("-");
    let file: Rc<str> = if is_input { "standard input".into() } else { path.display().to_string().into() };
    let mut text = String::new();
    let read = if is_input {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    let mut refuse = |place: Place, problem: String| {
        findings.add_in(Check::Unreadable, Check::Unreadable.level(), &file, place, String::new(), problem);
    };
    match read.map_err(|error| error.to_string()).map(|()| document::read(&file, &text)) {
        Ok(Ok(documents)) if documents.is_empty() => refuse(Place::default(), "there is nothing in it".to_owned()),
        Ok(Ok(documents)) => return documents.into_iter().map(Rc::new).collect(),
        Ok(Err(unreadable)) => refuse(unreadable.place, unreadable.problem),
        Err(problem) => refuse(Place::default(), format!("it cannot be read: {problem}")),
    }
    Vec::new()
}

// === impl Seen ===

impl Seen {
    fn count(&mut self, setup: &Setup<'_>) {
        let mut places = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (_, _, plugin) in setup.plugins() {
            places.insert(plugin.written.path.clone());
            let config = plugin.config.iter().flat_map(|config| config.deployments.keys());
            names.extend(config.map(|name| name.as_str().to_owned()));
        }
        let routes: usize = setup.chains.iter().map(|chain| chain.routes.as_ref().map_or(0, Vec::len)).sum();
        self.configurations = self.configurations.saturating_add(places.len());
        self.deployments = self.deployments.saturating_add(names.len());
        self.listeners = self.listeners.saturating_add(setup.chains.len());
        self.routes = self.routes.saturating_add(routes);
        self.clusters = self.clusters.saturating_add(setup.clusters.as_ref().map_or(0, Vec::len));
    }
}

#[cfg(test)]
mod tests;
