//! The image of a per-flow record: its value and its armed timers, as plain words.
//!
//! Layout: `value_words` words of value, then three words a timer: deadline, the setter's clock with
//! the at-end flag in the top bit, the setter's path with the armed flag in bit 32. A timer that is
//! not armed is all zero. Timers are part of the record and so of its versions: whoever loads the
//! record knows what is armed, and by whom.

use chc_api::state::{ArmedTimer, ObjectKind, ValueBytes};
use chc_api::{Clock, Path, Position, Time};

/// Words of one timer.
pub const TIMER_WORDS: usize = 3;
const AT_END: u64 = 1 << 63;
const ARMED: u64 = 1 << 32;

/// The shape of the records of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordShape {
    /// Bytes of the value.
    pub value_len: usize,
    /// Timers.
    pub timers: usize,
}

impl RecordShape {
    /// The shape a declaration asks for; `None` for objects that are not per-flow.
    #[must_use]
    pub fn of(kind: &ObjectKind) -> Option<Self> {
        match kind {
            ObjectKind::Flow { value_len, timers, .. } => {
                Some(Self { value_len: *value_len, timers: usize::from(*timers) })
            }
            _ => None,
        }
    }

    /// Words of the value.
    #[must_use]
    pub fn value_words(&self) -> usize {
        self.value_len.div_ceil(8)
    }

    /// Words of the whole record.
    #[must_use]
    pub fn words(&self) -> usize {
        self.value_words() + self.timers * TIMER_WORDS
    }
}

/// A record's image, copied out of a table. Most are short, and there are many at an epoch's end: each takes what it needs.
#[derive(Clone, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Record {
    words: Box<[u64]>,
}

impl Record {
    /// Copies an image.
    #[must_use]
    pub fn new(image: &[u64]) -> Self {
        Self { words: image.into() }
    }

    /// The image.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The value's bytes.
    #[must_use]
    pub fn value(&self, shape: RecordShape) -> ValueBytes {
        let mut bytes = [0; 64];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words.iter().take(shape.value_words())) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        ValueBytes::new(&bytes[..shape.value_len])
    }

    /// One of its timers.
    #[must_use]
    pub fn timer(&self, shape: RecordShape, index: usize) -> Option<ArmedTimer> {
        let fits = self.words.len() >= shape.words() && index < shape.timers;
        fits.then(|| timer_words(&self.words, shape, index)).and_then(read_timer)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x?}", self.words())
    }
}

/// The words of timer `index` within a record image.
#[must_use]
pub fn timer_words(image: &[u64], shape: RecordShape, index: usize) -> [u64; TIMER_WORDS] {
    let at = shape.value_words() + index * TIMER_WORDS;
    [image[at], image[at + 1], image[at + 2]]
}

/// Decodes a timer.
#[must_use]
pub fn read_timer(words: [u64; TIMER_WORDS]) -> Option<ArmedTimer> {
    (words[2] & ARMED != 0).then(|| ArmedTimer {
        deadline: Time(words[0]),
        setter: Position::packet(Clock(words[1] & !AT_END), Path(words[2] as u32)),
        at_end: words[1] & AT_END != 0,
    })
}

/// Encodes a timer; `None` is all zero.
#[must_use]
pub fn write_timer(timer: Option<ArmedTimer>) -> [u64; TIMER_WORDS] {
    timer.map_or([0; TIMER_WORDS], |t| {
        let at_end = if t.at_end { AT_END } else { 0 };
        [t.deadline.0, t.setter.clock.0 | at_end, u64::from(t.setter.path.0) | ARMED]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_survives_its_image() {
        for at_end in [false, true] {
            let timer =
                ArmedTimer { deadline: Time(77), setter: Position::packet(Clock(5), Path::FIRST), at_end };
            assert_eq!(read_timer(write_timer(Some(timer))), Some(timer));
        }
        assert_eq!(read_timer(write_timer(None)), None);
    }

    #[test]
    fn a_record_gives_back_value_and_timers() {
        let shape = RecordShape { value_len: 12, timers: 1 };
        let timer =
            ArmedTimer { deadline: Time(9), setter: Position::packet(Clock(1), Path::FIRST), at_end: false };
        let mut image = vec![u64::from_ne_bytes(*b"abcdefgh"), u64::from_ne_bytes(*b"ijkl\0\0\0\0")];
        image.extend(write_timer(Some(timer)));
        let record = Record::new(&image);
        assert_eq!(record.value(shape).as_slice(), b"abcdefghijkl");
        assert_eq!(record.timer(shape, 0), Some(timer));
    }
}
