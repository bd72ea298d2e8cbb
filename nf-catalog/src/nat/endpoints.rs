//! Endpoint-independent mapping: all connections of an internal endpoint have the same external address and port
//! (RFC 4787, REQ-1), and the filters that go with it decide which others may use it (REQ-8).
//!
//! | object | key | what it holds |
//! |---|---|---|
//! | `binding` | the internal endpoint | its external address and port, and how many connections use them |
//! | `peer` | the internal endpoint and a remote address | how many connections there are between them (`address_dependent` only) |
//!
//! Both are of the slot of the endpoint, as its connections are, and change with the first and the last of them only. A
//! packet from outside makes neither: what strangers send costs no memory.

use super::{Mapping, index};
use crate::config::Prefix;
use crate::locate::{class, ends};
use crate::rewrite::Address;
use chc_api::nf::FlowLookup;
use chc_api::state::FlowOptions;
use chc_api::{Context, Declarations, Flow, FlowKey};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which packets from outside reach an endpoint that has an external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// All.
    EndpointIndependent,
    /// Those from addresses to which it has a connection.
    AddressDependent,
    /// Those of its connections.
    AddressAndPortDependent,
}

/// The external end of an internal endpoint.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Binding {
    /// Clock of the packet that acquired the port.
    owner: u64,
    external: u32,
    port: u32,
    /// How many connections use it.
    connections: u64,
}

/// What the connections of an endpoint have in common.
#[derive(Clone)]
pub(super) struct Endpoints {
    internal: Arc<[Prefix]>,
    filtering: Filtering,
    binding: Flow<Binding>,
    /// How many connections there are to a remote address.
    peer: Option<Flow<u64>>,
}

fn index_of(key: &FlowKey, value: &[u8]) -> Option<u64> {
    let binding = Binding::read_from_bytes(value).ok()?;
    Some(index(binding.external, class(key.protocol())?, binding.port as u16))
}

impl Endpoints {
    pub(super) fn new(
        internal: Arc<[Prefix]>,
        filtering: Filtering,
        timeout_min: Duration,
        declarations: &mut Declarations,
    ) -> Self {
        let options = |index| FlowOptions { timers: 0, timeout_min, index };
        let binding = declarations.flow("binding", options(Some(index_of)));
        let peer = (filtering == Filtering::AddressDependent)
            .then(|| declarations.flow("peer", FlowOptions { timers: 0, timeout_min, index: None }));
        Self { internal, filtering, binding, peer }
    }

    /// The internal end of a connection, or of what is kept of an endpoint, and the other one.
    fn inner(&self, key: &FlowKey) -> Option<(Address, Address)> {
        let (low, high) = ends(key)?;
        // What is kept of an endpoint has 0.0.0.0 at the other end.
        let is_internal =
            |end: Address| end.ip != 0 && self.internal.iter().any(|prefix| prefix.contains(end.ip));
        if is_internal(low) { Some((low, high)) } else { is_internal(high).then_some((high, low)) }
    }

    /// What names the internal endpoint of a connection.
    pub(super) fn key(&self, key: &FlowKey) -> Option<FlowKey> {
        let (inner, _) = self.inner(key)?;
        Some(FlowKey::v4(key.protocol(), inner.ip, inner.port, 0, 0).0)
    }

    /// What names the internal endpoint of a connection and the remote address.
    fn peer_key(&self, key: &FlowKey) -> Option<FlowKey> {
        let (inner, remote) = self.inner(key)?;
        Some(FlowKey::v4(key.protocol(), inner.ip, inner.port, remote.ip, 0).0)
    }

    /// The internal endpoint that has this external address and port.
    pub(super) fn find<L: FlowLookup>(&self, records: &L, index: u64) -> Option<Address> {
        let key = records.find(self.binding, index)?;
        self.inner(&key).map(|(inner, _)| inner)
    }

    /// What a connection of this endpoint is mapped to, one or none.
    pub(super) fn mapping<C: Context>(&self, cx: &C, key: &FlowKey) -> Option<Mapping> {
        let Binding { owner, external, port, .. } = cx.get_at(self.binding, &self.key(key)?)?;
        Some(Mapping { external, port: port as u16, state: 0, owner })
    }

    /// Whether a packet from outside that is of no connection may pass.
    pub(super) fn admits<C: Context>(&self, cx: &C, key: &FlowKey) -> bool {
        match (self.filtering, self.peer) {
            (Filtering::EndpointIndependent, _) => true,
            (_, Some(peer)) => self.peer_key(key).is_some_and(|key| cx.get_at(peer, &key).is_some()),
            _ => false,
        }
    }

    /// A connection begins that is mapped so.
    pub(super) fn join<C: Context>(&self, cx: &C, key: &FlowKey, mapping: Mapping) {
        let Some(endpoint) = self.key(key) else { return };
        let known = cx.get_at(self.binding, &endpoint);
        let connections = known.map_or(0, |binding| binding.connections) + 1;
        let Mapping { owner, external, port, .. } = mapping;
        cx.put_at(self.binding, &endpoint, Binding { owner, external, port: port.into(), connections });
        if let Some((peer, key)) = self.peer.zip(self.peer_key(key)) {
            cx.put_at(peer, &key, cx.get_at(peer, &key).unwrap_or(0) + 1);
        }
    }

    /// A connection ends. Whether the endpoint has no other, and its port is free.
    pub(super) fn leave<C: Context>(&self, cx: &C, key: &FlowKey) -> bool {
        if let Some((peer, key)) = self.peer.zip(self.peer_key(key)) {
            match cx.get_at(peer, &key) {
                Some(others @ 2..) => cx.put_at(peer, &key, others - 1),
                _ => cx.remove_at(peer, &key),
            }
        }
        let Some(endpoint) = self.key(key) else { return true };
        match cx.get_at(self.binding, &endpoint) {
            Some(binding) if binding.connections > 1 => {
                let connections = binding.connections - 1;
                cx.put_at(self.binding, &endpoint, Binding { connections, ..binding });
                false
            }
            _ => {
                cx.remove_at(self.binding, &endpoint);
                true
            }
        }
    }
}
