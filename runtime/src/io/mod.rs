//! Packet I/O on live interfaces.
//!
//! An interface has two ends, [`Receive`] and [`Transmit`], that share nothing, so that the root reads one and the egress
//! writes the other, on whatever threads they are. Frames are whole Ethernet frames as a wire would carry them: checksums
//! are complete, no frame is longer than the sender's segments, VLAN tags are in their place, whatever the system's
//! offloads made of them ([`offload`]).
//!
//! Nothing blocks. Frames that nobody takes wait in the system's buffer; what finds no room there is counted by the system
//! ([`RxCounters::overruns`]). This is the chain's ingest, the only place at which overload drops packets.
//!
//! Memory: per receiver [`BATCH_MAX`] frames and their segments, per transmitter [`BATCH_MAX`] frames.

pub mod af_packet;
pub mod af_xdp;
mod interface;
pub mod netmap;
pub mod offload;
mod region;
mod socket;
pub mod tap;

use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;

use interface::Held;
pub use interface::{Interface, Mac};

/// Most frames taken from, or given to, the system at once.
pub const BATCH_MAX: usize = 64;

/// What a receiver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxCounters {
    /// Frames handed over, segments of longer ones each by itself.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that found no room in the system's buffer: this side's drops at ingest.
    pub overruns: u64,
    /// Frames that came longer than a wire carries and were cut into segments.
    pub segmented: u64,
    /// Frames whose checksum was completed.
    pub checksums: u64,
    /// Frames that could not be made what a wire would carry, and were dropped.
    pub malformed: u64,
    /// How often the interface went down.
    pub downs: u64,
    /// Frames that stay in the buffers they came in, instead of being copied.
    pub zero_copy: u64,
}

/// What a transmitter counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxCounters {
    /// Frames sent.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames the interface had no room for.
    pub overruns: u64,
    /// Frames longer than the interface takes.
    pub too_long: u64,
    /// Frames that came while the interface was down, or that the system refused.
    pub refused: u64,
    /// Frames sent from the buffers they came in.
    pub zero_copy: u64,
}

impl TxCounters {
    /// Frames that were not sent.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.overruns + self.too_long + self.refused
    }
}

/// A frame of whoever received it, to be copied or kept.
pub enum Frame<'a> {
    /// Bytes that are gone when the next are asked for.
    Bytes(&'a [u8]),
    /// A frame in a ring of netmap's.
    InRing(netmap::InRing<'a>),
}

impl<'a, B: AsRef<[u8]> + ?Sized> From<&'a B> for Frame<'a> {
    #[inline(always)]
    fn from(bytes: &'a B) -> Self {
        Frame::Bytes(bytes.as_ref())
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Frame::Bytes(bytes) => bytes,
            Frame::InRing(frame) => frame,
        }
    }
}

/// The receiving end of an interface.
pub trait Receive: Send {
    /// Takes frames that have arrived, up to `max`; 0: none wait. Those taken before are forgotten.
    ///
    /// # Errors
    /// If the interface cannot be read any more.
    fn fill(&mut self, max: usize) -> io::Result<usize>;

    /// Frame `at` of those taken.
    fn frame(&self, at: usize) -> &[u8];

    /// The same, for whoever may keep it; then there is nothing in it afterwards.
    fn hand_over(&mut self, at: usize) -> Frame<'_> {
        self.frame(at).into()
    }

    /// One of them is readable when frames may have arrived since [`fill`](Self::fill) said that none wait.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    fn readiness(&self) -> io::Result<Vec<OwnedFd>>;

    /// Accepts no further frame; those accepted can still be taken.
    ///
    /// # Errors
    /// If the system refuses.
    fn shut(&mut self) -> io::Result<()>;

    /// Has another look at an interface that was down or gone.
    fn revive(&mut self);

    /// What was counted.
    fn counters(&mut self) -> RxCounters;
}

/// The sending end of an interface.
pub trait Transmit: Send {
    /// Adds a frame, given in pieces, to what is sent next. Its order is kept.
    fn send(&mut self, frame: &[&[u8]]);

    /// Sends what was added. What cannot be sent is counted.
    fn flush(&mut self);

    /// What was counted.
    fn counters(&self) -> TxCounters;

    /// Has another look at an interface that was down or gone.
    fn revive(&mut self);
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none of this name.
    #[error("interface {name}: there is none of this name; there are {available}")]
    NoInterface {
        /// The name.
        name: String,
        /// Those there are.
        available: String,
    },
    /// It is no Ethernet.
    #[error(
        "interface {name}: it carries no Ethernet frames; give an Ethernet, veth, bridge or TAP interface"
    )]
    NotEthernet {
        /// The name.
        name: String,
    },
    /// Its sender leaves frames to the hardware to complete, and nothing there does.
    #[error(
        "interface {name}: the machine leaves checksums and tags to the hardware of {interface}, and netmap drops such \
         frames; switch that off: ethtool -K {interface} tx off txvlan off"
    )]
    Unfinished {
        /// The name.
        name: String,
        /// The interface it is of.
        interface: String,
    },
    /// The process may not.
    #[error(
        "interface {name}: {what} is not permitted; run as root, or give the binary cap_net_raw and cap_net_admin \
         (setcap cap_net_raw,cap_net_admin=ep CHC)"
    )]
    NotPermitted {
        /// The name.
        name: String,
        /// What was asked of the system.
        what: &'static str,
    },
    /// The system refused for another reason.
    #[error("interface {name}: {what}: {source}")]
    Refused {
        /// The name.
        name: String,
        /// What was asked of the system.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    fn of(name: &str, what: &'static str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { name, what },
            _ => Self::Refused { name, what, source },
        }
    }
}

/// Calls `ready` on this arbiter each time a descriptor becomes readable, until it says `false`.
///
/// # Errors
/// If the system has no room for another descriptor.
pub fn on_readable(fd: OwnedFd, mut ready: impl FnMut() -> bool + 'static) -> io::Result<()> {
    let watched = socket::watch(fd)?;
    actix_rt::spawn(async move {
        while let Ok(mut guard) = watched.readable().await {
            // What comes from here on makes it ready again; nothing does once it is closed, which it stays.
            let is_closed = guard.ready().is_read_closed();
            guard.clear_ready();
            if !ready() || is_closed {
                return;
            }
        }
    });
    Ok(())
}
