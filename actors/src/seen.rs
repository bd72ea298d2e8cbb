//! Which positions an edge has delivered: the memory behind duplicate suppression.
//!
//! First packets of a clock are a bit each, so an edge costs a window of bits whatever the traffic,
//! and checking a packet is one word operation; all other positions are kept in a set. Everything
//! below the cut is forgotten.

use chc_api::{Clock, Path, Position};
use std::collections::BTreeSet;

/// Positions seen since the cut.
pub struct SeenSet {
    words: Vec<u64>,
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
        Self { words: vec![0; words as usize], mask: words - 1, floor: Clock(0), others: BTreeSet::new() }
    }

    /// Adds a position at or above the cut; false if it was there.
    #[inline(always)]
    pub fn insert(&mut self, clock: Clock, path: Path) -> bool {
        debug_assert!(clock >= self.floor && clock.0 < self.floor.0 + self.words.len() as u64 * 64);
        if path != Path::FIRST {
            return self.others.insert(Position::packet(clock, path));
        }
        let word = &mut self.words[((clock.0 >> 6) & self.mask) as usize];
        let bit = 1 << (clock.0 & 63);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
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
        for word in from..to.min(from + self.words.len() as u64) {
            self.words[(word & self.mask) as usize] = 0;
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

    proptest! {
        #[test]
        fn it_is_a_set_above_the_cut(steps in proptest::collection::vec((0u64..100, 0u32..3, 0u64..40), 1..300)) {
            let window = 100;
            let mut seen = SeenSet::new(window);
            let mut model = BTreeSet::new();
            let mut cut = 0;
            for (ahead, path, advance) in steps {
                let path = if path == 0 { Path(0x0200_0000) } else { Path::FIRST };
                let clock = Clock(cut + ahead);
                prop_assert_eq!(seen.insert(clock, path), model.insert((clock, path)));
                cut += advance;
                seen.trim(Clock(cut));
                model.retain(|(c, _)| c.0 >= cut);
            }
        }
    }
}
