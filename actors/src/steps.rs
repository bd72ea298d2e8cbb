//! The (clock, time) steps an actor knows: a complete run from some clock on, in clock order.

use crate::routing::Change;
use chc_api::{Clock, Step, Time};
use std::collections::VecDeque;
use std::sync::Arc;

/// Steps above the cut. One entry a distinct time (a tick apart by default), so the memory is bounded
/// by the window.
#[derive(Default, Clone, Debug)]
pub struct Steps {
    known: VecDeque<Step>,
    /// Changes of routing tables, which travel like steps.
    changes: Vec<Arc<Change>>,
    end: Option<Step>,
}

impl Steps {
    /// Adds steps; those that are known are skipped. Every edge carries the whole run in order.
    pub fn extend(&mut self, steps: &[Step]) {
        for step in steps {
            if step.time.is_end() {
                self.end = Some(*step);
            } else if self.known.back().is_none_or(|last| last.clock < step.clock) {
                self.known.push_back(*step);
            }
        }
    }

    /// The first clock by which a deadline has passed. What the end of the input armed itself never
    /// becomes due.
    #[must_use]
    pub fn due(&self, deadline: Time, at_end: bool) -> Option<Clock> {
        let at = self.known.partition_point(|s| s.time < deadline);
        match self.known.get(at) {
            Some(step) => Some(step.clock),
            None => self.end.filter(|_| at_end && !is_at_end(deadline)).map(|s| s.clock),
        }
    }

    /// Newest packet time known.
    #[must_use]
    pub fn newest(&self) -> Option<Time> {
        self.known.back().map(|s| s.time)
    }

    /// The end of the input, once it is known.
    #[must_use]
    pub fn end(&self) -> Option<Step> {
        self.end
    }

    /// The step at a clock.
    #[must_use]
    pub fn at(&self, clock: Clock) -> Option<Step> {
        let at = self.known.partition_point(|s| s.clock < clock);
        self.known.get(at).copied().filter(|s| s.clock == clock).or(self.end.filter(|s| s.clock == clock))
    }

    /// Steps at or above a clock, the end last.
    pub fn since(&self, clock: Clock) -> impl Iterator<Item = Step> + '_ {
        let at = self.known.partition_point(|s| s.clock < clock);
        self.known.range(at..).copied().chain(self.end.filter(|s| s.clock >= clock))
    }

    /// Adds a change of routing tables, if it is newer than those that are known.
    pub fn change(&mut self, change: &Arc<Change>) {
        if self.next_change() <= change.boundary {
            self.changes.push(change.clone());
        }
    }

    /// The changes at or above a boundary.
    #[must_use]
    pub fn changes_since(&self, boundary: Clock) -> Vec<Arc<Change>> {
        self.changes.iter().filter(|change| change.boundary >= boundary).cloned().collect()
    }

    /// The clock after the boundary of the newest change.
    #[must_use]
    pub fn next_change(&self) -> Clock {
        self.changes.last().map_or(Clock(0), |change| Clock(change.boundary.0 + 1))
    }

    /// The clock after the newest step.
    #[must_use]
    pub fn next_clock(&self) -> Clock {
        let after = |s: &Step| Clock(s.clock.0 + 1);
        self.end.as_ref().map(after).or(self.known.back().map(after)).unwrap_or_default()
    }

    /// Forgets what lies below the cut.
    pub fn trim(&mut self, cut: Clock) {
        // The newest stays: it tells what is known.
        let last = self.changes.len().saturating_sub(1);
        let below = self.changes.iter().take(last).take_while(|change| change.boundary < cut).count();
        self.changes.drain(..below);
        while self.known.front().is_some_and(|s| s.clock < cut) {
            self.known.pop_front();
        }
    }
}

/// Whether a deadline was set at the end of the input: a delay after it stops right below.
#[must_use]
pub fn is_at_end(deadline: Time) -> bool {
    deadline >= Time::LAST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(clock: u64, time: u64) -> Step {
        Step { clock: Clock(clock), time: Time(time), number: clock + 1 }
    }

    #[test]
    fn a_deadline_is_due_at_the_first_step_that_reaches_it() {
        let mut steps = Steps::default();
        steps.extend(&[step(3, 10), step(5, 20)]);
        steps.extend(&[step(3, 10), step(5, 20), step(9, 30)]);
        assert_eq!(steps.due(Time(10), false), Some(Clock(3)));
        assert_eq!(steps.due(Time(11), false), Some(Clock(5)));
        assert_eq!(steps.due(Time(31), true), None);
        steps.extend(&[Step { clock: Clock(12), time: Time::END, number: 0 }]);
        assert_eq!(steps.due(Time(31), true), Some(Clock(12)));
        assert_eq!(steps.due(Time(31), false), None, "only timers that ask for it fire at the end");
        let armed_by_the_end = Time::END + std::time::Duration::from_nanos(1);
        assert_eq!(steps.due(armed_by_the_end, true), None, "nor do those that the end itself arms");
        steps.trim(Clock(6));
        assert_eq!(steps.since(Clock(0)).map(|s| s.clock.0).collect::<Vec<_>>(), [9, 12]);
    }
}
