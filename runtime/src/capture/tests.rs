use std::io::Cursor;
use std::path::{Path, PathBuf};

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness, TsResolution};
use proptest::prelude::*;

use super::*;

const ETHERNET: LinkType = LinkType(1);
const RAW_IP: LinkType = LinkType(101);

/// An owned copy of a record: time, link, wire length, bytes.
type Owned = (u64, u16, u32, Vec<u8>);

fn drain(reader: &mut CaptureReader) -> (Vec<Owned>, Option<CaptureError>) {
    let mut records = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.number, records.len() as u64 + 1);
                records.push((record.time_ns, record.link.0, record.wire_len, record.data.to_vec()));
            }
            Ok(None) => return (records, None),
            Err(error) => {
                assert!(matches!(reader.next(), Ok(None)), "an error is the last thing a reader says");
                return (records, Some(error));
            }
        }
    }
}

fn read(bytes: &[u8]) -> (Vec<Owned>, Option<CaptureError>) {
    match CaptureReader::from_reader("test.pcap", Box::new(Cursor::new(bytes.to_vec()))) {
        Ok(mut reader) => drain(&mut reader),
        Err(error) => (Vec::new(), Some(error)),
    }
}

fn error_of(bytes: &[u8]) -> String {
    read(bytes).1.map(|error| error.to_string()).unwrap_or_default()
}

fn pcap_header_of(magic: [u8; 4], big: bool) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    bytes.extend([0; 12]);
    bytes.extend(word(65_535));
    bytes.extend(word(1));
    bytes
}

fn pcap_record(big: bool, extra: &[u8], fields: [u32; 4], data: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = fields.map(word).concat();
    bytes.extend(extra);
    bytes.extend(data);
    bytes
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let len = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &len[..], &body, &len].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]))
}

fn interface(resolution: u8) -> Vec<u8> {
    block(1, &words(&[1, 0, 9 | 1 << 16, u32::from(resolution), 0]))
}

fn enhanced(interface: u32, ticks: u64, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    let mut body = words(&[interface, (ticks >> 32) as u32, ticks as u32, len, len]);
    body.extend(data);
    block(6, &body)
}

#[test]
fn every_pcap_magic_is_read_in_its_byte_order_and_time_unit() {
    let kinds: [([u8; 4], bool, u64, usize); 6] = [
        ([0xd4, 0xc3, 0xb2, 0xa1], false, 7_000, 0),
        ([0xa1, 0xb2, 0xc3, 0xd4], true, 7_000, 0),
        ([0x4d, 0x3c, 0xb2, 0xa1], false, 7, 0),
        ([0xa1, 0xb2, 0x3c, 0x4d], true, 7, 0),
        ([0x34, 0xcd, 0xb2, 0xa1], false, 7_000, 8),
        ([0xa1, 0xb2, 0xcd, 0x34], true, 7_000, 8),
    ];
    for (magic, big, fraction_ns, extra_len) in kinds {
        let mut file = pcap_header_of(magic, big);
        let extra = vec![0xee; extra_len];
        file.extend(pcap_record(big, &extra, [3, 7, 5, 90], b"hello"));
        file.extend(pcap_record(big, &extra, [4, 7, 0, 60], b""));
        let (records, error) = read(&file);
        assert!(error.is_none(), "{magic:x?}: {error:?}");
        assert_eq!(
            records,
            [
                (3_000_000_000 + fraction_ns, 1, 90, b"hello".to_vec()),
                (4_000_000_000 + fraction_ns, 1, 60, vec![])
            ],
            "{magic:x?}"
        );
    }
}

#[test]
fn a_pcap_of_the_pcap_file_crate_reads_back() -> Result<(), Box<dyn std::error::Error>> {
    for (endianness, ts_resolution) in [
        (Endianness::Little, TsResolution::NanoSecond),
        (Endianness::Big, TsResolution::NanoSecond),
        (Endianness::Big, TsResolution::MicroSecond),
    ] {
        let header = pcap_file::pcap::PcapHeader {
            endianness,
            ts_resolution,
            datalink: DataLink::RAW,
            ..Default::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header)?;
        let time = std::time::Duration::from_micros(1_700_000_000_123_456);
        for len in [0usize, 1, 60, 1514, 65_535] {
            writer.write_packet(&PcapPacket::new(time, 65_535, &vec![len as u8; len]))?;
        }
        let (records, error) = read(&writer.into_writer());
        assert!(error.is_none(), "{error:?}");
        let expected = [0usize, 1, 60, 1514, 65_535]
            .map(|len| (1_700_000_000_123_456_000, 101, 65_535, vec![len as u8; len]));
        assert_eq!(records, expected);
    }
    Ok(())
}

#[test]
fn a_pcapng_of_the_pcap_file_crate_reads_back_in_both_byte_orders() -> Result<(), Box<dyn std::error::Error>>
{
    for endianness in [Endianness::Little, Endianness::Big] {
        let mut writer = PcapNgWriter::with_endianness(Vec::new(), endianness)?;
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 4,
            options: vec![
                InterfaceDescriptionOption::IfName("odd".into()),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        })?;
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![],
        })?;
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: std::time::Duration::from_nanos(5_000_000_017),
            original_len: 700,
            data: b"first".as_slice().into(),
            options: vec![],
        })?;
        writer
            .write_pcapng_block(SimplePacketBlock { original_len: 6, data: b"simple".as_slice().into() })?;
        let (records, error) = read(&writer.into_inner());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(records, [(5_000_000_017, 1, 700, b"first".to_vec()), (0, 1, 6, b"simp".to_vec()),]);
    }
    Ok(())
}

#[test]
fn the_obsolete_packet_block_is_read() {
    let mut body = words(&[1 | 3 << 16, 1, 5, 6, 80]);
    body.extend(b"second");
    let raw = block(1, &words(&[101, 0]));
    let (records, error) = read(&[section(), interface(9), raw, block(2, &body)].concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records, [(((1 << 32) + 5) * 1_000, 101, 80, b"second".to_vec())]);
}

#[test]
fn a_later_section_has_interfaces_and_a_byte_order_of_its_own() {
    let big = |word: u32| word.to_be_bytes();
    let mut file = [section(), interface(9), enhanced(0, 5, b"abcd")].concat();
    let section_words = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 0x0001_0000, u32::MAX, u32::MAX, 28];
    file.extend(section_words.into_iter().flat_map(big));
    file.extend([1, 20, 101 << 16, 0, 20].into_iter().flat_map(big));
    file.extend([6, 36, 0, 0, 9, 4, 4, 0x6566_6768, 36].into_iter().flat_map(big));
    let (records, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records, [(5, 1, 4, b"abcd".to_vec()), (9_000, 101, 4, b"efgh".to_vec())]);
}

#[test]
fn if_tsresol_scales_times_in_powers_of_ten_and_of_two() {
    let cases: [(u8, u64, u64); 7] = [
        (0, 3, 3_000_000_000),
        (6, 3, 3_000),
        (9, 3, 3),
        (12, 3_999, 3),
        (127, u64::MAX, 0),
        (0x80 | 10, 512, 500_000_000),
        (0, u64::MAX, u64::MAX),
    ];
    for (resolution, ticks, expected_ns) in cases {
        let file = [section(), interface(resolution), enhanced(0, ticks, b"x")].concat();
        let (records, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(records, [(expected_ns, 1, 1, b"x".to_vec())], "resolution {resolution}");
    }
}

#[test]
fn unknown_blocks_are_passed_over_whatever_their_length() {
    let statistics = block(5, &[7; 64]);
    let long = block(0x8000_0bad, &vec![7; 3 * BUFFER_LEN]);
    let file =
        [section(), statistics, interface(9), long, enhanced(0, 1, b"here"), block(0xbad, b"")].concat();
    let (records, error) = read(&file);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records, [(1, 1, 4, b"here".to_vec())]);
}

#[test]
fn a_capture_without_packets_is_empty_and_whole() {
    assert!(
        matches!(read(&pcap_header_of([0xd4, 0xc3, 0xb2, 0xa1], false)), (records, None) if records.is_empty())
    );
    assert!(matches!(read(&section()), (records, None) if records.is_empty()));
}

#[test]
fn what_is_no_capture_is_refused_with_what_was_found() {
    assert!(error_of(b"").contains("found an empty file"));
    assert!(error_of(b"GET /").contains("magic number of a pcap or pcapng file, found 47 45 54 20"));
    assert!(error_of(&[0x1f, 0x8b, 8, 0]).contains("gzip"));
    assert!(
        error_of(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0]).contains("header of 24 bytes, found a file of 6 bytes")
    );
}

#[test]
fn a_cut_pcap_gives_its_whole_records_and_then_the_place_of_the_cut() {
    let mut file = pcap_header_of([0xd4, 0xc3, 0xb2, 0xa1], false);
    file.extend(pcap_record(false, &[], [1, 0, 5, 5], b"whole"));
    let whole_len = file.len();
    file.extend(pcap_record(false, &[], [2, 0, 9, 9], b"cut short"));
    for cut in whole_len + 1..file.len() {
        let (records, error) = read(&file[..cut]);
        assert_eq!(records, [(1_000_000_000, 1, 5, b"whole".to_vec())]);
        let Some(CaptureError::Damaged { offset, .. }) = error else {
            panic!("cut at {cut}: {error:?}");
        };
        assert_eq!(offset, whole_len as u64);
    }
    assert_eq!(
        error_of(&file[..whole_len + 20]),
        "test.pcap: at byte 45: expected a packet of 9 bytes, found 4 before the end of the file"
    );
}

#[test]
fn captured_lengths_up_to_the_limit_are_accepted_and_longer_ones_are_damage() {
    let longest = vec![9; CAPTURED_LEN_MAX];
    let mut file = pcap_header_of([0xd4, 0xc3, 0xb2, 0xa1], false);
    file.extend(pcap_record(false, &[], [0, 1, CAPTURED_LEN_MAX as u32, 60], &longest));
    file.extend(pcap_record(false, &[], [0, 2, CAPTURED_LEN_MAX as u32 + 1, 60], &longest));
    let (records, error) = read(&file);
    assert_eq!(records, [(1_000, 1, 60, longest.clone())]);
    assert!(error.is_some_and(|error| error.to_string().contains("at most 262144 bytes, found 262145")));

    let too_long = vec![9; CAPTURED_LEN_MAX + 1];
    let far_too_long = vec![9; 2 * BUFFER_LEN];
    let file = [
        section(),
        interface(9),
        enhanced(0, 1, &too_long),
        enhanced(0, 2, &far_too_long),
        enhanced(0, 3, &longest),
    ];
    let (records, error) = read(&file.concat());
    assert_eq!(records, [(3, 1, CAPTURED_LEN_MAX as u32, longest)]);
    assert!(error.is_some_and(|error| error.to_string().contains("at most 262144 bytes, found 262145")));
}

#[test]
fn a_pcapng_block_without_sense_is_passed_over_and_reported_last() {
    let bad_interface = [section(), enhanced(0, 1, b"lost"), interface(9), enhanced(0, 2, b"kept")].concat();
    let (records, error) = read(&bad_interface);
    assert_eq!(records, [(2, 1, 4, b"kept".to_vec())]);
    let Some(CaptureError::Damaged { offset, found, .. }) = error else { panic!("{error:?}") };
    assert_eq!((offset, found.as_str()), (28, "interface 0 of 0"));

    let short_body = [section(), interface(9), block(6, &[0; 8]), enhanced(0, 3, b"kept")].concat();
    let (records, error) = read(&short_body);
    assert_eq!(records, [(3, 1, 4, b"kept".to_vec())]);
    assert!(error.is_some_and(|error| error.to_string().contains("a body of 8 bytes")));

    // A block that claims more bytes than it has gives those it has.
    let mut claims = enhanced(0, 4, b"four");
    claims[20] = 200;
    let (records, error) = read(&[section(), interface(9), claims].concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records, [(4, 1, 4, b"four".to_vec())]);
}

#[test]
fn a_cut_pcapng_gives_its_whole_packets_and_then_an_error() {
    let whole = [section(), interface(9), enhanced(0, 5, b"abcd")].concat();
    let file = [whole.clone(), enhanced(0, 6, b"efgh")].concat();
    for cut in whole.len() + 1..file.len() {
        let (records, error) = read(&file[..cut]);
        assert_eq!(records, [(5, 1, 4, b"abcd".to_vec())]);
        assert!(
            matches!(error, Some(CaptureError::Damaged { offset, .. }) if offset == whole.len() as u64),
            "cut at {cut}: {error:?}"
        );
    }
    let zeros = [whole, vec![0; 16]].concat();
    assert!(error_of(&zeros).contains("block length of at least 12, found 0"));
}

#[test]
fn what_the_writer_writes_the_pcap_file_crate_reads() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("out.pcap");
    let mut writer = CaptureWriter::create(&path, Format::Pcap, ETHERNET)?;
    writer.write(1_700_000_000_123_456_789, ETHERNET, 1514, &[b"head", b"", b"payload"])?;
    writer.write(7, ETHERNET, 60, &[])?;
    writer.finish()?;
    let mut reader = PcapReader::new(std::fs::File::open(&path)?)?;
    assert_eq!(reader.header().datalink, DataLink::ETHERNET);
    let packet = reader.next_packet().ok_or("first packet")??;
    assert_eq!(packet.timestamp.as_nanos(), 1_700_000_000_123_456_789);
    assert_eq!((packet.orig_len, &*packet.data), (1514, b"headpayload".as_slice()));
    let packet = reader.next_packet().ok_or("second packet")??;
    assert_eq!((packet.timestamp.as_nanos(), packet.orig_len, packet.data.len()), (7, 60, 0));
    assert!(reader.next_packet().is_none());

    let path = directory.path().join("out.pcapng");
    let mut writer = CaptureWriter::create(&path, Format::PcapNg, RAW_IP)?;
    writer.write(u64::MAX, RAW_IP, 9, &[b"12345"])?;
    writer.write(3, ETHERNET, 6, &[b"123", b"456"])?;
    writer.finish()?;
    let mut reader = PcapNgReader::new(std::fs::File::open(&path)?)?;
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block? {
            packets.push((
                packet.interface_id,
                packet.timestamp.as_nanos(),
                packet.original_len,
                packet.data.to_vec(),
            ));
        }
    }
    assert_eq!(packets, [(0, u128::from(u64::MAX), 9, b"12345".to_vec()), (1, 3, 6, b"123456".to_vec())]);
    let links = reader.interfaces().iter().map(|interface| interface.linktype).collect::<Vec<_>>();
    assert_eq!(links, [DataLink::RAW, DataLink::ETHERNET]);
    Ok(())
}

#[test]
fn the_writer_refuses_what_its_format_cannot_hold() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let mut writer = CaptureWriter::create(directory.path().join("out.pcap"), Format::Pcap, ETHERNET)?;
    let refusal = |result: Result<(), CaptureError>| result.map_err(|error| error.to_string()).unwrap_err();
    assert!(refusal(writer.write(0, RAW_IP, 4, &[b"abcd"])).contains("link type is 101"));
    assert!(refusal(writer.write(u64::MAX, ETHERNET, 4, &[b"abcd"])).contains("past 2106"));
    let long = vec![0; CAPTURED_LEN_MAX];
    assert!(refusal(writer.write(0, ETHERNET, 4, &[&long, b"x"])).contains("it has 262145 bytes"));
    Ok(())
}

#[test]
fn writing_reports_the_systems_errors() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let missing = directory.path().join("none").join("out.pcap");
    let error = CaptureWriter::create(&missing, Format::Pcap, ETHERNET).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    if Path::new("/dev/full").exists() {
        let writer = CaptureWriter::create("/dev/full", Format::Pcap, ETHERNET)?;
        let error = writer.finish().unwrap_err();
        assert!(error.to_string().contains("/dev/full: cannot write"), "{error}");
    }
    Ok(())
}

#[test]
fn scan_tells_the_family_and_the_first_link_type() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("capture");
    std::fs::write(&path, pcap_header_of([0xd4, 0xc3, 0xb2, 0xa1], false))?;
    assert_eq!(scan(&path)?, Summary { format: Format::Pcap, link: Some(ETHERNET) });
    std::fs::write(&path, section())?;
    assert_eq!(scan(&path)?, Summary { format: Format::PcapNg, link: None });
    std::fs::write(&path, [section(), interface(9), enhanced(0, 1, b"abcd")].concat())?;
    assert_eq!(scan(&path)?, Summary { format: Format::PcapNg, link: Some(ETHERNET) });
    Ok(())
}

/// The directory of real captures beside the workspace, if it is there.
fn traces() -> Option<PathBuf> {
    let traces = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    if traces.join("MANIFEST.tsv").exists() {
        return Some(traces);
    }
    eprintln!("skipped: ../shared/traces not present");
    None
}

#[test]
fn real_captures_give_the_packets_and_errors_of_their_manifest() -> Result<(), Box<dyn std::error::Error>> {
    let Some(traces) = traces() else { return Ok(()) };
    let manifest = std::fs::read_to_string(traces.join("MANIFEST.tsv"))?;
    let mut lines = manifest.lines();
    let columns = lines.next().ok_or("no header")?.split('\t').collect::<Vec<_>>();
    let column = |name: &str| columns.iter().position(|column| *column == name).ok_or(format!("no {name}"));
    let (file, packets, reader_error) = (column("file")?, column("packets")?, column("reader_error")?);
    let mut differences = Vec::new();
    for line in lines {
        let fields = line.split('\t').collect::<Vec<_>>();
        let mut reader = CaptureReader::open(traces.join(fields[file]))?;
        let mut count = 0u64;
        let error = loop {
            match reader.next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if count.to_string() != fields[packets] || error.is_some() != (fields[reader_error] != "-") {
            differences.push(format!(
                "{}: {count} packets, {error:?}; expected {}, {}",
                fields[file], fields[packets], fields[reader_error]
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

fn any_records() -> impl Strategy<Value = Vec<Owned>> {
    let record = (
        0..u64::from(u32::MAX) * 1_000_000_000,
        0..3u16,
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..200),
    );
    prop::collection::vec(record, 0..20)
}

/// Captures damaged in one place, and bytes that only begin like one.
fn any_damaged() -> impl Strategy<Value = Vec<u8>> {
    let pcapng = [
        section(),
        interface(9),
        enhanced(0, 1, b"abcd"),
        block(3, &words(&[4, 7])),
        block(2, &words(&[0, 0, 1, 4, 4, 9])),
    ];
    let mut pcap = pcap_header_of([0xa1, 0xb2, 0xcd, 0x34], true);
    pcap.extend(pcap_record(true, &[0; 8], [1, 1, 4, 4], b"abcd"));
    let base = prop_oneof![Just(pcap), Just(pcapng.concat())];
    let damage = (base, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40));
    damage.prop_map(|(mut bytes, at, patch)| {
        let at = at.index(bytes.len());
        let end = (at + patch.len()).min(bytes.len());
        bytes.splice(at..end, patch);
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop_oneof![any_damaged(), prop::collection::vec(any::<u8>(), 0..200)]) {
        read(&bytes);
    }

    #[test]
    fn what_was_written_is_read_back(records in any_records(), pcapng in any::<bool>()) {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("capture");
        let format = if pcapng { Format::PcapNg } else { Format::Pcap };
        let mut expected = records;
        if !pcapng {
            expected.iter_mut().for_each(|record| record.1 = 1);
        }
        let mut writer = CaptureWriter::create(&path, format, ETHERNET)?;
        for (time_ns, link, wire_len, data) in &expected {
            let (head, tail) = data.split_at(data.len() / 2);
            writer.write(*time_ns, LinkType(*link), *wire_len, &[head, tail])?;
        }
        writer.finish()?;
        let mut reader = CaptureReader::open(&path)?;
        prop_assert_eq!(reader.format(), format);
        let (records, error) = drain(&mut reader);
        prop_assert!(error.is_none());
        prop_assert_eq!(records, expected);
    }
}
