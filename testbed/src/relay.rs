//! A relay of TCP connections that can be cut: how a test takes the network away between two processes that both live.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports::loopback;

/// A port that leads to another one, while it leads anywhere. It closes all its connections when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    server: JoinHandle<()>,
}

// === impl Relay ===

impl Relay {
    /// Starts one, on a free port, that leads nowhere yet.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let (target, watched) = watch::channel(None);
        Ok(Self { address, target, server: tokio::spawn(serve(listener, watched)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it leads there; connections to elsewhere end.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Ends all connections, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.target.send_replace(None);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The connections are tasks of this one, so that they end with it.
async fn serve(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let mut target = target.clone();
        let Some(address) = *target.borrow_and_update() else { continue };
        connections.spawn(async move {
            tokio::select! {
                () = connect(near, address) => {}
                _ = target.changed() => {}
            }
        });
    }
}

async fn connect(mut near: TcpStream, address: SocketAddr) {
    if let Ok(mut far) = TcpStream::connect(address).await {
        // How a connection ends is between its two ends.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;
    use crate::Upstream;

    #[tokio::test]
    async fn what_is_cut_answers_nothing_and_what_is_mended_answers_again() -> Result<()> {
        let (upstream, relay) = (Upstream::start("blue").await?, Relay::start().await?);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/", relay.address());
        let answers = async || client.get(&url).send().await.is_ok();
        ensure!(!answers().await, "it leads nowhere yet");
        for _ in 0..2 {
            relay.lead_to(upstream.address());
            ensure!(answers().await, "it leads to the upstream");
            relay.cut();
            ensure!(!answers().await, "it is cut");
        }
        Ok(())
    }
}
