//! The client end: one request over the socket of a running chain.

use super::Change;
use crate::chain::listing::{Page, Query};
use anyhow::{Context as _, anyhow};
use chc_runtime::http::{self, Method, StatusCode, ask};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// What was asked makes no sense for that chain.
    Mistake(String),
    /// No chain runs there.
    NoChain(anyhow::Error),
    /// It could not answer.
    Failed(anyhow::Error),
}

/// Reads what is at a path.
///
/// # Errors
/// If no chain runs there or it cannot answer.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, AskError> {
    exchange(socket, Method::GET, path, Vec::new())
}

/// A page of the state of a running chain.
///
/// # Errors
/// If no chain runs there or it cannot answer.
pub fn state(socket: &Path, query: &Query) -> Result<Page, AskError> {
    let mut path = format!("/v1/state?limit={}", query.limit);
    let cursor = query.cursor.clone().map(String::from);
    for (name, value) in [("vertex", &query.vertex), ("object", &query.object), ("cursor", &cursor)] {
        if let Some(value) = value {
            path += &format!("&{name}={value}");
        }
    }
    get(socket, &path)
}

/// Asks for a change; what came of it.
///
/// # Errors
/// If it is refused, no chain runs there or it cannot answer.
pub fn change(socket: &Path, change: &Change) -> Result<Value, AskError> {
    // A change is plain data.
    let body = serde_json::to_vec(change).unwrap_or_default();
    exchange(socket, Method::POST, "/v1/change", body)
}

fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<T, AskError> {
    let (status, body) = ask(socket, method, path, body).map_err(|error| match error {
        http::AskError::NoServer(socket, error) => {
            AskError::NoChain(anyhow!("{socket}: no chain runs with this socket: {error}"))
        }
        http::AskError::NoAnswer(reason) => {
            AskError::Failed(anyhow!("the chain ended while it was asked: {reason}"))
        }
    })?;
    if status.is_success() {
        let read = serde_json::from_slice(&body).context("the answer is not understood");
        return read.map_err(AskError::Failed);
    }
    let told = serde_json::from_slice::<Value>(&body).ok();
    let told = told.as_ref().and_then(|value| value.get("error")?.as_str());
    let message = told.map_or_else(|| format!("the chain answers {status}"), str::to_owned);
    Err(match status {
        StatusCode::BAD_REQUEST => AskError::Mistake(message),
        _ => AskError::Failed(anyhow!(message)),
    })
}
