//! A store shard beside its client: on another thread behind a mailbox's queue, or in another process behind a link.
//!
//! Neither side sleeps: who waits looks again, and lets others run.

use crate::setup::{Mode, plan_with};
use anyhow::{Context as _, bail, ensure};
use chc_api::state::ObjectKind;
use chc_api::{All, Clock, Consistency, Declarations, ObjectId, Scope, ShardId};
use chc_runtime::link::Link;
use chc_store::batch::{Batch, Reply};
use chc_store::engine::{ShardConfig, ShardEffect, ShardEngine, VertexSpec};
use chc_store::wire::{FromShard, ToShard};
use clap::ValueEnum;
use rkyv::util::AlignedVec;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Clocks the shard remembers.
pub const WINDOW: u64 = 8192;
/// Clocks between two cuts.
pub const EPOCH: u64 = 1024;
/// Integers by key.
pub const INTEGER: ObjectId = ObjectId(0);
/// Values of 8 bytes by key.
pub const VALUE: ObjectId = ObjectId(1);
/// Lists by key.
pub const LIST: ObjectId = ObjectId(2);
/// Most elements of a list.
const LIST_LEN_MAX: usize = 1 << 20;

/// How batches get to the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// It is in the same process.
    Memory,
    /// It is another process, over loopback.
    Link,
}

impl Via {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Via::Memory => "memory",
            Via::Link => "link",
        }
    }
}

/// A shard for a vertex of so many instances, with [`INTEGER`], [`VALUE`] and [`LIST`], all `serial`.
#[must_use]
pub fn engine(instances: u16) -> ShardEngine<All> {
    let mut declared = Declarations::default();
    let integer = ObjectKind::Int { initial: 0 };
    declared.basic("integer", Scope::Global, Consistency::Serial, integer, (1, 0));
    declared.shared("value", Scope::Global, Consistency::Serial, 0_u64, &[], (1, 0));
    let list = ObjectKind::List { len_max: LIST_LEN_MAX };
    declared.basic("list", Scope::Global, Consistency::Serial, list, (1, 0));
    let vertex = VertexSpec { objects: declared.objects, instances, owners: vec![0], per_clock: 1 };
    ShardEngine::new(ShardConfig {
        shard: ShardId(0),
        window: WINDOW,
        vertices: vec![vertex],
        record_choices: false,
        seed: 1,
    })
}

/// What a shard's process serves.
#[derive(Clone, Debug)]
pub enum Served {
    /// The objects of [`engine`], to so many instances.
    Objects(u16),
    /// The only shard of a chain of one function.
    Chain {
        /// The function.
        function: String,
        /// Where state lives.
        mode: Mode,
        /// The function's keys.
        config: serde_json::Value,
    },
}

impl Served {
    /// How the process is told.
    fn arguments(&self) -> Vec<String> {
        let words = match self {
            Served::Objects(instances) => vec!["--instances".into(), instances.to_string()],
            Served::Chain { function, mode, config } => {
                let (function, mode) = (function.clone(), mode.name().to_owned());
                vec!["--nf".into(), function, "--mode".into(), mode, "--config".into(), config.to_string()]
            }
        };
        ["serve-shard".to_owned()].into_iter().chain(words).collect()
    }

    fn engine(&self) -> anyhow::Result<ShardEngine<All>> {
        Ok(match self {
            Served::Objects(instances) => engine(*instances),
            Served::Chain { function, mode, config } => {
                let plan = plan_with(std::slice::from_ref(function), *mode, 1, |_| config.clone())?;
                ShardEngine::new(plan.shard(ShardId(0), false))
            }
        })
    }
}

/// A shard elsewhere.
pub trait Remote {
    /// Sends a batch.
    ///
    /// # Errors
    /// If the shard is gone.
    fn send(&mut self, batch: Batch) -> anyhow::Result<()>;

    /// The chain's cut moved.
    ///
    /// # Errors
    /// If the shard is gone.
    fn cut(&mut self, cut: Clock) -> anyhow::Result<()>;

    /// Takes the results that have come.
    ///
    /// # Errors
    /// If the shard is gone.
    fn receive(&mut self, into: &mut Vec<Reply>) -> anyhow::Result<()>;
}

/// Starts a shard; `program` is this one, for a process of its own.
///
/// # Errors
/// If it does not start.
pub fn start(via: Via, instances: u16, program: &Path) -> anyhow::Result<Box<dyn Remote>> {
    Ok(match via {
        Via::Memory => Box::new(ThreadShard::start(instances)),
        Via::Link => Box::new(ProcessShard::start(&Served::Objects(instances), program)?),
    })
}

/// A shard on a thread of its own.
struct ThreadShard {
    to: Option<flume::Sender<ToShard>>,
    from: flume::Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
}

impl ThreadShard {
    fn start(instances: u16) -> Self {
        let (to, inbox) = flume::unbounded();
        let (outbox, from) = flume::unbounded();
        let run = move || {
            let (mut engine, mut effects) = (engine(instances), Vec::new());
            loop {
                match inbox.try_recv() {
                    Ok(message) => handle(&mut engine, message, &mut effects),
                    Err(flume::TryRecvError::Empty) => std::thread::yield_now(),
                    Err(flume::TryRecvError::Disconnected) => return,
                }
                for effect in effects.drain(..) {
                    if let ShardEffect::Reply(reply) = effect {
                        // The client may have ended.
                        let _ = outbox.send(reply);
                    }
                }
            }
        };
        Self { to: Some(to), from, thread: Some(std::thread::spawn(run)) }
    }

    fn tell(&self, message: ToShard) -> anyhow::Result<()> {
        let to = self.to.as_ref().context("the shard has ended")?;
        to.send(message).ok().context("the shard has ended")
    }
}

impl Remote for ThreadShard {
    fn send(&mut self, batch: Batch) -> anyhow::Result<()> {
        self.tell(ToShard::Batch(batch))
    }

    fn cut(&mut self, cut: Clock) -> anyhow::Result<()> {
        self.tell(ToShard::Cut(cut))
    }

    fn receive(&mut self, into: &mut Vec<Reply>) -> anyhow::Result<()> {
        into.extend(self.from.try_iter());
        Ok(())
    }
}

impl Drop for ThreadShard {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its client has said so.
            let _ = thread.join();
        }
    }
}

fn handle(engine: &mut ShardEngine<All>, message: ToShard, effects: &mut Vec<ShardEffect>) {
    match message {
        ToShard::Batch(batch) => engine.on_batch(Arc::new(batch), effects),
        ToShard::Load(load) => engine.on_load(&load, effects),
        ToShard::Cut(cut) => engine.on_cut(cut, effects),
        ToShard::Reserve(until) => engine.on_reserve(until, effects),
    }
}

/// A shard in a process of its own.
pub struct ProcessShard {
    link: Link,
    child: Child,
    buffer: AlignedVec,
}

impl ProcessShard {
    /// Starts it; `program` is this one.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(served: &Served, program: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
        let port = listener.local_addr()?.port().to_string();
        let mut child = Command::new(program)
            .args(served.arguments())
            .args(["--port", &port])
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        listener.set_nonblocking(true)?;
        let link = loop {
            match Link::accept(&listener) {
                Ok(link) => break link,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(child.try_wait()?.is_none(), "the shard's process has ended");
                    std::thread::yield_now();
                }
                Err(error) => bail!(error),
            }
        };
        Ok(Self { link, child, buffer: AlignedVec::new() })
    }

    /// Sends a message with the next [`Self::take`].
    ///
    /// # Errors
    /// If it is too long.
    pub fn tell(&mut self, message: &ToShard) -> anyhow::Result<()> {
        self.buffer.clear();
        self.buffer = message.encode(std::mem::take(&mut self.buffer))?;
        Ok(self.link.send(&self.buffer)?)
    }

    /// Takes what has come. Returns how many messages there were.
    ///
    /// # Errors
    /// If the shard is gone, or sends what is no message.
    pub fn take(&mut self, mut take: impl FnMut(FromShard)) -> anyhow::Result<usize> {
        let mut wrong = None;
        let count = self.link.receive(|message| match FromShard::decode(message) {
            Ok(message) => take(message),
            Err(error) => wrong = Some(error),
        })?;
        match wrong {
            Some(error) => bail!("the shard sent what is no message: {error}"),
            None => Ok(count),
        }
    }
}

impl Remote for ProcessShard {
    fn send(&mut self, batch: Batch) -> anyhow::Result<()> {
        self.tell(&ToShard::Batch(batch))
    }

    fn cut(&mut self, cut: Clock) -> anyhow::Result<()> {
        self.tell(&ToShard::Cut(cut))
    }

    fn receive(&mut self, into: &mut Vec<Reply>) -> anyhow::Result<()> {
        self.take(|message| {
            if let FromShard::Reply(reply) = message {
                into.push(reply);
            }
        })?;
        Ok(())
    }
}

impl Drop for ProcessShard {
    fn drop(&mut self) {
        // It ends by itself when the link does; this is in case it does not look.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end: a shard that serves one client until the link ends.
///
/// # Errors
/// If there is no client, or it sends what is no message.
pub fn serve(port: u16, served: &Served) -> anyhow::Result<()> {
    let mut link = Link::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let (mut engine, mut effects) = (served.engine()?, Vec::new());
    let mut buffer = AlignedVec::new();
    loop {
        let mut wrong = None;
        let received = link.receive(|message| match ToShard::decode(message) {
            Ok(message) => handle(&mut engine, message, &mut effects),
            Err(error) => wrong = Some(error),
        });
        match received {
            Ok(0) => std::thread::yield_now(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => bail!(error),
        }
        if let Some(error) = wrong {
            bail!("the client sent what is no message: {error}");
        }
        for effect in effects.drain(..) {
            let message = match effect {
                ShardEffect::Reply(reply) => FromShard::Reply(reply),
                ShardEffect::Acknowledge { to, generation, number } => {
                    FromShard::Acknowledged(to, generation, number)
                }
                ShardEffect::Loaded(loaded) => FromShard::Loaded(loaded),
                ShardEffect::Changed(changes) => FromShard::Changed(changes),
                ShardEffect::Reserved(until) => FromShard::Reserved(until),
                ShardEffect::Logged { .. } => bail!("nobody logs packets here"),
                ShardEffect::Defect(reason) => bail!(reason),
            };
            buffer.clear();
            buffer = message.encode(buffer)?;
            link.send(&buffer)?;
        }
    }
}
