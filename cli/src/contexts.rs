//! Which Envoys are meant, and with which token: options, environment, and the contexts in a file.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::api::{Client, DEFAULT_URL, Token};
use crate::style::Style;

/// Which Envoys a command asks.
#[derive(Args, Clone, Debug, Default)]
pub struct Selection {
    /// The admin API of an Envoy; repeat it for several [env: BLUEGREEN_URL] [default: http://127.0.0.1:10001/bluegreen]
    #[arg(long, global = true, value_name = "URL", help_heading = "Which Envoys", conflicts_with_all = ["context", "all", "selector"])]
    pub url: Vec<String>,
    /// A context of the configuration file [env: BLUEGREEN_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Which Envoys", conflicts_with_all = ["all", "selector"])]
    pub context: Option<String>,
    /// The Envoys of all contexts at once
    #[arg(long, global = true, help_heading = "Which Envoys", conflicts_with = "selector")]
    pub all: bool,
    /// The pods that have these labels, through kubectl port-forward
    #[arg(long, short = 'l', global = true, value_name = "LABELS", help_heading = "Which Envoys")]
    pub selector: Option<String>,
    /// The namespace of the pods
    #[arg(long, short = 'n', global = true, help_heading = "Which Envoys")]
    pub namespace: Option<String>,
    /// The port of the admin API in the pods [default: 10001]
    #[arg(long, global = true, help_heading = "Which Envoys", requires = "selector")]
    pub port: Option<u16>,
    /// The token; others on this machine can see it in the list of processes [env: BLUEGREEN_TOKEN]
    #[arg(long, global = true, help_heading = "Who asks", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file with the token
    #[arg(long, global = true, value_name = "FILE", help_heading = "Who asks")]
    pub token_file: Option<PathBuf>,
    /// Certificates of the authorities to trust, in PEM format, in place of the system's
    #[arg(long, global = true, value_name = "FILE", help_heading = "Who asks")]
    pub ca_cert: Option<PathBuf>,
}

/// `bluegreen context …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the contexts; * marks the one in use
    List,
    /// Use this context from now on
    Use {
        /// Its name
        name: String,
    },
    /// Add a context: `bluegreen context add prod --url https://… --token-env PROD_TOKEN`
    Add {
        /// Its name
        name: String,
        /// The environment variable that has the token
        #[arg(long, value_name = "VARIABLE", conflicts_with_all = ["token", "token_file"])]
        token_env: Option<String>,
    },
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The context in use.
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Entry>,
}

/// A context.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Several Envoys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// The path prefix of the API in the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_prefix: Option<String>,
    /// The cluster, as kubectl's own contexts name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kube_context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_cert: Option<PathBuf>,
}

/// Envoys that are meant.
#[derive(Clone, Debug)]
pub enum Target {
    /// One, at a URL.
    Url {
        /// Where.
        url: String,
        /// How it is asked.
        with: Credentials,
    },
    /// Those of a selector.
    Pods {
        /// Which.
        pods: Pods,
        /// How they are asked.
        with: Credentials,
    },
}

/// How an Envoy is asked.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    token: Option<Token>,
    ca_cert: Option<PathBuf>,
}

/// Pods of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// Their labels.
    pub selector: String,
    /// Their namespace, if it is not kubectl's own.
    pub namespace: Option<String>,
    /// Their cluster, if it is not kubectl's own.
    pub kube_context: Option<String>,
    /// The API's port there.
    pub port: u16,
    /// The API's path prefix there.
    pub path_prefix: String,
}

/// What is read of the environment: one place, so that tests have their own.
pub struct Environment<'e>(pub &'e dyn Fn(&str) -> Option<String>);

/// Of the shipped configuration.
const DEFAULT_PORT: u16 = 10_001;

/// Of the shipped configuration.
const DEFAULT_PREFIX: &str = "/bluegreen";

/// Manages the contexts.
///
/// # Errors
/// The file cannot be read or written, or has no such context.
pub fn run(command: &Command, selection: &Selection, style: Style) -> Result<ExitCode> {
    let environment = Environment::of_process();
    let path = environment.file()?;
    let (text, file) = File::read(&path)?;
    match command {
        Command::List => {
            if file.contexts.is_empty() {
                println!("{} has no contexts: bluegreen context add NAME --url URL", path.display());
            }
            let mut table = style.table(["", "NAME", "ENVOYS", "TOKEN"]);
            for (name, entry) in &file.contexts {
                let mark = if file.current.as_ref() == Some(name) { "*" } else { "" };
                table.add_row([mark, name, &entry.envoys(), &entry.token_in_words()]);
            }
            if !file.contexts.is_empty() {
                style.print(&table);
            }
        }
        Command::Use { name } => {
            file.entry(name, &path)?;
            write(&path, &using(&text, name)?)?;
            println!("{name} is in use");
        }
        Command::Add { name, token_env } => {
            ensure!(
                !file.contexts.contains_key(name),
                "{} has a context {name} already: edit the file",
                path.display()
            );
            ensure!(
                !selection.url.is_empty() || selection.selector.is_some(),
                "give the Envoys of the context: --url URL, once for each, or --selector LABELS"
            );
            for url in &selection.url {
                Client::new(url, None, None)?;
            }
            let entry = Entry {
                urls: selection.url.clone(),
                selector: selection.selector.clone(),
                namespace: selection.namespace.clone(),
                port: selection.port,
                token: selection.token.clone(),
                token_file: selection.token_file.clone(),
                token_env: token_env.clone(),
                ca_cert: selection.ca_cert.clone(),
                ..Entry::default()
            };
            let mut with = adding(&text, name, &entry)?;
            if file.current.is_none() {
                with = using(&with, name)?;
            }
            write(&path, &with)?;
            println!("{name} is added to {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The file with another context in use; the rest stays as it was written.
fn using(text: &str, name: &str) -> Result<String> {
    let line = format!("current = {}\n", toml::Value::String(name.to_owned()));
    let top = text.split_inclusive('\n').take_while(|line| !line.trim_start().starts_with('['));
    let (mut start, mut old) = (0, None);
    for written in top {
        if written.split('=').next().is_some_and(|key| key.trim() == "current") {
            old = Some(start..start + written.len());
        }
        start += written.len();
    }
    let mut text = text.to_owned();
    text.replace_range(old.unwrap_or(0..0), &line);
    let file: File =
        toml::from_str(&text).context("the file has a form that this command cannot edit: edit it by hand")?;
    ensure!(
        file.current.as_deref() == Some(name),
        "the file has a form that this command cannot edit: edit it by hand"
    );
    Ok(text)
}

/// The file with another context at its end.
fn adding(text: &str, name: &str, entry: &Entry) -> Result<String> {
    let contexts = BTreeMap::from([("contexts", BTreeMap::from([(name, entry)]))]);
    let space = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
    let text = format!("{text}{space}{}", toml::to_string(&contexts)?);
    let _: File =
        toml::from_str(&text).context("the file has a form that this command cannot edit: edit it by hand")?;
    Ok(text)
}

/// Readable for nobody else: it may have tokens.
fn write(path: &Path, text: &str) -> Result<()> {
    let saved = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = path.with_extension("toml.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    };
    saved().with_context(|| format!("cannot write {}", path.display()))
}

/// A path as written, from the folder of the file, or from the home folder.
fn resolve(path: &Path, of: &Path, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(home).join(rest),
        _ => of.parent().unwrap_or_else(|| Path::new("")).join(path),
    }
}

// === impl Environment ===

impl Environment<'_> {
    /// What this process was given.
    pub fn of_process() -> Self {
        Self(&|name| env::var(name).ok())
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// Where the configuration file is, or would be.
    fn file(&self) -> Result<PathBuf> {
        if let Some(path) = self.get("BLUEGREEN_CONFIG") {
            return Ok(path.into());
        }
        let folder = self.get("XDG_CONFIG_HOME").filter(|folder| Path::new(folder).is_absolute()).map(PathBuf::from);
        let folder = folder.or_else(|| Some(Path::new(&self.get("HOME")?).join(".config")));
        let folder = folder
            .context("neither HOME nor XDG_CONFIG_HOME is set: name the configuration file in BLUEGREEN_CONFIG")?;
        Ok(folder.join("bluegreen.toml"))
    }

    /// The Envoys that are meant.
    ///
    /// # Errors
    /// The file has a mistake or no such context, a URL is none, or a token cannot be read.
    pub fn targets(&self, selection: &Selection) -> Result<Vec<Target>> {
        let targets = self.named(selection)?;
        for target in &targets {
            if let Target::Url { url, with } = target {
                with.client(url)?;
            }
        }
        Ok(targets)
    }

    /// What is given with the command goes before the environment, and that before the file.
    fn named(&self, selection: &Selection) -> Result<Vec<Target>> {
        let own = self.own_token(selection)?;
        let with = |entry: Option<(&str, &Entry, &Path)>| self.credentials(selection, own.as_ref(), entry);
        if !selection.url.is_empty() {
            let with = with(None)?;
            return Ok(selection.url.iter().map(|url| Target::Url { url: url.clone(), with: with.clone() }).collect());
        }
        if let Some(selector) = &selection.selector {
            let pods = Pods {
                selector: selector.clone(),
                namespace: selection.namespace.clone(),
                kube_context: None,
                port: selection.port.unwrap_or(DEFAULT_PORT),
                path_prefix: DEFAULT_PREFIX.to_owned(),
            };
            return Ok(vec![Target::Pods { pods, with: with(None)? }]);
        }
        if let Some(urls) = self.get("BLUEGREEN_URL").filter(|_| selection.context.is_none() && !selection.all) {
            let with = with(None)?;
            let urls = urls.split([',', ' ']).filter(|url| !url.is_empty());
            return Ok(urls.map(|url| Target::Url { url: url.to_owned(), with: with.clone() }).collect());
        }
        let path = self.file()?;
        let (_, file) = File::read(&path)?;
        if selection.all {
            ensure!(
                !file.contexts.is_empty(),
                "{} has no contexts: bluegreen context add NAME --url URL",
                path.display()
            );
            let targets = file
                .contexts
                .iter()
                .map(|(name, entry)| Ok(entry.targets(selection, with(Some((name, entry, &path)))?)));
            return Ok(targets.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect());
        }
        let name = selection.context.clone().or_else(|| self.get("BLUEGREEN_CONTEXT")).or_else(|| file.current.clone());
        match name {
            Some(name) => {
                let entry = file.entry(&name, &path)?;
                Ok(entry.targets(selection, with(Some((&name, entry, &path)))?))
            }
            None => Ok(vec![Target::Url { url: DEFAULT_URL.to_owned(), with: with(None)? }]),
        }
    }

    /// The token that is not a context's.
    fn own_token(&self, selection: &Selection) -> Result<Option<Token>> {
        if let Some(secret) = &selection.token {
            return Ok(Some(Token::new(secret, "--token".to_owned())?));
        }
        if let Some(path) = &selection.token_file {
            return Token::read(path).map(Some);
        }
        self.get("BLUEGREEN_TOKEN").map(|secret| Token::new(&secret, "BLUEGREEN_TOKEN".to_owned())).transpose()
    }

    fn credentials(
        &self,
        selection: &Selection,
        own: Option<&Token>,
        entry: Option<(&str, &Entry, &Path)>,
    ) -> Result<Credentials> {
        let Some((name, entry, path)) = entry else {
            return Ok(Credentials { token: own.cloned(), ca_cert: selection.ca_cert.clone() });
        };
        let home = self.get("HOME");
        let resolved = |file: &Path| resolve(file, path, home.as_deref());
        let of_context = || {
            if let Some(secret) = &entry.token {
                return Token::new(secret, format!("context {name}")).map(Some);
            }
            if let Some(file) = &entry.token_file {
                return Token::read(&resolved(file)).map(Some);
            }
            let Some(variable) = &entry.token_env else { return Ok(None) };
            let secret = self.get(variable);
            let secret =
                secret.with_context(|| format!("context {name} takes its token from {variable}, which is not set"))?;
            Token::new(&secret, variable.clone()).map(Some)
        };
        let token = own.cloned().map_or_else(of_context, |own| Ok(Some(own)))?;
        Ok(Credentials { token, ca_cert: selection.ca_cert.clone().or_else(|| entry.ca_cert.as_deref().map(resolved)) })
    }
}

// === impl Token ===

impl Token {
    fn new(secret: &str, origin: String) -> Result<Self> {
        let secret = secret.trim();
        ensure!(!secret.is_empty(), "the token from {origin} is empty");
        ensure!(
            secret.bytes().all(|byte| byte.is_ascii_graphic()),
            "the token from {origin} has spaces or other characters that no token has"
        );
        Ok(Self { secret: secret.to_owned(), origin })
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?;
        Self::new(&text, path.display().to_string())
    }
}

// === impl Credentials ===

impl Credentials {
    /// A client of the API at `url`.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn client(&self, url: &str) -> Result<Client> {
        Client::new(url, self.token.clone(), self.ca_cert.as_deref())
    }
}

// === impl File ===

impl File {
    /// The file's text and what it says; nothing where there is none.
    fn read(path: &Path) -> Result<(String, Self)> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((String::new(), Self::default())),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let file: Self = toml::from_str(&text).with_context(|| format!("{} has a mistake", path.display()))?;
        for (name, entry) in &file.contexts {
            entry.check().with_context(|| format!("{}: context {name}", path.display()))?;
        }
        let has_token = file.contexts.values().any(|entry| entry.token.is_some());
        if has_token && fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
            let path = path.display();
            eprintln!(
                "bluegreen: warning: {path} has a token, and others on this machine can read it: chmod 600 {path}"
            );
        }
        Ok((text, file))
    }

    fn entry(&self, name: &str, path: &Path) -> Result<&Entry> {
        let known = || match self.contexts.keys().cloned().collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "it has none".to_owned(),
            some => format!("it has {some}"),
        };
        self.contexts.get(name).with_context(|| format!("{} has no context {name}: {}", path.display(), known()))
    }
}

// === impl Entry ===

impl Entry {
    fn check(&self) -> Result<()> {
        if self.urls.is_empty() == self.selector.is_none() {
            bail!("give either urls or a selector");
        }
        let tokens = [self.token.is_some(), self.token_file.is_some(), self.token_env.is_some()];
        ensure!(tokens.iter().filter(|is_there| **is_there).count() <= 1, "give one of token, token_file, token_env");
        Ok(())
    }

    fn targets(&self, selection: &Selection, with: Credentials) -> Vec<Target> {
        match &self.selector {
            None => self.urls.iter().map(|url| Target::Url { url: url.clone(), with: with.clone() }).collect(),
            Some(selector) => {
                let pods = Pods {
                    selector: selector.clone(),
                    namespace: selection.namespace.clone().or_else(|| self.namespace.clone()),
                    kube_context: self.kube_context.clone(),
                    port: self.port.unwrap_or(DEFAULT_PORT),
                    path_prefix: self.path_prefix.clone().unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
                };
                vec![Target::Pods { pods, with }]
            }
        }
    }

    fn envoys(&self) -> String {
        match (&self.selector, &self.namespace) {
            (None, _) => self.urls.join(" "),
            (Some(selector), None) => format!("pods {selector}"),
            (Some(selector), Some(namespace)) => format!("pods {selector} in {namespace}"),
        }
    }

    fn token_in_words(&self) -> String {
        match (&self.token, &self.token_file, &self.token_env) {
            (Some(_), ..) => "in this file".to_owned(),
            (_, Some(file), _) => file.display().to_string(),
            (_, _, Some(variable)) => format!("${variable}"),
            (None, None, None) => "–".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const FILE: &str = r#"# mine
current = "dev"

[contexts.dev]
urls = ["http://127.0.0.1:1/bluegreen"]

[contexts.prod]
urls = ["https://a.example/bg", "https://b.example/bg"]
token_file = "prod.token"

[contexts.mesh]
selector = "app=envoy"
namespace = "models"
token_env = "MESH_TOKEN"
"#;

    fn selection(change: impl FnOnce(&mut Selection)) -> Selection {
        let mut chosen = Selection::default();
        change(&mut chosen);
        chosen
    }

    /// What is meant, in words; or the mistake.
    fn meant(variables: &[(&str, &str)], selection: &Selection) -> String {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("{error}"));
        let written = [("bluegreen.toml", FILE), ("prod.token", "of-prod\n")];
        written.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap_or_default());
        let home = folder.path().display().to_string();
        let lookup = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(home.clone()),
            _ => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
        };
        let secret = |with: Credentials| with.token.map_or_else(|| "-".to_owned(), |token| token.secret);
        match Environment(&lookup).targets(selection) {
            Err(error) => format!("{error:#}").replace(&home, ""),
            Ok(targets) => {
                let words = targets.into_iter().map(|target| match target {
                    Target::Url { url, with } => format!("{url} {}", secret(with)),
                    Target::Pods { pods: Pods { selector, namespace, port, path_prefix, .. }, with } => {
                        format!("{selector} {} {port}{path_prefix} {}", namespace.unwrap_or_default(), secret(with))
                    }
                });
                words.collect::<Vec<_>>().join("; ")
            }
        }
    }

    #[test]
    fn options_go_before_the_environment_and_that_before_the_file() {
        let url = |chosen: &mut Selection| chosen.url = vec!["http://x/bg".to_owned(), "http://y/bg".to_owned()];
        let context = |name: &'static str| move |chosen: &mut Selection| chosen.context = Some(name.to_owned());
        let env = |name, value| vec![(name, value)];
        type Case = (Vec<(&'static str, &'static str)>, Selection, &'static str);
        let cases: Vec<Case> = vec![
            (vec![], selection(|_| ()), "http://127.0.0.1:1/bluegreen -"),
            (env("BLUEGREEN_URL", "http://e/bg, http://f/bg"), selection(|_| ()), "http://e/bg -; http://f/bg -"),
            (env("BLUEGREEN_URL", "http://e/bg"), selection(url), "http://x/bg -; http://y/bg -"),
            (
                env("BLUEGREEN_URL", "http://e/bg"),
                selection(context("prod")),
                "https://a.example/bg of-prod; https://b.example/bg of-prod",
            ),
            (
                env("BLUEGREEN_CONTEXT", "prod"),
                selection(|_| ()),
                "https://a.example/bg of-prod; https://b.example/bg of-prod",
            ),
            (
                env("BLUEGREEN_TOKEN", "env"),
                selection(context("prod")),
                "https://a.example/bg env; https://b.example/bg env",
            ),
            (
                env("BLUEGREEN_TOKEN", "env"),
                selection(|chosen| chosen.token = Some("opt".to_owned())),
                "http://127.0.0.1:1/bluegreen opt",
            ),
            (env("MESH_TOKEN", "m"), selection(context("mesh")), "app=envoy models 10001/bluegreen m"),
            (vec![], selection(context("mesh")), "context mesh takes its token from MESH_TOKEN, which is not set"),
            (vec![], selection(context("qa")), "/bluegreen.toml has no context qa: it has dev, mesh, prod"),
            (
                env("MESH_TOKEN", "m"),
                selection(|chosen| chosen.all = true),
                "http://127.0.0.1:1/bluegreen -; app=envoy models 10001/bluegreen m; https://a.example/bg of-prod; https://b.example/bg of-prod",
            ),
            (
                env("BLUEGREEN_TOKEN", "a b"),
                selection(|_| ()),
                "the token from BLUEGREEN_TOKEN has spaces or other characters that no token has",
            ),
        ];
        for (variables, chosen, expected) in cases {
            assert_eq!(meant(&variables, &chosen), expected, "{variables:?} {chosen:?}");
        }
    }

    #[test]
    fn without_a_file_the_shipped_configuration_is_meant() -> Result<()> {
        let environment = Environment(&|name| (name == "HOME").then(|| "/does/not/exist".to_owned()));
        let targets = environment.targets(&Selection::default())?;
        assert!(matches!(targets.as_slice(), [Target::Url { url, .. }] if url == DEFAULT_URL), "{targets:?}");
        Ok(())
    }

    #[test]
    fn a_file_is_edited_and_its_comments_stay() -> Result<()> {
        let edited = using(FILE, "prod")?;
        assert_eq!(edited, FILE.replace("current = \"dev\"", "current = \"prod\""));
        let entry = Entry { urls: vec!["http://z/bg".to_owned()], token_env: Some("Z".to_owned()), ..Entry::default() };
        let added = adding(&edited, "new one", &entry)?;
        assert!(added.starts_with(&edited) && added.contains("[contexts.\"new one\"]\n"), "{added}");
        let first = using(&adding("", "a", &entry)?, "a")?;
        let file: File = toml::from_str(&first)?;
        assert_eq!((file.current.as_deref(), file.contexts.len()), (Some("a"), 1));
        Ok(())
    }

    #[test]
    fn a_mistake_in_the_file_is_named() {
        let cases = [
            ("[contexts.a]\nurl = \"x\"", "unknown field `url`"),
            ("[contexts.a]\nurls = []", "context a: give either urls or a selector"),
            ("[contexts.a]\nurls = [\"x\"]\ntoken = \"a\"\ntoken_env = \"B\"", "context a: give one of token"),
        ];
        for (text, mistake) in cases {
            let folder = TempDir::new().unwrap_or_else(|error| panic!("{error}"));
            let path = folder.path().join("bluegreen.toml");
            fs::write(&path, text).unwrap_or_default();
            let said = File::read(&path).map_err(|error| format!("{error:#}")).err().unwrap_or_default();
            assert!(said.contains(mistake) && said.contains("bluegreen.toml"), "{said:?}");
        }
    }
}
