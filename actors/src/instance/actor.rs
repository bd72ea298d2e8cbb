//! The wiring of an instance and its splitter.

use super::core::{Instance, InstanceCounts, LocalState};
use crate::chain::wire::{DataMessage, InstanceControl, Links, Notice, RootControl};
use crate::messages::{InstanceEffect, InstanceEvent, RootEvent, Source};
use crate::shard::actor::ShardControl;
use chc_api::{Generation, InstanceId};
use chc_runtime::actor::{Actor, Cx};
use std::sync::Arc;
use std::time::Instant;

/// The actor.
pub struct InstanceActor {
    id: InstanceId,
    generation: Generation,
    core: Box<dyn Instance>,
    links: Links,
    effects: Vec<InstanceEffect>,
    published: InstanceCounts,
    totals: Arc<parking_lot::Mutex<InstanceCounts>>,
}

impl InstanceActor {
    /// The actor of one generation. `totals` outlives generations.
    #[must_use]
    pub fn new(
        id: InstanceId,
        generation: Generation,
        core: Box<dyn Instance>,
        links: Links,
        totals: Arc<parking_lot::Mutex<InstanceCounts>>,
    ) -> Self {
        Self {
            id,
            generation,
            core,
            links,
            effects: Vec::new(),
            published: InstanceCounts::default(),
            totals,
        }
    }

    fn execute(&mut self) {
        let (id, generation) = (self.id, self.generation);
        for effect in self.effects.drain(..) {
            match effect {
                InstanceEffect::Data(to, data) => self.links.send(to, data),
                InstanceEffect::Batch(shard, batch) => self.links.batch(shard, batch),
                InstanceEffect::Load(shard, load) => self.links.tell_shard(shard, ShardControl::Load(load)),
                InstanceEffect::Replay(Source::Root, boundary) => {
                    self.links.tell_root(RootControl::Event(RootEvent::Replay(id, generation, boundary)));
                }
                InstanceEffect::Replay(Source::Instance(upstream), boundary) => {
                    let event = InstanceEvent::Replay { to: id, generation, boundary };
                    self.links.tell_instance(upstream, None, InstanceControl::Event(event));
                }
                InstanceEffect::Register => {
                    self.links.tell_root(RootControl::Event(RootEvent::Register(id, generation)));
                }
                InstanceEffect::Closed(boundary) => {
                    self.links.tell_root(RootControl::Event(RootEvent::Closed(id, generation, boundary)));
                }
                InstanceEffect::CaughtUp { replayed } => {
                    self.links.notify(Notice::CaughtUp {
                        instance: id,
                        generation,
                        replayed,
                        at: Instant::now(),
                    });
                }
            }
        }
    }

    fn publish(&mut self) {
        let counts = self.core.counts();
        let last = std::mem::replace(&mut self.published, counts);
        let mut totals = self.totals.lock();
        totals.packets += counts.packets - last.packets;
        totals.duplicates += counts.duplicates - last.duplicates;
        totals.parked += counts.parked - last.parked;
        totals.timers += counts.timers - last.timers;
        totals.fenced += counts.fenced - last.fenced;
    }
}

impl Actor for InstanceActor {
    type Control = InstanceControl;
    type Data = DataMessage;

    fn started(&mut self, _cx: &mut Cx) {
        self.core.flush(&mut self.effects);
        self.execute();
    }

    fn on_control(&mut self, message: InstanceControl, _cx: &mut Cx) {
        match message {
            InstanceControl::Event(event) => self.core.on_event(event, &mut self.effects),
            InstanceControl::Inspect(reply) => {
                let state: LocalState = self.core.show();
                // Nobody may be waiting any more.
                let _ = reply.send(state);
            }
        }
        self.execute();
    }

    fn on_data(&mut self, DataMessage(data): DataMessage, _cx: &mut Cx) {
        self.core.on_event(InstanceEvent::Data(data), &mut self.effects);
    }

    fn drained(&mut self, _cx: &mut Cx) {
        self.core.flush(&mut self.effects);
        self.execute();
        self.publish();
    }
}
