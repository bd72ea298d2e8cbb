//! Operations on cross-flow objects.

// The derived archive has fields that nobody can document.
#![allow(missing_docs)]

use crate::state::ValueBytes;

/// An operation offloaded to the store: the paper's Table 2, get, set, and custom ones by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Op {
    /// Add to an integer (negative to decrement).
    Increment(i64),
    /// Append to a list.
    Push(u64),
    /// Take the first of a list.
    Pop,
    /// Set an integer to `new` if it is `expect`.
    CompareAndUpdate {
        /// The value it must have.
        expect: i64,
        /// The value it then gets.
        new: i64,
    },
    /// Read.
    Get,
    /// Overwrite.
    Set(ValueBytes),
    /// Take a free member of a pool; the popping position becomes its owner. If one is named: that, if it is free, else
    /// one that is even or odd like it, if there is one.
    Acquire(Option<u64>),
    /// Give a pool's member back; only its owner can.
    Release {
        /// The member.
        member: u64,
        /// The clock of the packet that acquired it.
        owner: u64,
    },
    /// Give back whatever this packet acquired of a pool: it will never be finished. The framework's own.
    Disown,
    /// The object's `n`-th custom operation.
    Custom(u8, ValueBytes),
}
