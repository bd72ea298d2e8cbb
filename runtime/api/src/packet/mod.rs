//! Packet headers and the parser.
//!
//! One file per protocol: the header as it is on the wire (a [`zerocopy`] view with network-endian fields), what
//! was validated of it, how it is displayed, tests. [`parse()`] walks them and says what a network function wants
//! to know of a frame: its identity and where the headers are. Views are of any byte slice:
//!
//! ```
//! use chc_api::packet::{self, Ipv4Header, LinkType};
//! # let mut frame = vec![0u8; 54];
//! # frame[12] = 8;
//! # frame[14] = 0x45;
//! let parsed = packet::parse(LinkType::ETHERNET, &frame);
//! if let Some(ip) = packet::view_mut::<Ipv4Header>(&mut frame, usize::from(parsed.l3)) {
//!     ip.ttl = ip.ttl.saturating_sub(1);
//! }
//! ```
//!
//! Nothing here panics on bytes from outside: what is not understood is a [`ParseReason`].

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod link;
pub mod parse;
pub mod tcp;
pub mod tunnel;
pub mod udp;

pub use checksum::{Checksum, ChecksumDelta};
pub use ethernet::{EthernetHeader, MplsLabel, PppoeHeader, VlanTag};
pub use icmp::{IcmpHeader, Quote, icmp_quote};
pub use ipv4::Ipv4Header;
pub use ipv6::{Ipv6FragmentHeader, Ipv6Header};
pub use link::LinkType;
pub use parse::{FragmentId, PacketKind, Parsed, fragment_id, parse};
pub use tcp::TcpHeader;
pub use tunnel::GreHeader;
pub use udp::UdpHeader;

/// IP protocol numbers (IANA) that are treated specially.
pub mod protocol {
    /// Internet control messages, RFC 792.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP, RFC 2003.
    pub const IPIP: u8 = 4;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// Datagram congestion control, RFC 4340.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP (6in4), RFC 4213.
    pub const IPV6: u8 = 41;
    /// Generic routing encapsulation, RFC 2784.
    pub const GRE: u8 = 47;
    /// Internet control messages of IPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
    /// RFC 3828.
    pub const UDP_LITE: u8 = 136;

    /// True when the transport header begins with source and destination port.
    #[inline]
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP | DCCP | UDP_LITE)
    }

    /// Short name for people, where there is one.
    pub const fn name(protocol: u8) -> Option<&'static str> {
        Some(match protocol {
            ICMP => "icmp",
            IPIP => "ipip",
            TCP => "tcp",
            UDP => "udp",
            DCCP => "dccp",
            IPV6 => "6in4",
            GRE => "gre",
            ICMPV6 => "icmpv6",
            SCTP => "sctp",
            UDP_LITE => "udplite",
            _ => return None,
        })
    }
}

/// Why a packet was not understood to its end. It is forwarded unchanged and counted under this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ParseReason {
    /// A link type this parser does not know.
    UnknownLink,
    /// An IEEE 802.3 length instead of an Ethernet type: LLC, no IP.
    Llc,
    /// Some other network protocol (ARP, PPP control, a pseudowire, ...).
    NotIp,
    /// More than [`ethernet::TAGS_MAX`] VLAN tags, MPLS labels and PPPoE headers.
    TooManyTags,
    /// The frame ends inside the link, tag or IP header.
    Truncated,
    /// The IP version is neither 4 nor 6, or the IPv4 header length is below 20 bytes.
    BadIpHeader,
    /// The packet ends inside an IPv6 extension header.
    TruncatedExtension,
    /// More than [`ipv6::EXTENSIONS_MAX`] IPv6 extension headers.
    TooManyExtensions,
    /// The packet ends inside the needed part of the transport header.
    TruncatedTransport,
    /// An ICMP error whose quotation is absent, of the other family or too short for its ports.
    BadQuote,
}

impl ParseReason {
    /// All reasons, in the order of their discriminants: for tables of counters.
    pub const ALL: [ParseReason; 10] = [
        ParseReason::UnknownLink,
        ParseReason::Llc,
        ParseReason::NotIp,
        ParseReason::TooManyTags,
        ParseReason::Truncated,
        ParseReason::BadIpHeader,
        ParseReason::TruncatedExtension,
        ParseReason::TooManyExtensions,
        ParseReason::TruncatedTransport,
        ParseReason::BadQuote,
    ];

    /// Name in counters and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            ParseReason::UnknownLink => "unknown_link",
            ParseReason::Llc => "llc",
            ParseReason::NotIp => "not_ip",
            ParseReason::TooManyTags => "too_many_tags",
            ParseReason::Truncated => "truncated",
            ParseReason::BadIpHeader => "bad_ip_header",
            ParseReason::TruncatedExtension => "truncated_extension",
            ParseReason::TooManyExtensions => "too_many_extensions",
            ParseReason::TruncatedTransport => "truncated_transport",
            ParseReason::BadQuote => "bad_quote",
        }
    }
}

impl fmt::Display for ParseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The header of type `T` at `offset`; `None` when the frame ends before it does.
#[inline]
pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(frame: &[u8], offset: usize) -> Option<&T> {
    Some(T::ref_from_prefix(frame.get(offset..)?).ok()?.0)
}

/// As [`view`], to be written.
#[inline]
pub fn view_mut<T: FromBytes + IntoBytes + KnownLayout + Unaligned>(
    frame: &mut [u8],
    offset: usize,
) -> Option<&mut T> {
    Some(T::mut_from_prefix(frame.get_mut(offset..)?).ok()?.0)
}

/// Network-order number at `offset`, for the parts of headers that may be cut behind it.
#[inline]
pub(crate) fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

/// Whether an IP packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A whole packet; also an IPv6 "atomic" fragment (RFC 6946).
    Whole,
    /// The fragment at offset 0: it has the transport header.
    First,
    /// A fragment without a transport header.
    Later,
}

/// The validated form of an IPv4 or IPv6 header with its options or extension headers. Its addresses lie within
/// the frame; `l3 <= payload <= end <= frame length`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpPacket {
    pub v6: bool,
    /// Offset of the header.
    pub l3: usize,
    /// Offset of what follows the header, its options and extensions.
    pub payload: usize,
    /// Where the packet ends: by its own length field, or where the capture or the packet around it ends.
    pub end: usize,
    /// Protocol of the payload.
    pub protocol: u8,
    pub fragment: Fragment,
    /// Identification of a fragment.
    pub ident: u32,
    /// Set when the extension headers could not be followed to the payload.
    pub cut: Option<ParseReason>,
}

impl IpPacket {
    /// Reads the IP packet at `l3`, going by its version nibble; it may not go beyond `limit`.
    pub fn read(frame: &[u8], l3: usize, limit: usize) -> Result<IpPacket, ParseReason> {
        let frame = &frame[..limit.min(frame.len())];
        match frame.get(l3).ok_or(ParseReason::Truncated)? >> 4 {
            4 => ipv4::read(frame, l3),
            6 => ipv6::read(frame, l3),
            _ => Err(ParseReason::BadIpHeader),
        }
    }

    /// True for the ICMP of this IP version; the other's number is just another protocol.
    #[inline]
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.v6 { protocol::ICMPV6 } else { protocol::ICMP }
    }

    /// The captured payload.
    #[inline]
    pub fn body<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.payload..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_order_with_distinct_names() {
        for (index, reason) in ParseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(ParseReason::ALL[..index].iter().all(|other| other.as_str() != reason.as_str()));
        }
    }

    #[test]
    fn views_end_with_the_frame() {
        let mut frame = [0u8; 28];
        assert!(view::<UdpHeader>(&frame, 20).is_some());
        assert!(view::<UdpHeader>(&frame, 21).is_none());
        assert!(view::<UdpHeader>(&frame, 99).is_none());
        let udp: &mut UdpHeader = view_mut(&mut frame, 20).expect("eight bytes");
        udp.dst_port.set(53);
        assert_eq!(frame[22..24], [0, 53]);
    }
}
