//! See the crate description.

pub mod actor;
pub mod arbiter;
mod background;
pub mod block;
pub mod capture;
pub mod http;
pub mod io;
pub mod link;
pub mod mailbox;
pub mod service;
pub mod signals;
pub mod supervision;
