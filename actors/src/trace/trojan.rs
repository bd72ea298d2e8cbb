//! Hosts that behave as the Trojan detector looks for: SSH from a controller, then an HTML, a ZIP and an EXE file
//! by FTP, then IRC.
//!
//! Each host plays its whole script, a list of segments of some connections, one at a time between packets of the
//! other traffic: begin and end are given in packets of the capture, and the segments spread evenly over them. All
//! addresses are the script's own: hosts in 172.16.99.0/24 and up, servers in 192.0.2.0/24.

use super::frame::{self, ACK, FIN, PSH, Packet, SYN, Transport};
use super::rng::mix;
use chc_api::identity::Endpoint;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

/// Most hosts.
pub const TROJANS_MAX: u64 = 10_000;

/// A connection of a script.
struct Session {
    client: Endpoint,
    server: Endpoint,
    /// Next sequence numbers of client and server.
    seq: [u32; 2],
}

/// A segment that will be sent.
struct Said {
    packet: Packet,
    text: Vec<u8>,
}

/// The scripts of all hosts, each at its place in the capture.
pub(super) struct Trojans {
    hosts: u64,
    packets: u64,
    seed: u64,
    begun: u64,
    /// What the host at hand still has to say, and at which packets of the capture.
    script: VecDeque<(u64, Said)>,
}

impl Trojans {
    /// So many hosts over a capture of so many packets.
    pub(super) fn new(hosts: u64, packets: u64, seed: u64) -> Self {
        let mut trojans = Self { hosts, packets, seed, begun: 0, script: VecDeque::new() };
        trojans.begin_next();
        trojans
    }

    /// Packets a host sends and receives in its script.
    pub(super) fn packets_each() -> u64 {
        script(0, 0).len() as u64
    }

    fn begin_next(&mut self) {
        if self.begun == self.hosts {
            return;
        }
        // The last host is done well before the capture ends.
        let share = self.packets * 19 / 20 / self.hosts;
        let (begin, all) = (self.begun * share, script(self.begun, self.seed));
        let step = share as f64 / (all.len() + 1) as f64;
        let at = |place: usize| begin + ((place + 1) as f64 * step) as u64;
        self.script = all.into_iter().enumerate().map(|(place, said)| (at(place), said)).collect();
        self.begun += 1;
    }

    /// Writes the next segment if it is its turn at packet `number` of the capture.
    pub(super) fn next(&mut self, number: u64, frame: &mut Vec<u8>) -> bool {
        let Some((_, said)) = self.script.front().filter(|(at, _)| *at <= number) else { return false };
        frame::write_text(frame, &said.packet, &said.text);
        self.script.pop_front();
        if self.script.is_empty() {
            self.begin_next();
        }
        true
    }
}

/// Everything one host and its peers say.
fn script(host: u64, seed: u64) -> Vec<Said> {
    let nonce = mix(seed ^ 0x7472_6f6a_616e ^ host);
    let number = host as u32 + 1;
    let address = Ipv4Addr::from_bits(0xac10_6300 + number);
    let server = |last: u8| Ipv4Addr::new(192, 0, 2, last);
    let port = |offset: u64| 40_000 + (((nonce >> 8) ^ (offset * 977)) % 20_000) as u16;
    let mut all = Script { said: Vec::new(), nonce };

    let mut ssh = all.open((address, port(1)), (server(22), 22));
    all.say(&mut ssh, 1, "SSH-2.0-OpenSSH_8.9\r\n");
    all.say(&mut ssh, 0, "SSH-2.0-libssh_0.10\r\n");
    all.close(ssh);

    let mut ftp = all.open((address, port(2)), (server(21), 21));
    all.say(&mut ftp, 1, "220 service ready\r\n");
    for (command, reply) in [
        ("USER anonymous", "331 password, please"),
        ("PASS guest", "230 logged in"),
        ("TYPE I", "200 binary"),
    ] {
        all.say(&mut ftp, 0, &format!("{command}\r\n"));
        all.say(&mut ftp, 1, &format!("{reply}\r\n"));
    }
    // In an order of the host's own.
    let mut files = ["index.html", "tools.zip", "setup.exe"];
    files.rotate_left((nonce % 3) as usize);
    for (at, file) in files.into_iter().enumerate() {
        let data_port = port(3 + at as u64);
        let [a, b, c, d] = address.octets();
        all.say(&mut ftp, 0, &format!("PORT {a},{b},{c},{d},{},{}\r\n", data_port >> 8, data_port & 0xff));
        all.say(&mut ftp, 1, "200 PORT command successful\r\n");
        all.say(&mut ftp, 0, &format!("RETR {file}\r\n"));
        let mut data = all.open((server(21), 20), (address, data_port));
        all.say(&mut ftp, 1, "150 opening data connection\r\n");
        for part in 0..4 {
            all.say(&mut data, 0, &format!("{file} part {part} ").repeat(40));
        }
        all.close(data);
        all.say(&mut ftp, 1, "226 transfer complete\r\n");
    }
    all.say(&mut ftp, 0, "QUIT\r\n");
    all.say(&mut ftp, 1, "221 goodbye\r\n");
    all.close(ftp);

    let mut irc = all.open((address, port(9)), (server(67), 6_667));
    all.say(&mut irc, 0, &format!("NICK bot{number}\r\nUSER bot{number} 0 * :bot\r\n"));
    all.say(&mut irc, 1, &format!(":irc.example 001 bot{number} :welcome\r\n"));
    all.say(&mut irc, 0, "JOIN #control\r\n");
    all.say(&mut irc, 0, "PRIVMSG #control :ready\r\n");
    all.close(irc);
    all.said
}

struct Script {
    said: Vec<Said>,
    nonce: u64,
}

impl Script {
    fn open(&mut self, client: (Ipv4Addr, u16), server: (Ipv4Addr, u16)) -> Session {
        let end = |(addr, port): (Ipv4Addr, u16)| Endpoint { addr: IpAddr::V4(addr), port };
        let isn = mix(self.nonce ^ self.said.len() as u64);
        let mut session =
            Session { client: end(client), server: end(server), seq: [isn as u32, (isn >> 32) as u32] };
        self.send(&mut session, 0, SYN, "");
        self.send(&mut session, 1, SYN | ACK, "");
        self.send(&mut session, 0, ACK, "");
        session
    }

    fn say(&mut self, session: &mut Session, side: usize, text: &str) {
        self.send(session, side, PSH | ACK, text);
    }

    fn close(&mut self, mut session: Session) {
        self.send(&mut session, 0, FIN | ACK, "");
        self.send(&mut session, 1, FIN | ACK, "");
        self.send(&mut session, 0, ACK, "");
    }

    /// One segment from the client (0) or the server (1).
    fn send(&mut self, session: &mut Session, side: usize, flags: u8, text: &str) {
        let (src, dst) =
            if side == 0 { (session.client, session.server) } else { (session.server, session.client) };
        let acked = if flags & ACK == 0 { 0 } else { session.seq[1 - side] };
        let transport = Transport::Tcp { seq: session.seq[side], ack: acked, flags };
        let nonce = self.nonce.wrapping_add(self.said.len() as u64);
        let packet = Packet { src, dst, transport, payload_len: text.len(), nonce, vlan: None };
        self.said.push(Said { packet, text: text.as_bytes().to_vec() });
        let length = text.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        session.seq[side] = session.seq[side].wrapping_add(length);
    }
}
