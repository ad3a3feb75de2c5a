//! The model server as a process: what its user sees on the command line, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

/// A running model server; it is killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one on a port that the kernel chooses, and reads that from its first line.
    fn start(version: &str) -> Self {
        let mut child = command(version, "0").stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a first line");
        let address = line.trim().strip_prefix(&format!("model-server: version {version} listens on http://"));
        let address = address.unwrap_or_else(|| panic!("unexpected first line {line:?}")).to_owned();
        Self { child, address }
    }

    fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(&self.address).expect("it listens");
        write!(connection, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(version: &str, port: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-server"));
    command.args(["--model-version", version, "--port", port]);
    command
}

fn refused(version: &str, port: &str) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(version, port).output().expect("it starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn port_0_takes_a_free_port_and_prints_it() {
    let answer = Server::start("2").get("/version");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n2"), "{answer}");
}

#[test]
fn a_port_in_use_is_one_sentence_and_exit_code_1() {
    let server = Server::start("1");
    let port = server.address.rsplit_once(':').expect("a port").1;
    let sentence = format!(
        "model-server: port {port} is in use: stop the program that listens there, or choose another port with --port\n"
    );
    assert_eq!(refused("1", port), (Some(1), sentence));
}

#[test]
fn a_version_that_does_not_exist_is_refused_with_those_that_do() {
    let (code, text) = refused("3", "0");
    assert_eq!(code, Some(2));
    assert!(text.contains("possible values: 1, 2"), "{text}");
}

#[test]
fn either_signal_ends_it_well() {
    for signal in ["-TERM", "-INT"] {
        let mut server = Server::start("1");
        let sent = Command::new("kill").args([signal, &server.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        assert_eq!(server.child.wait().expect("it ends").code(), Some(0), "{signal}");
    }
}
