//! What requests are answered with: reads from the [`View`]; changes go to whoever runs the chain and wait for its answer.

use super::view::View;
use super::{Change, Refused, Request, metrics};
use crate::chain::listing::{Cursor, LIMIT_MAX, Query};
use anyhow::{Context as _, bail};
use chc_runtime::http::{self, Method, Response, Server, StatusCode};
use serde::Serialize;
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest token, in bytes.
const TOKEN_MAX: u64 = 4096;

/// Where a chain is controlled.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Unix sockets.
    pub sockets: Vec<PathBuf>,
    /// A loopback address.
    pub listen: Option<SocketAddr>,
    /// The file with the token for changes by HTTP.
    pub token_file: Option<PathBuf>,
}

/// What answers requests.
struct Answerer {
    view: Arc<View>,
    /// Takes changes, where the chain can be changed.
    changes: Option<flume::Sender<Request>>,
    token: Option<String>,
}

/// Listens until what it gives back is dropped. With `changes` the chain can be changed.
///
/// # Errors
/// If an endpoint is taken or not permitted.
pub fn start(
    endpoints: &Endpoints,
    view: Arc<View>,
    changes: Option<flume::Sender<Request>>,
) -> anyhow::Result<Server> {
    let token = endpoints.token_file.as_deref().map(read_token).transpose()?;
    let answerer = Answerer { view, changes, token };
    let at = http::Endpoints { sockets: endpoints.sockets.clone(), listen: endpoints.listen };
    // Its text has its causes already.
    Server::start(&at, move |request| answerer.answer(&request)).map_err(|error| anyhow::anyhow!("{error}"))
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let named = || format!("api.token_file {}", path.display());
    let about = fs::metadata(path).with_context(named)?;
    if about.mode() & 0o077 != 0 {
        bail!("{}: others can read it; chmod 600 {}", named(), path.display());
    }
    if about.len() > TOKEN_MAX {
        bail!("{}: {} bytes are no token; keep it below {TOKEN_MAX}", named(), about.len());
    }
    let token = fs::read_to_string(path).with_context(named)?.trim().to_owned();
    if token.is_empty() {
        bail!("{}: it is empty; write a random line into it", named());
    }
    Ok(token)
}

fn text(status: StatusCode, content_type: &'static str, text: impl Into<String>) -> Response {
    Response { status, content_type, body: text.into().into_bytes() }
}

fn value(status: StatusCode, value: &impl Serialize) -> Response {
    let shown = serde_json::to_string(value).unwrap_or_default();
    text(status, "application/json", shown + "\n")
}

fn refuse(status: StatusCode, message: impl std::fmt::Display) -> Response {
    value(status, &json!({ "error": message.to_string() }))
}

/// What was read, or why it could not be.
fn read<T: Serialize>(result: anyhow::Result<T>) -> Response {
    match result {
        Ok(read) => value(StatusCode::OK, &read),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
    }
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// A value of a query string; names and cursors need no escapes.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn state_query(query: Option<&str>) -> Result<Query, String> {
    let text = |name| parameter(query, name).map(str::to_owned);
    let limit = parameter(query, "limit").map_or(Ok(100), str::parse::<u32>);
    let limit = limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    Ok(Query {
        vertex: text("vertex"),
        object: text("object"),
        limit: limit.ok_or_else(|| format!("limit: give 1 to {LIMIT_MAX}"))?,
        cursor: text("cursor").map(Cursor::try_from).transpose()?,
    })
}

impl Answerer {
    fn answer(&self, request: &http::Request) -> Response {
        match request.method {
            Method::GET => self.read(request),
            Method::POST => self.change(request),
            _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "GET reads and POST changes; nothing else is known"),
        }
    }

    fn read(&self, request: &http::Request) -> Response {
        match request.path.as_str() {
            "/livez" => text(StatusCode::OK, "text/plain", "alive\n"),
            "/readyz" if self.view.is_ready() => text(StatusCode::OK, "text/plain", "ready\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n"),
            "/metrics" => match self.view.status().and_then(|status| Ok(metrics::text(status)?)) {
                Ok(metrics) => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
                failed => read(failed),
            },
            "/v1/status" => read(self.view.status()),
            "/v1/events" => match parameter(request.query.as_deref(), "from").map(str::parse).transpose() {
                Ok(from) => read(Ok(self.view.events(from))),
                Err(_) => {
                    refuse(StatusCode::BAD_REQUEST, "from: give the number that the last answer has as next")
                }
            },
            "/v1/state" => match state_query(request.query.as_deref()) {
                Err(problem) => refuse(StatusCode::BAD_REQUEST, problem),
                Ok(query) => read(self.view.state(&query)),
            },
            _ => {
                let known = "there are /livez, /readyz, /metrics, /v1/status, /v1/state and /v1/events";
                refuse(StatusCode::NOT_FOUND, known)
            }
        }
    }

    fn change(&self, request: &http::Request) -> Response {
        if request.path != "/v1/change" {
            return refuse(StatusCode::NOT_FOUND, "changes go to /v1/change");
        }
        let has_token = match (&self.token, &request.token) {
            (Some(token), Some(given)) => is_same(token, given),
            _ => false,
        };
        if !request.is_owner && !has_token {
            let remedy = "changes need \"Authorization: Bearer TOKEN\" with the token of api.token_file";
            return refuse(StatusCode::UNAUTHORIZED, remedy);
        }
        let change = match serde_json::from_slice::<Change>(&request.body) {
            Ok(change) => change,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("this is no change: {error}")),
        };
        let Some(changes) = &self.changes else {
            return refuse(
                StatusCode::CONFLICT,
                "this chain runs over a capture; give its faults with the command",
            );
        };
        let (reply, answer) = flume::bounded(1);
        if changes.try_send(Request { change, reply }).is_err() {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the chain ends, or too much is asked of it at once",
            );
        }
        match answer.recv() {
            Ok(Ok(done)) => value(StatusCode::OK, &done),
            Ok(Err(Refused::Mistake(message))) => refuse(StatusCode::BAD_REQUEST, message),
            Ok(Err(Refused::NotNow(message))) => refuse(StatusCode::CONFLICT, message),
            Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the chain ended before it could answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_page_is_asked_for_by_its_parameters() {
        let query = state_query(Some("vertex=nat&limit=7&cursor=7:seen:o:ff-0-0-0-1")).expect("it is right");
        assert_eq!((query.vertex.as_deref(), query.object.as_deref(), query.limit), (Some("nat"), None, 7));
        assert!(query.cursor.is_some());
        assert!(state_query(None).is_ok_and(|query| query.limit == 100));
        assert!(state_query(Some("limit=0")).is_err() && state_query(Some("limit=x")).is_err());
        assert!(state_query(Some("cursor=x")).is_err());
    }

    #[test]
    fn tokens_are_equal_or_not() {
        assert!(is_same("abc", "abc") && !is_same("abc", "abd") && !is_same("abc", "abcd"));
    }

    #[test]
    fn a_token_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        let with = |text: &str, mode: u32| {
            fs::write(&file, text).expect("it can be written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
            read_token(&file).map_err(|error| error.to_string())
        };
        assert_eq!(with("  secret\n", 0o600), Ok("secret".to_owned()));
        assert!(with("secret", 0o644).is_err_and(|error| error.contains("chmod 600")));
        assert!(with(" \n", 0o600).is_err_and(|error| error.contains("empty")));
    }
}
