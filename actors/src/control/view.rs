//! What can be seen of a running chain: read from its actors' counters, without stopping any.

use super::feed::{Events, Feed};
use crate::chain::compile::ChainPlan;
use crate::chain::listing::{Page, Query, entries};
use crate::chain::recoveries::Recovery;
use crate::chain::state::collect;
use crate::chain::wire::{Addresses, RootControl};
use crate::egress::actor::EgressControl;
use crate::gateway::Ports;
use crate::instance::metrics::Metrics;
use crate::latency::Latencies;
use anyhow::{Context as _, anyhow};
use chc_runtime::io::{RxCounters, TxCounters};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for an actor that should answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Most recoveries that are remembered.
const RECOVERIES_MAX: usize = 100;

/// The interfaces a chain lies between.
pub struct Interfaces {
    /// Their names, inside first.
    pub names: [String; 2],
    /// What their frames come and go by.
    pub backends: [&'static str; 2],
    /// Why not by what would be better.
    pub refused: [Vec<String>; 2],
    /// What counts.
    pub ports: Arc<Mutex<Ports>>,
}

/// What there is to be seen.
pub struct View {
    plan: Arc<ChainPlan>,
    addresses: Arc<Addresses>,
    metrics: Vec<Vec<Arc<Metrics>>>,
    interfaces: Option<Interfaces>,
    alerts: Arc<Mutex<u64>>,
    feed: Arc<Mutex<Feed>>,
    began: Instant,
    ends: AtomicBool,
    recovered: AtomicU64,
    recoveries: Mutex<VecDeque<Recovery>>,
}

/// A chain at some moment. Counters begin with the chain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The chain's name.
    pub chain: String,
    /// `starting`, `up` or `draining`.
    pub phase: String,
    /// Seconds since it began.
    pub uptime_s: f64,
    /// Packets that came, those lost at ingest included.
    pub packets_in: u64,
    /// Packets that left.
    pub packets_out: u64,
    /// Packets that functions made.
    pub packets_extra: u64,
    /// Bytes that came, on the wire.
    pub bytes_in: u64,
    /// Packets that ended in the chain, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets lost before they had a clock.
    pub ingest_drops: u64,
    /// Alerts.
    pub alerts: u64,
    /// Clocks above the chain's cut.
    pub in_flight: u64,
    /// Changes of routing tables.
    pub handovers: u64,
    /// Slots that changed hands in them.
    pub slots_moved: u64,
    /// How long packets that left were in the chain, by [the bounds](crate::latency::BOUNDS_US).
    #[serde(default)]
    pub latency: Latencies,
    /// The vertices.
    pub vertices: Vec<VertexStatus>,
    /// The interfaces, inside first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceStatus>,
    /// What ended at the chain's own router, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub router: BTreeMap<String, u64>,
    /// Recoveries so far.
    pub recovered: u64,
    /// The last of them.
    pub recoveries: Vec<Recovery>,
}

/// A vertex at some moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VertexStatus {
    /// Its name.
    pub name: String,
    /// Instances with traffic, first; more can be started.
    pub instances: Vec<InstanceStatus>,
    /// Most instances it can have.
    pub instances_max: u16,
}

/// An instance with traffic at some moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its number.
    pub index: u16,
    /// Slots it owns.
    pub slots: u64,
    /// How often it was built.
    pub generation: u64,
    /// Packets in its mailbox.
    pub queue: u64,
    /// Packets it took.
    pub packets: u64,
    /// Packets its function dropped.
    pub drops: u64,
    /// Seconds it was busy.
    pub busy_s: f64,
}

/// An interface at some moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// `inside` or `outside`.
    pub side: String,
    /// Its name.
    pub name: String,
    /// What its frames come and go by.
    #[serde(default)]
    pub backend: String,
    /// Why not by what would be better, where the best was to be found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Frames and bytes received.
    pub rx: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames that found no room: lost at ingest.
    pub rx_overruns: u64,
    /// Frames that were no frames of a wire, and dropped.
    pub rx_malformed: u64,
    /// Frames cut into segments.
    pub rx_segmented: u64,
    /// Frames that were not copied: they stay in the buffers they came in.
    #[serde(default)]
    pub rx_zero_copy: u64,
    /// Frames sent.
    pub tx: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames sent from the buffers they came in.
    #[serde(default)]
    pub tx_zero_copy: u64,
    /// Frames the interface did not take, by reason.
    pub tx_lost: BTreeMap<String, u64>,
    /// How often it went down.
    pub downs: u64,
}

impl View {
    /// A view of a chain.
    #[must_use]
    pub(crate) fn new(
        plan: Arc<ChainPlan>,
        addresses: Arc<Addresses>,
        metrics: Vec<Vec<Arc<Metrics>>>,
        interfaces: Option<Interfaces>,
        alerts: Arc<Mutex<u64>>,
        feed: Arc<Mutex<Feed>>,
    ) -> Self {
        Self {
            plan,
            addresses,
            metrics,
            interfaces,
            alerts,
            feed,
            began: Instant::now(),
            ends: AtomicBool::new(false),
            recovered: AtomicU64::new(0),
            recoveries: Mutex::default(),
        }
    }

    /// The chain takes no further packets.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Release);
    }

    /// Notes a recovery.
    pub fn recovered(&self, recovery: &Recovery) {
        self.recovered.fetch_add(1, Ordering::Relaxed);
        let mut recoveries = self.recoveries.lock();
        if recoveries.len() == RECOVERIES_MAX {
            recoveries.pop_front();
        }
        recoveries.push_back(recovery.clone());
    }

    /// The last recoveries.
    #[must_use]
    pub fn recoveries(&self) -> Vec<Recovery> {
        self.recoveries.lock().iter().cloned().collect()
    }

    /// The chain as it is now.
    ///
    /// # Errors
    /// If an actor has ended or does not answer.
    pub fn status(&self) -> anyhow::Result<Status> {
        let (tx, rx) = flume::bounded(1);
        let root = self.addresses.first_root().ok_or_else(|| anyhow!("the root has ended"))?;
        root.send(RootControl::Status(tx)).map_err(|lost| anyhow!("{lost}"))?;
        let root = rx.recv_timeout(ANSWER_WITHIN).context("the root does not answer")?;
        let (tx, rx) = flume::bounded(1);
        let egress = self.addresses.egress.current().ok_or_else(|| anyhow!("the egress has ended"))?;
        egress.send(EgressControl::Status(tx)).map_err(|lost| anyhow!("{lost}"))?;
        let egress = rx.recv_timeout(ANSWER_WITHIN).context("the egress does not answer")?;
        let phase = match (self.ends.load(Ordering::Acquire), root.is_ready) {
            (true, _) => "draining",
            (false, true) => "up",
            (false, false) => "starting",
        };
        let (interfaces, router) = self.interfaces();
        Ok(Status {
            chain: self.plan.name.clone(),
            phase: phase.to_owned(),
            uptime_s: self.began.elapsed().as_secs_f64(),
            packets_in: root.counts.packets + root.ingest_drops,
            packets_out: egress.packets,
            packets_extra: egress.extra,
            bytes_in: root.counts.bytes,
            drops: egress.drops.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            ingest_drops: root.ingest_drops,
            alerts: *self.alerts.lock(),
            in_flight: root.in_flight,
            latency: self.interfaces.as_ref().map_or_else(Latencies::default, |i| i.ports.lock().latencies()),
            handovers: root.counts.handovers,
            slots_moved: root.counts.slots_moved,
            vertices: (0..self.plan.vertices.len()).map(|at| self.vertex(at)).collect(),
            interfaces,
            router,
            recovered: self.recovered.load(Ordering::Relaxed),
            recoveries: self.recoveries(),
        })
    }

    fn vertex(&self, at: usize) -> VertexStatus {
        let vertex = &self.plan.vertices[at];
        let owners = self.addresses.owners[at].lock().clone();
        let instance = |index: u16| {
            let handle = self.addresses.instances[at][usize::from(index)].current();
            let counted = self.metrics[at][usize::from(index)].counted();
            InstanceStatus {
                index,
                slots: owners.iter().filter(|owner| **owner == index).count() as u64,
                generation: handle.as_ref().map_or(0, |h| h.generation().0.into()),
                queue: handle.map_or(0, |h| h.data_counters().depth_packets()),
                packets: counted.packets,
                drops: counted.drops,
                busy_s: counted.busy_ns as f64 / 1e9,
            }
        };
        let used = (0..vertex.route.instances).filter(|index| owners.contains(index));
        VertexStatus {
            name: vertex.name.clone(),
            instances: used.map(instance).collect(),
            instances_max: vertex.route.instances,
        }
    }

    fn interfaces(&self) -> (Vec<InterfaceStatus>, BTreeMap<String, u64>) {
        let Some(interfaces) = &self.interfaces else { return Default::default() };
        let counts = interfaces.ports.lock().counts();
        let status = |(at, name): (usize, &String)| {
            let (rx, tx): (RxCounters, TxCounters) = (counts.rx[at], counts.tx[at]);
            let lost = [("overrun", tx.overruns), ("too_long", tx.too_long), ("refused", tx.refused)];
            InterfaceStatus {
                side: chc_api::Side::BOTH[at].as_str().to_owned(),
                name: name.clone(),
                backend: interfaces.backends[at].to_owned(),
                refused: interfaces.refused[at].clone(),
                rx: rx.packets,
                rx_bytes: rx.bytes,
                rx_overruns: rx.overruns,
                rx_malformed: rx.malformed,
                rx_segmented: rx.segmented,
                rx_zero_copy: rx.zero_copy,
                tx: tx.packets,
                tx_bytes: tx.bytes,
                tx_zero_copy: tx.zero_copy,
                tx_lost: counted(&lost),
                downs: rx.downs,
            }
        };
        let router = counts.router.by_reason();
        (interfaces.names.iter().enumerate().map(status).collect(), counted(&router))
    }

    /// Whether the chain takes packets: every actor has started and nothing ends.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status().is_ok_and(|status| status.phase == "up")
    }

    /// Its events from a number on.
    #[must_use]
    pub fn events(&self, from: Option<u64>) -> Events {
        self.feed.lock().since(from)
    }

    /// A page of its state.
    ///
    /// # Errors
    /// If an actor has ended or does not answer.
    pub fn state(&self, query: &Query) -> anyhow::Result<Page> {
        let state = collect(&self.plan, &self.addresses)?;
        query.page(entries(&self.plan, &state).map(Ok))
    }
}

/// Those that are not zero.
fn counted(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), *n)).collect()
}
