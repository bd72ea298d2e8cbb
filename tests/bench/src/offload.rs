//! Experiment `offload`: shared state updated by the store, against read-modify-write under a lock.
//!
//! Two translators draw the next free port from the same object of one shard, packet by packet, each waiting for its own
//! result. Offloaded that is one operation. As in StatelessNF it is four, one after the other: take the lock, read, write,
//! give the lock back; a lock that is taken is tried for again. Both use the same batches, queue or link, and shard. The
//! translators take turns on one thread, the shard has a thread or process of its own; nobody sleeps. One line gives the
//! time a packet waits (median of a sample), one what both do together.

use crate::remote::{self, EPOCH, INTEGER, Remote, VALUE, Via};
use crate::report::{Line, Samples};
use anyhow::{Context as _, bail};
use chc_api::state::ValueBytes;
use chc_api::{Clock, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Path, Position, VertexId};
use chc_store::batch::{Answer, Batch, OpItem, OpName, Reply};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use std::path::PathBuf;
use std::time::Instant;

const TRANSLATORS: u16 = 2;
const LOCK: ObjectKey = ObjectKey([1, 0, 0, 0, 0]);
const PORTS: ObjectKey = ObjectKey([2, 0, 0, 0, 0]);
/// Longest wait that is told from longer ones, in nanoseconds.
const WAIT_MAX: u64 = 60_000_000_000;

/// How the shared object is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// By the store.
    Offloaded,
    /// By the translator, under a lock.
    ReadModifyWrite,
}

impl System {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            System::Offloaded => "offloaded",
            System::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct OffloadOptions {
    /// The systems, in turn.
    pub systems: Vec<System>,
    /// The paths to the shard, in turn.
    pub paths: Vec<Via>,
    /// Packets of each translator in a sample.
    pub packets: u64,
    /// Samples of each.
    pub samples: usize,
    /// This program, to start a shard's process with.
    pub program: PathBuf,
}

/// Runs the experiment.
///
/// # Errors
/// If a shard cannot be started, or refuses an operation.
pub fn measure(options: &OffloadOptions) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for via in &options.paths {
        let mut subjects = Vec::new();
        for system in &options.systems {
            let shard = remote::start(*via, TRANSLATORS, &options.program)?;
            subjects.push(Subject::new(*system, shard));
        }
        for _ in 0..options.samples {
            for subject in &mut subjects {
                subject.sample(options.packets)?;
            }
        }
        for Subject { system, waits, rates, .. } in &subjects {
            let line = |unit, samples| {
                let line = Line::new("offload", unit).key("system", system.name()).key("path", via.name());
                line.samples(samples)
            };
            lines.extend([line("ns", waits), line("Mops", rates)]);
        }
    }
    Ok(lines)
}

/// A system with its shard and its translators.
struct Subject {
    system: System,
    shard: Box<dyn Remote>,
    translators: Vec<Translator>,
    clock: u64,
    cut: u64,
    replies: Vec<Reply>,
    waits: Samples,
    rates: Samples,
}

/// Where a translator is with its packet.
#[derive(Clone, Copy, Debug)]
enum Step {
    Offloaded,
    Lock,
    Read,
    Write,
    Unlock,
}

struct Translator {
    step: Step,
    begun: Instant,
    number: u64,
    left: u64,
}

impl Subject {
    fn new(system: System, shard: Box<dyn Remote>) -> Self {
        let translator = |_| Translator { step: Step::Lock, begun: Instant::now(), number: 0, left: 0 };
        Self {
            system,
            shard,
            translators: (0..TRANSLATORS).map(translator).collect(),
            clock: 0,
            cut: 0,
            replies: Vec::new(),
            waits: Samples::default(),
            rates: Samples::default(),
        }
    }

    fn sample(&mut self, packets: u64) -> anyhow::Result<()> {
        let mut waits = Histogram::<u64>::new_with_bounds(1, WAIT_MAX, 3).context("no histogram")?;
        let begin = Instant::now();
        for at in 0..self.translators.len() {
            self.translators[at].left = packets;
            self.begin(at)?;
        }
        while self.translators.iter().any(|translator| translator.left > 0) {
            let mut replies = std::mem::take(&mut self.replies);
            self.shard.receive(&mut replies)?;
            if replies.is_empty() {
                std::thread::yield_now();
            }
            for reply in replies.drain(..) {
                for (_, value) in &reply.results {
                    self.go_on(usize::from(reply.to.index), *value, &mut waits)?;
                }
            }
            self.replies = replies;
        }
        let done = (packets * self.translators.len() as u64) as f64;
        self.rates.push(done / begin.elapsed().as_secs_f64() / 1e6);
        self.waits.push(waits.value_at_quantile(0.5) as f64);
        Ok(())
    }

    /// A translator's next packet.
    fn begin(&mut self, at: usize) -> anyhow::Result<()> {
        self.translators[at].begun = Instant::now();
        match self.system {
            System::Offloaded => self.issue(at, Step::Offloaded, INTEGER, PORTS, Op::Increment(1)),
            System::ReadModifyWrite => self.lock(at),
        }
    }

    fn lock(&mut self, at: usize) -> anyhow::Result<()> {
        self.issue(at, Step::Lock, INTEGER, LOCK, Op::CompareAndUpdate { expect: 0, new: 1 })
    }

    /// A translator's result has come.
    fn go_on(&mut self, at: usize, value: OpValue, waits: &mut Histogram<u64>) -> anyhow::Result<()> {
        match (self.translators[at].step, value) {
            (Step::Lock, OpValue::Int(0)) => return self.lock(at),
            (Step::Lock, OpValue::Int(_)) => return self.issue(at, Step::Read, VALUE, PORTS, Op::Get),
            (Step::Read, OpValue::Bytes(port)) => {
                let next = port.read::<u64>().unwrap_or_default() + 1;
                return self.issue(at, Step::Write, VALUE, PORTS, Op::Set(ValueBytes::of(&next)));
            }
            (Step::Write, OpValue::Empty) => {
                let unlock = Op::CompareAndUpdate { expect: 1, new: 0 };
                return self.issue(at, Step::Unlock, INTEGER, LOCK, unlock);
            }
            (Step::Unlock, OpValue::Int(1)) | (Step::Offloaded, OpValue::Int(_)) => {}
            (step, value) => bail!("{step:?} gave {value:?}"),
        }
        let translator = &mut self.translators[at];
        waits.saturating_record(translator.begun.elapsed().as_nanos() as u64);
        translator.left -= 1;
        if translator.left > 0 { self.begin(at) } else { Ok(()) }
    }

    fn issue(
        &mut self,
        at: usize,
        step: Step,
        object: ObjectId,
        key: ObjectKey,
        op: Op,
    ) -> anyhow::Result<()> {
        self.clock += 1;
        let translator = &mut self.translators[at];
        translator.step = step;
        translator.number += 1;
        let name = OpName { position: Position::packet(Clock(self.clock), Path::FIRST), index: 0 };
        let from = InstanceId { vertex: VertexId(0), index: at as u16 };
        let ops = vec![OpItem { name, object, key, op, now: chc_api::Time(0), answer: Answer::Result }];
        self.shard.send(Batch { ops, ..Batch::empty(from, Generation(1), translator.number) })?;
        if self.clock - self.cut >= 2 * EPOCH {
            self.cut = self.clock - EPOCH;
            self.shard.cut(Clock(self.cut))?;
        }
        Ok(())
    }
}
