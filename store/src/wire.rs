//! What instances and shards say to each other, as bytes.
//!
//! A message is one archive, checked when it is read: what does not fit its type is an error, and nothing is allocated that
//! the archive does not hold.

use crate::batch::{Batch, Changes, Load, Loaded, Reply};
use chc_api::{Clock, Generation, InstanceId};
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

/// To a shard.
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub enum ToShard {
    /// A batch.
    Batch(Batch),
    /// A load.
    Load(Load),
    /// The chain's cut moved.
    Cut(Clock),
    /// The root will stamp clocks below this one.
    Reserve(Clock),
}

/// From a shard.
#[derive(Clone, Debug, PartialEq, Archive, Serialize, Deserialize)]
pub enum FromShard {
    /// Results.
    Reply(Reply),
    /// Everything of the session (instance, generation) up to this batch is in the log.
    Acknowledged(InstanceId, Generation, u64),
    /// Records.
    Loaded(Loaded),
    /// Changes of replicated values.
    Changed(Changes),
    /// Clocks below this one are reserved.
    Reserved(Clock),
}

impl ToShard {
    /// The message as bytes, in a buffer that is used again.
    ///
    /// # Errors
    /// If memory is short.
    pub fn encode(&self, into: AlignedVec) -> Result<AlignedVec, Error> {
        rkyv::api::high::to_bytes_in(self, into)
    }

    /// A message from bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        rkyv::from_bytes(&aligned(bytes))
    }
}

impl FromShard {
    /// The message as bytes, in a buffer that is used again.
    ///
    /// # Errors
    /// If memory is short.
    pub fn encode(&self, into: AlignedVec) -> Result<AlignedVec, Error> {
        rkyv::api::high::to_bytes_in(self, into)
    }

    /// A message from bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        rkyv::from_bytes(&aligned(bytes))
    }
}

/// Bytes as an archive must lie in memory.
fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut aligned = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Answer, CountItem, FetchItem, OpItem, OpName, VersionItem};
    use crate::record::Record;
    use chc_api::state::ValueBytes;
    use chc_api::{FlowKey, ObjectId, ObjectKey, Op, OpValue, Path, Position, Slot, VertexId};
    use proptest::prelude::*;

    fn batch() -> Batch {
        let position = Position::packet(Clock(9), Path::FIRST);
        let name = OpName { position, index: 3 };
        let key = FlowKey::v4(6, 1, 2, 3, 4).0;
        let op = |op| OpItem {
            name,
            object: ObjectId(1),
            key: ObjectKey::number(7),
            op,
            now: chc_api::Time(0),
            answer: Answer::Result,
        };
        let from = InstanceId { vertex: VertexId(2), index: 1 };
        Batch {
            fetches: vec![FetchItem {
                position,
                slot: Slot(3),
                key,
                written: vec![(ObjectId(0), Some(Clock(5)))],
            }],
            ops: vec![op(Op::Push(8)), op(Op::Custom(2, ValueBytes::of(&11_u64)))],
            counts: vec![CountItem { bits: vec![5], amounts: vec![(0, 9)], ..CountItem::default() }],
            versions: vec![VersionItem {
                object: ObjectId(0),
                slot: Slot(3),
                key,
                written: Clock(5),
                record: Some(Record::new(&[1, 2])),
            }],
            frontier: vec![(ObjectId(1), position)],
            ..Batch::empty(from, Generation(4), 77)
        }
    }

    fn bytes(message: &ToShard) -> AlignedVec {
        message.encode(AlignedVec::new()).unwrap()
    }

    #[test]
    fn a_batch_comes_out_as_it_went_in() {
        let sent = batch();
        let ToShard::Batch(got) = ToShard::decode(&bytes(&ToShard::Batch(sent.clone()))).unwrap() else {
            panic!("it was a batch")
        };
        assert_eq!(format!("{got:?}"), format!("{sent:?}"));
    }

    #[test]
    fn a_reply_comes_out_as_it_went_in() {
        let Batch { from, generation, ops, .. } = batch();
        let results = vec![(ops[0].name, OpValue::Bytes(ValueBytes::of(&3_u32)))];
        let records = vec![(ops[0].name.position, vec![(ObjectId(0), Record::new(&[4]))])];
        let values = vec![(ops[0].name, OpValue::Int(5))];
        let sent = FromShard::Reply(Reply { to: from, generation, results, values, records });
        let bytes = sent.encode(AlignedVec::new()).unwrap();
        assert_eq!(FromShard::decode(&bytes).unwrap(), sent);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_another_message(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            len in any::<prop::sample::Index>(),
        ) {
            let mut bytes = bytes(&ToShard::Batch(batch()));
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let shorter = len.index(bytes.len());
            for bytes in [&bytes[..], &bytes[..shorter]] {
                if let Ok(message) = ToShard::decode(bytes) {
                    // Whatever it is, it can be looked at.
                    let shown = format!("{message:?}");
                    prop_assert!(!shown.is_empty());
                }
            }
        }
    }
}
