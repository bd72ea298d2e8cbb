//! The state a chain that has run leaves behind, in a file of the directory `store.checkpoint_dir`.
//!
//! It has one [`Entry`] a line, in order, and takes its place when it is complete.

use super::compile::ChainPlan;
use super::listing::{Entry, Page, Query, entries};
use super::state::ChainState;
use anyhow::Context as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// The socket of a chain that runs with this directory.
#[must_use]
pub fn socket_of(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("state.jsonl")
}

/// Writes the state of a chain that has run.
///
/// # Errors
/// If the directory cannot be written to.
pub fn keep(dir: &Path, plan: &ChainPlan, state: &ChainState) -> anyhow::Result<()> {
    let write = || -> anyhow::Result<()> {
        fs::create_dir_all(dir)?;
        let (file, part) = (file_of(dir), dir.join("state.jsonl.part"));
        let mut out = BufWriter::new(File::create(&part)?);
        for entry in entries(plan, state) {
            serde_json::to_writer(&mut out, &entry)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        out.get_ref().sync_all()?;
        Ok(fs::rename(part, file)?)
    };
    write().with_context(|| format!("store.checkpoint_dir {}", dir.display()))
}

/// A page of what a chain that has run with this directory left.
///
/// # Errors
/// If none has, or what it left cannot be read.
pub fn read(dir: &Path, query: &Query) -> anyhow::Result<Page> {
    let file = file_of(dir);
    let opened = File::open(&file).with_context(|| {
        format!("{}: no chain runs or has run with this directory; run it first", file.display())
    })?;
    let lines = BufReader::new(opened).lines().enumerate();
    query.page(lines.map(|(at, line)| -> anyhow::Result<Entry> {
        serde_json::from_str(&line?).with_context(|| format!("{}:{}", file.display(), at + 1))
    }))
}
