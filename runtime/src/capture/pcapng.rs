//! pcapng (draft-ietf-opsawg-pcapng): blocks of a type, a length, a body, and the length again.
//!
//! The length says where the next block begins, so a block whose body makes no sense is passed over and reported at the
//! end of the file; a block whose length makes no sense, or that is cut, ends it. The trailing length is not checked:
//! it only serves reading backwards.

use super::{BUFFER_LEN, ByteOrder, CAPTURED_LEN_MAX, CaptureError, LinkType, Raw, Source};

/// Type of the section header block; a palindrome, so it reads the same in either byte order.
pub(super) const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE_DESCRIPTION: u32 = 1;
/// Obsolete, but still met in old captures.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// Type, length and trailing length.
const BLOCK_LEN_MIN: usize = 12;
const BODY_AT: usize = 8;
const TRAILER_LEN: usize = 4;
const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;

/// What the sections and interfaces read so far say about the packets to come.
#[derive(Debug)]
pub(super) struct Decoder {
    order: ByteOrder,
    /// Interfaces of the current section, by id.
    interfaces: Vec<Interface>,
    /// The first block passed over, kept until the readable records have been given.
    damage: Option<CaptureError>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    /// 0: no limit.
    snap_len: u32,
    resolution: Resolution,
}

/// Unit of an interface's times, as the power `if_tsresol` gives.
#[derive(Clone, Copy, Debug)]
enum Resolution {
    Decimal(u32),
    Binary(u32),
}

/// A packet block's fixed part.
struct PacketHead {
    interface: usize,
    /// In the interface's unit; `None` in a simple packet block.
    ticks: Option<u64>,
    captured_len: usize,
    wire_len: u32,
    /// Where the captured bytes begin in the body.
    data_at: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { order: ByteOrder::Little, interfaces: Vec::new(), damage: None }
    }

    /// The next packet of any section and interface.
    pub(super) fn next(&mut self, source: &mut Source) -> Result<Option<Raw>, CaptureError> {
        loop {
            let at = source.offset;
            let Some((kind, len)) = self.block_head(source)? else {
                return self.damage.take().map_or(Ok(None), Err);
            };
            let wanted = matches!(kind, INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET);
            if wanted && len > BUFFER_LEN {
                self.pass_over(
                    source,
                    at,
                    &format!("a block of at most {BUFFER_LEN} bytes"),
                    len.to_string(),
                );
            }
            if !wanted || len > BUFFER_LEN {
                let missing = source.skip(len as u64)?;
                if missing > 0 {
                    return Err(self.cut_block(source, at, len, missing));
                }
                continue;
            }
            let available = source.fill(len)?;
            if available < len {
                return Err(self.cut_block(source, at, len, (len - available) as u64));
            }
            let start = source.consume(len) + BODY_AT;
            let body_len = len - BODY_AT - TRAILER_LEN;
            let body = &source.buffer[start..start + body_len];
            if kind == INTERFACE_DESCRIPTION {
                match parse_interface(self.order, body) {
                    Some(interface) => self.interfaces.push(interface),
                    None => self.pass_over(
                        source,
                        at,
                        "an interface description of 8 bytes and its options",
                        format!("{body_len} bytes"),
                    ),
                }
                continue;
            }
            match self.parse_packet(kind, body) {
                Ok(mut raw) => {
                    raw.start += start;
                    return Ok(Some(raw));
                }
                Err((expected, found)) => self.pass_over(source, at, expected, found),
            }
        }
    }

    /// Type and length of the block at the source's position, not consumed; `None` at the end of the file.
    fn block_head(&mut self, source: &mut Source) -> Result<Option<(u32, usize)>, CaptureError> {
        let at = source.offset;
        let available = source.fill(BLOCK_LEN_MIN)?;
        if available == 0 {
            return Ok(None);
        }
        let head = source.bytes();
        if available >= BLOCK_LEN_MIN && head[..4] == SECTION_HEADER {
            self.order = match ByteOrder::Little.u32(head, BODY_AT) {
                Some(BYTE_ORDER_MAGIC) => ByteOrder::Little,
                _ => ByteOrder::Big,
            };
            self.interfaces.clear();
        }
        let (Some(kind), Some(len), true) =
            (self.order.u32(head, 0), self.order.u32(head, 4), available >= BLOCK_LEN_MIN)
        else {
            let expected = format!("a block of at least {BLOCK_LEN_MIN} bytes");
            return Err(self.first_damage(source.damaged(at, expected, format!("{available} bytes"))));
        };
        let len = len as usize;
        if len < BLOCK_LEN_MIN {
            let expected = format!("a block length of at least {BLOCK_LEN_MIN}");
            return Err(self.first_damage(source.damaged(at, expected, len.to_string())));
        }
        Ok(Some((kind, len)))
    }

    fn cut_block(&mut self, source: &Source, at: u64, len: usize, missing: u64) -> CaptureError {
        let found = format!("{} before the end of the file", len as u64 - missing);
        self.first_damage(source.damaged(at, format!("a block of {len} bytes"), found))
    }

    /// The damage to report when `last` ends the file: what came first in the file explains most.
    fn first_damage(&mut self, last: CaptureError) -> CaptureError {
        self.damage.take().unwrap_or(last)
    }

    fn pass_over(&mut self, source: &Source, at: u64, expected: &str, found: String) {
        if self.damage.is_none() {
            self.damage = Some(source.damaged(at, expected, found));
        }
    }

    /// A packet block's record, its `start` counted from the body; or what was expected and what was found.
    fn parse_packet(&self, kind: u32, body: &[u8]) -> Result<Raw, (&'static str, String)> {
        let Some(head) = parse_packet_head(self.order, kind, body) else {
            return Err(("a packet block with all its fields", format!("a body of {} bytes", body.len())));
        };
        let Some(interface) = self.interfaces.get(head.interface) else {
            let found = format!("interface {} of {}", head.interface, self.interfaces.len());
            return Err(("an interface described earlier in the section", found));
        };
        let snap_len = match (head.ticks, interface.snap_len) {
            (None, limit @ 1..) => limit as usize,
            _ => usize::MAX,
        };
        // A block that holds less than it claims still gives what it holds.
        let len = head.captured_len.min(snap_len).min(body.len() - head.data_at);
        if len > CAPTURED_LEN_MAX {
            return Err(("a captured length of at most 262144 bytes", len.to_string()));
        }
        let time_ns = head.ticks.map_or(0, |ticks| interface.resolution.nanoseconds(ticks));
        Ok(Raw { time_ns, link: interface.link, wire_len: head.wire_len, start: head.data_at, len })
    }
}

/// The fixed part of a packet block; `None` if the body is too short for it.
fn parse_packet_head(order: ByteOrder, kind: u32, body: &[u8]) -> Option<PacketHead> {
    if kind == SIMPLE_PACKET {
        // Neither captured length nor interface: the packet is cut at the first interface's limit, if at all.
        let wire_len = order.u32(body, 0)?;
        let captured_len = wire_len as usize;
        return Some(PacketHead { interface: 0, ticks: None, captured_len, wire_len, data_at: 4 });
    }
    let interface = match kind {
        PACKET => usize::from(order.u16(body, 0)?),
        _ => order.u32(body, 0)? as usize,
    };
    let ticks = (u64::from(order.u32(body, 4)?) << 32) | u64::from(order.u32(body, 8)?);
    let captured_len = order.u32(body, 12)? as usize;
    let wire_len = order.u32(body, 16)?;
    Some(PacketHead { interface, ticks: Some(ticks), captured_len, wire_len, data_at: 20 })
}

/// An interface description's body; `None` if it is too short.
fn parse_interface(order: ByteOrder, body: &[u8]) -> Option<Interface> {
    let link = LinkType(order.u16(body, 0)?);
    let snap_len = order.u32(body, 4)?;
    let mut resolution = Resolution::Decimal(6);
    let mut at = 8;
    while let (Some(code), Some(len)) = (order.u16(body, at), order.u16(body, at + 2)) {
        if code == OPTION_END {
            break;
        }
        if code == OPTION_TIME_RESOLUTION && len >= 1 {
            let value = *body.get(at + 4)?;
            let power = u32::from(value & 0x7f);
            resolution =
                if value & 0x80 == 0 { Resolution::Decimal(power) } else { Resolution::Binary(power) };
        }
        at += 4 + usize::from(len).next_multiple_of(4);
    }
    Some(Interface { link, snap_len, resolution })
}

impl Resolution {
    /// Rounded down; times beyond what 64 bits hold (the year 2554) are the last one they do hold.
    fn nanoseconds(self, ticks: u64) -> u64 {
        let exact = match self {
            Self::Decimal(power @ 0..=9) => u128::from(ticks) * 10u128.pow(9 - power),
            Self::Decimal(power) => 10u128.checked_pow(power - 9).map_or(0, |unit| u128::from(ticks) / unit),
            Self::Binary(power) => (u128::from(ticks) * 1_000_000_000) >> power,
        };
        u64::try_from(exact).unwrap_or(u64::MAX)
    }
}
