//! `bluegreen`, the command line, as a user or a CI job runs it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::{ADMIN, OPERATOR};
use bluegreen_testbed::{Envoy, repository};
use tempfile::TempDir;
use tokio::process::Command;

/// The command line with an empty home of its own.
#[derive(Debug)]
pub struct Cli {
    /// Where its configuration file is.
    pub home: TempDir,
    /// The Envoys that it asks, if it is not told others.
    pub urls: Vec<String>,
    /// Its token.
    pub token: Option<&'static str>,
    /// A folder with programs that stand in for others.
    pub path: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

/// The admin API of an Envoy.
///
/// # Errors
/// It has no listener for it.
pub fn url(envoy: &Envoy) -> Result<String> {
    Ok(format!("http://{}/bluegreen", envoy.listener(ADMIN)?))
}

// === impl Cli ===

impl Cli {
    /// At these Envoys, as an operator.
    pub fn at(envoys: &[&Envoy]) -> Result<Self> {
        let urls = envoys.iter().map(|envoy| url(envoy)).collect::<Result<_>>()?;
        Ok(Self { home: TempDir::new()?, urls, token: Some(OPERATOR), path: None })
    }

    /// A command that has yet to run.
    pub fn command(&self, line: &str) -> Result<Command> {
        let mut command = Command::new(repository::command_line()?);
        command.args(line.split_whitespace()).stdin(Stdio::null()).kill_on_drop(true);
        for name in ["BLUEGREEN_CONTEXT", "BLUEGREEN_CONFIG", "BLUEGREEN_TOKEN", "BLUEGREEN_URL"] {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.home.path()).env("HOME", self.home.path());
        if !self.urls.is_empty() {
            command.env("BLUEGREEN_URL", self.urls.join(","));
        }
        command.envs(self.token.map(|token| ("BLUEGREEN_TOKEN", token)));
        if let Some(path) = &self.path {
            let rest = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{rest}", path.display()));
        }
        Ok(command)
    }

    /// Runs a command line, whose words have no spaces in them.
    pub async fn run(&self, line: &str) -> Result<Said> {
        let output = self.command(line)?.output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("not UTF-8");
        Ok(Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout)?, err: text(output.stderr)? })
    }

    /// Runs it, and fails unless it ends with this code and says all of these.
    pub async fn says(&self, line: &str, code: i32, parts: &[&str]) -> Result<Said> {
        let said = self.run(line).await?;
        ensure!(said.code == code, "bluegreen {line} ended with {}, not {code}: {said:#?}", said.code);
        for part in parts {
            let found = said.out.contains(part) || said.err.contains(part);
            ensure!(found, "bluegreen {line} does not say {part:?}:\n{}{}", said.out, said.err);
        }
        Ok(said)
    }
}
