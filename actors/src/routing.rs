//! How traffic to a vertex is partitioned, and how that changes while packets flow.
//!
//! A routing table says which instance owns each slot. It changes at a boundary: packets below go by the old table,
//! packets from there on by the new one, in replays too. The root announces a change in band, in front of the first
//! packet it concerns. Memory: a table a change above the cut. Paper: sections 4.1, 5.1 and Figure 4.

use chc_api::{Clock, FlowKey, Identity, Scope, Slot, VertexId};
use std::collections::BTreeMap;
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
    /// The scope it is split by.
    pub scope: Scope,
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
    #[must_use]
    pub fn slot(&self, identity: &Identity, hash: u64) -> Slot {
        if let Some(slot) = self.owner.as_ref().and_then(|o| o(identity)) {
            return slot;
        }
        self.slot_of(&identity.key, hash)
    }

    /// The slot of a connection whose identity is known.
    #[must_use]
    pub fn slot_of(&self, key: &FlowKey, hash: u64) -> Slot {
        if let Some(slot) = self.connection_slot.as_ref().and_then(|of| of(key)) {
            return slot;
        }
        Slot(self.scope.slot(key, hash, self.seed, self.owners.len() as u16))
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

    /// The instance a packet of this clock goes to.
    #[inline]
    pub fn instance(&self, hash: u64, clock: Clock, identity: impl FnOnce() -> Identity) -> usize {
        if self.instances == 1 {
            return 0;
        }
        let slot = self.packet_slot(hash, identity);
        let owners = if self.later.is_empty() { &self.owners } else { self.owners_at(clock) };
        usize::from(owners[usize::from(slot.0)])
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

/// The table with slots moved from the busiest to the least busy instance until no move makes the busiest less busy, or
/// it has at most `enough` times the mean. Few slots move: each time the one that evens the two out best.
#[must_use]
pub fn balanced(owners: &[u16], packets: &[u64], enough: f64) -> Vec<u16> {
    let mut owners = owners.to_vec();
    for _ in 0..owners.len() {
        if imbalance(&owners, packets) <= enough {
            break;
        }
        let loads = loads(&owners, packets);
        let most = loads.iter().max_by_key(|(_, load)| **load);
        let least = loads.iter().min_by_key(|(_, load)| **load);
        let (Some((from, most)), Some((to, least))) = (most, least) else { break };
        // A slot as heavy as the difference only changes who is busiest.
        let gap = most - least;
        let held = owners.iter().zip(packets).enumerate();
        let fits = held.filter(|(_, (owner, packets))| *owner == from && (1..gap).contains(*packets));
        let best = fits.min_by_key(|(_, (_, packets))| packets.abs_diff(gap / 2)).map(|(slot, _)| slot);
        let Some(best) = best else { break };
        owners[best] = *to;
    }
    owners
}

impl Repartition {
    /// The new table. As few slots change hands as can.
    #[must_use]
    pub fn apply(self, owners: &[u16]) -> Vec<u16> {
        let mut owners = owners.to_vec();
        match self {
            Self::Owners { from, to } => {
                for ((now, from), to) in owners.iter_mut().zip(from).zip(to) {
                    *now = if *now == from { to } else { *now };
                }
            }
            Self::Move { from, to, share } => {
                let held: Vec<usize> = (0..owners.len()).filter(|slot| owners[*slot] == from).collect();
                let count = ((held.len() as f64 * share).round() as usize).clamp(1, held.len().max(1));
                for slot in held.into_iter().take(count) {
                    owners[slot] = to;
                }
            }
            Self::Scale(instances) => {
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
            }
        }
        owners
    }
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
            let scaled = Repartition::Scale(instances).apply(&owners);
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
            let after = balanced(&owners, &packets, 1.0);
            prop_assert!(imbalance(&after, &packets) <= imbalance(&owners, &packets));
            // The heaviest slot is all that can be uneven.
            let mean = packets.iter().sum::<u64>() as f64 / f64::from(active(&owners));
            let bound = 1.0 + *packets.iter().max().unwrap() as f64 / mean.max(1.0);
            prop_assert!(imbalance(&after, &packets) <= bound);
            prop_assert_eq!(balanced(&after, &packets, 1.25), balanced(&balanced(&after, &packets, 1.25), &packets, 1.25));
        }
    }

    #[test]
    fn one_heavy_slot_stays_where_it_is() {
        let (owners, packets) = ([0, 0, 1, 1], [1000, 0, 10, 10]);
        assert_eq!(balanced(&owners, &packets, 1.0), owners, "to move it would change nothing");
        assert!((imbalance(&owners, &packets) - 1.96).abs() < 0.01);
        assert!((imbalance(&owners, &[0; 4]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_that_was_made_of_an_older_one_leaves_later_changes_alone() {
        let wanted = Repartition::Owners { from: vec![0, 0, 1], to: vec![1, 2, 1] };
        assert_eq!(wanted.apply(&[0, 3, 1]), [1, 3, 1]);
    }

    #[test]
    fn a_share_of_the_slots_moves() {
        let owners = [0, 0, 1, 0, 0];
        let half = Repartition::Move { from: 0, to: 1, share: 0.5 }.apply(&owners);
        assert_eq!(loads(&half, 2), [2, 3]);
        let little = Repartition::Move { from: 0, to: 1, share: 0.01 }.apply(&owners);
        assert_eq!(loads(&little, 2), [3, 2]);
        assert_eq!(Repartition::Move { from: 3, to: 1, share: 1.0 }.apply(&owners), owners);
    }

    #[test]
    fn packets_go_by_the_table_of_their_clock() {
        let mut route = Route {
            vertex: VertexId(0),
            scope: Scope::FiveTuple,
            seed: 1,
            owners: vec![0],
            later: Vec::new(),
            instances: 2,
            owner: None,
            connection_slot: None,
        };
        let to = |route: &Route, clock| route.instance(0, Clock(clock), || unreachable!());
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
