//! Who has which address on the wires next to a router: asked for when it is needed, by ARP or neighbour discovery.
//!
//! Memory: [`NEIGHBOURS_MAX`] entries, each with at most [`WAITING_MAX`] frames that wait for it.

use chc_api::{Side, Time};
use chc_runtime::io::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Most neighbours that are known or asked for. The one that was heard of longest ago makes room.
const NEIGHBOURS_MAX: usize = 4096;
/// Most frames that wait for one neighbour; the first of them make room.
const WAITING_MAX: usize = 16;
/// How long an answer is relied upon, then how long it is still used while it is asked for again.
const FRESH_NS: u64 = 30_000_000_000;
const STALE_NS: u64 = 90_000_000_000;
/// How long an answer is waited for, and how often it is asked for in vain.
const ASK_NS: u64 = 1_000_000_000;
const ASKS_MAX: u32 = 3;

struct Neighbour {
    mac: Option<Mac>,
    /// When it was last heard of.
    heard: Time,
    asked: Time,
    asks: u32,
    waiting: Vec<Vec<u8>>,
}

/// What became of a frame for a neighbour.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It can be sent there.
    At(Mac),
    /// The same, and it is time to ask again.
    AtAskAgain(Mac),
    /// It is to be asked for; the frame waits.
    Ask,
    /// It has been asked for; the frame waits.
    Wait,
}

/// The neighbours of both sides.
#[derive(Default)]
pub struct Neighbours {
    known: BTreeMap<(Side, IpAddr), Neighbour>,
    /// Frames that were given up, for want of room or of an answer.
    pub lost: u64,
}

impl Neighbours {
    /// Looks a neighbour up for a frame, which `frame` makes if it has to wait.
    pub fn find(&mut self, now: Time, at: (Side, IpAddr), frame: impl FnOnce() -> Vec<u8>) -> Found {
        if !self.known.contains_key(&at) {
            self.make_room();
        }
        let nothing = || Neighbour { mac: None, heard: now, asked: Time(0), asks: 0, waiting: Vec::new() };
        let neighbour = self.known.entry(at).or_insert_with(nothing);
        let is_due = now.0.saturating_sub(neighbour.asked.0) >= ASK_NS;
        let age = now.0.saturating_sub(neighbour.heard.0);
        if let Some(mac) = neighbour.mac.filter(|_| age < STALE_NS) {
            if age < FRESH_NS || !is_due {
                return Found::At(mac);
            }
            neighbour.asked = now;
            return Found::AtAskAgain(mac);
        }
        neighbour.mac = None;
        if neighbour.waiting.len() == WAITING_MAX {
            neighbour.waiting.remove(0);
            self.lost += 1;
        }
        neighbour.waiting.push(frame());
        if neighbour.asks > 0 {
            return Found::Wait;
        }
        (neighbour.asked, neighbour.asks) = (now, 1);
        Found::Ask
    }

    fn make_room(&mut self) {
        if self.known.len() < NEIGHBOURS_MAX {
            return;
        }
        let oldest = self.known.iter().min_by_key(|(_, neighbour)| neighbour.heard).map(|(at, _)| *at);
        if let Some(gone) = oldest.and_then(|at| self.known.remove(&at)) {
            self.lost += gone.waiting.len() as u64;
        }
    }

    /// A neighbour has told its address. Only those somebody has asked for are noted, but for `anybody`. Gives the frames
    /// back that waited for it.
    pub fn hear(&mut self, now: Time, at: (Side, IpAddr), mac: Mac, anybody: bool) -> Vec<Vec<u8>> {
        if !self.known.contains_key(&at) {
            if !anybody {
                return Vec::new();
            }
            self.make_room();
        }
        let nothing = || Neighbour { mac: None, heard: now, asked: Time(0), asks: 0, waiting: Vec::new() };
        let neighbour = self.known.entry(at).or_insert_with(nothing);
        (neighbour.mac, neighbour.heard, neighbour.asks) = (Some(mac), now, 0);
        std::mem::take(&mut neighbour.waiting)
    }

    /// Those to be asked for again. Those that do not answer are forgotten; what waited for them is given back in `given_up`.
    pub fn on_time(&mut self, now: Time, given_up: &mut Vec<(Side, Vec<u8>)>) -> Vec<(Side, IpAddr)> {
        let mut again = Vec::new();
        let lost = &mut self.lost;
        self.known.retain(|at, neighbour| {
            if neighbour.asks == 0 || now.0.saturating_sub(neighbour.asked.0) < ASK_NS {
                return true;
            }
            if neighbour.asks >= ASKS_MAX {
                *lost += neighbour.waiting.len() as u64;
                given_up.extend(neighbour.waiting.drain(..).map(|frame| (at.0, frame)));
                return false;
            }
            (neighbour.asked, neighbour.asks) = (now, neighbour.asks + 1);
            again.push(*at);
            true
        });
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn at(host: u16) -> (Side, IpAddr) {
        (Side::Inside, IpAddr::from([10, 0, (host >> 8) as u8, host as u8]))
    }

    fn second(n: u64) -> Time {
        Time(1_000_000_000_000 + n * 1_000_000_000)
    }

    #[test]
    fn frames_wait_for_an_answer_in_their_order() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.find(second(0), at(1), || vec![1]), Found::Ask);
        assert_eq!(neighbours.find(second(0), at(1), || vec![2]), Found::Wait);
        assert_eq!(neighbours.hear(second(0), at(1), MAC, false), [vec![1], vec![2]]);
        assert_eq!(neighbours.find(second(1), at(1), || panic!("not needed")), Found::At(MAC));
    }

    #[test]
    fn who_does_not_answer_is_asked_three_times_and_forgotten() {
        let mut neighbours = Neighbours::default();
        neighbours.find(second(0), at(1), || vec![1]);
        assert!(neighbours.on_time(second(0), &mut Vec::new()).is_empty());
        assert_eq!(neighbours.on_time(second(1), &mut Vec::new()), [at(1)]);
        assert_eq!(neighbours.on_time(second(2), &mut Vec::new()), [at(1)]);
        assert_eq!((neighbours.on_time(second(3), &mut Vec::new()).len(), neighbours.lost), (0, 1));
        assert_eq!(neighbours.find(second(3), at(1), || vec![2]), Found::Ask);
    }

    #[test]
    fn an_answer_is_asked_for_again_before_it_is_given_up() {
        let mut neighbours = Neighbours::default();
        neighbours.hear(second(0), at(1), MAC, true);
        assert_eq!(neighbours.find(second(29), at(1), Vec::new), Found::At(MAC));
        assert_eq!(neighbours.find(second(30), at(1), Vec::new), Found::AtAskAgain(MAC));
        assert_eq!(neighbours.find(second(30), at(1), Vec::new), Found::At(MAC));
        assert_eq!(neighbours.find(second(90), at(1), || vec![1]), Found::Ask);
    }

    #[test]
    fn strangers_are_not_noted_and_memory_is_bounded() {
        let mut neighbours = Neighbours::default();
        neighbours.hear(second(0), at(1), MAC, false);
        assert!(neighbours.known.is_empty());
        for host in 0..NEIGHBOURS_MAX as u16 + 10 {
            neighbours.find(second(u64::from(host)), at(host), || vec![1]);
        }
        for _ in 0..WAITING_MAX + 5 {
            neighbours.find(second(9999), at(4100), || vec![1]);
        }
        let waiting: usize = neighbours.known.values().map(|neighbour| neighbour.waiting.len()).sum();
        assert_eq!(neighbours.known.len(), NEIGHBOURS_MAX);
        assert_eq!(waiting, NEIGHBOURS_MAX - 1 + WAITING_MAX);
    }
}
