//! A relay of TCP connections that can be cut: how a test takes the network away between two processes that both live.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports::loopback;

/// A port that leads to another one, while it leads anywhere. It closes all its connections when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    line: watch::Sender<Line>,
    wire: watch::Sender<Option<Tripwire>>,
    server: JoinHandle<()>,
}

/// What a relay waits for in requests, and the lines that fall silent upon it.
#[derive(Clone, Debug)]
struct Tripwire {
    bytes: Vec<u8>,
    lines: Vec<watch::Sender<Line>>,
}

/// Where a relay leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Nowhere,
    To(SocketAddr),
    Silent(SocketAddr),
}

// === impl Relay ===

impl Relay {
    /// Starts one, on a free port, that leads nowhere yet.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let (line, watched) = watch::channel(Line::Nowhere);
        let (wire, watched_wire) = watch::channel(None);
        Ok(Self { address, line, wire, server: tokio::spawn(serve(listener, watched, watched_wire)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it leads there; connections to elsewhere end, and those that fell silent go on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.wire.send_replace(None);
        self.line.send_replace(Line::To(target));
    }

    /// Ends all connections, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.line.send_replace(Line::Nowhere);
    }

    /// Keeps all connections and passes nothing on, as a broken switch or a firewall would.
    pub fn fall_silent(&self) {
        silence(&self.line);
    }

    /// Makes all of them fall silent as soon as a request through one of them carries these bytes. That request is the
    /// last thing that is passed on: it is carried out, and nobody hears of it.
    pub fn fall_silent_after(relays: &[Self], bytes: &[u8]) {
        let lines: Vec<_> = relays.iter().map(|relay| relay.line.clone()).collect();
        for relay in relays {
            relay.wire.send_replace(Some(Tripwire { bytes: bytes.to_vec(), lines: lines.clone() }));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The connections are tasks of this one, so that they end with it.
async fn serve(listener: TcpListener, line: watch::Receiver<Line>, wire: watch::Receiver<Option<Tripwire>>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (mut line, wire) = (line.clone(), wire.clone());
        let (Line::To(target) | Line::Silent(target)) = *line.borrow_and_update() else { continue };
        connections.spawn(async move {
            let here = line.clone();
            tokio::select! {
                () = connect(near, target, here, wire) => {}
                _ = line.wait_for(|line| !line.is_towards(target)) => {}
            }
        });
    }
}

async fn connect(
    near: TcpStream,
    target: SocketAddr,
    mut line: watch::Receiver<Line>,
    wire: watch::Receiver<Option<Tripwire>>,
) {
    // While the line is silent the kernel has accepted the connection, and that is all that happens.
    opens(&mut line).await;
    if let Ok(far) = TcpStream::connect(target).await {
        // What comes in one piece goes on at once: else the kernel would wait for more of it, for some 40 ms.
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        // How a connection ends is between its two ends.
        tokio::join!(pump(near_read, far_write, line.clone(), Some(wire)), pump(far_read, near_write, line, None));
    }
}

/// Passes on until the end. What is read while the line is silent is passed on afterwards: nothing is lost.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    wire: Option<watch::Receiver<Option<Tripwire>>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..size) else { return };
        opens(&mut line).await;
        // Before it is passed on: else the answer could be quicker.
        if let Some(tripwire) = wire.as_ref().and_then(|wire| wire.borrow().clone()) {
            tripwire.feel(bytes);
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Waits while the line is silent.
async fn opens(line: &mut watch::Receiver<Line>) {
    // An error means that the relay is gone, and this task with it.
    let _ = line.wait_for(|line| !matches!(line, Line::Silent(_))).await;
}

fn silence(line: &watch::Sender<Line>) {
    line.send_modify(|line| {
        if let Line::To(target) = *line {
            *line = Line::Silent(target);
        }
    });
}

// === impl Tripwire ===

impl Tripwire {
    fn feel(&self, bytes: &[u8]) {
        if bytes.windows(self.bytes.len()).any(|window| window == self.bytes) {
            self.lines.iter().for_each(silence);
        }
    }
}

// === impl Line ===

impl Line {
    fn is_towards(self, target: SocketAddr) -> bool {
        self == Self::To(target) || self == Self::Silent(target)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::ensure;
    use tokio::time::timeout;

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

    #[tokio::test]
    async fn a_connection_that_fell_silent_goes_on_where_it_was() -> Result<()> {
        let (upstream, relay) = (Upstream::start("blue").await?, Relay::start().await?);
        relay.lead_to(upstream.address());
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{}/", relay.address());
        ensure!(client.get(&url).send().await.is_ok(), "it leads to the upstream");
        relay.fall_silent();
        let mut waiting = Box::pin(client.get(&url).send());
        ensure!(timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "there was an answer");
        relay.lead_to(upstream.address());
        ensure!(waiting.await.is_ok(), "the same request is answered");
        Ok(())
    }

    #[tokio::test]
    async fn a_request_with_the_awaited_bytes_arrives_and_its_answer_does_not() -> Result<()> {
        let upstream = Upstream::start("blue").await?;
        let relays = [Relay::start().await?, Relay::start().await?];
        relays.iter().for_each(|relay| relay.lead_to(upstream.address()));
        Relay::fall_silent_after(&relays, b"/the-last-one");
        let client = reqwest::Client::builder().no_proxy().build()?;
        let get = |relay: &Relay, path: &str| client.get(format!("http://{}{path}", relay.address())).send();
        ensure!(get(&relays[0], "/another-one").await.is_ok(), "it answers");
        let mut last = Box::pin(get(&relays[0], "/the-last-one"));
        let mut next = Box::pin(get(&relays[1], "/another-one"));
        ensure!(timeout(Duration::from_millis(100), &mut last).await.is_err(), "there was an answer");
        ensure!(timeout(Duration::from_millis(100), &mut next).await.is_err(), "the others fall silent with it");
        ensure!(upstream.requests() == 2, "{} requests arrived", upstream.requests());
        relays.iter().for_each(|relay| relay.lead_to(upstream.address()));
        ensure!(last.await.is_ok() && next.await.is_ok(), "they go on where they were");
        Ok(())
    }
}
