//! `chc up`: a chain between live interfaces.

use super::{Exit, Overrides, config, report};
use crate::chain::compile::{ChainPlan, compile};
use crate::chain::kept;
use crate::chain::sinks::{Failure, FileSink};
use crate::chain::up::{UpOptions, up};
use crate::config::{Backend, ChainConfig, IoConfig, IoMode, PolicyConfig};
use crate::control::server::Endpoints;
use crate::control::usual_socket;
use crate::control::view::Interfaces;
use crate::functions::Catalog;
use crate::gateway::router::{Router, RouterSide};
use crate::gateway::{LiveSink, LiveSource, Ports, Prefix};
use chc_api::packet::LinkType;
use chc_runtime::capture::{CaptureWriter, Format};
use chc_runtime::io::af_packet::{Receiver, Transmitter};
use chc_runtime::io::af_xdp::Copies;
use chc_runtime::io::netmap::Memories;
use chc_runtime::io::{Interface, OpenError, Receive, Transmit, af_xdp, netmap, tap};
use chc_runtime::service;
use chc_runtime::signals::on_end;
use clap::Args;
use parking_lot::Mutex;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// A chain to put between two interfaces.
#[derive(Args)]
pub struct UpArgs {
    /// The chain file; its io.inside and io.outside name the interfaces.
    chain: PathBuf,
    /// A capture to write of what leaves, too.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The event file to write: one JSON object a line.
    #[arg(long)]
    events: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one JSON object at the end instead of a summary.
    #[arg(long)]
    json: bool,
}

impl From<OpenError> for Exit {
    fn from(error: OpenError) -> Self {
        // Its text has its causes already.
        Exit::Failed(anyhow::Error::msg(error.to_string()))
    }
}

/// Where a chain is controlled while it is up.
#[must_use]
pub fn socket(config: &ChainConfig) -> PathBuf {
    config.api.socket.as_ref().map_or_else(usual_socket, PathBuf::from)
}

/// A side of a chain.
struct Side {
    /// What it is; its address is this end's.
    interface: Interface,
    /// What its frames come and go by; not `Auto`.
    backend: Backend,
    /// Why not by what would be better, if that was tried.
    refused: Vec<String>,
}

/// An interface that is open.
struct Opened {
    side: Side,
    receiver: Box<dyn Receive>,
    transmitter: Box<dyn Transmit>,
}

impl Opened {
    fn new(
        interface: Interface,
        backend: Backend,
        (receiver, transmitter): (impl Receive + 'static, impl Transmit + 'static),
    ) -> Self {
        let side = Side { interface, backend, refused: Vec::new() };
        Self { side, receiver: Box::new(receiver), transmitter: Box::new(transmitter) }
    }

    fn instead_of(mut self, refused: Vec<String>) -> Self {
        self.side.refused = refused;
        self
    }

    fn apart(self) -> (Side, Box<dyn Receive>, Box<dyn Transmit>) {
        (self.side, self.receiver, self.transmitter)
    }
}

/// Opens the interfaces that a chain file names.
fn open_both(args: &UpArgs, io: &IoConfig) -> Result<[Opened; 2], Exit> {
    let (Some(inside), Some(outside)) = (&io.inside, &io.outside) else {
        return Err(Exit::Usage(format!(
            "{}: io.inside, io.outside: missing; name the two interfaces the chain lies between, in the file or with \
             --set io.inside=NAME --set io.outside=NAME (for a capture: chc run)",
            args.chain.display()
        )));
    };
    let mut memories = Memories::default();
    Ok([open(inside, io.backend, &mut memories)?, open(outside, io.backend, &mut memories)?])
}

fn router(io: &IoConfig, [inside, outside]: &[Side; 2]) -> Option<Router> {
    let side = |Side { interface, .. }: &Side, addresses: &[Prefix]| RouterSide {
        mac: interface.mac,
        mtu: interface.mtu,
        addresses: addresses.to_vec(),
        gateways: io
            .gateways
            .iter()
            .copied()
            .filter(|gateway| addresses.iter().any(|prefix| prefix.contains(*gateway)))
            .collect(),
    };
    let sides = [side(inside, &io.inside_addresses), side(outside, &io.outside_addresses)];
    (io.mode == IoMode::Routed).then(|| Router::new(sides))
}

/// Opens an interface; by netmap, in the memory of those before it.
fn open(name: &str, backend: Backend, memories: &mut Memories) -> Result<Opened, OpenError> {
    if backend == Backend::Tap && (tap::is_one(name) || Interface::find(name).is_err()) {
        let (machines, receiver, transmitter) = tap::open(name)?;
        let interface = Interface { mac: tap::address_beside(machines.mac), ..machines };
        return Ok(Opened::new(interface, Backend::Tap, (receiver, transmitter)));
    }
    if netmap::port::is_netmaps_own(name) && matches!(backend, Backend::Auto | Backend::Netmap) {
        return by_netmap_itself(name, memories);
    }
    let interface = Interface::find(name)?;
    let addresses = interface.addresses();
    let opened = match backend {
        Backend::Auto => best(interface, memories),
        Backend::AfXdp => by_af_xdp(interface, Copies::IfNeeded),
        Backend::Netmap => by_netmap(interface, memories),
        // A TAP chain's other interface is one of the machine's.
        Backend::AfPacket | Backend::Tap => by_packet_socket(interface),
    }?;
    // By netmap the machine gets nothing of what comes there.
    if !addresses.is_empty() && opened.side.backend != Backend::Netmap {
        tracing::warn!(
            "interface {name} has addresses of the machine's own ({addresses:?}), which answers there, too: ip addr \
             flush dev {name}"
        );
    }
    Ok(opened)
}

/// Opens a port that is no interface by itself: of a switch or a pipe of netmap's, or the machine's own end of an interface.
fn by_netmap_itself(name: &str, memories: &mut Memories) -> Result<Opened, OpenError> {
    let machines = netmap::port::host_of(name).map(Interface::find).transpose()?;
    let of_interface = machines.as_ref().map(|interface| interface.mtu);
    let (receiver, transmitter) = netmap::open(name, of_interface, memories)?;
    let (name, mtu) = (name.to_owned(), transmitter.mtu(of_interface));
    let interface = match machines {
        Some(machines) => Interface { mac: tap::address_beside(machines.mac), name, mtu, ..machines },
        None => Interface { mac: netmap::port::address_of(&name), mtu, name, index: 0, is_up: true },
    };
    Ok(Opened::new(interface, Backend::Netmap, (receiver, transmitter)))
}

/// Opens an interface by the best there is for it: what spares copies, or else packet sockets, which cost no more than
/// AF_XDP where that copies.
fn best(interface: Interface, memories: &mut Memories) -> Result<Opened, OpenError> {
    let mut refused = Vec::new();
    let sparing = [by_netmap, |interface, _: &mut _| by_af_xdp(interface, Copies::Never)];
    for open in sparing {
        match open(interface.clone(), memories) {
            Ok(opened) => return Ok(opened.instead_of(refused)),
            Err(error) => refused.push(error.to_string()),
        }
    }
    Ok(by_packet_socket(interface)?.instead_of(refused))
}

fn by_packet_socket(interface: Interface) -> Result<Opened, OpenError> {
    let ends = (Receiver::open(&interface)?, Transmitter::open(&interface)?);
    Ok(Opened::new(interface, Backend::AfPacket, ends))
}

fn by_netmap(interface: Interface, memories: &mut Memories) -> Result<Opened, OpenError> {
    let of_interface = Some(interface.mtu);
    let (receiver, transmitter) = netmap::open(&interface.name, of_interface, memories)?;
    let interface = Interface { mtu: transmitter.mtu(of_interface), ..interface };
    Ok(Opened::new(interface, Backend::Netmap, (receiver, transmitter)))
}

fn by_af_xdp(interface: Interface, copies: Copies) -> Result<Opened, OpenError> {
    let (receiver, transmitter, is_copied) = af_xdp::open(&interface, copies)?;
    if is_copied {
        tracing::info!("interface {}: its driver has AF_XDP copy every frame", interface.name);
    }
    Ok(Opened::new(interface, Backend::AfXdp, (receiver, transmitter)))
}

/// A chain that is up can be scaled: instances without traffic wait for that.
fn with_spares(plan: &mut ChainPlan) {
    for vertex in plan.vertices.iter_mut().filter(|_| plan.mode.is_stored()) {
        let most =
            if vertex.policy == PolicyConfig::default() { SPARED } else { vertex.policy.instances_max };
        let most = most.min(vertex.route.owners.len() as u16);
        vertex.route.instances = vertex.route.instances.max(most);
    }
}

/// Instances a vertex without a policy can be scaled to.
const SPARED: u16 = 4;

/// Runs the command.
pub fn execute(args: &UpArgs) -> Result<(), Exit> {
    let config = config(&args.chain, &args.overrides.set)?;
    let mut plan = compile(&config, &Catalog)?;
    with_spares(&mut plan);
    let [inside, outside] = open_both(args, &config.io)?;
    let (inside, receive_inside, transmit_inside) = inside.apart();
    let (outside, receive_outside, transmit_outside) = outside.apart();
    let sides = [inside, outside];
    // No other thread has begun yet.
    service::give_up_privileges(config.api.listen.is_some_and(|at| (1..1024).contains(&at.port())))
        .map_err(|error| anyhow::anyhow!("privileges cannot be given up: {error}"))?;
    let ports = Ports::new([transmit_inside, transmit_outside], router(&config.io, &sides));

    let created = |path: &PathBuf| {
        File::create(path).map_err(|e| Exit::Failed(anyhow::anyhow!("{}: {e}", path.display())))
    };
    let write = |path: &PathBuf| CaptureWriter::create(path, Format::Pcap, LinkType::ETHERNET);
    let (writer, events) =
        (args.output.as_ref().map(write).transpose()?, args.events.as_ref().map(created).transpose()?);
    let names = plan.vertices.iter().map(|v| v.name.clone()).collect();
    let (alerts, failure) = (Arc::new(Mutex::new(0)), Failure::default());
    let files = FileSink::new(writer, events, names, alerts.clone(), failure.clone());
    let feed = Arc::default();
    let files = files.followed_by(Arc::clone(&feed));

    let keep_in = config.store.checkpoint_dir.as_ref().map(PathBuf::from);
    let mut sockets = vec![socket(&config)];
    sockets.extend(keep_in.as_deref().map(kept::socket_of).filter(|other| *other != sockets[0]));
    let token_file = config.api.token_file.as_ref().map(PathBuf::from);
    let endpoints = Endpoints { sockets: sockets.clone(), listen: config.api.listen, token_file };
    let seen = Interfaces {
        names: sides.each_ref().map(|side| side.interface.name.clone()),
        refused: sides.each_ref().map(|side| side.refused.clone()),
        backends: sides.each_ref().map(|side| side.backend.as_str()),
        ports: ports.clone(),
    };
    let options = UpOptions { endpoints, keep_in, interfaces: seen, alerts: alerts.clone(), feed };
    let source = LiveSource::new([receive_inside, receive_outside], ports.clone());
    let told = plan.clone();
    let outcome = up(
        &plan,
        source,
        LiveSink::new(ports, files),
        options,
        |end| {
            eprintln!("{}", greeting(&config, &sides, &sockets[0]));
            if let Err(error) = on_end(end) {
                tracing::error!("signals cannot be watched: {error}; end it with chc down");
            }
        },
        |outcome| {
            let report = report::RunReport::new(&told, outcome, *alerts.lock());
            serde_json::to_value(&report).unwrap_or_default()
        },
    )?;
    let report = report::RunReport::new(&plan, &outcome, *alerts.lock());
    if let Some(path) = &args.events
        && let Err(error) = report.append_events(path)
    {
        failure.lock().get_or_insert_with(|| format!("the event file: {error}"));
    }
    report.print(args.json)?;
    if let Some(error) = failure.lock().take() {
        return Err(Exit::Failed(anyhow::anyhow!(error)));
    }
    super::input_error(&outcome)
}

fn greeting(config: &ChainConfig, sides: &[Side; 2], socket: &std::path::Path) -> String {
    let shown = |Side { interface, backend, .. }: &Side| {
        let state = if interface.is_up { "" } else { ", down" };
        let Interface { name, mac, mtu, .. } = interface;
        format!("{name} ({mac}, MTU {mtu}{state}, by {})", backend.as_str())
    };
    let [inside, outside] = sides;
    let refused = sides
        .iter()
        .flat_map(|side| &side.refused)
        .fold(String::new(), |all, why| all + "passed over: " + why + "\n");
    let kind = match config.io.mode {
        IoMode::Bridge => "a bridge",
        IoMode::Routed => "a router",
    };
    let http = config.api.listen.map_or_else(String::new, |address| format!("; http://{address}/v1/status"));
    format!(
        "{refused}chain {} is {kind} between {} inside and {} outside; chc status --socket {}{http}; end it with Ctrl-C or chc down",
        config.name,
        shown(inside),
        shown(outside),
        socket.display(),
    )
}
