//! The decisions of a vertex manager: when a vertex gets an instance more or one less.
//!
//! A condition must hold for [`PERIODS`] periods in a row, and after a change nothing is decided for [`REST`] periods, so
//! that what is measured is the load after it. A vertex is not made smaller if it would have to grow again at once. So the
//! number of instances follows the load and does not swing. Paper: section 3 (vertex managers).

use super::policy::{Condition, Load};

/// Periods for which a condition must hold.
const PERIODS: u32 = 2;
/// Periods after a change in which nothing is decided.
const REST: u32 = 3;

/// What an operator wants done.
#[derive(Default)]
pub struct Policy {
    /// When an instance more is wanted.
    pub scale_up: Option<Condition>,
    /// When one less is.
    pub scale_down: Option<Condition>,
    /// Most instances.
    pub instances_max: u16,
}

/// The state machine.
pub struct ManagerCore {
    policy: Policy,
    up: u32,
    down: u32,
    rest: u32,
}

impl ManagerCore {
    /// A manager that has seen nothing.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, up: 0, down: 0, rest: 0 }
    }

    /// A period is over; how many instances there are to be, if their number is to change.
    pub fn on_period(&mut self, load: &Load) -> Option<u16> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
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
        let wanted = match (self.up >= PERIODS, self.down >= PERIODS) {
            (true, _) => instances + 1,
            (_, true) => instances - 1,
            _ => return None,
        };
        (self.up, self.down, self.rest) = (0, 0, REST);
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(up: &str, down: &str) -> ManagerCore {
        let condition = |text| Condition::new(text).ok();
        ManagerCore::new(Policy { scale_up: condition(up), scale_down: condition(down), instances_max: 4 })
    }

    /// The instances after each of some periods, at these rates.
    fn follow(manager: &mut ManagerCore, from: u16, rates: impl IntoIterator<Item = f64>) -> Vec<u16> {
        let mut instances = from;
        let step = |rate_pps| {
            let load = Load { instances: instances.into(), rate_pps, ..Load::default() };
            instances = manager.on_period(&load).unwrap_or(instances);
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
        let mut manager = ManagerCore::new(Policy::default());
        assert_eq!(follow(&mut manager, 2, vec![1e9; 9]).last(), Some(&2));
    }
}
