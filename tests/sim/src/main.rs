//! `chc-sim`: runs seeds of the simulation.

use chc_api::Protection;
use chc_sim::run::{Outcome, run_seed, run_seeds};
use chc_sim::weaken::{WEAKENINGS, by_name};
use chc_sim::world::{Faults, TraceMode};
use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;

/// Deterministic simulation of whole chains under faults, compared with the ideal chain.
#[derive(Parser)]
#[command(name = "chc-sim", version)]
struct Args {
    /// Seeds to run, A..B without B.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// One seed.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Faults to inject: all, none, or a list of nf-crash, zombie, delay, burst-cut, link-loss,
    /// link-repeat, link-reorder, move.
    #[arg(long, default_value = "all", value_parser = parse_faults)]
    faults: Faults,
    /// Switches a protection off.
    #[arg(long, value_parser = parse_weakening)]
    weaken: Option<Protection>,
    /// Lists what can be switched off.
    #[arg(long)]
    list_weakenings: bool,
    /// Prints every message of the one seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let read = |part: &str| part.trim().parse::<u64>().ok();
    match text.split_once("..").map(|(a, b)| (read(a), read(b))) {
        Some((Some(from), Some(to))) if from < to => Ok(from..to),
        _ => Err(format!("\"{text}\" is no range of seeds; write 0..100")),
    }
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    match text {
        "all" => return Ok(Faults::ALL),
        "none" => return Ok(Faults::NONE),
        _ => {}
    }
    let mut faults = Faults::NONE;
    for kind in text.split(',') {
        match kind.trim() {
            "nf-crash" => faults.nf_crash = true,
            "zombie" => faults.zombie = true,
            "delay" => faults.delay = true,
            "burst-cut" => faults.burst_cut = true,
            "link-loss" => faults.loss = true,
            "link-repeat" => faults.repeat = true,
            "link-reorder" => faults.reorder = true,
            "move" => faults.moves = true,
            other => {
                return Err(format!(
                    "there is no fault \"{other}\"; write all, none, or some of \
                     nf-crash,zombie,delay,burst-cut,link-loss,link-repeat,link-reorder,move"
                ));
            }
        }
    }
    Ok(faults)
}

fn parse_weakening(text: &str) -> Result<Protection, String> {
    by_name(text).ok_or_else(|| format!("there is no weakening \"{text}\"; --list-weakenings names them"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list_weakenings {
        for (name, _, what) in WEAKENINGS {
            println!("{name:24} {what}");
        }
        return ExitCode::SUCCESS;
    }
    let outcomes = match (args.seed, args.seeds) {
        (Some(seed), _) => {
            let trace = if args.trace { TraceMode::Print } else { TraceMode::Off };
            vec![run_seed(seed, args.faults, args.weaken, trace)]
        }
        (None, Some(seeds)) => run_seeds(seeds, args.faults, args.weaken, false),
        (None, None) => {
            eprintln!("nothing to run: give --seeds A..B or --seed N");
            return ExitCode::from(2);
        }
    };
    report(&outcomes, args.json)
}

fn report(outcomes: &[Outcome], as_json: bool) -> ExitCode {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.failure.is_some()).collect();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in outcomes.iter().flat_map(|o| &o.faults) {
        *faults.entry(kind).or_default() += count;
    }
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, count) in outcomes.iter().flat_map(|o| &o.reached) {
        *reached.entry(what).or_default() += count;
    }
    let packets: u64 = outcomes.iter().map(|o| o.packets).sum();
    let steps: u64 = outcomes.iter().map(|o| o.steps).sum();
    for outcome in &failed {
        eprintln!("seed {}: {}", outcome.seed, outcome.failure.as_deref().unwrap_or_default());
        eprintln!("  {}", outcome.chain);
    }
    if as_json {
        let seeds: Vec<u64> = failed.iter().map(|o| o.seed).collect();
        let result = json!({
            "seeds": outcomes.len(),
            "failed": seeds,
            "faults": faults,
            "packets": packets,
            "steps": steps,
            "reached": reached,
        });
        println!("{result}");
    } else {
        println!("{} seeds, {} failed, {packets} packets, {steps} steps", outcomes.len(), failed.len());
        println!("faults injected: {faults:?}");
        println!("reached: {reached:?}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
