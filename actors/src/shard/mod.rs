//! A store shard as an actor; its core is [`chc_store::engine::ShardEngine`].

pub mod actor;
