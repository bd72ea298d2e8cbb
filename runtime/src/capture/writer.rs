//! Writing captures: nanosecond pcap, or pcapng with nanosecond interfaces where packets have several link types.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{CAPTURED_LEN_MAX, CaptureError, Format, LinkType};

const BUFFER_LEN: usize = 256 * 1024;
const PCAP_MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;

/// Buffered writer of one capture file. Nothing is sure to be on disk, and late errors are unknown, until
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct CaptureWriter {
    path: PathBuf,
    output: BufWriter<File>,
    format: Format,
    /// Link types in use: the one of a pcap file, or those of the pcapng interfaces by id.
    links: Vec<LinkType>,
    records: u64,
}

impl CaptureWriter {
    /// Creates (or truncates) the file and writes its header. A pcap file holds packets of `link` only; a pcapng file
    /// starts with an interface of `link` and gains one for each other link type as it is first written.
    pub fn create(path: impl AsRef<Path>, format: Format, link: LinkType) -> Result<Self, CaptureError> {
        let path = path.as_ref().to_owned();
        let file = match File::create(&path) {
            Ok(file) => file,
            Err(source) => return Err(CaptureError::Io { path, action: "create", source }),
        };
        let output = BufWriter::with_capacity(BUFFER_LEN, file);
        let mut writer = Self { path, output, format, links: vec![link], records: 0 };
        match format {
            Format::Pcap => writer.emit(&[&pcap_header(link)])?,
            Format::PcapNg => writer.emit(&[&section_header(), &interface_description(link)])?,
        }
        Ok(writer)
    }

    /// Appends one packet, given as slices that follow one another.
    ///
    /// Errors: a link type other than the file's in pcap, a time past 2106 in pcap, more than
    /// [`CAPTURED_LEN_MAX`] bytes; or the system's.
    pub fn write(
        &mut self,
        time_ns: u64,
        link: LinkType,
        wire_len: u32,
        slices: &[&[u8]],
    ) -> Result<(), CaptureError> {
        let captured_len = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if captured_len > CAPTURED_LEN_MAX {
            return Err(self.unwritable(format!(
                "it has {captured_len} bytes, a capture holds at most {CAPTURED_LEN_MAX} of each"
            )));
        }
        // Bounded by CAPTURED_LEN_MAX above.
        let captured_len = captured_len as u32;
        match self.format {
            Format::Pcap => self.write_pcap(time_ns, link, wire_len, captured_len, slices)?,
            Format::PcapNg => self.write_pcapng(time_ns, link, wire_len, captured_len, slices)?,
        }
        self.records += 1;
        Ok(())
    }

    /// Writes out what is buffered; without this call the end of the file may be missing.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        let flushed = self.output.flush();
        flushed.map_err(|source| self.io(source))
    }

    fn write_pcap(
        &mut self,
        time_ns: u64,
        link: LinkType,
        wire_len: u32,
        captured_len: u32,
        slices: &[&[u8]],
    ) -> Result<(), CaptureError> {
        if self.links.first() != Some(&link) {
            return Err(self.unwritable(format!(
                "its link type is {}, a pcap file holds one ({}); write pcapng",
                link.0, self.links[0].0
            )));
        }
        let Ok(seconds) = u32::try_from(time_ns / 1_000_000_000) else {
            return Err(self.unwritable(format!(
                "its time of {time_ns} ns is past 2106, where the seconds of pcap end; write pcapng"
            )));
        };
        let mut header = [0; 16];
        let fraction = (time_ns % 1_000_000_000) as u32;
        put(&mut header, &[seconds, fraction, captured_len, wire_len]);
        self.emit(&[&header])?;
        self.emit(slices)
    }

    fn write_pcapng(
        &mut self,
        time_ns: u64,
        link: LinkType,
        wire_len: u32,
        captured_len: u32,
        slices: &[&[u8]],
    ) -> Result<(), CaptureError> {
        let interface = match self.links.iter().position(|known| *known == link) {
            Some(interface) => interface,
            None => {
                self.emit(&[&interface_description(link)])?;
                self.links.push(link);
                self.links.len() - 1
            }
        };
        let padded_len = captured_len.next_multiple_of(4);
        let block_len = 32 + padded_len;
        let mut header = [0; 28];
        let (high, low) = ((time_ns >> 32) as u32, time_ns as u32);
        put(&mut header, &[6, block_len, interface as u32, high, low, captured_len, wire_len]);
        self.emit(&[&header])?;
        self.emit(slices)?;
        let padding = &[0; 3][..(padded_len - captured_len) as usize];
        self.emit(&[padding, &block_len.to_le_bytes()])
    }

    fn emit(&mut self, slices: &[&[u8]]) -> Result<(), CaptureError> {
        for slice in slices {
            if let Err(source) = self.output.write_all(slice) {
                return Err(self.io(source));
            }
        }
        Ok(())
    }

    fn io(&self, source: std::io::Error) -> CaptureError {
        CaptureError::Io { path: self.path.clone(), action: "write", source }
    }

    fn unwritable(&self, reason: String) -> CaptureError {
        CaptureError::Unwritable { path: self.path.clone(), number: self.records + 1, reason }
    }
}

fn put(bytes: &mut [u8], words: &[u32]) {
    for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
}

/// Version 2.4, no zone correction, the longest packets allowed.
fn pcap_header(link: LinkType) -> [u8; 24] {
    let mut header = [0; 24];
    let version = 2 | 4 << 16;
    put(&mut header, &[PCAP_MAGIC_NANOSECONDS, version, 0, 0, CAPTURED_LEN_MAX as u32, u32::from(link.0)]);
    header
}

/// Version 1.0, length of the section unknown.
fn section_header() -> [u8; 28] {
    let mut block = [0; 28];
    put(&mut block, &[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28]);
    block
}

/// No limit of length, and one option: if_tsresol = 9, nanoseconds.
fn interface_description(link: LinkType) -> [u8; 32] {
    let mut block = [0; 32];
    let option = 9 | 1 << 16;
    put(&mut block, &[1, 32, u32::from(link.0), 0, option, 9, 0, 32]);
    block
}
