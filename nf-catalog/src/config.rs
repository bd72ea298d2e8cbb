//! Configuration keys of network functions: read with all their problems at once.

use core::net::Ipv4Addr;
use serde_json::{Map, Value};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One thing wrong with a configuration, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key it is about; empty when it is about the whole.
    pub key: String,
    /// What is wrong, with the value found.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// The keys of one network function while they are read. A key that is missing has its default; a
/// problem is noted and the default stands in, so that reading goes on to the next one.
pub struct Keys<'a> {
    map: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
    problems: Vec<ConfigProblem>,
}

impl<'a> Keys<'a> {
    /// The keys of a table; anything else is a problem.
    pub fn new(config: &'a Value) -> Self {
        let mut keys = Keys { map: config.as_object(), known: Vec::new(), problems: Vec::new() };
        if keys.map.is_none() && !config.is_null() {
            keys.problem("", format!("the configuration is {config}"), "write a table of keys");
        }
        keys
    }

    /// Notes a problem with a key.
    pub fn problem(&mut self, key: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(ConfigProblem { key: key.into(), problem: problem.into(), remedy: remedy.into() });
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map?.get(key)
    }

    /// Whether a key is there.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)], default: T) -> T {
        let Some(value) = self.value(key) else { return default };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| value.as_str() == Some(*word)) {
            return *choice;
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.problem(key, format!("{value} is no choice"), format!("write one of {}", words.join(", ")));
        default
    }

    /// True or false.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            self.problem(key, format!("{value} is neither true nor false"), "write true or false");
            default
        })
    }

    /// A number within `range`.
    pub fn number(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let Some(value) = self.value(key) else { return default };
        match value.as_f64() {
            Some(number) if range.contains(&number) => number,
            found => {
                let what = if found.is_some() { "out of range" } else { "not a number" };
                let remedy = format!("write a number from {} to {}", range.start(), range.end());
                self.problem(key, format!("{value} is {what}"), remedy);
                default
            }
        }
    }

    /// A time-out in seconds, from a millisecond to a week.
    pub fn seconds(&mut self, key: &'static str, default: f64) -> Duration {
        Duration::from_secs_f64(self.number(key, default, 0.001..=604_800.0))
    }

    /// How long something is kept, in seconds from a millisecond to a year; `None`, for ever, when the key is missing.
    pub fn kept_seconds(&mut self, key: &'static str) -> Option<Duration> {
        let is_there = self.has(key);
        let seconds = self.number(key, 1.0, 0.001..=31_622_400.0);
        is_there.then(|| Duration::from_secs_f64(seconds))
    }

    /// A text; `None` when the key is missing or something else.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        if value.as_str().is_none() {
            self.problem(key, format!("{value} is no text"), "write it in quotes");
        }
        value.as_str()
    }

    /// A list of tables, empty when the key is missing.
    pub fn tables(&mut self, key: &'static str) -> Vec<&'a Value> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let tables = value.as_array().filter(|list| list.iter().all(Value::is_object));
        if tables.is_none() {
            self.problem(key, format!("{value} is no list of tables"), "write [{ ... }, { ... }]");
        }
        tables.map(|list| list.iter().collect()).unwrap_or_default()
    }

    /// A list of texts; `None` when the key is missing.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<&'a str>> {
        let value = self.value(key)?;
        let texts: Option<Vec<&str>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        if texts.is_none() {
            self.problem(key, format!("{value} is no list of texts"), "write [\"...\", \"...\"]");
        }
        Some(texts.unwrap_or_default())
    }

    /// An inclusive range of port numbers, `"lo-hi"`.
    pub fn ports(&mut self, key: &'static str, default: (u16, u16)) -> (u16, u16) {
        let Some(value) = self.value(key) else { return default };
        let range = value.as_str().and_then(|text| text.split_once('-'));
        let range = range.and_then(|(lo, hi)| Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?)));
        match range {
            Some((lo, hi)) if lo <= hi && lo > 0 => (lo, hi),
            _ => {
                self.problem(
                    key,
                    format!("{value} is no range of ports"),
                    "write \"LO-HI\" with 1 <= LO <= HI <= 65535, such as \"1024-65535\"",
                );
                default
            }
        }
    }

    /// Notes the keys nobody asked for and returns all problems.
    pub fn finish(mut self) -> Vec<ConfigProblem> {
        for key in self.map.into_iter().flat_map(Map::keys) {
            if !self.known.contains(&key.as_str()) {
                let remedy = format!("the keys are {}", self.known.join(", "));
                self.problems.push(ConfigProblem { key: key.clone(), problem: "unknown key".into(), remedy });
            }
        }
        self.problems
    }
}

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: u32,
    pub(crate) mask: u32,
}

impl Prefix {
    /// Reads `a.b.c.d/n`; a problem and its remedy if it is none.
    pub(crate) fn parse(text: &str) -> Result<Prefix, (String, String)> {
        let bad = || {
            (format!("\"{text}\" is no IPv4 prefix"), "write ADDRESS/LENGTH, such as 10.0.0.0/8".to_string())
        };
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let length: u32 = length.parse().ok().filter(|length| *length <= 32).ok_or_else(bad)?;
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let network = address.to_bits() & mask;
        if network != address.to_bits() {
            let right = Ipv4Addr::from_bits(network);
            return Err((
                format!("\"{text}\" has bits set behind its length"),
                format!("write {right}/{length}"),
            ));
        }
        Ok(Prefix { address: network, mask })
    }

    #[inline]
    pub(crate) fn contains(&self, address: u32) -> bool {
        address & self.mask == self.address
    }

    pub(crate) fn overlaps(&self, other: &Prefix) -> bool {
        (self.address ^ other.address) & self.mask & other.mask == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.address), self.mask.leading_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = json!({"mode": "fast", "limit": 7, "on": 1, "ports": "9-3", "more": 0});
        let mut keys = Keys::new(&config);
        assert_eq!(keys.choice("mode", &[("slow", 1), ("careful", 2)], 1), 1);
        assert_eq!(keys.number("limit", 0.5, 0.0..=1.0), 0.5);
        assert!(keys.flag("on", true));
        assert_eq!(keys.ports("ports", (1024, 65535)), (1024, 65535));
        let problems = keys.finish();
        let named: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(named, ["mode", "limit", "on", "ports", "more"]);
        assert_eq!(
            problems[0].to_string(),
            "mode: \"fast\" is no choice; write one of \"slow\", \"careful\""
        );
    }

    #[test]
    fn missing_keys_have_their_defaults() {
        let mut keys = Keys::new(&Value::Null);
        assert_eq!(keys.seconds("idle_s", 2.5), Duration::from_millis(2500));
        assert_eq!(keys.texts("list"), None);
        assert_eq!(keys.finish(), []);
    }

    #[test]
    fn prefixes_with_host_bits_are_refused_with_the_right_one() {
        assert_eq!(Prefix::parse("10.1.0.0/8").unwrap_err().1, "write 10.0.0.0/8");
        assert!(Prefix::parse("10.0.0.0/33").is_err() && Prefix::parse("10.0.0.0").is_err());
        assert!(Prefix::parse("0.0.0.0/0").unwrap().contains(u32::MAX));
    }

    #[test]
    fn prefixes_overlap_when_one_holds_the_other() {
        let prefix = |text| Prefix::parse(text).unwrap();
        assert!(prefix("10.0.0.0/8").overlaps(&prefix("10.5.0.0/16")));
        assert!(prefix("10.5.0.0/16").overlaps(&prefix("10.0.0.0/8")));
        assert!(!prefix("10.4.0.0/16").overlaps(&prefix("10.5.0.0/16")));
    }
}
