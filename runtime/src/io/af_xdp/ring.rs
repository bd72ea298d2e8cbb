//! A ring of an AF_XDP socket: one side produces entries, the other consumes them, each by a counter that only it moves.
//!
//! No reference to shared memory is formed but to its counters, which are atomic; entries are read and written whole, within
//! the region, whose bounds are checked when a ring is opened.
#![allow(unsafe_code)]

use super::system::Mapped;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::sync::atomic::{AtomicU32, Ordering};

/// This process's side of a ring of `T`.
pub(super) struct Ring<T> {
    mapped: Mapped,
    entries: u32,
    /// This side's counter, ahead of what the other side was told, and the other's as it was last seen.
    own: u32,
    told: u32,
    other: u32,
    is_producer: bool,
    kind: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// A ring of so many entries, a power of two, of which this side produces or consumes.
    pub(super) fn open(mapped: Mapped, entries: u32, is_producer: bool) -> io::Result<Self> {
        let within = |at: usize, len: usize, align: usize| {
            at.checked_add(len).is_some_and(|end| end <= mapped.region.len()) && at.is_multiple_of(align)
        };
        let counters = [mapped.producer, mapped.consumer, mapped.flags];
        let is_good = entries.is_power_of_two()
            && counters.iter().all(|at| within(*at, size_of::<u32>(), align_of::<u32>()))
            && within(mapped.entries, entries as usize * size_of::<T>(), align_of::<T>());
        if !is_good {
            return Err(io::Error::other("the system's rings are not within their memory"));
        }
        let mut ring = Self { mapped, entries, own: 0, told: 0, other: 0, is_producer, kind: PhantomData };
        ring.own = ring.counter(is_producer).load(Ordering::Relaxed);
        (ring.told, ring.other) = (ring.own, ring.counter(!is_producer).load(Ordering::Acquire));
        Ok(ring)
    }

    fn at(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `open` has checked that it is within the region and aligned; both sides access it as a whole.
        unsafe { AtomicU32::from_ptr(self.mapped.region.at(offset).cast::<u32>()) }
    }

    fn counter(&self, of_producer: bool) -> &AtomicU32 {
        self.at(if of_producer { self.mapped.producer } else { self.mapped.consumer })
    }

    /// Entries this side may take or put now.
    pub(super) fn available(&mut self) -> u32 {
        let left = |ring: &Self| {
            let between = if ring.is_producer {
                ring.own.wrapping_sub(ring.other)
            } else {
                ring.other.wrapping_sub(ring.own)
            };
            // What the other side says is believed as far as the ring goes.
            let between = between.min(ring.entries);
            if ring.is_producer { ring.entries - between } else { between }
        };
        if left(self) == 0 {
            self.other = self.counter(!self.is_producer).load(Ordering::Acquire);
        }
        left(self)
    }

    fn entry(&self) -> *mut T {
        let index = (self.own & (self.entries - 1)) as usize;
        self.mapped.region.at(self.mapped.entries + index * size_of::<T>()).cast()
    }

    /// Takes the next entry.
    pub(super) fn take(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        // SAFETY: the entry is within the region, and this side's until its counter has passed it; it is plain numbers.
        let entry = unsafe { self.entry().read_volatile() };
        self.own = self.own.wrapping_add(1);
        Some(entry)
    }

    /// Puts an entry; false if there is no room.
    pub(super) fn put(&mut self, entry: T) -> bool {
        if self.available() == 0 {
            return false;
        }
        // SAFETY: as above.
        unsafe { self.entry().write_volatile(entry) };
        self.own = self.own.wrapping_add(1);
        true
    }

    /// Tells the other side what was taken or put.
    pub(super) fn tell(&mut self) {
        if self.told != self.own {
            self.told = self.own;
            self.counter(self.is_producer).store(self.own, Ordering::Release);
        }
    }

    /// Whether the other side has seen all it was told.
    pub(super) fn is_done(&self) -> bool {
        self.counter(!self.is_producer).load(Ordering::Acquire) == self.told
    }

    /// Whether the other side sleeps until it is woken.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.at(self.mapped.flags).load(Ordering::Acquire) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::region::Region;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// Two sides of a ring in memory.
    fn sides(entries: u32) -> (Ring<u64>, Ring<u64>) {
        let memory = Arc::new(Region::of_memory(64 + entries as usize * 8));
        let mapped = |region| Mapped { region, producer: 0, consumer: 8, flags: 16, entries: 64 };
        let producer = Ring::open(mapped(memory.clone()), entries, true).unwrap();
        (producer, Ring::open(mapped(memory), entries, false).unwrap())
    }

    proptest! {
        #[test]
        fn entries_come_in_their_order_whatever_the_interleaving(
            entries in prop::sample::select(vec![1u32, 2, 8]),
            steps in prop::collection::vec(0u8..4, 0..300),
        ) {
            let (mut producer, mut consumer) = sides(entries);
            let (mut told, mut held, mut next) = (VecDeque::new(), VecDeque::new(), 0u64);
            for step in steps {
                match step {
                    0 => {
                        if producer.put(next) {
                            held.push_back(next);
                            next += 1;
                        }
                        prop_assert!(held.len() + told.len() <= entries as usize);
                    }
                    1 => {
                        producer.tell();
                        told.append(&mut held);
                    }
                    2 => {
                        let taken = consumer.take();
                        prop_assert_eq!(taken, told.pop_front());
                    }
                    _ => {
                        consumer.tell();
                        prop_assert_eq!(producer.is_done(), told.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn a_ring_that_is_not_within_its_memory_is_refused() {
        let open = |producer, entries_at, entries| {
            let region = Arc::new(Region::of_memory(128));
            let mapped = Mapped { region, producer, consumer: 8, flags: 16, entries: entries_at };
            Ring::<u64>::open(mapped, entries, true).is_ok()
        };
        assert!(open(0, 64, 8));
        assert!(
            ![
                open(126, 64, 8),
                open(2, 64, 8),
                open(0, 72, 8),
                open(0, 64, 16),
                open(0, 64, 3),
                open(usize::MAX, 64, 8)
            ]
            .contains(&true)
        );
    }
}
