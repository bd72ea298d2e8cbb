//! How effects of the cores become messages, and messages events.

use super::World;
use crate::links::{Actor, LinkId, Message};
use chc_actors::messages::{Data, Destination, InstanceEffect, InstanceEvent, RootEffect, RootEvent, Source};
use chc_api::{Generation, InstanceId, Slot};
use chc_runtime::block::Desc;
use chc_store::batch::Reply;
use chc_store::engine::ShardEffect;
use std::fmt::Write;

/// The root that has the lead.
pub(super) const FIRST_ROOT: Actor = Actor::Root(0);

impl World {
    /// Delivers what a random link has next; false if there is nothing to deliver on it.
    pub(super) fn deliver(&mut self) -> bool {
        let Some((id, messages)) = self.links.deliver(&mut self.rng) else { return false };
        for message in messages {
            self.receive(id, message);
        }
        true
    }

    fn receive(&mut self, (from, to, _): LinkId, message: Message) {
        self.note(|| format!("{} > {}: {}", name(from), name(to), show(&message)));
        match (to, message) {
            (Actor::Root(root), Message::Root(event)) => {
                let mut out = Vec::new();
                self.roots[usize::from(root)].on_event(&mut self.intake, event, &mut out);
                self.root_effects(root, out);
            }
            (Actor::Egress, Message::Data(data)) => {
                self.egress.on_data(&data, &mut self.left);
                for out in &self.left.packets[self.answered..] {
                    self.traffic.observe(&out.frame);
                }
                self.answered = self.left.packets.len();
            }
            (Actor::Egress, Message::Cut(cut)) => self.egress.trim(cut),
            (Actor::Shard(at), message) => {
                let mut out = Vec::new();
                let shard = &mut self.shards[usize::from(at)];
                match message {
                    Message::Batch(batch) => shard.on_batch(batch, &mut out),
                    Message::Load(load) => shard.on_load(&load, &mut out),
                    Message::Cut(cut) => shard.on_cut(cut, &mut out),
                    Message::Reserve(until) => shard.on_reserve(until, &mut out),
                    Message::Log(batch) => shard.on_log(batch, &mut out),
                    _ => {}
                }
                self.shard_effects(at, out);
            }
            (Actor::Instance(id, generation), message) => {
                let event = match message {
                    Message::Data(data) => InstanceEvent::Data(data),
                    Message::Instance(event) => event,
                    _ => return,
                };
                let Some(instance) = self.instances.get_mut(&(id, generation)) else { return };
                let mut out = Vec::new();
                instance.on_event(event, &mut out);
                self.instance_effects(id, generation, out);
            }
            _ => {}
        }
    }

    pub(super) fn send(&mut self, from: Actor, to: Actor, message: Message) {
        if let Actor::Instance(id, generation) = to
            && !self.instances.contains_key(&(id, generation))
        {
            return;
        }
        self.links.send(from, to, message, &mut self.rng);
    }

    fn send_data(&mut self, from: Actor, to: Destination, data: Data) {
        let to = match to {
            Destination::Instance(id) => Actor::Instance(id, data.to_generation),
            Destination::Egress => Actor::Egress,
        };
        self.send(from, to, Message::Data(data));
    }

    pub(super) fn root_effects(&mut self, root: u16, out: Vec<RootEffect>) {
        let root = Actor::Root(root);
        for effect in out {
            match effect {
                RootEffect::Data(to, data) => self.send_data(root, to, data),
                RootEffect::Grant(to, boundary, mut records) => {
                    // Some get lost, as with an owner that dies.
                    let odd =
                        |slot: Slot| (self.setup.hash_seed ^ boundary.0 ^ u64::from(slot.0)).count_ones() % 2;
                    records.retain(|(slot, _)| odd(*slot) == 0);
                    let to = Actor::Instance(to, self.current[&to]);
                    let event = InstanceEvent::Granted { boundary, records };
                    self.send(root, to, Message::Instance(event));
                }
                RootEffect::Awake(to, changes) => {
                    let to = Actor::Instance(to, self.current[&to]);
                    self.send(root, to, Message::Instance(InstanceEvent::Awake(changes)));
                }
                RootEffect::Go { to, generation, cut, stamped, generations, changes, granted } => {
                    let node = &self.topology.vertices[usize::from(to.vertex.0)];
                    let is_next = |id: &InstanceId| node.ways().any(|way| way.to == id.vertex);
                    let downstream = generations.into_iter().filter(|(id, _)| is_next(id)).collect();
                    let go = InstanceEvent::Go { cut, stamped, downstream, changes, granted };
                    self.send(root, Actor::Instance(to, generation), Message::Instance(go));
                }
                RootEffect::Reserve(until) => self.send(root, Actor::Shard(0), Message::Reserve(until)),
                RootEffect::Log(batch) => self.send(root, Actor::Shard(0), Message::Log(batch)),
                RootEffect::Cut(cut, told) => {
                    for other in 1..self.setup.roots() {
                        self.send(root, Actor::Root(other), Message::Root(RootEvent::Cut(cut)));
                    }
                    for shard in 0..self.setup.shards {
                        self.send(root, Actor::Shard(shard), Message::Cut(cut));
                    }
                    self.send(root, Actor::Egress, Message::Cut(cut));
                    let instances: Vec<_> = self.instances.keys().copied().collect();
                    for (id, generation) in instances.into_iter().filter(|(id, _)| told.contains(id)) {
                        let cut = Message::Instance(InstanceEvent::Cut(cut));
                        self.send(root, Actor::Instance(id, generation), cut);
                    }
                }
            }
        }
    }

    pub(super) fn instance_effects(
        &mut self,
        id: InstanceId,
        generation: Generation,
        out: Vec<InstanceEffect>,
    ) {
        let from = Actor::Instance(id, generation);
        for effect in out {
            match effect {
                InstanceEffect::Data(to, data) => self.send_data(from, to, data),
                InstanceEffect::Batch(shard, batch) => {
                    self.send(from, Actor::Shard(shard.0), Message::Batch(batch))
                }
                InstanceEffect::Load(shard, load) => {
                    self.send(from, Actor::Shard(shard.0), Message::Load(load))
                }
                InstanceEffect::Replay(Source::Root(root), boundary) => {
                    self.send(
                        from,
                        Actor::Root(root),
                        Message::Root(RootEvent::Replay(id, generation, boundary)),
                    );
                }
                InstanceEffect::Replay(Source::Instance(upstream), boundary) => {
                    let to = Actor::Instance(upstream, self.current[&upstream]);
                    let replay = InstanceEvent::Replay { to: id, generation, boundary };
                    self.send(from, to, Message::Instance(replay));
                }
                InstanceEffect::Register => {
                    self.send(from, FIRST_ROOT, Message::Root(RootEvent::Register(id, generation)));
                }
                InstanceEffect::Closed(boundary, records) => {
                    self.send(
                        from,
                        FIRST_ROOT,
                        Message::Root(RootEvent::Closed(id, generation, boundary, records)),
                    );
                }
                // A message to itself is as late as any other.
                InstanceEffect::Pause(position, _) => {
                    self.send(from, from, Message::Instance(InstanceEvent::PauseOver(position)));
                }
                InstanceEffect::Defect(defect) => self.defect = Some(defect),
                InstanceEffect::CaughtUp { .. } => self.recovered += 1,
            }
        }
    }

    fn shard_effects(&mut self, shard: u16, out: Vec<ShardEffect>) {
        let from = Actor::Shard(shard);
        for effect in out {
            let (to, event) = match effect {
                ShardEffect::Reply(reply) => {
                    (Actor::Instance(reply.to, reply.generation), InstanceEvent::Reply(reply))
                }
                ShardEffect::Acknowledge { to, generation, number } => {
                    let shard = chc_api::ShardId(shard);
                    (Actor::Instance(to, generation), InstanceEvent::Acknowledged { shard, number })
                }
                ShardEffect::Reserved(until) => {
                    self.send(from, FIRST_ROOT, Message::Root(RootEvent::Reserved(until)));
                    continue;
                }
                ShardEffect::Logged { root, number } => {
                    self.send(from, Actor::Root(root), Message::Root(RootEvent::Logged(number)));
                    continue;
                }
                ShardEffect::Loaded(loaded) => {
                    (Actor::Instance(loaded.to, loaded.generation), InstanceEvent::Loaded(loaded))
                }
                ShardEffect::Changed(changes) => {
                    (Actor::Instance(changes.to, changes.generation), InstanceEvent::Changed(changes))
                }
                ShardEffect::Defect(defect) => {
                    self.defect = Some(defect);
                    continue;
                }
            };
            self.send(from, to, Message::Instance(event));
        }
    }
}

pub(super) fn name(actor: Actor) -> String {
    match actor {
        Actor::Root(at) => format!("root {at}"),
        Actor::Egress => "egress".into(),
        Actor::Shard(at) => format!("shard {at}"),
        Actor::Instance(id, generation) => format!("{id}#{}", generation.0),
    }
}

/// A message on one line.
fn show(message: &Message) -> String {
    let Message::Data(data) = message else {
        return match message {
            Message::Instance(InstanceEvent::Reply(Reply { results, .. })) => format!("reply {results:?}"),
            other => format!("{other:?}"),
        };
    };
    let mut line = format!("progress {:?}", data.progress);
    if !data.steps.is_empty() {
        let steps: Vec<_> = data.steps.iter().map(|s| (s.clock.0, s.time.0)).collect();
        let _ = write!(line, " steps {steps:?}");
    }
    if let Some(block) = &data.block {
        let positions: Vec<_> = block.descs.iter().map(Desc::position).collect();
        let _ = write!(line, " packets {positions:?}");
        for event in &block.events {
            let _ = write!(line, " event {:?}.{} {:?}", event.position, event.index, event.event);
        }
        for drop in &block.drops {
            let _ = write!(line, " drop {:?} {}", drop.position, drop.reason);
        }
    }
    line
}
