//! A stretch of network that can be cut: a TCP proxy on the loopback interface.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports::loopback;

/// What the stretch does with what is sent along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It passes everything on.
    Open,
    /// It resets what there is and whatever comes.
    Cut,
    /// It passes nothing on and says nothing, as a failed switch or a firewall would.
    Silent,
}

/// A relay to one address. It ends with this value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
    accepting: JoinHandle<()>,
}

// === impl Relay ===

impl Relay {
    /// Relays to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(loopback(0)).await.context("no free loopback port")?;
        let address = listener.local_addr()?;
        let line = Arc::new(watch::Sender::new(Line::Open));
        let accepting = tokio::spawn({
            let line = Arc::clone(&line);
            async move {
                while let Ok((near, _)) = listener.accept().await {
                    tokio::spawn(connection(near, target, line.subscribe()));
                }
            }
        });
        Ok(Self { address, line, accepting })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, for connections that there are and for new ones.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.line.send_replace(Line::Cut);
    }
}

async fn connection(near: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    reset_when_dropped(&near);
    // While the line is silent the kernel has accepted the connection, and that is all that happens.
    if passes(&mut line).await
        && let Ok(far) = TcpStream::connect(target).await
    {
        reset_when_dropped(&far);
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let mut cut = line.clone();
        tokio::select! {
            () = pump(near_read, far_write, line.clone()) => {}
            () = pump(far_read, near_write, line) => {}
            _ = cut.wait_for(|line| *line == Line::Cut) => {}
        }
    }
}

/// Passes on until one side ends. What has been read while the line was silent is passed on after that: nothing is lost.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..size) else { return };
        if !passes(&mut line).await || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Waits while the line is silent. Whether it is open then.
async fn passes(line: &mut watch::Receiver<Line>) -> bool {
    line.wait_for(|line| *line != Line::Silent).await.is_ok_and(|line| *line == Line::Open)
}

/// Has the connection reset when it is dropped, as the kernel does where nothing may linger.
fn reset_when_dropped(stream: &TcpStream) {
    // Where that fails, the connection is closed all the same.
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that sends back what it gets, and a relay to it.
    async fn echo() -> Result<Relay> {
        let listener = TcpListener::bind(loopback(0)).await?;
        let relay = Relay::start(listener.local_addr()?).await?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Ok(relay)
    }

    async fn exchange(stream: &mut TcpStream) -> Result<u8> {
        stream.write_all(b"x").await?;
        Ok(tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await??)
    }

    #[tokio::test]
    async fn a_line_passes_on_or_resets_or_says_nothing() -> Result<()> {
        let relay = echo().await?;
        let mut first = TcpStream::connect(relay.address()).await?;
        assert_eq!(exchange(&mut first).await?, b'x');
        relay.set(Line::Silent);
        let silence = exchange(&mut first).await;
        assert!(silence.is_err_and(|error| error.is::<tokio::time::error::Elapsed>()));
        relay.set(Line::Cut);
        assert!(exchange(&mut first).await.is_err());
        let mut refused = TcpStream::connect(relay.address()).await?;
        assert!(exchange(&mut refused).await.is_err());
        relay.set(Line::Open);
        let mut second = TcpStream::connect(relay.address()).await?;
        assert_eq!(exchange(&mut second).await?, b'x');
        Ok(())
    }
}
