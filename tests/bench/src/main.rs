//! The `chc-bench` command.

use chc_bench::chain::{self, ChainOptions};
use chc_bench::clock::{self, ClockOptions};
use chc_bench::crossflow::{self, CrossflowOptions, Phase};
use chc_bench::datastore::{self, DatastoreOptions, StoreOp};
use chc_bench::delete::{self, Delete, DeleteOptions};
use chc_bench::idle::{self, Between, IdleOptions};
use chc_bench::io::{self, IoOptions};
use chc_bench::logging::{self, LoggingOptions, Where};
use chc_bench::metadata::{self, MetadataOptions, Part};
use chc_bench::moves::{self, MoveOptions};
use chc_bench::offload::{self, OffloadOptions};
use chc_bench::overhead::{self, OverheadOptions};
use chc_bench::remote::{self, Served, Via};
use chc_bench::report::Line;
use chc_bench::scale::{self, ScaleOptions, What};
use chc_bench::setup::{Mode, System};
use chc_bench::shared::{self, SharedOptions};
use chc_bench::traffic::{FLOWS_MAX, FRAME_LEN_MAX, FRAME_LEN_MIN, TrafficOptions};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Names of the experiments.
const EXPERIMENTS: &[&str] = &[
    "chain",
    "clock",
    "crossflow",
    "datastore",
    "delete",
    "idle",
    "io",
    "logging",
    "metadata",
    "move",
    "offload",
    "overhead",
    "scale",
    "shared",
];

/// Runs experiments and prints one line a result.
#[derive(Parser)]
#[command(name = "chc-bench", version)]
struct Cli {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// A whole chain on one thread, packets in memory; a bare translation loop as calibration.
    Chain(ChainArgs),
    /// What leasing clocks from the store costs.
    Clock(ClockArgs),
    /// State that instances may share while a second one joins and leaves: latency of an update.
    Crossflow(CrossflowArgs),
    /// One store shard: operations a second.
    Datastore(DatastoreArgs),
    /// How it becomes known that the chain is done with a packet: as in the paper, and by the egress.
    Delete(DeleteArgs),
    /// A round trip between hosts that hardly talk: by the kernel's bridge, a bare forwarder and the chain.
    Idle(IdleArgs),
    /// What a packet costs at the interfaces: to receive, and to send.
    Io(IoArgs),
    /// What logging the packets in flight costs, in the root or in the store.
    Logging(LoggingArgs),
    /// What the memory for failures costs: the chain with each part of it and without.
    Metadata(MetadataArgs),
    /// Connections go to another instance with their state, against one by one as OpenNF has it.
    Move(MoveArgs),
    /// Shared state updated by the store, against read-modify-write under a lock.
    Offload(OffloadArgs),
    /// Each network function alone: nanoseconds a packet.
    Overhead(OverheadArgs),
    /// Time a packet while connections, functions or instances grow; memory of a connection.
    Scale(ScaleArgs),
    /// Strongly consistent updates of shared state, against a controller that relays each packet.
    Shared(SharedArgs),
    /// A shard's process, for the others.
    #[command(hide = true)]
    ServeShard(ServeArgs),
    #[command(external_subcommand)]
    Unknown(Vec<String>),
}

#[derive(Args)]
struct Common {
    /// Bytes of a data packet's frame.
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
    /// Established connections.
    #[arg(long, default_value_t = 4000, value_parser = flows)]
    flows: usize,
    /// Share of the timed packets that opens connections, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    new_share: f64,
    /// Samples of each mode.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(10..))]
    samples: u32,
    /// Timed packets a sample; without, 2,000,000 or with --quick 200,000.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..))]
    packets: Option<u32>,
    /// Fewer packets: for a first impression.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How much is measured and how it is told, where the packets are not a choice.
#[derive(Args)]
struct Run {
    /// Samples of each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(10..))]
    samples: u32,
    /// Less work a sample: for a first impression.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ChainArgs {
    #[command(flatten)]
    common: Common,
    /// The chain's functions, in order; trojan stands off the path and gets copies of what leaves the first.
    #[arg(long, default_value = "nat,portscan,load_balancer,trojan", value_delimiter = ',', value_parser = function)]
    vertices: Vec<String>,
    /// One mode; without, all in turn.
    #[arg(long)]
    mode: Option<Mode>,
    /// Packets the root reads at once when the rate is taken.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct ClockArgs {
    #[command(flatten)]
    common: Common,
    /// The chain's functions, as for chain.
    #[arg(long, default_value = "nat", value_delimiter = ',', value_parser = function)]
    vertices: Vec<String>,
    /// Packets a lease; without, 1, 10, 100 and 1,000 in turn.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    n: Option<u32>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct CrossflowArgs {
    /// One phase is told; without, all.
    #[arg(long)]
    phase: Option<Phase>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct DatastoreArgs {
    /// One operation; without, all in turn.
    #[arg(long)]
    op: Option<StoreOp>,
    /// Threads, each with a shard of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Keys of each shard.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Operations in a batch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// How batches get to the shard.
    #[arg(long, default_value = "memory")]
    path: Via,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct MetadataArgs {
    #[command(flatten)]
    common: Common,
    /// The chain's functions, as for chain.
    #[arg(long, default_value = "nat,portscan,load_balancer,trojan", value_delimiter = ',', value_parser = function)]
    vertices: Vec<String>,
    /// One part; without, all in turn.
    #[arg(long)]
    part: Option<Part>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct MoveArgs {
    /// One system; without, both in turn.
    #[arg(long)]
    system: Option<System>,
    /// Connections; without, 4,000 and 400,000.
    #[arg(long, value_parser = flows)]
    flows: Option<usize>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct OffloadArgs {
    /// One system; without, both in turn.
    #[arg(long)]
    system: Option<offload::System>,
    /// One path to the shard; without, both in turn.
    #[arg(long)]
    path: Option<Via>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct DeleteArgs {
    #[command(flatten)]
    common: Common,
    /// The chain's functions, as for chain.
    #[arg(long, default_value = "nat", value_delimiter = ',', value_parser = function)]
    vertices: Vec<String>,
    /// One mode; without, all in turn.
    #[arg(long)]
    delete: Option<Delete>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct IdleArgs {
    /// What is between the hosts; without, all in turn.
    #[arg(long)]
    between: Option<Between>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct IoArgs {
    /// One backend; without, all in turn.
    #[arg(long)]
    backend: Option<io::Backend>,
    /// One direction; without, all.
    #[arg(long)]
    direction: Option<io::Direction>,
    /// Bytes of a frame.
    #[arg(long, default_value_t = 64, value_parser = size)]
    size: usize,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct LoggingArgs {
    #[command(flatten)]
    common: Common,
    /// The chain's functions, as for chain.
    #[arg(long, default_value = "nat", value_delimiter = ',', value_parser = function)]
    vertices: Vec<String>,
    /// Where packets are logged; without, root and store in turn.
    #[arg(long = "where")]
    place: Option<Where>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct ServeArgs {
    #[arg(long)]
    port: u16,
    /// Instances of a vertex with integers, values and lists.
    #[arg(long, required_unless_present = "nf")]
    instances: Option<u16>,
    /// Or the function of a chain, its mode and its keys.
    #[arg(long, requires_all = ["mode", "config"])]
    nf: Option<String>,
    #[arg(long)]
    mode: Option<Mode>,
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<serde_json::Value>(text))]
    config: Option<serde_json::Value>,
}

impl ServeArgs {
    fn serve(&self) -> anyhow::Result<()> {
        let served = match (self.nf.clone(), self.mode, self.config.clone()) {
            (Some(function), Some(mode), Some(config)) => Served::Chain { function, mode, config },
            _ => Served::Objects(self.instances.unwrap_or(1)),
        };
        remote::serve(self.port, &served)
    }
}

#[derive(Args)]
struct OverheadArgs {
    #[command(flatten)]
    common: Common,
    /// One function; without, all in turn.
    #[arg(long, value_parser = function)]
    nf: Option<String>,
    /// One mode; without, all in turn.
    #[arg(long, value_parser = ["traditional", "external", "external+cache", "external+cache+no-ack-wait"])]
    mode: Option<String>,
    /// Where the store shard is.
    #[arg(long, default_value = "memory")]
    path: Via,
}

#[derive(Args)]
struct ScaleArgs {
    #[command(flatten)]
    common: Common,
    /// What grows; without, all in turn.
    #[arg(long)]
    what: Option<What>,
    /// How far; without, 1,000 to 10,000,000 connections, 1 to 8 functions, 1 to 64 instances.
    #[arg(long, requires = "what", value_parser = clap::value_parser!(u32).range(1..))]
    n: Option<u32>,
    /// Packets the root reads at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
}

#[derive(Args)]
struct SharedArgs {
    /// One system; without, both in turn.
    #[arg(long)]
    system: Option<System>,
    /// Share of the highest rate at which packets arrive.
    #[arg(long, default_value_t = 0.5, value_parser = load)]
    load: f64,
    #[command(flatten)]
    run: Run,
}

fn size(text: &str) -> Result<usize, String> {
    within(text, FRAME_LEN_MIN, FRAME_LEN_MAX)
}

fn flows(text: &str) -> Result<usize, String> {
    within(text, 1, FLOWS_MAX)
}

fn function(text: &str) -> Result<String, String> {
    let known = chc_nf_catalog::names();
    if known.contains(&text) { Ok(text.to_owned()) } else { Err(format!("give one of {}", known.join(", "))) }
}

fn within(text: &str, low: usize, high: usize) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("\"{text}\" is no whole number"))?;
    if (low..=high).contains(&number) { Ok(number) } else { Err(format!("give {low} to {high}")) }
}

fn load(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    if (0.01..=1.0).contains(&number) { Ok(number) } else { Err("give 0.01 to 1".to_owned()) }
}

fn share(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("\"{text}\" is no number"))?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("give 0 to 1".to_owned()) }
}

impl Common {
    fn traffic(&self) -> TrafficOptions {
        let packets = self.packets.unwrap_or(if self.quick { 200_000 } else { 2_000_000 });
        TrafficOptions {
            size: self.size,
            flows: self.flows,
            packets: packets as usize,
            new_share: self.new_share,
        }
    }
}

fn measure_chain(args: &ChainArgs) -> anyhow::Result<Vec<Line>> {
    let all = vec![Mode::Bare, Mode::Traditional, Mode::Default];
    chain::measure(&ChainOptions {
        traffic: args.common.traffic(),
        vertices: args.vertices.clone(),
        modes: args.mode.map_or(all, |mode| vec![mode]),
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_clock(args: &ClockArgs) -> anyhow::Result<Vec<Line>> {
    clock::measure(&ClockOptions {
        traffic: args.common.traffic(),
        vertices: args.vertices.clone(),
        leases: args.n.map_or_else(|| vec![1, 10, 100, 1000], |n| vec![n]),
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_crossflow(args: &CrossflowArgs) -> anyhow::Result<Vec<Line>> {
    crossflow::measure(&CrossflowOptions {
        phases: args.phase.map_or_else(|| Phase::value_variants().to_vec(), |phase| vec![phase]),
        packets: if args.run.quick { 2_000 } else { 20_000 },
        burst: usize::from(args.burst),
        samples: args.run.samples as usize,
    })
}

fn measure_datastore(args: &DatastoreArgs) -> anyhow::Result<Vec<Line>> {
    datastore::measure(&DatastoreOptions {
        ops: args.op.map_or_else(|| StoreOp::value_variants().to_vec(), |op| vec![op]),
        threads: usize::from(args.threads),
        keys: args.keys as usize,
        batch: usize::from(args.batch),
        operations: if args.run.quick { 100_000 } else { 1_000_000 },
        samples: args.run.samples as usize,
        via: args.path,
        program: std::env::current_exe()?,
    })
}

fn measure_idle(args: &IdleArgs) -> anyhow::Result<Vec<Line>> {
    idle::measure(&IdleOptions {
        between: args.between.map_or_else(|| Between::value_variants().to_vec(), |one| vec![one]),
        requests: if args.run.quick { 10 } else { 50 },
        samples: args.run.samples as usize,
    })
}

fn measure_io(args: &IoArgs) -> anyhow::Result<Vec<Line>> {
    io::measure(&IoOptions {
        backends: args.backend.map_or_else(|| io::Backend::value_variants().to_vec(), |one| vec![one]),
        directions: args.direction.map_or_else(|| io::Direction::value_variants().to_vec(), |one| vec![one]),
        size: args.size,
        packets: if args.run.quick { 20_000 } else { 200_000 },
        samples: args.run.samples as usize,
    })
}

fn measure_offload(args: &OffloadArgs) -> anyhow::Result<Vec<Line>> {
    offload::measure(&OffloadOptions {
        systems: args
            .system
            .map_or_else(|| offload::System::value_variants().to_vec(), |system| vec![system]),
        paths: args.path.map_or_else(|| Via::value_variants().to_vec(), |path| vec![path]),
        packets: if args.run.quick { 2_000 } else { 20_000 },
        samples: args.run.samples as usize,
        program: std::env::current_exe()?,
    })
}

fn measure_move(args: &MoveArgs) -> anyhow::Result<Vec<Line>> {
    let all = if args.run.quick { vec![4_000] } else { vec![4_000, 400_000] };
    moves::measure(&MoveOptions {
        systems: args.system.map_or_else(|| System::value_variants().to_vec(), |system| vec![system]),
        flows: args.flows.map_or(all, |flows| vec![flows]),
        samples: args.run.samples as usize,
    })
}

fn measure_metadata(args: &MetadataArgs) -> anyhow::Result<Vec<Line>> {
    metadata::measure(&MetadataOptions {
        traffic: args.common.traffic(),
        vertices: args.vertices.clone(),
        parts: args.part.map_or_else(|| Part::value_variants().to_vec(), |part| vec![part]),
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_shared(args: &SharedArgs) -> anyhow::Result<Vec<Line>> {
    shared::measure(&SharedOptions {
        systems: args.system.map_or_else(|| System::value_variants().to_vec(), |system| vec![system]),
        traffic: TrafficOptions {
            size: 64,
            flows: 4000,
            packets: if args.run.quick { 5_000 } else { 50_000 },
            new_share: 0.0,
        },
        load: args.load,
        samples: args.run.samples as usize,
    })
}

fn measure_scale(args: &ScaleArgs) -> anyhow::Result<Vec<Line>> {
    let most = match args.what {
        Some(What::Flows) => FLOWS_MAX as u32,
        Some(What::Length) => 16,
        Some(What::Instances) => 64,
        None => u32::MAX,
    };
    if let Some(n) = args.n.filter(|n| *n > most) {
        anyhow::bail!("--n: {n} is too many; give at most {most}");
    }
    scale::measure(&ScaleOptions {
        traffic: args.common.traffic(),
        what: args.what.map_or_else(|| What::value_variants().to_vec(), |what| vec![what]),
        n: args.n,
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_delete(args: &DeleteArgs) -> anyhow::Result<Vec<Line>> {
    delete::measure(&DeleteOptions {
        traffic: args.common.traffic(),
        vertices: args.vertices.clone(),
        modes: args.delete.map_or_else(|| Delete::value_variants().to_vec(), |mode| vec![mode]),
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_logging(args: &LoggingArgs) -> anyhow::Result<Vec<Line>> {
    logging::measure(&LoggingOptions {
        traffic: args.common.traffic(),
        vertices: args.vertices.clone(),
        places: args.place.map_or_else(|| Where::value_variants().to_vec(), |place| vec![place]),
        samples: args.common.samples as usize,
        burst: args.burst,
    })
}

fn measure_overhead(args: &OverheadArgs) -> anyhow::Result<Vec<Line>> {
    let asked = |mode: &Mode| args.mode.as_ref().is_none_or(|name| name == mode.name());
    let all = || chc_nf_catalog::names().iter().map(|name| (*name).to_owned()).collect();
    overhead::measure(&OverheadOptions {
        traffic: args.common.traffic(),
        functions: args.nf.clone().map_or_else(all, |nf| vec![nf]),
        modes: [Mode::Traditional, Mode::External, Mode::ExternalCache, Mode::Default]
            .into_iter()
            .filter(asked)
            .collect(),
        samples: args.common.samples as usize,
        path: args.path,
        program: std::env::current_exe()?,
    })
}

fn main() -> ExitCode {
    let (lines, as_json) = match &Cli::parse().experiment {
        Experiment::Chain(args) => (measure_chain(args), args.common.json),
        Experiment::Clock(args) => (measure_clock(args), args.common.json),
        Experiment::Crossflow(args) => (measure_crossflow(args), args.run.json),
        Experiment::Datastore(args) => (measure_datastore(args), args.run.json),
        Experiment::Delete(args) => (measure_delete(args), args.common.json),
        Experiment::Idle(args) => (measure_idle(args), args.run.json),
        Experiment::Io(args) => (measure_io(args), args.run.json),
        Experiment::Logging(args) => (measure_logging(args), args.common.json),
        Experiment::Metadata(args) => (measure_metadata(args), args.common.json),
        Experiment::Move(args) => (measure_move(args), args.run.json),
        Experiment::Offload(args) => (measure_offload(args), args.run.json),
        Experiment::ServeShard(args) => (args.serve().map(|()| Vec::new()), false),
        Experiment::Overhead(args) => (measure_overhead(args), args.common.json),
        Experiment::Scale(args) => (measure_scale(args), args.common.json),
        Experiment::Shared(args) => (measure_shared(args), args.run.json),
        Experiment::Unknown(words) => {
            let name = words.first().map_or("", String::as_str);
            eprintln!("there is no experiment \"{name}\"; there are {}", EXPERIMENTS.join(", "));
            return ExitCode::from(2);
        }
    };
    match lines {
        Ok(lines) => {
            for line in lines {
                println!("{}", line.show(as_json));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(3)
        }
    }
}
