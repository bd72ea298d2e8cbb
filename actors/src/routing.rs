//! How traffic to a vertex is partitioned, and how that changes while packets flow.
//!
//! A slot is a share of the traffic by the coarsest scope of the vertex and within that by the finest: slots that lie together
//! are a *group*, the share by the coarsest scope alone. As long as one instance has all slots of each group, instances share
//! no object of that scope; a group that is too much for one is split. So a change of scope is a move like others: no record
//! changes its slot, and only the groups that need it are split.
//!
//! A routing table says which instance owns each slot. It changes at a boundary: packets below go by the old table,
//! packets from there on by the new one, in replays too. The root announces a change in band, in front of the first
//! packet it concerns. Memory: a table a change above the cut. Paper: sections 4.1, 5.1 and Figure 4.

use chc_api::{Clock, FlowKey, Identity, ObjectKey, Scope, Slot, VertexId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The slot an external address belongs to, asked of the vertex that gave it out.
pub type OwnerFn = Arc<dyn Fn(&Identity) -> Option<Slot> + Send + Sync>;

/// The slot of a connection, asked of a vertex that does not go by its hash.
pub type ConnectionSlotFn = Arc<dyn Fn(&FlowKey) -> Option<Slot> + Send + Sync>;

/// How traffic to a vertex is partitioned. Equal for all its splitters.
#[derive(Clone)]
pub struct Route {
    /// The vertex.
    pub vertex: VertexId,
    /// The scope it is split by first.
    pub scope: Scope,
    /// Slots of a group: shares by connection of a share by `scope`.
    pub fine: u16,
    /// Seed of the identity hash.
    pub seed: u64,
    /// The instance that owns each slot at first.
    pub owners: Vec<u16>,
    /// Later tables, each from a boundary on, in their order.
    pub later: Vec<(Clock, Arc<[u16]>)>,
    /// Instances of the vertex.
    pub instances: u16,
    /// Set if the vertex translates addresses.
    pub owner: Option<OwnerFn>,
    /// Likewise.
    pub connection_slot: Option<ConnectionSlotFn>,
}

impl Route {
    /// The slot of a connection.
    #[inline]
    #[must_use]
    pub fn slot(&self, identity: &Identity, hash: u64) -> Slot {
        if let Some(slot) = self.owner.as_ref().and_then(|o| o(identity)) {
            return slot;
        }
        self.slot_of(&identity.key, hash)
    }

    /// The slot of a connection whose identity is known.
    #[inline]
    #[must_use]
    pub fn slot_of(&self, key: &FlowKey, hash: u64) -> Slot {
        if let Some(slot) = self.connection_slot.as_ref().and_then(|of| of(key)) {
            return slot;
        }
        let slots = self.owners.len() as u16;
        if self.fine == 1 {
            return Slot(self.scope.slot(key, hash, self.seed, slots));
        }
        // A division would take longer than all the rest.
        debug_assert!(self.fine.is_power_of_two(), "groups have 2, 4 or 8 slots");
        let group = self.scope.slot(key, hash, self.seed, slots >> self.fine.trailing_zeros());
        Slot(group * self.fine + Scope::FiveTuple.slot(key, hash, self.seed, self.fine))
    }

    /// Whether several instances operate on an object of this scope and key, by a table.
    #[must_use]
    pub fn is_shared(&self, scope: Scope, key: &ObjectKey, owners: &[u16]) -> bool {
        let fine = usize::from(self.fine);
        let mine = match scope {
            Scope::FiveTuple => return false,
            Scope::Global => owners,
            Scope::SourceHost if self.scope != scope => owners,
            Scope::SourceHost => {
                let groups = (owners.len() / fine) as u128;
                let group = ((u128::from(key.of_host().hash(self.seed)) * groups) >> 64) as usize;
                owners.get(group * fine..(group + 1) * fine).unwrap_or_default()
            }
        };
        active(mine) > 1
    }

    /// The slot of a packet, whose identity is looked at only if need be.
    #[inline]
    pub fn packet_slot(&self, hash: u64, identity: impl FnOnce() -> Identity) -> Slot {
        match (&self.owner, &self.connection_slot, self.scope) {
            (None, None, Scope::FiveTuple) => {
                Slot(((u128::from(hash) * self.owners.len() as u128) >> 64) as u16)
            }
            _ => self.slot(&identity(), hash),
        }
    }

    /// The instance that owns each slot at a clock.
    #[must_use]
    pub fn owners_at(&self, clock: Clock) -> &[u16] {
        self.later.iter().rev().find(|(from, _)| *from <= clock).map_or(&self.owners, |(_, owners)| owners)
    }

    /// The instance that owns each slot from the last boundary on.
    #[must_use]
    pub fn owners_last(&self) -> &[u16] {
        self.later.last().map_or(&self.owners, |(_, owners)| owners)
    }

    /// Takes in a change, if it is of this vertex and newer than what is known.
    pub fn change(&mut self, change: &Change) {
        let is_known = self.later.last().is_some_and(|(from, _)| *from >= change.boundary);
        if let Some(table) = change.table_of(self.vertex).filter(|_| !is_known) {
            self.later.push((change.boundary, table.clone()));
        }
    }

    /// Forgets the tables that no packet at or above the cut goes by.
    pub fn trim(&mut self, cut: Clock) {
        let last = self.later.iter().rposition(|(from, _)| *from <= cut);
        if let Some(last) = last {
            self.owners = self.later[last].1.to_vec();
            self.later.drain(..=last);
        }
    }

    /// The instance a packet of this clock goes to, and its slot if there are several.
    #[inline]
    pub fn instance(
        &self,
        hash: u64,
        clock: Clock,
        identity: impl FnOnce() -> Identity,
    ) -> (usize, Option<Slot>) {
        if self.instances == 1 {
            return (0, None);
        }
        let slot = self.packet_slot(hash, identity);
        let owners = if self.later.is_empty() { &self.owners } else { self.owners_at(clock) };
        (usize::from(owners[usize::from(slot.0)]), Some(slot))
    }
}

/// From a boundary on other instances own slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The first clock it concerns.
    pub boundary: Clock,
    /// The new tables.
    pub tables: Vec<(VertexId, Arc<[u16]>)>,
}

impl Change {
    /// The new table of a vertex, if it has one.
    #[must_use]
    pub fn table_of(&self, vertex: VertexId) -> Option<&Arc<[u16]>> {
        self.tables.iter().find(|(of, _)| *of == vertex).map(|(_, table)| table)
    }
}

/// How a vertex's traffic is to be partitioned from now on.
#[derive(Clone, Debug, PartialEq)]
pub enum Repartition {
    /// Over the first so many instances.
    Scale(u16),
    /// A share of what one instance has, from 0 to 1, goes to another.
    Move {
        /// The one.
        from: u16,
        /// The other.
        to: u16,
        /// The share; at least a slot moves, if there is one.
        share: f64,
    },
    /// By this table. A slot that has changed hands since it was made stays where it is now.
    Owners {
        /// The table it was made from.
        from: Vec<u16>,
        /// The table that is wanted.
        to: Vec<u16>,
    },
}

/// Fewest groups slots are put into: so that they can be told to be few and light enough.
const GROUPS_MIN: u16 = 16;
/// Most slots of a group.
const FINE_MAX: u16 = 8;

/// Slots of a group where there are so many slots for so many instances: each instance can have whole groups.
#[must_use]
pub fn fine_slots(slots: u16, instances: u16) -> u16 {
    let fits = |fine: &u16| slots.is_multiple_of(*fine) && slots / fine >= GROUPS_MIN.max(instances);
    [FINE_MAX, FINE_MAX / 2, FINE_MAX / 4].into_iter().find(fits).unwrap_or(1)
}

/// The slots that move together: groups that one instance has, and of others each slot.
fn units(owners: &[u16], fine: u16) -> Vec<Range<usize>> {
    let mut units = Vec::new();
    for (at, group) in owners.chunks(usize::from(fine)).enumerate() {
        let first = at * usize::from(fine);
        if group.iter().all(|owner| *owner == group[0]) {
            units.push(first..first + group.len());
        } else {
            units.extend((first..first + group.len()).map(|slot| slot..slot + 1));
        }
    }
    units
}

/// How many instances have slots.
#[must_use]
pub fn active(owners: &[u16]) -> u16 {
    let mut all = owners.to_vec();
    all.sort_unstable();
    all.dedup();
    all.len() as u16
}

/// What the busiest of the instances with slots has to do over the mean, by the packets of each slot; 1 without packets.
#[must_use]
pub fn imbalance(owners: &[u16], packets: &[u64]) -> f64 {
    let loads = loads(owners, packets);
    let (most, sum) = (loads.values().max().copied().unwrap_or(0), loads.values().sum::<u64>());
    if sum == 0 { 1.0 } else { most as f64 * loads.len() as f64 / sum as f64 }
}

fn loads(owners: &[u16], packets: &[u64]) -> BTreeMap<u16, u64> {
    let mut loads = BTreeMap::new();
    for (owner, packets) in owners.iter().zip(packets) {
        *loads.entry(*owner).or_default() += packets;
    }
    loads
}

/// The table with slots moved until the busiest instance has at most `enough` times the mean, or no move makes it less busy:
/// first whole groups of `fine` slots, and if these are too heavy, their slots.
#[must_use]
pub fn balanced(owners: &[u16], packets: &[u64], enough: f64, fine: u16) -> Vec<u16> {
    let coarse = evened_out(owners, packets, enough, &units(owners, fine));
    if fine == 1 || imbalance(&coarse, packets) <= enough {
        return coarse;
    }
    evened_out(&coarse, packets, enough, &units(owners, 1))
}

/// The table with units moved from the busiest to the least busy instance until no move makes the busiest less busy, or
/// it has at most `enough` times the mean. Few move: each time the one that evens the two out best.
fn evened_out(owners: &[u16], packets: &[u64], enough: f64, units: &[Range<usize>]) -> Vec<u16> {
    let mut owners = owners.to_vec();
    for _ in 0..owners.len() {
        if imbalance(&owners, packets) <= enough {
            break;
        }
        let loads = loads(&owners, packets);
        let most = loads.iter().max_by_key(|(_, load)| **load);
        let least = loads.iter().min_by_key(|(_, load)| **load);
        let (Some((from, most)), Some((to, least))) = (most, least) else { break };
        // One as heavy as the difference only changes who is busiest.
        let gap = most - least;
        let held = units.iter().filter(|unit| owners[unit.start] == *from);
        let weighed = held.map(|unit| (packets[unit.clone()].iter().sum::<u64>(), unit));
        let fits = weighed.filter(|(packets, _)| (1..gap).contains(packets));
        let Some((_, best)) = fits.min_by_key(|(packets, _)| packets.abs_diff(gap / 2)) else { break };
        owners[best.clone()].fill(*to);
    }
    owners
}

impl Repartition {
    /// The new table, of slots in groups of `fine`. As few slots change hands as can, and groups stay together as far as
    /// there are enough.
    #[must_use]
    pub fn apply(self, owners: &[u16], fine: u16) -> Vec<u16> {
        let mut owners = owners.to_vec();
        match self {
            Self::Owners { from, to } => {
                for ((now, from), to) in owners.iter_mut().zip(from).zip(to) {
                    *now = if *now == from { to } else { *now };
                }
            }
            Self::Move { from, to, share } => {
                let units = units(&owners, fine);
                let held: Vec<Range<usize>> =
                    units.into_iter().filter(|unit| owners[unit.start] == from).collect();
                let all: usize = held.iter().map(ExactSizeIterator::len).sum();
                let mut left = ((all as f64 * share).round() as usize).max(1);
                for unit in held {
                    if left == 0 {
                        break;
                    }
                    left = left.saturating_sub(unit.len());
                    owners[unit].fill(to);
                }
            }
            Self::Scale(instances) => {
                // The coarsest scope first: groups that were split come together again.
                let fine = usize::from(fine);
                let unit = if usize::from(instances) <= owners.len() / fine { fine } else { 1 };
                let of_unit: Vec<u16> = owners.chunks(unit).map(most_frequent).collect();
                return scaled(of_unit, instances)
                    .into_iter()
                    .flat_map(|owner| std::iter::repeat_n(owner, unit))
                    .collect();
            }
        }
        owners
    }
}

/// The owner of most of these slots.
fn most_frequent(owners: &[u16]) -> u16 {
    let count = |of: u16| owners.iter().filter(|owner| **owner == of).count();
    owners.iter().copied().max_by_key(|owner| (count(*owner), std::cmp::Reverse(*owner))).unwrap_or(0)
}

/// The owners of units that are spread over so many instances, with as few moving as can.
fn scaled(mut owners: Vec<u16>, instances: u16) -> Vec<u16> {
    let mut held = vec![0usize; usize::from(instances)];
    for owner in owners.iter().filter(|owner| **owner < instances) {
        held[usize::from(*owner)] += 1;
    }
    let least = |held: &[usize]| (0..held.len()).min_by_key(|at| held[*at]).unwrap_or(0);
    for owner in owners.iter_mut().filter(|owner| **owner >= instances) {
        let to = least(&held);
        held[to] += 1;
        *owner = to as u16;
    }
    loop {
        let (low, high) = (least(&held), (0..held.len()).max_by_key(|at| held[*at]).unwrap_or(0));
        if held[high] - held[low] <= 1 {
            break;
        }
        let slot = owners.iter().position(|owner| usize::from(*owner) == high);
        if let Some(slot) = slot {
            owners[slot] = low as u16;
        }
        held[high] -= 1;
        held[low] += 1;
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loads(owners: &[u16], instances: u16) -> Vec<usize> {
        (0..instances).map(|i| owners.iter().filter(|owner| **owner == i).count()).collect()
    }

    proptest! {
        #[test]
        fn a_scaled_vertex_is_even_and_few_slots_move(
            owners in proptest::collection::vec(0u16..6, 1..100), instances in 1u16..8,
        ) {
            let scaled = Repartition::Scale(instances).apply(&owners, 1);
            let loads = loads(&scaled, instances);
            prop_assert_eq!(loads.iter().sum::<usize>(), owners.len(), "nothing is left behind");
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
            let before = self::loads(&owners, 8);
            let moved = owners.iter().zip(&scaled).filter(|(a, b)| a != b).count();
            // Whoever has more than its share, or must go, gives exactly that away.
            let share = owners.len() / usize::from(instances);
            let given = before.iter().enumerate().map(|(i, held)| {
                if i < usize::from(instances) { held.saturating_sub(share) } else { *held }
            });
            prop_assert!(moved <= given.sum::<usize>());
        }
    }

    proptest! {
        #[test]
        fn a_balanced_table_is_never_worse_and_even_where_slots_are_small(
            slots in proptest::collection::vec((0u16..4, 0u64..100), 40..80),
        ) {
            let (owners, packets): (Vec<u16>, Vec<u64>) = slots.into_iter().unzip();
            let after = balanced(&owners, &packets, 1.0, 1);
            prop_assert!(imbalance(&after, &packets) <= imbalance(&owners, &packets));
            // The heaviest slot is all that can be uneven.
            let mean = packets.iter().sum::<u64>() as f64 / f64::from(active(&owners));
            let bound = 1.0 + *packets.iter().max().unwrap() as f64 / mean.max(1.0);
            prop_assert!(imbalance(&after, &packets) <= bound);
            let again = balanced(&after, &packets, 1.25, 1);
            prop_assert_eq!(&again, &balanced(&again, &packets, 1.25, 1));
        }
    }

    #[test]
    fn one_heavy_slot_stays_where_it_is() {
        let (owners, packets) = ([0, 0, 1, 1], [1000, 0, 10, 10]);
        assert_eq!(balanced(&owners, &packets, 1.0, 1), owners, "to move it would change nothing");
        assert!((imbalance(&owners, &packets) - 1.96).abs() < 0.01);
        assert!((imbalance(&owners, &[0; 4]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_that_was_made_of_an_older_one_leaves_later_changes_alone() {
        let wanted = Repartition::Owners { from: vec![0, 0, 1], to: vec![1, 2, 1] };
        assert_eq!(wanted.apply(&[0, 3, 1], 1), [1, 3, 1]);
    }

    #[test]
    fn a_share_of_the_slots_moves() {
        let owners = [0, 0, 1, 0, 0];
        let half = Repartition::Move { from: 0, to: 1, share: 0.5 }.apply(&owners, 1);
        assert_eq!(loads(&half, 2), [2, 3]);
        let little = Repartition::Move { from: 0, to: 1, share: 0.01 }.apply(&owners, 1);
        assert_eq!(loads(&little, 2), [3, 2]);
        assert_eq!(Repartition::Move { from: 3, to: 1, share: 1.0 }.apply(&owners, 1), owners);
    }

    proptest! {
        #[test]
        fn groups_stay_together_while_there_are_enough_of_them(
            groups in proptest::collection::vec(0u16..4, 4..30), instances in 1u16..4, share in 0.0..1.0f64,
        ) {
            let owners: Vec<u16> = groups.iter().flat_map(|owner| [*owner; 4]).collect();
            let is_whole = |owners: &[u16]| owners.chunks(4).all(|group| group.iter().all(|o| *o == group[0]));
            let scaled = Repartition::Scale(instances).apply(&owners, 4);
            prop_assert!(is_whole(&scaled));
            let moved = Repartition::Move { from: 0, to: 1, share }.apply(&owners, 4);
            prop_assert!(is_whole(&moved));
            let mut split = scaled.clone();
            split[0] = (split[0] + 1) % instances;
            prop_assert!(is_whole(&Repartition::Scale(instances).apply(&split, 4)), "they come together again");
        }
    }

    #[test]
    fn only_a_group_that_is_too_heavy_is_split() {
        let owners: Vec<u16> = (0..8).flat_map(|group| [group % 2; 4]).collect();
        let mut packets = vec![10; owners.len()];
        let whole = |owners: &[u16]| owners.chunks(4).filter(|group| active(group) == 1).count();
        packets[..8].fill(30);
        assert_eq!(balanced(&owners, &packets, 1.1, 4), owners, "both have a heavy one");
        packets[..4].fill(200);
        let split = balanced(&owners, &packets, 1.1, 4);
        assert!(imbalance(&split, &packets) <= 1.1 && whole(&split) == 7, "{split:?}");
        packets[..8].fill(10);
        packets[..4].fill(15);
        let moved = balanced(&owners, &packets, 1.1, 4);
        assert_eq!(whole(&moved), 8, "to move whole groups is enough");
    }

    #[test]
    fn objects_of_a_host_are_shared_where_its_group_is_split() {
        let host = |n: u8| std::net::IpAddr::from([10, 0, 0, n]);
        let mut route = crate::splitter::tests::route(Scope::SourceHost, 2);
        (route.fine, route.owners) = (4, (0..64).map(|slot| slot / 4 % 2).collect());
        let mut split = route.owners.clone();
        let (a, b) = (ObjectKey::host(host(1)), ObjectKey::contact(host(1), host(9), 80));
        // A connection of that host, from its higher port, is in its group.
        let (key, _) = FlowKey::v4(6, u32::from_be_bytes([10, 0, 0, 1]), 40_000, 7, 80);
        let slot = usize::from(route.slot_of(&key, key.hash(route.seed)).0);
        split[slot / 4 * 4 + (slot + 1) % 4] = 1 - split[slot];
        for key in [a, b] {
            let is_shared = |owners| route.is_shared(Scope::SourceHost, &key, owners);
            assert!(!is_shared(&route.owners) && is_shared(&split));
        }
        assert!(route.is_shared(Scope::Global, &a, &split) && !route.is_shared(Scope::FiveTuple, &a, &split));
        let others =
            (2..200).filter(|n| route.is_shared(Scope::SourceHost, &ObjectKey::host(host(*n)), &split));
        assert!((1..60).contains(&others.count()), "a sixteenth of the hosts, not all");
    }

    #[test]
    fn slots_are_grouped_where_there_are_enough_of_them() {
        assert_eq!(
            [(64, 4), (128, 16), (128, 17), (16, 2), (48, 2)].map(|(s, i)| fine_slots(s, i)),
            [4, 8, 4, 1, 2]
        );
    }

    #[test]
    fn packets_go_by_the_table_of_their_clock() {
        let mut route = Route {
            vertex: VertexId(0),
            scope: Scope::FiveTuple,
            fine: 1,
            seed: 1,
            owners: vec![0],
            later: Vec::new(),
            instances: 2,
            owner: None,
            connection_slot: None,
        };
        let to = |route: &Route, clock| route.instance(0, Clock(clock), || unreachable!()).0;
        let change = |boundary, owner| Change {
            boundary: Clock(boundary),
            tables: vec![(VertexId(0), Arc::from([owner]))],
        };
        route.change(&change(8, 1));
        route.change(&change(8, 0));
        route.change(&change(16, 0));
        assert_eq!(
            [7, 8, 15, 16].map(|clock| to(&route, clock)),
            [0, 1, 1, 0],
            "what is known is not repeated"
        );
        route.trim(Clock(8));
        assert_eq!([8, 15, 16].map(|clock| to(&route, clock)), [1, 1, 0]);
        route.trim(Clock(20));
        assert_eq!((to(&route, 20), route.later.len()), (0, 0));
    }
}
