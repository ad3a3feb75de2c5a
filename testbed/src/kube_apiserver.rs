//! A real API server of Kubernetes on loopback, with its own etcd, and kubectl as people and tests use it.
//!
//! There is no controller manager and no kubelet: objects are admitted, validated, stored and watched, and nothing else
//! becomes of them. A namespace has no service account `default`, one that is deleted stays `Terminating`, and ClusterRoles
//! are not aggregated.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bluegreen_programs::kubernetes::{KUBE_APISERVER, KUBECTL, named};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::etcd::Etcd;
use crate::ports::{self, loopback};
use crate::process::{self, ManagedProcess};
use crate::wait;

/// The name that pods know the server by. Its certificate has it.
pub const HOST: &str = "kubernetes.default.svc";

/// Who the service-account tokens say that they are from and for.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// An administrator's token. Nobody but this machine reaches the server, and it ends with the test.
const ADMINISTRATOR: &str = "the-administrator-of-this-test";

/// How long a server may take to become ready beside busy neighbours.
const PATIENCE: Duration = Duration::from_secs(90);

/// The server. It ends with this value.
#[derive(Debug)]
pub struct KubeApiServer {
    process: Mutex<Option<ManagedProcess>>,
    address: SocketAddr,
    folder: TempDir,
    etcd: Etcd,
}

/// kubectl, as one user in one namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    options: Vec<String>,
}

/// What came out of kubectl.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it succeeded.
    pub is_success: bool,
    /// Its standard output.
    pub text: String,
    /// Its standard error: warnings, and why it failed.
    pub complaints: String,
}

// === impl KubeApiServer ===

impl KubeApiServer {
    /// Starts etcd and the server, and waits until it is ready.
    pub async fn start() -> Result<Self> {
        let etcd = Etcd::start(1).await?;
        let folder = TempDir::with_prefix("bluegreen-kubernetes-")?;
        let server = Self { process: Mutex::default(), address: loopback(ports::free()?), folder, etcd };
        // With this key the server signs the tokens of service accounts.
        let mut openssl = Command::new("openssl");
        openssl.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(server.path("accounts.key"));
        process::answer(&mut openssl)?;
        fs::write(server.path("tokens.csv"), format!("{ADMINISTRATOR},administrator,1,system:masters\n"))?;
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens, with TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificates that its own can be verified with: a pod has them as `ca.crt`.
    pub fn authorities(&self) -> PathBuf {
        self.path("certificates/apiserver.crt")
    }

    /// Its etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The process, while it runs.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process().as_ref().context("the API server does not run")?.id())
    }

    /// Ends it as a crash would. What it has stored stays.
    pub fn kill(&self) -> Result<()> {
        self.process().take().context("the API server does not run")?.kill()
    }

    /// Starts it again, at the same address with what it had stored, and waits until it is ready.
    pub async fn restart(&self) -> Result<()> {
        let mut command = Command::new(program(KUBE_APISERVER, "kube-apiserver")?);
        let accounts = self.path("accounts.key");
        let etcd = self.etcd.clients().iter().map(|client| format!("http://{client}")).collect::<Vec<_>>().join(",");
        command
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .arg(format!("--secure-port={}", self.address.port()))
            .arg(format!("--etcd-servers={etcd}"))
            .arg("--cert-dir")
            .arg(self.path("certificates"))
            .arg("--token-auth-file")
            .arg(self.path("tokens.csv"))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--profiling=false"])
            .arg(format!("--service-account-issuer={ISSUER}"))
            .arg("--service-account-signing-key-file")
            .arg(&accounts)
            .arg("--service-account-key-file")
            .arg(&accounts);
        *self.process() = Some(ManagedProcess::start("kube-apiserver", command)?);
        self.until_ready().await
    }

    /// Stops it in the middle of what it does (SIGSTOP): connections stay, and nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.id()?.cast_signed()), signal)?)
    }

    /// kubectl as the administrator, in the namespace `default`.
    pub fn kubectl(&self) -> Result<Kubectl> {
        self.kubectl_with(ADMINISTRATOR)
    }

    /// kubectl as whom a token says.
    pub fn kubectl_with(&self, token: &str) -> Result<Kubectl> {
        let options = [
            format!("--server=https://{}", self.address),
            format!("--certificate-authority={}", self.authorities().display()),
            format!("--token={token}"),
            format!("--cache-dir={}", self.path("cache").display()),
        ];
        // Whatever cluster the user of this machine works with.
        let options = options.into_iter().chain(["--kubeconfig=/dev/null".to_owned()]);
        Ok(Kubectl { program: program(KUBECTL, "kubectl")?, options: options.collect() })
    }

    /// A file for `--kubeconfig`, with which other programs are the administrator.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let authorities = self.authorities();
        let cluster = json!({"server": format!("https://{}", self.address), "certificate-authority": authorities});
        let configuration = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": ADMINISTRATOR}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = self.path("kubeconfig");
        fs::write(&path, configuration.to_string())?;
        Ok(path)
    }

    fn process(&self) -> MutexGuard<'_, Option<ManagedProcess>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn until_ready(&self) -> Result<()> {
        let kubectl = self.kubectl()?;
        let look = || async {
            self.process().as_ref().context("the API server does not run")?.ensure_running()?;
            Ok(kubectl.run(&["get", "--raw=/readyz"]).await)
        };
        let is_ready = |answer: &Result<Output>| answer.as_ref().is_ok_and(|answer| answer.is_success);
        let ready = wait::until_within(PATIENCE, "the API server", look, is_ready).await;
        let log = || self.process().as_ref().map(|process| process.log().tail(10)).unwrap_or_default();
        ready.map(drop).with_context(|| format!("its log ends with:\n{}", log()))
    }
}

// === impl Kubectl ===

impl Kubectl {
    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        self.with(format!("--namespace={namespace}"))
    }

    /// The same as another user, whom the administrator acts for.
    #[must_use]
    pub fn acting_for(&self, user: &str) -> Self {
        self.with(format!("--as={user}"))
    }

    fn with(&self, option: String) -> Self {
        let mut changed = self.clone();
        changed.options.push(option);
        changed
    }

    /// Runs it, whatever comes out.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.run_with_input(arguments, "").await
    }

    /// Runs it; an error with what it complains of when it fails.
    pub async fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments).await?.ok(arguments)
    }

    /// Runs it; what it complains of, and an error when it succeeds.
    pub async fn refused(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments).await?.refused(arguments)
    }

    /// Runs it with something to read.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(arguments).args(&self.options).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // What it does not read it does not want.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok(Output { is_success: output.status.success(), text: text(&output.stdout), complaints: text(&output.stderr) })
    }

    /// Applies manifests as users are told to: on the server's side, and strictly.
    pub async fn apply(&self, manifests: &[Value]) -> Result<Output> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        self.run_with_input(&[APPLY.as_slice(), &["-f", "-"]].concat(), &list.to_string()).await
    }

    /// Applies what a folder's kustomization makes (`-k`), in the same way.
    pub async fn apply_kustomization(&self, folder: &Path) -> Result<Output> {
        self.run(&[APPLY.as_slice(), &["-k", &folder.to_string_lossy()]].concat()).await
    }

    /// An object.
    pub async fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self.ok(&["get", kind, name, "--output=json"]).await?;
        serde_json::from_str(&text).with_context(|| format!("{kind} {name}: {text}"))
    }

    /// A token of a service account, for ten minutes, which is as short as they come.
    pub async fn token(&self, account: &str) -> Result<String> {
        self.ok(&["create", "token", account, "--duration=10m"]).await
    }
}

/// How manifests are applied.
const APPLY: [&str; 3] = ["apply", "--server-side", "--validate=strict"];

// === impl Output ===

impl Output {
    /// The standard output; an error when kubectl failed.
    pub fn ok(self, what: impl std::fmt::Debug) -> Result<String> {
        ensure!(self.is_success, "kubectl {what:?}: {}", self.complaints);
        Ok(self.text)
    }

    /// What it complains of; an error when it succeeded.
    pub fn refused(self, what: impl std::fmt::Debug) -> Result<String> {
        ensure!(!self.is_success, "kubectl {what:?} was not refused: {}", self.text);
        Ok(self.complaints)
    }
}

/// A binary: the one that `variable` names, or the one in the path.
fn program(variable: &str, name: &str) -> Result<PathBuf> {
    let found = named(variable).or_else(|| process::find(name));
    found.with_context(|| format!("there is no {name}: `cargo xtask test --suite mesh` builds it, or set {variable}"))
}
