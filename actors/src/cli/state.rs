//! `chc state`: what the objects of a chain hold.

use super::up::socket;
use super::{Exit, Overrides, config, report};
use crate::chain::compile::{ChainPlan, compile};
use crate::chain::kept;
use crate::chain::listing::{Cursor, LIMIT_MAX, Page, Query};
use crate::control::client::{self, AskError};
use crate::functions::Catalog;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Longest list that is shown in a table.
const LIST_SHOWN: usize = 8;

/// What to show.
#[derive(Args)]
pub struct StateArgs {
    /// The chain file; its store.checkpoint_dir, or else its api.socket, says where the chain runs or has run.
    chain: PathBuf,
    /// Objects of this vertex alone.
    #[arg(long)]
    vertex: Option<String>,
    /// Objects of this name alone.
    #[arg(long)]
    object: Option<String>,
    /// Entries at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_MAX)))]
    limit: u32,
    /// Where to go on: the cursor an earlier call ended with.
    #[arg(long, value_parser = |text: &str| Cursor::try_from(text.to_owned()))]
    cursor: Option<Cursor>,
    #[command(flatten)]
    overrides: Overrides,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn execute(args: StateArgs) -> Result<(), Exit> {
    let config = config(&args.chain, &args.overrides.set)?;
    let plan = compile(&config, &Catalog)?;
    check_names(&plan, &args)?;
    let query = Query { vertex: args.vertex, object: args.object, limit: args.limit, cursor: args.cursor };
    let page = match config.store.checkpoint_dir.as_ref().map(PathBuf::from) {
        Some(dir) => match client::state(&kept::socket_of(&dir), &query) {
            Err(AskError::NoChain(_)) => kept::read(&dir, &query)?,
            other => other?,
        },
        None => {
            let socket = socket(&config);
            match running(&socket, &config.name).and_then(|()| client::state(&socket, &query)) {
                Err(AskError::NoChain(error)) => {
                    return Err(Exit::Usage(format!(
                        "{}: it keeps no state when it has run, and does not run now ({error:#}); set \
                         store.checkpoint_dir, for the run, too",
                        args.chain.display()
                    )));
                }
                other => other?,
            }
        }
    };
    if args.json { report::print_json(&page) } else { report::print_text(&table(&page)) }
}

/// The chain that answers at a socket has this name.
fn running(socket: &Path, name: &str) -> Result<(), AskError> {
    #[derive(Deserialize)]
    struct Named {
        chain: String,
    }
    let Named { chain } = client::get(socket, "/v1/status")?;
    if chain == name {
        return Ok(());
    }
    let mistake = format!("the chain that runs with this socket is \"{chain}\", not \"{name}\"");
    Err(AskError::Mistake(format!(
        "{}: {mistake}; give its chain file, or another api.socket",
        socket.display()
    )))
}

/// A name that is not there is a mistake, not an empty answer.
fn check_names(plan: &ChainPlan, args: &StateArgs) -> Result<(), Exit> {
    let asked = |name: &str| args.vertex.as_deref().is_none_or(|vertex| vertex == name);
    let vertices: Vec<_> = plan.vertices.iter().filter(|vertex| asked(&vertex.name)).collect();
    let unknown = |flag: &str, name: &str, known: Vec<&str>| {
        Err(Exit::Usage(format!("{flag}: there is no \"{name}\"; there are {}", known.join(", "))))
    };
    if let Some(vertex) = args.vertex.as_ref().filter(|_| vertices.is_empty()) {
        return unknown(
            "--vertex",
            vertex,
            plan.vertices.iter().map(|vertex| vertex.name.as_str()).collect(),
        );
    }
    let objects = vertices.iter().flat_map(|vertex| &vertex.function.declarations.objects);
    let mut known: Vec<&str> = objects.map(|object| object.name).collect();
    known.sort_unstable();
    known.dedup();
    match &args.object {
        Some(object) if !known.contains(&object.as_str()) => unknown("--object", object, known),
        _ => Ok(()),
    }
}

fn table(page: &Page) -> String {
    let mut text = String::new();
    let width = |of: fn(&crate::chain::listing::Entry) -> &str| {
        page.objects.iter().map(|entry| of(entry).chars().count()).max().unwrap_or(0)
    };
    let (vertex, object, key) = (width(|e| &e.vertex), width(|e| &e.object), width(|e| &e.key));
    for entry in &page.objects {
        let value = match &entry.value {
            Value::String(bytes) => bytes.clone(),
            Value::Object(taken) => format!("{} taken", taken.len()),
            Value::Array(list) if list.len() > LIST_SHOWN => format!("{} elements", list.len()),
            other => other.to_string(),
        };
        let _ =
            write!(text, "{:vertex$}  {:object$}  {:key$}  {value}", entry.vertex, entry.object, entry.key);
        let timers = entry.timers.len();
        let armed = if timers > 0 { format!("  ({timers} armed)\n") } else { "\n".to_owned() };
        text.push_str(&armed);
    }
    if let Some(cursor) = &page.cursor {
        let _ = writeln!(text, "more: --cursor {}", String::from(cursor.clone()));
    }
    text
}
