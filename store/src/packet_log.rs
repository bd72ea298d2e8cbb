//! The log of packets in flight, where the store keeps it: what the root has stamped and the cut has not passed.
//!
//! The root sends the packets of a burst in one batch and lets none of them go on before the shard has it. Batches are kept
//! as they come; at the cut whole ones go. Memory: the packets of a window and of one batch, as the root bounds them.
//! Paper: section 5 (logging), 7.2.

use chc_api::packet::link::LinkType;
use chc_api::{Clock, Side, Time};
use std::collections::VecDeque;

/// One packet as it was stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its stamp.
    pub clock: Clock,
    /// Packet time.
    pub time: Time,
    /// When it arrived.
    pub arrival: Time,
    /// Where it came from.
    pub side: Side,
    /// What the frame begins with.
    pub link: LinkType,
    /// Length on the wire, in bytes.
    pub wire_len: u32,
    /// Captured bytes, which follow those of the entry before.
    pub len: u32,
}

/// The packets of a burst, in the order of their clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// The root that stamped them.
    pub root: u16,
    /// Its number among that root's, from 1.
    pub number: u64,
    /// The packets.
    pub entries: Vec<LogEntry>,
    /// Their captured bytes, one after the other.
    pub bytes: Vec<u8>,
}

/// The shard's end.
#[derive(Debug, Default)]
pub struct PacketLog {
    batches: VecDeque<LogBatch>,
}

impl PacketLog {
    /// Keeps a batch.
    pub fn add(&mut self, batch: LogBatch) {
        self.batches.push_back(batch);
    }

    /// Forgets the batches all of whose packets are below the cut.
    pub fn trim(&mut self, cut: Clock) {
        let is_old = |batch: &LogBatch| batch.entries.last().is_none_or(|last| last.clock < cut);
        while self.batches.front().is_some_and(is_old) {
            self.batches.pop_front();
        }
    }

    /// The packets that are kept, with their bytes.
    pub fn entries(&self) -> impl Iterator<Item = (LogEntry, &[u8])> {
        self.batches.iter().flat_map(|batch| {
            let mut from = 0;
            batch.entries.iter().map(move |entry| {
                let bytes = &batch.bytes[from..from + entry.len as usize];
                from += bytes.len();
                (*entry, bytes)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_kept_until_the_cut_has_passed_the_last_of_their_batch() {
        let entry = |clock: u64, len| LogEntry {
            clock: Clock(clock),
            time: Time(clock),
            arrival: Time(clock),
            side: Side::Inside,
            link: LinkType::ETHERNET,
            wire_len: 60,
            len,
        };
        let mut log = PacketLog::default();
        let first =
            LogBatch { root: 0, number: 1, entries: vec![entry(3, 2), entry(5, 1)], bytes: vec![1, 2, 3] };
        log.add(first);
        log.add(LogBatch { root: 0, number: 2, entries: vec![entry(8, 1)], bytes: vec![4] });
        let kept = |log: &PacketLog| {
            log.entries().map(|(entry, bytes)| (entry.clock.0, bytes.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(kept(&log), [(3, vec![1, 2]), (5, vec![3]), (8, vec![4])]);
        log.trim(Clock(5));
        assert_eq!(kept(&log).len(), 3);
        log.trim(Clock(8));
        assert_eq!(kept(&log), [(8, vec![4])]);
        log.trim(Clock(9));
        assert!(kept(&log).is_empty());
    }
}
