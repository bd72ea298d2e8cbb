//! Memory that is shared with the kernel.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory that stays where it is for as long as this lives.
pub(super) struct Region {
    base: NonNull<u8>,
    len: usize,
    /// Whether it is mapped; otherwise it is a box of whole words.
    is_mapped: bool,
}

// SAFETY: it is an address and a length; whoever reads or writes there has to see to the order of accesses.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps what a descriptor has at an offset.
    pub(super) fn map(fd: BorrowedFd<'_>, len: usize, offset: u64) -> io::Result<Self> {
        Self::mapped(len, libc::MAP_SHARED, fd.as_raw_fd(), offset)
    }

    /// Memory of this process's own that begins at a page.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::mapped(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn mapped(len: usize, flags: libc::c_int, fd: libc::c_int, offset: u64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the system chooses where; nothing of ours is there.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        match NonNull::new(base.cast::<u8>()).filter(|_| base != libc::MAP_FAILED) {
            Some(base) => Ok(Self { base, len, is_mapped: true }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// Ordinary memory, in which rings can be laid out.
    pub(super) fn of_memory(len: usize) -> Self {
        let words = Box::into_raw(vec![0u64; len.div_ceil(8)].into_boxed_slice());
        let base = NonNull::new(words.cast::<u8>()).expect("a box is somewhere");
        Self { base, len, is_mapped: false }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of an offset within the region.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.len);
        // SAFETY: the offset is within the region, as those who compute it have checked, or at its end.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Both halves of it, each to be used by itself.
    pub(super) fn halves(self) -> [Part; 2] {
        let region = Arc::new(self);
        let half = region.len / 2;
        [0, half].map(|start| Part { region: region.clone(), start, len: half })
    }
}

/// A part of a region that nobody else in this process uses.
pub(super) struct Part {
    region: Arc<Region>,
    start: usize,
    len: usize,
}

impl Part {
    /// Where it begins in the region.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of it; none if they are not within it.
    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        if range.start > range.end || range.end > self.len {
            return &[];
        }
        // SAFETY: the bytes are within the region; nobody else in this process uses this part, and the kernel leaves frames alone
        // that are this side's.
        unsafe { std::slice::from_raw_parts(self.region.at(self.start + range.start), range.len()) }
    }

    /// The same, to be changed.
    pub(super) fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        if range.start > range.end || range.end > self.len {
            return &mut [];
        }
        // SAFETY: as above; this borrows the part for as long.
        unsafe { std::slice::from_raw_parts_mut(self.region.at(self.start + range.start), range.len()) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: it was mapped with this length, and nobody refers to it any more.
            let unmapped = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
            debug_assert_eq!(unmapped, 0);
            return;
        }
        let words =
            std::ptr::slice_from_raw_parts_mut(self.base.as_ptr().cast::<u64>(), self.len.div_ceil(8));
        // SAFETY: it came from a box of so many words.
        drop(unsafe { Box::from_raw(words) });
    }
}
