//! What an instance gets from the shards before it runs, and again when an answer is overdue; and changes of replicated
//! values afterwards.

use super::{InstanceCore, Phase, Spawn};
use crate::instance::context::State;
use crate::messages::{Data, InstanceEffect};
use chc_api::{NetworkFunction, Protections, ShardId};
use chc_store::batch::{Changes, Load, Loaded};

impl<N: NetworkFunction, P: Protections, S: Spawn<N, P>> InstanceCore<N, P, S> {
    /// Asks the shards for the records that have not come yet.
    pub(super) fn load(&self, out: &mut Vec<InstanceEffect>) {
        let (from, generation, boundary) = (self.config.id, self.config.generation, self.floor);
        let slots = self.slots_at(boundary);
        let load = |shard: &ShardId| {
            let (slots, held) = (slots.clone(), Vec::new());
            InstanceEffect::Load(*shard, Load { from, generation, boundary, slots, held, begins: true })
        };
        out.extend(self.loads.iter().map(load));
    }

    /// A time-out is over: what the shards have not answered is sent again.
    pub(super) fn on_overdue(&mut self, out: &mut Vec<InstanceEffect>) {
        if self.phase == Phase::Loading {
            return self.load(out);
        }
        self.load_gained(out);
        let inner = &mut *self.env.inner();
        inner.ask_again();
        if let State::Store(client) = &mut inner.state {
            let again = client.retransmit(|shard, batch| out.push(InstanceEffect::Batch(shard, batch)));
            self.counts.retransmitted += again;
        }
    }

    pub(super) fn on_loaded(&mut self, loaded: &Loaded) {
        if loaded.generation != self.config.generation {
            return;
        }
        if self.phase != Phase::Loading {
            return self.on_gained(loaded);
        }
        let awaited = self.loads.iter().position(|shard| *shard == loaded.shard);
        let Some(awaited) = awaited else { return };
        self.loads.swap_remove(awaited);
        self.install(loaded);
        if self.loads.is_empty() {
            self.begin();
        }
    }

    pub(super) fn install(&self, loaded: &Loaded) {
        let inner = &mut *self.env.inner();
        if self.phase == Phase::Loading
            && let (Some(replica), State::Store(client)) = (&mut inner.replica, &mut inner.state)
        {
            let known = replica.install(loaded.shard, &loaded.changes, loaded.changes_known);
            client.changes_seen(loaded.shard, known);
        }
        for (object, key, written, record) in &loaded.records {
            inner.records.install(*object, key, *written, record, &inner.steps);
        }
    }

    /// Runs from now on, first what came before.
    pub(super) fn begin(&mut self) {
        self.phase = Phase::Running;
        self.begin_cache_term(self.floor);
        self.take_inbox();
    }

    /// Takes what came before it could be understood.
    pub(super) fn take_inbox(&mut self) {
        for data in std::mem::take(&mut self.inbox) {
            self.receive(data);
        }
    }

    /// Takes a message, or keeps it until what came before it is known.
    pub(super) fn receive(&mut self, data: Data) {
        match self.phase {
            Phase::Running if self.inbox.is_empty() && !self.is_ahead(&data) => self.on_data(data),
            Phase::Defective => {}
            _ => self.inbox.push_back(data),
        }
    }

    /// Replicated values were written.
    pub(super) fn on_changed(&self, changes: &Changes) {
        let inner = &mut *self.env.inner();
        if changes.generation == self.config.generation
            && let (Some(replica), State::Store(client)) = (&mut inner.replica, &mut inner.state)
        {
            let known = replica.learn(changes);
            client.changes_seen(changes.shard, known);
        }
    }
}
