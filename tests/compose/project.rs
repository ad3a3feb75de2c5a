//! A project of a compose program: the services of `docker-compose.yml` in one profile, on ports of their own.

use std::env;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_testbed::envoy::OPERATOR;
use bluegreen_testbed::ports::{free, loopback};
use bluegreen_testbed::{Admin, Load, repository, wait};
use serde_json::Value;

/// A path that belongs to the deployment.
const PATH: &str = "/invocations";

/// What both MLflow's model servers and the demo's take.
const BODY: &str = r#"{"inputs": [[5.6, 2.8, 4.9, 2.0]]}"#;

/// What one of the compose programs runs.
#[derive(Clone, Debug)]
pub struct Program(String);

/// What the variable `COMPOSE_PROFILES` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Nothing: the demo's model servers and Prometheus.
    None,
    /// A second Envoy and etcd.
    Fleet,
    /// MLflow's own servers.
    Mlflow,
}

/// A published port, as docker-compose.yml names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Traffic,
    Admin,
    Envoy,
    Prometheus,
    Mlflow,
    SecondTraffic,
    SecondAdmin,
    SecondEnvoy,
}

/// A project that is up; taken down when dropped.
pub struct Project {
    program: Program,
    name: String,
    profile: Profile,
    ports: Vec<(Port, u16)>,
}

fn output(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?} ended with {status}:\n{said}\n{}", String::from_utf8_lossy(&stderr));
    Ok(said)
}

// === impl Program ===

impl Program {
    /// Every one that `cargo xtask test --suite compose` has found, the newest first.
    pub fn all() -> Result<Vec<Self>> {
        let programs = env::var("BLUEGREEN_COMPOSE").context("run `cargo xtask test --suite compose`")?;
        Ok(programs.lines().map(|program| Self(program.to_owned())).collect())
    }

    /// The newest one.
    pub fn newest() -> Result<Self> {
        Self::all()?.into_iter().next().context("BLUEGREEN_COMPOSE is empty")
    }

    /// The file as the program understands it.
    pub fn configuration(&self, profile: Profile) -> Result<String> {
        let mut command = self.command(profile);
        command.arg("config");
        output(command)
    }

    /// What `service` says that is started with `--profile` instead of with the variable, which has to fail.
    pub fn start_alone(&self, profile: Profile, service: &str) -> Result<String> {
        let mut command = self.command(Profile::None);
        let name = profile.name().context("not a profile")?;
        command.args(["--project-name", &format!("bluegreen-test-alone-{}", std::process::id()), "--profile", name]);
        let ended = command.args(["run", "--rm", "--no-deps", service]).output()?;
        let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(!ended.status.success(), "{service} started: {said}");
        Ok(said)
    }

    fn command(&self, profile: Profile) -> Command {
        // The plugin is two words; anything else is the path of a program.
        let mut command = match self.0.strip_prefix("docker ") {
            Some(plugin) => {
                let mut docker = Command::new("docker");
                docker.arg(plugin);
                docker
            }
            None => Command::new(Path::new(&self.0)),
        };
        command.current_dir(repository::root());
        for variable in ["BLUEGREEN_IMAGES", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"] {
            command.env_remove(variable);
        }
        command.envs(profile.name().map(|name| ("COMPOSE_PROFILES", name)));
        command
    }
}

// === impl Profile ===

impl Profile {
    pub const ALL: [Self; 3] = [Self::None, Self::Fleet, Self::Mlflow];

    const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Fleet => Some("fleet"),
            Self::Mlflow => Some("mlflow"),
        }
    }

    /// The services, in the order in which they come up.
    pub const fn services(self) -> &'static [&'static str] {
        match self {
            Self::None => &["blue", "green", "envoy", "prometheus"],
            Self::Fleet => &["etcd", "blue", "green", "envoy", "envoy-2", "prometheus"],
            Self::Mlflow => &["mlflow", "blue", "green", "envoy", "prometheus"],
        }
    }

    /// How long everything may take to become healthy.
    pub const fn patience(self) -> Duration {
        match self {
            Self::None | Self::Fleet => Duration::from_secs(120),
            // Two models are trained, registered and loaded.
            Self::Mlflow => Duration::from_secs(400),
        }
    }
}

// === impl Port ===

impl Port {
    const ALL: [Self; 8] = [
        Self::Traffic,
        Self::Admin,
        Self::Envoy,
        Self::Prometheus,
        Self::Mlflow,
        Self::SecondTraffic,
        Self::SecondAdmin,
        Self::SecondEnvoy,
    ];

    const fn variable(self) -> &'static str {
        match self {
            Self::Traffic => "BLUEGREEN_TRAFFIC_PORT",
            Self::Admin => "BLUEGREEN_ADMIN_PORT",
            Self::Envoy => "BLUEGREEN_ENVOY_PORT",
            Self::Prometheus => "BLUEGREEN_PROMETHEUS_PORT",
            Self::Mlflow => "BLUEGREEN_MLFLOW_PORT",
            Self::SecondTraffic => "BLUEGREEN_TRAFFIC_PORT_2",
            Self::SecondAdmin => "BLUEGREEN_ADMIN_PORT_2",
            Self::SecondEnvoy => "BLUEGREEN_ENVOY_PORT_2",
        }
    }
}

// === impl Project ===

impl Project {
    /// Builds the images, brings everything up and waits until it is healthy.
    pub async fn up(program: &Program, profile: Profile) -> Result<Self> {
        let name = format!("bluegreen-test-{}", std::process::id());
        let ports: Result<_> = Port::ALL.iter().map(|port| Ok((*port, free()?))).collect();
        let project = Self { program: program.clone(), name, profile, ports: ports? };
        project.run(&["build", "--quiet"]).or_else(|_| project.run(&["build"]))?;
        // Version 1 gives up on a dependency that becomes healthy late; what is up already stays up.
        project.run(&["up", "--detach", "--no-build"])?;
        for service in profile.services() {
            project.until_healthy(service).await?;
        }
        Ok(project)
    }

    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.program.command(self.profile);
        command.args(["--project-name", &self.name]).args(arguments);
        command.envs(self.ports.iter().map(|(port, number)| (port.variable(), number.to_string())));
        output(command)
    }

    /// Where a published port answers: on loopback.
    pub fn address(&self, wanted: Port) -> Result<std::net::SocketAddr> {
        let found = self.ports.iter().find(|(port, _)| *port == wanted);
        found.map(|(_, number)| loopback(*number)).with_context(|| format!("no port {wanted:?}"))
    }

    /// The filter's API behind a published port.
    pub fn admin(&self, port: Port) -> Result<Admin> {
        Ok(Admin::new(&format!("http://{}/bluegreen", self.address(port)?)).token(OPERATOR))
    }

    /// Inference requests to a published port.
    pub fn load(&self, port: Port) -> Result<Load> {
        let load = Load::new(self.address(port)?, PATH).body(reqwest::Method::POST, BODY);
        load.header("content-type", b"application/json")
    }

    /// What the engine knows of a service's container.
    pub fn inspect(&self, service: &str) -> Result<Value> {
        let id = self.run(&["ps", "--quiet", service])?;
        let mut docker = Command::new("docker");
        docker.args(["inspect", id.trim()]);
        let found: Value = serde_json::from_str(&output(docker)?)?;
        found.get(0).cloned().with_context(|| format!("no container of {service}"))
    }

    pub async fn until_healthy(&self, service: &str) -> Result<()> {
        let health = || async { Ok(self.inspect(service)?.pointer("/State/Health/Status").cloned()) };
        let healthy = |status: &Option<Value>| status.as_ref().is_some_and(|status| status == "healthy");
        let what = format!("{service} to be healthy");
        let waited = wait::until_within(self.profile.patience(), &what, health, healthy).await;
        waited.map(drop).with_context(|| self.run(&["logs", "--tail", "20", service]).unwrap_or_default())
    }

    /// No service runs as root, can write into its image or can be reached from another machine.
    pub fn ensure_hardened(&self) -> Result<()> {
        for service in self.profile.services() {
            let container = self.inspect(service)?;
            let user = container.pointer("/Config/User").and_then(Value::as_str).unwrap_or_default().to_owned();
            ensure!(!["", "0", "root"].contains(&user.split(':').next().unwrap_or_default()), "{service} is {user:?}");
            ensure!(container.pointer("/HostConfig/ReadonlyRootfs") == Some(&Value::Bool(true)), "{service} can write");
            let ports = container.pointer("/NetworkSettings/Ports").and_then(Value::as_object).cloned();
            for binding in ports.unwrap_or_default().values().filter_map(Value::as_array).flatten() {
                ensure!(binding["HostIp"] == "127.0.0.1", "{service} is published on {binding}");
            }
        }
        Ok(())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--volumes", "--timeout", "3"]);
    }
}
