//! The portscan detector says what an independent implementation of its algorithm says, of real
//! captures and under every rule. `trw_matrix` compares all captures; here are those with a verdict.

use chc_e2e::trw::{Capture, ENDINGS, Table, compare, shared};

#[test]
fn detector_agrees_with_the_oracle_on_every_capture_with_a_verdict() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let tables = ENDINGS
        .map(|ending| (ending, Table::read(&shared.join("oracles/expected").join(ending.table)).unwrap()));
    let mut files: Vec<String> =
        tables.iter().flat_map(|(_, table)| table.flagged_files()).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    assert!(files.len() >= 6, "{files:?}");
    let mut compared_all = 0;
    for file in files {
        let capture = Capture::read(&shared.join("traces").join(&file)).unwrap();
        for (ending, table) in &tables {
            let (compared, differences) = compare(&capture, table, &file, ending).unwrap();
            assert!(differences.is_empty(), "{differences:#?}");
            compared_all += compared;
        }
    }
    assert!(compared_all >= 3_000, "{compared_all} verdicts");
}

#[test]
fn detector_agrees_with_the_oracle_on_the_composed_capture() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let composed = shared.join("traces/composed");
    let table = Table::read(&composed.join("trw_oracle_t3_eof.tsv")).unwrap();
    let capture = Capture::read(&composed.join("trojan11_mix.pcap")).unwrap();
    let (compared, differences) =
        compare(&capture, &table, "composed_dev/trojan11_mix.pcap", &ENDINGS[1]).unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(compared, 34 * 24);
}
