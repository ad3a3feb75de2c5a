//! A real etcd: some members on loopback ports, each of which can be killed and started again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::ports::{self, loopback};
use crate::process::ManagedProcess;
use crate::wait;

/// A cluster of members. It ends with this value.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
    /// More options of each member.
    options: Vec<String>,
    http: reqwest::Client,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<ManagedProcess>,
}

// === impl Etcd ===

impl Etcd {
    /// Starts this many members and waits until they agree.
    pub async fn start(count: usize) -> Result<Self> {
        Self::with(count, &[]).await
    }

    /// The same with further options of etcd's.
    pub async fn with(count: usize, options: &[&str]) -> Result<Self> {
        let folder = folder()?;
        let member = |index: usize| -> Result<Member> {
            let (client, peer) = (loopback(ports::free()?), loopback(ports::free()?));
            Ok(Member { name: format!("m{index}"), client, peer, process: None })
        };
        let members = (0..count).map(member).collect::<Result<_>>()?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut etcd = Self { members, folder, options, http };
        for index in 0..count {
            etcd.spawn(index)?;
        }
        etcd.until_healthy().await?;
        Ok(etcd)
    }

    /// Where clients reach the members.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.members.len()
    }

    /// The process of a member that runs.
    pub fn id(&self, index: usize) -> Result<u32> {
        let process = self.members.get(index).and_then(|member| member.process.as_ref());
        Ok(process.with_context(|| format!("no member {index} runs"))?.id())
    }

    /// Kills a member, as an out-of-memory killer would. What it has written stays.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        let process = self.members.get_mut(index).and_then(|member| member.process.take());
        process.with_context(|| format!("no member {index} runs"))?.kill()
    }

    /// Starts a member again, and waits until all that run agree.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.until_healthy().await
    }

    /// The member that the others follow.
    pub fn leader(&self) -> Result<usize> {
        let leads = |index: &usize| {
            let status = self.ctl_at(*index, &["endpoint", "status", "--write-out=fields"]);
            // The status names the member itself and the leader, by their numbers.
            status.is_ok_and(|text| {
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" : ").map(str::to_owned))
                };
                field("\"MemberID\"").is_some() && field("\"MemberID\"") == field("\"Leader\"")
            })
        };
        (0..self.members.len()).find(leads).context("etcd has no leader")
    }

    /// Runs `etcdctl` against the members that run, and gives what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let running = self.members.iter().filter(|member| member.process.is_some());
        let endpoints: Vec<String> = running.map(|member| member.client.to_string()).collect();
        ctl(&endpoints.join(","), arguments)
    }

    fn ctl_at(&self, index: usize, arguments: &[&str]) -> Result<String> {
        let member = self.members.get(index).context("no such member")?;
        ensure!(member.process.is_some(), "member {index} does not run");
        ctl(&member.client.to_string(), arguments)
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(&["put", key, value]).map(drop)
    }

    /// A key's value; empty when it is not there.
    pub fn get(&self, key: &str) -> Result<String> {
        Ok(self.ctl(&["get", "--print-value-only", key])?.trim_end().to_owned())
    }

    /// Forgets everything but the latest values.
    pub fn compact(&self) -> Result<()> {
        let status = self.ctl(&["endpoint", "status", "--write-out=fields"])?;
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        self.ctl(&["compact", revision.context("no revision")?]).map(drop)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let url = |address: SocketAddr| format!("http://{address}");
        let all: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, url(member.peer))).collect();
        let member = self.members.get_mut(index).with_context(|| format!("no member {index}"))?;
        let mut command = Command::new(binary()?);
        command
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(self.folder.path().join(&member.name))
            .args(["--listen-client-urls", &url(member.client), "--advertise-client-urls", &url(member.client)])
            .args(["--listen-peer-urls", &url(member.peer), "--initial-advertise-peer-urls", &url(member.peer)])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.options)
            // etcd reads these as options too.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("ETCD")))
            // Where it has not been tried, etcd 3.4 wants to be told so.
            .env("ETCD_UNSUPPORTED_ARCH", if cfg!(target_arch = "aarch64") { "arm64" } else { "" });
        member.process = Some(ManagedProcess::start(&member.name, command)?);
        Ok(())
    }

    /// Waits until each member that runs answers through a quorum.
    async fn until_healthy(&self) -> Result<()> {
        for member in self.members.iter().filter(|member| member.process.is_some()) {
            let url = format!("http://{}/health", member.client);
            let look = || async {
                let answer = self.http.get(&url).timeout(Duration::from_secs(2)).send().await?;
                Ok(answer.text().await?)
            };
            let log = || member.process.as_ref().map(|process| process.log().tail(10)).unwrap_or_default();
            wait::until(&format!("etcd member {}", member.name), look, |text| text.contains("\"true\""))
                .await
                .with_context(|| format!("the log ends with:\n{}", log()))?;
        }
        Ok(())
    }
}

/// In memory where that can be: a disk that others use as well would take most of each write's time, and differ each time.
fn folder() -> Result<TempDir> {
    let prefix = "bluegreen-etcd-";
    Ok(TempDir::with_prefix_in(prefix, "/dev/shm").or_else(|_| TempDir::with_prefix(prefix))?)
}

/// The etcd binary.
fn binary() -> Result<PathBuf> {
    let found = bluegreen_programs::etcd::binary();
    found.context("there is no etcd in the path: `sudo apt-get install etcd-server etcd-client`, or set ETCD")
}

fn ctl(endpoints: &str, arguments: &[&str]) -> Result<String> {
    // Beside the server, wherever that is.
    let program = binary()?.with_file_name("etcdctl");
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints, "--command-timeout", "10s"]).args(arguments);
    let output = command.output().context("etcdctl cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
