//! Signals that end a process.

use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Calls `end` at the first SIGINT or SIGTERM; the next one ends the process at once.
///
/// # Errors
/// If the system refuses.
pub fn on_end(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    drop(guard);
    let wait = move || {
        runtime.block_on(async {
            let next = async || {
                futures_util::future::select(Box::pin(interrupt.recv()), Box::pin(terminate.recv())).await;
            };
            let mut next = next;
            next().await;
            end();
            next().await;
        });
        std::process::exit(130);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}
