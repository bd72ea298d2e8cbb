//! One netmap ring: what user and kernel hand each other over shared memory.
//!
//! ```text
//!        head          cur       tail
//!   ..... │ user's slots ......... │ kernel's slots ....
//! ```
//!
//! The user owns the slots from `head` to before `tail`; it gives them back by moving `head` (and `cur`), the kernel gives it
//! more by moving `tail`, both at a sync. The kernel answers a bad head, length or buffer by nothing at all, so everything is
//! validated here: what the kernel wrote, too, for the memory is shared with whoever else has the port.
//!
//! No reference to shared memory is ever formed: fields are read and written by volatile or atomic accesses through raw
//! pointers, each within the region, whose bounds are checked when a ring is opened.
#![allow(unsafe_code)]

use super::super::region::Region;
use netmap_sys::netmap::{NS_BUF_CHANGED, NS_MOREFRAG, netmap_ring, netmap_slot};
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Why a ring cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The ring, its slots or its buffers lie outside the region.
    #[error("a ring at {offset} of {slots} slots is not within the region of {region} bytes")]
    Outside {
        /// Where the ring is said to be.
        offset: usize,
        /// Slots it is said to have.
        slots: u32,
        /// Bytes of the region.
        region: usize,
    },
    /// Its rings do not share their buffers.
    #[error("the port's rings have their buffers in different places")]
    Pools,
    /// Buffers have no sensible size.
    #[error("buffers of {0} bytes cannot hold frames")]
    BufferSize(u32),
}

/// A slot that names a buffer or a length that is none. Nothing of it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSlot;

/// A frame that was received, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The slot it came in.
    pub slot: u32,
    /// Where it is in the region.
    pub range: Result<std::ops::Range<usize>, BadSlot>,
    /// Whether the frame goes on in the next slot.
    pub goes_on: bool,
}

/// One ring of a port, for one side's exclusive use.
pub struct Ring {
    region: Arc<Region>,
    /// Offset of the ring in the region.
    at: usize,
    slots: u32,
    buffer_len: u32,
    /// Offset of buffer 0 in the region.
    buffers_at: usize,
    /// Buffers there are room for: higher numbers are bad.
    buffers: u32,
    /// Slots whose content this side has taken (or filled) and not given back yet: the first, and one behind the last.
    head: u32,
    cur: u32,
}

impl Ring {
    /// The ring at an offset of a region.
    ///
    /// # Errors
    /// If what is there is no ring.
    pub fn open(region: Arc<Region>, at: usize) -> Result<Self, RingError> {
        let len = region.len();
        let slots_at = offset_of!(netmap_ring, slot);
        let outside = |slots| RingError::Outside { offset: at, slots, region: len };
        if at.checked_add(slots_at).is_none_or(|end| end > len)
            || !at.is_multiple_of(align_of::<netmap_ring>())
        {
            return Err(outside(0));
        }
        // SAFETY: the header lies within the region, which lives as long as this does; its fields are aligned as the
        // offset is, and plain numbers.
        let (slots, buffer_len, buffers_from) = unsafe {
            let ring = region.at(at).cast::<netmap_ring>();
            let slots = (&raw const (*ring).num_slots).read_volatile();
            let buffer_len = (&raw const (*ring).nr_buf_size).read_volatile();
            (slots, buffer_len, (&raw const (*ring).buf_ofs).read_volatile())
        };
        let slots_len = slots as usize * size_of::<netmap_slot>();
        let is_within = at + slots_at + slots_len <= len;
        let buffers_at = i64::try_from(at).ok().and_then(|at| at.checked_add(buffers_from));
        let buffers_at = buffers_at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at <= len);
        let (true, 2.., Some(buffers_at)) = (is_within, slots, buffers_at) else {
            return Err(outside(slots));
        };
        if !(64..=1 << 16).contains(&buffer_len) {
            return Err(RingError::BufferSize(buffer_len));
        }
        let buffers = u32::try_from((len - buffers_at) / buffer_len as usize).unwrap_or(u32::MAX);
        let mut ring = Self { region, at, slots, buffer_len, buffers_at, buffers, head: 0, cur: 0 };
        ring.head = ring.field(offset_of!(netmap_ring, head)).load(Ordering::Relaxed) % slots;
        ring.cur = ring.head;
        Ok(ring)
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes of a buffer.
    pub(super) fn buffer_len(&self) -> u32 {
        self.buffer_len
    }

    fn field(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `open` has checked that the header lies within the region and is aligned; the field is a u32 in it, that
        // both sides access as a whole.
        unsafe { AtomicU32::from_ptr(self.region.at(self.at + offset).cast::<u32>()) }
    }

    /// Slots of it that this side may take now.
    #[must_use]
    pub fn available(&self) -> u32 {
        // What the kernel wrote before it moved the tail is seen once the tail is.
        let tail = self.field(offset_of!(netmap_ring, tail)).load(Ordering::Acquire);
        if tail >= self.slots {
            return 0;
        }
        (tail + self.slots - self.cur) % self.slots
    }

    pub(super) fn slot(&self, at: u32) -> *mut netmap_slot {
        debug_assert!(at < self.slots);
        let offset = self.at + offset_of!(netmap_ring, slot) + at as usize * size_of::<netmap_slot>();
        self.region.at(offset).cast()
    }

    /// What the buffers of its slots are of: a region, where buffer 0 begins in it, bytes of each, how many there are.
    pub(super) fn pool(&self) -> (&Arc<Region>, usize, u32, u32) {
        (&self.region, self.buffers_at, self.buffer_len, self.buffers)
    }

    /// The number of a slot's buffer.
    pub(super) fn buffer_of(&self, slot: u32) -> u32 {
        // SAFETY: the slot lies within the region, as `open` has checked for all of them.
        unsafe { (&raw const (*self.slot(slot)).buf_idx).read_volatile() }
    }

    /// The buffer of a slot: where it begins in the region.
    fn buffer(&self, slot: u32) -> Result<usize, BadSlot> {
        let index = self.buffer_of(slot);
        // Buffers 0 and 1 are the kernel's own.
        if index < 2 || index >= self.buffers {
            return Err(BadSlot);
        }
        Ok(self.buffers_at + index as usize * self.buffer_len as usize)
    }

    /// Gives a slot of this side another buffer. The number of the one it had.
    pub(super) fn exchange(&self, slot: u32, buffer: u32) -> u32 {
        let had = self.buffer_of(slot);
        // SAFETY: the slot lies within the region and is this side's.
        unsafe {
            let slot = self.slot(slot);
            let flags = (&raw const (*slot).flags).read_volatile();
            (&raw mut (*slot).buf_idx).write_volatile(buffer);
            (&raw mut (*slot).flags).write_volatile(flags | NS_BUF_CHANGED);
        }
        had
    }

    pub(super) fn next(&self, at: u32) -> u32 {
        if at + 1 == self.slots { 0 } else { at + 1 }
    }

    /// What the user has given back: everything before.
    pub(super) fn head(&self) -> u32 {
        self.field(offset_of!(netmap_ring, head)).load(Ordering::Acquire) % self.slots
    }

    /// Gives the user everything before, as the kernel does.
    pub(super) fn set_tail(&self, tail: u32) {
        self.field(offset_of!(netmap_ring, tail)).store(tail, Ordering::Release);
    }

    /// The last slot the user may have when the kernel is at one.
    pub(super) fn before(&self, at: u32) -> u32 {
        (at + self.slots - 1) % self.slots
    }

    /// Takes the next slot; it must be available.
    fn take(&mut self) -> u32 {
        let slot = self.cur;
        self.cur = self.next(slot);
        slot
    }

    /// Takes the next slot of what was received, which stays where it is until the slot is given back.
    pub fn receive(&mut self) -> Option<Part> {
        if self.available() == 0 {
            return None;
        }
        let slot = self.take();
        // SAFETY: the slot lies within the region.
        let (len, flags) = unsafe {
            let slot = self.slot(slot);
            ((&raw const (*slot).len).read_volatile(), (&raw const (*slot).flags).read_volatile())
        };
        let goes_on = flags & NS_MOREFRAG != 0;
        // A driver may begin a frame with a slot that has none of it.
        let fits = u32::from(len) <= self.buffer_len && (len > 0 || goes_on);
        let range = self.buffer(slot).and_then(|at| fits.then(|| at..at + usize::from(len)).ok_or(BadSlot));
        Some(Part { slot, range, goes_on })
    }

    /// The slot that would be taken next, if there is one.
    #[must_use]
    pub fn vacant(&self) -> Option<u32> {
        (self.available() > 0).then_some(self.cur)
    }

    /// Puts a frame, given in pieces, into the next slot. False if there is no room in the ring.
    ///
    /// # Errors
    /// If the frame is longer than a buffer, or the slot is bad; the slot is left empty then.
    pub fn send(&mut self, frame: &[&[u8]]) -> Result<bool, BadSlot> {
        let len: usize = frame.iter().map(|piece| piece.len()).sum();
        if self.available() == 0 {
            return Ok(false);
        }
        if len > self.buffer_len as usize || len > usize::from(u16::MAX) {
            return Err(BadSlot);
        }
        let mut at = self.buffer(self.cur)?;
        for piece in frame {
            // SAFETY: the buffer lies within the region and has room for all pieces; the kernel does not read it before
            // the head has passed its slot.
            unsafe { self.region.at(at).copy_from_nonoverlapping(piece.as_ptr(), piece.len()) };
            at += piece.len();
        }
        self.fill_slot(len as u16);
        Ok(true)
    }

    /// Takes the next slot, which must be vacant, for the frame that its buffer has.
    pub(super) fn fill_slot(&mut self, len: u16) {
        let slot = self.take();
        // SAFETY: the slot lies within the region and is this side's.
        unsafe {
            let slot = self.slot(slot);
            let flags = (&raw const (*slot).flags).read_volatile();
            (&raw mut (*slot).len).write_volatile(len);
            // All others ask for something.
            (&raw mut (*slot).flags).write_volatile(flags & NS_BUF_CHANGED);
        }
    }

    /// Gives the kernel everything that was taken; it sees it at the next sync.
    pub fn give_back(&mut self) {
        self.head = self.cur;
        // What was written to buffers and slots is seen once the head is.
        fence(Ordering::Release);
        self.field(offset_of!(netmap_ring, head)).store(self.head, Ordering::Release);
        self.field(offset_of!(netmap_ring, cur)).store(self.head, Ordering::Release);
    }

    /// Changes two bytes of what was received.
    pub(super) fn set(&self, at: usize, bytes: [u8; 2]) {
        assert!(at + bytes.len() <= self.region.len(), "within what was received");
        // SAFETY: the bytes lie within the region, in a slot of this side's.
        unsafe { self.region.at(at).cast::<[u8; 2]>().write_unaligned(bytes) };
    }

    /// Bytes of the region.
    #[must_use]
    pub fn bytes(&self, range: &std::ops::Range<usize>) -> &[u8] {
        // SAFETY: ranges come from `receive`, which checks them; the kernel leaves buffers alone whose slots are this side's.
        unsafe { std::slice::from_raw_parts(self.region.at(range.start), range.len()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const BUFFER: u32 = 256;

    /// A region with a ring of so many slots with as many buffers, from number 2 on; all slots are the kernel's.
    fn lay_out(slots: u32) -> Arc<Region> {
        let (slots_at, buffers_at) = (offset_of!(netmap_ring, slot), 512);
        assert!(slots <= 8 && slots_at + 8 * size_of::<netmap_slot>() <= buffers_at);
        let region = Arc::new(Region::of_memory(buffers_at + 10 * BUFFER as usize));
        // SAFETY: all of it is within the region of the test.
        unsafe {
            let ring = region.at(0).cast::<netmap_ring>();
            (&raw mut (*ring).num_slots).write(slots);
            (&raw mut (*ring).nr_buf_size).write(BUFFER);
            (&raw mut (*ring).buf_ofs).write(buffers_at as i64);
            for at in 0..slots {
                let slot = region.at(slots_at).cast::<netmap_slot>().add(at as usize);
                (&raw mut (*slot).buf_idx).write(at + 2);
            }
        }
        region
    }

    /// The other side of a ring, which keeps to the buffers it knows as a card does, until it is told that one has changed.
    pub(crate) struct Kernel {
        ring: Ring,
        /// The first slot it has not given, or taken back, yet.
        next: u32,
        /// Where each slot's buffer is.
        buffers: Vec<usize>,
    }

    impl Kernel {
        fn new(region: &Arc<Region>) -> Self {
            Self::at(region, 0)
        }

        pub(crate) fn at(region: &Arc<Region>, at: usize) -> Self {
            let ring = Ring::open(region.clone(), at).expect("a ring");
            let buffers =
                (0..ring.slots).map(|slot| ring.buffer(slot).expect("the buffers are good")).collect();
            Self { ring, next: 0, buffers }
        }

        /// Where the buffer of a slot of this side is.
        fn buffer(&mut self, slot: u32) -> usize {
            let flags = {
                // SAFETY: the slot is within the region, and the kernel's.
                let flags = unsafe { &mut (*self.ring.slot(slot)).flags };
                std::mem::replace(flags, *flags & !NS_BUF_CHANGED)
            };
            if flags & NS_BUF_CHANGED != 0 {
                self.buffers[slot as usize] = self.ring.buffer(slot).expect("the buffers are good");
            }
            self.buffers[slot as usize]
        }

        /// Gives the user one more slot, with a frame in it. False if all but one are the user's.
        fn deliver(&mut self, frame: &[u8]) -> bool {
            self.deliver_part(frame, false)
        }

        /// The same, with part of a frame that may go on in the next slot.
        pub(crate) fn deliver_part(&mut self, frame: &[u8], goes_on: bool) -> bool {
            if self.ring.next(self.next) == self.ring.head() {
                return false;
            }
            let slot = self.next;
            let buffer = self.buffer(slot);
            // SAFETY: the slot and its buffer are the kernel's, and within the region.
            unsafe {
                self.ring.region.at(buffer).copy_from_nonoverlapping(frame.as_ptr(), frame.len());
                (&raw mut (*self.ring.slot(slot)).len).write(frame.len() as u16);
                (&raw mut (*self.ring.slot(slot)).flags).write(if goes_on { NS_MOREFRAG } else { 0 });
            }
            self.next = self.ring.next(slot);
            self.ring.set_tail(self.next);
            true
        }

        /// What the user has given to be sent.
        pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
            let mut sent = Vec::new();
            while self.next != self.ring.head() {
                let at = self.buffer(self.next);
                // SAFETY: as above.
                let len = unsafe { (&raw const (*self.ring.slot(self.next)).len).read() };
                sent.push(self.ring.bytes(&(at..at + usize::from(len))).to_vec());
                self.next = self.ring.next(self.next);
            }
            sent
        }

        /// Lets the user have all slots but one.
        pub(crate) fn give_all(&self) {
            self.ring.set_tail(self.ring.before(self.ring.head()));
        }

        fn spoil(&self, slot: u32, change: impl FnOnce(&mut netmap_slot)) {
            // SAFETY: the slot is within the region, and the test's alone.
            change(unsafe { &mut *self.ring.slot(slot) });
        }
    }

    fn received(ring: &mut Ring) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(part) = ring.receive() {
            all.push(part.range.map(|range| ring.bytes(&range).to_vec()).expect("a good slot"));
        }
        all
    }

    #[test]
    fn frames_come_in_their_order_round_and_round() {
        let region = lay_out(4);
        let (mut ring, mut kernel) = (Ring::open(region.clone(), 0).unwrap(), Kernel::new(&region));
        for round in 0..10u8 {
            let frames: Vec<Vec<u8>> = (0..3).map(|at| vec![round * 3 + at; 60]).collect();
            assert!(frames.iter().all(|frame| kernel.deliver(frame)));
            assert!(!kernel.deliver(&[0; 60]), "the user has all but one");
            assert_eq!(received(&mut ring), frames);
            assert!(!kernel.deliver(&[0; 60]), "what was taken was not given back");
            ring.give_back();
        }
    }

    #[test]
    fn frames_go_out_in_their_order_while_there_is_room() {
        let region = lay_out(4);
        let (mut ring, mut kernel) = (Ring::open(region.clone(), 0).unwrap(), Kernel::new(&region));
        assert_eq!(ring.send(&[&[1]]), Ok(false), "the kernel has given nothing yet");
        for round in 0..10u8 {
            kernel.give_all();
            for at in 0..3 {
                assert_eq!(ring.send(&[&[round], &[at; 20]]), Ok(true));
            }
            assert_eq!((ring.send(&[&[9]]), kernel.drain().len()), (Ok(false), 0));
            ring.give_back();
            let expected: Vec<Vec<u8>> = (0..3).map(|at| [&[round][..], &[at; 20]].concat()).collect();
            assert_eq!(kernel.drain(), expected);
        }
    }

    #[test]
    fn slots_that_are_none_are_told_and_passed_over() {
        let region = lay_out(8);
        let (mut ring, mut kernel) = (Ring::open(region.clone(), 0).unwrap(), Kernel::new(&region));
        for at in 0..6 {
            assert!(kernel.deliver(&[at; 60]));
        }
        kernel.spoil(0, |slot| slot.len = BUFFER as u16 + 1);
        kernel.spoil(1, |slot| slot.buf_idx = 10 + 64);
        kernel.spoil(2, |slot| slot.buf_idx = 1);
        kernel.spoil(3, |slot| slot.len = 0);
        kernel.spoil(4, |slot| (slot.len, slot.flags) = (0, NS_MOREFRAG));
        for _ in 0..4 {
            assert_eq!(ring.receive().unwrap().range, Err(BadSlot));
        }
        assert_eq!(received(&mut ring), [vec![], vec![5; 60]]);
        let long = vec![0; BUFFER as usize + 1];
        kernel.give_all();
        assert_eq!(ring.send(&[&long]), Err(BadSlot));
    }

    #[test]
    fn a_ring_that_is_not_within_its_region_is_refused() {
        let spoiled = |change: &dyn Fn(*mut netmap_ring)| {
            let region = lay_out(4);
            change(region.at(0).cast());
            Ring::open(region, 0).err()
        };
        // SAFETY: the ring is the test's own.
        let refused = unsafe {
            [
                spoiled(&|ring| (&raw mut (*ring).num_slots).write(1 << 30)),
                spoiled(&|ring| (&raw mut (*ring).num_slots).write(1)),
                spoiled(&|ring| (&raw mut (*ring).buf_ofs).write(-8)),
                spoiled(&|ring| (&raw mut (*ring).buf_ofs).write(1 << 40)),
                spoiled(&|ring| (&raw mut (*ring).nr_buf_size).write(0)),
            ]
        };
        assert!(refused.iter().all(Option::is_some), "{refused:?}");
        assert!(Ring::open(lay_out(4), 1 << 20).is_err() && Ring::open(lay_out(4), 4).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_interleaving_frames_are_neither_lost_nor_repeated(
            slots in 2u32..9,
            steps in prop::collection::vec(0u8..4, 0..200),
        ) {
            let region = lay_out(slots);
            let (mut ring, mut kernel) = (Ring::open(region.clone(), 0).unwrap(), Kernel::new(&region));
            let (mut waiting, mut number) = (VecDeque::new(), 0u32);
            for step in steps {
                match step {
                    0 | 1 => {
                        if kernel.deliver(&number.to_be_bytes()) {
                            waiting.push_back(number.to_be_bytes().to_vec());
                        }
                        number += 1;
                    }
                    2 => match ring.receive() {
                        Some(part) => {
                            let range = part.range.unwrap();
                            prop_assert_eq!(Some(ring.bytes(&range).to_vec()), waiting.pop_front());
                        }
                        None => prop_assert!(waiting.is_empty()),
                    },
                    _ => ring.give_back(),
                }
            }
            prop_assert_eq!(ring.available() as usize, waiting.len());
        }

        #[test]
        fn no_content_of_a_region_can_do_harm(words in prop::collection::vec(any::<u64>(), 60), tail in any::<u32>()) {
            let region = Arc::new(Region::of_memory(4096));
            for (at, word) in words.iter().enumerate() {
                // SAFETY: within the region of the test.
                unsafe { region.at(at * 8).cast::<u64>().write(*word) };
            }
            // SAFETY: as above.
            unsafe {
                let ring = region.at(0).cast::<netmap_ring>();
                (&raw mut (*ring).num_slots).write(2 + tail % 20);
                (&raw mut (*ring).nr_buf_size).write(64 + tail % 512);
                (&raw mut (*ring).buf_ofs).write(i64::from(tail % 4096));
                (&raw mut (*ring).tail).write(tail % 30);
            }
            if let Ok(mut ring) = Ring::open(region, 0) {
                for _ in 0..40 {
                    if let Some(Part { range: Ok(range), .. }) = ring.receive() {
                        let _ = ring.bytes(&range).iter().map(|byte| u64::from(*byte)).sum::<u64>();
                    }
                    let _ = ring.send(&[&[1; 30], &[2; 40]]);
                    ring.give_back();
                }
            }
        }
    }
}
