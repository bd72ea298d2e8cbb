//! `chc trace`: generated captures, and what a capture holds.

use super::Exit;
use super::report::{print_json, print_text};
use crate::trace::{GenerateOptions, Profile, info, write};
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
    /// Few long connections, packets of all sizes: 3.8M packets, 1.7K connections, half of the packets below 368 bytes.
    Trace1,
    /// Many connections, mostly full packets: 6.4M packets, 199K connections, half of the packets below 1,434 bytes.
    Trace2,
}

impl ProfileName {
    /// The profile, how many packets it has, and how many of them for one connection.
    fn defaults(self) -> (Profile, u64, u64) {
        match self {
            ProfileName::Mix => (Profile::MIX, 100_000, 40),
            ProfileName::Trace1 => (Profile::TRACE1, 3_800_000, 2_235),
            ProfileName::Trace2 => (Profile::TRACE2, 6_400_000, 32),
        }
    }
}

#[derive(Args)]
pub struct GenArgs {
    /// What the traffic is like.
    #[arg(long)]
    profile: ProfileName,
    /// Packets; as many as the profile has unless said.
    #[arg(long)]
    packets: Option<u64>,
    /// Connections; in the profile's proportion to the packets unless said.
    #[arg(long)]
    connections: Option<u64>,
    /// Hosts that use SSH, fetch HTML, ZIP and EXE files by FTP, and use IRC, in that order.
    #[arg(long, default_value_t = 0)]
    trojans: u64,
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
            let bar = super::packet_count(json);
            let info = info(&file, |packets| bar.set_position(packets))?;
            bar.finish_and_clear();
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
    let (profile, packets, each) = args.profile.defaults();
    let packets = args.packets.unwrap_or(packets);
    let connections = args.connections.unwrap_or((packets / each).max(1));
    let (seed, snaplen, trojans) = (args.seed, args.snaplen, args.trojans);
    let options = GenerateOptions { packets, connections, seed, snaplen, trojans, profile };
    options.check().map_err(|error| Exit::Usage(error.to_string()))?;
    let bar = super::progress_bar(packets, false);
    write(options, &args.output, |n| bar.set_position(n))?;
    bar.finish_and_clear();
    Ok(())
}
