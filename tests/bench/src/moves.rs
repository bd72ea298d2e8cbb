//! Experiment `move`: connections go to another instance, with their state.
//!
//! All connections of a NAT instance go to a second one. The figure is the time from the order to the moment the second
//! one goes on, everything on one thread: ours as the product does it, cores called directly ([`crate::cores`]). With
//! nothing to flush the chain is at rest, and a sample is the mean of 64 moves to and fro, one right after the other. With
//! `flush` the last 1,000 packets have opened connections and nothing of that has been flushed: at the default epoch of
//! 1,024 packets there is never much more, whatever the number of connections.
//!
//! Beside it OpenNF's loss-free move, emulated: the first instance serialises the record of each connection and sends it
//! to the controller, which sends it to the second one; that reads and installs it and answers the controller, which
//! tells the first one to forget it. Four messages a connection, in the codec of our links, by queues like our mailboxes'.
//! No packet comes meanwhile, so nothing has to be buffered.

use crate::cores::Cores;
use crate::report::{Line, Samples};
use crate::setup::{Mode, System, plan};
use crate::traffic::{Feed, Traffic, TrafficOptions};
use anyhow::{Context as _, bail, ensure};
use chc_actors::routing::Repartition;
use chc_api::packet::LinkType;
use chc_api::packet::parse;
use chc_api::{Clock, FlowKey, Generation, InstanceId, ObjectId, ShardId, VertexId};
use chc_store::batch::Loaded;
use chc_store::record::{Record, RecordShape};
use chc_store::table::{FlowTable, Hint, Written};
use chc_store::wire::FromShard;
use rkyv::util::AlignedVec;
use std::sync::Arc;
use std::time::Instant;

const NAT: VertexId = VertexId(0);
const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Packets whose writes are to be flushed; below the epoch.
const UNFLUSHED: usize = 1000;
const BURST: usize = 256;
/// Moves of one sample, where nothing is to be flushed.
const TURNS: usize = 64;
/// A NAT's record: 16 bytes of value and a timer.
const SHAPE: RecordShape = RecordShape { value_len: 16, timers: 1 };

/// What to measure.
#[derive(Clone, Debug)]
pub struct MoveOptions {
    /// The systems, in turn.
    pub systems: Vec<System>,
    /// Connections that move.
    pub flows: Vec<usize>,
    /// Samples of each.
    pub samples: usize,
}

/// Runs the experiment.
///
/// # Errors
/// If the chain cannot be built or the slots do not arrive.
pub fn measure(options: &MoveOptions) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for flows in &options.flows {
        let traffic = TrafficOptions { size: 64, flows: *flows, packets: 0, new_share: 0.0 };
        let traffic = Arc::new(Traffic::new(traffic));
        let mut found: Vec<(System, bool, Samples)> = Vec::new();
        for system in &options.systems {
            found.extend([false, true].map(|flush| (*system, flush, Samples::default())));
        }
        let mut at_rest = Chain::start(&traffic)?;
        at_rest.pause()?;
        for _ in 0..options.samples {
            for (system, flush, samples) in &mut found {
                samples.push(match (system, *flush) {
                    (System::Ours, false) => at_rest.turn_often()?,
                    (System::Ours, true) => Chain::start(&traffic)?.turn()?,
                    (System::Opennf, _) => one_by_one(&traffic)?,
                });
            }
        }
        lines.extend(found.iter().map(|(system, flush, samples)| {
            let line = Line::new("move", "us").key("system", system.name());
            line.key("flows", *flows).key("flush", *flush).samples(samples)
        }));
    }
    Ok(lines)
}

/// A NAT of two instances, one of which has all connections.
struct Chain {
    cores: Cores,
    feed: Feed,
    owner: u16,
    slots: usize,
}

impl Chain {
    /// All connections are open; what the last packets wrote has not been flushed.
    fn start(traffic: &Arc<Traffic>) -> anyhow::Result<Self> {
        let mut plan = plan(&["nat".to_owned()], Mode::Default, BURST as u16, traffic)?;
        let route = &mut plan.vertices[0].route;
        route.instances = 2;
        route.owners.fill(0);
        let slots = route.owners.len();
        let mut chain =
            Self { cores: Cores::start(&plan)?, feed: Feed::new(traffic.clone()), owner: 0, slots };
        let openings = 2 * traffic.options().flows;
        chain.run(openings.saturating_sub(UNFLUSHED))?;
        chain.pause()?;
        chain.run(openings.min(UNFLUSHED))?;
        Ok(chain)
    }

    fn run(&mut self, packets: usize) -> anyhow::Result<()> {
        let mut left = packets;
        while left > 0 {
            let took = self.cores.burst(&mut self.feed, left.min(BURST))?;
            left -= took;
        }
        Ok(())
    }

    fn pause(&mut self) -> anyhow::Result<()> {
        self.cores.burst(&mut self.feed, 0).map(|_| ())
    }

    /// The mean of [`TURNS`] moves.
    fn turn_often(&mut self) -> anyhow::Result<f64> {
        let took: f64 = (0..TURNS).map(|_| self.turn()).sum::<anyhow::Result<f64>>()?;
        Ok(took / TURNS as f64)
    }

    /// Moves all slots to the other instance; how many microseconds that took.
    fn turn(&mut self) -> anyhow::Result<f64> {
        let (from, to) = (vec![self.owner; self.slots], vec![1 - self.owner; self.slots]);
        let begin = Instant::now();
        let turned = self.cores.repartition(NAT, Repartition::Owners { from, to })?;
        let took = begin.elapsed();
        ensure!(turned == 2, "{turned} instances of two have turned");
        self.owner = 1 - self.owner;
        Ok(took.as_secs_f64() * 1e6)
    }
}

/// What OpenNF's parties say to each other.
enum Message {
    /// A connection's record, serialised.
    Put(AlignedVec),
    /// It is installed.
    Installed(FlowKey),
}

/// OpenNF's move of the traffic's connections; how many microseconds it took.
fn one_by_one(traffic: &Arc<Traffic>) -> anyhow::Result<f64> {
    let (mut old, mut new) = (FlowTable::new(SHAPE), FlowTable::new(SHAPE));
    for frame in traffic.first_frames() {
        let key = parse(LinkType::ETHERNET, frame).key;
        let row = old.insert(&key, key.hash(SEED));
        old.record_mut(row).fill(key.words[0]);
    }
    let (exports, exported) = flume::unbounded();
    let (puts, put) = flume::unbounded();
    let (answers, answered) = flume::unbounded();
    let (forgets, forgotten) = flume::unbounded();
    let begin = Instant::now();
    for row in old.rows() {
        let message = FromShard::Loaded(Loaded {
            to: InstanceId { vertex: NAT, index: 1 },
            generation: Generation(1),
            shard: ShardId(0),
            boundary: Clock(0),
            records: vec![(ObjectId(0), old.key(row), Clock(0), old.image(row))],
            changes: Vec::new(),
            changes_known: 0,
        });
        exports.send(Message::Put(message.encode(AlignedVec::new())?))?;
        // The controller.
        puts.send(exported.recv()?)?;
        // The new instance.
        if let Message::Put(bytes) = put.recv()? {
            let FromShard::Loaded(loaded) = FromShard::decode(&bytes)? else { bail!("no record") };
            for (_, key, written, record) in &loaded.records {
                install(&mut new, key, *written, record);
                answers.send(Message::Installed(*key))?;
            }
        }
        // The controller again.
        forgets.send(answered.recv()?)?;
    }
    // The old instance, which walked its table until now.
    for message in forgotten.try_iter() {
        if let Message::Installed(key) = message {
            let row = old.find(&key, key.hash(SEED), Hint::NONE).context("it was there")?;
            old.remove(row, key.hash(SEED));
        }
    }
    let took = begin.elapsed();
    ensure!(old.is_empty() && new.len() == traffic.options().flows, "a connection was lost");
    Ok(took.as_secs_f64() * 1e6)
}

fn install(table: &mut FlowTable, key: &FlowKey, clock: Clock, record: &Record) {
    let row = table.insert(key, key.hash(SEED));
    table.record_mut(row).copy_from_slice(record.words());
    table.set_written(row, Written { clock, dirty: false, removed: false });
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;
    use serde_json::Value;

    #[test]
    fn every_system_moves_all_connections_with_something_to_flush_and_without() {
        let systems = System::value_variants().to_vec();
        let lines = measure(&MoveOptions { systems, flows: vec![60], samples: 2 }).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let keys: Vec<_> =
            lines.iter().map(|l| (l["system"].as_str().unwrap(), l["flush"].as_bool().unwrap())).collect();
        assert_eq!(keys, [("ours", false), ("ours", true), ("opennf", false), ("opennf", true)]);
        assert!(lines.iter().all(|line| line["median"].as_f64().unwrap() > 0.0));
    }
}
