//! `model-server`: one of the two versions as a program of its own.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bluegreen_model_server::{Version, serve};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves one of two versions of an iris classifier behind MLflow's scoring protocol.
#[derive(Parser)]
#[command(name = "model-server")]
struct Arguments {
    /// Which model to serve: 1 looks at the petal's length only, 2 at all four measurements.
    #[arg(long)]
    model_version: Version,
    /// The port to listen on; 0 takes a free one and prints it.
    #[arg(long)]
    port: u16,
    /// How long each prediction takes longer than it has to, in milliseconds: a version that is slow.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// The address to listen on; a container needs another one than the default.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
}

/// One thread is enough for a model this small, and leaves the machine to what is being shown or measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Arguments { model_version, port, listen, delay_ms }: Arguments) -> Result<()> {
    // Before the port opens: a caller that sees it open may end this server at once, and gracefully.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listener = match TcpListener::bind((listen, port)).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("port {port} is in use: stop the program that listens there, or choose another port with --port")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot listen on {listen}, port {port}")),
    };
    let address = listener.local_addr().context("cannot tell the address that was bound")?;
    println!("model-server: version {model_version} listens on http://{address}");
    serve(listener, model_version, Duration::from_millis(delay_ms), stop).await.context("serving failed")
}
