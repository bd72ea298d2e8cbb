//! Progress, frontiers and closing: what an instance may promise to others.

use super::{InstanceCore, Spawn};
use crate::instance::context::State;
use crate::messages::InstanceEffect;
use chc_api::{Clock, NetworkFunction, Position, Protection, Protections};

/// Of so many parked jobs below another one it is found out whether they may still operate on objects; more may.
const PARKED_ASKED_MAX: usize = 8;

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> InstanceCore<N, P, S> {
    /// No output below this position will come any more.
    pub(super) fn progress(&self) -> Position {
        let inner = self.env.inner();
        let due = inner.records.due().keys().next().copied();
        let parked = self.parked.keys().next().copied();
        [parked, self.lanes.lowest(), due].into_iter().flatten().fold(self.input, Position::min)
    }

    /// For each ordered object the lowest position that may still issue an operation on it.
    pub(super) fn find_frontier(&mut self) {
        self.frontier.clear();
        let inner = self.env.inner();
        let due = inner.records.due().keys().next().copied();
        let start = self.lanes.lowest().map_or(self.input, |lowest| lowest.min(self.input));
        let timeout_min = inner.records.timeout_min();
        for (at, object) in inner.ordered.iter().enumerate() {
            let mut lowest = due.filter(|_| inner.timers_issue(at)).map_or(start, |due| due.min(start));
            for (position, slot) in &self.parked {
                if *position >= lowest && timeout_min.is_none() {
                    break;
                }
                if inner.may_issue(*slot, at) {
                    lowest = lowest.min(*position);
                } else if let Some(timeout) = timeout_min.filter(|_| inner.timers_issue(at)) {
                    // It may still arm a timer, which may issue one.
                    let due = inner.steps.due(inner.jobs[*slot].now + timeout, true);
                    lowest = due.map_or(lowest, |clock| lowest.min(Position::before(clock)));
                }
            }
            self.frontier.push((object.object, lowest));
        }
    }

    /// Notes whether something below a job that is about to run can still operate on a cross-flow object: what has
    /// not come, what waits, and what is due or parked.
    pub(super) fn note_order(&self, position: &Position) {
        let inner = &mut *self.env.inner();
        inner.is_lowest = false;
        if !inner.cache.as_ref().is_some_and(|cache| cache.is_open(position.clock)) {
            return;
        }
        if self.parked.is_empty() && self.lanes.is_empty() && inner.records.due().is_empty() {
            inner.is_lowest = self.is_in_order || *position <= self.input;
            return;
        }
        let timeout = inner.records.timeout_min();
        let arms = |slot: usize| {
            let due = timeout.and_then(|timeout| inner.steps.due(inner.jobs[slot].now + timeout, true));
            due.is_some_and(|clock| clock <= position.clock)
        };
        let may_operate = |slot: usize| {
            let mut objects = 0..inner.ordered.len();
            objects.any(|at| inner.may_issue(slot, at) || inner.timers_issue(at) && arms(slot))
        };
        let mut parked = self.parked.range(..*position);
        inner.is_lowest = (self.is_in_order || *position <= self.input)
            && self.lanes.lowest().is_none_or(|lowest| lowest > *position)
            && inner.records.due().keys().next().is_none_or(|due| due > position)
            && !parked.by_ref().take(PARKED_ASKED_MAX).any(|(_, slot)| may_operate(*slot))
            && parked.next().is_none();
    }

    pub(super) fn report_closing(&mut self, out: &mut Vec<InstanceEffect>) {
        let Some((boundary, needs)) = &self.closing else { return };
        let settled = match &self.env.inner().state {
            State::Store(client) => client.settled(needs) || !P::on(Protection::AcknowledgedClosing),
            State::Local(_) => true,
        };
        if settled {
            self.closed = *boundary;
            self.closing = None;
            let records = self.let_go();
            out.push(InstanceEffect::Closed(self.closed, records));
        }
    }

    /// Queues what must be in the store before the newest boundary passed can be closed.
    pub(super) fn begin_closing(&mut self) -> Option<Clock> {
        let waits = !self.config.ways.node.off_path || P::on(Protection::OffPathProgress);
        let done = if waits { self.progress() } else { self.input };
        let boundary = done.clock.floor(self.config.epoch);
        if self.closing.is_some() || boundary <= self.closed {
            return None;
        }
        let inner = &mut *self.env.inner();
        if let State::Store(client) = &mut inner.state
            && P::on(Protection::FlushedState)
        {
            inner.records.flush(boundary);
            client.gather_counts();
        }
        Some(boundary)
    }
}
