//! A bare translation loop: the calibration every other figure is to be compared with.
//!
//! It does what no translator of packets in memory can leave out, in the way that costs least: in
//! batches of 32, copy each packet in, parse it and hash its connection; then look all of them up at
//! once, so that cache misses overlap; then rewrite each packet's source and update its checksums. It
//! uses the product's own parser, hash and table, but has no actors, no metadata, no clocks, no timers,
//! no counters and no new connections, and forgets each batch when the next comes.

use crate::traffic::Traffic;
use chc_actors::chain::compile::SEED;
use chc_api::FlowKey;
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::{Parsed, parse};
use chc_api::packet::{ChecksumDelta, Ipv4Header, TcpHeader, view_mut};
use chc_store::record::RecordShape;
use chc_store::table::{FlowTable, Hint};
use hdrhistogram::Histogram;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Packets of a batch.
const BATCH: usize = 32;
/// As a translator's record: address and port, owner, and one timer.
const SHAPE: RecordShape = RecordShape { value_len: 16, timers: 1 };

/// The loop and its table.
pub struct Bare {
    traffic: Arc<Traffic>,
    table: FlowTable,
    arena: Vec<u8>,
    parsed: Vec<Parsed>,
    hashes: Vec<u64>,
    hints: Vec<Hint>,
}

impl Bare {
    /// A loop that knows every established connection of the traffic.
    #[must_use]
    pub fn new(traffic: Arc<Traffic>) -> Self {
        let mut table = FlowTable::new(SHAPE);
        for (at, frame) in traffic.first_frames().enumerate() {
            let key = parse(LinkType::ETHERNET, frame).key;
            let row = table.insert(&key, key.hash(SEED));
            let port = 1024 + (at % 60_000) as u64;
            table.record_mut(row)[0] = port << 32 | (0xcb00_7101 + at as u64 / 60_000);
        }
        let size = traffic.options().size;
        Self {
            traffic,
            table,
            arena: vec![0; BATCH * size],
            parsed: Vec::with_capacity(BATCH),
            hashes: Vec::with_capacity(BATCH),
            hints: Vec::with_capacity(BATCH),
        }
    }

    /// Translates `packets` packets, in whole batches. With a histogram it notes the time each batch
    /// takes, in nanoseconds: every packet of a batch leaves when the batch does.
    ///
    /// # Errors
    /// If a packet belongs to no connection: a defect.
    pub fn run(&mut self, packets: usize, mut latency: Option<&mut Histogram<u64>>) -> anyhow::Result<()> {
        let traffic = self.traffic.clone();
        let mut frames = traffic.data();
        for _ in 0..packets.div_ceil(BATCH) {
            let begin = latency.is_some().then(Instant::now);
            let translated = self.batch(frames.by_ref().take(BATCH), traffic.options().size);
            anyhow::ensure!(translated == BATCH, "{} packets had no translation", BATCH - translated);
            if let (Some(histogram), Some(begin)) = (latency.as_deref_mut(), begin) {
                histogram.saturating_record(begin.elapsed().as_nanos() as u64);
            }
        }
        Ok(())
    }

    fn batch<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>, size: usize) -> usize {
        self.parsed.clear();
        self.hashes.clear();
        for (frame, into) in frames.zip(self.arena.chunks_exact_mut(size)) {
            into.copy_from_slice(frame);
            let parsed = parse(LinkType::ETHERNET, into);
            self.hashes.push(parsed.key.hash(SEED));
            self.parsed.push(parsed);
        }
        self.hints.clear();
        self.hints.extend(self.hashes.iter().map(|hash| self.table.hint(*hash)));
        // The loads must happen; their values do not matter.
        black_box(self.hints.iter().fold(0, |all, hint| all ^ self.table.touch(*hint)));
        let mut translated = 0;
        for (at, (parsed, packet)) in self.parsed.iter().zip(self.arena.chunks_exact_mut(size)).enumerate() {
            if let Some(mapping) = mapping(&self.table, &parsed.key, self.hashes[at], self.hints[at]) {
                translated += usize::from(rewrite(packet, parsed, mapping).is_some());
            }
        }
        black_box(&mut self.arena);
        translated
    }
}

/// External address and port of a connection.
#[inline]
fn mapping(table: &FlowTable, key: &FlowKey, hash: u64, hint: Hint) -> Option<(u32, u16)> {
    let row = table.find(key, hash, hint)?;
    let word = table.record(row)[0];
    Some((word as u32, (word >> 32) as u16))
}

#[inline]
fn rewrite(packet: &mut [u8], parsed: &Parsed, (address, port): (u32, u16)) -> Option<()> {
    let ip = view_mut::<Ipv4Header>(packet, usize::from(parsed.l3))?;
    let delta = ChecksumDelta::new().u32(ip.src.get(), address);
    ip.src.set(address);
    ip.checksum.set(delta.apply(ip.checksum.get()));
    let segment = view_mut::<TcpHeader>(packet, usize::from(parsed.l4))?;
    let delta = delta.u16(segment.src_port.get(), port);
    segment.src_port.set(port);
    segment.checksum.set(delta.apply(segment.checksum.get()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::TrafficOptions;
    use chc_api::packet::Checksum;

    #[test]
    fn every_packet_leaves_with_its_external_address_and_right_checksums() {
        let options = TrafficOptions { size: 64, flows: 50, packets: 0, new_share: 0.0 };
        let mut bare = Bare::new(Arc::new(Traffic::new(options)));
        bare.run(320, None).unwrap();
        for packet in bare.arena.chunks_exact(64) {
            assert_eq!(packet[26..30], [203, 0, 113, 1]);
            assert_eq!(Checksum::of(&packet[14..34]), 0);
        }
    }
}
