//! State objects as they are listed: one JSON object each, in a fixed order, a page at a time.
//!
//! The order is by vertex, object name and key. A cursor names the last entry of a page; the next page begins behind
//! it, whether the entry is still there or not.

use super::compile::ChainPlan;
use super::state::ChainState;
use crate::ideal::{StateKey, StateValue, StateWord};
use chc_api::ObjectKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// Most entries of a page.
pub const LIMIT_MAX: u32 = 10_000;

/// One value of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The vertex's name.
    pub vertex: String,
    /// The object's name.
    pub object: String,
    /// What the value is kept under: a connection, a host, a number.
    pub key: String,
    /// A number; the bytes in hexadecimal; a list; or for a pool its taken members, each with the clock of the packet
    /// that took it.
    pub value: Value,
    /// Armed timers of a per-flow record: index, deadline in nanoseconds since the Unix epoch, whether the end of the
    /// input makes it due.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timers: Vec<Value>,
    /// The place of the entry in the order.
    pub cursor: Cursor,
}

/// A place in the order, as `vertex number:object:f or o:five words`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    vertex: u16,
    object: String,
    is_object: bool,
    words: [u64; 5],
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        let kind = if cursor.is_object { 'o' } else { 'f' };
        let words = cursor.words.map(|word| format!("{word:x}")).join("-");
        format!("{}:{}:{kind}:{words}", cursor.vertex, cursor.object)
    }
}

impl TryFrom<String> for Cursor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let [vertex, object, kind, words] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
            let words: Vec<u64> =
                words.split('-').map(|word| u64::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
            Some(Self {
                vertex: vertex.parse().ok()?,
                object: object.to_owned(),
                is_object: match kind {
                    "o" => true,
                    "f" => false,
                    _ => return None,
                },
                words: words.try_into().ok()?,
            })
        };
        read().ok_or_else(|| format!("\"{text}\" is no cursor; give one that an earlier page ended with"))
    }
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Query {
    /// Of this vertex alone.
    pub vertex: Option<String>,
    /// Of objects of this name alone.
    pub object: Option<String>,
    /// At most as many.
    pub limit: u32,
    /// Only behind this place.
    pub cursor: Option<Cursor>,
}

/// Some entries in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// The entries.
    pub objects: Vec<Entry>,
    /// Where the next page begins; none if this is the last.
    pub cursor: Option<Cursor>,
}

impl Query {
    /// The page of these entries, which come in order.
    ///
    /// # Errors
    /// The first error among the entries.
    pub fn page<E>(&self, entries: impl Iterator<Item = Result<Entry, E>>) -> Result<Page, E> {
        let mut page = Page::default();
        for entry in entries {
            let entry = entry?;
            let fits = |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|w| w == name);
            let is_behind = self.cursor.as_ref().is_none_or(|cursor| entry.cursor > *cursor);
            if !is_behind || !fits(&self.vertex, &entry.vertex) || !fits(&self.object, &entry.object) {
                continue;
            }
            if page.objects.len() == self.limit.min(LIMIT_MAX) as usize {
                page.cursor = page.objects.last().map(|last| last.cursor.clone());
                break;
            }
            page.objects.push(entry);
        }
        Ok(page)
    }
}

/// A chain's state as entries, in order.
pub fn entries<'a>(plan: &'a ChainPlan, state: &'a ChainState) -> impl Iterator<Item = Entry> + 'a {
    state.iter().map(|(key, value)| entry(plan, key, value))
}

fn entry(plan: &ChainPlan, (vertex, object, word): &StateKey, value: &StateValue) -> Entry {
    let (is_object, words, key) = match word {
        StateWord::Flow(key) => (false, key.words, key.to_string()),
        StateWord::Object(key) => (true, key.0, object_key(key)),
    };
    let mut timers = Vec::new();
    let value = match value {
        StateValue::Int(n) => json!(n),
        StateValue::Bytes(bytes) => json!(hex(bytes.as_slice())),
        StateValue::List(list) => json!(list),
        StateValue::Taken(taken) => {
            taken.iter().map(|(member, owner)| (member.to_string(), json!(owner))).collect()
        }
        StateValue::Record { value, timers: armed } => {
            timers.extend(armed.iter().map(|(index, timer)| {
                json!({ "index": index, "deadline_ns": timer.deadline.0, "at_end": timer.at_end })
            }));
            json!(hex(value.as_slice()))
        }
    };
    Entry {
        vertex: plan.vertices[usize::from(vertex.0)].name.clone(),
        object: (*object).to_owned(),
        key,
        value,
        timers,
        cursor: Cursor { vertex: vertex.0, object: (*object).to_owned(), is_object, words },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A key in words: what [`ObjectKey`]'s constructors were given.
fn object_key(key: &ObjectKey) -> String {
    let [head, a, b, c, d] = key.0;
    if [a, b, c, d] == [0; 4] {
        return head.to_string();
    }
    let address = |high: u64, low: u64| -> IpAddr {
        let v6 = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        v6.to_ipv4_mapped().filter(|_| head & 1 != 0).map_or(v6.into(), Into::into)
    };
    let host = address(a, b);
    if head & 2 == 0 {
        return host.to_string();
    }
    match head >> 8 {
        0 => format!("{host} > {}", address(c, d)),
        port => format!("{host} > {} port {port}", address(c, d)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn cursor(vertex: u16, word: u64) -> Cursor {
        Cursor { vertex, object: "seen".into(), is_object: true, words: [word, 0, 0, 0, u64::MAX] }
    }

    fn entry(vertex: u16, word: u64) -> Result<Entry, Infallible> {
        Ok(Entry {
            vertex: format!("v{vertex}"),
            object: if word.is_multiple_of(2) { "even" } else { "odd" }.into(),
            key: word.to_string(),
            value: json!(word),
            timers: Vec::new(),
            cursor: cursor(vertex, word),
        })
    }

    fn keys(page: &Page) -> Vec<&str> {
        page.objects.iter().map(|entry| entry.key.as_str()).collect()
    }

    #[test]
    fn pages_follow_each_other_even_if_an_entry_has_gone() {
        let all = || (0..2).flat_map(|vertex| (0..4).map(move |word| entry(vertex, word)));
        let mut query = Query { limit: 3, ..Query::default() };
        let first = query.page(all()).unwrap();
        assert_eq!(keys(&first), ["0", "1", "2"]);
        query.cursor = first.cursor;
        let second = query.page(all().filter(|e| e.as_ref().unwrap().key != "2")).unwrap();
        assert_eq!(keys(&second), ["3", "0", "1"]);
        query.cursor = second.cursor;
        let last = query.page(all()).unwrap();
        assert_eq!((keys(&last), &last.cursor), (vec!["2", "3"], &None));
    }

    #[test]
    fn entries_can_be_asked_for_by_vertex_and_object() {
        let all = (0..2).flat_map(|vertex| (0..4).map(move |word| entry(vertex, word)));
        let query = Query { vertex: Some("v1".into()), object: Some("odd".into()), limit: 9, cursor: None };
        let page = query.page(all).unwrap();
        assert!(page.objects.iter().all(|entry| entry.vertex == "v1"));
        assert_eq!(keys(&page), ["1", "3"]);
    }

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_refused() {
        let text = String::from(cursor(7, 255));
        assert_eq!(text, "7:seen:o:ff-0-0-0-ffffffffffffffff");
        assert_eq!(Cursor::try_from(text), Ok(cursor(7, 255)));
        for wrong in
            ["", "7:seen:o", "7:seen:x:0-0-0-0-0", "7:seen:o:0-0-0-0", "x:seen:o:0-0-0-0-0", "a:b:o:g"]
        {
            assert!(Cursor::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_shown_as_they_were_made() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let shown = [
            (ObjectKey::GLOBAL, "0"),
            (ObjectKey::number(7), "7"),
            (ObjectKey::host(v4), "10.0.0.1"),
            (ObjectKey::host(v6), "2001:db8::1"),
            (ObjectKey::contact(v4, v4, 0), "10.0.0.1 > 10.0.0.1"),
            (ObjectKey::contact(v6, v6, 80), "2001:db8::1 > 2001:db8::1 port 80"),
        ];
        for (key, text) in shown {
            assert_eq!(object_key(&key), text);
        }
    }
}
