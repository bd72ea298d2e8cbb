//! Coalesced counters: increments as (position, delta) pairs, checked pair by pair.
//!
//! Packets that add something are a bit in the bitmap of their epoch and path, so an epoch of a counter costs
//! epoch / 8 bytes whatever the traffic, and applying a batch costs a word operation per 64 clocks; an amount
//! other than 1 costs eight bytes and a look at its bit.

use crate::batch::{CountItem, OpName};
use chc_api::{Clock, Path, Protection, Protections};
use std::collections::{BTreeMap, HashSet};
use std::marker::PhantomData;

/// What has been counted since the cut, of one counter.
pub struct CountLedger<P> {
    epochs: BTreeMap<(Clock, Path), Vec<u64>>,
    pairs: BTreeMap<Clock, HashSet<OpName>>,
    protections: PhantomData<P>,
}

/// What came of a batch's increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How much they add.
    pub sum: u64,
    /// How many were new.
    pub fresh: u64,
    /// How many were repetitions.
    pub repeated: u64,
}

impl<P> Default for CountLedger<P> {
    fn default() -> Self {
        Self { epochs: BTreeMap::new(), pairs: BTreeMap::new(), protections: PhantomData }
    }
}

impl<P: Protections> CountLedger<P> {
    /// Takes a batch's increments.
    pub fn take(&mut self, item: &CountItem, floor: Clock) -> Taken {
        let Taken { mut sum, mut fresh, mut repeated } = Taken::default();
        if !item.bits.is_empty() && item.epoch >= floor {
            let seen = self.epochs.entry((item.epoch, item.path)).or_default();
            seen.resize(seen.len().max(item.bits.len()), 0);
            let suppress = P::on(Protection::UpdateSuppression);
            let is_fresh = |seen: &[u64], bit: u32| {
                let word = seen.get(bit as usize / 64);
                !suppress || word.is_some_and(|word| word >> (bit % 64) & 1 == 0)
            };
            // The amounts first, while the bits say what is new.
            let amounts = item.amounts.iter().filter(|(bit, _)| is_fresh(seen, *bit));
            sum += amounts.fold(0_u64, |sum, (_, by)| sum.wrapping_add(u64::from(*by)).wrapping_sub(1));
            for (seen, new) in seen.iter_mut().zip(&item.bits) {
                let added = u64::from((if suppress { new & !*seen } else { *new }).count_ones());
                sum = sum.wrapping_add(added);
                fresh += added;
                repeated += u64::from((new & *seen).count_ones());
                *seen |= new;
            }
        } else {
            repeated += item.bits.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        }
        for (name, by) in &item.pairs {
            let clock = name.position.clock;
            let is_new = clock >= floor && self.pairs.entry(clock).or_default().insert(*name);
            if is_new || !P::on(Protection::UpdateSuppression) {
                sum = sum.wrapping_add(*by);
                fresh += 1;
            } else {
                repeated += 1;
            }
        }
        Taken { sum, fresh, repeated }
    }

    /// Forgets everything below the cut.
    pub fn trim(&mut self, cut: Clock) {
        // Most counters of many cells have nothing: to split an empty map costs more than to look.
        if self.epochs.first_key_value().is_some_and(|((epoch, _), _)| *epoch < cut) {
            self.epochs = self.epochs.split_off(&(cut, Path::ZERO));
        }
        if self.pairs.first_key_value().is_some_and(|(clock, _)| *clock < cut) {
            self.pairs = self.pairs.split_off(&cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, Position};

    #[test]
    fn an_epoch_may_come_in_parts_of_different_lengths() {
        let mut ledger = CountLedger::<All>::default();
        let item = |bits: &[u64]| CountItem { bits: bits.to_vec(), ..CountItem::default() };
        assert_eq!(ledger.take(&item(&[0b1]), Clock(0)), taken((1, 1, 0)));
        assert_eq!(ledger.take(&item(&[0b11, 0, 0b1]), Clock(0)), taken((2, 2, 1)));
        assert_eq!(ledger.take(&item(&[0b10, 0b1]), Clock(0)), taken((1, 1, 1)));
        assert_eq!(ledger.take(&item(&[0, 0, 0b1]), Clock(0)), taken((0, 0, 1)));
    }

    fn taken((sum, fresh, repeated): (u64, u64, u64)) -> Taken {
        Taken { sum, fresh, repeated }
    }

    fn item(epoch: u64, bits: u64, pairs: &[(u64, u64)]) -> CountItem {
        let name = |clock| OpName { position: Position::packet(Clock(clock), Path::FIRST), index: 0 };
        let pairs = pairs.iter().map(|(clock, by)| (name(*clock), *by)).collect();
        CountItem { epoch: Clock(epoch), bits: vec![bits], pairs, ..CountItem::default() }
    }

    #[test]
    fn a_pair_counts_once() {
        let mut ledger = CountLedger::<All>::default();
        assert_eq!(ledger.take(&item(64, 0b1011, &[(70, 5)]), Clock(0)), taken((8, 4, 0)));
        assert_eq!(ledger.take(&item(64, 0b1110, &[(70, 5), (71, 2)]), Clock(0)), taken((3, 2, 3)));
    }

    #[test]
    fn what_lies_below_the_cut_was_counted() {
        let mut ledger = CountLedger::<All>::default();
        ledger.take(&item(0, 1, &[]), Clock(0));
        ledger.trim(Clock(64));
        assert_eq!(ledger.take(&item(0, 1, &[(3, 9)]), Clock(64)), taken((0, 0, 2)));
    }

    #[test]
    fn an_amount_counts_with_its_bit_and_paths_are_counted_apart() {
        let mut ledger = CountLedger::<All>::default();
        let amounts = |path, amounts: &[(u32, u32)]| {
            let bits =
                vec![amounts.iter().fold(1, |bits, (bit, _)| bits | 1_u64.checked_shl(*bit).unwrap_or(0))];
            CountItem { path, bits, amounts: amounts.to_vec(), ..CountItem::default() }
        };
        let copy = Path::FIRST.append(9);
        assert_eq!(ledger.take(&amounts(Path::FIRST, &[(3, 1500), (4, 0)]), Clock(0)), taken((1501, 3, 0)));
        assert_eq!(ledger.take(&amounts(Path::FIRST, &[(3, 1500), (5, 40)]), Clock(0)), taken((40, 1, 2)));
        assert_eq!(ledger.take(&amounts(copy, &[(3, 7)]), Clock(0)), taken((8, 2, 0)));
        assert_eq!(
            ledger.take(&amounts(copy, &[(99, 7)]), Clock(0)),
            taken((0, 0, 1)),
            "a bit that cannot be"
        );
    }
}
