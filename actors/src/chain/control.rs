//! Where the state of a chain can be seen from outside: a socket while it runs, and a file when it has run.
//!
//! Both lie in the directory `store.checkpoint_dir`. On the socket a [`Query`] is one line of JSON, and so is the
//! answer. The file has one [`Entry`] a line, in order, and takes its place when it is complete.
//!
//! A query on a running chain copies the state the shards have (every epoch what instances changed is there, too);
//! a shard does nothing else meanwhile, in time that grows with its state.

use super::compile::ChainPlan;
use super::listing::{Entry, Page, Query, entries};
use super::state::{ChainState, collect};
use super::wire::Addresses;
use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 64 << 10;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

fn socket_of(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("state.jsonl")
}

/// Answers queries on a running chain until it is dropped.
pub struct ControlServer {
    socket: PathBuf,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Listens in a directory, which is made if need be.
    ///
    /// # Errors
    /// If that is not possible, or another run listens there.
    pub fn start(dir: &Path, plan: &ChainPlan, addresses: &Arc<Addresses>) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("store.checkpoint_dir {}", dir.display()))?;
        let socket = socket_of(dir);
        if UnixStream::connect(&socket).is_ok() {
            bail!("{}: another run uses this directory; give this one its own", dir.display());
        }
        // What a run that died has left behind.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let ended = Arc::new(AtomicBool::new(false));
        let (plan, addresses, until) = (plan.clone(), addresses.clone(), ended.clone());
        let serve = move || {
            for stream in listener.incoming() {
                if until.load(Ordering::Acquire) {
                    return;
                }
                let answered = stream.map_err(Into::into).and_then(|s| answer(s, &plan, &addresses));
                if let Err(error) = answered {
                    tracing::warn!("a query was not answered: {error:#}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve)?;
        Ok(Self { socket, ended, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the thread up; it ends without an answer.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer(stream: UnixStream, plan: &ChainPlan, addresses: &Addresses) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(&stream).take(REQUEST_MAX).read_line(&mut line)?;
    let page = serde_json::from_str::<Query>(&line)
        .map_err(|error| anyhow!("this is no query: {error}"))
        .and_then(|query| query.page(entries(plan, &collect(plan, addresses)?).map(Ok)));
    let answer = match page {
        Ok(page) => serde_json::to_value(page)?,
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    let mut out = BufWriter::new(&stream);
    serde_json::to_writer(&mut out, &answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
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

/// Asks a chain that runs, or has run, with this directory.
///
/// # Errors
/// If none has, or what it left cannot be read.
pub fn ask(dir: &Path, query: &Query) -> anyhow::Result<Page> {
    match UnixStream::connect(socket_of(dir)) {
        Ok(stream) => ask_running(&stream, query),
        Err(_) => read(&file_of(dir), query),
    }
}

fn ask_running(stream: &UnixStream, query: &Query) -> anyhow::Result<Page> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_string(query)?;
    request.push('\n');
    (&*stream).write_all(request.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).context("the running chain does not answer")?;
    if line.is_empty() {
        bail!("the chain ended while it was asked; ask again");
    }
    let answer: Value = serde_json::from_str(&line)?;
    if let Some(error) = answer.get("error") {
        bail!("the running chain cannot answer: {error}");
    }
    Ok(serde_json::from_value(answer)?)
}

fn read(file: &Path, query: &Query) -> anyhow::Result<Page> {
    let opened = File::open(file).with_context(|| {
        format!("{}: no chain runs or has run with this directory; run it first", file.display())
    })?;
    let lines = BufReader::new(opened).lines().enumerate();
    query.page(lines.map(|(at, line)| -> anyhow::Result<Entry> {
        serde_json::from_str(&line?).with_context(|| format!("{}:{}", file.display(), at + 1))
    }))
}
