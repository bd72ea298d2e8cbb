//! `chc trace`: generated captures, and what a capture holds.

use super::Exit;
use super::report::{print_json, print_text};
use crate::trace::{GenerateOptions, info, write};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum TraceCommand {
    /// Generate a capture.
    Gen(GenArgs),
    /// Describe a capture.
    Info {
        /// The capture.
        file: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ProfileName {
    /// A bit of everything: connections that open, close and never close, scans, tunnels, fragments.
    Mix,
}

#[derive(Args)]
pub struct GenArgs {
    /// What the traffic is like.
    #[arg(long)]
    profile: ProfileName,
    /// Packets.
    #[arg(long, default_value_t = 100_000)]
    packets: u64,
    /// Connections, about; a fortieth of the packets unless said.
    #[arg(long)]
    connections: Option<u64>,
    /// Seed: the same seed gives the same capture.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bytes kept of each packet; 0 for all.
    #[arg(long, default_value_t = 0)]
    snaplen: u32,
    /// The capture to write.
    #[arg(short, long)]
    output: PathBuf,
}

/// Runs one.
pub fn execute(command: TraceCommand) -> Result<(), Exit> {
    match command {
        TraceCommand::Gen(args) => generate(&args),
        TraceCommand::Info { file, json } => {
            let info = info(&file)?;
            if json {
                return print_json(&info);
            }
            let value = serde_json::to_value(&info).map_err(|e| Exit::Failed(e.into()))?;
            let fields = value.as_object().into_iter().flatten();
            print_text(&fields.map(|(key, value)| format!("{key:<20} {value}\n")).collect::<String>())
        }
    }
}

fn generate(args: &GenArgs) -> Result<(), Exit> {
    let ProfileName::Mix = args.profile;
    let connections = args.connections.unwrap_or((args.packets / 40).max(1));
    let options =
        GenerateOptions { packets: args.packets, connections, seed: args.seed, snaplen: args.snaplen };
    let bar = super::progress_bar(args.packets, false);
    write(options, &args.output, |n| bar.set_position(n))?;
    bar.finish_and_clear();
    Ok(())
}
