//! The bytes of a value, as they travel and are kept.

use crate::identity::hash_words;
use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Longest value of one object, in bytes.
pub const VALUE_LEN_MAX: usize = 64;

/// The bytes of one object's value; at most [`VALUE_LEN_MAX`], no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct ValueBytes {
    len: u8,
    /// Zeros behind the value.
    bytes: [u8; VALUE_LEN_MAX],
}

impl ValueBytes {
    /// A value of the given bytes; what exceeds [`VALUE_LEN_MAX`] is refused at declaration time.
    ///
    /// # Panics
    /// If `from` is longer than [`VALUE_LEN_MAX`].
    #[must_use]
    pub fn new(from: &[u8]) -> Self {
        let mut bytes = [0; VALUE_LEN_MAX];
        bytes[..from.len()].copy_from_slice(from);
        Self { len: from.len() as u8, bytes }
    }

    /// A value of the first `len` bytes; all others are zeros.
    #[inline]
    #[must_use]
    pub fn padded<const N: usize>(from: [u8; N], len: u8) -> Self {
        const { assert!(N <= VALUE_LEN_MAX) };
        let mut bytes = [0; VALUE_LEN_MAX];
        bytes[..N].copy_from_slice(&from);
        Self { len, bytes }
    }

    /// The first `N` bytes: of a shorter value, with zeros behind it.
    #[inline]
    #[must_use]
    pub fn head<const N: usize>(&self) -> &[u8; N] {
        const { assert!(N <= VALUE_LEN_MAX) };
        self.bytes.first_chunk().unwrap_or(&[0; N])
    }

    /// The value of a plain struct.
    #[must_use]
    pub fn of<T: Plain>(value: &T) -> Self {
        Self::new(value.as_bytes())
    }

    /// The value read back; `None` when the length does not fit `T`.
    #[must_use]
    pub fn read<T: Plain>(&self) -> Option<T> {
        T::read_from_bytes(self.as_slice()).ok()
    }

    /// A hash of the bytes and their number.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self) -> u64 {
        // Behind the value there are zeros.
        let words = self.bytes.as_chunks::<8>().0;
        let mut hash = u64::from(self.len);
        for block in words.chunks(4).take(usize::from(self.len).div_ceil(32)) {
            let word = |at: usize| block.get(at).map_or(0, |word| u64::from_le_bytes(*word));
            hash = hash_words(&[word(0), word(1), word(2), word(3), hash], 3);
        }
        hash
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(VALUE_LEN_MAX)]
    }
}

impl fmt::Debug for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.as_slice() {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

/// A fixed-size plain struct that may be stored: no pointers, no padding.
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + 'static {}
impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + 'static> Plain for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_however_it_was_made_and_has_zeros_behind_it() {
        let value = ValueBytes::new(&[1, 2, 3]);
        assert_eq!(value.head::<5>(), &[1, 2, 3, 0, 0]);
        let again = ValueBytes::padded(*value.head::<16>(), 3);
        assert_eq!((again, again.fingerprint()), (value, value.fingerprint()));
        let longer = ValueBytes::new(&[1, 2, 3, 0]);
        assert_ne!(longer.fingerprint(), value.fingerprint(), "the number of bytes tells them apart");
        let [a, b] =
            [40, 41].map(|at| ValueBytes::new(&std::array::from_fn::<u8, 64, _>(|n| u8::from(n == at))));
        assert_ne!(a.fingerprint(), b.fingerprint(), "all bytes count");
    }
}
