//! The portscan detector says what an independent implementation of its algorithm says, of real
//! captures: the ideal chain under every rule, the real one under two. `trw_matrix` compares all captures;
//! here are those with a verdict.

use chc_e2e::trw::{
    Capture, Detector, ENDINGS, Ending, Rule, Table, behind_nat, compare, ideal, real, shared,
};
use std::path::Path;
use std::sync::Arc;

/// A capture and its name in the tables.
struct Case {
    capture: Arc<Capture>,
    file: String,
}

/// The tables, and every capture in which one of them flags a host.
fn cases(shared: &Path) -> (Vec<(Ending, Table)>, Vec<Case>) {
    let table = |ending: Ending| Table::read(&shared.join("oracles/expected").join(ending.table)).unwrap();
    let tables = Vec::from(ENDINGS.map(|ending| (ending, table(ending))));
    let flagged = tables.iter().flat_map(|(_, table)| table.flagged_files());
    let mut files: Vec<String> = flagged.map(str::to_owned).collect();
    files.sort();
    files.dedup();
    assert!(files.len() >= 10, "{files:?}");
    let read = |file: String| {
        let capture = Arc::new(Capture::read(&shared.join("traces").join(&file)).unwrap());
        Case { capture, file }
    };
    (tables, files.into_iter().map(read).collect())
}

fn composed(shared: &Path) -> (Table, Case) {
    let composed = shared.join("traces/composed");
    let table = Table::read(&composed.join("trw_oracle_t3_eof.tsv")).unwrap();
    let capture = Arc::new(Capture::read(&composed.join("trojan11_mix.pcap")).unwrap());
    (table, Case { capture, file: "composed_dev/trojan11_mix.pcap".into() })
}

/// Two rules that flag hosts: every attempt on the reflected walk, first contacts on the restarting one.
fn two_rules() -> [Rule; 2] {
    let rules = Rule::all();
    ["every/floor/0.01", "fcp/restart/0.01"]
        .map(|column| *rules.iter().find(|rule| rule.column() == column).unwrap())
}

/// Compares all cases; returns how many verdicts agreed, and how many of them were flags.
fn agree(tables: &[(Ending, Table)], cases: &[Case], rules: &[Rule], detector: Detector) -> (usize, usize) {
    let (mut agreed, mut flags) = (0, 0);
    for Case { capture, file } in cases {
        for (ending, table) in tables {
            let (compared, differences) = compare(capture, (table, file), ending, rules, detector).unwrap();
            assert!(differences.is_empty(), "{differences:#?}");
            agreed += compared;
            flags += rules.iter().map(|rule| table.flagged(file, rule).unwrap()).sum::<usize>();
        }
    }
    (agreed, flags)
}

#[test]
fn detector_agrees_with_the_oracle_on_every_capture_with_a_verdict() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let (tables, cases) = cases(&shared);
    let (agreed, flags) = agree(&tables, &cases, &Rule::all(), ideal);
    assert!(agreed >= 3_000 && flags >= 100, "{agreed} verdicts, {flags} flags");
}

#[test]
fn detector_agrees_with_the_oracle_on_the_composed_capture() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let (table, case) = composed(&shared);
    let (agreed, _) = agree(&[(ENDINGS[1], table)], &[case], &Rule::all(), ideal);
    assert_eq!(agreed, 34 * 24);
}

#[test]
fn the_real_chain_agrees_with_the_oracle_to_the_packet() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let (tables, cases) = cases(&shared);
    let (agreed, flags) = agree(&tables, &cases, &two_rules(), real);
    assert!(agreed >= 250 && flags >= 40, "{agreed} verdicts, {flags} flags");
    let (table, case) = composed(&shared);
    let (agreed, _) = agree(&[(ENDINGS[1], table)], &[case], &two_rules(), real);
    assert_eq!(agreed, 34 * 2);
}

#[test]
fn behind_a_translator_the_real_chain_flags_the_hosts_the_oracle_flags_and_no_others() {
    let Some(shared) = shared() else {
        println!("skipped: ../shared/traces not present");
        return;
    };
    let rule = two_rules()[0];
    let (tables, cases) = cases(&shared);
    let (composed_table, composed_case) = composed(&shared);
    let (_, t3) = tables.iter().find(|(ending, _)| ending.table == "trw_t3.tsv").unwrap();
    let (mut flags, mut clean) = (0, 0);
    let all = cases.iter().map(|case| (case, t3, ENDINGS[0]));
    for (case, table, ending) in all.chain([(&composed_case, &composed_table, ENDINGS[1])]) {
        let ours = behind_nat(&case.capture, &rule, &ending).unwrap();
        for (key, (host, expected)) in table.verdicts(&case.file, &rule).unwrap() {
            let found = ours.get(&key).map(|verdict| verdict.flagged != "-");
            let is_flagged = expected.flagged != "-";
            assert_eq!(found, Some(is_flagged), "{} {host}: {expected:?}, {:?}", case.file, ours.get(&key));
            flags += usize::from(is_flagged);
            clean += usize::from(!is_flagged);
        }
    }
    assert!(flags >= 9 && clean >= 50, "{flags} flagged, {clean} not");
}
