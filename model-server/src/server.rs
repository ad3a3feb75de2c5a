//! The routes of MLflow's scoring server, as `mlflow models serve` answers them.
//!
//! One answer differs on purpose: `GET /version` gives the version of the model, not of MLflow. There is no MLflow
//! here, and what a user of two servers wants to know is which model this one serves.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::model::Version;
use crate::protocol::{self, BadRequest, Format};

const LONGEST_BODY: usize = 2 * 1024 * 1024;

/// After the signal, requests in flight have this long to end.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

/// Serves until `stop` completes, then finishes the requests in flight.
pub async fn serve(
    listener: TcpListener,
    version: Version,
    delay: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stopped, wait_for_stop) = tokio::sync::oneshot::channel();
    let stop = async move {
        stop.await;
        let _ = stopped.send(());
    };
    let drained_too_long = async move {
        match wait_for_stop.await {
            Ok(()) => tokio::time::sleep(LONGEST_DRAIN).await,
            // The server ended by itself, and its own branch says how.
            Err(_) => std::future::pending().await,
        }
    };
    // Answers are small: without this, each would wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    tokio::select! {
        ended = axum::serve(listener, routes(version, delay)).with_graceful_shutdown(stop) => ended,
        () = drained_too_long => Ok(()),
    }
}

fn routes(version: Version, delay: Duration) -> Router {
    // `get` alone would answer HEAD as well. MLflow does not, and a prober that uses HEAD shall fail here too.
    let alive = || get(alive).head(only_get).fallback(only_get);
    Router::new()
        .route("/invocations", post(invocations))
        .route("/ping", alive())
        .route("/health", alive())
        .route("/version", get(model_version).head(only_get).fallback(only_get))
        .fallback(async || detail(StatusCode::NOT_FOUND, "Not Found"))
        .method_not_allowed_fallback(async || detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state((version, delay))
}

async fn invocations(State((version, delay)): State<(Version, Duration)>, headers: HeaderMap, body: Bytes) -> Response {
    tokio::time::sleep(delay).await;
    let content_type = headers.get(header::CONTENT_TYPE).map_or(Ok(""), |value| value.to_str()).unwrap_or_default();
    let Some(format) = Format::of(content_type) else {
        let message = format!(
            "This predictor takes the content types application/json and text/csv, not '{content_type}' (with curl: \
             -H 'content-type: application/json')"
        );
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    };
    match format.parse(&body) {
        Ok(flowers) => {
            let predictions: Vec<usize> = flowers.iter().map(|flower| version.predict(flower)).collect();
            (JSON, protocol::answer(&predictions)).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn alive() -> Response {
    (JSON, "\n").into_response()
}

async fn model_version(State((version, _)): State<(Version, Duration)>) -> Response {
    version.to_string().into_response()
}

async fn only_get() -> Response {
    ([(header::ALLOW, "GET")], detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")).into_response()
}

fn detail(status: StatusCode, text: &str) -> Response {
    (status, JSON, format!(r#"{{"detail":"{text}"}}"#)).into_response()
}

const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

// === impl BadRequest ===

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, JSON, self.body()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use reqwest::{Client, Method};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    /// A server on a port of its own; it stops when the sender is dropped.
    async fn start(version: Version) -> (String, oneshot::Sender<()>, tokio::task::JoinHandle<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        (address.to_string(), stop, tokio::spawn(serve(listener, version, Duration::ZERO, stopped)))
    }

    async fn invoke(address: &str, content_type: &str, body: &'static str) -> (u16, String, String) {
        let request = Client::new().post(format!("http://{address}/invocations"));
        let answer = request.header("content-type", content_type).body(body).send().await.unwrap();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), content_type, answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn both_versions_answer_and_differ_where_the_fit_said_so() {
        const ROWS: &str = r#"{"data": [[5.1, 3.5, 1.4, 0.2], [5.6, 2.8, 4.9, 2.0]]}"#;
        for (version, expected) in [(Version::One, "[0, 1]"), (Version::Two, "[0, 2]")] {
            let (address, _stop, _) = start(version).await;
            let (status, content_type, body) = invoke(&address, "application/json", ROWS).await;
            assert_eq!((status, content_type.as_str()), (200, "application/json"));
            assert_eq!(body, format!("{{\"predictions\": {expected}}}"));
        }
    }

    #[tokio::test]
    async fn csv_is_answered_and_other_content_types_are_not() {
        const CSV: &str = "sepal_length,sepal_width,petal_length,petal_width\n5.6,2.8,4.9,2.0\n";
        let (address, _stop, _) = start(Version::Two).await;
        assert_eq!(invoke(&address, "text/csv", CSV).await.2, r#"{"predictions": [2]}"#);
        for unsupported in ["application/x-www-form-urlencoded", "application/vnd.apache.parquet", ""] {
            let (status, content_type, body) = invoke(&address, unsupported, CSV).await;
            assert_eq!((status, content_type.as_str()), (415, "text/plain; charset=utf-8"));
            assert!(body.contains(&format!("'{unsupported}'")), "{body}");
        }
    }

    #[tokio::test]
    async fn a_wrong_body_is_a_400_that_says_where() {
        let (address, _stop, _) = start(Version::One).await;
        let (status, content_type, body) =
            invoke(&address, "application/json", r#"{"inputs": [["a", 1, 2, 3]]}"#).await;
        assert_eq!((status, content_type.as_str()), (400, "application/json"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error_code"], "BAD_REQUEST");
        assert_eq!(body["message"], r#"inputs: row 0, column sepal_length: "a" is not a finite number"#);
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_a_413() {
        let (address, _stop, _) = start(Version::One).await;
        let request = Client::new().post(format!("http://{address}/invocations"));
        let request = request.header("content-type", "application/json").body(vec![b' '; LONGEST_BODY + 1]);
        assert_eq!(request.send().await.unwrap().status(), 413);
    }

    #[tokio::test]
    async fn health_and_version_answer_as_documented() {
        let (address, _stop, _) = start(Version::Two).await;
        for (path, content_type, expected) in [
            ("/ping", "application/json", "\n"),
            ("/health", "application/json", "\n"),
            ("/version", "text/plain; charset=utf-8", "2"),
        ] {
            let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["content-type"]),
                (200, &content_type.parse().unwrap())
            );
            assert_eq!(answer.text().await.unwrap(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused_as_mlflow_refuses_them() {
        let (address, _stop, _) = start(Version::One).await;
        let call = async |method: Method, path: &str| {
            let answer = Client::new().request(method, format!("http://{address}{path}")).send().await.unwrap();
            let allow = answer.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
            (answer.status().as_u16(), allow, answer.text().await.unwrap())
        };
        let not_allowed = r#"{"detail":"Method Not Allowed"}"#.to_owned();
        assert_eq!(call(Method::POST, "/ping").await, (405, Some("GET".to_owned()), not_allowed.clone()));
        assert_eq!(call(Method::HEAD, "/ping").await, (405, Some("GET".to_owned()), String::new()));
        assert_eq!(call(Method::GET, "/invocations").await, (405, Some("POST".to_owned()), not_allowed));
        assert_eq!(call(Method::GET, "/").await, (404, None, r#"{"detail":"Not Found"}"#.to_owned()));
    }

    #[tokio::test]
    async fn a_request_in_flight_is_finished_before_the_server_ends() {
        const BODY: &[u8] = br#"{"inputs": [[5.6, 2.8, 4.9, 2.0]]}"#;
        let (address, stop, server) = start(Version::One).await;
        let mut connection = BufReader::new(TcpStream::connect(&address).await.unwrap());
        let head = format!(
            "POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             expect: 100-continue\r\n\r\n",
            BODY.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // The server says so when it begins to read the body: the request is in flight.
        let mut line = String::new();
        connection.read_line(&mut line).await.unwrap();
        assert_eq!(line, "HTTP/1.1 100 Continue\r\n");

        drop(stop);
        while TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        connection.write_all(BODY).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.ends_with(r#"{"predictions": [1]}"#), "{answer}");
        server.await.unwrap().unwrap();
    }
}
