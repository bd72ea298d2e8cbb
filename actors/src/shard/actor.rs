//! The wiring of a store shard.

use crate::chain::wire::{InstanceControl, Links, RootControl};
use crate::messages::{InstanceEvent, RootEvent};
use chc_api::{All, Clock, ShardId};
use chc_runtime::actor::{Actor, Cx};
use chc_runtime::mailbox::Packets;
use chc_store::batch::{Batch, Load};
use chc_store::engine::{ShardEffect, ShardEngine};
use chc_store::packet_log::LogBatch;
use std::sync::Arc;

/// What a shard is told besides batches.
pub enum ShardControl {
    /// A new generation wants its records.
    Load(Load),
    /// The chain's cut moved.
    Cut(Clock),
    /// The root will stamp clocks below this one.
    Reserve(Clock),
    /// The root has stamped packets.
    Log(LogBatch),
    /// Somebody wants to look at the state.
    Inspect(Look),
}

/// What somebody does with a shard's engine.
pub type Look = Box<dyn FnOnce(&ShardEngine<All>) + Send>;

/// A batch as a data message.
pub struct BatchMessage(pub Arc<Batch>);

impl Packets for BatchMessage {
    fn packet_count(&self) -> usize {
        self.0.ops.len() + self.0.versions.len()
    }
}

/// The actor.
pub struct ShardActor {
    shard: ShardId,
    engine: ShardEngine<All>,
    links: Links,
    effects: Vec<ShardEffect>,
}

impl ShardActor {
    /// A shard with every object in its initial state.
    #[must_use]
    pub fn new(shard: ShardId, engine: ShardEngine<All>, links: Links) -> Self {
        Self { shard, engine, links, effects: Vec::new() }
    }

    fn execute(&mut self, cx: &mut Cx) {
        for effect in self.effects.drain(..) {
            match effect {
                ShardEffect::Reply(reply) => {
                    let (to, generation) = (reply.to, reply.generation);
                    let event = InstanceEvent::Reply(reply);
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                ShardEffect::Acknowledge { to, generation, number } => {
                    let event = InstanceEvent::Acknowledged { shard: self.shard, number };
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                ShardEffect::Loaded(loaded) => {
                    let (to, generation) = (loaded.to, loaded.generation);
                    let event = InstanceEvent::Loaded(loaded);
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                ShardEffect::Changed(changes) => {
                    let (to, generation) = (changes.to, changes.generation);
                    let event = InstanceEvent::Changed(changes);
                    self.links.tell_instance(to, Some(generation), InstanceControl::Event(event));
                }
                ShardEffect::Reserved(until) => {
                    self.links.tell_first_root(RootControl::Event(RootEvent::Reserved(until)));
                }
                ShardEffect::Logged { root, number } => {
                    self.links.tell_root(root, RootControl::Event(RootEvent::Logged(number)));
                }
                ShardEffect::Defect(reason) => cx.fail(reason),
            }
        }
    }
}

impl Actor for ShardActor {
    type Control = ShardControl;
    type Data = BatchMessage;

    fn on_control(&mut self, message: ShardControl, cx: &mut Cx) {
        match message {
            ShardControl::Load(load) => self.engine.on_load(&load, &mut self.effects),
            ShardControl::Cut(cut) => self.engine.on_cut(cut, &mut self.effects),
            ShardControl::Reserve(until) => self.engine.on_reserve(until, &mut self.effects),
            ShardControl::Log(batch) => self.engine.on_log(batch, &mut self.effects),
            ShardControl::Inspect(look) => look(&self.engine),
        }
        self.execute(cx);
    }

    fn on_data(&mut self, BatchMessage(batch): BatchMessage, cx: &mut Cx) {
        self.engine.on_batch(batch, &mut self.effects);
        self.execute(cx);
    }
}
