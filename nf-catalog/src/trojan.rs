//! Trojan detector: finds hosts that are controlled by SSH, fetch tools by FTP and report by IRC, in that
//! order.
//!
//! **Ports.** One input, one output. Packets pass unchanged: it belongs off the path, behind a copy. Each
//! stage of a host is reported as an event, a host that completes the sequence as an alert, once.
//!
//! **Keys.** `ssh`: what an SSH connection is known by, its banner (`banner`) or port 22 answering (`port`).
//! `ftp`: when a file counts, once it was transferred (`done`) or when it is asked for (`command`). `irc`: what
//! IRC is known by, a command of the client (`command`) or its port answering (`port`). `file_order`: whether
//! the three files may come in `any` order or HTML, ZIP and EXE in that one (`strict`). `idle_s`: how long a
//! connection is remembered without a line of interest; `linger_s`: how long after a FIN or RST;
//! `host_idle_s`: how long a host of which no further stage is seen, for ever if it is not given.
//!
//! **State** (the paper's Table 4).
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `progress`: when SSH, the files and IRC were seen | source host | write/read often | clock |
//! | `connections`: who began it, what was said | 5-tuple | write rarely, read mostly | clock |
//! | `beyond_limits` | global | write mostly, read rarely | commutative |
//!
//! **Theory.** De Carli et al., "Beyond Pattern Matching: A Concurrency Model for Stateful Deep Packet
//! Inspection" (2014). The stages of a host are SSH, for both ends of the connection; the download of an HTML, a
//! ZIP and an EXE file by FTP, for whoever asked for it; and IRC, for the client. A host is infected when it
//! was seen to use SSH, after that got all three kinds of file, and after the last of these used IRC. What is
//! first is decided by position in the input: the store applies the stages of a host in that order, however
//! late a slow function upstream lets them arrive here.
//!
//! Lines are looked for in each segment alone, in its first 4,000 bytes and 60 lines. FTP is a connection to
//! port 21, or one whose other side has sent a line `220...` and this one `USER`. A file counts when the
//! server's next reply is 226 or 250; 4xx and 5xx answer a request for nothing. IRC is a client's command on a
//! connection to ports 6660-6669 or 7000, or both `NICK` and `USER` on any. A segment that is older than the last
//! one of its side with a line of interest is a retransmission. Only such lines, SYNs and closing segments touch
//! state; all other packets pass unread or after a look at their payload.

mod lines;

use crate::config::{ConfigProblem, Keys};
use chc_api::nf::PacketHint;
use chc_api::packet::{PacketKind, Parsed, TcpHeader, protocol, tcp, view};
use chc_api::state::{FlowOptions, ValueBytes};
use chc_api::{
    Consistency, Context, Counter, CustomOp, Declarations, Direction, Event, EventKind, Flow, Identity,
    NetworkFunction, ObjectKey, Op, OpValue, Passing, Scope, Shared, StateError, TimerEvent, Verdict,
};
use lines::{Line, PAYLOAD_LEN_MAX, lines, of_interest};
use serde_json::Value;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The keys of the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrojanConfig {
    /// SSH is known by port 22, not by its banner.
    pub ssh_port: bool,
    /// A file counts when it is asked for.
    pub ftp_command: bool,
    /// IRC is known by its port.
    pub irc_port: bool,
    /// HTML comes before ZIP and that before EXE.
    pub strict: bool,
    /// How long a connection is remembered.
    pub idle: Duration,
    /// How long one that closes is.
    pub linger: Duration,
    /// How long a host is, after its last stage, if not for ever.
    pub host_idle: Option<Duration>,
}

impl TrojanConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(config: &Value) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let read = Self {
            ssh_port: keys.choice("ssh", &[("banner", false), ("port", true)], false),
            ftp_command: keys.choice("ftp", &[("done", false), ("command", true)], false),
            irc_port: keys.choice("irc", &[("command", false), ("port", true)], false),
            strict: keys.choice("file_order", &[("any", false), ("strict", true)], false),
            idle: keys.seconds("idle_s", 3600.0),
            linger: keys.seconds("linger_s", 60.0),
            host_idle: keys.kept_seconds("host_idle_s"),
        };
        let problems = keys.finish();
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }
}

/// A stage of a host; an index into [`Host::seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Stage {
    Ssh = 0,
    Html = 1,
    Zip = 2,
    Exe = 3,
    Irc = 4,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Ssh => "ssh",
            Stage::Html => "html",
            Stage::Zip => "zip",
            Stage::Exe => "exe",
            Stage::Irc => "irc",
        }
    }

    /// The stage that a file of this number (0 for other kinds) is.
    fn of_file(number: u64) -> Option<Stage> {
        match number {
            1 => Some(Stage::Html),
            2 => Some(Stage::Zip),
            3 => Some(Stage::Exe),
            _ => None,
        }
    }
}

/// What is known of a host: for each stage the clock at which it was first seen in its place, plus 1; 0
/// before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Host {
    /// SSH, HTML, ZIP, EXE, IRC. With IRC the host is infected.
    pub seen: [u64; 5],
}

impl Host {
    /// Notes a stage; true if it completes the sequence.
    fn advance(&mut self, by: &Advance) -> bool {
        let stage = by.stage as usize;
        let before = match stage {
            0 => true,
            4 => self.seen[..4].iter().all(|seen| *seen > 0),
            // After SSH, and in strict order after the file before.
            file => self.seen[0] > 0 && (by.strict == 0 || self.seen[file - 1] > 0),
        };
        if !before || self.seen.get(stage).is_none_or(|seen| *seen > 0) {
            return false;
        }
        self.seen[stage] = by.clock + 1;
        stage == Stage::Irc as usize
    }
}

/// Argument of custom operation [`ADVANCE`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Advance {
    clock: u64,
    stage: u32,
    strict: u32,
}

const ADVANCE: u8 = 0;

/// The custom operation of a host. Returns whether the stage completes the sequence.
static HOST_OPS: [CustomOp; 1] = [CustomOp::new("advance", advance)];

fn advance(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut host), Some(by)) = (value.read::<Host>(), argument.read::<Advance>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    let infected = host.advance(&by);
    *value = ValueBytes::of(&host);
    OpValue::Int(i64::from(infected))
}

/// Most stages one packet can make; what is beyond is counted.
const STAGES_MAX: usize = 16;
/// Most files of a connection that are asked for and not answered; what is beyond is counted.
const PENDING_MAX: u32 = 16;

/// What was said on a connection. Arrays are by the [`Direction`] of who said it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Files asked for, oldest in the lowest bits: kind (2 bits) and who asked (1 bit).
    pub pending: u64,
    /// How many of them there are.
    pub pending_len: u32,
    /// Sequence number of its SYN.
    pub isn: u32,
    /// Where the last segment with a line of interest ended.
    pub end: [u32; 2],
    /// Bits of [`said`].
    pub said: [u8; 2],
    /// Bits of [`known`].
    pub known: u8,
    unused: [u8; 5],
}

/// What a side has said.
mod said {
    pub const GREETING: u8 = 1;
    pub const USER: u8 = 2;
    pub const NICK: u8 = 4;
    pub const IRC: u8 = 8;
    /// A segment with a line of interest, so that `end` is known.
    pub const ANYTHING: u8 = 16;
}

/// What is known of a connection.
mod known {
    /// Its SYN was seen.
    pub const SYN: u8 = 1;
    /// Who began it is known.
    pub const INITIATOR: u8 = 2;
    /// It is the high end of the key.
    pub const FROM_HIGH: u8 = 4;
    /// It is SSH.
    pub const SSH: u8 = 8;
}

impl Connection {
    fn initiator(&self) -> Option<Direction> {
        let from_high = self.known & known::FROM_HIGH != 0;
        let direction = if from_high { Direction::HighToLow } else { Direction::LowToHigh };
        (self.known & known::INITIATOR != 0).then_some(direction)
    }

    fn set_initiator(&mut self, direction: Direction) {
        self.known |= known::INITIATOR;
        self.known &= !known::FROM_HIGH;
        if direction == Direction::HighToLow {
            self.known |= known::FROM_HIGH;
        }
    }

    fn has_said(&self, side: Direction, what: u8) -> bool {
        self.said[side as usize] & what == what
    }

    /// Notes a file that was asked for; false if there are too many.
    fn ask(&mut self, side: Direction, file: u64) -> bool {
        if self.pending_len >= PENDING_MAX {
            return false;
        }
        self.pending |= (file | (side as u64) << 2) << (3 * self.pending_len);
        self.pending_len += 1;
        true
    }

    /// Who asked for the oldest file.
    fn asked(&self) -> Option<Direction> {
        let side = if self.pending & 4 == 0 { Direction::LowToHigh } else { Direction::HighToLow };
        (self.pending_len > 0).then_some(side)
    }

    /// Takes the oldest file.
    fn take(&mut self) -> u64 {
        let file = self.pending & 3;
        self.pending >>= 3;
        self.pending_len = self.pending_len.saturating_sub(1);
        file
    }
}

/// The stages one packet makes: whose (the end that `Direction` leads from), which, in which role.
#[derive(Default)]
struct Found {
    stages: [Option<(Direction, Stage, &'static str)>; STAGES_MAX],
    len: usize,
    beyond: u64,
}

impl Found {
    fn push(&mut self, host: Direction, stage: Stage, role: &'static str) {
        match self.stages.get_mut(self.len) {
            Some(place) => {
                *place = Some((host, stage, role));
                self.len += 1;
            }
            None => self.beyond += 1,
        }
    }

    fn ssh(&mut self, initiator: Direction) {
        self.push(initiator, Stage::Ssh, "initiator");
        self.push(initiator.reverse(), Stage::Ssh, "responder");
    }
}

/// The detector.
#[derive(Clone)]
pub struct Trojan {
    config: TrojanConfig,
    progress: Shared<Host>,
    connections: Flow<Connection>,
    beyond_limits: Counter,
}

/// The only timer of a connection.
const IDLE: u8 = 0;

impl Trojan {
    /// The detector and its declarations.
    #[must_use]
    pub fn new(config: &TrojanConfig, declarations: &mut Declarations) -> Self {
        let most = STAGES_MAX as u8;
        let unseen = Host::default();
        let clock = Consistency::Clock;
        let timeout_min = config.idle.min(config.linger);
        let connections =
            declarations.flow("connections", FlowOptions { timers: 1, timeout_min, index: None });
        let progress =
            declarations.shared("progress", Scope::SourceHost, clock, unseen, &HOST_OPS, (most, 0));
        if let Some(idle) = config.host_idle {
            declarations.forget_after(progress.id(), idle);
        }
        Self { config: *config, connections, progress, beyond_limits: declarations.counter("beyond_limits") }
    }

    /// A SYN or SYN+ACK: who begins, and a connection that is used again.
    fn opened(
        &self,
        identity: &Identity,
        syn_ack: bool,
        seq: u32,
        connection: &mut Connection,
        found: &mut Found,
    ) {
        if !syn_ack {
            let again = connection.known & known::SYN != 0 && connection.isn != seq;
            let spoken = (connection.said[0] | connection.said[1]) & said::ANYTHING != 0;
            if again && spoken {
                *connection = Connection::default();
            }
            connection.known |= known::SYN;
            connection.isn = seq;
            return connection.set_initiator(identity.direction);
        }
        let client = identity.direction.reverse();
        connection.set_initiator(client);
        let port = identity.source().port;
        if self.config.ssh_port && port == SSH_PORT && connection.known & known::SSH == 0 {
            connection.known |= known::SSH;
            found.ssh(client);
        }
        if self.config.irc_port && is_irc(port) {
            found.push(client, Stage::Irc, "client");
        }
    }

    /// What a segment says.
    fn heard(
        &self,
        identity: &Identity,
        seq: u32,
        payload: &[u8],
        connection: &mut Connection,
        found: &mut Found,
    ) {
        let side = identity.direction;
        let at = side as usize;
        let old = connection.has_said(side, said::ANYTHING) && seq.wrapping_sub(connection.end[at]) > 1 << 31;
        if old {
            return;
        }
        connection.said[at] |= said::ANYTHING;
        connection.end[at] = seq.wrapping_add(payload.len() as u32);
        if !self.config.ssh_port && payload.starts_with(b"SSH-") && connection.known & known::SSH == 0 {
            connection.known |= known::SSH;
            let from_server = identity.source().port == SSH_PORT;
            let guess = if from_server { side.reverse() } else { side };
            found.ssh(connection.initiator().unwrap_or(guess));
        }
        for line in lines(payload) {
            self.line(identity, line, connection, found);
        }
    }

    fn line(&self, identity: &Identity, line: &[u8], connection: &mut Connection, found: &mut Found) {
        let (side, other) = (identity.direction, identity.direction.reverse());
        let to_port = identity.destination().port;
        let line = Line::of(line);
        match line {
            Line::Reply(220) | Line::Greeting => connection.said[side as usize] |= said::GREETING,
            Line::User => connection.said[side as usize] |= said::USER,
            Line::Nick => connection.said[side as usize] |= said::NICK,
            Line::Retrieve(file) => {
                let is_ftp =
                    connection.has_said(other, said::GREETING) && connection.has_said(side, said::USER);
                if to_port == FTP_PORT || is_ftp {
                    if self.config.ftp_command {
                        if let Some(stage) = Stage::of_file(file) {
                            found.push(side, stage, "client");
                        }
                    } else if !connection.ask(side, file) {
                        found.beyond += 1;
                    }
                }
            }
            _ => {}
        }
        if let (Line::Reply(code), Some(asked)) = (line, connection.asked().filter(|asked| *asked != side)) {
            match code {
                226 | 250 => {
                    if let Some(stage) = Stage::of_file(connection.take()) {
                        found.push(asked, stage, "client");
                    }
                }
                400..=599 => {
                    connection.take();
                }
                _ => {}
            }
        }
        if !self.config.irc_port && !connection.has_said(side, said::IRC) {
            let by_port = is_irc(to_port) && line.is_irc();
            if by_port || connection.has_said(side, said::NICK | said::USER) {
                connection.said[side as usize] |= said::IRC;
                found.push(side, Stage::Irc, "client");
            }
        }
    }

    /// Keeps what is known of the connection, and for how long.
    fn keep<C: Context>(&self, cx: &C, before: Option<Connection>, connection: Connection, closing: bool) {
        if before != Some(connection) {
            cx.put(self.connections, connection);
        }
        let length = if closing { self.config.linger } else { self.config.idle };
        let deadline = cx.now() + length;
        let armed = cx.armed(self.connections, IDLE);
        let moves = |armed: chc_api::Time| {
            closing || deadline.0.saturating_sub(armed.0) > length.as_nanos() as u64 / 16
        };
        if armed.is_none_or(moves) {
            cx.arm(self.connections, IDLE, deadline, false);
        }
    }

    /// Reports a stage, and an infection if it completes one.
    async fn report<C: Context>(&self, cx: &C, host: Direction, stage: Stage, role: &'static str) {
        let key = cx.identity().key;
        let event = |kind| Event { kind, key, direction: host };
        cx.event(event(EventKind::Stage { name: stage.name(), role }));
        let by = Advance {
            clock: cx.position().clock.0,
            stage: stage as u32,
            strict: u32::from(self.config.strict),
        };
        let host = ObjectKey::host(key.source(host).addr);
        if stage != Stage::Irc {
            // Only IRC can complete the sequence.
            return cx.submit(self.progress.id(), host, Op::Custom(ADVANCE, ValueBytes::of(&by)));
        }
        if cx.custom(self.progress, host, ADVANCE, by).await == OpValue::Int(1) {
            let (signature, category) = ("trojan", "A Network Trojan was detected");
            cx.event(event(EventKind::Alert { signature, category, severity: 1 }));
        }
    }
}

const SSH_PORT: u16 = 22;
const FTP_PORT: u16 = 21;

fn is_irc(port: u16) -> bool {
    (6660..=6669).contains(&port) || port == 7000
}

/// Flags that say more than that there is data.
const CONTROL: u8 = tcp::SYN | tcp::FIN | tcp::RST;

fn is_tcp(parsed: &Parsed) -> bool {
    parsed.protocol == protocol::TCP
        && parsed.is(PacketKind::HAS_L4)
        && !parsed.is(PacketKind::LATER_FRAGMENT)
        && !parsed.is(PacketKind::ICMP_ERROR)
}

impl NetworkFunction for Trojan {
    // Few packets touch a record.
    const LOOKS_UP: bool = false;

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        let seq =
            cx.header(|header| view::<TcpHeader>(header, usize::from(parsed.l4)).map(|tcp| tcp.seq.get()));
        let Some(seq) = seq.filter(|_| is_tcp(&parsed)) else { return Verdict::Forward };
        let identity = cx.identity();
        let before = cx.get(self.connections);
        let mut connection = before.unwrap_or_default();
        let mut found = Found::default();
        let control = parsed.tcp_flags & (CONTROL | tcp::ACK);
        let opens = control == tcp::SYN || control == tcp::SYN | tcp::ACK;
        let closing = control & (tcp::FIN | tcp::RST) != 0;
        if opens {
            self.opened(&identity, control & tcp::ACK != 0, seq, &mut connection, &mut found);
        }
        let spoke = cx.payload(PAYLOAD_LEN_MAX, |payload| {
            let speaks = of_interest(payload);
            if speaks {
                self.heard(&identity, seq, payload, &mut connection, &mut found);
            }
            speaks
        });
        if opens || spoke || (closing && before.is_some()) {
            self.keep(&cx, before, connection, closing);
        }
        if found.beyond > 0 {
            cx.count(self.beyond_limits, found.beyond);
        }
        if found.len == 0 {
            cx.done(self.progress.id());
        }
        for (host, stage, role) in found.stages.into_iter().flatten() {
            self.report(&cx, host, stage, role).await;
        }
        Verdict::Forward
    }

    #[inline(always)]
    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        let parsed = cx.parsed();
        if is_tcp(parsed) && (parsed.tcp_flags & CONTROL != 0 || cx.payload().is_none_or(of_interest)) {
            return None;
        }
        Some(Verdict::Forward)
    }

    async fn timer<C: Context>(&self, cx: C, _: TimerEvent) {
        cx.remove(self.connections);
    }

    fn passes(&self, hint: PacketHint) -> bool {
        !hint.tcp || (!hint.payload && hint.tcp_flags & CONTROL == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_sequence_is_ssh_then_the_files_in_any_order_then_irc() {
        let run = |strict: u32, stages: &[Stage]| {
            let mut host = Host::default();
            let mut clock = 0;
            stages.iter().any(|stage| {
                clock += 1;
                host.advance(&Advance { clock, stage: *stage as u32, strict })
            })
        };
        use Stage::{Exe, Html, Irc, Ssh, Zip};
        assert!(run(0, &[Ssh, Exe, Html, Zip, Irc]) && run(0, &[Irc, Ssh, Html, Html, Zip, Exe, Irc]));
        for wrong in [[Html, Zip, Exe, Ssh, Irc], [Irc, Ssh, Html, Zip, Exe], [Ssh, Html, Zip, Zip, Irc]] {
            assert!(!run(0, &wrong), "{wrong:?}");
        }
        assert!(run(1, &[Ssh, Html, Zip, Exe, Irc]) && !run(1, &[Ssh, Exe, Html, Zip, Irc]));
        assert!(run(1, &[Ssh, Exe, Html, Zip, Exe, Irc]));
    }

    #[test]
    fn a_host_is_infected_once() {
        let mut host = Host { seen: [1, 2, 3, 4, 0] };
        let irc = Advance { clock: 9, stage: Stage::Irc as u32, strict: 0 };
        assert!(host.advance(&irc) && !host.advance(&irc));
        assert_eq!(host.seen[4], 10);
    }

    #[test]
    fn files_are_answered_in_the_order_they_were_asked_for_and_there_is_a_limit() {
        let mut connection = Connection::default();
        assert_eq!(connection.asked(), None);
        for file in [1, 0, 3] {
            assert!(connection.ask(Direction::HighToLow, file));
        }
        assert_eq!(connection.asked(), Some(Direction::HighToLow));
        assert_eq!([connection.take(), connection.take(), connection.take()], [1, 0, 3]);
        assert_eq!((connection.pending, connection.asked()), (0, None));
        assert!((0..PENDING_MAX).all(|_| connection.ask(Direction::LowToHigh, 2)));
        assert!(!connection.ask(Direction::LowToHigh, 2));
    }

    #[test]
    fn wrong_keys_are_reported_with_what_would_be_right() {
        let wrong = TrojanConfig::read(&json!({ "ssh": "ports", "file_order": "none", "x": 1 })).unwrap_err();
        let keys: Vec<_> = wrong.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["ssh", "file_order", "x"]);
    }
}
