//! HTTP/1.1 for control and monitoring: a server over Unix sockets and loopback, and a client over a Unix socket.

mod client;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use client::{AskError, ask};
pub use hyper::{Method, StatusCode};
pub use server::{Server, StartError};

/// Where a server listens.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Unix sockets, for their owner alone.
    pub sockets: Vec<PathBuf>,
    /// An address, for everybody who reaches it.
    pub listen: Option<SocketAddr>,
}

/// A request that came in whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be done.
    pub method: Method,
    /// With what.
    pub path: String,
    /// What stands behind the question mark, if there is one.
    pub query: Option<String>,
    /// The token it carries (`Authorization: Bearer`).
    pub token: Option<String>,
    /// Whether it came by a Unix socket, from the socket's owner.
    pub is_owner: bool,
    /// Its body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// How it went.
    pub status: StatusCode,
    /// The type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}
