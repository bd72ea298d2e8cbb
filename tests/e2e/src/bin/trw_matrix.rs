//! Compares the portscan detector with the independent oracle on every capture, under every rule:
//! `cargo run -p chc-e2e --bin trw_matrix`. Exits with 1 if any verdict differs.

use anyhow::{Context as _, Result};
use chc_e2e::trw::{Capture, ENDINGS, Table, captures, compare, shared};
use std::process::ExitCode;

fn main() -> Result<ExitCode> {
    let shared = shared().context("../shared/traces not present")?;
    let traces = shared.join("traces");
    let mut files = captures(&traces)?;
    files.retain(|path| !path.starts_with(traces.join("composed")));
    let (mut compared_all, mut different, mut packets, mut unreadable) = (0, 0, 0, 0);
    for ending in ENDINGS {
        let table = Table::read(&shared.join("oracles/expected").join(ending.table))?;
        for path in &files {
            let file = path.strip_prefix(&traces)?.to_string_lossy();
            let capture = match Capture::read(path) {
                Ok(capture) => capture,
                Err(error) => {
                    eprintln!("{file}: {error:#}");
                    unreadable += 1;
                    continue;
                }
            };
            packets += capture.len();
            let (compared, differences) = compare(&capture, &table, &file, &ending)?;
            compared_all += compared;
            different += differences.len();
            for difference in differences {
                println!("{difference}");
            }
        }
    }
    println!(
        "{} captures, {packets} packets, {compared_all} verdicts compared, {different} differ, \
         {unreadable} times unreadable",
        files.len()
    );
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
