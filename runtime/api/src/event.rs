//! Events a network function reports: alerts, translations, flows. They are outputs on an implicit
//! edge to the egress, named by (vertex, position, index) and delivered once like packets.

use crate::identity::{Direction, FlowKey};
use core::net::IpAddr;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A detector's conclusion.
    Alert {
        /// Short name of what was detected.
        signature: &'static str,
        /// Its class, as in Suricata's classification.
        category: &'static str,
        /// 1 is the most severe.
        severity: u8,
    },
    /// A step of a host towards a detector's conclusion.
    Stage {
        /// What was seen.
        name: &'static str,
        /// The host's part in it.
        role: &'static str,
    },
    /// A connection was assigned to a server, or that ended.
    Flow {
        /// True when it was assigned.
        opened: bool,
        /// Address of the server.
        server: IpAddr,
    },
    /// An address translation began or ended.
    Nat {
        /// True when the translation began.
        opened: bool,
        /// External IPv4 address.
        external: u32,
        /// External port or ICMP identifier.
        port: u16,
    },
}

/// One event. The addresses are the connection's identity as seen from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The connection it happened on.
    pub key: FlowKey,
    /// Which endpoint of the connection is reported as source.
    pub direction: Direction,
}
