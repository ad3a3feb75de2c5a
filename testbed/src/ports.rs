//! Loopback ports: free ones, taken ones, and ones that refuse.
//!
//! Servers of this crate bind port 0 and say what they got, so two test runs never fight over a port. This module is
//! for the rest: programs that take a port, and upstreams that must not be there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use tokio::net::TcpSocket;

/// The loopback address with `port`; 0 lets the kernel choose.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that was free a moment ago. Prefer binding port 0: somebody else may take this one first.
pub fn free() -> Result<u16> {
    let listener = TcpListener::bind(loopback(0)).context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}

// === impl Refusing ===

/// An address where every connection is refused, for as long as this value lives.
///
/// The port is bound, so nobody else gets it, and never listened on.
#[derive(Debug)]
pub struct Refusing {
    socket: TcpSocket,
}

impl Refusing {
    /// Takes a port and refuses connections on it.
    pub fn bind() -> Result<Self> {
        let socket = TcpSocket::new_v4().context("no socket")?;
        socket.bind(loopback(0)).context("no free loopback port")?;
        Ok(Self { socket })
    }

    /// The address that refuses.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_refusing_address_refuses() -> Result<()> {
        let refusing = Refusing::bind()?;
        let seen = TcpStream::connect(refusing.address()?);
        assert!(
            seen.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
            "connecting gave {seen:?}"
        );
        Ok(())
    }
}
