//! Experiment `datastore`: what one store shard does in a second.
//!
//! A shard's engine is given batches as an instance sends them, 16-byte keys drawn at random, every
//! operation with a name of its own and a result that is waited for. Only the shard's thread is timed: taking
//! the batch, applying what is in it, logging the results, making the replies, and forgetting what the cut
//! has passed, which follows a window behind. Making the batches is the clients' work. With several threads
//! each has a shard of its own, as shards share nothing; the figure is of all together.
//!
//! All keys are there before anything is timed. Lists are pushed to and popped from in turn, so that a pop
//! finds something.

use crate::report::{Line, Samples};
use anyhow::{Context as _, ensure};
use chc_api::state::{ObjectKind, ValueBytes};
use chc_api::{
    All, Clock, Consistency, Declarations, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Path,
    Position, Scope, ShardId, VertexId,
};
use chc_store::batch::{Batch, OpItem, OpName};
use chc_store::engine::{ShardConfig, ShardEffect, ShardEngine, VertexSpec};
use clap::ValueEnum;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clocks the shard remembers.
const WINDOW: u64 = 8192;
/// Clocks between two cuts.
const EPOCH: u64 = 1024;
/// Most elements of a list.
const LIST_LEN_MAX: usize = 1 << 20;

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

const INTEGER: ObjectId = ObjectId(0);
const VALUE: ObjectId = ObjectId(1);
const LIST: ObjectId = ObjectId(2);

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
            .key("path", "memory")
            .samples(&all)
    };
    Ok(options.ops.iter().enumerate().map(line).collect())
}

/// One thread with its shard.
struct Thread {
    engine: ShardEngine<All>,
    effects: Vec<ShardEffect>,
    number: u64,
    clock: u64,
    cut: u64,
    keys: u64,
    random: u64,
}

impl Thread {
    /// A shard with all keys in it.
    fn new(options: &DatastoreOptions, thread: usize) -> anyhow::Result<Self> {
        let mut declared = Declarations::default();
        let integer = ObjectKind::Int { initial: 0 };
        declared.basic("integer", Scope::Global, Consistency::Serial, integer, (1, 0));
        declared.shared("value", Scope::Global, Consistency::Serial, 0_u64, &[], (1, 0));
        let list = ObjectKind::List { len_max: LIST_LEN_MAX };
        declared.basic("list", Scope::Global, Consistency::Serial, list, (1, 0));
        let vertex = VertexSpec { objects: declared.objects, instances: 1, owners: vec![0], per_clock: 1 };
        let engine = ShardEngine::new(ShardConfig {
            shard: ShardId(0),
            window: WINDOW,
            vertices: vec![vertex],
            record_choices: false,
            seed: 1,
        });
        let mut thread = Self {
            engine,
            effects: Vec::new(),
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
        let mut took = Duration::ZERO;
        let mut done = 0;
        while done < operations {
            let count = batch.min(operations - done);
            let ops = (0..count).map(|nth| self.item(op, (done + nth) as u64, &key)).collect();
            self.number += 1;
            let from = InstanceId { vertex: VertexId(0), index: 0 };
            let batch = Arc::new(Batch { ops, ..Batch::empty(from, Generation(1), self.number) });
            let begin = Instant::now();
            self.engine.on_batch(batch, &mut self.effects);
            if self.clock - self.cut >= 2 * EPOCH {
                self.cut = self.clock - EPOCH;
                self.engine.on_cut(Clock(self.cut), &mut self.effects);
            }
            took += begin.elapsed();
            done += self.take_results(count)?;
        }
        Ok(took)
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
            reply: true,
        }
    }

    /// Every operation must have been answered, and done.
    fn take_results(&mut self, expected: usize) -> anyhow::Result<usize> {
        let mut results = 0;
        for effect in self.effects.drain(..) {
            match effect {
                ShardEffect::Reply(reply) => {
                    results += reply.results.len();
                    let refused =
                        reply.results.iter().find(|(_, value)| matches!(value, OpValue::Refused(_)));
                    ensure!(refused.is_none(), "the shard refused an operation: {refused:?}");
                }
                ShardEffect::Defect(defect) => anyhow::bail!(defect),
                ShardEffect::Acknowledge { .. } | ShardEffect::Loaded(_) | ShardEffect::Reserved(_) => {}
            }
        }
        ensure!(results == expected, "{expected} operations gave {results} results");
        Ok(results)
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
