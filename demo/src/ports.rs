//! The demo's fixed ports: whether they are free, and if not, who has them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

/// Where the model servers, Envoy's listeners and Envoy's own admin interface are; `envoy/envoy.yaml` says the same.
const PORTS: [(u16, &str); 5] = [
    (crate::model::BLUE.port, "the blue model server"),
    (crate::model::GREEN.port, "the green model server"),
    (10000, "Envoy's traffic"),
    (10001, "the filter's admin API"),
    (9901, "Envoy's own admin interface"),
];

/// What has to be said about each port that is taken.
pub fn taken(with_registry: bool) -> Vec<String> {
    let registry = with_registry.then_some((crate::registry::PORT, "MLflow's registry"));
    PORTS.into_iter().chain(registry).filter_map(|(port, purpose)| holder_of(port, purpose)).collect()
}

fn holder_of(port: u16, purpose: &str) -> Option<String> {
    let error = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err()?;
    let why = match (error.kind(), holder(port)) {
        (std::io::ErrorKind::AddrInUse, Some(holder)) => format!("is in use by {holder}"),
        (std::io::ErrorKind::AddrInUse, None) => "is in use".to_owned(),
        (_, _) => format!("cannot be listened on ({error})"),
    };
    Some(format!("port {port} ({purpose}) {why}"))
}

/// The process that listens on `port`, where Linux tells it to this user.
fn holder(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    // Not `self` and its likes, which are the same processes under other names.
    let is_process =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let process = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(is_process)
        .find(|process| holds(process, &sockets))?;
    let name = fs::read_to_string(process.join("comm")).ok()?;
    Some(format!("{} (process {})", name.trim(), process.file_name()?.to_string_lossy()))
}

/// The inodes of the sockets that listen on `port`, from the text of `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let local = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&local) && fields.get(3) == Some(&LISTEN);
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().filter_map(inode).collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let target = |path: &Path| fs::read_link(path).ok()?.to_str().map(str::to_owned);
    descriptors.flatten().filter_map(|entry| target(&entry.path())).any(|target| sockets.contains(&target))
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_purpose_and_where_possible_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sentence = holder_of(port, "a test").unwrap();
        assert!(sentence.starts_with(&format!("port {port} (a test) is in use")), "{sentence}");
        if cfg!(target_os = "linux") {
            assert!(sentence.ends_with(&format!("(process {})", std::process::id())), "{sentence}");
        }
    }

    #[test]
    fn a_free_port_is_not_named() {
        // Somebody else may be given a port that has just become free: not one of so many in a row.
        let is_free = |_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            holder_of(port, "a test").is_none()
        };
        assert!((0..20).any(is_free));
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:04D2 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1 0 100 0\n\
                     1: 0100007F:04D2 0100007F:A000 01 00000000:00000000 00:00000000 00000000 0 0 222 1 0 100 0\n\
                     2: 0100007F:04D3 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1 0 100 0\n";
        assert_eq!(listening(table, 1234), ["111"]);
    }
}
