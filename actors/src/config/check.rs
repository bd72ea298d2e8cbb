//! From a tree to the typed model, reporting every mistake on the way.
//!
//! A mistake is replaced by the default and the check goes on, so that one run reports all of them. What the
//! file format has and this version does not is refused by name, never ignored: a chain that silently lacks
//! its policy is worse than one that does not start.

use super::diagnostic::{Place, Report, suggest};
use super::file::{Node, Value};
use super::graph::{self, PlacedVertex};
use super::interfaces;
use super::model::{
    ChainConfig, EgressConfig, INSTANCES_MAX, Next, PolicyConfig, RootConfig, RootLog, RuntimeConfig,
    StoreConfig, StoreMode, VertexConfig,
};
use super::roots::roots;
use super::section::{PlacedEdge, Section, integer};
use crate::chain::compile::{SEED, in_order, topology};
use crate::functions::NfRegistry;
use crate::manager::policy::Condition;
use crate::topology::ShapeError;
use chc_api::Declarations;

const SECTIONS: [(&str, &[&str]); 7] = [
    ("chain", &["name", "entry"]),
    ("root", &["instances", "hosts", "window", "log", "clock_lease", "tick_us"]),
    (
        "store",
        &[
            "shards",
            "placement",
            "mode",
            "epoch",
            "checkpoint_ms",
            "checkpoint_dir",
            "retransmit_us",
            "replicas",
        ],
    ),
    ("egress", &["delete"]),
    (
        "io",
        &[
            "input",
            "output",
            "inside",
            "outside",
            "mode",
            "inside_addresses",
            "outside_addresses",
            "gateways",
            "backend",
        ],
    ),
    ("api", &["socket", "listen", "token_file"]),
    ("runtime", &["arbiters", "pins", "burst", "nf_panics_max", "poll"]),
];
const VERTEX_KEYS: &[&str] =
    &["nf", "instances", "next", "copy", "copy_in", "order", "slots", "config", "policy"];
/// Highest `imbalance` that can be wanted.
const IMBALANCE_MAX: f64 = 64.0;
/// Keys of `[vertex.X.policy]`.
const POLICY_KEYS: &[&str] =
    &["period_ms", "scale_up", "scale_down", "instances_max", "straggler", "imbalance"];
const TOP_KEYS: &[&str] = &["chain", "vertex", "root", "store", "egress", "io", "api", "runtime"];
const CLUSTER_KEYS: &[&str] = &["cluster", "node", "tls"];
/// Actors are called `root/0`, `node/2`, and so on; a vertex of that name would make them ambiguous.
const RESERVED_NAMES: &[&str] = &["root", "store", "egress", "node"];
const NAME_LEN_MAX: usize = 64;
const VERTICES_MAX: usize = 256;

/// Checks a whole chain file. The model is meaningful only if nothing was reported.
pub(crate) fn check(root: &Node, registry: &dyn NfRegistry, report: &mut Report) -> ChainConfig {
    let file = Section::of(Some(root), "", Place::Whole, report);
    known_keys(&file, TOP_KEYS, report);
    let (name, entry) = chain(&file, report);
    let vertices = vertices(&file, registry, report);
    graph::check(&vertices, &entry, report);
    let (root, store) = root_and_store(&file, report);
    let chain = ChainConfig {
        name,
        entry: entry.into_iter().map(|edge| edge.edge).collect(),
        vertices: vertices.iter().map(|vertex| vertex.config.clone()).collect(),
        root,
        store,
        egress: egress(&file, report),
        io: interfaces::io(&file, report),
        api: interfaces::api(&file, report),
        runtime: runtime(&file, report),
    };
    if report.is_empty() {
        shape(&chain, &vertices, report);
    }
    chain
}

/// Whether all packets that can come of one another can be told apart.
fn shape(chain: &ChainConfig, vertices: &[PlacedVertex], report: &mut Report) {
    let order = in_order(chain);
    let placed = |vertex: &&VertexConfig| vertices.iter().find(|placed| placed.config.name == vertex.name);
    let declared: Vec<&Declarations> =
        order.iter().filter_map(|vertex| placed(vertex)?.declarations.as_ref()).collect();
    let Err(error) = topology(chain, &order, &declared) else { return };
    let at = match error {
        ShapeError::Depth(at) | ShapeError::Backwards(at, _) => order.get(usize::from(at)).and_then(placed),
        ShapeError::Taps(_) => None,
    };
    let (place, key) = match at {
        Some(vertex) => (vertex.place, format!("vertex.{}", vertex.config.name)),
        None => (Place::Whole, "vertex".to_owned()),
    };
    report.push(place, key, error.to_string(), "make fewer copies on the way there");
}

fn chain(file: &Section<'_>, report: &mut Report) -> (String, Vec<PlacedEdge>) {
    let chain = known(file, "chain", report);
    let name = chain.text("name", report);
    match &name {
        None if chain.is_table && chain.get("name").is_none() => {
            report.push(chain.place, "chain.name", "missing", "add name = \"...\" to [chain]");
        }
        Some(name) if name.is_empty() => {
            report.push(chain.place_of("name"), "chain.name", "the name is empty", "name the chain");
        }
        _ => {}
    }
    let entry = chain.edges("entry", false, report);
    match (chain.get("entry"), entry.len()) {
        (None, _) if chain.is_table => {
            let remedy = "add entry = [\"VERTEX\"] to [chain], the first vertex after the root";
            report.push(chain.place, "chain.entry", "missing", remedy);
        }
        (Some(Node { value: Value::List(items), .. }), _) if items.is_empty() => {
            let remedy = "name the first vertex after the root";
            report.push(chain.place_of("entry"), "chain.entry", "the list is empty", remedy);
        }
        _ => {}
    }
    (name.unwrap_or_default(), entry)
}

/// The vertices in file order, each with its edges as written.
fn vertices(file: &Section<'_>, registry: &dyn NfRegistry, report: &mut Report) -> Vec<PlacedVertex> {
    let table = file.section("vertex", report);
    if table.is_table && table.entries.is_empty() {
        report.push(
            table.place,
            "vertex",
            "the chain has no vertex",
            "add a table [vertex.NAME] with nf = \"...\"",
        );
    }
    if let Some((name, node)) = table.entries.get(VERTICES_MAX) {
        let problem = format!("{} vertices are more than {VERTICES_MAX}", table.entries.len());
        report.push(
            node.place,
            format!("vertex.{name}"),
            problem,
            format!("keep the first {VERTICES_MAX} or fewer"),
        );
    }
    table
        .entries
        .iter()
        .take(VERTICES_MAX)
        .map(|(name, node)| vertex(&table, name, node, registry, report))
        .collect()
}

fn vertex(
    table: &Section<'_>,
    name: &str,
    node: &Node,
    registry: &dyn NfRegistry,
    report: &mut Report,
) -> PlacedVertex {
    let section = Section::of(Some(node), &table.key(name), node.place, report);
    if let Some(remedy) = bad_name(name) {
        report.push(node.place, &section.path, format!("\"{name}\" cannot name a vertex"), remedy);
    }
    known_keys(&section, VERTEX_KEYS, report);
    let defaults = VertexConfig::new(name, "");
    let slots = section.integer("slots", 1..=4096, defaults.slots, report);
    let instances = section.integer("instances", 1..=INSTANCES_MAX.into(), defaults.instances, report);
    if instances > slots {
        let problem = format!("{instances} instances are more than the vertex has slots ({slots})");
        let remedy =
            format!("use at most {slots} instances, or raise {} to {instances}", section.key("slots"));
        report.push(section.place_of("instances"), section.key("instances"), problem, remedy);
    }
    let next = section.edges("next", true, report);
    let copy = section.edges("copy", false, report);
    let copy_in = section.edges("copy_in", false, report);
    let policy = section.get("policy").map(|_| policy(&section, instances, slots, report));
    let nf = nf(&section, name, registry, report);
    let (config, declarations) = nf_config(&section, nf.as_deref(), slots, registry, report);
    let mut outputs = Next::default();
    for edge in &next {
        outputs.push(&edge.output, edge.edge.clone());
    }
    let config = VertexConfig {
        instances,
        next: outputs,
        copy: copy.iter().map(|edge| edge.edge.clone()).collect(),
        copy_in: copy_in.iter().map(|edge| edge.edge.clone()).collect(),
        order: section.choice("order", defaults.order, report),
        slots,
        policy,
        config,
        ..VertexConfig::new(name, nf.unwrap_or_default())
    };
    let edges = next.into_iter().chain(copy).chain(copy_in).collect();
    PlacedVertex { config, place: node.place, edges, declarations }
}

/// `[vertex.X.policy]`.
fn policy(vertex: &Section<'_>, instances: u16, slots: u16, report: &mut Report) -> PolicyConfig {
    let section = vertex.section("policy", report);
    known_keys(&section, POLICY_KEYS, report);
    section.refuse("straggler", "remove it; scale_up, scale_down and imbalance are obeyed", report);
    let defaults = PolicyConfig::default();
    let mut condition = |key: &str| {
        let text = section.text(key, report)?;
        if let Err((problem, remedy)) = Condition::new(&text) {
            report.push(section.place_of(key), section.key(key), problem, remedy);
        }
        Some(text)
    };
    let (scale_up, scale_down) = (condition("scale_up"), condition("scale_down"));
    let most = INSTANCES_MAX.min(slots).max(instances);
    PolicyConfig {
        period_ms: section.integer("period_ms", 10..=60_000, defaults.period_ms, report),
        scale_up,
        scale_down,
        imbalance: section.ratio("imbalance", IMBALANCE_MAX, report),
        instances_max: section.integer(
            "instances_max",
            instances.into()..=most.into(),
            defaults.instances_max.clamp(instances, most),
            report,
        ),
    }
}

/// What a vertex may be called, if `name` is not that.
fn bad_name(name: &str) -> Option<String> {
    if RESERVED_NAMES.contains(&name) {
        return Some(format!("choose a name other than {}, the actors' own", RESERVED_NAMES.join(", ")));
    }
    let letters = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-');
    let fits = letters && (1..=NAME_LEN_MAX).contains(&name.len());
    (!fits).then(|| format!("use 1 to {NAME_LEN_MAX} letters, digits, '_' and '-'"))
}

/// The vertex's network function, if it names one that exists.
fn nf(section: &Section<'_>, name: &str, registry: &dyn NfRegistry, report: &mut Report) -> Option<String> {
    if section.get("nf").is_none() {
        if section.is_table {
            let remedy = format!("add nf = \"...\" to [vertex.{name}]: {}", registry.names().join(", "));
            report.push(section.place, section.key("nf"), "missing", remedy);
        }
        return None;
    }
    let nf = section.text("nf", report)?;
    if registry.names().contains(&nf.as_str()) {
        return Some(nf);
    }
    let problem = format!("there is no network function \"{nf}\"");
    report.push(section.place_of("nf"), section.key("nf"), problem, suggest(&nf, &registry.names()));
    None
}

/// The function's own keys, checked by the function, and what it declares with them.
fn nf_config(
    section: &Section<'_>,
    nf: Option<&str>,
    slots: u16,
    registry: &dyn NfRegistry,
    report: &mut Report,
) -> (serde_json::Value, Option<Declarations>) {
    let empty = serde_json::Value::Object(serde_json::Map::new());
    let node = section.get("config");
    let table = section.section("config", report);
    let json = match node {
        None => Some(empty.clone()),
        Some(node) if !node.is_table() => None,
        Some(node) => to_json(node, &table.path, report),
    };
    let declared = match (nf, &json) {
        (Some(nf), Some(json)) => match registry.function(nf, json, slots, SEED) {
            Ok(function) => Some(function.declarations),
            Err(problems) => {
                for found in problems {
                    let place = node.map_or(section.place, |node| place_within(node, &found.key));
                    let dot = if found.key.is_empty() || found.key.starts_with('[') { "" } else { "." };
                    let key = format!("{}{dot}{}", table.path, found.key);
                    report.push(place, key, found.problem, found.remedy);
                }
                None
            }
        },
        _ => None,
    };
    (json.unwrap_or(empty), declared)
}

/// None if something in it has no counterpart in JSON, which is reported.
fn to_json(node: &Node, path: &str, report: &mut Report) -> Option<serde_json::Value> {
    use serde_json::{Number, Value as Json};
    let number = match &node.value {
        Value::Null => return Some(Json::Null),
        Value::Bool(value) => return Some(Json::Bool(*value)),
        Value::Text(value) => return Some(Json::String(value.clone())),
        Value::Date(value) => {
            let problem = format!("found {}", node.value.describe());
            report.push(node.place, path, problem, format!("write it in quotes: \"{value}\""));
            return None;
        }
        Value::List(items) => {
            let items: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(i, item)| to_json(item, &format!("{path}[{i}]"), report))
                .collect();
            return items.into_iter().collect::<Option<Vec<_>>>().map(Json::Array);
        }
        Value::Table(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| Some((key.clone(), to_json(value, &format!("{path}.{key}"), report)?)))
                .collect();
            return entries.into_iter().collect::<Option<serde_json::Map<_, _>>>().map(Json::Object);
        }
        Value::Int(value) => {
            i64::try_from(*value).map(Number::from).or_else(|_| u64::try_from(*value).map(Number::from)).ok()
        }
        Value::Float(value) => Number::from_f64(*value),
    };
    if number.is_none() {
        let problem = format!("{} is no usable number", node.value.describe());
        report.push(node.place, path, problem, "use a finite number of at most 64 bits");
    }
    number.map(Json::Number)
}

/// The place of `path` below `node`, or of the deepest part of it that was written.
fn place_within(node: &Node, path: &str) -> Place {
    let mut node = node;
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        let child = match &node.value {
            Value::List(items) => part.trim_end_matches(']').parse().ok().and_then(|i: usize| items.get(i)),
            _ => node.get(part),
        };
        let Some(child) = child else { break };
        node = child;
    }
    node.place
}

fn root_and_store(file: &Section<'_>, report: &mut Report) -> (RootConfig, StoreConfig) {
    let (root, store) = (RootConfig::default(), StoreConfig::default());
    let section = known(file, "root", report);
    let window = section.power_of_two("window", 128..=1 << 20, root.window, report);
    let (instances, hosts) = roots(&section, report);
    let root = RootConfig {
        instances,
        hosts,
        window: window.unwrap_or(root.window),
        tick_us: section.integer("tick_us", 0..=1_000_000, root.tick_us, report),
        clock_lease: section.integer("clock_lease", 1..=1_000_000_000, root.clock_lease, report),
        log: section.choice("log", root.log, report),
    };
    let stored = known(file, "store", report);
    stored.only("replicas", 1, report);
    stored.refuse("checkpoint_ms", "remove it", report);
    let epoch = stored.power_of_two("epoch", 64..=1 << 19, store.epoch, report);
    if let (Some(window), Some(epoch)) = (window, epoch)
        && window < 2 * epoch
    {
        let problem = format!("a window of {window} is less than two epochs of {epoch}");
        let remedy =
            format!("set root.window to at least {} or store.epoch to at most {}", 2 * epoch, window / 2);
        let (section, key) =
            if section.get("window").is_some() { (&section, "window") } else { (&stored, "epoch") };
        report.push(section.place_of(key), section.key(key), problem, remedy);
    }
    let store = StoreConfig {
        shards: stored.integer("shards", 1..=64, store.shards, report),
        mode: stored.choice("mode", store.mode, report),
        epoch: epoch.unwrap_or(store.epoch),
        placement: stored.choice("placement", store.placement, report),
        checkpoint_dir: stored.text("checkpoint_dir", report),
        retransmit_us: stored.integer("retransmit_us", 1_000..=60_000_000, store.retransmit_us, report),
    };
    if root.log == RootLog::Store && store.mode == StoreMode::Traditional {
        let problem = "there is no store to log packets in, with store.mode = \"traditional\"";
        report.push(section.place_of("log"), section.key("log"), problem, "use \"local\", or another mode");
    }
    (root, store)
}

fn egress(file: &Section<'_>, report: &mut Report) -> EgressConfig {
    let section = known(file, "egress", report);
    EgressConfig { delete: section.choice("delete", EgressConfig::default().delete, report) }
}

fn runtime(file: &Section<'_>, report: &mut Report) -> RuntimeConfig {
    let section = known(file, "runtime", report);
    let defaults = RuntimeConfig::default();
    let arbiters = section.integer("arbiters", 1..=64, defaults.arbiters, report);
    let listed = section.list("pins", "[0, 1]", report);
    let mut pins = Vec::new();
    for (i, node) in listed.iter().enumerate() {
        let key = format!("{}[{i}]", section.key("pins"));
        let Some(cpu) = integer(node, &key, &(0..=1023), report) else { continue };
        if pins.contains(&cpu) {
            let remedy = "pin every arbiter to a CPU of its own";
            report.push(node.place, key, format!("CPU {cpu} is pinned twice"), remedy);
        }
        pins.push(cpu);
    }
    if !listed.is_empty() && listed.len() != usize::from(arbiters) {
        let problem = format!("{} CPU(s) for {arbiters} arbiter(s)", listed.len());
        let remedy = format!("give {arbiters} CPU number(s), one for each, or none");
        report.push(section.place_of("pins"), section.key("pins"), problem, remedy);
    }
    RuntimeConfig {
        arbiters,
        pins,
        burst: section.integer("burst", 1..=256, defaults.burst, report),
        nf_panics_max: section.integer("nf_panics_max", 1..=100, defaults.nf_panics_max, report),
        poll: section.choice("poll", defaults.poll, report),
    }
}

/// The section `name` of the file, its keys checked against the known ones.
pub(super) fn known<'a>(file: &Section<'a>, name: &str, report: &mut Report) -> Section<'a> {
    let section = file.section(name, report);
    for (_, keys) in SECTIONS.iter().filter(|(section, _)| *section == name) {
        known_keys(&section, keys, report);
    }
    section
}

fn known_keys(section: &Section<'_>, known: &[&str], report: &mut Report) {
    for (key, node) in section.entries.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        if section.path.is_empty() && CLUSTER_KEYS.contains(&key.as_str()) {
            report.push(node.place, key, "cluster files are not available yet", "give a chain file");
        } else {
            report.push(node.place, section.key(key), "unknown key", suggest_key(key, known));
        }
    }
}

/// The remedy for an unknown key: the section it belongs to, the key it resembles, or all keys.
fn suggest_key(key: &str, known: &[&str]) -> String {
    match SECTIONS.iter().find(|(_, keys)| keys.contains(&key)) {
        Some((section, _)) => format!("move it to [{section}]"),
        None => suggest(key, known),
    }
}
