//! What the documentation says holds: its links lead somewhere, the filter reads its configurations, and this command line
//! takes its commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bluegreen_core::config::Config;
use clap::Parser as _;
use clap::error::ErrorKind;
use pulldown_cmark::{CodeBlockKind, CowStr, Event, Options, Parser, Tag, TagEnd};
use serde_json::{Map, Value, json};

use crate::Options as CommandLine;

/// Pages beside those in `docs/`.
const OTHER_PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "SECURITY.md"];

/// What may stand at the top of a configuration, beside `deployments`.
const SECTIONS: [&str; 7] = ["routing", "admin", "etcd", "config_push", "runtime", "notify", "kubernetes"];

/// What may stand in a deployment, in an example that shows nothing else.
const OF_A_DEPLOYMENT: [&str; 13] = [
    "match",
    "colours",
    "initial",
    "sticky",
    "override",
    "probe",
    "smoke_test",
    "shadow",
    "bake",
    "failover",
    "mlflow",
    "rollout",
    "guard",
];

/// A Markdown file, and what the tests ask about it.
struct Page {
    /// From the checkout's root.
    path: PathBuf,
    links: Vec<String>,
    anchors: BTreeSet<String>,
    blocks: Vec<Block>,
}

/// A fenced block of code.
struct Block {
    language: String,
    text: String,
}

// === impl Page ===

impl Page {
    fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(root().join(&path)).with_context(|| path.display().to_string())?;
        let (mut links, mut anchors, mut blocks) = (Vec::new(), BTreeSet::new(), Vec::new());
        let (mut heading, mut block) = (None, None);
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let again = (1..).map(|n| format!("{anchor}-{n}"));
                    let free = [anchor.clone()].into_iter().chain(again).find(|name| !anchors.contains(name));
                    anchors.extend(free);
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block { language: language.into_string(), text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(block.take()),
                Event::Html(html) | Event::InlineHtml(html) => anchors.extend(named(&html)),
                Event::Text(text) | Event::Code(text) => {
                    add(&text, heading.as_mut());
                    add(&text, block.as_mut().map(|block| &mut block.text));
                }
                _ => {}
            }
        }
        Ok(Self { path, links, anchors, blocks })
    }

    fn blocks(&self, languages: &[&str]) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| languages.contains(&block.language.as_str()))
    }
}

fn add(text: &CowStr<'_>, to: Option<&mut String>) {
    if let Some(to) = to {
        to.push_str(text);
    }
}

/// The fragment by which GitHub links to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The fragment of `<a id="…">`.
fn named(html: &str) -> Option<String> {
    let (_, name) = html.split_once("<a id=\"")?;
    Some(name.split_once('"')?.0.to_owned())
}

/// The checkout.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// All files below `folder` whose names end with `end`, from the checkout's root.
fn files(folder: &str, end: &str) -> Result<BTreeSet<PathBuf>> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

fn pages() -> Result<Vec<Page>> {
    let mut paths = files("docs", ".md")?;
    paths.extend(files("envoy", ".md")?);
    paths.extend(OTHER_PAGES.map(PathBuf::from));
    paths.into_iter().map(Page::read).collect()
}

/// `path` without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

/// What is wrong with `link` on `page`.
fn broken(page: &Page, link: &str, anchors: &BTreeMap<&Path, &BTreeSet<String>>) -> Option<String> {
    let (target, fragment) = link.split_once('#').unwrap_or((link, ""));
    let path = if target.is_empty() { page.path.clone() } else { page.path.parent()?.join(target) };
    let path = plain(&path);
    if !root().join(&path).exists() {
        return Some(format!("{}: {link}: there is no {}", page.path.display(), path.display()));
    }
    let known = fragment.is_empty() || anchors.get(path.as_path()).is_none_or(|anchors| anchors.contains(fragment));
    (!known).then(|| format!("{}: {link}: {} has no such heading", page.path.display(), path.display()))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() -> Result<()> {
    let pages = pages()?;
    let anchors = pages.iter().map(|page| (page.path.as_path(), &page.anchors)).collect();
    let inside = |link: &&String| !link.contains("://") && !link.starts_with("mailto:");
    let mut seen = 0;
    let mut all = Vec::new();
    for page in &pages {
        for link in page.links.iter().filter(inside) {
            seen += 1;
            all.extend(broken(page, link, &anchors));
        }
    }
    ensure!(all.is_empty(), "{}", all.join("\n"));
    ensure!(seen > 200, "only {seen} links were found");
    Ok(())
}

#[test]
fn the_index_and_the_list_for_language_models_have_every_page() -> Result<()> {
    let pages = files("docs", ".md")?;
    // The records have an index of their own.
    let own = |page: &&PathBuf| !page.starts_with("docs/decisions") && !page.ends_with("docs/README.md");
    for list in ["docs/README.md", "docs/llms.txt"] {
        let listed = Page::read(PathBuf::from(list))?;
        let listed: BTreeSet<_> = listed.links.iter().map(|link| plain(&Path::new("docs").join(link))).collect();
        let names = |page: &&PathBuf| listed.contains(*page);
        let missing: Vec<_> = pages.iter().filter(own).filter(|page| !names(page)).collect();
        ensure!(missing.is_empty(), "{list} does not link to {missing:?}");
    }
    Ok(())
}

/// Every object with `deployments` in `value`, at any depth.
fn configurations(value: &Value) -> Vec<&Map<String, Value>> {
    match value {
        Value::Object(members) if members.contains_key("deployments") => vec![members],
        Value::Object(members) => members.values().flat_map(configurations).collect(),
        Value::Array(elements) => elements.iter().flat_map(configurations).collect(),
        _ => Vec::new(),
    }
}

/// A configuration of what an example shows a part of.
fn complete(example: &Value) -> Vec<Map<String, Value>> {
    let names =
        |members: &Map<String, Value>, known: &[&str]| members.keys().all(|name| known.contains(&name.as_str()));
    let part = match example {
        Value::Object(members) if names(members, &SECTIONS) => {
            let mut members = members.clone();
            members.insert("deployments".to_owned(), json!({"iris": {}}));
            Value::Object(members)
        }
        Value::Object(members) if names(members, &OF_A_DEPLOYMENT) => json!({"deployments": {"iris": example}}),
        other => other.clone(),
    };
    configurations(&part).into_iter().map(|members| with_what_is_required(members.clone())).collect()
}

/// The same with what examples may leave out: clusters, matches that differ, and what a failover needs.
fn with_what_is_required(mut configuration: Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Object(deployments)) = configuration.get_mut("deployments") else { return configuration };
    let several = deployments.len() > 1;
    for (name, deployment) in deployments.iter_mut().filter_map(|(name, value)| Some((name, value.as_object_mut()?))) {
        let mut add = |member: &str, value: Value| {
            deployment.entry(member).or_insert(value);
        };
        let of = |colour: &str| json!({"cluster": format!("{name}-{colour}"), "version": colour});
        add("colours", json!({"blue": of("1"), "green": of("2")}));
        add("probe", json!({"path": "/ping"}));
        add("bake", json!({"for": "10m"}));
        if several {
            add("match", json!({"path_prefix": format!("/{name}")}));
        }
    }
    configuration
}

#[test]
fn the_filter_reads_every_configuration() -> Result<()> {
    let (mut seen, mut refused) = (0, Vec::new());
    for page in pages()? {
        // What is left out by "…" is not there to be read.
        for block in page.blocks(&["yaml"]).filter(|block| !block.text.contains('…')) {
            let at = || format!("{}:\n{}", page.path.display(), block.text);
            let example: Value = serde_saphyr::from_str(&block.text).with_context(at)?;
            for configuration in complete(&example) {
                seen += 1;
                let read = Config::from_bytes(Value::Object(configuration).to_string().as_bytes());
                refused.extend(read.err().map(|error| format!("{error}, in {}", at())));
            }
        }
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    ensure!(seen > 20, "only {seen} configurations were found");
    Ok(())
}

/// The calls of `bluegreen` in a block of shell: `$ bluegreen status`, with what a shell makes of `&&`, `|`, `>` and `#`.
fn calls(block: &Block) -> Vec<Vec<String>> {
    let lines = block.text.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line));
    let commands = lines.flat_map(|line| line.split("&&")).map(str::trim);
    let commands = commands.filter(|command| command.starts_with("bluegreen "));
    // A usage line is not a call.
    let calls = commands.filter(|command| !command.contains(['[', '<', '…', '{']));
    let words = calls.filter_map(|call| call.split([';', '|', '>', '#']).next().and_then(shlex::split));
    words.collect()
}

#[test]
fn the_command_line_takes_every_call() -> Result<()> {
    let (mut seen, mut refused) = (0, Vec::new());
    for page in pages()? {
        for call in page.blocks(&["console", "sh", "bash", ""]).flat_map(calls) {
            seen += 1;
            let error = CommandLine::try_parse_from(&call).err();
            let shown = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
            let error = error.filter(|error| !shown.contains(&error.kind()));
            refused.extend(error.map(|error| format!("{}: {}: {error}", page.path.display(), call.join(" "))));
        }
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    ensure!(seen > 20, "only {seen} calls were found");
    Ok(())
}

#[test]
fn headings_have_the_anchors_that_github_gives_them() {
    for (heading, expected) in [
        ("Release by release", "release-by-release"),
        ("503 with an empty body", "503-with-an-empty-body"),
        ("`config_push` and `runtime`", "config_push-and-runtime"),
        ("Drain: may I stop blue now?", "drain-may-i-stop-blue-now"),
        ("Envoy's runtime", "envoys-runtime"),
    ] {
        assert_eq!(anchor(&heading.replace('`', "")), expected);
    }
}
