//! Captures as inputs: making synthetic ones and telling what is in any.

mod conversation;
mod frame;
mod generate;
mod info;
mod rng;
#[cfg(test)]
mod tests;
mod trojan;

pub use generate::{GenerateError, GenerateOptions, GeneratedPacket, Generator, Profile, write};
pub use info::{TraceInfo, info};
