//! Requests as bytes, for what no well-behaved client would send: malformed ones, bytes that are no UTF-8, headers in
//! any case and any number, bodies that stop halfway.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long to wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that bytes are written to.
#[derive(Debug)]
pub struct Connection {
    incoming: Incoming,
    outgoing: OwnedWriteHalf,
}

/// What comes in on a connection.
#[derive(Debug)]
struct Incoming {
    stream: OwnedReadHalf,
    unread: Vec<u8>,
}

/// An HTTP/1.1 answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// Sends one request and reads its answer. The request should ask for `connection: close` or not be reused anyway.
pub async fn exchange(address: SocketAddr, request: impl AsRef<[u8]>) -> Result<Answer> {
    Connection::open(address).await?.exchange(request).await
}

// === impl Connection ===

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (stream, outgoing) = stream.into_split();
        Ok(Self { incoming: Incoming { stream, unread: Vec::new() }, outgoing })
    }

    /// Sends one request and reads its answer, both at once: a server may answer before it has read everything, and close.
    /// Then the rest cannot be written, and the answer counts all the same.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Result<Answer> {
        let Self { incoming, outgoing } = self;
        let mut answer = pin!(incoming.answer());
        tokio::select! {
            answer = &mut answer => answer,
            // What a failed write means, the answer says, or its absence.
            _ = outgoing.write_all(request.as_ref()) => answer.await,
        }
    }

    /// Writes bytes at once.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.outgoing.write_all(bytes.as_ref()).await.context("the connection was closed while writing")
    }

    /// Reads one answer.
    pub async fn answer(&mut self) -> Result<Answer> {
        self.incoming.answer().await
    }

    /// Reads until at least `needle` has arrived, and returns everything unread.
    pub async fn until(&mut self, needle: &str) -> Result<String> {
        self.incoming.until(needle).await
    }
}

// === impl Incoming ===

impl Incoming {
    async fn answer(&mut self) -> Result<Answer> {
        let read = timeout(TIMEOUT, self.read_answer()).await;
        read.with_context(|| {
            format!("no complete answer within {TIMEOUT:?}; so far: {:?}", String::from_utf8_lossy(&self.unread))
        })?
    }

    async fn until(&mut self, needle: &str) -> Result<String> {
        let found = timeout(TIMEOUT, async {
            while find(&self.unread, needle.as_bytes()).is_none() {
                self.more().await?;
            }
            anyhow::Ok(())
        });
        let found = found.await.unwrap_or_else(|_| bail!("not within {TIMEOUT:?}"));
        let seen = String::from_utf8_lossy(&self.unread).into_owned();
        found.with_context(|| format!("waited for {needle:?}, got {seen:?}"))?;
        self.unread.clear();
        Ok(seen)
    }

    async fn read_answer(&mut self) -> Result<Answer> {
        let end = self.position(b"\r\n\r\n").await?;
        let head = self.take(end + 4);
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status in {head:?}"))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        let mut answer = Answer { status, headers, body: String::new() };
        let body = if answer.header("transfer-encoding") == Some("chunked") {
            self.chunks().await?
        } else if let Some(length) = answer.header("content-length").and_then(|length| length.parse().ok()) {
            while self.unread.len() < length {
                self.more().await?;
            }
            self.take(length)
        } else if status == 204 || status == 304 || status < 200 {
            Vec::new()
        } else {
            while self.more().await.is_ok() {}
            std::mem::take(&mut self.unread)
        };
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }

    /// The data of a chunked body. Trailers are dropped.
    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = self.position(b"\r\n").await?;
            let line = self.take(end + 2);
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            let length = usize::from_str_radix(&line, 16).with_context(|| format!("chunk length {line:?}"))?;
            while self.unread.len() < length + 2 {
                self.more().await?;
            }
            body.extend(self.take(length + 2).get(..length).unwrap_or_default());
            if length == 0 {
                return Ok(body);
            }
        }
    }

    async fn position(&mut self, needle: &[u8]) -> Result<usize> {
        loop {
            if let Some(position) = find(&self.unread, needle) {
                return Ok(position);
            }
            self.more().await?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.unread.split_off(count.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            bail!("the connection was closed after {:?}", String::from_utf8_lossy(&self.unread));
        }
        Ok(())
    }
}

// === impl Answer ===

impl Answer {
    /// The first header with this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen == name).map(|(_, value)| value.as_str())
    }
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_counts_though_the_server_closes_before_it_has_read_the_request() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.read_exact(&mut [0; 8]).await?;
            stream.write_all(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 4\r\n\r\nmuch").await
            // What is unread when the connection is dropped makes it a reset.
        });
        // More than the buffers of any connection take, so that the reset meets the write.
        let answer = exchange(address, vec![b'x'; 64 << 20]).await?;
        assert_eq!((answer.status, answer.body.as_str()), (413, "much"));
        Ok(())
    }
}
