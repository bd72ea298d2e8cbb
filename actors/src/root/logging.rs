//! Packets on their way into the store's log: none leaves the root before it is there.
//!
//! What the root sends is held, in its order, behind the last batch that was given to the log. Memory: the window.

use super::core::Arrival;
use crate::messages::RootEffect;
use chc_api::{Clock, Time};
use chc_store::packet_log::{LogBatch, LogEntry};
use std::collections::VecDeque;

/// The root's end of the log.
pub struct Logging {
    /// What was stamped since the last batch.
    batch: LogBatch,
    /// Batches given to the log.
    given: u64,
    /// What is to be sent when the log has this batch and all before.
    held: VecDeque<(u64, RootEffect)>,
}

impl Logging {
    /// A root that has stamped nothing.
    pub fn new(root: u16) -> Self {
        Self { batch: LogBatch { root, ..LogBatch::default() }, given: 0, held: VecDeque::new() }
    }

    /// A packet was stamped.
    pub fn add(&mut self, clock: Clock, time: Time, arrival: &Arrival<'_>) {
        self.batch.entries.push(LogEntry {
            clock,
            time,
            arrival: arrival.time,
            side: arrival.side,
            link: arrival.link,
            wire_len: arrival.wire_len,
            len: arrival.frame.len() as u32,
        });
        self.batch.bytes.extend_from_slice(&arrival.frame);
    }

    /// Gives the log what was stamped, and holds what is to be sent, if something is not in the log yet.
    pub fn hold(&mut self, sends: impl Iterator<Item = RootEffect>, out: &mut Vec<RootEffect>) {
        if !self.batch.entries.is_empty() {
            self.given += 1;
            let (entries, bytes) = (self.batch.entries.len(), self.batch.bytes.len());
            let next = LogBatch {
                root: self.batch.root,
                number: 0,
                entries: Vec::with_capacity(entries),
                bytes: Vec::with_capacity(bytes),
            };
            let batch = LogBatch { number: self.given, ..std::mem::replace(&mut self.batch, next) };
            out.push(RootEffect::Log(batch));
            self.held.extend(sends.map(|send| (self.given, send)));
        } else if self.held.is_empty() {
            out.extend(sends);
        } else {
            self.held.extend(sends.map(|send| (self.given, send)));
        }
    }

    /// The log has all batches up to this one.
    pub fn on_logged(&mut self, number: u64, out: &mut Vec<RootEffect>) {
        let ready = self.held.iter().take_while(|(after, _)| *after <= number).count();
        out.extend(self.held.drain(..ready).map(|(_, send)| send));
    }
}
