//! What left a chain.

use chc_actors::egress::core::Sink;
use chc_api::{InstanceId, Position, Time, VertexId};
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};

/// What left the chain.
#[derive(Default)]
pub struct Left {
    /// Packets, in the order they left.
    pub packets: Vec<OutPacket>,
    /// Events with the vertex that reported them.
    pub events: Vec<(VertexId, EventRecord)>,
    /// Packets that ended, with the vertex they ended at.
    pub drops: Vec<(VertexId, DropRecord)>,
}

/// A packet that left.
pub struct OutPacket {
    /// Its position.
    pub position: Position,
    /// Its connection.
    pub identity: chc_api::Identity,
    /// Packet time.
    pub time: Time,
    /// Number of the input packet.
    pub number: u64,
    /// Length on the wire.
    pub wire_len: u32,
    /// Its bytes.
    pub frame: Vec<u8>,
}

impl Sink for Left {
    fn packet(&mut self, block: &Block, desc: &Desc) {
        let meta = block.meta(desc);
        self.packets.push(OutPacket {
            position: desc.position(),
            identity: meta.parsed.identity(),
            time: meta.time,
            number: meta.number,
            wire_len: desc.wire_len,
            frame: [block.head(desc), block.tail(desc)].concat(),
        });
    }

    fn event(&mut self, from: InstanceId, event: &EventRecord) {
        self.events.push((from.vertex, *event));
    }

    fn dropped(&mut self, from: InstanceId, record: &DropRecord) {
        self.drops.push((from.vertex, *record));
    }
}
