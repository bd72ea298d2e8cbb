//! TCP, RFC 9293.

use std::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header without options, bytes.
pub const TCP_LEN: usize = 20;
/// Bytes of the header that must be captured: up to the flags.
pub const TCP_NEEDED: usize = 14;
/// Offset of the flags in the header.
pub const TCP_FLAGS: usize = 13;

/// Flag: sender has finished.
pub const FIN: u8 = 0x01;
/// Flag: synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset.
pub const RST: u8 = 0x04;
/// Flag: push.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgment number counts.
pub const ACK: u8 = 0x10;
/// Flag: the urgent pointer counts.
pub const URG: u8 = 0x20;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number of the first payload byte (of the SYN itself where it is set).
    pub seq: U32,
    /// Next sequence number expected from the peer.
    pub ack: U32,
    /// Header length in 32-bit words (4 bits), reserved (4).
    pub data_offset: u8,
    /// [`FIN`], [`SYN`], ...
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: U16,
    /// Checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

impl TcpHeader {
    /// Header length with options as the header says, bytes (0-60; below 20 is malformed).
    pub fn header_len(&self) -> usize {
        usize::from(self.data_offset >> 4) * 4
    }

    /// True when all of `flags` are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

impl fmt::Display for TcpHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} [", self.src_port.get(), self.dst_port.get())?;
        for (bit, letter) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, '.'), (URG, 'U')] {
            if self.has(bit) {
                write!(f, "{letter}")?;
            }
        }
        write!(f, "] seq {} ack {} window {}", self.seq.get(), self.ack.get(), self.window.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::view;

    #[test]
    fn view_reads_the_fields() {
        let mut tcp = etherparse::TcpHeader::new(1000, 80, 0x0102_0304, 512);
        (tcp.syn, tcp.ack, tcp.acknowledgment_number) = (true, true, 7);
        let bytes = tcp.to_bytes();
        let header: &TcpHeader = view(&bytes, 0).expect("header");
        assert_eq!(header.header_len(), 20);
        assert!(header.has(SYN | ACK) && !header.has(SYN | RST));
        assert_eq!(bytes[TCP_FLAGS], header.flags);
        assert_eq!(header.to_string(), "1000 > 80 [S.] seq 16909060 ack 7 window 512");
    }
}
