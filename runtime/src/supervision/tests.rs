//! The policy against its invariants; supervisors over real arbiters, by phase and failure.

use super::*;
use crate::actor::{Actor, ActorOptions, Birth, Cx};
use crate::arbiter::Arbiters;
use crate::mailbox::{Address, Handle, Packets};

const LONG: Duration = Duration::from_secs(20);

mod pure;
mod wired;
