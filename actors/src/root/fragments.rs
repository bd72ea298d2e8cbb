//! Which connection the later fragments of a packet belong to: they have no ports of their own, and
//! must go where their first fragment went. A host numbers packets anew before long, so a first fragment is forgotten after
//! [`LIFE_NS`] (RFC 4963).
//!
//! Memory: at most [`FRAGMENTS_MAX`] entries; the oldest goes first.

use chc_api::packet::parse::{FragmentId, PacketKind, Parsed, fragment_id};
use chc_api::{Identity, Time};
use std::collections::{HashMap, VecDeque};

/// Packets in fragments that are remembered at once.
pub const FRAGMENTS_MAX: usize = 4096;
/// How long a packet's fragments may be under way, in nanoseconds of packet time.
pub const LIFE_NS: u64 = 30_000_000_000;

/// What is known of first fragments seen lately.
pub struct Firsts<T> {
    known: HashMap<FragmentId, (T, Time)>,
    order: VecDeque<FragmentId>,
}

impl<T> Default for Firsts<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Firsts<T> {
    /// A first fragment has come. `now`: packet time.
    pub fn insert(&mut self, id: FragmentId, value: T, now: Time) {
        if self.known.insert(id, (value, now)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > FRAGMENTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// What is known of a packet whose later fragment comes now.
    #[must_use]
    pub fn get(&self, id: &FragmentId, now: Time) -> Option<&T> {
        let (value, since) = self.known.get(id)?;
        (now.0.saturating_sub(since.0) < LIFE_NS).then_some(value)
    }
}

/// Gives fragments their identities.
#[derive(Default)]
pub struct Fragments {
    firsts: Firsts<Identity>,
}

impl Fragments {
    /// Remembers a first fragment; gives a later one the identity of its first, if that is known. `now`: packet time.
    pub fn resolve(&mut self, frame: &[u8], parsed: &mut Parsed, now: Time) {
        let first = parsed.is(PacketKind::FIRST_FRAGMENT);
        if !first && !parsed.is(PacketKind::LATER_FRAGMENT) {
            return;
        }
        let Some(id) = fragment_id(frame, parsed) else { return };
        if first {
            self.firsts.insert(id, parsed.identity(), now);
        } else if let Some(identity) = self.firsts.get(&id, now) {
            parsed.key = identity.key;
            parsed.direction = identity.direction;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_and_none_stays_for_long() {
        let id =
            |ident| FragmentId { src: [10, 0, 0, 1].into(), dst: [10, 0, 0, 2].into(), protocol: 17, ident };
        let mut firsts = Firsts::default();
        let max = FRAGMENTS_MAX as u32;
        for ident in 0..max + 2 {
            firsts.insert(id(ident), ident, Time(ident.into()));
        }
        firsts.insert(id(max), 7, Time(LIFE_NS));
        assert_eq!((firsts.known.len(), firsts.order.len()), (FRAGMENTS_MAX, FRAGMENTS_MAX));
        let get = |ident| firsts.get(&id(ident), Time(LIFE_NS + 5)).copied();
        assert_eq!([1, 5, 6, max].map(get), [None, None, Some(6), Some(7)]);
    }
}
