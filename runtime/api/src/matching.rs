//! Which packets an edge takes or a function speaks of, by protocol and port: `tcp/80,443`.
//!
//! ```text
//! match  = term { " " term }            any of the terms
//! term   = protocol [ "/" ports ]       tcp, udp, sctp, icmp (both families), or a number
//! ports  = range { "," range }          any of the ranges
//! range  = port [ "-" port ]
//! ```
//!
//! A port matches if either end of the connection has it, so both directions of a connection, and ICMP
//! errors about it, always go the same way.

use crate::identity::FlowKey;
use crate::packet::protocol;
use std::fmt;
use std::str::FromStr;

/// A parsed match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    text: String,
    /// A protocol with a range of ports each, so that a packet is held against few bytes in a row.
    rules: Vec<Rule>,
}

/// One protocol with one range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    protocol: u8,
    first: u16,
    last: u16,
}

/// Why a text is not a match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// Nothing was written.
    #[error("it is empty")]
    Empty,
    /// A protocol that is not known.
    #[error("unknown protocol \"{0}\"")]
    Protocol(String),
    /// Ports of a protocol that has none.
    #[error("{0} has no ports")]
    NoPorts(String),
    /// A port that is not a number up to 65535, or a range that goes backwards.
    #[error("\"{0}\" is not a port or a range of ports")]
    Ports(String),
}

/// How to write one.
pub const MATCH_REMEDY: &str = "write a protocol and ports, e.g. \"tcp/21\" or \"tcp/80,443 udp/6000-6100\"";

impl Match {
    /// Whether packets of this connection match.
    #[must_use]
    pub fn takes(&self, key: &FlowKey) -> bool {
        let (protocol, (low, high)) = (key.protocol(), key.ports());
        self.rules.iter().any(|rule| rule.takes(protocol, low) || rule.takes(protocol, high))
            && !key.is_none()
    }

    /// Whether a packet of this protocol to or from this port matches.
    #[inline]
    #[must_use]
    pub fn has_port(&self, protocol: u8, port: u16) -> bool {
        self.rules.iter().any(|rule| rule.takes(protocol, port))
    }

    /// The text it was made from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Rule {
    #[inline]
    fn takes(&self, protocol: u8, port: u16) -> bool {
        self.protocol == protocol && self.first <= port && port <= self.last
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Match {
    type Err = MatchError;

    fn from_str(text: &str) -> Result<Self, MatchError> {
        let mut rules = Vec::new();
        for term in text.split_whitespace() {
            rules.extend(rules_of(term)?);
        }
        if rules.is_empty() {
            return Err(MatchError::Empty);
        }
        Ok(Self { text: text.to_owned(), rules })
    }
}

fn rules_of(text: &str) -> Result<Vec<Rule>, MatchError> {
    let (name, ports) = text.split_once('/').map_or((text, None), |(name, ports)| (name, Some(ports)));
    let protocols = match name {
        "tcp" => vec![protocol::TCP],
        "udp" => vec![protocol::UDP],
        "sctp" => vec![protocol::SCTP],
        "icmp" => vec![protocol::ICMP, protocol::ICMPV6],
        number => vec![number.parse().map_err(|_| MatchError::Protocol(name.to_owned()))?],
    };
    let of_all =
        |(first, last)| protocols.iter().map(move |protocol| Rule { protocol: *protocol, first, last });
    let Some(ports) = ports else { return Ok(of_all((0, u16::MAX)).collect()) };
    if !protocols.iter().all(|p| protocol::has_ports(*p)) {
        return Err(MatchError::NoPorts(name.to_owned()));
    }
    let ranges: Vec<(u16, u16)> = ports.split(',').map(range).collect::<Result<_, _>>()?;
    Ok(ranges.into_iter().flat_map(of_all).collect())
}

fn range(text: &str) -> Result<(u16, u16), MatchError> {
    let wrong = || MatchError::Ports(text.to_owned());
    let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err(wrong()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: u8, a: u16, b: u16) -> FlowKey {
        FlowKey::v4(protocol, 1, a, 2, b).0
    }

    #[test]
    fn a_port_matches_at_either_end() {
        let web: Match = "tcp/80,443 udp/6000-6100".parse().unwrap();
        assert!(web.takes(&key(6, 40_000, 443)) && web.takes(&key(6, 80, 40_000)));
        assert!(!web.takes(&key(6, 40_000, 6050)) && web.takes(&key(17, 40_000, 6100)));
        assert!(!web.takes(&key(17, 40_000, 80)) && !web.takes(&FlowKey::NONE));
    }

    #[test]
    fn a_protocol_alone_takes_all_its_packets() {
        let any: Match = "icmp 47".parse().unwrap();
        assert!(any.takes(&key(1, 0, 7)) && any.takes(&key(47, 0, 0)) && !any.takes(&key(6, 1, 2)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| text.parse::<Match>().unwrap_err();
        assert_eq!(wrong("  "), MatchError::Empty);
        assert_eq!(wrong("tpc/80"), MatchError::Protocol("tpc".into()));
        assert_eq!(wrong("icmp/3"), MatchError::NoPorts("icmp".into()));
        assert_eq!(wrong("tcp/80-70"), MatchError::Ports("80-70".into()));
        assert_eq!(wrong("tcp/"), MatchError::Ports(String::new()));
    }
}
