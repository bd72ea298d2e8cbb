//! Wires in memory: what an interface's two ends are to a chain, over a pair of datagram sockets. A host at the other end
//! sends and receives frames; it waits while the chain has not taken what it sent.

use chc_runtime::io::netmap::memory::{Host, card};
use chc_runtime::io::{Receive, RxCounters, Transmit, TxCounters};
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

/// Longest frame.
const FRAME_MAX: usize = 2048;

/// Both sides of a chain, inside first: its ends, and the hosts'.
pub struct Wires {
    /// What the chain receives by.
    pub receivers: [Box<dyn Receive>; 2],
    /// What it sends by.
    pub transmitters: [Box<dyn Transmit>; 2],
    /// The hosts' ends.
    pub hosts: [UnixDatagram; 2],
}

impl Wires {
    /// Sockets and nothing else.
    ///
    /// # Panics
    /// If the system gives no sockets.
    #[must_use]
    pub fn sockets() -> Self {
        let ((rx_inside, tx_inside, inside), (rx_outside, tx_outside, outside)) = (wire(), wire());
        Self {
            receivers: [rx_inside, rx_outside],
            transmitters: [tx_inside, tx_outside],
            hosts: [inside, outside],
        }
    }

    /// The same with netmap's rings on the way out: what comes in inside and what goes out outside are in one memory, with so
    /// many spare buffers.
    ///
    /// # Panics
    /// If the system gives no sockets.
    #[must_use]
    pub fn rings(spares: u32) -> Self {
        const SLOTS: u32 = 128;
        let sockets = Self::sockets();
        let pair = || UnixDatagram::pair().expect("the system gives sockets");
        let ((inside, from), (outside, to)) = (pair(), pair());
        from.set_nonblocking(true).expect("a socket can be so");
        let (receiver, transmitter) = card(SLOTS, spares, Hosts { from, to });
        let ([_, rx_outside], [tx_inside, _]) = (sockets.receivers, sockets.transmitters);
        Self {
            receivers: [Box::new(receiver), rx_outside],
            transmitters: [tx_inside, Box::new(transmitter)],
            hosts: [inside, outside],
        }
    }
}

/// The hosts at the other end of a card: one sends, the other receives.
struct Hosts {
    from: UnixDatagram,
    to: UnixDatagram,
}

impl Host for Hosts {
    fn bring(&mut self, buffer: &mut [u8]) -> usize {
        self.from.recv(buffer).unwrap_or(0)
    }

    fn take(&mut self, frame: &[u8]) {
        self.to.send(frame).expect("the host receives");
    }

    fn readiness(&self) -> io::Result<OwnedFd> {
        Ok(self.from.try_clone()?.into())
    }
}

/// A wire: the chain's two ends, and the host's.
fn wire() -> (Box<dyn Receive>, Box<dyn Transmit>, UnixDatagram) {
    let (chain, host) = UnixDatagram::pair().expect("the system gives sockets");
    let sender = chain.try_clone().expect("the system gives sockets");
    let receiver = Receiver { socket: chain, frames: Vec::new(), counters: RxCounters::default() };
    (Box::new(receiver), Box::new(Transmitter { socket: sender, counters: TxCounters::default() }), host)
}

/// An interface on which the same frame comes without end, and nothing else.
pub struct Flood {
    wire: Box<dyn Receive>,
    frame: Vec<u8>,
    is_shut: bool,
}

impl Flood {
    /// A flood of a frame; the wire says when it can be read.
    #[must_use]
    pub fn new(wire: Box<dyn Receive>, frame: Vec<u8>) -> Box<Self> {
        Box::new(Self { wire, frame, is_shut: false })
    }
}

impl Receive for Flood {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        Ok(if self.is_shut { 0 } else { max })
    }

    fn frame(&self, _at: usize) -> &[u8] {
        &self.frame
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        self.wire.readiness()
    }

    fn shut(&mut self) -> io::Result<()> {
        self.is_shut = true;
        self.wire.shut()
    }

    fn revive(&mut self) {}

    fn counters(&mut self) -> RxCounters {
        self.wire.counters()
    }
}

struct Receiver {
    socket: UnixDatagram,
    frames: Vec<Vec<u8>>,
    counters: RxCounters,
}

impl Receive for Receiver {
    fn fill(&mut self, max: usize) -> io::Result<usize> {
        self.frames.clear();
        // The mode is that of both ends: what is sent waits for its reader.
        self.socket.set_nonblocking(true)?;
        while self.frames.len() < max {
            let mut frame = vec![0; FRAME_MAX];
            match self.socket.recv(&mut frame) {
                Ok(0) => break,
                Ok(len) => {
                    frame.truncate(len);
                    self.frames.push(frame);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.socket.set_nonblocking(false)?;
        self.counters.packets += self.frames.len() as u64;
        Ok(self.frames.len())
    }

    fn frame(&self, at: usize) -> &[u8] {
        &self.frames[at]
    }

    fn readiness(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.socket.try_clone()?.into()])
    }

    fn shut(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Read)
    }

    fn revive(&mut self) {}

    fn counters(&mut self) -> RxCounters {
        self.counters
    }
}

struct Transmitter {
    socket: UnixDatagram,
    counters: TxCounters,
}

impl Transmit for Transmitter {
    fn send(&mut self, frame: &[&[u8]]) {
        match self.socket.send(&frame.concat()) {
            Ok(_) => self.counters.packets += 1,
            Err(_) => self.counters.refused += 1,
        }
    }

    fn flush(&mut self) {}

    fn counters(&self) -> TxCounters {
        self.counters
    }

    fn revive(&mut self) {}
}
