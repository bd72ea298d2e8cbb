//! Reading a chain file into a tree whose values know where they were written, and applying overrides to it.
//!
//! TOML is read by `toml_edit`, which keeps positions; YAML and JSON by the `config` crate, which does not.

use super::diagnostic::{Place, Report, suggest};
use config::{FileFormat, Format as _, ValueKind};
use std::path::Path;
use toml_edit::{Document, Item, TableLike};

/// A chain file is a page or two; what is larger is something else.
const BYTES_MAX: usize = 1 << 20;
/// Levels a file may nest. The YAML parser recurses without a bound of its own.
const YAML_INDENT_MAX: usize = 256;

/// The notation of a chain file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML: every mistake is reported with its line.
    Toml,
    /// YAML: mistakes are reported by key path.
    Yaml,
    /// JSON: mistakes are reported by key path.
    Json,
}

impl Format {
    /// The notation a file name's extension stands for.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value of any of the notations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// A TOML date or time, as written.
    Date(String),
    List(Vec<Node>),
    /// Keys in the order of the file.
    Table(Vec<(String, Node)>),
}

impl Value {
    /// What it is, for "found ...".
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the integer {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(value) => format!("the string {value:?}"),
            Self::Date(value) => format!("the date {value}"),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

impl Node {
    /// The entry `key` of a table.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(crate) fn is_table(&self) -> bool {
        matches!(self.value, Value::Table(_))
    }

    /// A tree without positions.
    pub(crate) fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match number.as_i128() {
                Some(value) => Value::Int(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(value) => Value::Text(value.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(entries) => Value::Table(
                entries.iter().map(|(key, value)| (key.clone(), Self::from_json(value))).collect(),
            ),
        };
        Self { place: Place::Whole, value }
    }
}

/// Parses `text`. A syntax error is the one mistake that hides the others.
pub(crate) fn parse(format: Format, text: &str, report: &mut Report) -> Option<Node> {
    if text.len() > BYTES_MAX {
        let problem = format!("{} bytes are too many for a chain file", text.len());
        report.push(Place::Whole, "", problem, format!("keep it below {BYTES_MAX} bytes"));
        return None;
    }
    match format {
        Format::Toml => parse_toml(text, report),
        Format::Yaml => parse_plain(FileFormat::Yaml, "YAML", text, report),
        Format::Json => parse_plain(FileFormat::Json, "JSON", text, report),
    }
}

fn parse_toml(text: &str, report: &mut Report) -> Option<Node> {
    let lines = Lines::of(text);
    match Document::parse(text) {
        Ok(document) => {
            let entries = toml_table(document.as_table(), Place::Whole, &lines);
            Some(Node { place: Place::Whole, value: entries })
        }
        Err(error) => {
            let place = error.span().map_or(Place::Whole, |span| lines.place(span.start));
            report.push(place, "", format!("not valid TOML: {}", error.message()), "correct this line");
            None
        }
    }
}

/// Byte offsets at which lines end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(offset, _)| offset).collect())
    }

    fn place(&self, offset: usize) -> Place {
        Place::Line(self.0.partition_point(|&end| end < offset) + 1)
    }
}

fn toml_table(table: &dyn TableLike, parent: Place, lines: &Lines) -> Value {
    let entry = |(key, item): (&str, &Item)| {
        // Tables that only exist through the headers of their children have no span: their key's stands in.
        let span = item.span().or_else(|| table.key(key).and_then(|key| key.span()));
        let place = span.map_or(parent, |span| lines.place(span.start));
        (key.to_owned(), toml_item(item, place, lines))
    };
    Value::Table(table.iter().map(entry).collect())
}

fn toml_item(item: &Item, place: Place, lines: &Lines) -> Node {
    let value = match item {
        Item::None => Value::Null,
        Item::Value(value) => return toml_value(value, place, lines),
        Item::Table(table) => toml_table(table, place, lines),
        Item::ArrayOfTables(tables) => {
            let node = |table: &toml_edit::Table| {
                let place = table.span().map_or(place, |span| lines.place(span.start));
                Node { place, value: toml_table(table, place, lines) }
            };
            Value::List(tables.iter().map(node).collect())
        }
    };
    Node { place, value }
}

fn toml_value(value: &toml_edit::Value, parent: Place, lines: &Lines) -> Node {
    let place = value.span().map_or(parent, |span| lines.place(span.start));
    let value = match value {
        toml_edit::Value::String(value) => Value::Text(value.value().clone()),
        toml_edit::Value::Integer(value) => Value::Int((*value.value()).into()),
        toml_edit::Value::Float(value) => Value::Float(*value.value()),
        toml_edit::Value::Boolean(value) => Value::Bool(*value.value()),
        toml_edit::Value::Datetime(value) => Value::Date(value.value().to_string()),
        toml_edit::Value::Array(items) => {
            Value::List(items.iter().map(|item| toml_value(item, place, lines)).collect())
        }
        toml_edit::Value::InlineTable(table) => toml_table(table, place, lines),
    };
    Node { place, value }
}

fn parse_plain(format: FileFormat, name: &str, text: &str, report: &mut Report) -> Option<Node> {
    if format == FileFormat::Yaml {
        let too_deep =
            |line: &str| line.chars().take_while(|c| " \t-?:".contains(*c)).count() > YAML_INDENT_MAX;
        if let Some(line) = text.split(['\n', '\r']).position(too_deep) {
            let problem =
                format!("line {} begins with more than {YAML_INDENT_MAX} columns of indentation", line + 1);
            report.push(Place::Whole, "", problem, "nest less deeply");
            return None;
        }
    }
    match format.parse(None, text) {
        Ok(entries) => Some(plain_node(ValueKind::Table(entries))),
        Err(error) => {
            report.push(Place::Whole, "", format!("not valid {name}: {error}"), "correct the syntax");
            None
        }
    }
}

fn plain_node(kind: ValueKind) -> Node {
    let value = match kind {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(value) => Value::Bool(value),
        ValueKind::I64(value) => Value::Int(value.into()),
        ValueKind::U64(value) => Value::Int(value.into()),
        ValueKind::I128(value) => Value::Int(value),
        ValueKind::U128(value) => Value::Int(i128::try_from(value).unwrap_or(i128::MAX)),
        ValueKind::Float(value) => Value::Float(value),
        ValueKind::String(value) => Value::Text(value),
        ValueKind::Array(items) => Value::List(items.into_iter().map(|item| plain_node(item.kind)).collect()),
        ValueKind::Table(entries) => {
            Value::Table(entries.into_iter().map(|(key, value)| (key, plain_node(value.kind))).collect())
        }
    };
    Node { place: Place::Whole, value }
}

/// Applies `--set KEY=VALUE` overrides in their order. A mistake in one leaves the tree as it was.
pub(crate) fn apply_overrides(root: &mut Node, overrides: &[String], report: &mut Report) {
    for (index, text) in overrides.iter().enumerate() {
        let place = Place::Override(index);
        let Some((key, value)) = text.split_once('=') else {
            report.push(place, "", "no value is given", "write --set KEY=VALUE, e.g. --set root.window=4096");
            continue;
        };
        let Ok(path) = toml_edit::Key::parse(key) else {
            let remedy = "write the path of one key, e.g. vertex.nat.instances";
            report.push(place, key.trim(), format!("{key:?} is not a key"), remedy);
            continue;
        };
        let path: Vec<&str> = path.iter().map(|key| key.get()).collect();
        let Some(value) = override_value(value.trim(), place) else {
            let remedy = "close the quotes or brackets, as in a TOML file";
            report.push(place, key.trim(), format!("{:?} is not a value", value.trim()), remedy);
            continue;
        };
        set(root, &path, value, place, report);
    }
}

/// A TOML value, or else the text itself: quotes are the shell's, and `pick=every` is meant as a string.
fn override_value(text: &str, place: Place) -> Option<Node> {
    match text.parse::<toml_edit::Value>() {
        Ok(value) => {
            let mut node = toml_value(&value, place, &Lines(Vec::new()));
            claim(&mut node, place);
            Some(node)
        }
        Err(_) if text.starts_with(['"', '\'', '[', '{']) => None,
        Err(_) => Some(Node { place, value: Value::Text(text.to_owned()) }),
    }
}

/// Everything inside an override's value was written by that override.
fn claim(node: &mut Node, place: Place) {
    node.place = place;
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| claim(item, place)),
        Value::Table(entries) => entries.iter_mut().for_each(|(_, entry)| claim(entry, place)),
        _ => {}
    }
}

fn set(root: &mut Node, path: &[&str], value: Node, place: Place, report: &mut Report) {
    if let [section, vertex, ..] = path
        && *section == "vertex"
        && let Some(Value::Table(vertices)) = root.get("vertex").map(|node| &node.value)
        && !vertices.iter().any(|(name, _)| name == vertex)
    {
        let names: Vec<&str> = vertices.iter().map(|(name, _)| name.as_str()).collect();
        let remedy = suggest(vertex, &names);
        report.push(place, path.join("."), format!("there is no vertex \"{vertex}\""), remedy);
        return;
    }
    let mut node = root;
    for (depth, key) in path.iter().enumerate() {
        let found = node.value.describe();
        let Value::Table(entries) = &mut node.value else {
            let problem = format!("\"{}\" is {found}, not a table", path[..depth].join("."));
            report.push(place, path.join("."), problem, "set the whole value");
            return;
        };
        let at = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            entries.push(((*key).to_owned(), Node { place, value: Value::Table(Vec::new()) }));
            entries.len() - 1
        });
        node = &mut entries[at].1;
    }
    *node = value;
}
