//! The server: a connection carries one request. Requests are bounded in size and time, connections in number: what comes
//! beyond waits in the system's queue. Each is answered on a thread of its own, and may wait there.

use super::{Endpoints, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{StatusCode, http};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Longest body and longest head, in bytes.
const BODY_MAX: usize = 16 << 10;
const HEAD_MAX: usize = 16 << 10;
/// Most connections at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a request may take to come in, and its answer to be made and to go out.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// How long answers may take that are under way when the server ends.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody has the endpoint.
    #[error("{0}: it is in use; end who has it, or give this one its own")]
    Taken(String),
    /// The system refuses.
    #[error("{0}: {1}")]
    Refused(String, #[source] io::Error),
}

/// Answers requests.
type Handler = Arc<dyn Fn(Request) -> Response + Send + Sync>;

/// Answers until it is dropped.
pub struct Server {
    sockets: Vec<PathBuf>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens; `handler` makes the answers.
    ///
    /// # Errors
    /// If an endpoint is taken or not permitted.
    pub fn start(
        endpoints: &Endpoints,
        handler: impl Fn(Request) -> Response + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| StartError::Refused(what, error)
        };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(CONNECTIONS_MAX).build();
        let runtime = runtime.map_err(failed("control"))?;
        let handler: Handler = Arc::new(handler);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut server = Self { sockets: Vec::new(), end: None, thread: None };
        let mut loops = Vec::new();
        let guard = runtime.enter();
        for path in &endpoints.sockets {
            let listener = bind(path)?;
            server.sockets.push(path.clone());
            let listener =
                listener.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(listener));
            let listener = Arc::new(listener.map_err(failed(&path.display().to_string()))?);
            let next = move || {
                let listener = listener.clone();
                async move { Ok(listener.accept().await?.0) }
            };
            loops.push(runtime.spawn(accept(next, handler.clone(), room.clone(), true)));
        }
        if let Some(address) = endpoints.listen {
            let listener = std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
                ErrorKind::AddrInUse => StartError::Taken(address.to_string()),
                _ => StartError::Refused(address.to_string(), error),
            })?;
            let listener =
                listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
            let listener = Arc::new(listener.map_err(failed(&address.to_string()))?);
            let next = move || {
                let listener = listener.clone();
                async move { Ok(listener.accept().await?.0) }
            };
            loops.push(runtime.spawn(accept(next, handler, room.clone(), false)));
        }
        drop(guard);
        let (end, ended) = oneshot::channel();
        let serve = move || {
            runtime.block_on(async {
                let _ = ended.await;
                loops.iter().for_each(tokio::task::JoinHandle::abort);
                // Answers are under way, such as that to who asked for the end.
                let all = room.acquire_many(CONNECTIONS_MAX as u32);
                let _ = tokio::time::timeout(FAREWELL_WITHIN, all).await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve);
        server.thread = Some(thread.map_err(failed("control"))?);
        server.end = Some(end);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // It may have ended.
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for socket in &self.sockets {
            let _ = fs::remove_file(socket);
        }
    }
}

/// Binds a socket that only its owner can use.
fn bind(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |error| StartError::Refused(path.display().to_string(), error);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Err(StartError::Taken(path.display().to_string()));
            }
            // What a server that died has left behind.
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path)
        }
        other => other,
    };
    let listener = bound.map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves connections as they come, as long as there is room.
async fn accept<S, F>(next: impl Fn() -> F, handler: Handler, room: Arc<Semaphore>, is_owner: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>>,
{
    while let Ok(permit) = room.clone().acquire_owned().await {
        match next().await {
            Ok(stream) => drop(tokio::spawn(serve(stream, handler.clone(), is_owner, permit))),
            Err(error) => {
                // The system has no descriptor left: what is open must end first.
                tracing::warn!("a connection cannot be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    handler: Handler,
    is_owner: bool,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(answer(request, &handler, is_owner).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(ANSWER_WITHIN, connection).await {
        tracing::debug!("a request was not answered: {error}");
    }
}

async fn answer(
    request: http::Request<Incoming>,
    handler: &Handler,
    is_owner: bool,
) -> http::Response<Full<Bytes>> {
    let plain = |status, text: &str| {
        let body = format!("{text}\n").into_bytes();
        Response { status, content_type: "text/plain", body }
    };
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX).collect();
    let response = match tokio::time::timeout(REQUEST_WITHIN, body).await {
        Err(_) => plain(StatusCode::REQUEST_TIMEOUT, "the request did not come in time"),
        Ok(Err(_)) => plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long"),
        Ok(Ok(body)) => {
            let token = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            let request = Request {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().map(str::to_owned),
                token: token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
                is_owner,
                body: body.to_bytes().to_vec(),
            };
            let handler = handler.clone();
            let made = tokio::task::spawn_blocking(move || handler(request)).await;
            made.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made"))
        }
    };
    let mut sent = http::Response::new(Full::new(Bytes::from(response.body)));
    *sent.status_mut() = response.status;
    sent.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    sent
}

#[cfg(test)]
mod tests {
    use super::super::{AskError, Method, ask};
    use super::*;

    fn echo(request: Request) -> Response {
        assert!(request.path != "/panic", "on purpose");
        let body = format!("{} {} {:?} {}", request.method, request.path, request.query, request.is_owner);
        Response { status: StatusCode::OK, content_type: "text/plain", body: body.into_bytes() }
    }

    #[test]
    fn a_request_is_answered_until_the_server_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("deep/control.sock");
        let endpoints = Endpoints { sockets: vec![socket.clone()], listen: None };
        let server = Server::start(&endpoints, echo).expect("it starts");
        let (status, body) = ask(&socket, Method::GET, "/a?b=c", Vec::new()).expect("it answers");
        assert_eq!((status, body.as_slice()), (StatusCode::OK, &b"GET /a Some(\"b=c\") true"[..]));
        assert_eq!(ask(&socket, Method::GET, "/panic", Vec::new()).expect("it answers").0.as_u16(), 500);
        assert!(matches!(Server::start(&endpoints, echo), Err(StartError::Taken(_))));
        drop(server);
        assert!(matches!(ask(&socket, Method::GET, "/", Vec::new()), Err(AskError::NoServer(..))));
        // What one that died has left behind is no hindrance.
        drop(UnixListener::bind(&socket).expect("it is free"));
        drop(Server::start(&endpoints, echo).expect("it starts"));
    }
}
