//! Requests one after the other on a connection, by hand: a client that costs less than what it asks.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What of an answer is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The colour that the filter's header names.
    pub colour: Option<String>,
}

// === impl Connection ===

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4_096) })
    }

    /// Sends a request and does not wait for the answer.
    pub async fn send(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: soak\r\n\r\n");
        Ok(self.stream.write_all(request.as_bytes()).await?)
    }

    /// Reads the answer.
    pub async fn answer(&mut self) -> Result<Answer> {
        self.buffer.clear();
        let head_length = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.read().await?;
        };
        let head = String::from_utf8_lossy(self.buffer.get(..head_length).unwrap_or_default()).into_owned();
        let (answer, body_length) = parsed(&head)?;
        while self.buffer.len() < head_length + body_length {
            self.read().await?;
        }
        Ok(answer)
    }

    async fn read(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in the midst of an answer");
        }
        Ok(())
    }
}

/// The answer with this head, and how long its body is.
fn parsed(head: &str) -> Result<(Answer, usize)> {
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("no status: {head}"))?;
    let value = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length = value("content-length").with_context(|| format!("no content-length: {head}"))?.parse()?;
    Ok((Answer { status, colour: value("x-bluegreen-colour").map(str::to_owned) }, length))
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_colour_and_length_are_read() -> Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx-bluegreen-colour: green\r\n\r\n";
        assert_eq!(parsed(head)?, (Answer { status: 200, colour: Some("green".to_owned()) }, 12));
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(parsed(head)?, (Answer { status: 503, colour: None }, 0));
        assert!(parsed("HTTP/1.1 200 OK\r\n\r\n").is_err());
        Ok(())
    }
}
