//! A real Envoy with a given configuration: started, asked, killed, started again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::admin::Admin;
use crate::bootstrap::Bootstrap;
use crate::fake_clock::FakeClock;
use crate::process::{Log, ManagedProcess};
use crate::prometheus::Samples;
use crate::repository;

/// The name of the listener for traffic in the shipped configuration.
pub const TRAFFIC: &str = "traffic";

/// The name of the listener for the filter's admin API in the shipped configuration.
pub const ADMIN: &str = "bluegreen-admin";

/// The operator's token in the shipped configuration.
pub const OPERATOR: &str = "demo-operator-token";

/// The viewer's token in the shipped configuration.
pub const VIEWER: &str = "demo-viewer-token";

/// How long an Envoy may take until its workers have started: on a machine that compiles beside it, half a minute.
const STARTUP_PATIENCE: Duration = Duration::from_secs(60);

/// How many times longer an Envoy may take that is looked on at: valgrind interprets it.
const OBSERVED_IS_SLOWER: u32 = 5;

/// One Envoy for each processor starts at a time. A start is two seconds of compiling the module; more of them at once
/// end no sooner, and keep the tests that run beside them waiting.
static STARTS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(thread::available_parallelism().map_or(1, usize::from)));

/// A running Envoy. It is killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: ManagedProcess,
    options: Options,
    directory: TempDir,
    own_admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    http: reqwest::Client,
}

/// How to start an Envoy: made by [`Envoy::with`].
#[derive(Clone, Debug)]
pub struct Options {
    bootstrap: Bootstrap,
    concurrency: u32,
    log_level: String,
    working_directory: PathBuf,
    binary: Option<PathBuf>,
    processors: Option<String>,
    /// A program that runs Envoy and looks on, such as valgrind, with its arguments.
    observer: Vec<String>,
    /// The base id that processes share, and the epoch of this one.
    hot_restart: Option<(u32, u32)>,
    has_fake_clock: bool,
    /// How many seconds a listener that was replaced goes on with its connections; Envoy's ten minutes if not said.
    drain_time: Option<u32>,
}

// === impl Options ===

impl Options {
    /// The number of worker threads; 2 if not said.
    #[must_use]
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// The level of Envoy's own log; `warning` if not said. The filter's log is at `info` in any case.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// The Envoy binary; the one that the environment variable `ENVOY` names if not said.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = Some(path.to_owned());
        self
    }

    /// Where relative paths in the configuration start; the repository's root if not said.
    #[must_use]
    pub fn working_directory(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.working_directory);
        self
    }

    /// The processors that it may use, as `taskset --cpu-list` takes them; all of them if not said.
    #[must_use]
    pub fn processors(mut self, list: &str) -> Self {
        self.processors = Some(list.to_owned());
        self
    }

    /// A program that runs Envoy in its own process and looks on, such as valgrind, with its arguments.
    #[must_use]
    pub fn observed_by(mut self, command: &[String]) -> Self {
        self.observer = command.to_owned();
        self
    }

    /// Lets another process of the same `base_id` and the next `epoch` take over from this one, which goes on with the
    /// connections that it has. The listeners need ports of their own.
    #[must_use]
    pub fn hot_restart(mut self, base_id: u32, epoch: u32) -> Self {
        self.hot_restart = Some((base_id, epoch));
        self
    }

    /// Gives it a wall clock that [`Envoy::set_clock`] sets.
    #[must_use]
    pub fn fake_clock(mut self) -> Self {
        self.has_fake_clock = true;
        self
    }

    /// How many seconds a listener that was replaced goes on with the connections that it has.
    #[must_use]
    pub fn drain_time(mut self, seconds: u32) -> Self {
        self.drain_time = Some(seconds);
        self
    }

    /// Starts Envoy and waits until its workers accept connections.
    pub async fn start(self) -> Result<Envoy> {
        let directory = TempDir::with_prefix("bluegreen-envoy-")?;
        let _permit = STARTS.acquire().await?;
        let process = self.spawn(directory.path())?;
        let mut envoy = Envoy {
            process,
            options: self,
            directory,
            own_admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            listeners: BTreeMap::new(),
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        envoy.until_ready().await?;
        Ok(envoy)
    }

    /// Runs `envoy --mode validate`, which loads the wasm module too, and returns what it said; an error when it
    /// refused.
    pub async fn validate(self) -> Result<String> {
        let directory = TempDir::with_prefix("bluegreen-envoy-")?;
        let mut command = self.command(directory.path())?;
        let _permit = STARTS.acquire().await?;
        command.args(["--mode", "validate"]);
        let process = ManagedProcess::start("envoy --mode validate", command)?;
        let status = process.wait().await?;
        // The status can be seen before the last line has been read.
        if status.success() {
            process.log().wait_for(" OK").await?;
        }
        let said = process.log().lines().join("\n");
        ensure!(status.success(), "envoy --mode validate ended with {status}:\n{said}");
        Ok(said)
    }

    /// Writes the configuration and starts the process.
    fn spawn(&self, directory: &Path) -> Result<ManagedProcess> {
        let mut command = self.command(directory)?;
        command.arg("--admin-address-path").arg(directory.join("admin"));
        if self.has_fake_clock {
            FakeClock::of(directory).give_to(&mut command)?;
        }
        ManagedProcess::start("envoy", command)
    }

    /// The command line, with the configuration written to `directory`.
    fn command(&self, directory: &Path) -> Result<Command> {
        // By its name Envoy chooses the parser: the one for YAML, which users' files go through too.
        let configuration = directory.join("envoy.yaml");
        self.bootstrap.write(&configuration)?;
        let binary = self.binary.clone().map_or_else(repository::envoy, Ok)?;
        let pinned = self.processors.iter().flat_map(|list| ["taskset", "--cpu-list", list.as_str()]);
        // Each becomes the next one and at last Envoy, with the same process id.
        let before = pinned.chain(self.observer.iter().map(String::as_str)).map(OsStr::new);
        let mut words = before.chain([binary.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .current_dir(&self.working_directory)
            .arg("--config-path")
            .arg(configuration)
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(["--log-level", &self.log_level, "--component-log-level", "wasm:info"]);
        if let Some(seconds) = self.drain_time {
            command.args(["--drain-time-s", &seconds.to_string()]);
        }
        match self.hot_restart {
            Some((base_id, epoch)) => {
                command.args(["--base-id", &base_id.to_string(), "--restart-epoch", &epoch.to_string()]);
                // The one that is replaced outlives the test.
                command.args(["--drain-time-s", "1", "--parent-shutdown-time-s", "600"]);
            }
            // It stands alone: no shared memory that a killed one would leave behind.
            None => {
                command.arg("--disable-hot-restart");
            }
        }
        Ok(command)
    }
}

// === impl Envoy ===

impl Envoy {
    /// Options to start an Envoy with this configuration. Relative paths in it start at the repository's root.
    pub fn with(bootstrap: Bootstrap) -> Options {
        Options {
            bootstrap,
            concurrency: 2,
            log_level: "warning".to_owned(),
            working_directory: repository::root().to_owned(),
            binary: None,
            processors: None,
            observer: Vec::new(),
            hot_restart: None,
            has_fake_clock: false,
            drain_time: None,
        }
    }

    /// The address of the traffic listener.
    pub fn traffic(&self) -> Result<SocketAddr> {
        self.listener(TRAFFIC)
    }

    /// The URL of `path` on the traffic listener.
    pub fn url(&self, path: &str) -> Result<String> {
        Ok(format!("http://{}{path}", self.traffic()?))
    }

    /// A client of the filter's admin API that holds the operator's token.
    pub fn admin(&self) -> Result<Admin> {
        Ok(Admin::new(&format!("http://{}/bluegreen", self.listener(ADMIN)?)).token(OPERATOR))
    }

    /// The address of a listener.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        let address = self.listeners.get(name).copied();
        address.with_context(|| format!("no listener {name}; there are {:?}", self.listeners))
    }

    /// The address of Envoy's own admin interface.
    pub fn own_admin(&self) -> SocketAddr {
        self.own_admin
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What Envoy and the filter have logged.
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// A folder that lives as long as this Envoy, for files that its configuration names.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration it was started with.
    pub fn bootstrap(&self) -> &Bootstrap {
        &self.options.bootstrap
    }

    /// Whether it still runs; if not, an error with the end of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    /// `GET path` of Envoy's own admin interface.
    pub async fn ask(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.own_admin);
        let answer = self.http.get(&url).timeout(Duration::from_secs(10)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "GET {url} answered {status}: {text}");
        Ok(text)
    }

    /// `POST path` of Envoy's own admin interface.
    pub async fn tell(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.own_admin);
        let answer = self.http.post(&url).timeout(Duration::from_secs(10)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "POST {url} answered {status}: {text}");
        Ok(text)
    }

    /// One counter or gauge by Envoy's own name for it; 0 when it does not exist (yet).
    pub async fn stat(&self, name: &str) -> Result<u64> {
        let text = self.ask("/stats").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(Ok(0), |value| value.parse().with_context(|| format!("{name} is {value}")))
    }

    /// A Prometheus scrape.
    pub async fn prometheus(&self) -> Result<Samples> {
        Ok(Samples::parse(&self.ask("/stats/prometheus").await?))
    }

    /// Sets its wall clock so many seconds ahead of the right time, or behind it, as somebody does who sets the machine's.
    /// It needs [`Options::fake_clock`].
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        ensure!(self.options.has_fake_clock, "this envoy has the machine's clock: start it with fake_clock()");
        FakeClock::of(self.directory.path()).set(seconds)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again after [`Self::kill`], with the same configuration. Listeners on port 0 get new ports; the log
    /// starts anew.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill().ok();
        let _permit = STARTS.acquire().await?;
        fs::remove_file(self.directory.path().join("admin")).ok();
        self.process = self.options.spawn(self.directory.path())?;
        self.until_ready().await
    }

    /// Waits until the workers have started, and learns the ports.
    async fn until_ready(&mut self) -> Result<()> {
        let slower = if self.options.observer.is_empty() { 1 } else { OBSERVED_IS_SLOWER };
        let deadline = tokio::time::Instant::now() + STARTUP_PATIENCE * slower;
        loop {
            self.process.ensure_running()?;
            let Err(error) = self.learn_addresses().await else {
                return Ok(());
            };
            if tokio::time::Instant::now() > deadline {
                bail!("envoy is not ready: {error:#}; its last lines:\n{}", self.log().tail(20));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn learn_addresses(&mut self) -> Result<()> {
        let admin = fs::read_to_string(self.directory.path().join("admin")).context("no admin address yet")?;
        self.own_admin = admin.trim().parse().with_context(|| format!("admin address {admin:?}"))?;
        self.ask("/ready").await?;
        // An Envoy that keeps only some stats may not keep this one; then it has to do that it is ready.
        if self.options.bootstrap.tree()["stats_config"]["stats_matcher"].is_null() {
            ensure!(self.stat("listener_manager.workers_started").await? == 1, "the workers have not started");
        }
        let text = self.ask("/listeners?format=json").await?;
        let listeners: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let statuses = listeners["listener_statuses"].as_array().with_context(|| text.clone())?;
        self.listeners = statuses.iter().filter_map(listener_address).collect();
        Ok(())
    }
}

/// Name and address of one entry of `/listeners?format=json`.
fn listener_address(status: &Value) -> Option<(String, SocketAddr)> {
    let socket = &status["local_address"]["socket_address"];
    let ip = socket["address"].as_str()?.parse().ok()?;
    let port = socket["port_value"].as_u64()?.try_into().ok()?;
    Some((status["name"].as_str()?.to_owned(), SocketAddr::new(ip, port)))
}
