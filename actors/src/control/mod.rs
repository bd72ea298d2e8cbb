//! A running chain, seen and changed from outside.
//!
//! ```text
//!   chc status, scale, ...          a browser, Prometheus, scripts
//!         │ Unix socket, mode 0600        │ HTTP on loopback; changes need the token
//!         └──────────┬────────────────────┘
//!                 [server] ── reads ──► [view] ──► counters of the actors, the store
//!                    └────── changes ─► whoever runs the chain, one at a time
//! ```
//!
//! Both speak HTTP/1.1 with JSON ([`chc_runtime::http`]). `/livez`, `/readyz` and `/metrics` are for machines, `/v1/...` for commands.

pub mod client;
pub mod feed;
pub mod metrics;
pub mod server;
pub mod view;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// An actor dies.
    Kill {
        /// Its name, as `nat/0`.
        actor: String,
    },
    /// A vertex's traffic goes to so many instances.
    Scale {
        /// The vertex.
        vertex: String,
        /// How many.
        instances: u16,
    },
    /// A share of an instance's traffic goes to another.
    Move {
        /// The vertex.
        vertex: String,
        /// The one.
        from: u16,
        /// The other.
        to: u16,
        /// The share, above 0 and at most 1.
        share: f64,
    },
    /// All of an instance's traffic goes to the others.
    Drain {
        /// The instance, as `nat/0`.
        instance: String,
    },
    /// The chain finishes what it has and ends.
    Down {},
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It makes no sense for this chain.
    Mistake(String),
    /// It cannot be made now.
    NotNow(String),
}

/// A change and whoever waits for what comes of it.
pub struct Request {
    /// The change.
    pub change: Change,
    /// Takes the answer, once.
    pub reply: flume::Sender<Result<Value, Refused>>,
}

/// Where the socket of this user's chain is, unless it is said otherwise.
#[must_use]
pub fn usual_socket() -> PathBuf {
    let name = "chc/control.sock";
    // The owner of what is about this process is its user.
    let user = std::fs::metadata("/proc/self").map_or(0, |about| about.uid());
    match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if user == 0 => PathBuf::from("/run").join(name),
        Some(dir) => PathBuf::from(dir).join(name),
        None => std::env::temp_dir().join(format!("chc-{user}/control.sock")),
    }
}
