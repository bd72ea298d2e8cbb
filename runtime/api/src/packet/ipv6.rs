//! IPv6 and its extension headers, RFC 8200.

use core::net::Ipv6Addr;
use std::fmt;

use zerocopy::byteorder::network_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fragment, IpPacket, ParseReason, be16, view};

/// Length of the header without extensions, bytes.
pub const IPV6_LEN: usize = 40;
/// Extension headers that are followed at most.
pub const EXTENSIONS_MAX: usize = 16;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// Protocol number of the fragment header.
pub const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const FRAGMENT_LEN: usize = 8;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: U32,
    /// Length of what follows this header, bytes; 0 in a jumbogram.
    pub payload_len: U16,
    /// Protocol of the payload or number of the first extension header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: U128,
    /// Destination address.
    pub dst: U128,
}

/// The fragment extension header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6FragmentHeader {
    /// Protocol of the payload or number of the next extension header.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (13 bits), reserved (2), more fragments (1).
    pub offset_more: U16,
    /// Identification of the fragments of one packet.
    pub ident: U32,
}

impl Ipv6Header {
    /// Source address.
    pub fn src_addr(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.src.get())
    }

    /// Destination address.
    pub fn dst_addr(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.dst.get())
    }
}

impl Ipv6FragmentHeader {
    /// Offset of this fragment in its packet, bytes.
    pub fn offset(&self) -> usize {
        usize::from(self.offset_more.get() & 0xfff8)
    }

    /// True when more fragments follow.
    pub fn more(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }
}

/// Validates the header at `l3` and follows its extensions; `frame` ends where the packet must.
pub(crate) fn read(frame: &[u8], l3: usize) -> Result<IpPacket, ParseReason> {
    let header: &Ipv6Header = view(frame, l3).ok_or(ParseReason::Truncated)?;
    let payload_len = usize::from(header.payload_len.get());
    let start = l3 + IPV6_LEN;
    let mut ip = IpPacket {
        v6: true,
        l3,
        payload: start,
        end: if payload_len == 0 { frame.len() } else { frame.len().min(start + payload_len) },
        protocol: header.next_header,
        fragment: Fragment::Whole,
        ident: 0,
        cut: None,
    };
    ip.cut = follow_extensions(frame, &mut ip).err();
    ip.payload = ip.payload.min(ip.end);
    Ok(ip)
}

/// Moves `ip.payload` and `ip.protocol` to the transport header, or to where the packet ends before it.
fn follow_extensions(frame: &[u8], ip: &mut IpPacket) -> Result<(), ParseReason> {
    let bytes = &frame[..ip.end];
    for _ in 0..EXTENSIONS_MAX {
        // Unit and constant part of the length field.
        let (unit, plus) = match ip.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => (8, 1),
            AUTHENTICATION => (4, 2),
            FRAGMENT => {
                let header: &Ipv6FragmentHeader =
                    view(bytes, ip.payload).ok_or(ParseReason::TruncatedExtension)?;
                ip.protocol = header.next_header;
                ip.payload += FRAGMENT_LEN;
                ip.ident = header.ident.get();
                if header.offset() != 0 {
                    // What follows is not a header but the middle of something.
                    ip.fragment = Fragment::Later;
                    return Ok(());
                }
                if header.more() {
                    ip.fragment = Fragment::First;
                }
                continue;
            }
            _ => return Ok(()),
        };
        let [next, length] = be16(bytes, ip.payload).ok_or(ParseReason::TruncatedExtension)?.to_be_bytes();
        ip.protocol = next;
        ip.payload += (usize::from(length) + plus) * unit;
    }
    match ip.protocol {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY => {
            Err(ParseReason::TooManyExtensions)
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Ipv6Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src_addr(), self.dst_addr());
        let (next, hops) = (self.next_header, self.hop_limit);
        write!(f, "{src} > {dst} protocol {next} hops {hops} payload {}", self.payload_len.get())
    }
}

impl fmt::Display for Ipv6FragmentHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.more() { " and more" } else { "" };
        write!(f, "fragment {} of {:#010x}{more}", self.offset(), self.ident.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packet whose first header is `next`, followed by `rest`.
    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            version_class_label: (6 << 28).into(),
            payload_len: u16::try_from(rest.len()).expect("short").into(),
            next_header: next,
            hop_limit: 64,
            src: 1.into(),
            dst: 2.into(),
        };
        [header.as_bytes(), rest].concat()
    }

    fn layout(bytes: &[u8]) -> (usize, u8, Fragment, Option<ParseReason>) {
        let ip = read(bytes, 0).expect("addresses are there");
        (ip.payload, ip.protocol, ip.fragment, ip.cut)
    }

    #[test]
    fn every_extension_is_followed_by_its_own_length() {
        let mut rest = Vec::new();
        for (next, length, bytes) in
            [(43, 1, 16), (60, 0, 8), (51, 0, 8), (135, 4, 24), (44, 0, 8), (17, 0, 8)]
        {
            let mut header = vec![0; bytes];
            (header[0], header[1]) = (next, length);
            rest.extend(header);
        }
        rest.extend([0; 8]);
        assert_eq!(layout(&packet(0, &rest)), (112, 17, Fragment::Whole, None));
    }

    #[test]
    fn extension_beyond_the_end_is_cut() {
        let cut = Some(ParseReason::TruncatedExtension);
        assert_eq!(layout(&packet(0, &[60, 9])), (42, 60, Fragment::Whole, cut));
        assert_eq!(layout(&packet(44, &[17, 0, 0, 8])), (40, 44, Fragment::Whole, cut));
        assert_eq!(layout(&packet(0, &[17, 9])), (42, 17, Fragment::Whole, None));
    }

    #[test]
    fn sixteen_extensions_are_followed_and_seventeen_are_too_many() {
        let mut rest = [60, 0, 0, 0, 0, 0, 0, 0].repeat(17);
        assert_eq!(layout(&packet(60, &rest)).3, Some(ParseReason::TooManyExtensions));
        rest[15 * 8] = 17;
        assert_eq!(layout(&packet(60, &rest)), (168, 17, Fragment::Whole, None));
    }

    #[test]
    fn fragments_are_told_by_offset_and_more() {
        let fragment = |low| packet(44, &[6, 0, 0, low, 0, 0, 0, 9, 1, 2]);
        assert_eq!(layout(&fragment(0)), (48, 6, Fragment::Whole, None));
        assert_eq!(layout(&fragment(1)), (48, 6, Fragment::First, None));
        assert_eq!(layout(&fragment(8)), (48, 6, Fragment::Later, None));
        assert_eq!(read(&fragment(9), 0).expect("valid").ident, 9);
    }

    #[test]
    fn later_fragment_is_not_searched_for_extensions() {
        assert_eq!(layout(&packet(44, &[60, 0, 0, 8, 0, 0, 0, 9])), (48, 60, Fragment::Later, None));
    }

    #[test]
    fn payload_length_ends_the_packet_and_zero_is_the_captured_end() {
        let mut bytes = packet(17, &[0; 8]);
        bytes.extend([0; 10]);
        assert_eq!(read(&bytes, 0).expect("valid").end, 48);
        bytes[5] = 0;
        assert_eq!(read(&bytes, 0).expect("valid").end, 58);
        assert_eq!(read(&bytes[..39], 0).err(), Some(ParseReason::Truncated));
    }

    #[test]
    fn display_names_the_fields() {
        let bytes = packet(44, &[6, 0, 0, 9, 0, 0, 0, 9]);
        let header: &Ipv6Header = view(&bytes, 0).expect("header");
        assert_eq!(header.to_string(), "::1 > ::2 protocol 44 hops 64 payload 8");
        let header: &Ipv6FragmentHeader = view(&bytes, 40).expect("header");
        assert_eq!(header.to_string(), "fragment 8 of 0x00000009 and more");
    }
}
