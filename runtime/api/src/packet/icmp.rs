//! ICMP (RFC 792) and ICMPv6 (RFC 4443), and the packet an ICMP error quotes.
//!
//! An error belongs to the connection of the packet it quotes, and travels against it: it goes to the sender of
//! that packet. A translator rewrites the quotation too (RFC 5508), so it needs to know where it lies.

use std::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::udp::PORTS_NEEDED;
use super::{Fragment, IpPacket};

/// Length of the header, bytes; a quoted packet follows it.
pub const ICMP_LEN: usize = 8;
/// Bytes of an echo header that must be captured: up to the identifier.
pub const ECHO_NEEDED: usize = 6;
/// Bytes of any other message that must be captured: up to the checksum.
pub const ICMP_NEEDED: usize = 4;
/// Offset of the identifier of an echo.
pub const ECHO_IDENTIFIER: usize = 4;

/// The header; `rest` depends on the type.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type; its meaning depends on the IP version.
    pub kind: u8,
    /// Code within the type.
    pub code: u8,
    /// Checksum over the message, with a pseudo-header in ICMPv6 only.
    pub checksum: U16,
    /// First half of what depends on the type: the identifier of an echo.
    pub identifier: U16,
    /// Second half of what depends on the type: the sequence number of an echo.
    pub sequence: U16,
}

impl IcmpHeader {
    /// The IP packet this message quotes, as far as `after`, the bytes behind this header, has it; `None` when
    /// the message is no error or the quotation is not of the message's IP version.
    pub fn quoted<'a>(&self, v6: bool, after: &'a [u8]) -> Option<&'a [u8]> {
        if !is_error(v6, self.kind) {
            return None;
        }
        let ip = IpPacket::read(after, 0, after.len()).ok()?;
        if ip.v6 == v6 { after.get(..ip.end) } else { None }
    }
}

/// True for a message that quotes the packet it is about.
#[inline]
pub const fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

/// True for echo requests and replies, which have an identifier.
#[inline]
pub const fn is_echo(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 128 | 129) } else { matches!(kind, 0 | 8) }
}

/// Where the packet quoted by an ICMP error lies. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the quoted IP header.
    pub l3: u16,
    /// Offset of the quoted transport header, of which at least four bytes are there; 0 when there is none (cut,
    /// or the quoted packet is a later fragment).
    pub l4: u16,
    /// Where the quotation ends at the latest.
    pub end: u16,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// True when the quotation is IPv6.
    pub v6: bool,
}

/// Where the ICMP error at offset `l4` of `frame` quotes a packet; `v6` tells ICMPv6 from ICMP. `None` when there
/// is no error message at `l4`, or its quotation is cut within the IP header or of the other IP version.
/// `frame` should end where the packet does ([`super::Parsed::end`]), or padding may count as quoted.
pub fn icmp_quote(frame: &[u8], l4: u16, v6: bool) -> Option<Quote> {
    let frame = &frame[..frame.len().min(usize::from(u16::MAX))];
    let l4 = usize::from(l4);
    let ip = quoted_packet(frame, l4, frame.len(), v6)?;
    let has_transport =
        ip.fragment != Fragment::Later && ip.cut.is_none() && ip.end - ip.payload >= PORTS_NEEDED;
    Some(Quote {
        l3: ip.l3 as u16,
        l4: if has_transport { ip.payload as u16 } else { 0 },
        end: ip.end as u16,
        protocol: ip.protocol,
        v6,
    })
}

/// The packet quoted by the message at `l4`, which ends at `end`.
pub(crate) fn quoted_packet(frame: &[u8], l4: usize, end: usize, v6: bool) -> Option<IpPacket> {
    if !is_error(v6, *frame.get(l4)?) {
        return None;
    }
    IpPacket::read(frame, l4 + ICMP_LEN, end).ok().filter(|ip| ip.v6 == v6)
}

impl fmt::Display for IcmpHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {} code {} ", self.kind, self.code)?;
        write!(f, "identifier {} sequence {}", self.identifier.get(), self.sequence.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::testing::{icmp_error_v4, udp_v4};
    use crate::packet::view;

    #[test]
    fn quote_points_at_both_quoted_headers() {
        let frame = icmp_error_v4(3, &udp_v4(b"hello"));
        let quote = icmp_quote(&frame, 20, false).expect("an error");
        assert_eq!(quote, Quote { l3: 28, l4: 48, end: 61, protocol: 17, v6: false });
        // The least RFC 792 promises is eight bytes of transport; four hold the ports.
        assert_eq!(icmp_quote(&frame[..52], 20, false).map(|q| q.l4), Some(48));
        assert_eq!(icmp_quote(&frame[..51], 20, false).map(|q| q.l4), Some(0));
        assert_eq!(icmp_quote(&frame[..47], 20, false), None);
    }

    #[test]
    fn only_errors_quote() {
        for kind in 0..=u8::MAX {
            let frame = icmp_error_v4(kind, &udp_v4(b""));
            let is_error = [3, 4, 5, 11, 12].contains(&kind);
            assert_eq!(icmp_quote(&frame, 20, false).is_some(), is_error, "type {kind}");
        }
    }

    #[test]
    fn quotation_of_the_other_version_is_none() {
        let frame = icmp_error_v4(3, &udp_v4(b""));
        assert_eq!(icmp_quote(&frame, 20, true), None);
    }

    #[test]
    fn header_gives_the_quoted_packet_without_what_follows_it() {
        let inner = udp_v4(b"hello");
        let mut frame = icmp_error_v4(11, &inner);
        // RFC 4884 extensions lie behind the quotation.
        frame.extend([0x20; 8]);
        let header: &IcmpHeader = view(&frame, 20).expect("header");
        assert_eq!(header.quoted(false, &frame[28..]), Some(&inner[..]));
        assert_eq!(header.quoted(true, &frame[28..]), None);
        assert_eq!(header.to_string(), "type 11 code 0 identifier 0 sequence 0");
    }
}
