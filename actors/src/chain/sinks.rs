//! Where what leaves a chain goes: a capture file, an event file, memory.

use crate::control::feed::Feed;
use crate::egress::core::Sink;
use crate::root::core::Arrival;
use crate::root::reader::PacketSource;
use chc_api::{Event, EventKind, Identity, InstanceId, Position, Side, Time};
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};
use chc_runtime::capture::{CaptureReader, CaptureWriter};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// A capture file as a source of packets.
pub struct CaptureSource(pub CaptureReader);

impl PacketSource for CaptureSource {
    fn next(&mut self) -> Result<Option<Arrival<'_>>, String> {
        let record = self.0.next().map_err(|e| e.to_string())?;
        Ok(record.map(|r| Arrival {
            time: Time(r.time_ns),
            side: Side::Inside,
            link: r.link,
            wire_len: r.wire_len,
            frame: r.data.into(),
        }))
    }
}

/// What went wrong while writing, kept until the run is over.
pub type Failure = Arc<Mutex<Option<String>>>;

/// A capture file and an event file, each if asked for.
pub struct FileSink {
    packets: Option<CaptureWriter>,
    events: Option<BufWriter<File>>,
    vertices: Vec<String>,
    alerts: Arc<Mutex<u64>>,
    failure: Failure,
    feed: Option<Arc<Mutex<Feed>>>,
}

impl FileSink {
    /// A sink; `vertices` are the names by number. `alerts` counts alerts.
    #[must_use]
    pub fn new(
        packets: Option<CaptureWriter>,
        events: Option<File>,
        vertices: Vec<String>,
        alerts: Arc<Mutex<u64>>,
        failure: Failure,
    ) -> Self {
        Self { packets, events: events.map(BufWriter::new), vertices, alerts, failure, feed: None }
    }

    /// The same, with those who follow the events.
    #[must_use]
    pub fn followed_by(self, feed: Arc<Mutex<Feed>>) -> Self {
        Self { feed: Some(feed), ..self }
    }

    /// Writes out the events there are, for whoever follows the file.
    pub fn flush_events(&mut self) {
        let flushed = self.events.as_mut().filter(|file| !file.buffer().is_empty()).map(Write::flush);
        if let Some(Err(error)) = flushed {
            self.events = None;
            self.fail("the event file", &error);
        }
    }

    fn fail(&self, what: &str, error: &dyn std::fmt::Display) {
        self.failure.lock().get_or_insert_with(|| format!("{what}: {error}"));
    }
}

impl Sink for FileSink {
    fn packet(&mut self, block: &Block, desc: &Desc) {
        let Some(writer) = &mut self.packets else { return };
        let meta = block.meta(desc);
        let written =
            writer.write(meta.captured.0, meta.link, desc.wire_len, &[block.head(desc), block.tail(desc)]);
        if let Err(error) = written {
            self.packets = None;
            self.fail("the output capture", &error);
        }
    }

    fn event(&mut self, from: InstanceId, event: &EventRecord) {
        if matches!(event.event.kind, EventKind::Alert { .. }) {
            *self.alerts.lock() += 1;
        }
        let vertex = &self.vertices[usize::from(from.vertex.0)];
        if let Some(feed) = &self.feed {
            feed.lock().push(|| event_json(event, vertex, from.index));
        }
        let Some(file) = &mut self.events else { return };
        let line = event_json(event, vertex, from.index);
        if let Err(error) = writeln!(file, "{line}") {
            self.events = None;
            self.fail("the event file", &error);
        }
    }

    fn dropped(&mut self, _from: InstanceId, _record: &DropRecord) {}

    fn finish(&mut self) {
        if let Some(Err(error)) = self.packets.take().map(CaptureWriter::finish) {
            self.fail("the output capture", &error);
        }
        if let Some(Err(error)) = self.events.take().map(|mut f| f.flush()) {
            self.fail("the event file", &error);
        }
    }
}

/// An event in the manner of Suricata's eve.json.
#[must_use]
pub fn event_json(record: &EventRecord, vertex: &str, instance: u16) -> Value {
    let Event { kind, key, direction } = record.event;
    let identity = Identity { key, direction };
    let (source, destination) = (identity.source(), identity.destination());
    let mut line = Map::new();
    if !record.time.is_end() {
        line.insert("timestamp".into(), json!(timestamp(record.time)));
    }
    let event_type = match kind {
        EventKind::Alert { .. } => "alert",
        EventKind::Stage { .. } => "stage",
        EventKind::Flow { .. } => "flow",
        EventKind::Nat { .. } => "nat",
    };
    line.insert("event_type".into(), json!(event_type));
    line.insert("src_ip".into(), json!(source.addr.to_string()));
    line.insert("src_port".into(), json!(source.port));
    line.insert("dest_ip".into(), json!(destination.addr.to_string()));
    line.insert("dest_port".into(), json!(destination.port));
    let proto = chc_api::packet::protocol::name(key.protocol())
        .map_or_else(|| key.protocol().to_string(), str::to_uppercase);
    line.insert("proto".into(), json!(proto));
    if record.number > 0 {
        line.insert("pcap_cnt".into(), json!(record.number));
    }
    line.insert(
        "chc".into(),
        json!({ "clock": record.position.clock.0, "vertex": vertex, "instance": instance }),
    );
    match kind {
        EventKind::Alert { signature, category, severity } => {
            let alert = json!({ "signature": signature, "category": category, "severity": severity });
            line.insert("alert".into(), alert);
        }
        EventKind::Stage { name, role } => {
            line.insert("stage".into(), json!({ "name": name, "role": role }));
        }
        EventKind::Flow { opened, server } => {
            let server_ip = server.to_string();
            line.insert("flow".into(), json!({ "action": action(opened), "server_ip": server_ip }));
        }
        EventKind::Nat { opened, external, port } => {
            let (external, action) = (std::net::Ipv4Addr::from(external).to_string(), action(opened));
            line.insert(
                "nat".into(),
                json!({ "action": action, "external_ip": external, "external_port": port }),
            );
        }
    }
    Value::Object(line)
}

fn action(opened: bool) -> &'static str {
    if opened { "open" } else { "close" }
}

/// A time as `1970-01-01T00:00:00.000000+0000`.
fn timestamp(time: Time) -> String {
    let (seconds, micros) = (time.0 / 1_000_000_000, time.0 / 1000 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from a day count: years begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+0000")
}

/// A packet that left, as it is kept for comparison.
#[derive(Clone, Copy)]
pub struct Kept {
    /// Its position.
    pub position: Position,
    /// Whose packet it is.
    pub identity: Identity,
    at: usize,
    len: usize,
}

/// Everything that left a chain.
#[derive(Default)]
pub struct Everything {
    /// Packets in the order they left.
    pub packets: Vec<Kept>,
    /// The bytes of all packets, one packet after the other.
    pub bytes: Vec<u8>,
    /// Events in the order they left.
    pub events: Vec<(InstanceId, EventRecord)>,
    /// Packets that ended in the chain.
    pub drops: Vec<(InstanceId, DropRecord)>,
}

impl Everything {
    /// The bytes of a packet.
    #[must_use]
    pub fn bytes(&self, kept: &Kept) -> &[u8] {
        &self.bytes[kept.at..kept.at + kept.len]
    }
}

/// Keeps everything in memory.
#[derive(Clone, Default)]
pub struct KeepingSink(pub Arc<Mutex<Everything>>);

impl Sink for KeepingSink {
    fn packet(&mut self, block: &Block, desc: &Desc) {
        let mut all = self.0.lock();
        let at = all.bytes.len();
        all.bytes.extend_from_slice(block.head(desc));
        all.bytes.extend_from_slice(block.tail(desc));
        let len = all.bytes.len() - at;
        let identity = block.meta(desc).parsed.identity();
        all.packets.push(Kept { position: desc.position(), identity, at, len });
    }

    fn event(&mut self, from: InstanceId, event: &EventRecord) {
        self.0.lock().events.push((from, *event));
    }

    fn dropped(&mut self, from: InstanceId, record: &DropRecord) {
        self.0.lock().drops.push((from, *record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_suricata_does() {
        assert_eq!(timestamp(Time(0)), "1970-01-01T00:00:00.000000+0000");
        assert_eq!(timestamp(Time(951_782_400_123_456_789)), "2000-02-29T00:00:00.123456+0000");
        assert_eq!(timestamp(Time(1_798_761_599_000_000_000)), "2026-12-31T23:59:59.000000+0000");
    }
}
