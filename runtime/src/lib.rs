//! See the crate description.

pub mod actor;
pub mod arbiter;
pub mod block;
pub mod capture;
pub mod link;
pub mod mailbox;
pub mod supervision;
