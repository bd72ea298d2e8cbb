//! The links between actors: a FIFO queue per sender generation, receiver generation and kind, each
//! as slow as it was drawn; which one delivers next is random.

use crate::rng::Rng;
use chc_actors::messages::{Data, InstanceEvent, RootEvent};
use chc_api::{Clock, Generation, InstanceId};
use chc_store::batch::{Batch, Load};
use chc_store::packet_log::LogBatch;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The root.
    Root(u16),
    /// The egress.
    Egress,
    /// A store shard.
    Shard(u16),
    /// One generation of an instance.
    Instance(InstanceId, Generation),
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Message {
    /// Packets, steps, progress.
    Data(Data),
    /// Anything else for an instance.
    Instance(InstanceEvent),
    /// For the root.
    Root(RootEvent),
    /// For a shard.
    Batch(Arc<Batch>),
    /// For a shard.
    Load(Load),
    /// The cut moved; for shards and the egress.
    Cut(Clock),
    /// For a shard: clocks the root will stamp.
    Reserve(Clock),
    /// For a shard: packets the root has stamped.
    Log(LogBatch),
}

/// Names a link: sender, receiver, whether it carries data.
pub type LinkId = (Actor, Actor, bool);

struct Link {
    id: LinkId,
    queue: VecDeque<Message>,
    /// Probability that it delivers when its turn comes.
    pace: f64,
    /// Place in the list of links that are not empty.
    place: Option<usize>,
}

/// What links between instances and shards do to messages. It has random numbers of its own, so that a world in
/// which they do nothing is the same with it and without.
pub struct Unreliable {
    rng: Rng,
    loss: f64,
    repeat: f64,
    reorder: f64,
    /// Messages lost, repeated, and put in front of others.
    pub counts: [u64; 3],
}

impl Unreliable {
    /// Draws how unreliable the links are, of the kinds that may happen: loss, repetition, change of order. In
    /// every second world they are not.
    #[must_use]
    pub fn draw(seed: u64, kinds: [bool; 3]) -> Self {
        let mut rng = Rng::new(seed);
        let happens = rng.chance(0.5);
        let mut rate = |kind: bool| {
            let drawn = rng.pick(&[0.0, 0.01, 0.05, 0.3]);
            if happens && kind { drawn } else { 0.0 }
        };
        let [loss, repeat, reorder] = kinds.map(&mut rate);
        Self { rng, loss, repeat, reorder, counts: [0; 3] }
    }

    fn happens(&mut self, kind: usize) -> bool {
        let rate = [self.loss, self.repeat, self.reorder][kind];
        let happens = rate > 0.0 && self.rng.chance(rate);
        self.counts[kind] += u64::from(happens);
        happens
    }
}

/// Whether a link is one between an instance and a shard.
fn is_to_store((from, to, _): &LinkId) -> bool {
    matches!((from, to), (Actor::Instance(..), Actor::Shard(_)) | (Actor::Shard(_), Actor::Instance(..)))
}

/// All links.
pub struct Links {
    links: Vec<Link>,
    by_id: BTreeMap<LinkId, usize>,
    busy: Vec<usize>,
    delays: bool,
    /// What happens on links between instances and shards.
    pub unreliable: Unreliable,
    /// Links that were drawn slow.
    pub slowed: u64,
}

impl Links {
    /// No links yet; with `delays` some of those to come are slow.
    #[must_use]
    pub fn new(delays: bool, unreliable: Unreliable) -> Self {
        Self { links: Vec::new(), by_id: BTreeMap::new(), busy: Vec::new(), delays, unreliable, slowed: 0 }
    }

    /// Puts a message on its link. Progress that nothing was sent behind may merge with what is at the
    /// tail, as it does in a mailbox.
    pub fn send(&mut self, from: Actor, to: Actor, message: Message, rng: &mut Rng) {
        let id = (from, to, matches!(message, Message::Data(_)));
        let at = match self.by_id.get(&id) {
            Some(at) => *at,
            None => self.open(id, rng),
        };
        let link = &mut self.links[at];
        if is_to_store(&id) {
            if self.unreliable.happens(0) {
                return;
            }
            if self.unreliable.happens(1) {
                link.queue.push_back(message.clone());
            }
            if self.unreliable.happens(2) {
                let place = self.unreliable.rng.index(link.queue.len() + 1);
                link.queue.insert(place, message);
                return self.stir(at);
            }
        }
        match (link.queue.back_mut(), message) {
            (Some(Message::Data(tail)), Message::Data(mark))
                if tail.block.is_none() && mark.block.is_none() && rng.chance(0.5) =>
            {
                tail.steps.extend(mark.steps);
                tail.changes.extend(mark.changes);
                tail.progress = tail.progress.max(mark.progress);
            }
            (_, message) => link.queue.push_back(message),
        }
        self.stir(at);
    }

    /// A link is not empty.
    fn stir(&mut self, at: usize) {
        let place = &mut self.links[at].place;
        if place.is_none() {
            *place = Some(self.busy.len());
            self.busy.push(at);
        }
    }

    fn open(&mut self, id: LinkId, rng: &mut Rng) -> usize {
        let pace = if self.delays { rng.pick(&[1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1, 0.02]) } else { 1.0 };
        self.slowed += u64::from(pace < 0.5);
        self.links.push(Link { id, queue: VecDeque::new(), pace, place: None });
        self.by_id.insert(id, self.links.len() - 1);
        self.links.len() - 1
    }

    /// Takes the next messages of a random link.
    pub fn deliver(&mut self, rng: &mut Rng) -> Option<(LinkId, Vec<Message>)> {
        if self.busy.is_empty() {
            return None;
        }
        let at = self.busy[rng.index(self.busy.len())];
        if self.links[at].pace < 1.0 && !rng.chance(self.links[at].pace) {
            return None;
        }
        let count = rng.pick(&[1, 1, 3, 8]).min(self.links[at].queue.len());
        let messages = self.links[at].queue.drain(..count).collect();
        self.settle(at);
        Some((self.links[at].id, messages))
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.busy.is_empty()
    }

    /// Whether an instance's time-out is over now: seldom while something is on its way between it and a shard, so that
    /// what is sent again does not pile up.
    pub fn is_overdue(&mut self, instance: Actor) -> bool {
        if self.unreliable.loss == 0.0 {
            return false;
        }
        let is_of = |at: &usize| {
            let id = &self.links[*at].id;
            is_to_store(id) && (id.0 == instance || id.1 == instance)
        };
        let rate = if self.busy.iter().any(is_of) { 0.0005 } else { 0.1 };
        self.unreliable.rng.chance(rate)
    }

    /// An actor died: what was on its way to it is lost, and of each link from it, by chance, the end.
    pub fn cut_off(&mut self, actor: Actor, rng: &mut Rng) {
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            if link.id.1 == actor {
                link.queue.clear();
            } else if link.id.0 == actor && !link.queue.is_empty() && rng.chance(0.5) {
                let kept = rng.index(link.queue.len() + 1);
                link.queue.truncate(kept);
            }
            self.settle(at);
        }
    }

    /// Loses every message of a link.
    pub fn clear(&mut self, id: LinkId) {
        if let Some(&at) = self.by_id.get(&id) {
            self.links[at].queue.clear();
            self.settle(at);
        }
    }

    /// Takes the next message of one link.
    pub fn take(&mut self, id: LinkId) -> Option<Message> {
        let at = *self.by_id.get(&id)?;
        let message = self.links[at].queue.pop_front();
        self.settle(at);
        message
    }

    /// Links with something on them and how much, in a fixed order.
    #[must_use]
    pub fn waiting(&self) -> Vec<(LinkId, usize)> {
        let lens = self.by_id.iter().map(|(id, at)| (*id, self.links[*at].queue.len()));
        lens.filter(|(_, len)| *len > 0).collect()
    }

    fn settle(&mut self, at: usize) {
        if !self.links[at].queue.is_empty() {
            return;
        }
        if let Some(place) = self.links[at].place.take() {
            self.busy.swap_remove(place);
            if let Some(moved) = self.busy.get(place) {
                self.links[*moved].place = Some(place);
            }
        }
    }
}
