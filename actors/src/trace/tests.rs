use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::ideal::{IdealChain, Input};
use crate::topology::Topology;
use chc_api::packet::{LinkType, PacketKind, ParseReason, Parsed, parse};
use chc_api::{Clock, EventKind, Time, VertexId};
use chc_runtime::capture::{CaptureWriter, Format};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::*;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

fn options(packets: u64, connections: u64, seed: u64) -> GenerateOptions {
    GenerateOptions { packets, connections, seed, ..GenerateOptions::default() }
}

fn frames(mut generator: Generator) -> Vec<(GeneratedPacket, Vec<u8>)> {
    let mut frame = Vec::new();
    std::iter::from_fn(|| generator.next(&mut frame).map(|packet| (packet, frame.clone()))).collect()
}

fn internal(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.octets()[0] == 10 || addr.octets()[..2] == [192, 168],
        IpAddr::V6(addr) => addr.segments()[2] == 1,
    }
}

/// What an independent parser says is wrong with a frame.
fn defect(frame: &[u8]) -> Option<String> {
    let packet = match LaxSlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Some(error.to_string()),
    };
    if let Some((error, _)) = packet.stop_err {
        return Some(error.to_string());
    }
    let right = match (&packet.net, &packet.transport) {
        (Some(LaxNetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            if header.header_checksum != header.calc_header_checksum() {
                return Some("IPv4 header checksum".to_owned());
            }
            let (src, dst) = (header.source, header.destination);
            match transport {
                Some(TransportSlice::Tcp(tcp)) => tcp.calc_checksum_ipv4(src, dst) == Ok(tcp.checksum()),
                Some(TransportSlice::Udp(udp)) => {
                    let wanted = udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload());
                    udp.checksum() == 0 || wanted == Ok(udp.checksum())
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
                }
                None => header.more_fragments || header.fragment_offset.value() > 0,
                _ => false,
            }
        }
        (Some(LaxNetSlice::Ipv6(ip)), transport) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(TransportSlice::Tcp(tcp)) => tcp.calc_checksum_ipv6(src, dst) == Ok(tcp.checksum()),
                Some(TransportSlice::Udp(udp)) => {
                    let wanted = udp.to_header().calc_checksum_ipv6_raw(src, dst, udp.payload());
                    wanted == Ok(udp.checksum())
                }
                Some(TransportSlice::Icmpv6(icmp)) => icmp.is_checksum_valid(src, dst),
                _ => false,
            }
        }
        _ => false,
    };
    (!right).then(|| format!("transport {:?}", packet.transport))
}

#[test]
fn one_seed_gives_one_capture_and_another_seed_another() {
    let first = frames(Generator::new(options(3_000, 100, 7)));
    assert!(first == frames(Generator::new(options(3_000, 100, 7))));
    assert!(first != frames(Generator::new(options(3_000, 100, 8))));
}

#[test]
fn packets_are_exact_and_connections_about_what_was_asked() {
    for (packets, connections, seed) in
        [(20_000, 500, 1), (20_000, 500, 2), (40_000, 1_000, 3), (20_000, 4_000, 4), (30_000, 60, 5)]
    {
        let mut generator = Generator::new(options(packets, connections, seed));
        let (mut frame, mut count, mut keys) = (Vec::new(), 0, HashSet::new());
        while generator.next(&mut frame).is_some() {
            count += 1;
            let parsed = parse(LinkType::ETHERNET, &frame);
            if !parsed.key.is_none() && !parsed.is(PacketKind::LATER_FRAGMENT) {
                keys.insert(parsed.key);
            }
        }
        assert_eq!(count, packets);
        let ratio = keys.len() as f64 / connections as f64;
        assert!((0.8..1.25).contains(&ratio), "{connections} wanted, {} made", keys.len());
    }
    assert_eq!(frames(Generator::new(options(7, 1_000, 1))).len(), 7);
    assert!(frames(Generator::new(options(0, 10, 1))).is_empty());
}

#[test]
fn time_never_goes_back_and_frames_are_64_to_1514_bytes() {
    let mut last_ns = 0;
    for (packet, frame) in frames(Generator::new(options(20_000, 500, 3))) {
        assert!(packet.time_ns >= last_ns);
        last_ns = packet.time_ns;
        assert_eq!(packet.wire_len as usize, frame.len());
        let runt = parse(LinkType::ETHERNET, &frame).reason == Some(ParseReason::Truncated);
        assert!(runt || (64..=1_514).contains(&frame.len()), "{} bytes", frame.len());
    }
}

#[test]
fn conversations_overlap_in_time() {
    let mut span: HashMap<_, (u64, u64)> = HashMap::new();
    for (packet, frame) in frames(Generator::new(options(20_000, 800, 9))) {
        let parsed = parse(LinkType::ETHERNET, &frame);
        span.entry(parsed.key).or_insert((packet.time_ns, 0)).1 = packet.time_ns;
    }
    let (mut from, mut to) = (u64::MAX, 0);
    span.values().for_each(|(first, last)| (from, to) = (from.min(*first), to.max(*last)));
    let middle = from + (to - from) / 2;
    let alive = span.values().filter(|(first, last)| *first < middle && middle < *last).count();
    assert!(alive > 30, "{alive} conversations at half time");
    assert!(to - from > 20_000_000_000, "time-outs of seconds must have time to pass");
}

#[test]
fn frames_are_valid_for_an_independent_parser_when_none_is_meant_to_be_odd() {
    let mut profile = Profile::MIX;
    profile.kinds[5] = 0;
    for (number, (_, frame)) in
        frames(Generator::new(GenerateOptions { profile, ..options(20_000, 2_000, 11) }))
            .into_iter()
            .enumerate()
    {
        if let Some(defect) = defect(&frame) {
            panic!("packet {}: {defect}: {frame:02x?}", number + 1);
        }
    }
}

#[test]
fn snaplen_cuts_the_bytes_and_keeps_the_length() {
    let whole = frames(Generator::new(options(2_000, 50, 5)));
    let cut = frames(Generator::new(GenerateOptions { snaplen: 96, ..options(2_000, 50, 5) }));
    for ((packet, frame), (cut_packet, cut_frame)) in whole.iter().zip(&cut) {
        assert_eq!(packet, cut_packet);
        assert_eq!(frame[..frame.len().min(96)], cut_frame[..]);
    }
}

/// Counts of the protocol situations that `mix` promises.
#[derive(Default, Debug)]
struct Situations {
    by_reason: HashMap<ParseReason, u64>,
    seen: HashMap<&'static str, u64>,
    syns: HashMap<chc_api::identity::Identity, u64>,
    flags_seen: HashMap<chc_api::identity::FlowKey, u8>,
    probed: HashMap<IpAddr, HashSet<IpAddr>>,
}

impl Situations {
    fn add(&mut self, parsed: &Parsed, frame: &[u8]) {
        let mut saw = |what| *self.seen.entry(what).or_default() += 1;
        if let Some(reason) = parsed.reason {
            *self.by_reason.entry(reason).or_default() += 1;
        }
        if frame.get(12..14) == Some(&[0x81, 0]) {
            saw("vlan");
        }
        if parsed.key.is_none() {
            return;
        }
        let (facts, key, tcp) = (parsed.kind, parsed.key, parsed.protocol == 6 && parsed.l4 != 0);
        let (source, destination) = (parsed.identity().source(), parsed.identity().destination());
        let flags = parsed.tcp_flags & (FIN | SYN | RST | ACK);
        let before = self.flags_seen.get(&key).copied();
        for (what, holds) in [
            ("ipv6", facts.contains(PacketKind::IPV6)),
            ("first fragment", facts.contains(PacketKind::FIRST_FRAGMENT)),
            ("later fragment", facts.contains(PacketKind::LATER_FRAGMENT)),
            ("error about a known connection", facts.contains(PacketKind::ICMP_ERROR) && before.is_some()),
            ("error about an unknown connection", facts.contains(PacketKind::ICMP_ERROR) && before.is_none()),
            ("echo", matches!(parsed.protocol, 1 | 58) && !facts.contains(PacketKind::ICMP_ERROR)),
            ("udp", parsed.protocol == 17),
            ("inbound syn", tcp && flags == SYN && internal(destination.addr) && !internal(source.addr)),
            ("syn+ack", tcp && flags == SYN | ACK && before == Some(SYN)),
            ("rst answers syn", tcp && flags == RST | ACK && before == Some(SYN)),
            ("rst after data", tcp && flags == RST | ACK && before.is_some_and(|before| before & ACK != 0)),
            ("fin", tcp && flags == FIN | ACK && before.is_some_and(|before| before & SYN != 0)),
            ("syn after fin", tcp && flags == SYN && before.is_some_and(|before| before & FIN != 0)),
            ("midway", tcp && flags == ACK && before.is_none()),
            ("stray syn+ack", tcp && flags == SYN | ACK && before.is_none()),
        ] {
            if holds {
                saw(what);
            }
        }
        if tcp && flags == SYN {
            *self.syns.entry(parsed.identity()).or_default() += 1;
            self.probed.entry(source.addr).or_default().insert(destination.addr);
        }
        if tcp {
            *self.flags_seen.entry(key).or_default() |= flags;
        } else {
            self.flags_seen.entry(key).or_default();
        }
    }
}

#[test]
fn mix_has_every_situation() {
    let mut situations = Situations::default();
    for (_, frame) in frames(Generator::new(options(40_000, 3_000, 1))) {
        situations.add(&parse(LinkType::ETHERNET, &frame), &frame);
    }
    for what in [
        "vlan",
        "ipv6",
        "first fragment",
        "later fragment",
        "error about a known connection",
        "echo",
        "udp",
        "inbound syn",
        "syn+ack",
        "rst answers syn",
        "rst after data",
        "fin",
        "syn after fin",
        "midway",
        "stray syn+ack",
    ] {
        assert!(situations.seen.contains_key(what), "no {what}: {:?}", situations.seen);
    }
    assert_eq!(situations.seen.get("error about an unknown connection"), None);
    assert!(situations.syns.values().any(|count| *count > 1), "no SYN is repeated");
    for reason in [
        ParseReason::BadIpHeader,
        ParseReason::Truncated,
        ParseReason::NotIp,
        ParseReason::Llc,
        ParseReason::TruncatedTransport,
    ] {
        assert!(situations.by_reason.contains_key(&reason), "no {reason}: {:?}", situations.by_reason);
    }
    let widest = |inside| {
        let probed = situations.probed.iter().filter(|(source, _)| internal(**source) == inside);
        probed.map(|(_, destinations)| destinations.len()).max().unwrap_or(0)
    };
    assert!(widest(true) >= 10 && widest(false) >= 10, "scans: {} {}", widest(true), widest(false));
}

#[test]
fn a_written_capture_has_the_info_of_what_was_generated() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("mix.pcap");
    let options = GenerateOptions { snaplen: 128, ..options(5_000, 200, 3) };
    let mut reports = Vec::new();
    write(options, &path, |written| reports.push(written))?;
    assert_eq!(reports, [4_096, 5_000]);

    let generated = frames(Generator::new(options));
    let info = info(&path, |_| {})?;
    let mut lens = generated.iter().map(|(packet, _)| packet.wire_len).collect::<Vec<_>>();
    lens.sort_unstable();
    let bytes = lens.iter().map(|len| u64::from(*len)).sum::<u64>();
    assert_eq!((info.packets, info.wire_bytes), (5_000, bytes));
    assert_eq!(info.median_wire_len, f64::from(lens[2_499] + lens[2_500]) / 2.0);
    assert_eq!(info.mean_wire_len, bytes as f64 / 5_000.0);
    assert_eq!(info.snaplen_cut_packets, lens.iter().filter(|len| **len > 128).count() as u64);
    let duration_ns = generated[4_999].0.time_ns - generated[0].0.time_ns;
    assert_eq!(info.duration_s, duration_ns as f64 / 1e9);
    assert_eq!((info.format, &info.link_types[..], &info.error), ("pcap", &[1][..], &None));
    let kinds = [info.tcp_connections, info.udp_connections, info.icmp_connections, info.other_connections];
    assert_eq!(info.connections, kinds.iter().sum::<u64>());
    assert!(kinds[..3].iter().all(|count| *count > 0), "{kinds:?}");
    assert!(serde_json::to_string(&info)?.contains("\"packets\":5000"));
    Ok(())
}

#[test]
fn info_of_a_damaged_capture_counts_what_is_readable() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("cut.pcap");
    let writer = CaptureWriter::create(&path, Format::Pcap, LinkType::ETHERNET)?;
    writer.finish()?;
    let empty = info(&path, |_| {})?;
    assert_eq!((empty.packets, empty.median_wire_len, empty.mean_wire_len), (0, 0.0, 0.0));
    write(options(10, 2, 1), &path, |_| {})?;
    let bytes = std::fs::read(&path)?;
    std::fs::write(&path, &bytes[..bytes.len() - 1])?;
    let cut = info(&path, |_| {})?;
    assert_eq!(cut.packets, 9);
    assert!(cut.error.is_some_and(|error| error.contains("before the end of the file")));
    std::fs::write(&path, b"no capture")?;
    assert!(info(&path, |_| {}).is_err());
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
fn info_of_real_captures_agrees_with_their_manifest() -> Result<(), Box<dyn std::error::Error>> {
    let Some(traces) = traces() else { return Ok(()) };
    let manifest = std::fs::read_to_string(traces.join("MANIFEST.tsv"))?;
    let mut lines = manifest.lines();
    let columns = lines.next().ok_or("no header")?.split('\t').collect::<Vec<_>>();
    let mut differences = Vec::new();
    for line in lines {
        let fields = columns.iter().copied().zip(line.split('\t')).collect::<HashMap<_, _>>();
        let info = info(traces.join(fields["file"]), |_| {})?;
        let mut compare = |name: &str, ours: f64, tolerance: f64| {
            let theirs = fields[name].parse::<f64>().unwrap_or(f64::NAN);
            if (ours - theirs).abs() > tolerance {
                differences.push(format!("{}: {name} {ours}, expected {}", fields["file"], fields[name]));
            }
        };
        compare("packets", info.packets as f64, 0.0);
        // The manifest rounds means to one decimal.
        compare("mean_wire_len", info.mean_wire_len, 0.051);
        compare("median_wire_len", info.median_wire_len, 0.0);
        compare("snaplen_cut_pkts", info.snaplen_cut_packets as f64, 0.0);
        // In broken packets, and in ICMP errors about connections not captured, the two see different things.
        if !fields["file"].starts_with("e-odd/") {
            compare("tcp_flows", info.tcp_connections as f64, 0.0);
            compare("udp_flows", info.udp_connections as f64, 0.0);
            compare("hosts", info.hosts as f64, info.hosts as f64 / 50.0);
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn both_profiles_have_the_sizes_they_are_named_for() {
    // As many packets a connection as the whole profiles have.
    let cases = [(Profile::TRACE1, 120_000, 54, 368.0), (Profile::TRACE2, 120_000, 3_731, 1_434.0)];
    for (profile, packets, connections, median) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace.pcap");
        let options = GenerateOptions { profile, snaplen: 96, ..options(packets, connections, 3) };
        write(options, &path, |_| {}).unwrap();
        let info = info(&path, |_| {}).unwrap();
        assert_eq!((info.packets, info.median_wire_len), (packets, median));
        let off = info.connections.abs_diff(connections);
        assert!(off <= (connections / 50).max(1), "{} connections, want {connections}", info.connections);
    }
}

#[test]
fn trojans_are_found_and_nobody_else_is() {
    let options = GenerateOptions { trojans: 3, ..options(6_000, 150, 4) };
    let mut chain = IdealChain::new(8192, Topology::line(1), None);
    let config = serde_json::json!({});
    chc_nf_catalog::with("trojan", &config, 64, 1, chain.append(VertexId(0))).unwrap();
    let mut hosts = 0;
    for (clock, (packet, frame)) in (0..).zip(frames(Generator::new(options))) {
        let parsed = parse(LinkType::ETHERNET, &frame);
        hosts += u64::from(parsed.identity().source().addr == IpAddr::V4(Ipv4Addr::new(172, 16, 99, 2)));
        chain.feed(&Input {
            clock: Clock(clock),
            time: Time(packet.time_ns),
            is_step: true,
            number: clock + 1,
            link: LinkType::ETHERNET,
            wire_len: packet.wire_len,
            frame: &frame,
            parsed,
            identity: parsed.identity(),
        });
    }
    let alerts = chain.take_events().into_iter().filter(|e| matches!(e.event.kind, EventKind::Alert { .. }));
    let infected: Vec<IpAddr> = alerts.map(|e| e.event.key.source(e.event.direction).addr).collect();
    let want = [1, 2, 3].map(|host| IpAddr::V4(Ipv4Addr::new(172, 16, 99, host)));
    assert_eq!(infected, want);
    assert!(hosts > 20, "{hosts} packets of one of them");
}

#[test]
fn what_cannot_be_made_is_refused() {
    let check = |packets, connections, trojans| {
        GenerateOptions { trojans, ..options(packets, connections, 1) }.check()
    };
    assert_eq!(check(1_000, 250, 0), Ok(()));
    let error = check(1_000, 251, 0).unwrap_err();
    assert_eq!(error, GenerateError::Connections { connections: 251, packets: 1_000, needed: 1_004 });
    assert!(matches!(check(1_000, 10, 20), Err(GenerateError::Trojans { trojans: 20, .. })));
    assert!(matches!(check(u64::MAX, 10, 1 << 40), Err(GenerateError::TrojanHosts(_))));
}
