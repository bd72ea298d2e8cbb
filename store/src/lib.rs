//! The external state store.
//!
//! * [`engine`]: one shard. Serialises the operations of all instances on the objects it holds,
//!   applies each named operation once, keeps boundary versions of per-flow records.
//! * [`client`]: the library inside an instance. Caches per-flow records, coalesces counters, numbers
//!   batches, knows what has been acknowledged.
//! * [`exclusive`]: cross-flow values an instance holds while it is the only one that operates on them.
//! * [`replicas`]: cross-flow values of which every instance has a copy.
//! * [`session`]: batches in their order, whatever the link between the two does.
//! * [`ledger`], [`counts`]: what has been applied since the cut.
//! * [`objects`], [`object_table`], [`list`], [`pool`]: cross-flow objects and the operations on them, without any protocol.
//! * [`packet_log`]: the packets in flight, where the store has them.
//! * [`table`], [`record`]: the per-flow cache and the image of a record.
//! * [`active`]: which instances of a vertex own slots.
//! * [`batch`]: what instances and shards say to each other; [`wire`]: the same as bytes.

pub mod active;
pub mod batch;
pub mod client;
pub mod counts;
pub mod engine;
pub mod exclusive;
pub mod ledger;
pub mod list;
pub mod object_table;
pub mod objects;
pub mod packet_log;
pub mod pool;
pub mod record;
pub mod replicas;
pub mod session;
pub mod table;
pub mod versions;
pub mod wire;
