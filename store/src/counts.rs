//! Coalesced counters: increments as (position, delta) pairs, checked pair by pair.
//!
//! Packets that add one are a bit in the bitmap of their epoch, so an epoch of a counter costs
//! epoch / 8 bytes whatever the traffic, and applying a batch costs a word operation per 64 clocks.

use crate::batch::{CountItem, OpName};
use chc_api::{Clock, Protection, Protections};
use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;

/// What has been counted since the cut, of one counter.
pub struct CountLedger<P> {
    epochs: BTreeMap<Clock, Vec<u64>>,
    pairs: BTreeMap<Clock, HashSet<OpName>>,
    protections: PhantomData<P>,
}

impl<P> Default for CountLedger<P> {
    fn default() -> Self {
        Self { epochs: BTreeMap::new(), pairs: BTreeMap::new(), protections: PhantomData }
    }
}

impl<P: Protections> CountLedger<P> {
    /// Takes a batch's increments; returns how much of them is new and how many were repetitions.
    pub fn take(&mut self, item: &CountItem, floor: Clock) -> (u64, u64) {
        let (mut sum, mut repeated) = (0, 0);
        if !item.bits.is_empty() && item.epoch >= floor {
            let seen = self.epochs.entry(item.epoch).or_insert_with(|| vec![0; item.bits.len()]);
            for (seen, new) in seen.iter_mut().zip(&item.bits) {
                let fresh = if P::on(Protection::UpdateSuppression) { new & !*seen } else { *new };
                sum += u64::from(fresh.count_ones());
                repeated += u64::from((new & *seen).count_ones());
                *seen |= new;
            }
        } else {
            repeated += item.bits.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        }
        for (name, by) in &item.pairs {
            let clock = name.position.clock;
            let fresh = clock >= floor && self.pairs.entry(clock).or_default().insert(*name);
            if fresh || !P::on(Protection::UpdateSuppression) {
                sum += by;
            } else {
                repeated += 1;
            }
        }
        (sum, repeated)
    }

    /// Forgets everything below the cut.
    pub fn trim(&mut self, cut: Clock) {
        self.epochs = self.epochs.split_off(&cut);
        self.pairs = self.pairs.split_off(&cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, ObjectId, Path, Position};

    fn item(epoch: u64, bits: u64, pairs: &[(u64, u64)]) -> CountItem {
        let name = |clock| OpName { position: Position::packet(Clock(clock), Path::FIRST), index: 0 };
        let pairs = pairs.iter().map(|(clock, by)| (name(*clock), *by)).collect();
        CountItem { object: ObjectId(0), epoch: Clock(epoch), bits: vec![bits], pairs }
    }

    #[test]
    fn a_pair_counts_once() {
        let mut ledger = CountLedger::<All>::default();
        assert_eq!(ledger.take(&item(64, 0b1011, &[(70, 5)]), Clock(0)), (8, 0));
        assert_eq!(ledger.take(&item(64, 0b1110, &[(70, 5), (71, 2)]), Clock(0)), (3, 3));
    }

    #[test]
    fn what_lies_below_the_cut_was_counted() {
        let mut ledger = CountLedger::<All>::default();
        ledger.take(&item(0, 1, &[]), Clock(0));
        ledger.trim(Clock(64));
        assert_eq!(ledger.take(&item(0, 1, &[(3, 9)]), Clock(64)), (0, 2));
    }
}
