//! The buffers of a region, and how frames stay in them instead of being copied.
//!
//! A slot names its buffer by a number, so a frame changes hands by numbers alone:
//!
//! ```text
//!   receiving ring          block                       sending ring
//!   slot: buffer 7   ──►    keeps buffer 7        ──►   slot: buffer 7, until the slot is used again
//!   slot: a spare one       (payload; a head it         (the head is written in front of the payload;
//!                            has of its own)             the slot's own buffer waits)
//! ```
//!
//! A buffer is in one of these places: in a slot and nothing else; spare; or *kept* by a block, *lent* to a slot that sends it, or
//! both. The last of these two to let it go makes it spare. While it is kept nobody changes the payload, for the block may be sent
//! again; the bytes before it belong to the slot that it is lent to, of which there is one at a time: whoever else sends it copies.
//!
//! Spare buffers are the extra ones that the kernel was asked for, so memory is what it granted. Where none is left, frames are
//! copied. They go back, as a list in the memory itself, when the last end of a port and the last block let go.
#![allow(unsafe_code)]

use super::super::region::Region;
use super::ring::Ring;
use netmap_sys::netmap::netmap_if;
use parking_lot::Mutex;
use std::fs::File;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A block has it.
const KEPT: u32 = 1;
/// A sending ring has it.
const LENT: u32 = 2;
/// Where the payload of a buffer that is kept begins, above the bits.
const PAYLOAD_SHIFT: u32 = 16;
/// Spare buffers that a receiver fetches, or brings back, at once.
pub(super) const SPARES_AT_ONCE: usize = 64;

/// The buffers of a region.
pub(super) struct Buffers {
    region: Arc<Region>,
    /// Where buffer 0 begins in the region.
    at: usize,
    /// Bytes of each.
    len: usize,
    /// What each is in use for besides a slot of its own: [`KEPT`], [`LENT`] and where the payload begins.
    uses: Box<[AtomicU32]>,
    spare: Mutex<Vec<u32>>,
    /// Ports that brought spare buffers: where they are in the region. The first one's list takes them back.
    ports: Mutex<Vec<usize>>,
    /// Open as long as buffers may be in use.
    files: Mutex<Vec<Arc<File>>>,
}

impl Buffers {
    /// The buffers that a ring's slots are of; none is spare.
    pub(super) fn of(ring: &Ring) -> Arc<Self> {
        let (region, at, len, count) = ring.pool();
        Arc::new(Self {
            region: region.clone(),
            at,
            len: len as usize,
            uses: (0..count).map(|_| AtomicU32::new(0)).collect(),
            spare: Mutex::default(),
            ports: Mutex::default(),
            files: Mutex::default(),
        })
    }

    /// Whether a ring's slots are of these.
    pub(super) fn are_of(&self, ring: &Ring) -> bool {
        let (region, at, len, _) = ring.pool();
        Arc::ptr_eq(region, &self.region) && at == self.at && len as usize == self.len
    }

    /// The memory they are in.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Keeps a port open for as long as these are in use.
    pub(super) fn hold_open(&self, file: Arc<File>) {
        self.files.lock().push(file);
    }

    fn list_head(&self, port: usize) -> *mut u32 {
        self.region.at(port + offset_of!(netmap_if, ni_bufs_head)).cast()
    }

    fn next_in_list(&self, buffer: u32) -> *mut u32 {
        self.region.at(self.start(buffer)).cast()
    }

    /// Takes the list of extra buffers of the port at an offset of the region, which has been checked: as many as were granted, at
    /// most.
    pub(super) fn take_extra(&self, port: usize, granted: u32) {
        let mut is_listed = vec![false; self.uses.len()];
        let mut spare = self.spare.lock();
        // SAFETY: the port's header lies within the region, aligned; nobody else in this process uses it now.
        let mut next = unsafe { self.list_head(port).read_volatile() };
        for _ in 0..granted {
            let is_new = self.is_one(next) && !std::mem::replace(&mut is_listed[next as usize], true);
            if !is_new {
                break;
            }
            spare.push(next);
            // SAFETY: the buffer lies within the region.
            next = unsafe { self.next_in_list(next).read_unaligned() };
        }
        // SAFETY: as above. The kernel must not follow a list through buffers that are in use.
        unsafe { self.list_head(port).write_volatile(0) };
        self.ports.lock().push(port);
    }

    /// Whether a number is a buffer's; 0 and 1 are the kernel's own.
    fn is_one(&self, buffer: u32) -> bool {
        buffer >= 2 && (buffer as usize) < self.uses.len()
    }

    fn start(&self, buffer: u32) -> usize {
        self.at + buffer as usize * self.len
    }

    /// Moves some spare buffers to a receiver's own.
    pub(super) fn fetch(&self, into: &mut Vec<u32>) {
        let mut spare = self.spare.lock();
        let from = spare.len().saturating_sub(SPARES_AT_ONCE);
        into.extend(spare.drain(from..));
    }

    /// These are spare from now on. What a slot had may be no buffer at all: that is left out.
    pub(super) fn bring(&self, spares: impl IntoIterator<Item = u32>) {
        self.spare.lock().extend(spares.into_iter().filter(|spare| self.is_one(*spare)));
    }

    /// Keeps the buffer that a frame in a slot is in, where its payload begins at an offset. Gives its number; `None`: it is in use
    /// already.
    pub(super) fn keep(&self, frame: &Range<usize>, payload: u16) -> Option<u32> {
        let buffer = frame.start.checked_sub(self.at)? / self.len;
        let kept = KEPT | u32::from(payload) << PAYLOAD_SHIFT;
        let uses = self.uses.get(buffer)?;
        uses.compare_exchange(0, kept, Ordering::Acquire, Ordering::Relaxed).ok()?;
        u32::try_from(buffer).ok()
    }

    /// A block lets buffers go.
    fn let_go(&self, buffers: impl Iterator<Item = u32>) {
        let mut spare = self.spare.lock();
        // What readers have read is read before anybody writes there again.
        spare
            .extend(buffers.filter(|b| self.uses[*b as usize].fetch_and(LENT, Ordering::AcqRel) & LENT == 0));
    }

    /// The slot that a buffer was lent to is done with it.
    pub(super) fn sent(&self, buffer: u32) {
        if self.uses[buffer as usize].fetch_and(!LENT, Ordering::AcqRel) & KEPT == 0 {
            self.bring([buffer]);
        }
    }

    /// Puts a frame, given in pieces, together in the buffer its payload has been kept in, to be lent to a slot. Gives the buffer
    /// and the frame's length. `None`: its payload is in no such buffer, or has another length of head before it, or the buffer
    /// is lent already.
    pub(super) fn lend(&self, frame: &[&[u8]]) -> Option<(u32, u16)> {
        let (payload, heads) = frame.split_last()?;
        let base = self.region.at(self.at) as usize;
        let offset = (payload.as_ptr() as usize).checked_sub(base)?;
        let (buffer, within) = (offset / self.len, offset % self.len);
        let uses = self.uses.get(buffer)?;
        let (within, len) = (u16::try_from(within).ok()?, u16::try_from(within + payload.len()).ok()?);
        let head_len: usize = heads.iter().map(|piece| piece.len()).sum();
        if payload.is_empty() || head_len != usize::from(within) || usize::from(len) > self.len {
            return None;
        }
        let kept = KEPT | u32::from(within) << PAYLOAD_SHIFT;
        // Somebody holds the payload, so the buffer stays kept meanwhile; and it is lent once at a time.
        uses.compare_exchange(kept, kept | LENT, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let mut at = self.start(buffer as u32);
        for piece in heads {
            // SAFETY: the pieces end where the payload begins, so this is within the buffer. Of a buffer that is kept nobody reads
            // what is before the payload, and the slot it is lent to is the only one: no reference to these bytes exists.
            unsafe { self.region.at(at).copy_from_nonoverlapping(piece.as_ptr(), piece.len()) };
            at += piece.len();
        }
        Some((buffer as u32, len))
    }

    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        // SAFETY: the range is a payload's in a buffer that is kept, as its loan shows: it is within the region, and nobody writes
        // there.
        unsafe { std::slice::from_raw_parts(self.region.at(range.start), range.len()) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let Some(port) = self.ports.get_mut().first().copied() else { return };
        let mut next = 0;
        for buffer in std::mem::take(self.spare.get_mut()) {
            // SAFETY: nobody uses spare buffers; they are within the region.
            unsafe { self.next_in_list(buffer).write_unaligned(next) };
            next = buffer;
        }
        // SAFETY: the port's header lies within the region, aligned.
        unsafe { self.list_head(port).write_volatile(next) };
    }
}

/// A payload in a buffer that is kept.
struct Loan {
    lender: u16,
    buffer: u32,
    /// Where it is in the region.
    range: Range<usize>,
}

/// Payloads that stay in the buffers they came in. Their buffers go back when this is cleared or dropped.
#[derive(Default)]
pub(crate) struct Loans {
    lenders: Vec<Arc<Buffers>>,
    loans: Vec<Loan>,
}

impl Loans {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.loans.len()
    }

    /// A payload.
    pub(crate) fn bytes(&self, at: usize) -> &[u8] {
        let loan = &self.loans[at];
        self.lenders[usize::from(loan.lender)].bytes(&loan.range)
    }

    /// Adds one, whose buffer is kept.
    pub(super) fn add(&mut self, from: &Arc<Buffers>, buffer: u32, range: Range<usize>) {
        let lender = self.lenders.iter().position(|lender| Arc::ptr_eq(lender, from)).unwrap_or_else(|| {
            self.lenders.push(from.clone());
            self.lenders.len() - 1
        });
        self.loans.push(Loan { lender: lender as u16, buffer, range });
    }

    /// Lets all go.
    pub(crate) fn clear(&mut self) {
        for (at, lender) in self.lenders.drain(..).enumerate() {
            lender.let_go(
                self.loans.iter().filter(|loan| usize::from(loan.lender) == at).map(|loan| loan.buffer),
            );
        }
        self.loans.clear();
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
#[path = "buffers_tests.rs"]
mod tests;
