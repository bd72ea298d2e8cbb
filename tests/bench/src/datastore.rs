//! Experiment `datastore`: what one store shard does in a second.
//!
//! A shard's engine is given batches as an instance sends them, 16-byte keys drawn at random, every
//! operation with a name of its own and a result that is waited for. Only the shard's thread is timed: taking
//! the batch, applying what is in it, logging the results, making the replies, and forgetting what the cut
//! has passed, which follows a window behind. Making the batches is the clients' work. With several threads
//! each has a shard of its own, as shards share nothing; the figure is of all together.
//!
//! Over a link the shard is another process, a number of batches are on their way at once, and the figure is of the
//! whole: making batches, sending, applying and taking the results.
//!
//! All keys are there before anything is timed. Lists are pushed to and popped from in turn, so that a pop
//! finds something.

use crate::remote::{self, EPOCH, INTEGER, LIST, Remote, VALUE, Via};
use crate::report::{Line, Samples};
use anyhow::{Context as _, ensure};
use chc_api::state::ValueBytes;
use chc_api::{
    All, Clock, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Path, Position, VertexId,
};
use chc_store::batch::{Answer, Batch, OpItem, OpName, Reply};
use chc_store::engine::{ShardEffect, ShardEngine};
use clap::ValueEnum;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Batches on their way over a link, at most.
const IN_FLIGHT: usize = 16;

/// What to measure.
#[derive(Clone, Debug)]
pub struct DatastoreOptions {
    /// The operations, in turn.
    pub ops: Vec<StoreOp>,
    /// Threads, each with a shard of its own.
    pub threads: usize,
    /// Keys of each shard.
    pub keys: usize,
    /// Operations in a batch.
    pub batch: usize,
    /// Timed operations of each sample and thread.
    pub operations: usize,
    /// Samples of each operation.
    pub samples: usize,
    /// Where the shard is.
    pub via: Via,
    /// This program, to start a shard's process with.
    pub program: PathBuf,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreOp {
    /// Add one to an integer.
    Incr,
    /// Read a value of 8 bytes.
    Get,
    /// Overwrite a value of 8 bytes.
    Set,
    /// Append to a list.
    Push,
    /// Take the first of a list.
    Pop,
    /// Compare an integer and update it.
    Cas,
}

impl StoreOp {
    fn name(self) -> &'static str {
        match self {
            StoreOp::Incr => "incr",
            StoreOp::Get => "get",
            StoreOp::Set => "set",
            StoreOp::Push => "push",
            StoreOp::Pop => "pop",
            StoreOp::Cas => "cas",
        }
    }

    fn object(self) -> ObjectId {
        match self {
            StoreOp::Incr | StoreOp::Cas => INTEGER,
            StoreOp::Get | StoreOp::Set => VALUE,
            StoreOp::Push | StoreOp::Pop => LIST,
        }
    }

    /// The operation, the `nth` of its kind.
    fn op(self, nth: u64) -> Op {
        match self {
            StoreOp::Incr => Op::Increment(1),
            StoreOp::Get => Op::Get,
            StoreOp::Set => Op::Set(ValueBytes::of(&nth)),
            StoreOp::Push => Op::Push(nth),
            StoreOp::Pop => Op::Pop,
            StoreOp::Cas => Op::CompareAndUpdate { expect: 0, new: 0 },
        }
    }
}

/// Runs the experiment.
///
/// # Errors
/// If a shard refuses an operation, which a correct one does not, or a thread cannot be started.
pub fn measure(options: &DatastoreOptions) -> anyhow::Result<Vec<Line>> {
    let run = |thread: usize| move || Thread::new(options, thread)?.samples(options);
    let threads: Vec<Vec<Samples>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads).map(|thread| scope.spawn(run(thread))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<Vec<Samples>>>| {
            thread.join().ok().context("a thread of the experiment panicked")?
        };
        threads.into_iter().map(join).collect::<anyhow::Result<_>>()
    })?;
    let line = |(at, op): (usize, &StoreOp)| {
        let mut all = Samples::default();
        for sample in 0..options.samples {
            all.push(threads.iter().map(|of| of[at].all()[sample]).sum());
        }
        Line::new("datastore", "Mops")
            .key("op", op.name())
            .key("threads", options.threads)
            .key("keys", options.keys)
            .key("batch", options.batch)
            .key("path", options.via.name())
            .samples(&all)
    };
    Ok(options.ops.iter().enumerate().map(line).collect())
}

/// Where a thread's shard is.
enum Shard {
    Here(Box<ShardEngine<All>>, Vec<ShardEffect>),
    There(Box<dyn Remote>, Vec<Reply>),
}

/// One thread with its shard.
struct Thread {
    shard: Shard,
    number: u64,
    clock: u64,
    cut: u64,
    keys: u64,
    random: u64,
}

impl Thread {
    /// A shard with all keys in it.
    fn new(options: &DatastoreOptions, thread: usize) -> anyhow::Result<Self> {
        let mut thread = Self {
            shard: match options.via {
                Via::Memory => Shard::Here(Box::new(remote::engine(1)), Vec::new()),
                Via::Link => Shard::There(remote::start(Via::Link, 1, &options.program)?, Vec::new()),
            },
            number: 0,
            clock: 0,
            cut: 0,
            keys: options.keys as u64,
            random: 0x9e37_79b9_7f4a_7c15 ^ thread as u64,
        };
        for fill in [StoreOp::Set, StoreOp::Incr, StoreOp::Push] {
            if options.ops.iter().any(|op| op.object() == fill.object()) {
                thread.run(fill, options.keys, options.batch, |nth, _| nth)?;
            }
        }
        Ok(thread)
    }

    fn samples(&mut self, options: &DatastoreOptions) -> anyhow::Result<Vec<Samples>> {
        let mut all = vec![Samples::default(); options.ops.len()];
        for _ in 0..options.samples {
            for (op, samples) in options.ops.iter().zip(&mut all) {
                if *op == StoreOp::Pop {
                    self.at_random(StoreOp::Push, options)?;
                }
                let took = self.at_random(*op, options)?;
                samples.push(options.operations as f64 / took.as_secs_f64() / 1e6);
                if *op == StoreOp::Push {
                    self.at_random(StoreOp::Pop, options)?;
                }
            }
        }
        Ok(all)
    }

    fn at_random(&mut self, op: StoreOp, options: &DatastoreOptions) -> anyhow::Result<Duration> {
        let keys = self.keys;
        self.run(op, options.operations, options.batch, |_, random| {
            ((u128::from(random) * u128::from(keys)) >> 64) as u64
        })
    }

    /// Runs operations in batches; returns the time the shard took.
    fn run(
        &mut self,
        op: StoreOp,
        operations: usize,
        batch: usize,
        key: impl Fn(u64, u64) -> u64,
    ) -> anyhow::Result<Duration> {
        let (begin, mut took) = (Instant::now(), Duration::ZERO);
        let (mut done, mut sent) = (0, 0);
        while done < operations {
            let in_flight = if matches!(self.shard, Shard::Here(..)) { 1 } else { IN_FLIGHT };
            while sent < operations && sent - done < in_flight * batch {
                let count = batch.min(operations - sent);
                let ops = (0..count).map(|nth| self.item(op, (sent + nth) as u64, &key)).collect();
                self.number += 1;
                let from = InstanceId { vertex: VertexId(0), index: 0 };
                took += self.submit(Batch { ops, ..Batch::empty(from, Generation(1), self.number) })?;
                sent += count;
            }
            done += self.take_results()?;
        }
        Ok(if matches!(self.shard, Shard::Here(..)) { took } else { begin.elapsed() })
    }

    /// Gives the shard a batch, and the cut now and then; returns the time it took, if that is here.
    fn submit(&mut self, batch: Batch) -> anyhow::Result<Duration> {
        let cut = (self.clock - self.cut >= 2 * EPOCH).then(|| Clock(self.clock - EPOCH));
        self.cut = cut.map_or(self.cut, |cut| cut.0);
        match &mut self.shard {
            Shard::Here(engine, effects) => {
                let batch = Arc::new(batch);
                let begin = Instant::now();
                engine.on_batch(batch, effects);
                if let Some(cut) = cut {
                    engine.on_cut(cut, effects);
                }
                Ok(begin.elapsed())
            }
            Shard::There(shard, _) => {
                shard.send(batch)?;
                if let Some(cut) = cut {
                    shard.cut(cut)?;
                }
                Ok(Duration::ZERO)
            }
        }
    }

    fn item(&mut self, op: StoreOp, nth: u64, key: &impl Fn(u64, u64) -> u64) -> OpItem {
        self.clock += 1;
        // A xorshift: keys need no better, and it costs the caches nothing.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let key = key(nth, self.random);
        OpItem {
            name: OpName { position: Position::packet(Clock(self.clock), Path::FIRST), index: 0 },
            object: op.object(),
            key: ObjectKey([key, key.wrapping_mul(0x2545_f491_4f6c_dd1d), 0, 0, 0]),
            op: op.op(nth),
            now: chc_api::Time(0),
            answer: Answer::Result,
        }
    }

    /// The results that are there: how many. Every operation must have been done.
    fn take_results(&mut self) -> anyhow::Result<usize> {
        let mut replies = Vec::new();
        match &mut self.shard {
            Shard::Here(_, effects) => {
                for effect in effects.drain(..) {
                    match effect {
                        ShardEffect::Reply(reply) => replies.push(reply),
                        ShardEffect::Defect(defect) => anyhow::bail!(defect),
                        _ => {}
                    }
                }
            }
            Shard::There(shard, buffer) => {
                shard.receive(buffer)?;
                replies.append(buffer);
                if replies.is_empty() {
                    std::thread::yield_now();
                }
            }
        }
        let mut results = replies.iter().flat_map(|reply| &reply.results);
        let refused = results.clone().find(|(_, value)| matches!(value, OpValue::Refused(_)));
        ensure!(refused.is_none(), "the shard refused an operation: {refused:?}");
        Ok(results.by_ref().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_operation_gives_a_line() {
        let options = DatastoreOptions {
            ops: StoreOp::value_variants().to_vec(),
            threads: 2,
            keys: 100,
            batch: 7,
            operations: 20_000,
            samples: 2,
            via: Via::Memory,
            program: PathBuf::new(),
        };
        let lines = measure(&options).unwrap();
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(&l.show(true)).unwrap()).collect();
        let ops: Vec<_> = lines.iter().map(|l| l["op"].as_str().unwrap()).collect();
        assert_eq!(ops, ["incr", "get", "set", "push", "pop", "cas"]);
        for line in &lines {
            let figures = ["min", "median", "max"].map(|k| line[k].as_f64().unwrap());
            assert!(figures[0] > 0.0 && figures.is_sorted(), "{line}");
        }
    }
}
