//! The keys of the translator.

use super::{Filtering, Idle};
use crate::config::{ConfigProblem, Keys, Prefix};
use chc_api::Consistency;
use core::net::Ipv4Addr;
use serde_json::Value;
use std::time::Duration;

/// The private ranges of RFC 1918.
const PRIVATE: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];

/// The keys of the translator, checked.
#[derive(Clone, Debug)]
pub struct NatConfig {
    pub(super) internal: Vec<Prefix>,
    /// External addresses, as configured.
    pub external: Vec<Ipv4Addr>,
    /// Lowest and highest external port.
    pub ports: (u16, u16),
    /// Whether connections keep their port while it is free.
    pub port_preservation: bool,
    /// Who may use a port that all connections of an endpoint have in common; `None`: each has its own.
    pub filtering: Option<Filtering>,
    /// How long a translation may be idle.
    pub idle: Idle,
    /// How long a closed TCP connection keeps its translation.
    pub linger: Duration,
    /// In which order ports are taken.
    pub port_order: Consistency,
    /// Whether who gets no port is told by ICMP.
    pub refuse_with_icmp: bool,
}

impl NatConfig {
    /// Reads the keys, for a vertex of `slots` slots.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(config: &Value, slots: u16) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let internal = read_internal(&mut keys);
        let external = read_external(&mut keys, &internal);
        let ports = keys.ports("ports", (1024, u16::MAX));
        let held = u32::from(ports.1 - ports.0) + 1;
        if held < u32::from(slots) {
            keys.problem(
                "ports",
                format!("{}-{} holds {held} ports for {slots} slots", ports.0, ports.1),
                "give every slot at least one port: widen the range",
            );
        }
        let filtering = read_filtering(&mut keys);
        let orders = [("serial", Consistency::Serial), ("clock", Consistency::Clock)];
        let read = Self {
            internal,
            external,
            ports,
            port_preservation: keys.flag("port_preservation", false),
            filtering,
            idle: read_idle(&mut keys),
            linger: keys.seconds("linger_s", 10.0),
            port_order: keys.choice("port_order", &orders, Consistency::Serial),
            refuse_with_icmp: keys.flag("refuse_with_icmp", false),
        };
        let problems = keys.finish();
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }
}

/// The words of RFC 4787, sections 4.1 and 5.
fn read_filtering(keys: &mut Keys<'_>) -> Option<Filtering> {
    let own = "address_and_port_dependent";
    let is_shared = keys.choice("mapping", &[("endpoint_independent", true), (own, false)], false);
    let choices = [
        ("endpoint_independent", Filtering::EndpointIndependent),
        ("address_dependent", Filtering::AddressDependent),
        (own, Filtering::AddressAndPortDependent),
    ];
    let filtering = keys.choice("filtering", &choices, Filtering::AddressAndPortDependent);
    if !is_shared && filtering != Filtering::AddressAndPortDependent {
        keys.problem(
            "filtering",
            "a port that is one connection's has no other uses",
            "set mapping = \"endpoint_independent\", or leave this out",
        );
    }
    is_shared.then_some(filtering)
}

/// With `idle_s`, it is that of all that have no key of their own; without, RFC 5382 (REQ-5), RFC 4787 (REQ-5) and
/// RFC 5508 (REQ-2) say what is.
fn read_idle(keys: &mut Keys<'_>) -> Idle {
    let all = keys.has("idle_s").then(|| keys.seconds("idle_s", 300.0));
    let mut seconds = |key, default| keys.seconds(key, all.map_or(default, |all| all.as_secs_f64()));
    Idle {
        tcp: seconds("tcp_idle_s", 7440.0),
        transitory: seconds("tcp_transitory_s", 240.0),
        udp: seconds("udp_idle_s", 300.0),
        icmp: seconds("icmp_idle_s", 60.0),
    }
}

fn read_internal(keys: &mut Keys<'_>) -> Vec<Prefix> {
    let texts = keys.texts("internal").unwrap_or(PRIVATE.to_vec());
    let mut internal: Vec<Prefix> = Vec::new();
    for text in texts {
        match Prefix::parse(text) {
            Ok(prefix) => {
                if let Some(other) = internal.iter().find(|other| other.overlaps(&prefix)) {
                    let problem = format!("{prefix} overlaps {other}");
                    keys.problem("internal", problem, "keep the wider one of the two");
                }
                internal.push(prefix);
            }
            Err((problem, remedy)) => keys.problem("internal", problem, remedy),
        }
    }
    internal
}

fn read_external(keys: &mut Keys<'_>, internal: &[Prefix]) -> Vec<Ipv4Addr> {
    let texts = keys.texts("external");
    if texts.as_ref().is_none_or(Vec::is_empty) {
        keys.problem(
            "external",
            "no external address is given",
            "write external = [\"203.0.113.1\"] or more",
        );
    }
    let mut external = Vec::new();
    for text in texts.unwrap_or_default() {
        let Ok(address) = text.parse::<Ipv4Addr>() else {
            keys.problem("external", format!("\"{text}\" is no IPv4 address"), "write it as 203.0.113.1");
            continue;
        };
        if external.contains(&address) {
            keys.problem("external", format!("{address} is there twice"), "write each address once");
        }
        if let Some(prefix) = internal.iter().find(|prefix| prefix.contains(address.to_bits())) {
            let problem = format!("{address} lies in internal prefix {prefix}");
            keys.problem("external", problem, "give an address outside, or narrow the prefix");
        }
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            keys.problem("external", format!("{address} cannot be a host's"), "give a unicast address");
        }
        external.push(address);
    }
    external
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(config: Value) -> Vec<String> {
        NatConfig::read(&config, 64).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_private_ranges_are_internal_by_default() {
        let read = NatConfig::read(&json!({"external": ["203.0.113.1"]}), 64).unwrap();
        let shown: Vec<String> = read.internal.iter().map(ToString::to_string).collect();
        assert_eq!(shown, PRIVATE);
        assert_eq!((read.ports, read.filtering), ((1024, 65535), None));
    }

    #[test]
    fn external_addresses_are_needed_unique_and_outside() {
        assert_eq!(problems(json!({})).len(), 1);
        let found = problems(json!({"external": ["203.0.113.1", "203.0.113.1", "10.0.0.1", "x"]}));
        let said = ["is there twice", "lies in internal prefix 10.0.0.0/8", "is no IPv4 address"];
        assert_eq!(found.len(), said.len());
        assert!(found.iter().zip(said).all(|(found, said)| found.contains(said)), "{found:?}");
    }

    #[test]
    fn internal_prefixes_must_not_overlap() {
        let found = problems(json!({"external": ["1.2.3.4"], "internal": ["10.0.0.0/8", "10.1.0.0/16"]}));
        assert_eq!(found, ["internal: 10.1.0.0/16 overlaps 10.0.0.0/8; keep the wider one of the two"]);
    }

    #[test]
    fn what_is_idle_is_kept_as_long_as_the_rfcs_say_unless_one_key_says_otherwise_for_all() {
        let idle = |more: Value| {
            let mut config = json!({"external": ["203.0.113.1"]});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let Idle { tcp, transitory, udp, icmp } = NatConfig::read(&config, 64).unwrap().idle;
            [tcp, transitory, udp, icmp].map(|idle| idle.as_secs())
        };
        assert_eq!(idle(json!({})), [7440, 240, 300, 60]);
        assert_eq!(idle(json!({"idle_s": 9})), [9; 4]);
        assert_eq!(idle(json!({"idle_s": 9, "tcp_idle_s": 99, "icmp_idle_s": 5})), [99, 9, 9, 5]);
    }

    #[test]
    fn only_a_port_that_is_shared_can_be_filtered_less() {
        let found = problems(json!({"external": ["203.0.113.1"], "filtering": "address_dependent"}));
        assert!(found.len() == 1 && found[0].contains("mapping = \"endpoint_independent\""), "{found:?}");
        let shared = json!({"external": ["203.0.113.1"], "mapping": "endpoint_independent"});
        let filtering = NatConfig::read(&shared, 64).unwrap().filtering;
        assert_eq!(filtering, Some(Filtering::AddressAndPortDependent));
    }

    #[test]
    fn every_slot_needs_a_port() {
        let found = problems(json!({"external": ["1.2.3.4"], "ports": "2000-2062"}));
        assert_eq!(
            found,
            [
                "ports: 2000-2062 holds 63 ports for 64 slots; give every slot at least one port: widen the range"
            ]
        );
        assert!(NatConfig::read(&json!({"external": ["1.2.3.4"], "ports": "2000-2063"}), 64).is_ok());
    }
}
