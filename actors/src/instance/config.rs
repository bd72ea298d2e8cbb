//! What an instance is told at its creation, and what it counts.

use crate::config::StoreMode;
use crate::messages::Source;
use crate::routing::Route;
use crate::splitter::Ways;
use chc_api::state::ObjectSpec;
use chc_api::{Clock, Generation, InstanceId, Path, Position};
use chc_runtime::block::BlockPool;
use chc_store::client::Placement;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What an instance is told at its creation.
#[derive(Clone)]
pub struct InstanceConfig {
    /// Which instance.
    pub id: InstanceId,
    /// Which incarnation.
    pub generation: Generation,
    /// Clocks in an epoch.
    pub epoch: u64,
    /// The root's window, in clocks.
    pub window: u64,
    /// The vertex's declarations.
    pub specs: Vec<ObjectSpec>,
    /// How traffic to this vertex is partitioned.
    pub own: Route,
    /// Where its packets go.
    pub ways: Ways,
    /// Those who send to this instance: for each edge of the chain all senders.
    pub upstream: Vec<Vec<Source>>,
    /// Whether packets of a flow may come by several of those edges.
    pub joins: bool,
    /// Where state is.
    pub mode: StoreMode,
    /// Where objects live.
    pub placement: Placement,
    /// Packets that can wait for the store at once.
    pub parking: usize,
    /// Positions whose handling panicked too often: they are dropped.
    pub poisoned: Vec<Position>,
    /// Blocks for outputs.
    pub pool: Arc<BlockPool>,
    /// Where the packet being handled is noted, for whoever finds this instance dead.
    pub running: Arc<Running>,
}

/// The packet an instance is handling: what a panic is blamed on.
#[derive(Default, Debug)]
pub struct Running {
    clock: AtomicU64,
    path: AtomicU64,
    inside: AtomicBool,
}

impl Running {
    #[inline(always)]
    pub(super) fn note(&self, clock: Clock, path: Path) {
        self.clock.store(clock.0, Ordering::Relaxed);
        self.path.store(u64::from(path.0), Ordering::Relaxed);
        self.inside.store(true, Ordering::Relaxed);
    }

    pub(super) fn returned(&self) {
        self.inside.store(false, Ordering::Relaxed);
    }

    /// The packet whose handling began and did not return; a timer without its origin.
    #[must_use]
    pub fn unfinished(&self) -> Option<Position> {
        let path = Path(self.path.load(Ordering::Relaxed) as u32);
        let position = Position::packet(Clock(self.clock.load(Ordering::Relaxed)), path);
        self.inside.load(Ordering::Relaxed).then_some(position)
    }
}

/// What an instance counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Packets accepted.
    pub packets: u64,
    /// Packets that waited for what comes before them on other edges.
    pub held: u64,
    /// Packets an edge had delivered before.
    pub duplicates: u64,
    /// Packets and timers that waited for the store.
    pub parked: u64,
    /// How often one of them began to wait for the store.
    pub round_trips: u64,
    /// Results of operations that a packet or timer needed and the instance knew.
    pub known: u64,
    /// Timers fired.
    pub timers: u64,
    /// Data messages of replaced generations.
    pub fenced: u64,
    /// Packets the function dropped.
    pub drops: u64,
    /// Handovers of slots it took part in.
    pub handovers: u64,
    /// Batches sent to a shard again, for it had not acknowledged them in time.
    pub retransmitted: u64,
}
