//! The chain that is measured: in which mode, compiled from which configuration.

use crate::traffic::Traffic;
use anyhow::Context as _;
use chc_actors::chain::compile::{ChainPlan, VertexPlan, compile};
use chc_actors::config::{ChainBuilder, Edge, RuntimeConfig, StoreConfig, StoreMode};
use chc_actors::functions::Catalog;
use clap::ValueEnum;
use serde_json::json;
use std::net::Ipv4Addr;

/// Translations that one external address is to hold: about half its ports, so that no slot runs out
/// of its share whatever the hashes are.
const FLOWS_PER_ADDRESS: usize = 30_000;
/// No translation expires while an experiment runs, in seconds of packet time.
const IDLE_S: u32 = 86_400;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A bare translation loop: what no translator can leave out.
    #[value(name = "bare")]
    Bare,
    /// State in the instances alone, no guarantees.
    #[value(name = "traditional")]
    Traditional,
    /// State in the store alone; packets wait for what they read and what they did.
    #[value(name = "external")]
    External,
    /// State in the store, per-flow records cached; packets wait for what they did to shared objects.
    #[value(name = "external+cache")]
    ExternalCache,
    /// State in the store, cached, updates not waited for: the chain's default.
    #[value(name = "external+cache+no-ack-wait")]
    Default,
}

impl Mode {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Bare => "bare",
            Mode::Traditional => "traditional",
            Mode::External => "external",
            Mode::ExternalCache => "external+cache",
            Mode::Default => "external+cache+no-ack-wait",
        }
    }
}

/// Who does it: the product, or OpenNF as it is emulated beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// The product.
    Ours,
    /// OpenNF, emulated.
    Opennf,
}

impl System {
    /// Its name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            System::Ours => "ours",
            System::Opennf => "opennf",
        }
    }
}

/// The function that stands off the path, where there are others: it gets a copy of what leaves the first.
const OFF_PATH: &str = "trojan";
/// The first external address of the translator.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Backends of the load balancer.
const BACKENDS: u32 = 8;

/// Compiles the chain of the given functions, one instance each and one store shard, that the traffic
/// is for. A mode without a chain gets that of the default.
///
/// # Errors
/// What the configuration's check says, for instance of an unknown function.
pub fn plan(functions: &[String], mode: Mode, burst: u16, traffic: &Traffic) -> anyhow::Result<ChainPlan> {
    plan_with(functions, mode, burst, |nf| config(nf, traffic))
}

/// The same with keys of one's own for each function.
///
/// # Errors
/// As [`plan`].
pub fn plan_with(
    functions: &[String],
    mode: Mode,
    burst: u16,
    config: impl Fn(&str) -> serde_json::Value,
) -> anyhow::Result<ChainPlan> {
    let mode = match mode {
        Mode::Traditional => StoreMode::Traditional,
        Mode::External => StoreMode::External,
        Mode::ExternalCache => StoreMode::ExternalCache,
        Mode::Bare | Mode::Default => StoreMode::ExternalCacheNoAckWait,
    };
    let mut builder = ChainBuilder::new("bench")
        .store(StoreConfig { shards: 1, mode, ..StoreConfig::default() })
        .runtime(RuntimeConfig { arbiters: 1, burst, ..RuntimeConfig::default() });
    // A function may be there several times; vertices need names of their own.
    let named = |(at, nf): (usize, &String)| (format!("{nf}-{at}"), nf.clone());
    let (off_path, mut path): (Vec<_>, Vec<_>) =
        functions.iter().enumerate().map(named).partition(|(_, nf)| nf == OFF_PATH);
    let copies = if path.is_empty() {
        path = off_path;
        Vec::new()
    } else {
        off_path
    };
    for (at, (name, nf)) in path.iter().enumerate() {
        builder = builder.vertex(name, nf, |mut vertex| {
            for (copy, _) in copies.iter().filter(|_| at == 0) {
                vertex = vertex.copy(Edge::new(copy));
            }
            vertex.config(config(nf))
        });
        if let Some((next, _)) = path.get(at + 1) {
            builder = builder.next(next);
        }
    }
    for (name, nf) in &copies {
        builder = builder.vertex(name, nf, |vertex| vertex.config(config(nf)));
    }
    compile(&builder.build(&Catalog)?, &Catalog).context("the chain cannot be compiled")
}

/// The function of a vertex of such a chain.
#[must_use]
pub fn function_of(vertex: &VertexPlan) -> &str {
    vertex.name.rsplit_once('-').map_or(&vertex.name, |(nf, _)| nf)
}

/// A function's keys: enough room for the traffic, and nothing expires.
#[must_use]
pub fn config(nf: &str, traffic: &Traffic) -> serde_json::Value {
    let addresses = |first: u32, count: u32| -> Vec<String> {
        (first..first + count).map(|address| Ipv4Addr::from_bits(address).to_string()).collect()
    };
    match nf {
        "nat" => {
            let count = traffic.connections() / FLOWS_PER_ADDRESS + 1;
            json!({ "external": addresses(EXTERNAL.to_bits(), count as u32), "idle_s": IDLE_S })
        }
        "load_balancer" => {
            let service = json!({ "match": "tcp/80,443", "backends": addresses(0xc633_6401, BACKENDS) });
            json!({ "services": [service], "idle_s": IDLE_S })
        }
        _ => json!({}),
    }
}
