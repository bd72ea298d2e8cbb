//! Compares the portscan detector with the independent oracle on every capture, under every rule:
//! `cargo run -p chc-e2e --bin trw_matrix`, in the ideal chain, or with `-- --real` in the real one.
//! Exits with 1 if any verdict differs.

use anyhow::{Context as _, Result, bail};
use chc_e2e::trw::{Capture, Detector, ENDINGS, Rule, Table, captures, compare, ideal, real, shared};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let detector: Detector = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => ideal,
        ["--real"] => real,
        _ => bail!("usage: trw_matrix [--real]"),
    };
    let shared = shared().context("../shared/traces not present")?;
    let traces = shared.join("traces");
    let mut files = captures(&traces)?;
    files.retain(|path| !path.starts_with(traces.join("composed")));
    let tables = ENDINGS.map(|ending| Table::read(&shared.join("oracles/expected").join(ending.table)));
    let (mut compared_all, mut different, mut packets, mut unreadable) = (0, 0, 0, 0);
    for path in &files {
        let file = path.strip_prefix(&traces)?.to_string_lossy();
        let capture = match Capture::read(path) {
            Ok(capture) => Arc::new(capture),
            Err(error) => {
                eprintln!("{file}: {error:#}");
                unreadable += 1;
                continue;
            }
        };
        packets += capture.len();
        for (ending, table) in ENDINGS.iter().zip(&tables) {
            let table = table.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let (compared, differences) = compare(&capture, (table, &file), ending, &Rule::all(), detector)?;
            compared_all += compared;
            different += differences.len();
            for difference in differences {
                println!("{difference}");
            }
        }
    }
    println!(
        "{} captures, {packets} packets, {compared_all} verdicts compared, {different} differ, \
         {unreadable} unreadable",
        files.len()
    );
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
