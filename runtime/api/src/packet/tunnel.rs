//! Tunnels whose inner packet gives the identity: GRE (RFC 2784, 2890), IPv4 in IP (RFC 2003), 6in4 (RFC 4213).

use std::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::EtherType;
use super::{Fragment, IpPacket, protocol, view};

/// Tunnels within tunnels that are entered at most; what is deeper is the payload of the last one entered.
pub const TUNNELS_MAX: usize = 4;

/// An inner packet has more than these bytes, or it is not looked for.
const INNER_LEN_MIN: usize = 20;
const GRE_LEN: usize = 4;
const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const VERSION: u16 = 0x0007;

/// The fixed part of the GRE header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GreHeader {
    /// Which optional fields are there (checksum, routing, key, sequence: the top four bits), version (low three).
    pub flags_version: U16,
    /// Ethernet type of the payload.
    pub protocol: U16,
}

impl GreHeader {
    /// Header length with the optional fields, bytes. `None` for version 1 (PPTP) and for source routes (RFC
    /// 1701), which are not entered.
    pub fn header_len(&self) -> Option<usize> {
        let flags = self.flags_version.get();
        if flags & (VERSION | ROUTING) != 0 {
            return None;
        }
        let fields = [CHECKSUM, KEY, SEQUENCE].into_iter().filter(|bit| flags & bit != 0).count();
        Some(GRE_LEN + fields * 4)
    }
}

/// Offset of the IP header that `outer` carries, `None` when it is no tunnel or carries something else.
pub(crate) fn inner_ip(frame: &[u8], outer: &IpPacket) -> Option<usize> {
    if outer.cut.is_some() || outer.fragment == Fragment::Later {
        return None;
    }
    let start = match outer.protocol {
        protocol::IPIP | protocol::IPV6 => outer.payload,
        protocol::GRE => gre_payload(&frame[..outer.end], outer.payload)?,
        _ => return None,
    };
    (outer.end > start + INNER_LEN_MIN).then_some(start)
}

fn gre_payload(frame: &[u8], offset: usize) -> Option<usize> {
    let header: &GreHeader = view(frame, offset)?;
    let start = offset + header.header_len()?;
    match EtherType(header.protocol.get()) {
        EtherType::IPV4 | EtherType::IPV6 => Some(start),
        _ => None,
    }
}

impl fmt::Display for GreHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, protocol) = (self.flags_version.get() & VERSION, self.protocol.get());
        write!(f, "gre version {version} type {protocol:#06x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gre(flags_version: u16) -> GreHeader {
        GreHeader { flags_version: flags_version.into(), protocol: 0x0800.into() }
    }

    #[test]
    fn each_optional_field_takes_four_bytes() {
        assert_eq!(gre(0).header_len(), Some(4));
        for flag in [CHECKSUM, KEY, SEQUENCE] {
            assert_eq!(gre(flag).header_len(), Some(8));
        }
        assert_eq!(gre(CHECKSUM | KEY | SEQUENCE).header_len(), Some(16));
    }

    #[test]
    fn version_one_and_source_routes_are_not_entered() {
        assert_eq!(gre(KEY | 1).header_len(), None);
        assert_eq!(gre(ROUTING).header_len(), None);
        assert_eq!(gre(1).to_string(), "gre version 1 type 0x0800");
    }
}
