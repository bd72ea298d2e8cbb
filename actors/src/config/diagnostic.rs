//! What is wrong with a configuration, where, and what would be right.

use serde::Serialize;
use std::fmt;

/// One mistake in a chain file, in an override or in a builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file; for an override `--set KEY=VALUE` itself; for a builder `chain NAME`.
    pub file: String,
    /// Line in the file, from 1. None where the format keeps no positions (YAML, JSON), for overrides and
    /// builders.
    pub line: Option<usize>,
    /// Path of the key, e.g. `vertex.nat.config.external[1]`; empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong, with the value found.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// Every mistake found in one configuration: by line, then those without a line, then overrides. Prints one a
/// line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Where a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// This line of the file, from 1.
    Line(usize),
    /// Somewhere in the file, or in a builder.
    Whole,
    /// The override of this index.
    Override(usize),
}

/// A mistake before its place is put into words.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

/// Collects mistakes; nothing stops at the first.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn push(
        &mut self,
        place: Place,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem {
            place,
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// What was reported, by place; `file` and `overrides` name the places.
    pub(crate) fn into_diagnostics(mut self, file: &str, overrides: &[String]) -> Diagnostics {
        self.problems.sort_by_key(|p| p.place);
        let diagnostics = self.problems.into_iter().map(|p| {
            let (file, line) = match p.place {
                Place::Line(line) => (file.to_owned(), Some(line)),
                Place::Whole => (file.to_owned(), None),
                Place::Override(i) => (format!("--set {}", overrides.get(i).map_or("", |s| s)), None),
            };
            Diagnostic { file, line, key: p.key, problem: one_line(&p.problem), remedy: one_line(&p.remedy) }
        });
        Diagnostics(diagnostics.collect())
    }
}

/// Parsers draw their messages over several lines; a diagnostic is one.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The candidate closest to `name`, if it is close enough for a slip of the hand: at most a third of the
/// letters differ (one at least), transpositions counting as one.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and adjacent transpositions.
fn distance(a: &str, b: &str) -> usize {
    // A name a thousand letters long is nobody's slip; this bounds the work on a hostile file.
    const LETTERS_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(LETTERS_MAX).collect();
    let b: Vec<char> = b.chars().take(LETTERS_MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `did you mean "x"?`, or all the choices when none is near.
pub(crate) fn suggest(name: &str, candidates: &[&str]) -> String {
    match nearest(name, candidates.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if candidates.is_empty() => "remove it".to_owned(),
        None => format!("use one of {}", candidates.join(", ")),
    }
}
