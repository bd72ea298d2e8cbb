//! IPv4, RFC 791.

use core::net::Ipv4Addr;
use std::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Fragment, IpPacket, ParseReason, view};

/// Length of a header without options, bytes.
pub const IPV4_LEN: usize = 20;
/// Bit of `flags_fragment`: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Bit of `flags_fragment`: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Bits of `flags_fragment` that are the offset, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4 bits) and header length in 32-bit words (4).
    pub version_ihl: u8,
    /// Differentiated services and congestion notification.
    pub tos: u8,
    /// Length of header and payload, bytes; 0 where a sender left it to its network card.
    pub total_len: U16,
    /// Identification of the fragments of one packet.
    pub ident: U16,
    /// Flags (3 bits) and fragment offset (13).
    pub flags_fragment: U16,
    /// Time to live, hops.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub src: U32,
    /// Destination address.
    pub dst: U32,
}

impl Ipv4Header {
    /// Header length with options as the header says, bytes (0-60; below 20 is malformed).
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 15) * 4
    }

    /// Offset of this fragment in its packet, bytes.
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_fragment.get() & FRAGMENT_OFFSET) * 8
    }

    /// True when more fragments follow.
    pub fn more_fragments(&self) -> bool {
        self.flags_fragment.get() & MORE_FRAGMENTS != 0
    }

    /// Source address.
    pub fn src_addr(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.src.get())
    }

    /// Destination address.
    pub fn dst_addr(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.dst.get())
    }
}

/// Validates the header at `l3`; `frame` ends where the packet must.
pub(crate) fn read(frame: &[u8], l3: usize) -> Result<IpPacket, ParseReason> {
    let header: &Ipv4Header = view(frame, l3).ok_or(ParseReason::Truncated)?;
    let header_len = header.header_len();
    if header_len < IPV4_LEN {
        return Err(ParseReason::BadIpHeader);
    }
    // A total length below the header is not believed: segmentation offload leaves 0 there.
    let total_len = usize::from(header.total_len.get());
    let end = if total_len >= header_len { frame.len().min(l3 + total_len) } else { frame.len() };
    let fragment = match (header.fragment_offset(), header.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(IpPacket {
        v6: false,
        l3,
        payload: end.min(l3 + header_len),
        end,
        protocol: header.protocol,
        fragment,
        ident: u32::from(header.ident.get()),
        cut: None,
    })
}

impl fmt::Display for Ipv4Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src_addr(), self.dst_addr());
        write!(
            f,
            "{src} > {dst} protocol {} ttl {} length {}",
            self.protocol,
            self.ttl,
            self.total_len.get()
        )?;
        if self.fragment_offset() != 0 || self.more_fragments() {
            write!(f, " fragment {} of {:#06x}", self.fragment_offset(), self.ident.get())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header without options for a packet of `total_len` bytes, with `flags_fragment`.
    fn header(total_len: u16, flags_fragment: u16) -> Ipv4Header {
        Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: total_len.into(),
            ident: 0x1234.into(),
            flags_fragment: flags_fragment.into(),
            ttl: 64,
            protocol: 17,
            checksum: 0.into(),
            src: 0x0a00_0001.into(),
            dst: 0x0a00_0002.into(),
        }
    }

    fn packet(header: Ipv4Header, payload: usize) -> Vec<u8> {
        [header.as_bytes(), &vec![0; payload]].concat()
    }

    #[test]
    fn padding_behind_the_total_length_is_not_payload() {
        let ip = read(&packet(header(28, 0), 26), 0).expect("valid");
        assert_eq!((ip.payload, ip.end, ip.protocol), (20, 28, 17));
    }

    #[test]
    fn length_below_the_header_means_the_captured_end() {
        let ip = read(&packet(header(0, 0), 26), 0).expect("valid");
        assert_eq!((ip.payload, ip.end), (20, 46));
    }

    #[test]
    fn capture_cut_in_the_options_has_no_payload() {
        let mut bytes = packet(header(60, 0), 10);
        bytes[0] = 0x4a;
        let ip = read(&bytes, 0).expect("addresses are there");
        assert_eq!((ip.payload, ip.end), (30, 30));
    }

    #[test]
    fn header_length_below_twenty_is_bad() {
        let mut bytes = packet(header(28, 0), 8);
        bytes[0] = 0x44;
        assert_eq!(read(&bytes, 0).err(), Some(ParseReason::BadIpHeader));
        assert_eq!(read(&bytes[..19], 0).err(), Some(ParseReason::Truncated));
    }

    #[test]
    fn fragments_are_told_by_offset_and_more() {
        let kind = |bits| read(&packet(header(28, bits), 8), 0).map(|ip| ip.fragment);
        assert_eq!(kind(DONT_FRAGMENT), Ok(Fragment::Whole));
        assert_eq!(kind(MORE_FRAGMENTS), Ok(Fragment::First));
        assert_eq!(kind(MORE_FRAGMENTS | 1), Ok(Fragment::Later));
        assert_eq!(kind(185), Ok(Fragment::Later));
        let text = header(28, 185).to_string();
        assert_eq!(text, "10.0.0.1 > 10.0.0.2 protocol 17 ttl 64 length 28 fragment 1480 of 0x1234");
    }
}
