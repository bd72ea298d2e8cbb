//! Commands for a chain that is up: they speak to it over its socket.

use super::{Exit, report};
use crate::control::client::{AskError, change, get};
use crate::control::feed::Events;
use crate::control::view::Status;
use crate::control::{Change, usual_socket};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often it is asked for events when there were none.
const EVENTS_EVERY: Duration = Duration::from_millis(200);

/// Which chain is meant.
#[derive(Args)]
pub struct SocketArg {
    /// The socket of the chain, as `chc up` says it; without, that of this user's chain.
    #[arg(long, env = "CHC_SOCKET")]
    socket: Option<PathBuf>,
}

impl SocketArg {
    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(usual_socket)
    }

    fn change(&self, wanted: &Change) -> Result<Value, Exit> {
        Ok(change(&self.path(), wanted)?)
    }
}

impl From<AskError> for Exit {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Mistake(message) => Exit::Usage(message),
            AskError::NoChain(error) | AskError::Failed(error) => Exit::Failed(error),
        }
    }
}

/// How a status is shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shown {
    Text,
    Json,
}

/// `chc status`.
#[derive(Args)]
pub struct StatusArgs {
    /// One line.
    #[arg(long)]
    brief: bool,
    /// How it is shown.
    #[arg(short, long, value_enum, default_value_t = Shown::Text)]
    output: Shown,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc events`.
#[derive(Args)]
pub struct EventsArgs {
    /// End after so many.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc scale`.
#[derive(Args)]
pub struct ScaleArgs {
    /// The vertex.
    vertex: String,
    /// Instances its traffic goes to.
    instances: u16,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc move`.
#[derive(Args)]
pub struct MoveArgs {
    /// The vertex.
    vertex: String,
    /// The instance that gives.
    #[arg(long, value_name = "I")]
    from: u16,
    /// The instance that gets.
    #[arg(long, value_name = "J")]
    to: u16,
    /// How much of it, above 0 and at most 1.
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    share: f64,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc kill`.
#[derive(Args)]
pub struct KillArgs {
    /// The actor, such as nat/0, nat/1/splitter or nat/manager.
    actor: String,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc drain`.
#[derive(Args)]
pub struct DrainArgs {
    /// The instance, such as nat/0.
    instance: String,
    #[command(flatten)]
    socket: SocketArg,
}

/// `chc down`.
#[derive(Args)]
pub struct DownArgs {
    #[command(flatten)]
    socket: SocketArg,
}

/// Shows a chain as it is.
pub fn status(args: &StatusArgs) -> Result<(), Exit> {
    let status: Status = get(&args.socket.path(), "/v1/status")?;
    match args.output {
        Shown::Json => report::print_json(&status),
        Shown::Text if args.brief => report::print_text(&brief(&status)),
        Shown::Text => report::print_text(&full(&status)),
    }
}

/// Prints events as they happen, one JSON object a line, until the chain ends.
pub fn events(args: &EventsArgs) -> Result<(), Exit> {
    let path = args.socket.path();
    let mut page: Events = get(&path, "/v1/events")?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        page = match get(&path, &format!("/v1/events?from={}", page.next)) {
            Ok(page) => page,
            Err(AskError::Mistake(message)) => return Err(Exit::Usage(message)),
            Err(_) => return Ok(()),
        };
        if page.missed > 0 {
            tracing::warn!("{} events came faster than they could be told", page.missed);
        }
        let lines = page.events.iter().take(left.try_into().unwrap_or(usize::MAX));
        let text: String = lines.map(|event| format!("{event}\n")).collect();
        report::print_text(&text)?;
        left = left.saturating_sub(page.events.len() as u64);
        if page.events.is_empty() {
            std::thread::sleep(EVENTS_EVERY);
        }
    }
    Ok(())
}

/// Scales a vertex.
pub fn scale(args: &ScaleArgs) -> Result<(), Exit> {
    let wanted = Change::Scale { vertex: args.vertex.clone(), instances: args.instances };
    args.socket.change(&wanted)?;
    report::print_text(&format!("{} goes to {} instances\n", args.vertex, args.instances))
}

/// Moves traffic.
pub fn moves(args: &MoveArgs) -> Result<(), Exit> {
    let MoveArgs { vertex, from, to, share, .. } = args;
    args.socket.change(&Change::Move { vertex: vertex.clone(), from: *from, to: *to, share: *share })?;
    report::print_text(&format!("{share} of {vertex}/{from} goes to {vertex}/{to}\n"))
}

/// Kills an actor and waits until it is recovered.
pub fn kill(args: &KillArgs) -> Result<(), Exit> {
    let answer = args.socket.change(&Change::Kill { actor: args.actor.clone() })?;
    let number = |key: &str| answer["recovered"][key].as_u64().unwrap_or(0);
    report::print_text(&format!(
        "{} died and was recovered: detected in {} us, caught up in {} us, {} packets ran again\n",
        args.actor,
        number("detected_us"),
        number("recovered_us"),
        number("replayed")
    ))
}

/// Takes an instance's traffic away.
pub fn drain(args: &DrainArgs) -> Result<(), Exit> {
    args.socket.change(&Change::Drain { instance: args.instance.clone() })?;
    report::print_text(&format!("what {} has goes to the others\n", args.instance))
}

/// Ends a chain and waits until everything it had accepted has left.
pub fn down(args: &DownArgs) -> Result<(), Exit> {
    let answer = args.socket.change(&Change::Down {})?;
    let number = |key: &str| answer[key].as_u64().unwrap_or(0);
    report::print_text(&format!(
        "down: {} packets in, {} out, {} lost at ingest\n",
        number("packets_in"),
        number("packets_out"),
        number("ingest_drops")
    ))
}

/// A status in one line.
pub(super) fn brief(status: &Status) -> String {
    let instances: Vec<String> =
        status.vertices.iter().map(|v| format!("{} x{}", v.name, v.instances.len())).collect();
    format!(
        "{} {} for {:.0} s: {} in, {} out, {} dropped, {} lost at ingest, {} alerts; {}\n",
        status.chain,
        status.phase,
        status.uptime_s,
        status.packets_in,
        status.packets_out,
        status.drops.values().sum::<u64>(),
        status.ingest_drops,
        status.alerts,
        instances.join(", ")
    )
}

/// A bound of how long packets were in a chain; without one they took longer than the greatest.
pub(super) fn latency_text(us: Option<u64>) -> String {
    us.map_or_else(|| "> 1 s".to_owned(), |us| format!("<= {us} us"))
}

/// A status as text.
fn full(status: &Status) -> String {
    let mut text = brief(status);
    for interface in &status.interfaces {
        let lost: u64 = interface.tx_lost.values().sum();
        let _ = writeln!(
            text,
            "  {:8} {:15} rx {} ({} overruns), tx {} ({lost} lost)",
            interface.side, interface.name, interface.rx, interface.rx_overruns, interface.tx
        );
    }
    if status.latency.count() > 0 {
        let [p50, p99, longest] =
            [0.5, 0.99, 1.0].map(|share| latency_text(status.latency.quantile_us(share)));
        let _ = writeln!(text, "  latency  p50 {p50}, p99 {p99}, longest {longest}");
    }
    for vertex in &status.vertices {
        for instance in &vertex.instances {
            let _ = writeln!(
                text,
                "  {:24} {} slots, generation {}, {} queued, {} packets, {} dropped",
                format!("{}/{}", vertex.name, instance.index),
                instance.slots,
                instance.generation,
                instance.queue,
                instance.packets,
                instance.drops
            );
        }
    }
    for (what, reasons) in [("dropped", &status.drops), ("router", &status.router)] {
        for (reason, packets) in reasons {
            let _ = writeln!(text, "  {what:8} {packets} {reason}");
        }
    }
    if status.handovers > 0 {
        let _ = writeln!(text, "  handovers {}, {} slots moved", status.handovers, status.slots_moved);
    }
    for recovery in &status.recoveries {
        let _ = writeln!(
            text,
            "  {} recovered from a {} in {} us, {} packets ran again",
            recovery.actor, recovery.kind, recovery.recovered_us, recovery.replayed
        );
    }
    text
}
