//! The sections of a chain file that are about the world outside the chain: `[io]` and `[api]`.

use super::check::known;
use super::diagnostic::Report;
use super::file::{Node, Value};
use super::model::{ApiConfig, IoConfig, IoMode};
use super::section::Section;
use crate::gateway::Prefix;
use std::net::{IpAddr, SocketAddr};

/// Longest name of an interface, in bytes: the system's limit.
const NAME_LEN_MAX: usize = 15;
/// Most addresses of one side.
const ADDRESSES_MAX: usize = 256;

/// `[io]`.
pub(super) fn io(file: &Section<'_>, report: &mut Report) -> IoConfig {
    let section = known(file, "io", report);
    let defaults = IoConfig::default();
    let io = IoConfig {
        input: section.text("input", report),
        output: section.text("output", report),
        inside: interface(&section, "inside", report),
        outside: interface(&section, "outside", report),
        mode: section.choice("mode", defaults.mode, report),
        inside_addresses: addresses(&section, "inside_addresses", report),
        outside_addresses: addresses(&section, "outside_addresses", report),
        gateways: parsed(&section, "gateways", "[\"192.0.2.1\"]", "an address such as 192.0.2.1", report),
        backend: section.choice("backend", defaults.backend, report),
    };
    for (key, other) in [("inside", "outside"), ("outside", "inside")] {
        if section.get(key).is_some() && section.get(other).is_none() {
            let problem = format!("a chain between interfaces has two, and \"{other}\" is missing");
            report.push(section.place_of(key), section.key(key), problem, format!("add {other} = \"...\""));
        }
    }
    if let (Some(inside), Some(outside)) = (&io.inside, &io.outside)
        && inside == outside
    {
        let problem = format!("\"{outside}\" is the inside, too");
        report.push(section.place_of("outside"), section.key("outside"), problem, "give two interfaces");
    }
    match io.mode {
        IoMode::Bridge => bridge(&section, &io, report),
        IoMode::Routed => routed(&section, &io, report),
    }
    io
}

fn interface(section: &Section<'_>, key: &str, report: &mut Report) -> Option<String> {
    let name = section.text(key, report)?;
    if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(['/', '\0', ' ']) {
        let problem = format!("\"{name}\" is no name of an interface");
        let remedy = format!("give 1 to {NAME_LEN_MAX} bytes, as the system lists it");
        report.push(section.place_of(key), section.key(key), problem, remedy);
    }
    Some(name)
}

/// The texts of a list, read.
fn parsed<T: std::str::FromStr>(
    section: &Section<'_>,
    key: &str,
    example: &str,
    what: &str,
    report: &mut Report,
) -> Vec<T> {
    let mut values = Vec::new();
    for (at, node) in section.list(key, example, report).iter().enumerate() {
        let read = match node {
            Node { value: Value::Text(text), .. } => text.parse().ok(),
            _ => None,
        };
        match read {
            Some(value) => values.push(value),
            None => {
                let problem = format!("{} is not what is expected", node.value.describe());
                report.push(
                    node.place,
                    format!("{}[{at}]", section.key(key)),
                    problem,
                    format!("write {what}"),
                );
            }
        }
    }
    values
}

fn addresses(section: &Section<'_>, key: &str, report: &mut Report) -> Vec<Prefix> {
    let what = "an address with the length of its network's prefix, such as 192.0.2.1/24";
    let addresses = parsed(section, key, "[\"192.0.2.1/24\"]", what, report);
    if addresses.len() > ADDRESSES_MAX {
        let problem = format!("{} addresses are more than {ADDRESSES_MAX}", addresses.len());
        report.push(section.place_of(key), section.key(key), problem, "give fewer");
    }
    addresses
}

fn bridge(section: &Section<'_>, io: &IoConfig, report: &mut Report) {
    for (key, is_empty) in [
        ("inside_addresses", io.inside_addresses.is_empty()),
        ("outside_addresses", io.outside_addresses.is_empty()),
        ("gateways", io.gateways.is_empty()),
    ] {
        if !is_empty {
            let problem = "a bridge has no addresses of its own";
            report.push(
                section.place_of(key),
                section.key(key),
                problem,
                "set mode = \"routed\", or remove it",
            );
        }
    }
}

fn routed(section: &Section<'_>, io: &IoConfig, report: &mut Report) {
    let sides = [("inside_addresses", &io.inside_addresses), ("outside_addresses", &io.outside_addresses)];
    for (key, _) in sides.iter().filter(|(_, addresses)| addresses.is_empty()) {
        let remedy = format!("add {key} = [\"ADDRESS/PREFIX\"]");
        report.push(
            section.place_of("mode"),
            section.key(key),
            "a router needs an address on each side",
            remedy,
        );
    }
    let all = || io.inside_addresses.iter().chain(&io.outside_addresses);
    for (at, gateway) in io.gateways.iter().enumerate() {
        let key = format!("{}[{at}]", section.key("gateways"));
        let mut problem = |problem: &str, remedy: &str| {
            report.push(section.place_of("gateways"), key.clone(), format!("{gateway} {problem}"), remedy);
        };
        if !all().any(|prefix| prefix.contains(*gateway)) {
            problem(
                "is on neither side's wire",
                "give an address in a network of one of the router's addresses",
            );
        }
        if all().any(|prefix| prefix.address == *gateway) {
            problem("is the router's own", "give the next router's");
        }
        if io.gateways[..at].iter().any(|other: &IpAddr| other.is_ipv4() == gateway.is_ipv4()) {
            problem("is the second gateway of its family", "give one of each");
        }
    }
}

/// `[api]`.
pub(super) fn api(file: &Section<'_>, report: &mut Report) -> ApiConfig {
    let section = known(file, "api", report);
    let listen = section.text("listen", report).and_then(|text| {
        let address = text.parse::<SocketAddr>().ok().filter(|address| address.ip().is_loopback());
        if address.is_none() {
            let problem = format!("\"{text}\" is no loopback address with a port");
            let remedy = "write listen = \"127.0.0.1:9180\"";
            report.push(section.place_of("listen"), section.key("listen"), problem, remedy);
        }
        address
    });
    let token_file = section.text("token_file", report);
    if token_file.is_some() && section.get("listen").is_none() {
        let problem = "a token is for HTTP, and there is none";
        report.push(
            section.place_of("token_file"),
            section.key("token_file"),
            problem,
            "add listen, or remove it",
        );
    }
    ApiConfig { socket: section.text("socket", report), listen, token_file }
}
