//! Virtual interfaces made for a run. Needs root and the `ip` command.

use anyhow::{Context as _, bail};
use chc_runtime::io::Interface;
use std::fs;
use std::process::Command;

/// Two interfaces that are each other's other end, and are gone when this is.
pub struct Pair {
    /// Their names.
    pub names: [String; 2],
    /// What they are, as they were made.
    pub ends: [Interface; 2],
}

impl Pair {
    /// A pair whose names have this letter.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(letter: char) -> anyhow::Result<Self> {
        let names = [0, 1].map(|end| format!("chc{}{letter}{end}", std::process::id()));
        let [a, b] = &names;
        ip(&["link", "add", a, "type", "veth", "peer", "name", b])?;
        for name in &names {
            // Without addresses nothing is said that is not ours; where there is no IPv6 there is no such file.
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
            ip(&["link", "set", name, "up"])?;
        }
        let ends = [Interface::find(a)?, Interface::find(b)?];
        Ok(Self { names, ends })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The other one may be in a namespace.
        remove(&["link", "del", &self.names[1]]);
    }
}

/// Runs `ip` to remove something.
pub fn remove(arguments: &[&str]) {
    if let Err(error) = ip(arguments) {
        eprintln!("something is still there: {error:#}");
    }
}

/// Runs `ip`.
///
/// # Errors
/// What it says.
pub fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("the ip command is not there")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
