//! AF_XDP: a program in the kernel hands the frames of an interface over before its stack sees them, into memory that is shared
//! with this process; where the driver can, without a copy.
//!
//! Each receiving queue has a socket of its own; what is sent goes by that of the first, so that its order is kept. A socket's
//! memory is halved: what the kernel fills, and what is sent; so the two ends share nothing but the socket.
//!
//! The kernel says nothing of a frame but its bytes. One that never saw a wire (from a veth pair) may have nothing but the sum of
//! its pseudo-header where its checksum belongs, and is completed: a checksum that is right stays as it is. A frame that is longer
//! than [`FRAME_LEN`] less the kernel's headroom cannot come: the interface's MTU is refused when it is opened.

mod ring;
mod system;

use super::offload::complete_unfinished;
use super::region::{Part, Region};
use super::{Held, Interface, OpenError, Receive, RxCounters, Transmit, TxCounters};
use ring::Ring;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use system::{Program, Socket};

/// Room for a frame.
const FRAME_LEN: usize = 4096;
/// What the kernel keeps in front of a frame.
const HEADROOM: usize = 256;
/// Frames of a socket in each direction, and entries of each of its rings.
const FRAMES: u32 = 2048;
/// How often the kernel is told to send before it is left for later: it sends 32 frames at a time, so the whole ring.
const SEND_TRIES: u32 = 2 * FRAMES / 32;
/// Ethernet header and two tags, in front of what an MTU says.
const LINK_LEN: usize = 22;

/// How long the system may take to let go of a queue, and how often it is asked again.
const RELEASE_MAX: Duration = Duration::from_secs(1);
const RELEASE_STEP: Duration = Duration::from_millis(2);

/// Which ways of handing frames over are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Without a copy, or the interface is refused.
    Never,
    /// With one where the driver cannot do without.
    IfNeeded,
}

/// Opens an interface: both ends, and whether frames are copied on their way.
///
/// # Errors
/// If the interface's frames are too long, or the system refuses.
pub fn open(interface: &Interface, copies: Copies) -> Result<(Receiver, Transmitter, bool), OpenError> {
    let failed = |what| move |error| OpenError::of(&interface.name, what, error);
    let longest = FRAME_LEN - HEADROOM - LINK_LEN;
    if interface.mtu as usize > longest {
        let error = io::Error::other(format!(
            "its MTU is {}, AF_XDP takes {longest}; lower it (ip link set {} mtu {longest}), or use af_packet",
            interface.mtu, interface.name
        ));
        return Err(OpenError::of(&interface.name, "AF_XDP", error));
    }
    let count = queues(&interface.name);
    // Sockets first: where the driver refuses them, the interface is left as it is.
    let (first, sending, mut is_copied) = open_queue(interface, 0, copies)?;
    let mut receiving = vec![first];
    for number in 1..count {
        let (queue, _, copied) = open_queue(interface, number, copies)?;
        receiving.push(queue);
        is_copied |= copied;
    }
    let attached = Program::attach(interface.index, count);
    let program = Arc::new(attached.map_err(failed("attaching an XDP program (cap_bpf)"))?);
    for (queue, number) in receiving.iter().zip(0..) {
        let directed = program.direct(number, Some(&queue.socket.0));
        directed.map_err(failed("handing frames to an AF_XDP socket"))?;
    }
    let receiver = Receiver {
        program: program.clone(),
        queues: receiving,
        frames: Vec::new(),
        next: 0,
        left: None,
        held: Held::new(&interface.name, interface.index)?,
        counters: RxCounters::default(),
    };
    let transmitter = Transmitter {
        _program: program,
        queue: sending,
        free: (0..FRAMES as usize).map(|frame| frame * FRAME_LEN).collect(),
        name: interface.name.clone(),
        counters: TxCounters::default(),
    };
    Ok((receiver, transmitter, is_copied))
}

/// Opens a queue: both halves, and whether its frames are copied.
fn open_queue(
    interface: &Interface,
    number: u32,
    copies: Copies,
) -> Result<(ReceivingQueue, SendingQueue, bool), OpenError> {
    let failed = |what| move |error| OpenError::of(&interface.name, what, error);
    let memory = Region::anonymous(2 * FRAMES as usize * FRAME_LEN).map_err(failed("reserving memory"))?;
    let (socket, rings) =
        Socket::new(&memory, FRAME_LEN, FRAMES).map_err(failed("opening an AF_XDP socket"))?;
    let opened = || -> io::Result<_> {
        let receive = (Ring::open(rings.receive, FRAMES, false)?, Ring::open(rings.fill, FRAMES, true)?);
        let send = (Ring::open(rings.transmit, FRAMES, true)?, Ring::open(rings.complete, FRAMES, false)?);
        Ok((receive, send))
    };
    let ((filled, mut empty), (to_send, sent)) = opened().map_err(failed("mapping its rings"))?;
    // The ring has room for all frames of the half.
    for frame in 0..u64::from(FRAMES) {
        empty.put(frame * FRAME_LEN as u64);
    }
    empty.tell();
    let bind = |how| when_free(|| socket.bind(interface.index, number, how));
    let is_copied = match bind(libc::XDP_ZEROCOPY) {
        Ok(()) => false,
        Err(error) if copies == Copies::Never => return Err(failed("AF_XDP without copies")(error)),
        Err(error) => {
            let bound = if is_busy(&error) { Err(error) } else { bind(libc::XDP_COPY) };
            bound.map_err(failed("binding an AF_XDP socket"))?;
            true
        }
    };
    let (socket, [to_fill, to_write]) = (Arc::new(socket), memory.halves());
    let receiving = ReceivingQueue { socket: socket.clone(), memory: to_fill, filled, empty };
    Ok((receiving, SendingQueue { socket, memory: to_write, to_send, sent }, is_copied))
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// Binds to a queue. The system lets go of one a moment after its socket was closed: a chain that is started again must not fail
/// for that.
fn when_free(bind: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let end = Instant::now() + RELEASE_MAX;
    loop {
        match bind() {
            Err(error) if is_busy(&error) && Instant::now() < end => std::thread::sleep(RELEASE_STEP),
            bound => return bound,
        }
    }
}

/// Whether the system has AF_XDP.
///
/// # Errors
/// Why not.
pub fn is_there() -> io::Result<()> {
    system::unbound().map(drop)
}

/// How many receiving queues an interface has.
fn queues(name: &str) -> u32 {
    let entries = fs::read_dir(format!("/sys/class/net/{name}/queues")).into_iter().flatten().flatten();
    let receiving = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"));
    (receiving.count() as u32).max(1)
}

/// The receiving half of a queue.
struct ReceivingQueue {
    socket: Arc<Socket>,
    memory: Part,
    filled: Ring<libc::xdp_desc>,
    empty: Ring<u64>,
}

impl ReceivingQueue {
    /// Takes the next frame: where it is in the memory. `Some(Err)`: what the kernel says is no frame of this half.
    fn take(&mut self) -> Option<Result<Range<usize>, ()>> {
        let entry = self.filled.take()?;
        let half = self.memory.len();
        let start = usize::try_from(entry.addr).unwrap_or(usize::MAX);
        let end = start.saturating_add(entry.len as usize);
        let is_frame = start < half && end <= (start / FRAME_LEN + 1) * FRAME_LEN;
        let is_whole = entry.options & libc::XDP_PKT_CONTD == 0;
        if is_frame && is_whole && end > start {
            return Some(Ok(start..end));
        }
        if start < half {
            self.give(start);
        }
        Some(Err(()))
    }

    /// Gives a frame's room back.
    fn give(&mut self, start: usize) {
        // As many entries as there is room for frames: it always fits.
        self.empty.put((start / FRAME_LEN * FRAME_LEN) as u64);
    }
}

/// The receiving end.
pub struct Receiver {
    program: Arc<Program>,
    queues: Vec<ReceivingQueue>,
    /// Frames that were taken: by which queue, and where.
    frames: Vec<(usize, Range<usize>)>,
    /// The queue that is asked first next time.
    next: usize,
    /// Frames that may still be taken, once it was shut: as many as there can be.
    left: Option<usize>,
    held: Held,
    counters: RxCounters,
}

impl Receive for Receiver {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        self.held.check()?;
        for (queue, range) in self.frames.drain(..) {
            self.queues[queue].give(range.start);
        }
        for queue in &mut self.queues {
            queue.empty.tell();
            if queue.empty.needs_wakeup() {
                queue.socket.wake();
            }
        }
        let (count, max) = (self.queues.len(), self.left.map_or(max, |left| left.min(max)));
        for at in (0..count).map(|at| (self.next + at) % count) {
            while self.frames.len() < max {
                match self.queues[at].take() {
                    None => break,
                    Some(Err(())) => self.counters.malformed += 1,
                    Some(Ok(range)) => {
                        let frame = self.queues[at].memory.bytes_mut(&range);
                        self.counters.checksums += u64::from(complete_unfinished(frame));
                        self.counters.packets += 1;
                        self.counters.bytes += range.len() as u64;
                        self.frames.push((at, range));
                    }
                }
            }
            self.queues[at].filled.tell();
        }
        self.next = (self.next + 1) % count;
        self.left = self.left.map(|left| left - self.frames.len());
        Ok(self.frames.len())
    }

    fn frame(&self, at: usize) -> &[u8] {
        let (queue, range) = &self.frames[at];
        self.queues[*queue].memory.bytes(range)
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        self.queues.iter().map(|queue| queue.socket.0.try_clone()).collect()
    }

    fn shut(&mut self) -> io::Result<()> {
        // A kernel before 5.19 may refuse what follows to a process that has given up its privileges.
        self.left.get_or_insert(self.queues.len() * FRAMES as usize);
        (0..self.queues.len() as u32).try_for_each(|queue| self.program.direct(queue, None))
    }

    fn revive(&mut self) {
        // A socket does not tell.
        self.held.look();
    }

    fn counters(&mut self) -> RxCounters {
        let of_all = self.queues.iter().filter_map(|queue| queue.socket.overruns().ok());
        self.counters.overruns = of_all.sum::<u64>().max(self.counters.overruns);
        self.counters
    }
}

/// The sending half of a queue.
struct SendingQueue {
    socket: Arc<Socket>,
    memory: Part,
    to_send: Ring<libc::xdp_desc>,
    sent: Ring<u64>,
}

/// The sending end.
pub struct Transmitter {
    _program: Arc<Program>,
    queue: SendingQueue,
    /// Where there is room for frames in the sending half.
    free: Vec<usize>,
    name: String,
    counters: TxCounters,
}

impl Transmitter {
    /// Takes back the room of what was sent.
    fn reclaim(&mut self) {
        while let Some(at) = self.queue.sent.take() {
            let at = usize::try_from(at).ok().and_then(|at| at.checked_sub(self.queue.memory.start()));
            if let Some(at) =
                at.filter(|at| *at < self.queue.memory.len() && self.free.len() < FRAMES as usize)
            {
                self.free.push(at / FRAME_LEN * FRAME_LEN);
            }
        }
        self.queue.sent.tell();
    }
}

impl Transmit for Transmitter {
    fn send(&mut self, frame: &[&[u8]]) {
        let len: usize = frame.iter().map(|piece| piece.len()).sum();
        if len > FRAME_LEN {
            self.counters.too_long += 1;
            return;
        }
        if self.free.is_empty() {
            self.flush();
        }
        let Some(at) = self.free.pop() else {
            self.counters.overruns += 1;
            return;
        };
        let mut into = self.queue.memory.bytes_mut(&(at..at + len));
        for piece in frame {
            let (here, rest) = into.split_at_mut(piece.len());
            here.copy_from_slice(piece);
            into = rest;
        }
        if self.queue.to_send.put(libc::xdp_desc {
            addr: (self.queue.memory.start() + at) as u64,
            len: len as u32,
            options: 0,
        }) {
            self.counters.packets += 1;
            self.counters.bytes += len as u64;
        } else {
            self.free.push(at);
            self.counters.overruns += 1;
        }
    }

    fn flush(&mut self) {
        self.queue.to_send.tell();
        for _ in 0..SEND_TRIES {
            if self.queue.to_send.is_done() || !self.queue.to_send.needs_wakeup() {
                break;
            }
            match self.queue.socket.send() {
                Ok(()) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {}
                // It keeps what it was given until it can.
                Err(error) => {
                    tracing::debug!("interface {}: nothing is sent: {error}", self.name);
                    break;
                }
            }
            self.reclaim();
        }
        self.reclaim();
    }

    fn counters(&self) -> TxCounters {
        self.counters
    }

    fn revive(&mut self) {}
}
