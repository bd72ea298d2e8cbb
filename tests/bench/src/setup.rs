//! The chain that is measured: in which mode, compiled from which configuration.

use crate::traffic::Traffic;
use anyhow::Context as _;
use chc_actors::chain::compile::{ChainPlan, compile};
use chc_actors::config::{ChainBuilder, RuntimeConfig, StoreConfig, StoreMode};
use chc_actors::functions::Catalog;
use clap::ValueEnum;
use serde_json::json;

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
            Mode::Default => "external+cache+no-ack-wait",
        }
    }
}

/// Compiles the chain of the given functions, one instance each and one store shard, that the traffic
/// is for. A mode without a chain gets that of the default.
///
/// # Errors
/// What the configuration's check says, for instance of an unknown function.
pub fn plan(functions: &[String], mode: Mode, burst: u16, traffic: &Traffic) -> anyhow::Result<ChainPlan> {
    let addresses = (traffic.connections() / FLOWS_PER_ADDRESS + 1) as u32;
    let external: Vec<String> =
        (0..addresses).map(|at| std::net::Ipv4Addr::from_bits(0xcb00_7101 + at).to_string()).collect();
    let mode =
        if mode == Mode::Traditional { StoreMode::Traditional } else { StoreMode::ExternalCacheNoAckWait };
    let mut builder = ChainBuilder::new("bench")
        .store(StoreConfig { shards: 1, mode, ..StoreConfig::default() })
        .runtime(RuntimeConfig { arbiters: 1, burst, ..RuntimeConfig::default() });
    // A function may be there several times; vertices need names of their own.
    let names: Vec<String> = functions.iter().enumerate().map(|(at, nf)| format!("{nf}-{at}")).collect();
    for (at, nf) in functions.iter().enumerate() {
        let config = if nf == "nat" { json!({ "external": external, "idle_s": IDLE_S }) } else { json!({}) };
        builder = builder.vertex(&names[at], nf, |vertex| vertex.config(config));
        if let Some(next) = names.get(at + 1) {
            builder = builder.next(next);
        }
    }
    compile(&builder.build(&Catalog)?, &Catalog).context("the chain cannot be compiled")
}
