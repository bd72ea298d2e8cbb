//! The wiring of the egress.

use super::core::{EgressCore, EgressCounts, Sink};
use crate::chain::wire::{DataMessage, Links, RootControl};
use crate::messages::RootEvent;
use chc_api::{All, Clock};
use chc_runtime::actor::{Actor, Cx};

/// What the egress is told besides data.
pub enum EgressControl {
    /// The chain's cut moved.
    Cut(Clock),
    /// Somebody wants to know what was counted.
    Status(flume::Sender<EgressCounts>),
    /// Everything has left: finish the sink and say what was counted.
    Finish(flume::Sender<EgressCounts>),
}

/// The actor.
pub struct EgressActor<S> {
    core: EgressCore<All>,
    sink: S,
    links: Links,
}

impl<S: Sink> EgressActor<S> {
    /// An egress that hands everything to `sink`.
    pub fn new(core: EgressCore<All>, sink: S, links: Links) -> Self {
        Self { core, sink, links }
    }
}

impl<S: Sink + Send + 'static> Actor for EgressActor<S> {
    type Control = EgressControl;
    type Data = DataMessage;

    fn on_control(&mut self, message: EgressControl, _cx: &mut Cx) {
        match message {
            EgressControl::Cut(cut) => self.core.trim(cut),
            // Whoever asked may have given up.
            EgressControl::Status(reply) => drop(reply.send(self.core.counts.clone())),
            EgressControl::Finish(reply) => {
                self.sink.finish();
                // Whoever asked may have given up.
                let _ = reply.send(self.core.counts.clone());
            }
        }
    }

    fn on_data(&mut self, DataMessage(data): DataMessage, _cx: &mut Cx) {
        self.core.on_data(&data, &mut self.sink);
    }

    fn drained(&mut self, _cx: &mut Cx) {
        self.sink.flush();
        if let Some(boundary) = self.core.close() {
            self.links.tell_first_root(RootControl::Event(RootEvent::EgressClosed(boundary)));
        }
    }
}
