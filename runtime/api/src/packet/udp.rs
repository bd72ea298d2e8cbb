//! UDP, RFC 768. SCTP, DCCP and UDP-Lite begin with the same two ports.

use std::fmt;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header, bytes.
pub const UDP_LEN: usize = 8;
/// Bytes of the header that must be captured: the ports.
pub const PORTS_NEEDED: usize = 4;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Length of header and payload, bytes.
    pub length: U16,
    /// Checksum over pseudo-header, header and payload; 0 means the sender computed none.
    pub checksum: U16,
}

impl fmt::Display for UdpHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} length {}", self.src_port.get(), self.dst_port.get(), self.length.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::view;

    #[test]
    fn view_reads_the_fields() {
        let bytes =
            etherparse::UdpHeader { source_port: 5353, destination_port: 53, length: 9, checksum: 0x1234 };
        let bytes = bytes.to_bytes();
        let header: &UdpHeader = view(&bytes, 0).expect("header");
        assert_eq!(header.checksum.get(), 0x1234);
        assert_eq!(header.to_string(), "5353 > 53 length 9");
    }
}
