//! The state machine of a root.
//!
//! It stamps the packets that belong to it with the clocks drawn for them ([`super::intake`]), keeps what is in flight as what
//! its splitter retains, or in the store as well: then none goes on before it is there.
//!
//! The first root has the lead ([`super::lead`]): it reserves clocks, moves the chain's cut and changes routing tables. The
//! others hear of the cut, and meet changed tables where they take clocks: before the first clock they hold for.
//!
//! Memory: the window. Paper: section 4.1, 5 (clocks, logging), 5.3, 5.4.

use super::fragments::Fragments;
use super::intake::Intake;
pub use super::intake::{Arrival, Queue, Stamp, Ticket};
use super::lead::Lead;
use super::logging::Logging;
use super::shares::Shares;
use crate::messages::{Data, Destination, RootEffect, RootEvent, Source};
use crate::splitter::{Splitter, Ways};
use crate::steps::Steps;
use chc_api::packet::ParseReason;
use chc_api::packet::parse::{PacketKind, Parsed};
use chc_api::{Clock, Generation, InstanceId, Output, Path, Position, Protection, Protections};
use chc_runtime::block::{BlockPool, Desc, Ingest, Meta};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the roots are told at their creation.
#[derive(Clone)]
pub struct RootConfig {
    /// Clocks in an epoch, a power of two.
    pub epoch: u64,
    /// Clocks that may lie above the cut; at least two epochs.
    pub window: u64,
    /// Bytes of packets that may lie above the cut.
    pub bytes_max: u64,
    /// An epoch ends early with the burst by which it has so many bytes of packets.
    pub epoch_bytes: u64,
    /// Least distance of time steps; zero for a step at every distinct time.
    pub tick_ns: u64,
    /// Which root a packet belongs to.
    pub shares: Shares,
    /// Where packets enter the chain.
    pub ways: Ways,
    /// Seed of the identity hash.
    pub seed: u64,
    /// All instances of the chain.
    pub instances: Vec<InstanceId>,
    /// Whether what is in flight is retained for replay.
    pub retain: bool,
    /// Clocks that are reserved in the store at once; none if there is no store.
    pub clock_lease: Option<u64>,
    /// Whether packets go on only when the store has them in its log.
    pub logs_to_store: bool,
    /// Blocks for input packets.
    pub pool: Arc<BlockPool>,
}

/// What roots count.
#[derive(Clone, Debug, Default)]
pub struct RootCounts {
    /// Packets stamped.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets that were not understood to their end, by [`ParseReason`].
    pub reasons: BTreeMap<&'static str, u64>,
    /// Changes of routing tables.
    pub handovers: u64,
    /// Slots that went to another instance.
    pub slots_moved: u64,
}

impl RootCounts {
    /// Adds what another root counted.
    pub fn add(&mut self, other: RootCounts) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.handovers += other.handovers;
        self.slots_moved += other.slots_moved;
    }
}

/// The state machine.
pub struct RootCore<P> {
    seed: u64,
    root: u16,
    fragments: Fragments,
    logging: Option<Logging>,
    splitter: Splitter<P>,
    /// Changes of routing tables below this boundary are known.
    changes_from: Clock,
    /// The first root's.
    lead: Option<Lead<P>>,
    counts: RootCounts,
}

impl<P: Protections> RootCore<P> {
    /// The `root`-th root, which has stamped nothing.
    #[must_use]
    pub fn new(config: &RootConfig, root: u16) -> Self {
        let (ways, instances) = (&config.ways, &config.instances);
        let lead = || Lead::new(config.epoch, config.window, instances, &ways.routes);
        Self {
            seed: config.seed,
            root,
            fragments: Fragments::default(),
            logging: config.logs_to_store.then(|| Logging::new(root)),
            splitter: Splitter::new(Source::Root(root), Generation(1), ways, &config.pool, config.retain),
            changes_from: Clock(0),
            lead: (root == 0).then(lead),
            counts: RootCounts::default(),
        }
    }

    /// Whether every instance has started and there are clocks to stamp; only the first root knows.
    #[must_use]
    pub fn is_ready(&self, intake: &Intake) -> bool {
        intake.has_lease() && self.lead.as_ref().is_some_and(Lead::all_started)
    }

    /// Takes the packets that wait for this root, and learns of the tables they are routed by; `into` is empty.
    pub fn take(&mut self, intake: &mut Intake, into: &mut Queue) {
        intake.take(self.root, into);
        self.learn_changes(intake.steps());
    }

    /// Stamps a packet of this root with the clock drawn for it. Its frame is taken.
    #[inline]
    pub fn ingest(&mut self, arrival: &mut Arrival<'_>, parsed: Parsed, ticket: Ticket) {
        let odd = parsed.reason.is_some()
            || parsed.is(PacketKind::FIRST_FRAGMENT)
            || parsed.is(PacketKind::LATER_FRAGMENT);
        if odd {
            return self.ingest_odd(arrival, parsed, ticket);
        }
        self.stamp(arrival, parsed, ticket);
    }

    /// A fragment, or a packet that was not understood to its end.
    #[cold]
    fn ingest_odd(&mut self, arrival: &mut Arrival<'_>, mut parsed: Parsed, ticket: Ticket) {
        self.fragments.resolve(&arrival.frame, &mut parsed, ticket.time);
        if let Some(reason) = parsed.reason {
            self.count_reason(reason);
        }
        self.stamp(arrival, parsed, ticket);
    }

    #[inline(always)]
    fn stamp(&mut self, arrival: &mut Arrival<'_>, parsed: Parsed, ticket: Ticket) {
        let Ticket { clock, time, number } = ticket;
        self.counts.packets += 1;
        self.counts.bytes += u64::from(arrival.wire_len);
        if let Some(logging) = &mut self.logging {
            logging.add(clock, time, arrival);
        }

        let hash = parsed.key.hash(self.seed);
        let (link, arrived, side) = (arrival.link, arrival.time, arrival.side);
        let meta = || Meta::new(parsed, link, time, arrived, number).from_side(side);
        let ingest = Ingest {
            clock,
            path: Path::FIRST,
            hash,
            wire_len: arrival.wire_len,
            bits: Desc::bits_of(&parsed, &arrival.frame),
        };
        // Nothing is discarded at the entry: there is a way.
        let to = self.splitter.pick(Output::FIRST, hash, clock, || parsed.identity());
        if let Some(to) = to {
            let head_len = parsed.head_len(&arrival.frame);
            self.splitter.ingest(to, &mut arrival.frame, head_len, ingest, meta);
        }
    }

    fn count_reason(&mut self, reason: ParseReason) {
        *self.counts.reasons.entry(reason.as_str()).or_default() += 1;
    }

    fn learn_changes(&mut self, steps: &Steps) {
        if self.changes_from < steps.next_change() {
            for change in steps.changes_since(self.changes_from) {
                self.splitter.reroute(&change);
            }
            self.changes_from = steps.next_change();
        }
    }

    /// The instance that owns each slot of each vertex from the last boundary on; only the first root knows.
    pub fn owners(&self) -> impl Iterator<Item = &[u16]> {
        self.lead.iter().flat_map(Lead::owners)
    }

    /// Sends what was stamped since the last call, and the progress.
    pub fn flush(&mut self, intake: &mut Intake, out: &mut Vec<RootEffect>) {
        intake.end_burst();
        if let Some(lead) = &mut self.lead {
            lead.repartition(intake, &mut self.counts, out);
            intake.reserve(out);
        }
        self.learn_changes(intake.steps());
        let waits = P::on(Protection::WaitingProgress);
        let taken = if waits { intake.taken(self.root) } else { intake.next_clock() };
        let progress = Position::before(taken);
        self.send(out, |splitter, send| splitter.flush(intake.steps(), progress, send));
    }

    /// Sends what the splitter sends, or holds it until the log has it.
    fn send(
        &mut self,
        out: &mut Vec<RootEffect>,
        send: impl FnOnce(&mut Splitter<P>, &mut dyn FnMut(Destination, Data)),
    ) {
        let Some(logging) = &mut self.logging else {
            return send(&mut self.splitter, &mut |to, data| out.push(RootEffect::Data(to, data)));
        };
        let mut sends = Vec::new();
        send(&mut self.splitter, &mut |to, data| sends.push(RootEffect::Data(to, data)));
        logging.hold(sends.into_iter(), out);
    }

    /// Takes an event.
    pub fn on_event(&mut self, intake: &mut Intake, event: RootEvent, out: &mut Vec<RootEffect>) {
        match event {
            RootEvent::Replay(to, generation, boundary) => {
                self.send(out, |splitter, send| {
                    splitter.replay(to, generation, boundary, intake.steps(), send);
                });
            }
            RootEvent::Cut(cut) => self.splitter.trim(cut),
            RootEvent::Logged(number) => {
                if let Some(logging) = &mut self.logging {
                    logging.on_logged(number, out);
                }
            }
            RootEvent::Register(instance, generation) => {
                intake.reserve(out);
                if let Some(lead) = &mut self.lead {
                    lead.register(instance, generation, intake, out);
                }
            }
            RootEvent::Closed(instance, generation, boundary, records) => {
                let Some(lead) = &mut self.lead else { return };
                if lead.closed((instance, generation), boundary, records, out) {
                    self.move_cut(intake, out);
                }
            }
            RootEvent::EgressClosed(boundary) => {
                let Some(lead) = &mut self.lead else { return };
                lead.egress_closed(boundary);
                self.move_cut(intake, out);
            }
            RootEvent::Repartition(vertex, how) => {
                let Some(lead) = &mut self.lead else { return };
                lead.ask(vertex, how);
                lead.repartition(intake, &mut self.counts, out);
                self.learn_changes(intake.steps());
            }
            RootEvent::Reserved(until) => intake.reserved(until),
        }
    }

    fn move_cut(&mut self, intake: &mut Intake, out: &mut Vec<RootEffect>) {
        let Some((cut, instances)) = self.lead.as_mut().and_then(|lead| lead.move_cut(intake)) else {
            return;
        };
        intake.trim(cut);
        self.splitter.trim(cut);
        out.push(RootEffect::Cut(cut, instances));
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> &RootCounts {
        &self.counts
    }

    /// What has been counted since the last call.
    pub fn take_counts(&mut self) -> RootCounts {
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "handover_tests.rs"]
mod handover_tests;
