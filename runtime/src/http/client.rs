//! The client: one request over a Unix socket.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, StatusCode, http};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("{0}: {1}")]
    NoServer(String, #[source] io::Error),
    /// Who listened has gone, or does not speak HTTP.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// Sends a request and waits for the answer: its status and body.
///
/// # Errors
/// If nobody listens, or there is no answer.
pub fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Vec<u8>), AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| AskError::NoAnswer(error.to_string()))?;
    let stream = runtime.block_on(UnixStream::connect(socket));
    let stream = stream.map_err(|error| AskError::NoServer(socket.display().to_string(), error))?;
    runtime.block_on(exchange(stream, method, path, body)).map_err(AskError::NoAnswer)
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Vec<u8>), String> {
    let told = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let driven = tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(told)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(told)?.to_bytes().to_vec();
    driven.abort();
    Ok((status, body))
}
