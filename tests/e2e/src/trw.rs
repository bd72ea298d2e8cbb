//! The portscan detector beside an independent one: what a chain, ideal or real, says of a capture under
//! each rule, in the terms of the oracle's tables.
//!
//! A table has a line for each host that made an attempt: counts, then for each rule the number of
//! the packet at which the host was flagged, `E` for the end of the capture, `-` for never.

use crate::chain::{assert_balanced, keep, plan};
use anyhow::{Context as _, Result, bail};
use chc_actors::chain::compile::ChainPlan;
use chc_actors::chain::state::ChainState;
use chc_actors::ideal::{IdealChain, Input, StateValue, StateWord};
use chc_actors::root::core::Arrival;
use chc_actors::root::reader::PacketSource;
use chc_actors::topology::Topology;
use chc_api::packet::{LinkType, Parsed, parse};
use chc_api::{Clock, Event, EventKind, ObjectKey, Side, Time, VertexId};
use chc_nf_catalog::portscan::Host;
use chc_runtime::capture::CaptureReader;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory of captures and tables beside the workspace, if this machine has it.
#[must_use]
pub fn shared() -> Option<PathBuf> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    shared.join("traces").is_dir().then_some(shared)
}

/// Every capture below a directory, in order.
///
/// # Errors
/// The directory cannot be read.
pub fn captures(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            found.extend(captures(&path)?);
        } else if matches!(extension, Some("pcap" | "pcapng" | "cap" | "trace")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The packets of a capture, parsed once for all rules.
pub struct Capture {
    packets: Vec<Packet>,
}

struct Packet {
    /// Running maximum of arrivals.
    time: Time,
    link: LinkType,
    wire_len: u32,
    frame: Vec<u8>,
    parsed: Parsed,
}

impl Capture {
    /// Reads what can be read: of a damaged capture the packets before the damage.
    pub fn read(path: &Path) -> Result<Capture> {
        let mut reader = CaptureReader::open(path)?;
        let mut packets: Vec<Packet> = Vec::new();
        while let Ok(Some(record)) = reader.next() {
            let before = packets.last().map_or(Time(0), |packet| packet.time);
            packets.push(Packet {
                time: before.max(Time(record.time_ns)),
                link: record.link,
                wire_len: record.wire_len,
                frame: record.data.to_vec(),
                parsed: parse(record.link, record.data),
            });
        }
        Ok(Capture { packets })
    }

    /// The packets as a root that starts at clock 0 and makes every packet a step would stamp them.
    pub fn inputs(&self) -> impl Iterator<Item = Input<'_>> {
        self.packets.iter().zip(0..).map(|(packet, clock)| Input {
            clock: Clock(clock),
            time: packet.time,
            is_step: true,
            number: clock + 1,
            link: packet.link,
            wire_len: packet.wire_len,
            frame: &packet.frame,
            parsed: packet.parsed,
            identity: packet.parsed.identity(),
        })
    }

    /// How many packets it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// True for a capture without packets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

/// A capture in memory as a source of packets.
struct Replay {
    capture: Arc<Capture>,
    next: usize,
}

impl PacketSource for Replay {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        let packet = self.capture.packets.get(self.next);
        self.next += 1;
        Ok(packet.map(|packet| Arrival {
            time: packet.time,
            side: Side::Inside,
            link: packet.link,
            wire_len: packet.wire_len,
            frame: (&packet.frame).into(),
        }))
    }
}

/// One rule of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The table's name and the configuration's, for what is picked.
    pub pick: (&'static str, &'static str),
    /// The walk, called the same by both.
    pub walk: &'static str,
    /// The table's name and the value.
    pub alpha: (&'static str, f64),
}

impl Rule {
    /// All of them, in the order of the tables.
    #[must_use]
    pub fn all() -> Vec<Rule> {
        let picks = [("every", "every"), ("fcp", "first_per_service"), ("fch", "first_per_host")];
        let walks = ["plain", "absorb", "restart", "floor"];
        let alphas = [("0.01", 1e-2), ("1e-05", 1e-5)];
        let mut rules = Vec::new();
        for pick in picks {
            for walk in walks {
                rules.extend(alphas.map(|alpha| Rule { pick, walk, alpha }));
            }
        }
        rules
    }

    /// The head of its column.
    #[must_use]
    pub fn column(&self) -> String {
        format!("{}/{}/{}", self.pick.0, self.walk, self.alpha.0)
    }
}

/// How pending attempts end.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Name of the table.
    pub table: &'static str,
    /// Time-out, seconds.
    pub timeout_s: u32,
    /// Whether the end of the capture fails them.
    pub at_end: bool,
}

/// The tables there are.
pub const ENDINGS: [Ending; 3] = [
    Ending { table: "trw_t3.tsv", timeout_s: 3, at_end: false },
    Ending { table: "trw_t3_eof.tsv", timeout_s: 3, at_end: true },
    Ending { table: "trw_t30_eof.tsv", timeout_s: 30, at_end: true },
];

/// What is said of one host: attempts, successes, failures by RST, ICMP and time-out, unresolved; and
/// where it was flagged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The counts, in the order of the tables.
    pub counts: [u32; 6],
    /// Packet number, `E` or `-`.
    pub flagged: String,
}

/// Verdicts by host.
pub type Verdicts = BTreeMap<ObjectKey, Verdict>;

/// What says something of the hosts of a capture.
pub type Detector = fn(&Arc<Capture>, &Rule, &Ending) -> Result<Verdicts>;

/// What the ideal chain of a detector alone says.
pub fn ideal(capture: &Arc<Capture>, rule: &Rule, ending: &Ending) -> Result<Verdicts> {
    let config = json!({
        "pick": rule.pick.1,
        "walk": rule.walk,
        "alpha": rule.alpha.1,
        "timeout_s": ending.timeout_s,
        "fail_pending_at_end": ending.at_end,
    });
    let mut chain = IdealChain::new(8192, Topology::line(1), None);
    let built = chc_nf_catalog::with("portscan", &config, 64, 1, chain.append(VertexId(0)));
    if let Err(problems) = built {
        bail!("{problems:?}");
    }
    for input in capture.inputs() {
        chain.feed(&input);
    }
    chain.end(Clock(capture.packets.len() as u64));
    let events = chain.take_events();
    verdicts(&chain.state(), events.iter().map(|record| (record.event, record.number.unwrap_or(0))))
}

/// What the real chain of a detector alone says.
pub fn real(capture: &Arc<Capture>, rule: &Rule, ending: &Ending) -> Result<Verdicts> {
    run(capture, &plan("portscan", &settings(rule, ending)))
}

/// What the real chain of two detectors behind two translators says, with exact time.
pub fn behind_nat(capture: &Arc<Capture>, rule: &Rule, ending: &Ending) -> Result<Verdicts> {
    let mut settings = settings(rule, ending).to_vec();
    settings.push("root.tick_us=0".into());
    run(capture, &plan("quickstart", &settings))
}

fn settings(rule: &Rule, ending: &Ending) -> [String; 5] {
    [
        format!("vertex.portscan.config.pick={}", rule.pick.1),
        format!("vertex.portscan.config.walk={}", rule.walk),
        format!("vertex.portscan.config.alpha={}", rule.alpha.1),
        format!("vertex.portscan.config.timeout_s={}", ending.timeout_s),
        format!("vertex.portscan.config.fail_pending_at_end={}", ending.at_end),
    ]
}

fn run(capture: &Arc<Capture>, plan: &ChainPlan) -> Result<Verdicts> {
    let source = Replay { capture: capture.clone(), next: 0 };
    let (outcome, everything) = keep(plan, source, Vec::new())?;
    assert_balanced(&outcome);
    verdicts(&outcome.state, everything.events.iter().map(|(_, record)| (record.event, record.number)))
}

/// What state and alerts say; an event comes with the number of the packet that caused it, or 0.
fn verdicts(state: &ChainState, events: impl Iterator<Item = (Event, u64)>) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    for ((_, object, key), value) in state {
        if let ("likelihood", StateWord::Object(key), StateValue::Bytes(value)) = (*object, key, value) {
            let host: Host = value.read().context("a host's value has the size of one")?;
            let [ok, rst, icmp, timeout] = host.outcomes;
            let unresolved = host.attempts - host.outcomes.iter().sum::<u32>();
            let counts = [host.attempts, ok, rst, icmp, timeout, unresolved];
            verdicts.insert(*key, Verdict { counts, flagged: "-".into() });
        }
    }
    for (event, number) in events.filter(|(event, _)| matches!(event.kind, EventKind::Alert { .. })) {
        let scanner = ObjectKey::host(event.key.source(event.direction).addr);
        let verdict = verdicts.get_mut(&scanner).context("a flagged host has a value")?;
        if verdict.flagged != "-" {
            bail!("a host was flagged at {} and again at {number}", verdict.flagged);
        }
        verdict.flagged = if number == 0 { "E".into() } else { number.to_string() };
    }
    Ok(verdicts)
}

/// An oracle's table: by file and rule, what is said of each host.
pub struct Table {
    columns: Vec<String>,
    lines: BTreeMap<String, Vec<Line>>,
}

struct Line {
    host: IpAddr,
    counts: [u32; 6],
    flagged: Vec<String>,
}

impl Table {
    /// Reads a table.
    pub fn read(path: &Path) -> Result<Table> {
        const FIRST_RULE: usize = 10;
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let head = rows.next().context("a table has a head")?;
        let columns = head.iter().skip(FIRST_RULE).map(ToString::to_string).collect();
        let mut lines: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for row in rows {
            let mut counts = [0; 6];
            for (count, field) in counts.iter_mut().zip(&row[2..]) {
                *count = field.parse()?;
            }
            let flagged = row[FIRST_RULE..].iter().map(ToString::to_string).collect();
            lines.entry(row[0].into()).or_default().push(Line { host: row[1].parse()?, counts, flagged });
        }
        Ok(Table { columns, lines })
    }

    /// The files in which any host is flagged.
    pub fn flagged_files(&self) -> impl Iterator<Item = &str> {
        let any = |lines: &[Line]| lines.iter().flat_map(|line| &line.flagged).any(|at| at != "-");
        self.lines.iter().filter(move |(_, lines)| any(lines)).map(|(file, _)| file.as_str())
    }

    /// How many hosts of a file are flagged under a rule.
    pub fn flagged(&self, file: &str, rule: &Rule) -> Result<usize> {
        Ok(self.verdicts(file, rule)?.values().filter(|(_, verdict)| verdict.flagged != "-").count())
    }

    /// What it says of the hosts of a file under a rule.
    pub fn verdicts(&self, file: &str, rule: &Rule) -> Result<BTreeMap<ObjectKey, (IpAddr, Verdict)>> {
        let column = rule.column();
        let at = self.columns.iter().position(|name| *name == column).context(column)?;
        let lines = self.lines.get(file).map(Vec::as_slice).unwrap_or_default();
        let verdict = |line: &Line| Verdict { counts: line.counts, flagged: line.flagged[at].clone() };
        Ok(lines.iter().map(|line| (ObjectKey::host(line.host), (line.host, verdict(line)))).collect())
    }
}

/// Runs a capture under these rules; returns how many verdicts were compared, and a line for each that
/// differs.
pub fn compare(
    capture: &Arc<Capture>,
    (table, file): (&Table, &str),
    ending: &Ending,
    rules: &[Rule],
    detector: Detector,
) -> Result<(usize, Vec<String>)> {
    let (mut compared, mut differences) = (0, Vec::new());
    for rule in rules {
        let ours = detector(capture, rule, ending)?;
        let theirs = table.verdicts(file, rule)?;
        let place = format!("{file} {} {}", ending.table, rule.column());
        for (key, (host, expected)) in &theirs {
            compared += 1;
            match ours.get(key) {
                Some(found) if found == expected => {}
                found => differences.push(format!("{place} {host}: expected {expected:?}, found {found:?}")),
            }
        }
        for (key, found) in ours.iter().filter(|(key, _)| !theirs.contains_key(key)) {
            differences.push(format!("{place} {key:?}: expected nothing, found {found:?}"));
        }
    }
    Ok((compared, differences))
}
