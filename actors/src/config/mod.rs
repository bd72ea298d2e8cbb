//! The chain file: reading, overriding, checking, and the same in code.
//!
//! A **chain file** ([`Format`]) becomes a tree of values that know their line; **overrides** (`--set
//! KEY=VALUE`) replace values of the tree; the **check** turns it into a [`ChainConfig`] or into
//! [`Diagnostics`]: every mistake at once, each with file, line, key, what is wrong and what would be right.
//! A network function's own keys are checked by the function, through [`NfRegistry`]; where it complains, the
//! check knows the line.
//!
//! A [`ChainConfig`] that came out of here has passed every check, whether from a file or from a
//! [`ChainBuilder`].

mod builder;
mod check;
mod diagnostic;
mod file;
mod graph;
mod interfaces;
mod model;
mod roots;
mod section;
#[cfg(test)]
mod tests;

pub use builder::{ChainBuilder, VertexBuilder};
pub use diagnostic::{Diagnostic, Diagnostics, nearest};
pub use file::Format;
pub use model::{
    ApiConfig, Backend, ChainConfig, Delete, Edge, EgressConfig, INSTANCES_MAX, IoConfig, IoMode, Next,
    Order, Placement, PolicyConfig, Poll, RootConfig, RootLog, RuntimeConfig, StoreConfig, StoreMode,
    VertexConfig,
};

use crate::functions::NfRegistry;
use diagnostic::Report;
use std::path::Path;

/// Reads, overrides and checks the chain file at `path`; its extension says the notation. `overrides` are the
/// values of `--set`, applied in order. The error has every mistake found.
pub fn load(
    path: &Path,
    overrides: &[String],
    registry: &dyn NfRegistry,
) -> Result<ChainConfig, Diagnostics> {
    let file = path.display().to_string();
    let refuse = |problem: String, remedy: &str| {
        Diagnostics(vec![Diagnostic {
            file: file.clone(),
            line: None,
            key: String::new(),
            problem,
            remedy: remedy.to_owned(),
        }])
    };
    let Some(format) = Format::of(path) else {
        return Err(refuse(
            "the notation is unknown".to_owned(),
            "give a file ending in .toml, .yaml, .yml or .json",
        ));
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        refuse(format!("cannot be read: {error}"), "give a text file that exists and is readable")
    })?;
    load_text(&file, format, &text, overrides, registry)
}

/// As [`load`], for a text at hand; `file` is what diagnostics call it.
pub fn load_text(
    file: &str,
    format: Format,
    text: &str,
    overrides: &[String],
    registry: &dyn NfRegistry,
) -> Result<ChainConfig, Diagnostics> {
    let mut report = Report::default();
    let Some(mut root) = file::parse(format, text, &mut report) else {
        return Err(report.into_diagnostics(file, overrides));
    };
    file::apply_overrides(&mut root, overrides, &mut report);
    let chain = check::check(&root, registry, &mut report);
    if report.is_empty() { Ok(chain) } else { Err(report.into_diagnostics(file, overrides)) }
}
