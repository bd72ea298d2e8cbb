//! Which connection the later fragments of a packet belong to: they have no ports of their own, and
//! must go where their first fragment went.
//!
//! Memory: at most [`FRAGMENTS_MAX`] entries; the oldest goes first.

use chc_api::Identity;
use chc_api::packet::parse::{FragmentId, PacketKind, Parsed, fragment_id};
use std::collections::{HashMap, VecDeque};

/// Packets in fragments that are remembered at once.
pub const FRAGMENTS_MAX: usize = 4096;

/// The first fragments seen lately.
#[derive(Default)]
pub struct Fragments {
    identities: HashMap<FragmentId, Identity>,
    order: VecDeque<FragmentId>,
}

impl Fragments {
    /// Remembers a first fragment; gives a later one the identity of its first, if that is known.
    pub fn resolve(&mut self, frame: &[u8], parsed: &mut Parsed) {
        let first = parsed.is(PacketKind::FIRST_FRAGMENT);
        if !first && !parsed.is(PacketKind::LATER_FRAGMENT) {
            return;
        }
        let Some(id) = fragment_id(frame, parsed) else { return };
        if first {
            if self.identities.insert(id, parsed.identity()).is_none() {
                self.order.push_back(id);
            }
            if self.order.len() > FRAGMENTS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.identities.remove(&oldest);
            }
        } else if let Some(identity) = self.identities.get(&id) {
            parsed.key = identity.key;
            parsed.direction = identity.direction;
        }
    }
}
