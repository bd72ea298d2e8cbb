//! The memory a netmap port is in: rings, slots and buffers, shared with the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

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
    /// Maps what a netmap descriptor has registered.
    pub(super) fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: the system chooses where; nothing of ours is there.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.as_raw_fd(), 0) };
        match NonNull::new(base.cast::<u8>()).filter(|_| base != libc::MAP_FAILED) {
            Some(base) => Ok(Self { base, len, is_mapped: true }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// Ordinary memory, in which a port can be laid out.
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
