//! A link between two processes: whole messages over a stream of bytes.
//!
//! A frame is its length, four bytes little-endian, then the message. Nothing blocks: what the peer has not taken yet waits
//! here, and what has come of a message waits until the rest is there. Memory: what was sent and not taken yet, and one
//! message of at most [`FRAME_LEN_MAX`] bytes on the way in.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Longest message, in bytes. A peer that announces a longer one is cut off.
pub const FRAME_LEN_MAX: usize = 16 << 20;
const PREFIX: usize = 4;
/// Bytes asked of the system at once.
const READ: usize = 64 << 10;

/// One end of a link.
pub struct Link {
    stream: TcpStream,
    /// What the system fills; kept for its memory.
    chunk: Box<[u8]>,
    /// What has come, from `taken` on not yet handed over.
    incoming: Vec<u8>,
    taken: usize,
    /// What is to be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
}

impl Link {
    /// Connects to a peer.
    ///
    /// # Errors
    /// If there is none.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(to)?)
    }

    /// Waits for a peer.
    ///
    /// # Errors
    /// What the system says.
    pub fn accept(listener: &TcpListener) -> io::Result<Self> {
        Self::over(listener.accept()?.0)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let chunk = vec![0; READ].into_boxed_slice();
        Ok(Self { stream, chunk, incoming: Vec::new(), taken: 0, outgoing: Vec::new(), sent: 0 })
    }

    /// Adds a message to what [`Self::flush`] and [`Self::receive`] send, so that several go out at once.
    ///
    /// # Errors
    /// If the message is too long.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if message.len() > FRAME_LEN_MAX {
            let what = format!("a message of {} bytes is over {FRAME_LEN_MAX}", message.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        self.outgoing.extend_from_slice(&(message.len() as u32).to_le_bytes());
        self.outgoing.extend_from_slice(message);
        Ok(())
    }

    /// Sends what waits, as far as the peer takes it; whether that is all.
    ///
    /// # Errors
    /// If the peer is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Sends what waits, then hands over the messages that are there. Returns how many there were.
    ///
    /// # Errors
    /// If the peer is gone ([`ErrorKind::UnexpectedEof`]) or announces a message that is too long; what came before was
    /// handed over.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        self.flush()?;
        let mut count = 0;
        loop {
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.incoming.extend_from_slice(&self.chunk[..read]);
                    count += self.hand_over(&mut take)?;
                    if read < READ && count > 0 {
                        return Ok(count);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes whole messages from what has come.
    fn hand_over(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let mut count = 0;
        while let Some(prefix) = self.incoming[self.taken..].first_chunk::<PREFIX>() {
            let len = u32::from_le_bytes(*prefix) as usize;
            if len > FRAME_LEN_MAX {
                let what = format!("the peer announces {len} bytes, over {FRAME_LEN_MAX}");
                return Err(io::Error::new(ErrorKind::InvalidData, what));
            }
            let begin = self.taken + PREFIX;
            let Some(message) = self.incoming.get(begin..begin + len) else { break };
            take(message);
            count += 1;
            self.taken = begin + len;
        }
        if self.taken == self.incoming.len() {
            self.incoming.clear();
        } else {
            self.incoming.drain(..self.taken);
        }
        self.taken = 0;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Link, Link) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let one = std::thread::scope(|scope| {
            let one = scope.spawn(|| Link::connect(address).unwrap());
            (Link::accept(&listener).unwrap(), one.join().unwrap())
        });
        (one.1, one.0)
    }

    /// What comes until there are so many messages.
    fn take(link: &mut Link, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            link.receive(|message| all.push(message.to_vec())).unwrap();
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn messages_come_whole_and_in_order(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..60),
        ) {
            let (mut here, mut there) = pair();
            messages.iter().for_each(|message| here.send(message).unwrap());
            here.flush().unwrap();
            prop_assert_eq!(take(&mut there, messages.len()), messages);
        }
    }

    #[test]
    fn more_than_the_system_buffers_waits_here() {
        let (mut here, mut there) = pair();
        let long = vec![7; 1 << 20];
        (0..40).for_each(|_| here.send(&long).unwrap());
        assert!(!here.flush().unwrap(), "nobody has read");
        let mut count = 0;
        while count < 40 {
            count += there.receive(|message| assert_eq!(message.len(), long.len())).unwrap();
            here.flush().unwrap();
        }
        assert!(here.flush().unwrap());
    }

    #[test]
    fn a_peer_that_is_gone_or_announces_too_much_is_an_error() {
        let (here, mut there) = pair();
        drop(here);
        let gone = std::iter::repeat_with(|| there.receive(|_| ())).find_map(Result::err).unwrap();
        assert!(matches!(gone.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{gone}");

        let (mut here, mut there) = pair();
        here.outgoing.extend(u32::MAX.to_le_bytes());
        here.flush().unwrap();
        let error = std::iter::repeat_with(|| there.receive(|_| ())).find_map(Result::err).unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(here.send(&vec![0; FRAME_LEN_MAX + 1]).is_err());
    }
}
