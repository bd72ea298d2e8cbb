//! Link types of captures and how each leads to the first IP header.
//!
//! Numbers are the LINKTYPE_ values of <https://www.tcpdump.org/linktypes.html>.

use std::fmt;

use super::ethernet::{self, ETHERNET_LEN, EtherType};
use super::{ParseReason, be16};

/// Link type of a capture: what its frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: a 4-byte family in the byte order of the writer.
    pub const NULL: LinkType = LinkType(0);
    /// Ethernet.
    pub const ETHERNET: LinkType = LinkType(1);
    /// PPP, with or without the HDLC address and control bytes.
    pub const PPP: LinkType = LinkType(9);
    /// Raw IP as some systems write it.
    pub const RAW_BSD: LinkType = LinkType(12);
    /// Raw IP as OpenBSD writes it.
    pub const RAW_OPENBSD: LinkType = LinkType(14);
    /// PPP in HDLC-like framing, RFC 1662.
    pub const PPP_HDLC: LinkType = LinkType(50);
    /// PPPoE session packets without an Ethernet header, RFC 2516.
    pub const PPPOE: LinkType = LinkType(51);
    /// Raw IP, version by its first nibble.
    pub const RAW: LinkType = LinkType(101);
    /// OpenBSD loopback: a 4-byte family in network order.
    pub const LOOP: LinkType = LinkType(108);
    /// Linux "cooked" capture.
    pub const LINUX_SLL: LinkType = LinkType(113);
    /// Raw IPv4.
    pub const IPV4: LinkType = LinkType(228);
    /// Raw IPv6.
    pub const IPV6: LinkType = LinkType(229);
    /// Linux "cooked" capture, version 2.
    pub const LINUX_SLL2: LinkType = LinkType(276);

    /// True when [`super::parse()`] understands frames of this type.
    pub fn is_known(self) -> bool {
        self.name().is_some()
    }

    fn name(self) -> Option<&'static str> {
        Some(match self {
            LinkType::NULL => "null",
            LinkType::ETHERNET => "ethernet",
            LinkType::PPP => "ppp",
            LinkType::RAW_BSD | LinkType::RAW_OPENBSD | LinkType::RAW => "raw",
            LinkType::PPP_HDLC => "ppp_hdlc",
            LinkType::PPPOE => "pppoe",
            LinkType::LOOP => "loop",
            LinkType::LINUX_SLL => "linux_sll",
            LinkType::IPV4 => "ipv4",
            LinkType::IPV6 => "ipv6",
            LinkType::LINUX_SLL2 => "linux_sll2",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "unknown ({})", self.0),
        }
    }
}

const LOOPBACK_LEN: usize = 4;
const SLL_PROTOCOL: usize = 14;
const SLL_LEN: usize = 16;
const SLL2_LEN: usize = 20;
const HDLC_ADDRESS_CONTROL: [u8; 2] = [0xff, 0x03];

/// Offset of the outermost IP header.
pub(crate) fn ip_offset(link: LinkType, frame: &[u8]) -> Result<usize, ParseReason> {
    let type_at = |offset| be16(frame, offset).map(EtherType).ok_or(ParseReason::Truncated);
    match link {
        LinkType::ETHERNET => ethernet::peel(frame, ETHERNET_LEN, type_at(ETHERNET_LEN - 2)?),
        LinkType::RAW | LinkType::RAW_BSD | LinkType::RAW_OPENBSD | LinkType::IPV4 | LinkType::IPV6 => Ok(0),
        LinkType::NULL | LinkType::LOOP => Ok(LOOPBACK_LEN),
        LinkType::LINUX_SLL => ethernet::peel(frame, SLL_LEN, type_at(SLL_PROTOCOL)?),
        LinkType::LINUX_SLL2 => ethernet::peel(frame, SLL2_LEN, type_at(0)?),
        LinkType::PPP | LinkType::PPP_HDLC => {
            let start = if frame.starts_with(&HDLC_ADDRESS_CONTROL) { 2 } else { 0 };
            let protocol = be16(frame, start).ok_or(ParseReason::Truncated)?;
            ethernet::peel(frame, start + 2, EtherType::from_ppp(protocol)?)
        }
        LinkType::PPPOE => ethernet::peel(frame, 0, EtherType::PPPOE_SESSION),
        _ => Err(ParseReason::UnknownLink),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_link_leads_to_ip_and_no_other_does() {
        // Types at the places of SLL2, Ethernet, PPP, SLL and PPPoE; the IP header is wherever they say.
        for number in 0..=u16::MAX {
            let link = LinkType(number);
            let mut frame = [0u8; 64];
            match link {
                LinkType::ETHERNET => frame[12] = 8,
                LinkType::LINUX_SLL => frame[14] = 8,
                LinkType::LINUX_SLL2 => frame[0] = 8,
                LinkType::PPP | LinkType::PPP_HDLC => frame[1] = 0x21,
                LinkType::PPPOE => frame[7] = 0x21,
                _ => {}
            }
            let offset = ip_offset(link, &frame);
            assert_eq!(offset.is_ok(), link.is_known(), "{link}");
            if !link.is_known() {
                assert_eq!(offset, Err(ParseReason::UnknownLink));
            }
        }
    }

    #[test]
    fn ppp_address_and_control_are_optional() {
        assert_eq!(ip_offset(LinkType::PPP, &[0xff, 3, 0, 0x21, 0x45]), Ok(4));
        assert_eq!(ip_offset(LinkType::PPP, &[0, 0x57, 0x60]), Ok(2));
        assert_eq!(ip_offset(LinkType::PPP, &[0xc0, 0x21, 0]), Err(ParseReason::NotIp));
    }

    #[test]
    fn display_names_the_number() {
        assert_eq!(LinkType::LINUX_SLL2.to_string(), "linux_sll2 (276)");
        assert_eq!(LinkType(147).to_string(), "unknown (147)");
    }
}
