//! The processes of the demo: two model servers and an Envoy, started, watched and stopped.
//!
//! What they print goes to files, so that the terminal shows the story.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bluegreen_programs::prepared::Prepared;
use bluegreen_programs::process::{self, LastSignal, ManagedProcess};
use bluegreen_programs::{Checkout, Progress};
use bluegreen_testbed::{Bootstrap, repository};
use reqwest::{Client, StatusCode};
use serde_json::json;

use crate::model::Model;
use crate::registry::{self, Registry};

/// How long a process may take to be ready; Python's take their time to import what they need.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_WITH_PYTHON: Duration = Duration::from_secs(180);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Workers of the demo's Envoy: more than one, because a switch has to reach them all.
const WORKERS: &str = "2";

/// What serves the models.
pub enum Models {
    /// The two small model servers of this repository.
    Small(PathBuf),
    /// MLflow, from its registry.
    Mlflow(Registry),
}

/// Everything that runs.
pub struct Environment {
    prepared: Prepared,
    models: Models,
    /// Envoy's configuration, as seen from the repository's root.
    configuration: PathBuf,
    logs: PathBuf,
    http: Client,
    processes: Vec<ManagedProcess>,
}

/// Builds the model server and says where it is.
pub fn build_model_server(checkout: &Checkout) -> Result<PathBuf> {
    let progress = Progress::start("Building the model server");
    process::quiet(checkout.cargo("build").args(["--package", "bluegreen-model-server"]), &progress)?;
    progress.done("Built the model server");
    // Cargo puts the programs of a workspace next to each other, wherever that is on this machine.
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let model_server = this.with_file_name("model-server");
    ensure!(model_server.is_file(), "cargo built no {}", model_server.display());
    Ok(model_server)
}

/// Writes the shipped configuration with what one to copy from does not have. Answers are compared, and the inputs of those
/// that differ are kept: flowers are no secret. Without a registry there is also a guard, which acts without being asked.
fn guarded(folder: &Path, models: &Models) -> Result<PathBuf> {
    let bootstrap = Bootstrap::read(&repository::root().join(shipped(models)))?.deployment("iris", |iris| {
        iris["shadow"] = json!({"compare": {
            "safe": [{"method": "POST", "path_prefix": "/invocations"}],
            "max_in_flight": 64,
            "keep_inputs": true,
        }});
        if let Models::Small(_) = models {
            iris["guard"] = json!({"slow": {"over": "50ms"}});
            // A model server that is alone behind its colour has to be late for some seconds: it might be a hiccup.
            iris["rollout"]["steps"][0]["hold"] = json!("60s");
        }
    });
    let path = folder.join("envoy.yaml");
    bootstrap.write(&path)?;
    Ok(path)
}

/// The configuration that the demo's is made of, as seen from the repository's root.
fn shipped(models: &Models) -> &'static str {
    match models {
        Models::Small(_) => "envoy/envoy.yaml",
        Models::Mlflow(_) => "envoy/mlflow/envoy.yaml",
    }
}

// === impl Environment ===

impl Environment {
    pub fn new(checkout: &Checkout, prepared: Prepared, models: Models) -> Result<Self> {
        let logs = checkout.demo_logs();
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let http = Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        let path = guarded(&logs, &models)?;
        let configuration = path.strip_prefix(&prepared.root).map_or(path.clone(), Path::to_owned);
        Ok(Self { prepared, models, configuration, logs, http, processes: Vec::new() })
    }

    /// What the story will be told with.
    pub fn introduction(&self) -> String {
        let Prepared { module, envoy, .. } = &self.prepared;
        let added = match &self.models {
            Models::Small(_) => "compared answers, a guard and a longer first step",
            Models::Mlflow(_) => "compared answers",
        };
        format!(
            "The filter is {}, Envoy is {}. Its configuration is {} with {added}; it keeps inputs, because flowers are no \
             secret.",
            self.shown(module),
            self.shown(envoy),
            shipped(&self.models)
        )
    }

    /// Where the output of the processes is.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// What a user would type, in the repository's root, to start a model server.
    pub fn model_command(&self, model: &Model) -> String {
        let Model { colour, version, port, delay_ms, .. } = model;
        match &self.models {
            Models::Small(_) => {
                let delay = if *delay_ms > 0 { format!(" --delay-ms {delay_ms}") } else { String::new() };
                format!("cargo run --package bluegreen-model-server -- --model-version {version} --port {port}{delay}")
            }
            Models::Mlflow(_) => {
                format!("mlflow models serve -m {} -p {port} --env-manager local", Registry::model_uri(colour))
            }
        }
    }

    /// MLflow, in the story about it.
    pub fn registry(&mut self) -> Result<&mut Registry> {
        match &mut self.models {
            Models::Mlflow(registry) => Ok(registry),
            Models::Small(_) => bail!("this story has no registry"),
        }
    }

    /// Starts MLflow's tracking server and waits until it answers.
    pub async fn start_registry(&mut self) -> Result<()> {
        let command = self.registry()?.server();
        self.start("mlflow", command)?;
        self.until_ready("mlflow", &format!("http://{}/health", registry::address()), "OK").await
    }

    /// What a user would type, in the repository's root, to start Envoy.
    pub fn envoy_command(&self) -> String {
        format!("{} {}", self.shown(&self.prepared.envoy), envoy_arguments(&self.configuration).join(" "))
    }

    /// A path as seen from the repository's root.
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.prepared.root).unwrap_or(path).display().to_string()
    }

    /// Starts a model server and waits until it answers.
    pub async fn start_model(&mut self, model: &Model) -> Result<()> {
        let command = match &self.models {
            Models::Small(model_server) => {
                let mut command = Command::new(model_server);
                command.args(["--model-version", model.version, "--port", &model.port.to_string()]);
                command.args(["--delay-ms", &model.delay_ms.to_string()]);
                command
            }
            Models::Mlflow(registry) => registry.model_server(model)?,
        };
        self.start(model.colour, command)?;
        self.until_ready(model.colour, &format!("http://127.0.0.1:{}/ping", model.port), "").await
    }

    /// Starts Envoy and waits until its workers accept requests.
    pub async fn start_envoy(&mut self) -> Result<()> {
        let mut command = Command::new(&self.prepared.envoy);
        // Relative paths in the configuration start at the repository's root.
        command.args(envoy_arguments(&self.configuration)).current_dir(&self.prepared.root);
        self.start("envoy", command)?;
        let workers = "http://127.0.0.1:9901/stats?filter=^listener_manager.workers_started$";
        self.until_ready("envoy", workers, "listener_manager.workers_started: 1").await
    }

    /// The process id.
    pub fn id(&self, name: &str) -> Result<u32> {
        Ok(self.processes[self.position(name)?].id())
    }

    /// Asks a process to end (SIGTERM), and waits until it has.
    pub async fn stop(&mut self, name: &str) -> Result<ExitStatus> {
        let position = self.position(name)?;
        self.processes.remove(position).stop().await
    }

    /// Fails with the last lines of a process that has ended.
    pub fn ensure_running(&self) -> Result<()> {
        self.processes.iter().try_for_each(ManagedProcess::ensure_running)
    }

    fn position(&self, name: &str) -> Result<usize> {
        let position = self.processes.iter().position(|process| process.name() == name);
        position.with_context(|| format!("{name} does not run"))
    }

    fn start(&mut self, name: &str, command: Command) -> Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        // MLflow's servers have children of their own, which they end when they are asked to.
        let process = ManagedProcess::with(name, command).last_signal(LastSignal::Terminate).log_file(&log);
        self.processes.push(process.start()?);
        Ok(())
    }

    /// Waits until `url` answers 200 with a body that contains `expected`, or until a process has ended.
    async fn until_ready(&self, name: &str, url: &str, expected: &str) -> Result<()> {
        let patience = match &self.models {
            Models::Small(_) => PATIENCE,
            Models::Mlflow(_) => PATIENCE_WITH_PYTHON,
        };
        let deadline = Instant::now() + patience;
        loop {
            self.ensure_running()?;
            let seen = match self.http.get(url).timeout(PATIENCE).send().await {
                Ok(answer) => match (answer.status(), answer.text().await) {
                    (StatusCode::OK, Ok(text)) if text.contains(expected) => return Ok(()),
                    (status, text) => format!("{status} {}", text.unwrap_or_default()),
                },
                Err(error) => error.without_url().to_string(),
            };
            ensure!(Instant::now() < deadline, "{name} is not ready after {patience:?}: {url} says {seen}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

fn envoy_arguments(configuration: &Path) -> Vec<String> {
    let configuration = configuration.display().to_string();
    let levels = ["--log-level", "warning", "--component-log-level", "wasm:info"];
    // No shared memory between Envoys: another one on this machine does not matter.
    let all = [&["-c", &configuration, "--concurrency", WORKERS][..], &levels, &["--disable-hot-restart"]].concat();
    all.into_iter().map(str::to_owned).collect()
}
