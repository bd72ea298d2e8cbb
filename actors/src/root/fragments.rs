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

/// The first fragments seen lately.
#[derive(Default)]
pub struct Fragments {
    identities: HashMap<FragmentId, (Identity, Time)>,
    order: VecDeque<FragmentId>,
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
            if self.identities.insert(id, (parsed.identity(), now)).is_none() {
                self.order.push_back(id);
            }
            if self.order.len() > FRAGMENTS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.identities.remove(&oldest);
            }
        } else if let Some((identity, since)) = self.identities.get(&id)
            && now.0.saturating_sub(since.0) < LIFE_NS
        {
            parsed.key = identity.key;
            parsed.direction = identity.direction;
        }
    }
}
