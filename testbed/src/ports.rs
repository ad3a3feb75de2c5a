//! Loopback ports: free ones, taken ones, and ones that refuse.
//!
//! Servers of this crate bind port 0 and say what they got, so two test runs never fight over a port. This module is
//! for the rest: programs that take a port, and upstreams that must not be there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tokio::net::TcpSocket;

/// Where [`free`] looks: below the ports that Linux itself gives to sockets, the next connection among them.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// How many were looked at by this process.
static LOOKED_AT: AtomicU32 = AtomicU32::new(0);

/// The loopback address with `port`; 0 lets the kernel choose.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that was free a moment ago, and that this process has not named before. Prefer binding port 0: somebody else may
/// take this one first.
pub fn free() -> Result<u16> {
    // Each process begins elsewhere.
    let begin = process::id().wrapping_mul(7_919);
    let port = || {
        let turn = begin.wrapping_add(LOOKED_AT.fetch_add(1, Ordering::Relaxed));
        u16::try_from(turn % u32::from(COUNT)).map_or(FIRST, |place| FIRST + place)
    };
    let mut ports = (0..COUNT).map(|_| port());
    ports.find(|port| TcpListener::bind(loopback(*port)).is_ok()).context("no free loopback port")
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
    fn no_port_is_named_twice() -> Result<()> {
        let mut ports = (0..200).map(|_| free()).collect::<Result<Vec<_>>>()?;
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
        Ok(())
    }

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
