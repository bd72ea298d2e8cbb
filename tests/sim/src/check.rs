//! Compares a finished run with the ideal chain on the same stamps.

use crate::left::OutPacket;
use crate::world::World;
use chc_actors::ideal::{Choices, IdealChain, Input, Outcome, Output, StateKey, StateValue, StateWord};
use chc_api::packet::parse::{FragmentId, PacketKind, Parsed, fragment_id, parse};
use chc_api::state::{ObjectKind, ValueBytes};
use chc_api::{FlowKey, Identity, ObjectId, OpValue, Position, Step, Time, VertexId};
use chc_store::objects::Shown;
use chc_store::record::{Record, RecordShape};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;

/// What the ideal chain concluded.
struct Ideal {
    outputs: Vec<Output>,
    drops: BTreeMap<(VertexId, Position), &'static str>,
    events: BTreeMap<(VertexId, Position, u32), (u64, String)>,
    state: BTreeMap<StateKey, StateValue>,
    forgotten: BTreeSet<StateKey>,
}

/// Compares.
///
/// # Errors
/// The first difference.
pub fn compare(world: &World) -> Result<(), String> {
    let waiting: usize = world.shards.iter().map(chc_store::engine::ShardEngine::waiting).sum();
    if waiting > 0 {
        return Err(format!("{waiting} operations still wait for their place in the order"));
    }
    let ideal = run_ideal(world)?;
    compare_outputs(&world.left.packets, &ideal.outputs)?;
    let drops = world.left.drops.iter().map(|(v, d)| ((*v, d.position), d.reason));
    compare_maps("drop", &once("drop", drops)?, &ideal.drops)?;
    let events = world.left.events.iter();
    let events =
        events.map(|(v, e)| ((*v, e.position, u32::from(e.index)), (e.number, format!("{:?}", e.event))));
    compare_maps("event", &once("event", events)?, &ideal.events)?;
    let mut state = shown(world)?;
    state.retain(|key, _| !ideal.forgotten.contains(key));
    compare_maps("state", &state, &ideal.state)
}

/// Every choice the shards made, by the name of the operation.
fn choices(world: &World) -> Choices {
    let all = world.shards.iter().flat_map(|shard| shard.choices());
    let value = |value: &OpValue| if let OpValue::Int(value) = value { Some(*value as u64) } else { None };
    all.map(|(vertex, name, result)| ((*vertex, name.position, u32::from(name.index)), value(result)))
        .collect()
}

fn run_ideal(world: &World) -> Result<Ideal, String> {
    let mut chain = IdealChain::new(world.setup.window, world.topology.clone(), Some(choices(world)));
    for (at, vertex) in world.setup.vertices.iter().enumerate() {
        let visitor = chain.append(VertexId(at as u16));
        vertex.function.with(vertex.slots, world.setup.hash_seed, visitor);
    }
    let mut stepped: Option<Time> = None;
    let mut fragments = HashMap::new();
    let (mut outputs, mut drops) = (Vec::new(), BTreeMap::new());
    for stamp in world.intake.stamps() {
        let Step { clock, time, number } = stamp.step;
        if time.is_end() {
            chain.end(clock);
            continue;
        }
        let is_step = stepped.is_none_or(|last| time.0 - last.0 >= world.setup.tick_ns.max(1));
        if is_step != stamp.is_step {
            return Err(format!(
                "clock {clock:?} with time {time:?}: is a step: {}, want {is_step}",
                stamp.is_step
            ));
        }
        if is_step {
            stepped = Some(time);
        }
        if number == 0 {
            if is_step {
                chain.time_step(clock, time);
            }
            continue;
        }
        let packet = &world.input[number as usize - 1];
        let link = world.setup.traffic.link;
        let parsed = parse(link, &packet.frame);
        let (wire_len, frame) = (packet.wire_len, &packet.frame);
        let identity = identity(&mut fragments, frame, &parsed);
        let input = Input { clock, time, is_step, number, link, wire_len, frame, parsed, identity };
        for outcome in chain.feed(&input) {
            match outcome {
                Outcome::Forwarded(output) => outputs.push(output),
                Outcome::Dropped { vertex, position, reason } => {
                    drops.insert((vertex, position), reason);
                }
            }
        }
    }
    if let Some(violation) = chain.violations().first() {
        return Err(format!("choice: {violation}"));
    }
    let events = chain.take_events().into_iter();
    let events =
        events.map(|e| ((e.vertex, e.position, e.index), (e.number.unwrap_or(0), format!("{:?}", e.event))));
    Ok(Ideal { outputs, drops, events: events.collect(), state: chain.state(), forgotten: chain.forgotten() })
}

/// A later fragment has the identity of its first, if that came before.
fn identity(known: &mut HashMap<FragmentId, Identity>, frame: &[u8], parsed: &Parsed) -> Identity {
    let id = fragment_id(frame, parsed);
    match id {
        Some(id) if parsed.is(PacketKind::FIRST_FRAGMENT) => {
            known.insert(id, parsed.identity());
            parsed.identity()
        }
        Some(id) if parsed.is(PacketKind::LATER_FRAGMENT) => {
            known.get(&id).copied().unwrap_or(parsed.identity())
        }
        _ => parsed.identity(),
    }
}

/// A map of what must be there once.
fn once<K: Ord + Copy + Debug, V: Debug>(
    what: &str,
    all: impl Iterator<Item = (K, V)>,
) -> Result<BTreeMap<K, V>, String> {
    let mut map = BTreeMap::new();
    for (key, value) in all {
        if let Some(first) = map.insert(key, value) {
            return Err(format!("{what} {key:?} came twice, first as {first:?}"));
        }
    }
    Ok(map)
}

fn compare_maps<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    got: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
) -> Result<(), String> {
    for (key, value) in want {
        match got.get(key) {
            Some(found) if found == value => {}
            found => return Err(format!("{what} {key:?}: got {found:?}, want {value:?}")),
        }
    }
    match got.iter().find(|(key, _)| !want.contains_key(key)) {
        Some((key, value)) => Err(format!("{what} {key:?}: got {value:?}, want none")),
        None => Ok(()),
    }
}

fn compare_outputs(got: &[OutPacket], want: &[Output]) -> Result<(), String> {
    let mut flows: BTreeMap<FlowKey, (Vec<Line<'_>>, Vec<Line<'_>>)> = BTreeMap::new();
    for p in got {
        let OutPacket { position, identity, time, number, wire_len, ref frame } = *p;
        let line = Line { position, identity, time, number, wire_len, frame };
        flows.entry(identity.key).or_default().0.push(line);
    }
    for p in want {
        let Output { position, identity, time, number, wire_len, ref frame, .. } = *p;
        let line = Line { position, identity, time, number, wire_len, frame };
        flows.entry(identity.key).or_default().1.push(line);
    }
    for (key, (got, want)) in &flows {
        let at = got.iter().zip(want).position(|(a, b)| a != b);
        if let Some(at) = at.or((got.len() != want.len()).then_some(got.len().min(want.len()))) {
            return Err(format!(
                "output {at} of {key}:\n  got  {:x?}\n  want {:x?}",
                got.get(at),
                want.get(at)
            ));
        }
    }
    Ok(())
}

/// All that is compared of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    position: Position,
    identity: Identity,
    time: Time,
    number: u64,
    wire_len: u32,
    frame: &'a [u8],
}

/// The state the store holds, in the ideal chain's terms.
fn shown(world: &World) -> Result<BTreeMap<StateKey, StateValue>, String> {
    let spec = |vertex: VertexId, object: ObjectId| {
        &world.kits[usize::from(vertex.0)].declarations.objects[usize::from(object.0)]
    };
    let mut all = Vec::new();
    for shard in &world.shards {
        for (vertex, object, key, value) in shard.show_objects() {
            let spec = spec(vertex, object);
            let value = match (value, &spec.kind) {
                (Shown::Int(0), ObjectKind::Counter { .. }) => continue,
                (Shown::Int(value), ObjectKind::Int { initial }) if value == *initial => continue,
                (Shown::Int(value), _) => StateValue::Int(value),
                (Shown::Bytes(bytes), ObjectKind::Value { initial, .. }) if bytes == initial.as_slice() => {
                    continue;
                }
                (Shown::Bytes(bytes), _) => StateValue::Bytes(ValueBytes::new(&bytes)),
                (Shown::List(list), _) if list.is_empty() => continue,
                (Shown::List(list), _) => StateValue::List(list),
                (Shown::Owned(owned), _) => StateValue::Taken(owned.into_iter().collect()),
            };
            all.push(((vertex, spec.name, StateWord::Object(key)), value));
        }
        for (vertex, object, key, record) in shard.show_records() {
            let spec = spec(vertex, object);
            let shape = RecordShape::of(&spec.kind).ok_or("a record of an object that has none")?;
            all.push(((vertex, spec.name, StateWord::Flow(key)), record_value(&record, shape)));
        }
    }
    once("state", all.into_iter())
}

fn record_value(record: &Record, shape: RecordShape) -> StateValue {
    let timers = (0..shape.timers).filter_map(|at| Some((at as u8, record.timer(shape, at)?)));
    StateValue::Record { value: record.value(shape), timers: timers.collect() }
}
