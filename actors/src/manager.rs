//! The vertex manager: watches the load of a vertex's instances. It decides nothing yet; instances
//! run on while it is away.

use crate::chain::wire::{DataMessage, InstanceControl};
use crate::root::actor::NoData;
use chc_runtime::actor::{Actor, Cx};
use chc_runtime::mailbox::Address;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the mailboxes are looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// The manager is told nothing.
pub enum ManagerControl {}

/// The actor.
pub struct ManagerActor {
    instances: Vec<Address<InstanceControl, DataMessage>>,
    peak: Arc<AtomicU64>,
    next: Instant,
}

impl ManagerActor {
    /// A manager of these instances that notes the deepest data mailbox it sees, in packets.
    #[must_use]
    pub fn new(instances: Vec<Address<InstanceControl, DataMessage>>, peak: Arc<AtomicU64>) -> Self {
        Self { instances, peak, next: Instant::now() }
    }
}

impl Actor for ManagerActor {
    type Control = ManagerControl;
    type Data = NoData;

    fn on_control(&mut self, message: ManagerControl, _cx: &mut Cx) {
        match message {}
    }

    fn on_data(&mut self, message: NoData, _cx: &mut Cx) {
        match message {}
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.next)
    }

    fn on_deadline(&mut self, now: Instant, _cx: &mut Cx) {
        self.next = now + PERIOD;
        let depth = |a: &Address<_, _>| a.current().map_or(0, |h| h.data_counters().depth_packets());
        let deepest = self.instances.iter().map(depth).max().unwrap_or(0);
        self.peak.fetch_max(deepest, Ordering::Relaxed);
    }
}
