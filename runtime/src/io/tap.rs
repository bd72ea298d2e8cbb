//! TAP: an interface of the machine's own whose wire is this process. The machine's stack is the host at the other end, so a
//! chain can be tried on one machine, and stand between it and a network. The interface is made, and goes with the process.
//!
//! One system call a frame.

use super::offload::Offload;
use super::socket::{self, OFFLOAD_LEN, SLOT_LEN};
use super::{BATCH_MAX, Interface, Mac, OpenError, Receive, RxCounters, Transmit, TxCounters};
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

const ETHERNET_LEN: usize = 14;
/// Pieces of what is written at once: what is in front of a frame, its head and its tail.
const PIECES_MAX: usize = 3;
/// Frames the system may hold for a TAP interface, by default a thousand: so many are taken after it was shut.
const HELD_MAX: usize = 1024;

/// Makes an interface, or takes one that was made for this process, and switches it on: it, and both ends.
///
/// # Errors
/// If the system refuses.
pub fn open(name: &str) -> Result<(Interface, Receiver, Transmitter), OpenError> {
    let failed = |what| move |error| OpenError::of(name, what, error);
    let file = socket::tap(name).map_err(failed("making a TAP interface (/dev/net/tun)"))?;
    socket::switch_on(name).map_err(failed("switching it on"))?;
    let other = file.try_clone().map_err(failed("sharing it"))?;
    let receiver = Receiver {
        file,
        name: name.to_owned(),
        bytes: vec![0; SLOT_LEN],
        frames: Vec::new(),
        batch: Vec::new(),
        left: None,
        counters: RxCounters::default(),
    };
    let transmitter = Transmitter { file: other, name: name.to_owned(), counters: TxCounters::default() };
    Ok((Interface::find(name)?, receiver, transmitter))
}

/// Whether an interface is a TAP (or TUN) interface.
#[must_use]
pub fn is_one(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("tun_flags").exists()
}

/// The address of this end of a wire at whose other end the machine has an address.
#[must_use]
pub fn address_beside(Mac([first, middle @ .., last]): Mac) -> Mac {
    let [a, b, c, d] = middle;
    // One of those that are given locally.
    Mac([first & !1 | 2, a, b, c, d, !last])
}

/// The receiving end.
pub struct Receiver {
    file: File,
    name: String,
    /// Memory for one frame as the system has it.
    bytes: Vec<u8>,
    /// Frames of a wire made of those that were taken.
    frames: Vec<Range<usize>>,
    batch: Vec<u8>,
    /// Frames that may still be taken, once it was shut.
    left: Option<usize>,
    counters: RxCounters,
}

impl Receiver {
    /// Takes a frame, if one waits.
    fn take(&mut self) -> io::Result<bool> {
        let mut offload = [0; OFFLOAD_LEN];
        let pieces = &mut [IoSliceMut::new(&mut offload), IoSliceMut::new(&mut self.bytes)];
        let len = match (&self.file).read_vectored(pieces) {
            Ok(len) => len.saturating_sub(OFFLOAD_LEN),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.left = self.left.map(|left| left.saturating_sub(1));
        let frame = &mut self.bytes[..len];
        let offload = Offload::read(&offload, 0);
        let done = if len < ETHERNET_LEN {
            Err(())
        } else if offload.is_long() {
            self.counters.segmented += 1;
            let frames = &mut self.frames;
            offload.segment(frame, &mut self.batch, |place| frames.push(place)).map_err(drop)
        } else {
            let completed = if offload.needs_checksum {
                self.counters.checksums += 1;
                offload.complete(frame)
            } else {
                Ok(())
            };
            completed.map_err(drop).map(|()| {
                let start = self.batch.len();
                self.batch.extend_from_slice(frame);
                self.frames.push(start..self.batch.len());
            })
        };
        self.counters.malformed += u64::from(done.is_err());
        Ok(true)
    }
}

impl Receive for Receiver {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        self.frames.clear();
        self.batch.clear();
        while self.frames.len() < max.min(BATCH_MAX) && self.left != Some(0) && self.take()? {}
        self.counters.packets += self.frames.len() as u64;
        self.counters.bytes += self.batch.len() as u64;
        Ok(self.frames.len())
    }

    fn frame(&self, at: usize) -> &[u8] {
        &self.batch[self.frames[at].clone()]
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.file.try_clone()?.into()])
    }

    fn shut(&mut self) -> io::Result<()> {
        self.left.get_or_insert(HELD_MAX);
        Ok(())
    }

    fn revive(&mut self) {}

    fn counters(&mut self) -> RxCounters {
        // What the machine could not hand over it counts itself, as sent in vain.
        let path = format!("/sys/class/net/{}/statistics/tx_dropped", self.name);
        let dropped = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        self.counters.overruns = dropped.unwrap_or(0).max(self.counters.overruns);
        self.counters
    }
}

/// The sending end.
pub struct Transmitter {
    file: File,
    name: String,
    counters: TxCounters,
}

impl Transmit for Transmitter {
    fn send(&mut self, frame: &[&[u8]]) {
        let mut pieces = [IoSlice::new(&[0; OFFLOAD_LEN]); PIECES_MAX];
        let Some(room) = pieces.get_mut(1..=frame.len()) else { return self.send(&[&frame.concat()]) };
        room.iter_mut().zip(frame).for_each(|(to, from)| *to = IoSlice::new(from));
        let pieces = &pieces[..=frame.len()];
        match (&self.file).write_vectored(pieces) {
            Ok(sent) => {
                self.counters.packets += 1;
                self.counters.bytes += sent.saturating_sub(OFFLOAD_LEN) as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.counters.overruns += 1,
            Err(error) => {
                tracing::debug!("interface {}: a frame was refused: {error}", self.name);
                self.counters.refused += 1;
            }
        }
    }

    fn flush(&mut self) {}

    fn counters(&self) -> TxCounters {
        self.counters
    }

    fn revive(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_ends_address_is_a_hosts_own_and_not_the_machines() {
        for mac in [Mac([0x52, 0x54, 0, 1, 2, 3]), Mac([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]), Mac([0; 6])] {
            let beside = address_beside(mac);
            assert!(beside != mac && !beside.is_multicast() && beside.0[0] & 2 == 2, "{beside}");
        }
    }
}
