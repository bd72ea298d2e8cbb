//! `chc doctor`: what this machine offers to a chain between live interfaces, and what to do about what it does not.

use super::{Exit, Overrides, config, report};
use crate::config::{Backend, ChainConfig};
use chc_runtime::arbiter::cores;
use chc_runtime::io::af_packet::Receiver;
use chc_runtime::io::netmap::{self, DEVICE};
use chc_runtime::io::{Interface, OpenError};
use clap::Args;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// What is to be looked at.
#[derive(Args)]
pub struct DoctorArgs {
    /// A chain file whose interfaces, threads and paths are looked at as well.
    chain: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one JSON object instead of a list.
    #[arg(long)]
    json: bool,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Warning,
    /// A chain cannot be brought up like this.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    state: State,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Serialize)]
struct Findings {
    ready: bool,
    checks: Vec<Finding>,
}

fn good(what: &str, found: impl Into<String>) -> Finding {
    Finding { what: what.into(), state: State::Good, found: found.into(), remedy: None }
}

fn warning(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what: what.into(), state: State::Warning, found: found.into(), remedy: Some(remedy.into()) }
}

fn bad(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what: what.into(), state: State::Bad, found: found.into(), remedy: Some(remedy.into()) }
}

/// Runs the command.
pub fn execute(args: &DoctorArgs) -> Result<(), Exit> {
    let config = args.chain.as_ref().map(|chain| config(chain, &args.overrides.set)).transpose()?;
    let mut checks = vec![capabilities(), cpus(config.as_ref()), receive_buffer()];
    checks.extend(interfaces(config.as_ref()));
    checks.extend([af_xdp(), netmap()]);
    let ready = checks.iter().all(|check| check.state != State::Bad);
    let findings = Findings { ready, checks };
    if args.json {
        report::print_json(&findings)?
    } else {
        report::print_text(&table(&findings))?
    }
    if ready { Ok(()) } else { Err(Exit::No) }
}

fn table(findings: &Findings) -> String {
    let width = findings.checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
    let line = |check: &Finding| {
        let state = match check.state {
            State::Good => "good   ",
            State::Warning => "warning",
            State::Bad => "BAD    ",
        };
        let remedy = check.remedy.as_ref().map_or(String::new(), |remedy| format!("; {remedy}"));
        format!("{state}  {:width$}  {}{remedy}\n", check.what, check.found)
    };
    findings.checks.iter().map(line).collect()
}

/// A value of the system's, as text.
fn system(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Whether this process has the capabilities that interfaces need.
fn capabilities() -> Finding {
    const WHAT: &str = "capabilities";
    const NEEDED: [(u32, &str); 2] = [(12, "cap_net_admin"), (13, "cap_net_raw")];
    let status = system("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(bits) = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()) else {
        return warning(WHAT, "the system does not say which there are", "try chc up");
    };
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| bits & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return good(WHAT, "cap_net_raw and cap_net_admin");
    }
    let remedy = "run as root, or setcap cap_net_raw,cap_net_admin=ep on the binary";
    bad(WHAT, format!("without {}", missing.join(" and ")), remedy)
}

/// Whether there is a core for each thread.
fn cpus(config: Option<&ChainConfig>) -> Finding {
    const WHAT: &str = "cores";
    let available = cores().len();
    let Some(config) = config else { return good(WHAT, format!("{available} to use")) };
    let arbiters = usize::from(config.runtime.arbiters);
    if arbiters > available {
        let remedy = format!("set runtime.arbiters to {available} at most");
        return warning(WHAT, format!("{available} for {arbiters} arbiters"), remedy);
    }
    good(WHAT, format!("{available} for {arbiters} arbiters"))
}

/// Whether the system lets a burst wait.
fn receive_buffer() -> Finding {
    const WHAT: &str = "receive buffer";
    const WANTED: u64 = 32 << 20;
    match system("/proc/sys/net/core/rmem_max").and_then(|text| text.parse::<u64>().ok()) {
        Some(most) if most < WANTED => {
            // With cap_net_admin the limit does not count.
            let found = format!("at most {} KiB without cap_net_admin", most >> 10);
            good(WHAT, found)
        }
        Some(_) => good(WHAT, "32 MiB"),
        None => warning(WHAT, "the system does not say how large it may be", "look at net.core.rmem_max"),
    }
}

/// The interfaces of the chain, or those there are.
fn interfaces(config: Option<&ChainConfig>) -> Vec<Finding> {
    let named = config.and_then(|config| {
        let sides = [("inside", &config.io.inside), ("outside", &config.io.outside)];
        let named = sides.map(|(side, name)| Some((side, name.clone()?, config.io.backend)));
        named.into_iter().collect::<Option<Vec<_>>>()
    });
    match named {
        Some(named) => named.iter().map(|(side, name, backend)| interface(side, name, *backend)).collect(),
        None => {
            let names = Interface::names();
            let found: Vec<Interface> = names.iter().filter_map(|name| Interface::find(name).ok()).collect();
            let all: Vec<String> = found.iter().map(|interface| interface.name.clone()).collect();
            vec![if found.len() < 2 {
                let found = format!("Ethernet: {}", if all.is_empty() { "none" } else { &all[0] });
                bad("interfaces", found, "a chain lies between two; add one (ip link add type veth, say)")
            } else {
                good("interfaces", format!("Ethernet: {}", all.join(", ")))
            }]
        }
    }
}

/// One interface of a chain.
fn interface(side: &str, name: &str, backend: Backend) -> Finding {
    let what = format!("{side} {name}");
    if netmap::port::is_netmaps_own(name) && matches!(backend, Backend::Auto | Backend::Netmap) {
        return if let Some(interface) = netmap::port::host_of(name)
            && Interface::leaves_checksums(interface)
        {
            let found = format!("the machine leaves checksums to the hardware of {interface}");
            bad(&what, found, format!("netmap drops such frames: ethtool -K {interface} tx off txvlan off"))
        } else if Path::new(DEVICE).exists() {
            good(&what, "a port of netmap's own")
        } else {
            let remedy = format!("load netmap's module, or set io.{side} to an interface");
            bad(&what, format!("a port of netmap's own, and no {DEVICE}"), remedy)
        };
    }
    let interface = match Interface::find(name) {
        Ok(interface) => interface,
        Err(OpenError::NoInterface { .. }) if backend == Backend::Tap => {
            return good(&what, "is made when the chain is brought up");
        }
        Err(error) => return bad(&what, error.to_string(), format!("set io.{side} to one that exists")),
    };
    if let Err(error) = Receiver::open(&interface) {
        return bad(&what, error.to_string(), "see the capabilities above");
    }
    let found = format!("{}, MTU {}", interface.mac, interface.mtu);
    if !interface.is_up {
        return warning(&what, format!("{found}, down"), format!("ip link set {name} up"));
    }
    let addresses: Vec<String> = interface.addresses().iter().map(ToString::to_string).collect();
    // By netmap the machine gets nothing of what comes there.
    let is_alone = matches!(backend, Backend::Auto | Backend::Netmap) && Path::new(DEVICE).exists();
    if addresses.is_empty() || is_alone {
        return good(&what, found);
    }
    let remedy = format!("the machine answers there, too; ip addr flush dev {name}");
    warning(&what, format!("{found}, with {}", addresses.join(", ")), remedy)
}

/// Whether the kernel has AF_XDP.
fn af_xdp() -> Finding {
    match chc_runtime::io::af_xdp::is_there() {
        Ok(()) => {
            good("af_xdp", "the kernel has it; io.backend = \"af_xdp\" uses it, and needs cap_bpf, too")
        }
        Err(error) => good("af_xdp", format!("not usable ({error}); packets come by packet sockets")),
    }
}

/// Whether netmap is there.
fn netmap() -> Finding {
    if Path::new(DEVICE).exists() {
        good("netmap", format!("{DEVICE} is there; io.backend = \"netmap\" uses it"))
    } else {
        good("netmap", format!("no {DEVICE}; packets come by packet sockets"))
    }
}
