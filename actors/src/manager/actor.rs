//! The wiring of a vertex manager. Instances run on while it is away.

use super::core::{ManagerCore, Policy, Slots};
use super::policy::Load;
use crate::chain::wire::{DataMessage, InstanceControl, Links, RootControl};
use crate::instance::metrics::{Counted, Metrics};
use crate::messages::RootEvent;
use crate::root::actor::NoData;
use crate::routing::active;
use chc_api::VertexId;
use chc_runtime::actor::{Actor, Cx};
use chc_runtime::mailbox::Address;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the mailboxes are looked at while packets wait in them.
const PERIOD: Duration = Duration::from_millis(10);
/// How often while none does: each look of an idle chain wakes its core.
const QUIET_PERIOD: Duration = Duration::from_millis(100);

/// The manager is told nothing.
pub enum ManagerControl {}

/// What a manager watches.
pub struct Watched {
    /// The vertex.
    pub vertex: VertexId,
    /// Its instances, those included that have no slots.
    pub instances: Vec<Address<InstanceControl, DataMessage>>,
    /// Their metrics.
    pub metrics: Vec<Arc<Metrics>>,
    /// Who owns each slot.
    pub owners: Arc<Mutex<Vec<u16>>>,
    /// Slots of a group.
    pub fine: u16,
    /// The deepest data mailbox seen, in packets.
    pub peak: Arc<AtomicU64>,
}

/// The actor.
pub struct ManagerActor {
    core: ManagerCore,
    watched: Watched,
    links: Links,
    /// How often the policy decides, and when it does next.
    period: Duration,
    decide: Instant,
    /// What had been counted when it last did, and when that was.
    last: (Vec<Counted>, Instant),
    next: Instant,
}

impl ManagerActor {
    /// A manager that has the policy decide once a period.
    #[must_use]
    pub fn new(policy: Policy, period: Duration, watched: Watched, links: Links) -> Self {
        let now = Instant::now();
        let last = watched.metrics.iter().map(|metrics| metrics.counted()).collect();
        Self {
            core: ManagerCore::new(policy, watched.fine),
            watched,
            links,
            period,
            decide: now + period,
            last: (last, now),
            next: now,
        }
    }

    fn depths(&self) -> impl Iterator<Item = u64> + '_ {
        self.watched.instances.iter().map(|a| a.current().map_or(0, |h| h.data_counters().depth_packets()))
    }

    /// The load since this was last asked.
    fn load(&mut self, now: Instant, slots: &Slots) -> Load {
        let counted: Vec<Counted> = self.watched.metrics.iter().map(|metrics| metrics.counted()).collect();
        let (before, since) = std::mem::replace(&mut self.last, (counted, now));
        let seconds = (now - since).as_secs_f64().max(1e-9);
        let (mut packets, mut drops, mut most, mut busiest) = (0, 0, 0, 0);
        let (mut known, mut waits) = (0, 0);
        for (now, before) in self.last.0.iter().zip(&before) {
            packets += now.packets - before.packets;
            drops += now.drops - before.drops;
            known += now.known - before.known;
            waits += now.waits - before.waits;
            most = most.max(now.packets - before.packets);
            busiest = busiest.max(now.busy_ns - before.busy_ns);
        }
        // The bounds are those of the metrics.
        let mut turns = Histogram::new_from(&Histogram::<u32>::new(2).expect("two digits are a precision"));
        self.watched.metrics.iter().for_each(|metrics| metrics.take_turns(&mut turns));
        let instances = f64::from(active(&slots.owners));
        let mean = packets as f64 / instances.max(1.0);
        Load {
            instances,
            rate_pps: packets as f64 / seconds,
            queue: self.depths().sum::<u64>() as f64,
            p50_us: turns.value_at_quantile(0.5) as f64,
            p99_us: turns.value_at_quantile(0.99) as f64,
            cpu: busiest as f64 / 1e9 / seconds,
            imbalance: if packets == 0 { 1.0 } else { most as f64 / mean },
            drops_pps: drops as f64 / seconds,
            cache_hits: if known + waits == 0 { 1.0 } else { known as f64 / (known + waits) as f64 },
        }
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
        Some(self.next.min(self.decide))
    }

    fn on_deadline(&mut self, now: Instant, _cx: &mut Cx) {
        if self.next <= now {
            let deepest = self.depths().max().unwrap_or(0);
            self.next = now + if deepest == 0 { QUIET_PERIOD } else { PERIOD };
            self.watched.peak.fetch_max(deepest, Ordering::Relaxed);
        }
        if self.decide <= now {
            self.decide = now + self.period;
            let owners = self.watched.owners.lock().clone();
            let mut slots = Slots { packets: vec![0; owners.len()], owners };
            self.watched.metrics.iter().for_each(|metrics| metrics.take_slots(&mut slots.packets));
            let load = self.load(now, &slots);
            if let Some(wanted) = self.core.on_period(&load, &slots) {
                tracing::info!("vertex {}: {load:?}, {wanted:?}", self.watched.vertex.0);
                let event = RootEvent::Repartition(self.watched.vertex, wanted);
                self.links.tell_first_root(RootControl::Event(event));
            }
        }
    }
}
