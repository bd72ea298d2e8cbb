//! The links between actors: a FIFO queue per sender generation, receiver generation and kind, each
//! as slow as it was drawn; which one delivers next is random.

use crate::rng::Rng;
use chc_actors::messages::{Data, InstanceEvent, RootEvent};
use chc_api::{Clock, Generation, InstanceId};
use chc_store::batch::{Batch, Load};
use std::collections::{BTreeMap, VecDeque};

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The root.
    Root,
    /// The egress.
    Egress,
    /// A store shard.
    Shard(u16),
    /// One generation of an instance.
    Instance(InstanceId, Generation),
}

/// What travels.
#[derive(Debug)]
pub enum Message {
    /// Packets, steps, progress.
    Data(Data),
    /// Anything else for an instance.
    Instance(InstanceEvent),
    /// For the root.
    Root(RootEvent),
    /// For a shard.
    Batch(Batch),
    /// For a shard.
    Load(Load),
    /// The cut moved; for shards and the egress.
    Cut(Clock),
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

/// All links.
pub struct Links {
    links: Vec<Link>,
    by_id: BTreeMap<LinkId, usize>,
    busy: Vec<usize>,
    delays: bool,
    /// Links that were drawn slow.
    pub slowed: u64,
}

impl Links {
    /// No links yet; with `delays` some of those to come are slow.
    #[must_use]
    pub fn new(delays: bool) -> Self {
        Self { links: Vec::new(), by_id: BTreeMap::new(), busy: Vec::new(), delays, slowed: 0 }
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
        match (link.queue.back_mut(), message) {
            (Some(Message::Data(tail)), Message::Data(mark))
                if tail.block.is_none() && mark.block.is_none() && rng.chance(0.5) =>
            {
                tail.steps.extend(mark.steps);
                tail.progress = tail.progress.max(mark.progress);
            }
            (_, message) => link.queue.push_back(message),
        }
        if link.place.is_none() {
            link.place = Some(self.busy.len());
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
