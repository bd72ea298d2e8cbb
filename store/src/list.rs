//! A queue of words that takes 24 bytes where it lies: with its key it fills one cache line of an
//! [`ObjectTable`](crate::object_table::ObjectTable), where `VecDeque` would take two.
//!
//! Cost: O(1) a push (amortised) and a pop; memory is at most twice the most elements it ever had.

/// A first-in-first-out queue, as a ring.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// As many as a power of two, or none.
    ring: Box<[u64]>,
    first: u32,
    len: u32,
}

impl List {
    /// How many elements there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends an element.
    #[inline]
    pub fn push(&mut self, value: u64) {
        if self.len() == self.ring.len() {
            self.grow();
        }
        let at = self.place(self.len);
        self.ring[at] = value;
        self.len += 1;
    }

    /// Takes the first element.
    #[inline]
    pub fn pop(&mut self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let value = self.ring[self.first as usize];
        self.first = self.place(1) as u32;
        self.len -= 1;
        Some(value)
    }

    /// The elements, first to last.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.len).map(|nth| self.ring[self.place(nth)])
    }

    /// Where the `nth` element lies.
    #[inline]
    fn place(&self, nth: u32) -> usize {
        self.first.wrapping_add(nth) as usize & self.ring.len().wrapping_sub(1)
    }

    #[cold]
    fn grow(&mut self) {
        let room = (self.ring.len() * 2).max(4);
        let mut ring = Vec::with_capacity(room);
        ring.extend(self.iter());
        ring.resize(room, 0);
        (self.ring, self.first) = (ring.into_boxed_slice(), 0);
    }
}

impl crate::object_table::Touch for List {
    #[inline]
    fn touch(&self) -> u64 {
        // Both ends: they may lie on different lines.
        let read = |nth| self.ring.get(self.place(nth)).copied().unwrap_or_default();
        read(0) ^ read(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn a_list_is_a_queue(steps in proptest::collection::vec(any::<Option<u64>>(), 1..300)) {
            let (mut list, mut model) = (List::default(), VecDeque::new());
            for step in steps {
                match step {
                    Some(value) => {
                        list.push(value);
                        model.push_back(value);
                    }
                    None => prop_assert_eq!(list.pop(), model.pop_front()),
                }
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!((list.len(), list.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }

    #[test]
    fn a_list_and_its_key_fill_a_cache_line() {
        assert_eq!(size_of::<List>() + size_of::<chc_api::ObjectKey>(), 64);
        assert_eq!(size_of::<Option<List>>(), size_of::<List>());
    }
}
