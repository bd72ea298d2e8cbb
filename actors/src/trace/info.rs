//! What is in a capture: packets, connections, lengths, hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use chc_api::identity::FlowKey;
use chc_api::packet::{PacketKind, parse, protocol};
use chc_runtime::capture::{CaptureError, CaptureReader, Format, Record};
use hashbrown::HashSet;
use serde::Serialize;

/// Packets between two reports of progress.
const PROGRESS_EVERY: u64 = 1 << 16;

/// Summary of a capture file. Memory to make it grows with connections and hosts, not with packets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceInfo {
    /// `pcap` or `pcapng`.
    pub format: &'static str,
    /// Link types of the packets, as LINKTYPE_ numbers.
    pub link_types: Vec<u16>,
    /// Readable packets.
    pub packets: u64,
    /// Distinct connection identities, both directions counting as one; fragments without ports count for none.
    pub connections: u64,
    /// Connections of TCP.
    pub tcp_connections: u64,
    /// Connections of UDP.
    pub udp_connections: u64,
    /// Identities of ICMP and ICMPv6; errors belong to the connection they quote.
    pub icmp_connections: u64,
    /// Identities of all other IP protocols.
    pub other_connections: u64,
    /// Distinct addresses of the identities and of later fragments.
    pub hosts: u64,
    /// Packets without an identity, and later fragments.
    pub packets_without_connection: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Mean length on the wire in bytes; 0 without packets.
    pub mean_wire_len: f64,
    /// Median length on the wire in bytes; 0 without packets.
    pub median_wire_len: f64,
    /// From the earliest to the latest time, in seconds.
    pub duration_s: f64,
    /// Packets of which fewer bytes were captured than were on the wire.
    pub snaplen_cut_packets: u64,
    /// Why reading ended early, if it did.
    pub error: Option<String>,
}

/// Reads the whole capture; `progress` is told, now and then, how many packets were read. Damage does not fail it: it is
/// told in [`TraceInfo::error`], and what is before counts.
///
/// Errors: the file cannot be opened, or is no capture.
pub fn info(path: impl AsRef<Path>, progress: impl Fn(u64)) -> Result<TraceInfo, CaptureError> {
    let mut reader = CaptureReader::open(path)?;
    let mut tally = Tally::default();
    let error = loop {
        match reader.next() {
            Ok(Some(record)) => {
                tally.add(&record);
                if tally.packets.is_multiple_of(PROGRESS_EVERY) {
                    progress(tally.packets);
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    Ok(tally.finish(reader.format(), error))
}

#[derive(Default)]
struct Tally {
    packets: u64,
    wire_bytes: u64,
    without_connection: u64,
    snaplen_cut: u64,
    /// Earliest and latest time.
    span_ns: Option<(u64, u64)>,
    links: BTreeSet<u16>,
    connections: HashSet<FlowKey>,
    /// Keys without ports of later fragments: not connections, but their hosts count.
    fragments: HashSet<FlowKey>,
    /// Packets of each length on the wire.
    lengths: BTreeMap<u32, u64>,
}

impl Tally {
    fn add(&mut self, record: &Record<'_>) {
        self.packets += 1;
        self.wire_bytes += u64::from(record.wire_len);
        self.snaplen_cut += u64::from(record.data.len() < record.wire_len as usize);
        let (first, last) = self.span_ns.unwrap_or((record.time_ns, record.time_ns));
        self.span_ns = Some((first.min(record.time_ns), last.max(record.time_ns)));
        if !self.links.contains(&record.link.0) {
            self.links.insert(record.link.0);
        }
        *self.lengths.entry(record.wire_len).or_default() += 1;
        let parsed = parse(record.link, record.data);
        if parsed.key.is_none() {
            self.without_connection += 1;
        } else if parsed.is(PacketKind::LATER_FRAGMENT) {
            self.without_connection += 1;
            self.fragments.insert(parsed.key);
        } else {
            self.connections.insert(parsed.key);
        }
    }

    fn finish(self, format: Format, error: Option<String>) -> TraceInfo {
        let count = |wanted: &dyn Fn(u8) -> bool| {
            self.connections.iter().filter(|key| wanted(key.protocol())).count() as u64
        };
        let tcp = count(&|number| number == protocol::TCP);
        let udp = count(&|number| number == protocol::UDP);
        let icmp = count(&|number| matches!(number, protocol::ICMP | protocol::ICMPV6));
        let connections = self.connections.len() as u64;
        let keys = self.connections.iter().chain(&self.fragments);
        let hosts: HashSet<IpAddr> = keys.flat_map(|key| [key.low().addr, key.high().addr]).collect();
        let (first, last) = self.span_ns.unwrap_or_default();
        TraceInfo {
            format: match format {
                Format::Pcap => "pcap",
                Format::PcapNg => "pcapng",
            },
            packets: self.packets,
            connections,
            tcp_connections: tcp,
            udp_connections: udp,
            icmp_connections: icmp,
            other_connections: connections - tcp - udp - icmp,
            hosts: hosts.len() as u64,
            packets_without_connection: self.without_connection,
            wire_bytes: self.wire_bytes,
            mean_wire_len: self.wire_bytes as f64 / self.packets.max(1) as f64,
            median_wire_len: median(&self.lengths, self.packets),
            duration_s: (last - first) as f64 / 1e9,
            snaplen_cut_packets: self.snaplen_cut,
            link_types: self.links.into_iter().collect(),
            error,
        }
    }
}

/// Median of `count` lengths: the middle one, or the mean of the middle two.
fn median(lengths: &BTreeMap<u32, u64>, count: u64) -> f64 {
    let length_at = |place: u64| {
        let mut before = 0;
        let mut entries = lengths.iter();
        let found = entries.find(|(_, packets)| {
            before += **packets;
            before > place
        });
        found.map_or(0, |(length, _)| *length)
    };
    if count == 0 {
        return 0.0;
    }
    (f64::from(length_at((count - 1) / 2)) + f64::from(length_at(count / 2))) / 2.0
}
