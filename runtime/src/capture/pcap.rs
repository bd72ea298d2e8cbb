//! Classic pcap (draft-ietf-opsawg-pcap): a 24-byte header, then records of a 16-byte header and the captured bytes.

use super::{ByteOrder, CAPTURED_LEN_MAX, CaptureError, LinkType, Raw, Source};

const FILE_HEADER_LEN: usize = 24;
const LINK_TYPE_AT: usize = 20;
const RECORD_HEADER_LEN: usize = 16;
/// Kuznetzov's patched libpcap adds interface index, protocol and packet type to each record header.
const KUZNETZOV_EXTRA_LEN: usize = 8;

/// How the records of one pcap file are read.
#[derive(Debug)]
pub(super) struct Decoder {
    order: ByteOrder,
    tick_ns: u64,
    record_header_len: usize,
    link: LinkType,
}

impl Decoder {
    /// Reads the file header.
    pub(super) fn open(source: &mut Source) -> Result<Self, CaptureError> {
        let available = source.fill(FILE_HEADER_LEN)?;
        let bytes = source.bytes();
        let (order, tick_ns, extra_len) = match bytes.get(..4) {
            Some([0xd4, 0xc3, 0xb2, 0xa1]) => (ByteOrder::Little, 1_000, 0),
            Some([0xa1, 0xb2, 0xc3, 0xd4]) => (ByteOrder::Big, 1_000, 0),
            Some([0x4d, 0x3c, 0xb2, 0xa1]) => (ByteOrder::Little, 1, 0),
            Some([0xa1, 0xb2, 0x3c, 0x4d]) => (ByteOrder::Big, 1, 0),
            Some([0x34, 0xcd, 0xb2, 0xa1]) => (ByteOrder::Little, 1_000, KUZNETZOV_EXTRA_LEN),
            Some([0xa1, 0xb2, 0xcd, 0x34]) => (ByteOrder::Big, 1_000, KUZNETZOV_EXTRA_LEN),
            _ => {
                return Err(source.damaged(
                    0,
                    "the magic number of a pcap or pcapng file",
                    describe_head(bytes),
                ));
            }
        };
        let Some(network) = order.u32(bytes, LINK_TYPE_AT) else {
            let found = format!("a file of {available} bytes");
            return Err(source.damaged(0, format!("a pcap file header of {FILE_HEADER_LEN} bytes"), found));
        };
        source.consume(FILE_HEADER_LEN);
        // The upper half of the field holds the length of the frame check sequence and reserved bits.
        let link = LinkType((network & 0xffff) as u16);
        Ok(Self { order, tick_ns, record_header_len: RECORD_HEADER_LEN + extra_len, link })
    }

    /// The link type of every packet of the file.
    pub(super) fn link(&self) -> LinkType {
        self.link
    }

    /// The next record; damage ends the file, as nothing tells where a later record begins.
    pub(super) fn next(&mut self, source: &mut Source) -> Result<Option<Raw>, CaptureError> {
        let header_len = self.record_header_len;
        let at = source.offset;
        let available = source.fill(header_len)?;
        if available == 0 {
            return Ok(None);
        }
        let cut = |source: &Source, available: usize| {
            source.damaged(at, format!("a record header of {header_len} bytes"), format!("{available} bytes"))
        };
        if available < header_len {
            return Err(cut(source, available));
        }
        let header = source.bytes();
        let field = |at| self.order.u32(header, at);
        let (Some(seconds), Some(fraction), Some(captured_len), Some(wire_len)) =
            (field(0), field(4), field(8), field(12))
        else {
            return Err(cut(source, available));
        };
        let captured_len = captured_len as usize;
        if captured_len > CAPTURED_LEN_MAX {
            let expected = format!("a captured length of at most {CAPTURED_LEN_MAX} bytes");
            return Err(source.damaged(at, expected, captured_len.to_string()));
        }
        let available = source.fill(header_len + captured_len)?;
        if available < header_len + captured_len {
            let found = format!("{} before the end of the file", available - header_len);
            return Err(source.damaged(at, format!("a packet of {captured_len} bytes"), found));
        }
        let start = source.consume(header_len + captured_len) + header_len;
        let time_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.tick_ns;
        Ok(Some(Raw { time_ns, link: self.link, wire_len, start, len: captured_len }))
    }
}

fn describe_head(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        [0x1f, 0x8b, ..] => "a gzip file (decompress it first)".to_owned(),
        _ => bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}
