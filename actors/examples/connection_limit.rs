//! A program of one's own: two network functions that the catalog does not have, one with an operation of
//! its own in the store, in a chain with one that it has.
//!
//! ```text
//!            ┌─ out ──► portscan ──► egress
//!   limit ───┤
//!            └─ over ─► audit        counts and drops
//! ```
//!
//! `limit` lets each host open a number of connections a second, with a burst; what is over goes by another
//! output, with a note attached of how far over it is. Run it on any capture:
//!
//! ```sh
//! cargo run --release -p chc-actors --example connection_limit -- IN.pcap
//! ```
//!
//! It runs the chain while an instance of each vertex is killed in the middle, runs the ideal chain on the
//! same input, and says whether anything differs.

use anyhow::Context as _;
use chc_actors::chain::compile::{ChainPlan, compile};
use chc_actors::chain::run::{Kill, RunOptions};
use chc_actors::chain::verify::verify;
use chc_actors::config::{ChainBuilder, Edge};
use chc_actors::functions::Registry;
use chc_api::packet::tcp;
use chc_api::state::ValueBytes;
use chc_api::{
    Attachment, Consistency, Context, Counter, CustomOp, Declarations, NetworkFunction, ObjectKey, OpValue,
    Output, Scope, Shared, StateError, Verdict,
};
use chc_nf_catalog::ConfigProblem;
use chc_nf_catalog::config::Keys;
use chc_runtime::capture::CaptureReader;
use serde_json::{Value, json};
use std::path::Path;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a host may still open: a token bucket.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Bucket {
    /// Thousandths of a connection.
    tokens: u64,
    /// Packet time it was filled up to, in nanoseconds; 0 for a host never seen.
    filled: u64,
    /// Connections refused.
    refused: u64,
}

/// Argument of [`TAKE`].
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Take {
    now: u64,
    per_second: u64,
    burst: u64,
}

const TAKE: u8 = 0;
const OPS: &[CustomOp] = &[CustomOp::new("take", take)];

/// Fills the bucket and takes a token. Returns 0, or how many connections were refused with this one. It runs
/// in the store, in the order of the input, once for each packet whatever fails.
fn take(value: &mut ValueBytes, argument: &ValueBytes) -> OpValue {
    let (Some(mut bucket), Some(take)) = (value.read::<Bucket>(), argument.read::<Take>()) else {
        return OpValue::Refused(StateError::WrongType);
    };
    let full = take.burst * 1_000;
    let earned = (take.now - bucket.filled.min(take.now)) / 1_000 * take.per_second / 1_000;
    bucket.tokens = if bucket.filled == 0 { full } else { (bucket.tokens + earned).min(full) };
    bucket.filled = take.now;
    let refused = bucket.tokens < 1_000;
    if refused {
        bucket.refused += 1;
    } else {
        bucket.tokens -= 1_000;
    }
    *value = ValueBytes::of(&bucket);
    OpValue::Int(if refused { bucket.refused as i64 } else { 0 })
}

/// Attached to a packet that is over the limit.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Excess {
    /// Connections of the host refused so far.
    refused: u64,
}

impl Attachment for Excess {
    const NAME: &'static str = "connection_limit.excess";
}

/// Limits the connections each host opens.
#[derive(Clone)]
struct Limit {
    per_second: u64,
    burst: u64,
    bucket: Shared<Bucket>,
    over: Output,
}

impl Limit {
    fn new(config: &Value, declarations: &mut Declarations) -> Result<Self, Vec<ConfigProblem>> {
        let mut keys = Keys::new(config);
        let per_second = keys.number("per_second", 10.0, 1.0..=1e6) as u64;
        let burst = keys.number("burst", 20.0, 1.0..=1e6) as u64;
        let problems = keys.finish();
        if !problems.is_empty() {
            return Err(problems);
        }
        let unseen = Bucket { tokens: 0, filled: 0, refused: 0 };
        let (scope, order) = (Scope::SourceHost, Consistency::Clock);
        // One operation a packet at most, none by timers.
        let bucket = declarations.shared("bucket", scope, order, unseen, OPS, (1, 0));
        Ok(Self { per_second, burst, bucket, over: declarations.output("over") })
    }
}

impl NetworkFunction for Limit {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        if cx.parsed().tcp_flags & (tcp::SYN | tcp::ACK) != tcp::SYN {
            cx.done(self.bucket.id());
            return Verdict::Forward;
        }
        let host = ObjectKey::host(cx.identity().source().addr);
        let argument = Take { now: cx.now().0, per_second: self.per_second, burst: self.burst };
        match cx.custom(self.bucket, host, TAKE, argument).await {
            OpValue::Int(refused) if refused > 0 => {
                cx.attach(Excess { refused: refused as u64 });
                Verdict::Send(self.over)
            }
            _ => Verdict::Forward,
        }
    }
}

/// Counts what is over the limit, and drops it.
#[derive(Clone)]
struct Audit {
    first: Counter,
    again: Counter,
}

impl NetworkFunction for Audit {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let refused = cx.attached::<Excess>().map_or(0, |excess| excess.refused);
        cx.count(if refused <= 1 { self.first } else { self.again }, 1);
        Verdict::Drop("over_limit")
    }
}

fn plan() -> anyhow::Result<ChainPlan> {
    let registry = Registry::new()
        .register("limit", |config, _slots, _seed, declarations| Limit::new(config, declarations))
        .register("audit", |_config, _slots, _seed, declarations| {
            let (first, again) = (declarations.counter("hosts_over"), declarations.counter("refused_again"));
            Ok(Audit { first, again })
        });
    let chain = ChainBuilder::new("connection_limit")
        .vertex("limit", "limit", |v| {
            // Logic of one's own says how many instances there are: a chain file has expressions for it.
            v.instances(2)
                .scale_up_when(|load| load.instances < 3.0 && load.queue > 1000.0)
                .config(json!({ "per_second": 5, "burst": 10 }))
                .next("out", Edge::new("portscan"))
                .next("over", Edge::new("audit"))
        })
        .vertex("portscan", "portscan", |v| v.instances(2))
        .vertex("audit", "audit", |v| v)
        .build(&registry)?;
    compile(&chain, &registry)
}

fn main() -> anyhow::Result<()> {
    let input = std::env::args().nth(1).context("which capture? connection_limit IN.pcap")?;
    let input = Path::new(&input);
    let mut packets = 0;
    let mut reader = CaptureReader::open(input)?;
    while reader.next()?.is_some() {
        packets += 1;
    }
    let kill = |vertex: &str| Kill { vertex: vertex.to_owned(), child: "0".to_owned(), after: packets / 2 };
    let kills = ["limit", "portscan", "audit"].map(kill).to_vec();
    let (outcome, comparison) =
        verify(&plan()?, input, &RunOptions { kills, ..RunOptions::default() }, |_| ())?;
    println!("{packets} packets in, {} out, drops {:?}", outcome.egress.packets, outcome.egress.drops);
    println!("{} recoveries, {} outputs compared", outcome.recoveries.len(), comparison.outputs);
    match comparison.first_difference {
        None => println!("equivalent"),
        Some(difference) => anyhow::bail!("not equivalent: {difference}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_with_time_and_refuses_when_it_is_empty() {
        let mut value = ValueBytes::of(&Bucket { tokens: 0, filled: 0, refused: 0 });
        let mut at = |ms: u64| {
            take(&mut value, &ValueBytes::of(&Take { now: 1 + ms * 1_000_000, per_second: 10, burst: 2 }))
        };
        assert_eq!([at(0), at(0), at(1), at(50)], [0, 0, 1, 2].map(OpValue::Int));
        assert_eq!([at(150), at(151)], [0, 3].map(OpValue::Int), "10 a second are one in 100 ms");
    }

    #[test]
    fn the_chain_is_one() {
        let plan = plan().unwrap();
        let names: Vec<_> = plan.vertices.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["limit", "portscan", "audit"]);
        assert!(plan.topology.joins(None), "packets of a host may leave by either output");
    }
}
