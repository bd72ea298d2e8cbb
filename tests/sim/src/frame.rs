//! Small IPv4 packets. Transport checksums are left out: the functions under test only update them.

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Opens.
    pub const SYN: u8 = 0x02;
    /// Aborts.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// An address and a port (an echo's identifier).
pub type End = (u32, u16);

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment: flags and sequence number.
    Tcp(u8, u32),
    /// A UDP datagram.
    Udp,
    /// An ICMP echo; true for a reply. The identifier is the source port of a request, the
    /// destination port of a reply.
    Echo(bool),
}

/// A packet with some payload; `id` is its IP identification.
#[must_use]
pub fn packet(kind: Kind, from: End, to: End, id: u16, payload: &[u8]) -> Vec<u8> {
    let (protocol, body) = match kind {
        Kind::Tcp(flags, seq) => (6, tcp(flags, seq, from.1, to.1)),
        Kind::Udp => (17, udp(from.1, to.1, payload.len())),
        Kind::Echo(false) => (1, echo(8, from.1)),
        Kind::Echo(true) => (1, echo(0, to.1)),
    };
    ip(protocol, from.0, to.0, id, 0, &[&body, payload].concat())
}

/// An ICMP destination-unreachable that quotes the beginning of `cause`, an IPv4 packet.
#[must_use]
pub fn unreachable(from: u32, to: u32, id: u16, cause: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&cause[..cause.len().min(28)]);
    ip(1, from, to, id, 0, &body)
}

/// A UDP datagram in two fragments.
#[must_use]
pub fn fragments(from: End, to: End, id: u16) -> [Vec<u8>; 2] {
    let mut first = udp(from.1, to.1, 24);
    first.extend_from_slice(&[1; 8]);
    [ip(17, from.0, to.0, id, 0x2000, &first), ip(17, from.0, to.0, id, 2, &[2; 16])]
}

fn tcp(flags: u8, seq: u32, from: u16, to: u16) -> Vec<u8> {
    let mut body = vec![0; 20];
    body[..2].copy_from_slice(&from.to_be_bytes());
    body[2..4].copy_from_slice(&to.to_be_bytes());
    body[4..8].copy_from_slice(&seq.to_be_bytes());
    body[12] = 0x50;
    body[13] = flags;
    body
}

fn udp(from: u16, to: u16, payload: usize) -> Vec<u8> {
    let mut body = vec![0; 8];
    body[..2].copy_from_slice(&from.to_be_bytes());
    body[2..4].copy_from_slice(&to.to_be_bytes());
    body[4..6].copy_from_slice(&(8 + payload as u16).to_be_bytes());
    body
}

fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    body[4..6].copy_from_slice(&identifier.to_be_bytes());
    body
}

fn ip(protocol: u8, from: u32, to: u32, id: u16, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from.to_be_bytes());
    packet[16..20].copy_from_slice(&to.to_be_bytes());
    packet.extend_from_slice(body);
    packet
}

/// What the environment sees of a packet that left the chain; `None` for what it does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it carries.
    pub kind: Kind,
    /// Where from.
    pub from: End,
    /// Where to.
    pub to: End,
}

/// Reads an IPv4 packet that is no fragment and no ICMP error.
#[must_use]
pub fn read(packet: &[u8]) -> Option<Seen> {
    let (ip, body) = packet.split_at_checked(20)?;
    if ip[0] != 0x45 || ip[6] & 0x3f != 0 || ip[7] != 0 {
        return None;
    }
    let address = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let word = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let (kind, from, to) = match ip[9] {
        6 => {
            let seq = u32::from_be_bytes(*body.get(4..8)?.first_chunk()?);
            (Kind::Tcp(*body.get(13)?, seq), word(0)?, word(2)?)
        }
        17 => (Kind::Udp, word(0)?, word(2)?),
        1 if matches!(body.first(), Some(0 | 8)) => (Kind::Echo(body[0] == 0), word(4)?, word(4)?),
        _ => return None,
    };
    Some(Seen { kind, from: (address(12), from), to: (address(16), to) })
}
