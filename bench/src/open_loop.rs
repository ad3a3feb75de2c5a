//! Load at a fixed rate, for latencies: the next request is due whether or not the last was answered.
//!
//! Each connection has a thread of its own and due times of its own. A request that could not be sent when it was due,
//! because the answer before it was late, counts from when it was due (no coordinated omission). One that was sent late
//! only because its thread woke up late counts from when it was sent: that delay is the generator's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The load of one measurement.
#[derive(Clone, Debug)]
pub struct OpenLoopLoad {
    pub address: SocketAddr,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub connections: u32,
    /// Requests a second, over all connections.
    pub rate: u32,
    pub lasting: Duration,
}

// === impl OpenLoopLoad ===

impl OpenLoopLoad {
    /// Sends until the time is over, and returns each request's latency in microseconds.
    pub async fn run(self) -> Result<Vec<f64>> {
        tokio::task::spawn_blocking(move || self.send()).await.context("the generator panicked")?
    }

    fn send(&self) -> Result<Vec<f64>> {
        let start = Instant::now();
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.connections).map(|index| scope.spawn(move || self.connection(start, index))).collect();
            let mut latencies = Vec::new();
            for thread in threads {
                latencies.extend(thread.join().map_err(|_| anyhow!("the generator panicked"))??);
            }
            Ok(latencies)
        })
    }

    /// The requests of one connection: each `connections`-th of all.
    fn connection(&self, start: Instant, index: u32) -> Result<Vec<f64>> {
        let between = Duration::from_secs_f64(f64::from(self.connections) / f64::from(self.rate));
        let mut due = start + between.mul_f64(f64::from(index) / f64::from(self.connections));
        let mut connection = Connection::open(self.address)?;
        let request = self.request();
        let mut latencies = Vec::new();
        let mut free = start;
        while due < start + self.lasting {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let began = if free > due { due } else { Instant::now() };
            connection.exchange(&request)?;
            free = Instant::now();
            latencies.push((free - began).as_secs_f64() * 1e6);
            due += between;
            // Hopelessly behind: the rate is more than this machine can do now.
            ensure!(free < start + 2 * self.lasting + PATIENCE, "{} requests a second are too many", self.rate);
        }
        Ok(latencies)
    }

    fn request(&self) -> Vec<u8> {
        let named = |name: &str| self.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
        let mut text = format!("GET {} HTTP/1.1\r\n", self.path);
        if !named("host") {
            text += &format!("host: {}\r\n", self.address);
        }
        text += &self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        (text + "\r\n").into_bytes()
    }
}

/// A connection on which one request follows the other.
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

// === impl Connection ===

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Sends a request and reads its answer, which must be a 200.
    pub fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).context("the connection was closed")?;
        loop {
            if let Some(length) = answer_length(&self.unread)? {
                self.unread.drain(..length);
                return Ok(());
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).context("no complete answer")?;
            ensure!(read > 0, "the connection was closed before the answer was complete");
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }
}

/// The length of the answer at the beginning of `bytes`, once it is complete; an error unless it is a 200.
fn answer_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..head]);
    ensure!(text.starts_with("HTTP/1.1 200"), "unexpected answer: {text}");
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    let Some(length) = length else { bail!("an answer without a length: {text}") };
    let end = head + 4 + length.parse::<usize>().with_context(|| format!("length {length}"))?;
    Ok((bytes.len() >= end).then_some(end))
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() -> Result<()> {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(answer_length(answer)?, Some(answer.len()));
        assert_eq!(answer_length(&answer[..answer.len() - 1])?, None);
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\n")?, None);
        Ok(())
    }

    #[test]
    fn an_answer_that_is_no_200_ends_the_measurement() {
        let error = answer_length(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }
}
