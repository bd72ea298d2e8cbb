//! What a service tells the system's manager (systemd's notify protocol), and what a process gives up once it has what it
//! needs. Without a manager nothing is told.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use sd_notify::NotifyState;
use std::io;
use std::time::Duration;

/// It does what it is there for.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It has begun to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// It is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Within which time it must say so again, if it must.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}

/// Gives up every capability of this thread and of those it will start, but for that to listen at ports below 1024 if it
/// `listens_low`, and, if it is root, for root's way with the files of others: it may have been told to write into a user's
/// directory. None can be got again. To be called before there are other threads.
///
/// # Errors
/// If the system refuses.
pub fn give_up_privileges(listens_low: bool) -> io::Result<()> {
    let mut keep = CapabilitySet::DAC_OVERRIDE;
    keep.set(CapabilitySet::NET_BIND_SERVICE, listens_low);
    let held = rustix::thread::capabilities(None)?;
    let left = CapabilitySets {
        effective: held.effective & keep,
        permitted: held.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    set_no_new_privs(true)?;
    Ok(set_capabilities(None, left)?)
}
