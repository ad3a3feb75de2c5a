//! A registry with one image in it: the module, as `cargo xtask image` packs it.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bluegreen_testbed::ports::loopback;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Ends with this value.
pub struct Registry {
    address: SocketAddr,
    digest: String,
    server: JoinHandle<()>,
}

/// What the registry has, by the last part of its path.
type Blobs = Vec<(String, &'static str, Bytes)>;

// === impl Registry ===

impl Registry {
    /// With this module in the layer.
    pub async fn start(module: &[u8]) -> Result<Self> {
        let (blobs, digest) = image(module)?;
        let blobs = Arc::new(blobs);
        let listener = TcpListener::bind(loopback(0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let blobs = Arc::clone(&blobs);
                tokio::spawn(async move {
                    let answer = service_fn(|request: Request<_>| {
                        let answer = answer(&blobs, request.uri().path());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    server.serve_connection(TokioIo::new(stream), answer).await.ok();
                });
            }
        });
        Ok(Self { address, digest, server })
    }

    /// The image's reference, with its digest.
    pub fn reference(&self) -> String {
        format!("{}/bluegreen@{}", self.address, self.digest)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn answer(blobs: &Blobs, path: &str) -> Response<Full<Bytes>> {
    let found = blobs.iter().find(|(digest, ..)| path.ends_with(digest));
    let mut answer = Response::new(Full::new(found.map(|(.., bytes)| bytes.clone()).unwrap_or_default()));
    match found {
        Some((_, media_type, _)) => {
            answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(media_type));
        }
        None if path == "/v2/" => {}
        None => *answer.status_mut() = StatusCode::NOT_FOUND,
    }
    answer
}

/// Everything that the image consists of, and the digest of its manifest.
fn image(module: &[u8]) -> Result<(Blobs, String)> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(module.len().try_into()?);
    header.set_mode(0o644);
    archive.append_data(&mut header, "plugin.wasm", module)?;
    let archive = archive.into_inner()?;
    let mut layer = GzEncoder::new(Vec::new(), Compression::fast());
    layer.write_all(&archive)?;
    let layer = layer.finish()?;
    let settings = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(&archive)]},
    });
    let settings = settings.to_string().into_bytes();
    let part = |media_type: &str, bytes: &[u8]| -> Value {
        json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    };
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": part(CONFIG, &settings),
        "layers": [part(LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let name = digest(&manifest);
    let blobs = [(MANIFEST, manifest), (CONFIG, settings), (LAYER, layer)];
    Ok((blobs.map(|(media_type, bytes)| (digest(&bytes), media_type, bytes.into())).into(), name))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
