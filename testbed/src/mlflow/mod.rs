//! A real MLflow: its tracking server and registry, model servers, and somebody at a Python prompt.
//!
//! The Python environment is the one that the environment variable `MLFLOW` names; see [`repository::mlflow`].

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::ports::{self, loopback};
use crate::process::{LastSignal, ManagedProcess};
use crate::{repository, wait};

/// How long Python may take to import MLflow and whatever that needs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a server may take to end when it is asked to.
const TO_END: Duration = Duration::from_secs(10);

/// A key for the secrets in MLflow's database (Fernet: 32 bytes in base64). What it protects lives as long as a test.
const SECRETS_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The text of [`client.py`](client.py).
const CLIENT: &str = include_str!("client.py");

/// A tracking server with a registry.
#[derive(Debug)]
pub struct Mlflow {
    programs: PathBuf,
    directory: TempDir,
    address: SocketAddr,
    server: Server,
}

/// A model server.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    _server: Server,
}

/// A Python prompt at which `client` is an `MlflowClient`.
#[derive(Debug)]
pub struct Python {
    process: ManagedProcess,
    input: Mutex<Prompt>,
}

#[derive(Debug)]
struct Prompt {
    pipe: ChildStdin,
    lines: usize,
}

/// A process that has children, which it ends when it is asked to end.
#[derive(Debug)]
struct Server(ManagedProcess);

// === impl Mlflow ===

impl Mlflow {
    /// Starts a server with an empty registry on a free port.
    pub async fn start() -> Result<Self> {
        Self::start_at(loopback(ports::free()?)).await
    }

    /// Starts a server with an empty registry at an address.
    pub async fn start_at(address: SocketAddr) -> Result<Self> {
        let programs = repository::mlflow()?;
        let directory = TempDir::with_prefix("bluegreen-mlflow-")?;
        let server = Server::start("mlflow server", server(&programs, directory.path(), address))?;
        let mut mlflow = Self { programs, directory, address, server };
        mlflow.until_ready().await?;
        Ok(mlflow)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, whatever it is doing, and its port with it.
    pub fn stop(&mut self) -> Result<()> {
        self.server.stop()
    }

    /// Starts it again after [`Self::stop`], on the same port, with the same registry.
    pub async fn restart(&mut self) -> Result<()> {
        let command = server(&self.programs, self.directory.path(), self.address);
        self.server = Server::start("mlflow server", command)?;
        self.until_ready().await
    }

    /// A Python prompt for this registry.
    pub fn python(&self) -> Result<Python> {
        Python::start(&self.programs, self.directory.path(), self.address)
    }

    /// Serves a model, such as `models:/my-model/1` or `models:/my-model@blue`, on a free port.
    pub async fn serve(&self, model: &str) -> Result<ModelServer> {
        let address = loopback(ports::free()?);
        let command = model_server(&self.programs, self.directory.path(), self.address, model, address)?;
        let mut server = Server::start(&format!("mlflow models serve {model}"), command)?;
        server.until_answers(&format!("http://{address}/ping")).await?;
        Ok(ModelServer { address, _server: server })
    }

    async fn until_ready(&mut self) -> Result<()> {
        let health = format!("http://{}/health", self.address);
        self.server.until_answers(&health).await
    }
}

/// `mlflow server` at an address, which keeps all that it has in `folder`.
pub fn server(programs: &Path, folder: &Path, address: SocketAddr) -> Command {
    let mut command = Command::new(programs.join("mlflow"));
    command.args(["server", "--workers", "1", "--backend-store-uri"]);
    command.arg(format!("sqlite:///{}", folder.join("mlflow.db").display()));
    command.arg("--artifacts-destination").arg(folder.join("artifacts"));
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.current_dir(folder);
    // Webhooks go to loopback without TLS here; their secrets are kept encrypted; nobody waits for background jobs.
    command.envs([
        ("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", SECRETS_KEY),
        ("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https"),
        ("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        // A webhook counts from its creation on, and not up to a minute later.
        ("MLFLOW_WEBHOOK_CACHE_TTL", "0"),
    ]);
    quieten(&mut command);
    command
}

/// `mlflow models serve` for a model of the registry at `registry`.
pub fn model_server(
    programs: &Path,
    folder: &Path,
    registry: SocketAddr,
    model: &str,
    address: SocketAddr,
) -> Result<Command> {
    let mut command = Command::new(programs.join("mlflow"));
    command.args(["models", "serve", "--env-manager", "local", "--model-uri", model]);
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.current_dir(folder).env("MLFLOW_TRACKING_URI", format!("http://{registry}"));
    // It starts uvicorn by name.
    let others = std::env::var_os("PATH").unwrap_or_default();
    let search = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&others));
    command.env("PATH", std::env::join_paths(search)?);
    quieten(&mut command);
    Ok(command)
}

/// Nothing is sent anywhere, and output comes as it is written.
fn quieten(command: &mut Command) {
    command.envs([
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONWARNINGS", "ignore"),
        ("NO_PROXY", "127.0.0.1,localhost"),
    ]);
}

// === impl ModelServer ===

impl ModelServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

// === impl Python ===

impl Python {
    /// A prompt in `folder`, for the registry at an address.
    pub fn start(programs: &Path, folder: &Path, registry: SocketAddr) -> Result<Self> {
        let script = folder.join("client.py");
        fs::write(&script, CLIENT)?;
        let mut command = Command::new(programs.join("python"));
        command.arg(script).current_dir(folder).env("MLFLOW_TRACKING_URI", format!("http://{registry}"));
        quieten(&mut command);
        let mut process = ManagedProcess::with("python", command).input(Stdio::piped()).start()?;
        let pipe = process.input().context("python has no standard input")?;
        Ok(Self { process, input: Mutex::new(Prompt { pipe, lines: 0 }) })
    }

    /// Runs an expression, such as `client.set_registered_model_alias("my-model", "production", "2")`, and returns what
    /// it is.
    pub async fn run(&self, expression: &str) -> Result<String> {
        ensure!(!expression.contains('\n'), "one line at a time: {expression:?}");
        let number = {
            let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(input.pipe, "{expression}").context("python has ended")?;
            input.lines += 1;
            input.lines
        };
        let log = self.process.log();
        let sign = format!("#{number} ");
        let look = || async { Ok(log.lines().into_iter().find(|line| line.starts_with(&sign))) };
        let line = wait::until_within(PATIENCE, &format!("python to run {expression}"), look, Option::is_some).await;
        let line = line.with_context(|| log.tail(20))?.unwrap_or_default();
        let outcome = line.trim_start_matches(&sign);
        let value = outcome.strip_prefix("ok ").with_context(|| format!("{expression}: {outcome}"))?;
        Ok(value.to_owned())
    }
}

// === impl Server ===

impl Server {
    fn start(name: &str, command: Command) -> Result<Self> {
        Ok(Self(ManagedProcess::with(name, command).last_signal(LastSignal::Terminate).start()?))
    }

    /// Waits until `url` answers 200, or the process has ended.
    async fn until_answers(&mut self, url: &str) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.0.ensure_running()?;
            let answer = http.get(url).timeout(Duration::from_secs(5)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{url} does not answer; the log ends with:\n{}", self.0.log().tail(20));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks it to end, and waits until it has.
    fn stop(&self) -> Result<()> {
        self.0.stop_within(TO_END)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.stop();
    }
}
