//! Which positions an edge has delivered: the memory behind duplicate suppression.
//!
//! Packets of one path are a bit each, so an edge costs a window of bits for each path that comes there
//! (one, as a rule: copies of one kind have the same), whatever the traffic, and checking a packet is one
//! word operation. The packets of a block that are in order and above all that came before need no check, and are
//! noted by the word where none is missing between them.
//! All other positions are kept in a set. Everything below the cut is forgotten.

use chc_api::{Clock, Path, Position};
use std::collections::BTreeSet;

/// Most paths that have bits of their own. More come only where packets are multiplied again and again.
const PLANES_MAX: usize = 32;

/// The clocks seen of one path.
struct Plane {
    path: Path,
    words: Vec<u64>,
    /// All of them are below.
    above: u64,
}

impl Plane {
    fn new(path: Path, words: u64) -> Self {
        Self { path, words: vec![0; words as usize], above: 0 }
    }

    /// Adds the clocks from `first` up to `end`, of which there is one at least.
    fn fill(&mut self, first: u64, end: u64, mask: u64) {
        let last = end - 1;
        for word in first >> 6..=last >> 6 {
            let low = if word == first >> 6 { u64::MAX << (first & 63) } else { u64::MAX };
            let high = if word == last >> 6 { u64::MAX >> (63 - (last & 63)) } else { u64::MAX };
            self.words[(word & mask) as usize] |= low & high;
        }
    }
}

/// Positions seen since the cut.
pub struct SeenSet {
    planes: Vec<Plane>,
    /// The plane of the last packet.
    last: usize,
    mask: u64,
    floor: Clock,
    others: BTreeSet<Position>,
}

impl SeenSet {
    /// A set for clocks within `window` of the cut.
    #[must_use]
    pub fn new(window: u64) -> Self {
        // One word more than the window covers: the window seldom begins on a word.
        let words = (window.div_ceil(64) + 1).next_power_of_two();
        let first = Plane::new(Path::FIRST, words);
        Self { planes: vec![first], last: 0, mask: words - 1, floor: Clock(0), others: BTreeSet::new() }
    }

    /// Adds a position at or above the cut; false if it was there.
    #[inline(always)]
    pub fn insert(&mut self, clock: Clock, path: Path) -> bool {
        debug_assert!(clock >= self.floor && clock.0 < self.floor.0 + (self.mask + 1) * 64);
        if self.planes[self.last].path != path && !self.turn_to(path) {
            return self.others.insert(Position::packet(clock, path));
        }
        let plane = &mut self.planes[self.last];
        plane.above = plane.above.max(clock.0 + 1);
        let word = &mut plane.words[((clock.0 >> 6) & self.mask) as usize];
        let bit = 1 << (clock.0 & 63);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// Adds the packets of a block, all at or above the cut, if they are of one path, in order, and above all others of
    /// that path, so that none of them was there. False if they are not: then nothing was added.
    #[inline]
    pub fn insert_all(&mut self, packets: impl Iterator<Item = (Clock, Path)> + Clone) -> bool {
        let Some((first, path)) = packets.clone().next() else { return true };
        if self.planes[self.last].path != path && !self.turn_to(path) {
            return false;
        }
        let (plane, mask) = (&mut self.planes[self.last], self.mask);
        let (mut above, mut len, mut fits) = (plane.above, 0, true);
        for (clock, other) in packets.clone() {
            fits &= (other == path) & (clock.0 >= above);
            above = clock.0 + 1;
            len += 1;
        }
        if !fits {
            return false;
        }
        debug_assert!(first >= self.floor && above <= self.floor.0 + (mask + 1) * 64);
        plane.above = above;
        if above - first.0 == len {
            plane.fill(first.0, above, mask);
        } else {
            packets
                .for_each(|(Clock(clock), _)| plane.words[(clock >> 6 & mask) as usize] |= 1 << (clock & 63));
        }
        true
    }

    /// Makes the plane of a path the last one; false if it has none.
    fn turn_to(&mut self, path: Path) -> bool {
        let known = self.planes.iter().position(|plane| plane.path == path);
        if known.is_none() && self.planes.len() < PLANES_MAX {
            self.planes.push(Plane::new(path, self.mask + 1));
        } else if known.is_none() {
            return false;
        }
        self.last = known.unwrap_or(self.planes.len() - 1);
        true
    }

    /// Adds the position of a timer's output.
    pub fn insert_position(&mut self, position: Position) -> bool {
        match position.origin {
            None => self.insert(position.clock, position.path),
            Some(_) => self.others.insert(position),
        }
    }

    /// Forgets everything below the cut.
    pub fn trim(&mut self, cut: Clock) {
        if cut <= self.floor {
            return;
        }
        let (from, to) = (self.floor.0 >> 6, cut.0 >> 6);
        for plane in &mut self.planes {
            for word in from..to.min(from + self.mask + 1).min((plane.above >> 6) + 1) {
                plane.words[(word & self.mask) as usize] = 0;
            }
        }
        // Bits below the cut in its own word stay: nobody asks for them again, and the word is cleared
        // before its place is used for a later clock.
        self.floor = cut;
        self.others = self.others.split_off(&Position::before(cut));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How far each clock of a block is above the one before; often none is missing between them.
    fn gaps() -> impl Strategy<Value = Vec<u64>> {
        prop_oneof![proptest::collection::vec(0u64..9, 0..12), (0usize..130).prop_map(|len| vec![1; len])]
    }

    proptest! {
        #[test]
        fn it_is_a_set_above_the_cut(steps in proptest::collection::vec((0u64..100, 0u32..40, 0u64..40), 1..300)) {
            let window = 100;
            let mut seen = SeenSet::new(window);
            let mut model = BTreeSet::new();
            let mut cut = 0;
            for (ahead, path, advance) in steps {
                // More paths than have planes.
                let path = if path < 3 { Path::FIRST } else { Path::FIRST.append(path as u8) };
                let clock = Clock(cut + ahead);
                prop_assert_eq!(seen.insert(clock, path), model.insert((clock, path)));
                cut += advance;
                seen.trim(Clock(cut));
                model.retain(|(c, _)| c.0 >= cut);
            }
        }

        #[test]
        fn a_block_in_order_above_all_others_of_its_path_is_added_at_once(
            blocks in proptest::collection::vec((0u64..60, 0u32..4, gaps(), 0u64..20), 1..60),
        ) {
            let (mut seen, mut model, mut cut) = (SeenSet::new(200), BTreeSet::new(), 0);
            for (ahead, path, gaps, advance) in blocks {
                let path = if path == 0 { Path::FIRST.append(1) } else { Path::FIRST };
                // A gap of 0 repeats a clock.
                let mut clock = cut + ahead;
                let block: Vec<(Clock, Path)> = gaps.iter().map(|gap| {
                    clock += gap;
                    (Clock(clock), path)
                }).collect();
                let highest = model.iter().filter(|(_, of)| *of == path).map(|(clock, _)| *clock).max();
                let is_above = block.first().is_none_or(|(first, _)| highest.is_none_or(|highest| *first > highest));
                let is_sorted = block.windows(2).all(|pair| pair[0] < pair[1]);
                let added = seen.insert_all(block.iter().copied());
                prop_assert_eq!(added, is_above && is_sorted);
                for (clock, path) in &block {
                    prop_assert_eq!(added || seen.insert(*clock, *path), model.insert((*clock, *path)));
                    prop_assert!(!seen.insert(*clock, *path), "it is there now");
                }
                cut += advance;
                seen.trim(Clock(cut));
                // Those below the cut are not asked for again, and still are below others.
            }
        }
    }
}
