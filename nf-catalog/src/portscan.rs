//! Portscan detector: a sequential test over the outcomes of each host's connection attempts.
//!
//! **Ports.** One input, one output. Packets pass unchanged; with `action = "block"` the SYNs of a
//! flagged host are dropped, with `action = "isolate"` everything it sends from a window of clocks after it was flagged
//! on. A host that crosses the threshold is reported once as an alert.
//!
//! **Keys.** `theta0`, `theta1`: the probability that an attempt succeeds, made by a benign host and
//! by a scanner. `alpha`, `beta`: accepted false positives and wanted true positives. `timeout_s`: an
//! attempt unanswered that long has failed. `pick`: which attempts are observations: every one, or
//! the first to each service, or the first to each host. `walk`: what the lower end does (below).
//! `fail_pending_at_end`: attempts pending when the input ends fail. `action`: alert, block or isolate. `idle_s`: how long
//! a settled attempt is remembered, for retransmissions; `host_idle_s`: how long a host is of which nothing is heard,
//! flagged or not; both for ever if they are not given: memory then grows with all connections and hosts ever seen.
//!
//! **State** (the paper's Table 4).
//!
//! | object | scope | access | consistency |
//! |---|---|---|---|
//! | `attempts`: pending initiation requests with their time | 5-tuple | write/read often | clock |
//! | `likelihood`: of being malicious, and counts | source host | write/read often | clock |
//! | `contacts`: services or hosts a host has tried, if `pick` asks | source host | write/read often | clock |
//! | `isolated`: hosts nothing is taken from, at most 65,536, if `action` asks | source host | read mostly | delayed |
//!
//! **Theory.** Jung et al., "Fast Portscan Detection Using Sequential Hypothesis Testing" (2004).
//! An *attempt* is a SYN (no ACK, RST, FIN) of a 4-tuple that has no pending attempt; a SYN with the
//! sequence number of the last settled attempt of its 4-tuple is a late retransmission, unless that
//! attempt succeeded and a RST was seen since. It *succeeds* with the first SYN+ACK from its
//! destination, and *fails* with the first RST from there, an ICMP destination-unreachable that
//! quotes it, or after `timeout_s`. Each direction of a connection has its own attempt. An outcome
//! multiplies the likelihood ratio L, from 1, by `theta1 / theta0` (success) or
//! `(1 - theta1) / (1 - theta0)` (failure); at `L >= beta / alpha` the host is flagged for good. The
//! walks differ below: `plain` has no lower bound; `absorb` acquits for good at
//! `(1 - beta) / (1 - alpha)`; `restart` acquits there and begins at 1 again; `floor` never goes below
//! 1 (Schechter et al., "Fast Detection of Scanning Worm Infections", 2004).
//!
//! Which attempt is the first is decided when its SYN is seen, among those of which something was heard within
//! `host_idle_s`. A settled attempt stays in the connection's record, for a retransmission may come at any time.

use crate::config::{ConfigProblem, Keys};
use chc_api::nf::PacketHint;
use chc_api::packet::{self, Ipv4Header, Ipv6Header, PacketKind, Parsed, protocol, tcp};
use chc_api::state::{FlowOptions, ObjectKind, ValueBytes};
use chc_api::{
    Consistency, Context, CustomOp, Declarations, Direction, Event, EventKind, Flow, Identity,
    NetworkFunction, ObjectId, ObjectKey, Op, OpValue, Passing, Replicated, Scope, Shared, StateError,
    TimerEvent, Verdict,
};
use serde_json::Value;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which attempts are observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// All of them.
    Every,
    /// The first of a host to an address and port.
    FirstPerService,
    /// The first of a host to an address.
    FirstPerHost,
}

/// What the walk does at its lower end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Walk {
    /// It never goes below 1.
    Floor = 0,
    /// There is no lower end.
    Plain = 1,
    /// It ends: the host is benign for good.
    Absorb = 2,
    /// It begins again.
    Restart = 3,
}

/// What is done about a flagged host besides the alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Alert,
    /// Its SYNs are dropped.
    Block,
    /// Those, and all it sends from a window of clocks later on, are dropped, until it is forgotten.
    Isolate,
}

/// Most hosts that are isolated at a time; further ones are blocked.
const ISOLATED_MAX: usize = 1 << 16;

/// The keys of the detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PortscanConfig {
    /// Probability that a benign host's attempt succeeds.
    pub theta0: f64,
    /// Probability that a scanner's attempt succeeds.
    pub theta1: f64,
    /// Accepted probability of flagging a benign host.
    pub alpha: f64,
    /// Wanted probability of flagging a scanner.
    pub beta: f64,
    /// How long an attempt may stay unanswered.
    pub timeout: Duration,
    /// Which attempts are observations.
    pub pick: Pick,
    /// What happens at the lower end.
    pub walk: Walk,
    /// Whether the end of the input fails pending attempts.
    pub fail_pending_at_end: bool,
    /// What is done about a flagged host.
    pub action: Action,
    /// How long a settled attempt is remembered, if not for ever; at least `timeout`.
    pub idle: Option<Duration>,
    /// How long a host and its contacts are, after their last attempt or outcome.
    pub host_idle: Option<Duration>,
}

impl PortscanConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(config: &Value) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let picks = [
            ("every", Pick::Every),
            ("first_per_service", Pick::FirstPerService),
            ("first_per_host", Pick::FirstPerHost),
        ];
        let walks = [
            ("floor", Walk::Floor),
            ("plain", Walk::Plain),
            ("absorb", Walk::Absorb),
            ("restart", Walk::Restart),
        ];
        let actions = [("alert", Action::Alert), ("block", Action::Block), ("isolate", Action::Isolate)];
        let probability = 1e-12..=1.0 - 1e-12;
        let read = Self {
            theta0: keys.number("theta0", 0.8, probability.clone()),
            theta1: keys.number("theta1", 0.2, probability.clone()),
            alpha: keys.number("alpha", 0.01, probability.clone()),
            beta: keys.number("beta", 0.99, probability),
            timeout: keys.seconds("timeout_s", 3.0),
            pick: keys.choice("pick", &picks, Pick::Every),
            walk: keys.choice("walk", &walks, Walk::Floor),
            fail_pending_at_end: keys.flag("fail_pending_at_end", false),
            action: keys.choice("action", &actions, Action::Alert),
            idle: keys.kept_seconds("idle_s"),
            host_idle: keys.kept_seconds("host_idle_s"),
        };
        if let Some(idle) = read.idle.filter(|idle| *idle < read.timeout) {
            let (idle, timeout) = (idle.as_secs_f64(), read.timeout.as_secs_f64());
            let problem = format!("idle_s = {idle} is below timeout_s = {timeout}");
            keys.problem("idle_s", problem, "an attempt must be remembered until it is settled");
        }
        if read.theta1 >= read.theta0 {
            let problem = format!("theta1 = {} is not below theta0 = {}", read.theta1, read.theta0);
            keys.problem(
                "theta1",
                problem,
                "a scanner's attempts must succeed less often than a benign host's",
            );
        }
        if read.alpha >= read.beta {
            let problem = format!("alpha = {} is not below beta = {}", read.alpha, read.beta);
            keys.problem("alpha", problem, "benign hosts must be flagged less often than scanners");
        }
        let problems = keys.finish();
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }
}

/// State of one direction's attempt.
mod attempt {
    pub const NONE: u8 = 0;
    pub const PENDING: u8 = 1;
    pub const SUCCEEDED: u8 = 2;
    pub const FAILED: u8 = 3;
}

/// The attempts of a connection, by [`Direction`] of their SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attempts {
    /// Initial sequence numbers of the last attempts.
    pub isn: [u32; 2],
    /// What became of them: 0 none, 1 pending, 2 succeeded, 3 failed.
    pub state: [u8; 2],
    /// 1 where the outcome is an observation.
    pub feeds: [u8; 2],
}

/// What is known of a host as a source of attempts.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Host {
    /// The likelihood ratio, from 1.
    pub likelihood: f64,
    /// Attempts made.
    pub attempts: u32,
    /// Outcomes, by kind: success, RST, ICMP, time-out.
    pub outcomes: [u32; 4],
    /// 0 undecided, 1 flagged, 2 acquitted for good.
    pub verdict: u32,
}

impl Host {
    const UNDECIDED: u32 = 0;
    const FLAGGED: u32 = 1;
    const BENIGN: u32 = 2;
    const NEW: Host = Host { likelihood: 1.0, attempts: 0, outcomes: [0; 4], verdict: Host::UNDECIDED };

    /// Whether it crossed the threshold.
    #[must_use]
    pub fn is_flagged(&self) -> bool {
        self.verdict == Host::FLAGGED
    }

    /// Applies one observation; true if the host crosses the threshold by it.
    fn observe(&mut self, by: &Settle) -> bool {
        if self.verdict != Host::UNDECIDED {
            return false;
        }
        let ratio = if by.outcome == Outcome::Success as u32 { by.success } else { by.failure };
        self.likelihood *= ratio;
        if by.walk == Walk::Floor as u32 {
            self.likelihood = self.likelihood.max(1.0);
        }
        // Products of rounded ratios may miss a threshold they reach exactly by a few units.
        if self.likelihood >= by.eta1 * (1.0 - 1e-12) {
            self.verdict = Host::FLAGGED;
            return true;
        }
        if by.walk == Walk::Absorb as u32 && self.likelihood <= by.eta0 {
            self.verdict = Host::BENIGN;
        } else if by.walk == Walk::Restart as u32 && self.likelihood <= by.eta0 {
            self.likelihood = 1.0;
        } else if by.walk == Walk::Plain as u32 {
            // Far below any threshold, but never zero, from where no failure would lead back.
            self.likelihood = self.likelihood.max(1e-280);
        }
        false
    }
}

/// How an attempt ended; an index into [`Host::outcomes`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Outcome {
    Success = 0,
    Reset = 1,
    Unreachable = 2,
    TimedOut = 3,
}

/// Argument of custom operation [`BEGIN`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Begin {
    /// 1: an attempt was made; 0: the host is only looked up.
    attempts: u32,
    /// 1: a flagged host's attempts do not happen.
    refuse_flagged: u32,
}

/// Argument of custom operation [`SETTLE`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Settle {
    outcome: u32,
    feeds: u32,
    walk: u32,
    unused: u32,
    success: f64,
    failure: f64,
    eta1: f64,
    eta0: f64,
}

/// Type "destination unreachable" of ICMP (RFC 792).
const ICMP_UNREACHABLE: u8 = 3;
/// The same of ICMPv6 (RFC 4443).
const ICMPV6_UNREACHABLE: u8 = 1;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;

const BEGIN: u8 = 0;
const SETTLE: u8 = 1;

/// The custom operations of a host. `begin` returns whether the host is flagged; `settle` whether it
/// has been flagged by this outcome.
static HOST_OPS: [CustomOp; 2] = [CustomOp::new("begin", begin), CustomOp::new("settle", settle)];

fn begin(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut host), Some(by)) = (value.read::<Host>(), argument.read::<Begin>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    let flagged = host.is_flagged();
    if !(flagged && by.refuse_flagged == 1) {
        host.attempts = host.attempts.saturating_add(by.attempts);
        *value = ValueBytes::of(&host);
    }
    OpValue::Int(i64::from(flagged))
}

fn settle(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut host), Some(by)) = (value.read::<Host>(), argument.read::<Settle>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    if let Some(count) = host.outcomes.get_mut(by.outcome as usize) {
        *count = count.saturating_add(1);
    }
    let crossed = by.feeds == 1 && host.observe(&by);
    *value = ValueBytes::of(&host);
    OpValue::Int(i64::from(crossed))
}

/// The detector.
#[derive(Clone)]
pub struct Portscan {
    timeout: Duration,
    idle: Option<Duration>,
    pick: Pick,
    at_end: bool,
    block: bool,
    /// The walk's parameters; outcome and feeds are filled in for each attempt.
    walk: Settle,
    attempts: Flow<Attempts>,
    likelihood: Shared<Host>,
    contacts: Option<ObjectId>,
    isolated: Option<Replicated<u8>>,
}

impl Portscan {
    /// The detector and its declarations.
    #[must_use]
    pub fn new(config: &PortscanConfig, declarations: &mut Declarations) -> Self {
        let attempts = declarations
            .flow("attempts", FlowOptions { timers: 2, timeout_min: config.timeout, index: None });
        let clock = Consistency::Clock;
        let likelihood =
            declarations.shared("likelihood", Scope::SourceHost, clock, Host::NEW, &HOST_OPS, (1, 1));
        let contacts = (config.pick != Pick::Every).then(|| {
            let unknown = ObjectKind::Int { initial: 0 };
            declarations.basic("contacts", Scope::SourceHost, clock, unknown, (1, 0))
        });
        let isolated = (config.action == Action::Isolate)
            .then(|| declarations.replicated("isolated", Scope::SourceHost, 0_u8, &[], ISOLATED_MAX, (1, 1)));
        if let Some(idle) = config.host_idle {
            contacts.into_iter().chain([likelihood.id()]).for_each(|of| declarations.forget_after(of, idle));
        }
        let walk = Settle {
            outcome: 0,
            feeds: 0,
            walk: config.walk as u32,
            unused: 0,
            success: config.theta1 / config.theta0,
            failure: (1.0 - config.theta1) / (1.0 - config.theta0),
            eta1: config.beta / config.alpha,
            eta0: (1.0 - config.beta) / (1.0 - config.alpha),
        };
        let (timeout, idle, pick) = (config.timeout, config.idle, config.pick);
        let (at_end, block) = (config.fail_pending_at_end, config.action != Action::Alert);
        Self { timeout, idle, pick, at_end, block, walk, attempts, likelihood, contacts, isolated }
    }

    /// Whether nothing is taken from who sent this, as `read` finds it.
    #[inline]
    fn is_isolated(
        &self,
        identity: &Identity,
        read: impl FnOnce(Replicated<u8>, &ObjectKey) -> Option<u8>,
    ) -> bool {
        self.isolated.is_some_and(|of| read(of, &ObjectKey::host(identity.source().addr)).is_some())
    }

    /// A SYN: an attempt, or the retransmission of one.
    async fn syn<C: Context>(&self, cx: &C, isn: u32) -> Verdict {
        let identity = cx.identity();
        let side = identity.direction as usize;
        let last = cx.get(self.attempts).unwrap_or_default();
        let fresh = match last.state[side] {
            attempt::NONE => true,
            attempt::PENDING => false,
            _ => last.isn[side] != isn,
        };
        let host = ObjectKey::host(identity.source().addr);
        if self.block {
            let by = Begin { attempts: u32::from(fresh), refuse_flagged: 1 };
            if !fresh {
                self.no_contact(cx);
            }
            if cx.custom(self.likelihood, host, BEGIN, by).await == OpValue::Int(1) {
                return Verdict::Drop("portscan_blocked");
            }
            if let Some(isolated) = self.isolated.filter(|of| cx.read(*of, &host).is_some()) {
                // It was forgotten in the meantime.
                cx.replicate(isolated, host, 0);
            }
        } else if fresh {
            let by = Begin { attempts: 1, refuse_flagged: 0 };
            cx.submit(self.likelihood.id(), host, Op::Custom(BEGIN, ValueBytes::of(&by)));
        }
        if fresh {
            let feeds = self.is_first(cx, &identity).await;
            let mut record = cx.get(self.attempts).unwrap_or_default();
            record.isn[side] = isn;
            record.state[side] = attempt::PENDING;
            record.feeds[side] = u8::from(feeds);
            cx.put(self.attempts, record);
            cx.arm(self.attempts, side as u8, cx.now() + self.timeout, self.at_end);
        }
        Verdict::Forward
    }

    /// Whether an attempt is the first of its kind, and from now on no other is.
    async fn is_first<C: Context>(&self, cx: &C, identity: &Identity) -> bool {
        let Some(contacts) = self.contacts else { return true };
        let (from, to) = (identity.source(), identity.destination());
        let port = if self.pick == Pick::FirstPerService { to.port } else { 0 };
        let key = ObjectKey::contact(from.addr, to.addr, port);
        cx.operate(contacts, key, Op::CompareAndUpdate { expect: 0, new: 1 }).await == OpValue::Int(1)
    }

    fn no_contact<C: Context>(&self, cx: &C) {
        if let Some(contacts) = self.contacts {
            cx.done(contacts);
        }
    }

    /// A RST: the pending attempt it answers failed; without one, both directions may try again with
    /// the sequence number that succeeded.
    async fn reset<C: Context>(&self, cx: &C) {
        let identity = cx.identity();
        let Some(mut record) = cx.get(self.attempts) else { return };
        let answered = answered_side(&identity);
        if record.state[answered] == attempt::PENDING {
            self.settle(cx, &identity, answered, Outcome::Reset).await;
            return;
        }
        for state in &mut record.state {
            if *state == attempt::SUCCEEDED {
                *state = attempt::NONE;
            }
        }
        self.keep(cx, record);
    }

    /// Keeps a record as long as there is something in it.
    fn keep<C: Context>(&self, cx: &C, record: Attempts) {
        if record.state == [attempt::NONE; 2] {
            cx.remove(self.attempts);
        } else {
            cx.put(self.attempts, record);
        }
    }

    /// Settles the pending attempt of one direction, if there is one.
    async fn settle<C: Context>(&self, cx: &C, identity: &Identity, side: usize, outcome: Outcome) {
        self.no_contact(cx);
        let Some(mut record) = cx.get(self.attempts) else { return };
        if record.state[side] != attempt::PENDING {
            return;
        }
        let succeeded = outcome == Outcome::Success;
        record.state[side] = if succeeded { attempt::SUCCEEDED } else { attempt::FAILED };
        cx.put(self.attempts, record);
        match self.idle {
            Some(idle) => cx.arm(self.attempts, side as u8, cx.now() + idle, false),
            None => cx.disarm(self.attempts, side as u8),
        }
        let direction = if side == 0 { Direction::LowToHigh } else { Direction::HighToLow };
        let host = ObjectKey::host(identity.key.source(direction).addr);
        let by = Settle { outcome: outcome as u32, feeds: u32::from(record.feeds[side]), ..self.walk };
        // Only a failure that is an observation can lead across the threshold.
        if succeeded || by.feeds == 0 {
            cx.submit(self.likelihood.id(), host, Op::Custom(SETTLE, ValueBytes::of(&by)));
        } else if cx.custom(self.likelihood, host, SETTLE, by).await == OpValue::Int(1) {
            let kind = EventKind::Alert {
                signature: "portscan",
                category: "Attempted Information Leak",
                severity: 2,
            };
            cx.event(Event { kind, key: identity.key, direction });
            if let Some(isolated) = self.isolated {
                cx.replicate(isolated, host, 1);
            }
        }
    }
}

/// Whether a TCP segment with these flags opens a connection.
fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// The direction of the attempt that a packet answers. A host may talk to itself from and to one
/// port: then there is one direction.
fn answered_side(identity: &Identity) -> usize {
    let itself = identity.key.low() == identity.key.high();
    if itself { identity.direction as usize } else { identity.direction.reverse() as usize }
}

/// Whether an ICMP message says that the destination of a TCP segment cannot be reached, and goes to
/// the host that sent the segment.
fn is_unreachable_tcp(header: &[u8], parsed: &Parsed) -> bool {
    let v6 = parsed.is(PacketKind::IPV6);
    let unreachable = if v6 { ICMPV6_UNREACHABLE } else { ICMP_UNREACHABLE };
    if header.get(usize::from(parsed.l4)) != Some(&unreachable) {
        return false;
    }
    let Some(quote) = packet::icmp_quote(header, parsed.l4, v6) else { return false };
    let (outer, quoted) = (usize::from(parsed.l3), usize::from(quote.l3));
    let returned = if v6 {
        let to = packet::view::<Ipv6Header>(header, outer).map(|ip| ip.dst);
        to.is_some() && to == packet::view::<Ipv6Header>(header, quoted).map(|ip| ip.src)
    } else {
        let to = packet::view::<Ipv4Header>(header, outer).map(|ip| ip.dst);
        to.is_some() && to == packet::view::<Ipv4Header>(header, quoted).map(|ip| ip.src)
    };
    returned && quote.protocol == protocol::TCP
}

impl NetworkFunction for Portscan {
    // Only segments that open or refuse a connection are looked at.
    const LOOKS_UP: bool = false;

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        if !is_syn(parsed.tcp_flags) && self.is_isolated(&cx.identity(), |of, host| cx.read(of, host)) {
            return ISOLATED;
        }
        if parsed.is(PacketKind::ICMP_ERROR) {
            if cx.header(|header| is_unreachable_tcp(header, &parsed)) {
                let identity = cx.identity();
                self.settle(&cx, &identity, answered_side(&identity), Outcome::Unreachable).await;
            }
            return Verdict::Forward;
        }
        match parsed.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) {
            tcp::SYN => {
                let isn = cx.header(|header| sequence_number(header, &parsed));
                return self.syn(&cx, isn).await;
            }
            SYN_ACK => {
                let identity = cx.identity();
                self.settle(&cx, &identity, answered_side(&identity), Outcome::Success).await;
            }
            flags if flags & tcp::RST != 0 => self.reset(&cx).await,
            _ => {}
        }
        Verdict::Forward
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        let (identity, side) = (cx.identity(), usize::from(timer.index));
        let Some(mut record) = cx.get(self.attempts) else { return };
        if record.state[side] == attempt::PENDING {
            return self.settle(&cx, &identity, side, Outcome::TimedOut).await;
        }
        record.state[side] = attempt::NONE;
        self.keep(&cx, record);
    }

    fn passes(&self, hint: PacketHint) -> bool {
        self.isolated.is_none() && !concerns(hint)
    }

    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        let parsed = cx.parsed();
        let (tcp_flags, icmp_error) = (parsed.tcp_flags, parsed.is(PacketKind::ICMP_ERROR));
        if is_syn(tcp_flags) {
            return None;
        }
        if self.is_isolated(&cx.identity(), |of, host| cx.read(of, host)) {
            return Some(ISOLATED);
        }
        let hint = PacketHint { tcp_flags, tcp: tcp_flags != 0, payload: false, icmp_error };
        (!concerns(hint)).then_some(Verdict::Forward)
    }
}

/// What becomes of a packet that is not taken.
const ISOLATED: Verdict = Verdict::Drop("portscan_isolated");

/// Whether a packet may be an attempt or the outcome of one.
#[inline]
fn concerns(hint: PacketHint) -> bool {
    hint.icmp_error || hint.tcp && hint.tcp_flags & (tcp::SYN | tcp::RST) != 0
}

/// A segment with flags has its sequence number captured, too.
fn sequence_number(header: &[u8], parsed: &Parsed) -> u32 {
    let bytes = header.get(usize::from(parsed.l4) + 4..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settle_all(config: Value, outcomes: &[Outcome]) -> (Host, Vec<bool>) {
        let config = PortscanConfig::read(&config).unwrap();
        let nf = Portscan::new(&config, &mut Declarations::default());
        let mut value = ValueBytes::of(&Host::NEW);
        let crossed = outcomes.iter().map(|outcome| {
            let by = Settle { outcome: *outcome as u32, feeds: 1, ..nf.walk };
            HOST_OPS[SETTLE as usize].apply(&mut value, &ValueBytes::of(&by), || 0) == OpValue::Int(1)
        });
        let crossed = crossed.collect();
        (value.read().unwrap(), crossed)
    }

    const FAIL: Outcome = Outcome::Reset;
    const OK: Outcome = Outcome::Success;

    #[test]
    fn four_failures_in_a_row_cross_the_default_threshold_once() {
        let (host, crossed) = settle_all(json!({}), &[FAIL, FAIL, FAIL, FAIL, FAIL]);
        assert_eq!(crossed, [false, false, false, true, false]);
        assert!(host.is_flagged());
        assert_eq!(host.outcomes, [0, 5, 0, 0]);
    }

    #[test]
    fn only_the_walks_floor_and_restart_forget_successes() {
        let history = [OK, OK, OK, OK, FAIL, FAIL, FAIL, FAIL];
        let flagged = |walk| settle_all(json!({"walk": walk}), &history).0.is_flagged();
        assert!(flagged("floor") && flagged("restart"));
        assert!(!flagged("plain") && !flagged("absorb"));
    }

    #[test]
    fn an_acquitted_host_stays_so_only_with_absorb() {
        let mut history = vec![OK; 4];
        history.extend([FAIL; 40]);
        let flagged = |walk| settle_all(json!({"walk": walk}), &history).0.is_flagged();
        assert!(flagged("plain") && !flagged("absorb"));
    }

    #[test]
    fn however_long_a_plain_walk_goes_down_it_can_come_back() {
        let (host, _) = settle_all(json!({"walk": "plain"}), &[OK; 2_000]);
        assert!(host.likelihood > 0.0);
    }

    #[test]
    fn an_outcome_that_is_no_observation_is_counted_and_moves_nothing() {
        let nf = Portscan::new(&PortscanConfig::read(&json!({})).unwrap(), &mut Declarations::default());
        let mut value = ValueBytes::of(&Host::NEW);
        let by = Settle { outcome: Outcome::TimedOut as u32, feeds: 0, ..nf.walk };
        assert_eq!(settle(&mut value, &ValueBytes::of(&by)), OpValue::Int(0));
        assert_eq!(value.read(), Some(Host { outcomes: [0, 0, 0, 1], ..Host::NEW }));
    }

    #[test]
    fn a_flagged_hosts_attempts_are_counted_unless_they_are_refused() {
        let mut value = ValueBytes::of(&Host { verdict: Host::FLAGGED, ..Host::NEW });
        let mut counted = |refuse_flagged| {
            let by = Begin { attempts: 1, refuse_flagged };
            assert_eq!(begin(&mut value, &ValueBytes::of(&by)), OpValue::Int(1));
            value.read::<Host>().unwrap().attempts
        };
        assert_eq!((counted(0), counted(1)), (1, 1));
    }

    #[test]
    fn operations_refuse_bytes_that_are_no_host() {
        let mut value = ValueBytes::new(&[1, 2, 3]);
        let argument = ValueBytes::of(&Begin { attempts: 1, refuse_flagged: 0 });
        assert_eq!(begin(&mut value, &argument), OpValue::Refused(StateError::WrongType));
        assert_eq!(settle(&mut value, &argument), OpValue::Refused(StateError::WrongType));
    }

    #[test]
    fn contradictory_probabilities_are_refused() {
        let config =
            json!({"theta0": 0.2, "theta1": 0.8, "alpha": 0.99, "beta": 0.5, "timeout_s": 0, "idle_s": 1});
        let problems = PortscanConfig::read(&config).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(keys, ["timeout_s", "idle_s", "theta1", "alpha"]);
    }

    #[test]
    fn everything_but_syn_rst_and_icmp_errors_passes() {
        let nf = Portscan::new(&PortscanConfig::read(&json!({})).unwrap(), &mut Declarations::default());
        let hint = |tcp_flags, tcp, icmp_error| PacketHint { tcp_flags, tcp, payload: false, icmp_error };
        assert!(nf.passes(hint(tcp::ACK | tcp::FIN, true, false)) && nf.passes(hint(0, false, false)));
        assert!(!nf.passes(hint(tcp::SYN, true, false)));
        assert!(!nf.passes(hint(tcp::RST | tcp::ACK, true, false)));
        assert!(!nf.passes(hint(0, false, true)));
        let config = PortscanConfig::read(&json!({"action": "isolate"})).unwrap();
        let nf = Portscan::new(&config, &mut Declarations::default());
        assert!(!nf.passes(hint(tcp::ACK, true, false)), "its host may be isolated");
    }
}
