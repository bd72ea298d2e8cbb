//! Packets put into the order of the input where they come from several senders, or from one that does not keep
//! it.
//!
//! A packet waits until nothing below it can come any more. Packets come in runs that are sorted already, one a
//! sender as a rule, so putting them in order merges runs: a few comparisons a packet, whatever waits. Memory:
//! the root's window.

use chc_api::{Clock, Path, Position};
use chc_runtime::block::BlockRef;
use slab::Slab;

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    clock: Clock,
    path: Path,
    /// Which of the blocks something of which waits.
    pub block: u32,
    /// Which packet of its block.
    pub at: u32,
}

impl Held {
    fn position(&self) -> Position {
        Position::packet(self.clock, self.path)
    }
}

/// The packets that wait.
#[derive(Default)]
pub struct Order {
    waiting: Vec<Held>,
    is_sorted: bool,
    /// Blocks something of which waits, and how much.
    blocks: Slab<(BlockRef, usize)>,
}

impl Order {
    /// Adds packets of a block, by their places in it.
    pub fn add(&mut self, block: &BlockRef, places: impl IntoIterator<Item = usize>) {
        let (key, before) = (self.blocks.vacant_key() as u32, self.waiting.len());
        self.waiting.extend(places.into_iter().map(|at| {
            let desc = &block.descs[at];
            Held { clock: desc.clock, path: desc.path, block: key, at: at as u32 }
        }));
        let added = self.waiting.len() - before;
        if added > 0 {
            self.blocks.insert((block.clone(), added));
            self.is_sorted = false;
        }
    }

    /// Moves the packets up to `progress` to `ready`, lowest first: below `progress` nothing can come any more.
    /// Each must be given to [`Self::done`].
    pub fn take_ready(&mut self, progress: Position, ready: &mut Vec<Held>) {
        if !self.is_sorted {
            self.waiting.sort_by_key(|held| (held.clock, held.path));
            self.is_sorted = true;
        }
        let len = self.waiting.partition_point(|held| held.position() <= progress);
        ready.extend(self.waiting.drain(..len));
    }

    /// The block of a packet.
    #[inline]
    #[must_use]
    pub fn block(&self, held: &Held) -> &BlockRef {
        &self.blocks[held.block as usize].0
    }

    /// A packet was handed on.
    #[inline]
    pub fn done(&mut self, held: &Held) {
        let (_, left) = &mut self.blocks[held.block as usize];
        *left -= 1;
        if *left == 0 {
            self.blocks.remove(held.block as usize);
        }
    }

    /// Whether nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The lowest position that waits.
    #[must_use]
    pub fn lowest(&self) -> Option<Position> {
        self.waiting.iter().map(Held::position).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::Time;
    use chc_api::packet::link::LinkType;
    use chc_api::packet::parse::parse;
    use chc_runtime::block::{BlockBuilder, BlockPool, Ingest, Meta};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn block(pool: &Arc<BlockPool>, clocks: &[u64]) -> BlockRef {
        let mut builder = BlockBuilder::new(pool.clone());
        for clock in clocks {
            let ingest = Ingest { clock: Clock(*clock), path: Path::FIRST, hash: 0, wire_len: 1, bits: 0 };
            let parsed = parse(LinkType::ETHERNET, &[0]);
            let meta = Meta::new(parsed, LinkType::ETHERNET, Time(0), Time(0), 1);
            builder.ingest(&mut (&[0]).into(), 1, ingest, || meta);
        }
        builder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_ready_leaves_lowest_first_and_the_rest_stays(
            blocks in proptest::collection::vec(proptest::collection::vec(0u64..1000, 1..20), 1..10),
        ) {
            let (pool, mut order, mut ready) = (BlockPool::new(), Order::default(), Vec::new());
            let mut model: Vec<u64> = Vec::new();
            let mut progress = 0;
            for clocks in &blocks {
                let clocks: Vec<u64> = clocks.iter().map(|clock| progress + clock).collect();
                order.add(&block(&pool, &clocks), 0..clocks.len());
                model.extend(&clocks);
                model.sort_unstable();
                progress += 300;
                order.take_ready(Position::packet(Clock(progress), Path::FIRST), &mut ready);
                let left = model.split_off(model.partition_point(|clock| *clock <= progress));
                let mut got = Vec::new();
                for held in ready.drain(..) {
                    got.push(order.block(&held).descs[held.at as usize].clock.0);
                    order.done(&held);
                }
                prop_assert_eq!(got, std::mem::replace(&mut model, left));
                prop_assert_eq!(order.lowest().map(|p| p.clock.0), model.first().copied());
            }
            order.take_ready(Position::packet(Clock(u64::MAX), Path::FIRST), &mut ready);
            ready.iter().for_each(|held| order.done(held));
            prop_assert!(order.is_empty() && order.blocks.is_empty());
        }
    }
}
