//! Ethernet and what may stand between it and IP: VLAN tags, MPLS labels, PPPoE.

use std::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ParseReason, be16, view};

/// Length of an Ethernet header without tags, bytes.
pub const ETHERNET_LEN: usize = 14;
/// Tags, labels and PPPoE headers that are peeled at most; more is [`ParseReason::TooManyTags`].
pub const TAGS_MAX: usize = 12;

const TAG_LEN: usize = 4;
const PPPOE_LEN: usize = 8;
const PPPOE_PROTOCOL: usize = 6;
/// Smaller values of the type field are an IEEE 802.3 length.
const ETHER_TYPE_MIN: u16 = 0x600;

/// An Ethernet type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// VLAN, IEEE 802.1Q.
    pub const VLAN: EtherType = EtherType(0x8100);
    /// Service VLAN, IEEE 802.1ad.
    pub const QINQ: EtherType = EtherType(0x88a8);
    /// Service VLAN before the standard.
    pub const QINQ_OLD: EtherType = EtherType(0x9100);
    /// Another service VLAN before the standard.
    pub const QINQ_OLDER: EtherType = EtherType(0x9200);
    /// MPLS, RFC 5332.
    pub const MPLS: EtherType = EtherType(0x8847);
    /// MPLS with upstream-assigned labels, RFC 5332.
    pub const MPLS_UPSTREAM: EtherType = EtherType(0x8848);
    /// PPPoE session, RFC 2516.
    pub const PPPOE_SESSION: EtherType = EtherType(0x8864);

    /// The type for a PPP protocol number that is IP.
    pub(crate) fn from_ppp(protocol: u16) -> Result<EtherType, ParseReason> {
        match protocol {
            0x0021 => Ok(EtherType::IPV4),
            0x0057 => Ok(EtherType::IPV6),
            _ => Err(ParseReason::NotIp),
        }
    }
}

/// Ethernet II header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination address.
    pub dst: [u8; 6],
    /// Source address.
    pub src: [u8; 6],
    /// Type of what follows, or a length below 0x600.
    pub ether_type: U16,
}

/// What follows the type of a VLAN tag.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop eligible (1), VLAN identifier (12).
    pub control: U16,
    /// Type of what follows the tag.
    pub ether_type: U16,
}

/// One MPLS label stack entry, RFC 3032.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MplsLabel {
    /// Label (20 bits), traffic class (3), bottom of stack (1), time to live (8).
    pub entry: U32,
}

/// PPPoE session header with the PPP protocol behind it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PppoeHeader {
    /// Version and type, 0x11.
    pub version_type: u8,
    /// 0 in a session.
    pub code: u8,
    /// Session identifier.
    pub session: U16,
    /// Length of what follows this field, bytes.
    pub length: U16,
    /// PPP protocol: 0x21 IPv4, 0x57 IPv6.
    pub protocol: U16,
}

impl VlanTag {
    /// VLAN identifier, 12 bits.
    pub fn id(&self) -> u16 {
        self.control.get() & 0xfff
    }
}

impl MplsLabel {
    /// Label, 20 bits.
    pub fn label(&self) -> u32 {
        self.entry.get() >> 12
    }

    /// True for the last entry of the stack.
    pub fn is_bottom(&self) -> bool {
        self.entry.get() & 0x100 != 0
    }
}

/// Offset of the IP header behind tags that begin at `offset` with a header of type `ether_type`.
pub(crate) fn peel(frame: &[u8], offset: usize, ether_type: EtherType) -> Result<usize, ParseReason> {
    let (mut offset, mut ether_type) = (offset, ether_type);
    for _ in 0..=TAGS_MAX {
        match ether_type {
            EtherType::IPV4 | EtherType::IPV6 => return Ok(offset),
            EtherType::VLAN | EtherType::QINQ | EtherType::QINQ_OLD | EtherType::QINQ_OLDER => {
                ether_type = EtherType(be16(frame, offset + 2).ok_or(ParseReason::Truncated)?);
                offset += TAG_LEN;
            }
            EtherType::MPLS | EtherType::MPLS_UPSTREAM => {
                let label: &MplsLabel = view(frame, offset).ok_or(ParseReason::Truncated)?;
                offset += TAG_LEN;
                if label.is_bottom() {
                    // MPLS does not say what it carries; a pseudowire's control word begins with 0 or 1.
                    return match frame.get(offset).ok_or(ParseReason::Truncated)? >> 4 {
                        4 | 6 => Ok(offset),
                        _ => Err(ParseReason::NotIp),
                    };
                }
            }
            EtherType::PPPOE_SESSION => {
                let protocol = be16(frame, offset + PPPOE_PROTOCOL).ok_or(ParseReason::Truncated)?;
                ether_type = EtherType::from_ppp(protocol)?;
                offset += PPPOE_LEN;
            }
            EtherType(length) if length < ETHER_TYPE_MIN => return Err(ParseReason::Llc),
            _ => return Err(ParseReason::NotIp),
        }
    }
    Err(ParseReason::TooManyTags)
}

fn write_mac(f: &mut fmt::Formatter<'_>, mac: &[u8; 6]) -> fmt::Result {
    let [a, b, c, d, e, g] = mac;
    write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
}

impl fmt::Display for EthernetHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_mac(f, &self.src)?;
        f.write_str(" > ")?;
        write_mac(f, &self.dst)?;
        write!(f, " type {:#06x}", self.ether_type.get())
    }
}

impl fmt::Display for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan {} type {:#06x}", self.id(), self.ether_type.get())
    }
}

impl fmt::Display for MplsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mpls {}{}", self.label(), if self.is_bottom() { " bottom" } else { "" })
    }
}

impl fmt::Display for PppoeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pppoe session {} protocol {:#06x}", self.session.get(), self.protocol.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLAN_TAG: [u8; 4] = [0, 7, 0x81, 0];

    /// `tags` VLAN tags that end in IPv4.
    fn vlans(tags: usize) -> Vec<u8> {
        let mut bytes = VLAN_TAG.repeat(tags);
        let last = bytes.len() - 2;
        bytes[last..].copy_from_slice(&[8, 0]);
        bytes
    }

    #[test]
    fn twelve_tags_are_peeled_and_thirteen_are_too_many() {
        assert_eq!(peel(&vlans(12), 0, EtherType::VLAN), Ok(48));
        assert_eq!(peel(&vlans(13), 0, EtherType::VLAN), Err(ParseReason::TooManyTags));
    }

    #[test]
    fn all_vlan_types_are_tags() {
        for number in [0x8100, 0x88a8, 0x9100, 0x9200] {
            assert_eq!(peel(&vlans(1), 0, EtherType(number)), Ok(4));
        }
    }

    #[test]
    fn mpls_goes_by_the_nibble_behind_the_bottom() {
        let stack = [0, 1, 0, 64, 0, 2, 1, 64, 0x60];
        assert_eq!(peel(&stack, 0, EtherType::MPLS), Ok(8));
        assert_eq!(peel(&stack[..8], 0, EtherType::MPLS), Err(ParseReason::Truncated));
        assert_eq!(peel(&[0, 2, 1, 64, 0], 0, EtherType::MPLS_UPSTREAM), Err(ParseReason::NotIp));
    }

    #[test]
    fn lengths_are_llc_and_other_types_not_ip() {
        assert_eq!(peel(&[], 0, EtherType(0x5ff)), Err(ParseReason::Llc));
        assert_eq!(peel(&[], 0, EtherType(0x806)), Err(ParseReason::NotIp));
        assert_eq!(peel(&[], 0, EtherType::VLAN), Err(ParseReason::Truncated));
    }

    #[test]
    fn views_read_their_fields() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x88, 0x64, 0x11, 0, 0, 9, 0, 22, 0, 0x21];
        let ethernet: &EthernetHeader = view(&bytes, 0).expect("header");
        assert_eq!(ethernet.to_string(), "07:08:09:0a:0b:0c > 01:02:03:04:05:06 type 0x8864");
        let pppoe: &PppoeHeader = view(&bytes, 14).expect("header");
        assert_eq!(pppoe.to_string(), "pppoe session 9 protocol 0x0021");
        let tag: &VlanTag = view(&[0xe0, 7, 8, 0], 0).expect("tag");
        assert_eq!(tag.to_string(), "vlan 7 type 0x0800");
        let label: &MplsLabel = view(&[0, 1, 0xf1, 64], 0).expect("label");
        assert_eq!(label.to_string(), "mpls 31 bottom");
    }
}
