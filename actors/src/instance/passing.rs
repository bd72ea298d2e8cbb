//! What a network function sees of a packet that it handles at once: no future, no job, only references to
//! what a burst shares.

use super::context::State;
use super::records::{Records, Spot};
use crate::splitter::{Picked, Splitter};
use chc_api::packet::PacketKind;
use chc_api::packet::Parsed;
use chc_api::state::Plain;
use chc_api::{Counter, Flow, Identity, ObjectKey, Output, Passing, Protections, Replicated, Time, Verdict};
use chc_runtime::block::{BlockRef, Desc, DropRecord, Meta};
use chc_store::batch::OpName;
use chc_store::replicas::Replica;

/// Counters that travel as a bit: the first of a vertex. All later ones are pairs. Every way of counting must go
/// by this alone, for a replay may count another way.
pub const BIT_COUNTERS: u16 = 64;

/// One packet.
pub struct Passage<'a, P> {
    records: &'a Records<P>,
    replica: Option<&'a Replica<P>>,
    state: &'a mut State,
    splitter: &'a mut Splitter<P>,
    block: &'a BlockRef,
    desc: &'a Desc,
    meta: &'a Meta,
    spot: Spot,
    /// Where it goes by the first output, and where its new header begins there.
    to: Option<Picked>,
    rewritten: Option<u32>,
    pairs: u16,
}

impl<'a, P: Protections> Passage<'a, P> {
    /// A packet of a block; `spot` says where its records are.
    #[inline(always)]
    pub fn new(
        (records, replica): (&'a Records<P>, Option<&'a Replica<P>>),
        state: &'a mut State,
        splitter: &'a mut Splitter<P>,
        (block, at): (&'a BlockRef, usize),
        spot: Spot,
    ) -> Self {
        let desc = &block.descs[at];
        let meta = block.meta(desc);
        let to = splitter.pick(Output::FIRST, desc.hash, desc.clock, || meta.parsed.identity());
        Self { records, replica, state, splitter, block, desc, meta, spot, to, rewritten: None, pairs: 0 }
    }

    /// Sends it on, or what else the function says.
    #[inline(always)]
    pub fn finish(self, verdict: Verdict) {
        let Self { splitter, block, desc, .. } = self;
        match (verdict, self.rewritten) {
            (Verdict::Forward, Some(at)) => splitter.forward_rewritten(self.to, block, desc, at),
            (Verdict::Forward, None) => splitter.forward_on(self.to, block, desc),
            (Verdict::Send(output), Some(at)) => splitter.divert_rewritten(self.to, output, block, desc, at),
            (Verdict::Send(output), None) => splitter.forward(output, block, desc),
            (Verdict::Drop(reason), rewritten) => {
                if let Some(at) = rewritten {
                    splitter.undo_rewrite(self.to, at);
                }
                splitter.dropped(DropRecord { position: desc.position(), reason });
            }
        }
        splitter.enter(block, desc);
    }
}

impl<P: Protections> Passing for Passage<'_, P> {
    #[inline(always)]
    fn now(&self) -> Time {
        self.meta.time
    }

    #[inline(always)]
    fn identity(&self) -> Identity {
        self.meta.parsed.identity()
    }

    #[inline(always)]
    fn parsed(&self) -> &Parsed {
        &self.meta.parsed
    }

    #[inline(always)]
    fn header(&self) -> &[u8] {
        self.block.head(self.desc)
    }

    #[inline(always)]
    fn payload(&self) -> Option<&[u8]> {
        let (parsed, head) = (&self.meta.parsed, self.block.head(self.desc));
        if parsed.is(PacketKind::ICMP_ERROR) {
            return Some(&[]);
        }
        let range = parsed.payload_range(head);
        let tail = self.block.tail(self.desc);
        let (start, end) = (range.start.checked_sub(head.len())?, range.end.saturating_sub(head.len()));
        Some(tail.get(start..end.min(tail.len())).unwrap_or_default())
    }

    #[inline(always)]
    fn wire_len(&self) -> u32 {
        self.desc.wire_len
    }

    #[inline(always)]
    fn record<T: Plain>(&self, object: Flow<T>, timer: u8) -> Option<(T, Option<Time>)> {
        self.records.get_with_timer(object.id(), &self.meta.parsed.key, self.desc.hash, self.spot, timer)
    }

    #[inline(always)]
    fn read<T: Plain>(&self, object: Replicated<T>, key: &ObjectKey) -> Option<T> {
        self.replica?.read(object.id(), key, self.desc.clock)?.read()
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter, by: u64) {
        let client = match &mut *self.state {
            State::Store(client) => client,
            State::Local(objects) => return objects.count(counter.id(), counter.cell(), by),
        };
        let first = counter.number() < BIT_COUNTERS;
        if !first || !client.count_first(counter, self.desc.clock, self.desc.path, by) {
            client.count(counter, OpName { position: self.desc.position(), index: self.pairs }, by);
            self.pairs += 1;
        }
    }

    #[inline(always)]
    fn rewrite(&mut self, change: impl FnOnce(&mut [u8])) {
        debug_assert!(self.rewritten.is_none(), "a header is rewritten once");
        self.rewritten = Some(self.splitter.rewrite(self.to, self.block, self.desc, change));
    }
}
