//! Capture files: a streaming reader of pcap and pcapng, and a writer.
//!
//! [`CaptureReader`] hands out one [`Record`] at a time from a bounded buffer, whatever the size of the file, and allocates
//! nothing per packet. Captures are often cut short (a full disk, a killed tcpdump) or damaged: every record that can be
//! read is given first, and only then the error, with the place, what was expected there and what was found.
//!
//! Formats: pcap with micro- or nanosecond times in either byte order, Kuznetzov's modified pcap (extra bytes in each
//! record header), and pcapng (draft-ietf-opsawg-pcapng) with several sections and interfaces. [`CaptureWriter`] writes
//! nanosecond pcap or pcapng.

mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;
mod writer;

pub use chc_api::packet::LinkType;
pub use writer::CaptureWriter;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of one packet that may have been captured (tcpdump's MAXIMUM_SNAPLEN); a record that claims more is damaged.
pub const CAPTURED_LEN_MAX: usize = 256 * 1024;

/// Bytes of the read buffer: the longest packet, its headers, and pcapng options of any sensible length.
const BUFFER_LEN: usize = 2 * CAPTURED_LEN_MAX;

/// The two families of capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Classic pcap: one link type for the whole file.
    Pcap,
    /// pcapng: a link type for each interface.
    PcapNg,
}

/// Why a capture could not be opened, read to its end, or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The capture file.
        path: PathBuf,
        /// What was attempted, as a verb.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bytes are not what the format prescribes.
    #[error("{path}: at byte {offset}: expected {expected}, found {found}")]
    Damaged {
        /// The capture file.
        path: PathBuf,
        /// Where in the file the damaged structure begins, in bytes from 0.
        offset: u64,
        /// What the format prescribes there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The packet cannot be expressed in the format being written.
    #[error("{path}: cannot write packet {number}: {reason}")]
    Unwritable {
        /// The capture file.
        path: PathBuf,
        /// 1-based number of the packet in the output.
        number: u64,
        /// The value, the limit and what to do.
        reason: String,
    },
}

/// One packet of a capture, lent until the next one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Arrival in nanoseconds since the epoch; 0 where the format has no time (pcapng's simple packet block).
    pub time_ns: u64,
    /// What `data` starts with.
    pub link: LinkType,
    /// Bytes the packet had on the wire. Usually at least `data.len()`, but captures exist where it is less.
    pub wire_len: u32,
    /// The bytes captured.
    pub data: &'a [u8],
    /// 1-based position of the packet in the file.
    pub number: u64,
}

/// What a look at the beginning of a capture tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The family of the file; an output of the same family can hold every packet of the input.
    pub format: Format,
    /// pcap: the link type of the file; pcapng: that of the first readable packet, `None` if there is none.
    pub link: Option<LinkType>,
}

/// Looks at the header (and in pcapng at the first packet) to learn how an output for this input must be written.
pub fn scan(path: impl AsRef<Path>) -> Result<Summary, CaptureError> {
    let mut reader = CaptureReader::open(path)?;
    let (format, link) = match &reader.decoder {
        Decoder::Pcap(decoder) => (Format::Pcap, Some(decoder.link())),
        Decoder::PcapNg(_) => (Format::PcapNg, reader.next().ok().flatten().map(|record| record.link)),
    };
    Ok(Summary { format, link })
}

/// Streaming reader of one capture file.
#[derive(Debug)]
pub struct CaptureReader {
    source: Source,
    decoder: Decoder,
    records: u64,
    ended: bool,
}

#[derive(Debug)]
enum Decoder {
    Pcap(pcap::Decoder),
    PcapNg(pcapng::Decoder),
}

impl CaptureReader {
    /// Opens a capture file and reads its header.
    ///
    /// Errors: the file cannot be read, its magic number is of no known format, or its header is cut.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CaptureError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| CaptureError::Io {
            path: path.to_owned(),
            action: "open",
            source,
        })?;
        Self::from_reader(path, Box::new(file))
    }

    /// Reads a capture from any stream of bytes; `name` stands for the file in errors.
    pub fn from_reader(name: impl Into<PathBuf>, input: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut source = Source::new(name.into(), input);
        source.fill(4)?;
        let head = source.bytes();
        let decoder = if head.get(..4) == Some(&pcapng::SECTION_HEADER) {
            Decoder::PcapNg(pcapng::Decoder::new())
        } else {
            Decoder::Pcap(pcap::Decoder::open(&mut source)?)
        };
        Ok(Self { source, decoder, records: 0, ended: false })
    }

    /// The family of the file.
    pub fn format(&self) -> Format {
        match self.decoder {
            Decoder::Pcap(_) => Format::Pcap,
            Decoder::PcapNg(_) => Format::PcapNg,
        }
    }

    /// The next packet; `None` at the end.
    ///
    /// Errors: the first damage met, reported once, after every readable record; then `None`.
    #[allow(clippy::should_implement_trait)] // the record borrows from the reader, which Iterator cannot express
    pub fn next(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        if self.ended {
            return Ok(None);
        }
        let raw = match &mut self.decoder {
            Decoder::Pcap(decoder) => decoder.next(&mut self.source),
            Decoder::PcapNg(decoder) => decoder.next(&mut self.source),
        };
        let Ok(Some(raw)) = raw else {
            self.ended = true;
            return raw.map(|_| None);
        };
        self.records += 1;
        Ok(Some(Record {
            time_ns: raw.time_ns,
            link: raw.link,
            wire_len: raw.wire_len,
            data: &self.source.buffer[raw.start..raw.start + raw.len],
            number: self.records,
        }))
    }
}

/// A decoded record whose bytes still lie in the source's buffer.
struct Raw {
    time_ns: u64,
    link: LinkType,
    wire_len: u32,
    /// Index into `Source::buffer`, good until the next `fill`.
    start: usize,
    len: usize,
}

/// A window over the input: unread bytes are contiguous, and the window moves forward only.
struct Source {
    path: PathBuf,
    input: Box<dyn Read + Send>,
    buffer: Box<[u8]>,
    /// The unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Place in the file of `buffer[start]`.
    offset: u64,
}

impl Source {
    fn new(path: PathBuf, input: Box<dyn Read + Send>) -> Self {
        Self { path, input, buffer: vec![0; BUFFER_LEN].into_boxed_slice(), start: 0, end: 0, offset: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Makes at least `need` unread bytes contiguous; returns how many there are, fewer than `need` only at the end.
    fn fill(&mut self, need: usize) -> Result<usize, CaptureError> {
        debug_assert!(need <= self.buffer.len());
        if self.end - self.start >= need {
            return Ok(self.end - self.start);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < need {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(CaptureError::Io { path: self.path.clone(), action: "read", source });
                }
            }
        }
        Ok(self.end)
    }

    /// Passes over `len` unread bytes already in the window; returns where they begin in the buffer.
    fn consume(&mut self, len: usize) -> usize {
        let start = self.start;
        debug_assert!(start + len <= self.end);
        self.start += len;
        self.offset += len as u64;
        start
    }

    /// Passes over `len` bytes, reading them if need be; returns how many of them the file lacks.
    fn skip(&mut self, len: u64) -> Result<u64, CaptureError> {
        let mut left = len;
        while left > 0 {
            let available = self.fill(1)?;
            if available == 0 {
                break;
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            left -= step as u64;
        }
        Ok(left)
    }

    fn damaged(&self, offset: u64, expected: impl Into<String>, found: impl Into<String>) -> CaptureError {
        CaptureError::Damaged {
            path: self.path.clone(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Byte order of the integers of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The 16-bit integer at `at`, if the bytes are there.
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let field: [u8; 2] = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(field),
            Self::Big => u16::from_be_bytes(field),
        })
    }

    /// The 32-bit integer at `at`, if the bytes are there.
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let field: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(field),
            Self::Big => u32::from_be_bytes(field),
        })
    }
}
