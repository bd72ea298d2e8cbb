//! Coalesced counters: increments as (position, delta) pairs, checked pair by pair.
//!
//! Packets that add something are a bit in the bitmap of their epoch and path, so an epoch of a counter costs
//! epoch / 8 bytes whatever the traffic, and applying a batch costs a word operation per 64 clocks; an amount
//! other than 1 costs eight bytes and, where some of its epoch came before, a look at its bit.

use crate::batch::{CountItem, OpName};
use chc_api::{Clock, Path, Protection, Protections};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::marker::PhantomData;

/// What has been counted since the cut, of one counter.
pub struct CountLedger<P> {
    /// Sorted: the window has few epochs, and a new one is the last as a rule.
    epochs: VecDeque<((Clock, Path), Vec<u64>)>,
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
        Self { epochs: VecDeque::new(), pairs: BTreeMap::new(), protections: PhantomData }
    }
}

impl<P: Protections> CountLedger<P> {
    /// Takes a batch's increments.
    pub fn take(&mut self, item: &CountItem, floor: Clock) -> Taken {
        let Taken { mut sum, mut fresh, mut repeated } = Taken::default();
        if !item.bits.is_empty() && item.epoch >= floor {
            let seen = self.seen((item.epoch, item.path));
            let is_first = seen.is_empty();
            seen.resize(seen.len().max(item.bits.len()), 0);
            let suppress = P::on(Protection::UpdateSuppression);
            let highest = item.amounts.iter().fold(0, |highest, (bit, _)| highest.max(*bit));
            // The amounts before the bits that say what is new.
            sum = if is_first && (highest as usize) < seen.len() * 64 {
                sum_of(item.amounts.iter())
            } else {
                let is_fresh = |bit: u32| {
                    let word = seen.get(bit as usize / 64);
                    !suppress || word.is_some_and(|word| word >> (bit % 64) & 1 == 0)
                };
                sum_of(item.amounts.iter().filter(|(bit, _)| is_fresh(*bit)))
            };
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

    /// The bits of an epoch and path.
    fn seen(&mut self, of: (Clock, Path)) -> &mut Vec<u64> {
        let at = self.epochs.binary_search_by_key(&of, |(of, _)| *of).unwrap_or_else(|at| {
            self.epochs.insert(at, (of, Vec::new()));
            at
        });
        &mut self.epochs[at].1
    }

    /// Forgets everything below the cut.
    pub fn trim(&mut self, cut: Clock) {
        while self.epochs.front().is_some_and(|((epoch, _), _)| *epoch < cut) {
            self.epochs.pop_front();
        }
        // To split an empty map costs more than to look.
        if self.pairs.first_key_value().is_some_and(|(clock, _)| *clock < cut) {
            self.pairs = self.pairs.split_off(&cut);
        }
    }
}

/// What amounts add to the 1 that each of their bits stands for.
fn sum_of<'a>(amounts: impl Iterator<Item = &'a (u32, u32)>) -> u64 {
    amounts.fold(0, |sum, (_, by)| sum.wrapping_add(u64::from(*by)).wrapping_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chc_api::{All, Position};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_packet_counts_once_however_its_epoch_comes(
            items in proptest::collection::vec((0u64..4, 0u8..2, proptest::collection::vec((0u32..150, 0u32..3), 0..40), 0u64..100), 1..40),
        ) {
            let (mut ledger, mut model, mut cut) = (CountLedger::<All>::default(), HashSet::new(), 0);
            for (ahead, path, mut added, advance) in items {
                added.sort_unstable();
                added.dedup_by_key(|(bit, _)| *bit);
                let epoch = cut / 150 * 150 + ahead * 150;
                let mut item = CountItem {
                    epoch: Clock(epoch),
                    path: if path == 0 { Path::FIRST } else { Path::FIRST.append(path) },
                    bits: vec![0; added.last().map_or(0, |(bit, _)| *bit as usize / 64 + 1)],
                    ..CountItem::default()
                };
                added.iter().for_each(|(bit, _)| item.bits[*bit as usize / 64] |= 1 << (bit % 64));
                item.amounts = added.iter().copied().filter(|(_, by)| *by != 1).collect();
                let mut expected = Taken::default();
                for (bit, by) in added {
                    if epoch >= cut && model.insert((epoch, path, bit)) {
                        expected.sum += u64::from(by);
                        expected.fresh += 1;
                    } else {
                        expected.repeated += 1;
                    }
                }
                prop_assert_eq!(ledger.take(&item, Clock(cut)), expected);
                cut += advance;
                ledger.trim(Clock(cut));
                prop_assert!(ledger.epochs.len() <= 2 * 6, "what is below the cut is gone");
            }
        }
    }

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

    fn amounts_of_none(ledger: &mut CountLedger<All>) -> Taken {
        ledger.take(
            &CountItem { bits: vec![1], amounts: vec![(99, 7), (0, 0)], ..CountItem::default() },
            Clock(0),
        )
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
        assert_eq!(amounts_of_none(&mut CountLedger::default()), taken((0, 1, 0)), "nor in a new epoch");
    }
}
