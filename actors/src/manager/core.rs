//! The decisions of a vertex manager: when a vertex gets an instance more or one less, and when slots move because one
//! instance has more to do than the others.
//!
//! A condition must hold for [`PERIODS`] periods in a row, and after a change nothing is decided for [`REST`] periods, so
//! that what is measured is the load after it. A vertex is not made smaller if it would have to grow again at once. So the
//! number of instances follows the load and does not swing. Paper: section 3 (vertex managers).

use super::policy::{Condition, Load};
use crate::routing::{Repartition, active, balanced, imbalance};

/// Periods for which a condition must hold.
const PERIODS: u32 = 2;
/// Periods after a change in which nothing is decided.
const REST: u32 = 3;
/// Packets looked at in a period, for each instance, below which how uneven they are says nothing.
const LOOKED_AT: u64 = 64;
/// To what share of itself an imbalance must fall for slots to move.
const WORTH: f64 = 0.95;

/// What an operator wants done.
#[derive(Default)]
pub struct Policy {
    /// When an instance more is wanted.
    pub scale_up: Option<Condition>,
    /// When one less is.
    pub scale_down: Option<Condition>,
    /// How much more than the mean the busiest instance may have to do before slots move.
    pub imbalance: Option<f64>,
    /// Most instances.
    pub instances_max: u16,
}

/// Who owns the slots, and the packets of each that were looked at in a period.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// The instance of each.
    pub owners: Vec<u16>,
    /// Its packets.
    pub packets: Vec<u64>,
}

/// The state machine.
pub struct ManagerCore {
    policy: Policy,
    /// Slots of a group.
    fine: u16,
    up: u32,
    down: u32,
    uneven: u32,
    rest: u32,
    /// Packets of each slot while load has been uneven.
    packets: Vec<u64>,
}

impl ManagerCore {
    /// A manager that has seen nothing, of a vertex whose slots are in groups of `fine`.
    #[must_use]
    pub fn new(policy: Policy, fine: u16) -> Self {
        Self { policy, fine, up: 0, down: 0, uneven: 0, rest: 0, packets: Vec::new() }
    }

    /// A period is over; what is to be done.
    pub fn on_period(&mut self, load: &Load, slots: &Slots) -> Option<Repartition> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        let wanted = self.scale(load).map(Repartition::Scale).or_else(|| self.balance(slots))?;
        (self.up, self.down, self.uneven, self.rest) = (0, 0, 0, REST);
        Some(wanted)
    }

    /// How many instances there are to be, if their number is to change.
    fn scale(&mut self, load: &Load) -> Option<u16> {
        let instances = load.instances as u16;
        let holds = |condition: &Option<Condition>, load| condition.as_ref().is_some_and(|c| c.holds(load));
        let up = instances < self.policy.instances_max && holds(&self.policy.scale_up, load);
        let less = Load { instances: load.instances - 1.0, ..*load };
        let down = instances > 1
            && !up
            && holds(&self.policy.scale_down, load)
            && !holds(&self.policy.scale_up, &less);
        self.up = if up { self.up + 1 } else { 0 };
        self.down = if down { self.down + 1 } else { 0 };
        match (self.up >= PERIODS, self.down >= PERIODS) {
            (true, _) => Some(instances + 1),
            (_, true) => Some(instances - 1),
            _ => None,
        }
    }

    /// The slots that are to move, if some are.
    fn balance(&mut self, slots: &Slots) -> Option<Repartition> {
        let limit = self.policy.imbalance?;
        let enough = LOOKED_AT * u64::from(active(&slots.owners));
        let few = slots.packets.iter().sum::<u64>() < enough;
        if few || imbalance(&slots.owners, &slots.packets) <= limit {
            self.uneven = 0;
            return None;
        }
        if self.uneven == 0 {
            self.packets.clear();
            self.packets.resize(slots.packets.len(), 0);
        }
        self.uneven += 1;
        self.packets.iter_mut().zip(&slots.packets).for_each(|(sum, packets)| *sum += packets);
        if self.uneven < PERIODS {
            return None;
        }
        let (from, before) = (slots.owners.clone(), imbalance(&slots.owners, &self.packets));
        let to = balanced(&from, &self.packets, 1.0 + (limit - 1.0) / 2.0, self.fine);
        // What is not worth a move is left: the same would be found again.
        (imbalance(&to, &self.packets) < before * WORTH).then_some(Repartition::Owners { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(up: &str, down: &str) -> ManagerCore {
        let condition = |text| Condition::new(text).ok();
        let (scale_up, scale_down) = (condition(up), condition(down));
        ManagerCore::new(Policy { scale_up, scale_down, instances_max: 4, imbalance: None }, 1)
    }

    /// The instances after each of some periods, at these rates.
    fn follow(manager: &mut ManagerCore, from: u16, rates: impl IntoIterator<Item = f64>) -> Vec<u16> {
        let mut instances = from;
        let step = |rate_pps| {
            let load = Load { instances: instances.into(), rate_pps, ..Load::default() };
            if let Some(Repartition::Scale(wanted)) = manager.on_period(&load, &Slots::default()) {
                instances = wanted;
            }
            instances
        };
        rates.into_iter().map(step).collect()
    }

    const UP: &str = "rate_pps > 100.0 * instances";
    const DOWN: &str = "rate_pps < 60.0 * instances";

    #[test]
    fn instances_follow_the_load_up_to_their_limit_and_back() {
        let mut manager = manager(UP, DOWN);
        assert_eq!(follow(&mut manager, 1, vec![1e9; 30]).last(), Some(&4));
        assert_eq!(follow(&mut manager, 4, vec![0.0; 30]).last(), Some(&1), "one stays");
    }

    #[test]
    fn a_single_period_changes_nothing() {
        let mut manager = manager(UP, DOWN);
        let rates = (0..40).map(|n| if n % 2 == 0 { 1e6 } else { 150.0 });
        assert_eq!(follow(&mut manager, 2, rates).last(), Some(&2));
    }

    #[test]
    fn a_constant_load_ends_in_a_constant_number() {
        // Each condition undoes what the other does: at 150 two are too few and three too many.
        let mut manager = manager("rate_pps > 70.0 * instances", "rate_pps < 60.0 * instances");
        for rate in [50.0, 125.0, 150.0, 199.0, 260.0] {
            let after = follow(&mut manager, 2, vec![rate; 60]);
            assert!(after[30..].iter().all(|n| *n == after[59]), "{rate}: {after:?}");
        }
    }

    #[test]
    fn without_a_policy_nothing_is_decided() {
        let mut manager = ManagerCore::new(Policy::default(), 1);
        assert_eq!(follow(&mut manager, 2, vec![1e9; 9]).last(), Some(&2));
    }

    #[test]
    fn uneven_load_is_evened_out_once() {
        let policy = Policy { imbalance: Some(1.25), ..Policy::default() };
        let mut manager = ManagerCore::new(policy, 1);
        let mut owners: Vec<u16> = (0..32).map(|slot| slot % 4).collect();
        // Every fourth slot is busy: all of them are the first instance's.
        let packets: Vec<u64> = (0..32).map(|slot| if slot % 4 == 0 { 90 + slot } else { 10 }).collect();
        let mut changes = 0;
        for _ in 0..40 {
            let slots = Slots { owners: owners.clone(), packets: packets.clone() };
            if let Some(wanted) = manager.on_period(&Load { instances: 4.0, ..Load::default() }, &slots) {
                owners = wanted.apply(&owners, 1);
                changes += 1;
            }
        }
        assert_eq!(changes, 1);
        assert!(imbalance(&owners, &packets) <= 1.25);
    }

    #[test]
    fn few_packets_say_nothing() {
        let uneven = |packets| {
            let mut manager = ManagerCore::new(Policy { imbalance: Some(1.25), ..Policy::default() }, 1);
            let slots = Slots { owners: vec![0, 0, 1, 1], packets: vec![packets, packets, 0, 0] };
            let load = Load { instances: 2.0, ..Load::default() };
            (0..10).any(|_| manager.on_period(&load, &slots).is_some())
        };
        assert!(!uneven(LOOKED_AT - 1));
        assert!(uneven(LOOKED_AT));
    }

    #[test]
    fn what_cannot_be_evened_out_is_left() {
        let mut manager = ManagerCore::new(Policy { imbalance: Some(1.25), ..Policy::default() }, 1);
        let slots = Slots { owners: vec![0, 1, 0, 1], packets: vec![1000, 1, 1, 1] };
        let load = Load { instances: 2.0, ..Load::default() };
        assert!((0..40).all(|_| manager.on_period(&load, &slots).is_none()));
    }
}
