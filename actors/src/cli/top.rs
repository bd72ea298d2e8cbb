//! `chc top`: a chain as it runs, in a terminal.

use super::operate::{SocketArg, brief, latency_text};
use super::{Exit, report};
use crate::control::client::get;
use crate::control::view::{InstanceStatus, Status};
use clap::Args;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Recoveries that are shown.
const RECOVERIES_SHOWN: usize = 5;

/// `chc top`.
#[derive(Args)]
pub struct TopArgs {
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    #[command(flatten)]
    socket: SocketArg,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give 0.1 to 3600 seconds".to_owned())
}

/// Shows a chain until it ends or a key says so.
pub fn top(args: &TopArgs) -> Result<(), Exit> {
    if !std::io::stdout().is_terminal() {
        return Err(Exit::Usage(
            "top draws on a terminal; `chc status` prints text or, with -o json, JSON".into(),
        ));
    }
    let look = || get::<Status>(&args.socket.path(), "/v1/status");
    let mut before = look()?;
    let mut now = before.clone();
    let mut terminal = ratatui::try_init().map_err(|error| Exit::Failed(error.into()))?;
    let shown = loop {
        if let Err(error) = terminal.draw(|frame| draw(frame, &before, &now)) {
            break Err(Exit::Failed(error.into()));
        }
        match await_key(Instant::now() + Duration::from_secs_f64(args.interval)) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(Exit::Failed(error.into())),
        }
        match look() {
            Ok(status) => before = std::mem::replace(&mut now, status),
            Err(error) => break Err(error.into()),
        }
    };
    ratatui::restore();
    shown?;
    report::print_text(&brief(&now))
}

/// Waits; whether a key said that it is enough.
fn await_key(until: Instant) -> std::io::Result<bool> {
    loop {
        if !event::poll(until.saturating_duration_since(Instant::now()))? {
            return Ok(false);
        }
        let Event::Key(key) = event::read()? else { return Ok(false) };
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let is_end = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || is_interrupt;
        if is_end && key.kind == KeyEventKind::Press {
            return Ok(true);
        }
    }
}

/// How much something grew in a second.
struct Rates {
    seconds: f64,
}

impl Rates {
    fn of(&self, before: u64, now: u64) -> f64 {
        if self.seconds > 0.0 { now.saturating_sub(before) as f64 / self.seconds } else { 0.0 }
    }
}

/// A number of at most four digits and its scale.
fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 1e9 => (n / 1e9, " G"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e4 => (n / 1e3, " k"),
        n => return format!("{n:.0}"),
    };
    format!("{scaled:.*}{unit}", if scaled < 10.0 { 2 } else { 1 })
}

/// Draws a chain; rates are those between two looks.
fn draw(frame: &mut Frame<'_>, before: &Status, now: &Status) {
    let rates = Rates { seconds: now.uptime_s - before.uptime_s };
    let instances: Vec<Row<'_>> = instance_rows(&rates, before, now);
    let interfaces = interface_rows(&rates, before, now);
    let reasons = reason_rows(&rates, before, now);
    let recoveries = recovery_lines(now);
    let height = |rows: usize| Constraint::Length(if rows == 0 { 0 } else { rows as u16 + 2 });
    let heights = [
        Constraint::Length(4),
        height(interfaces.len()),
        height(instances.len()),
        height(reasons.len()),
        Constraint::Min(recoveries.len() as u16),
        Constraint::Length(1),
    ];
    let [top, middle, vertices, drops, last, foot] = Layout::vertical(heights).areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(&rates, before, now)), top);
    let numbers = |count: usize| std::iter::repeat_n(Constraint::Length(12), count);
    let name = Constraint::Length(24);
    let mut table = |rows: Vec<Row<'static>>, titles: &[&'static str], area| {
        if !rows.is_empty() {
            let widths = std::iter::once(name).chain(numbers(titles.len() - 1));
            let header = Row::new(titles.iter().map(|title| Cell::from(*title))).style(Style::new().bold());
            frame.render_widget(Table::new(rows, widths).header(header), area);
        }
    };
    table(interfaces, &["INTERFACE", "RX/S", "RX BIT/S", "OVERRUNS", "TX/S", "TX BIT/S", "TX LOST"], middle);
    table(instances, &["INSTANCE", "SLOTS", "GENERATION", "QUEUE", "PACKETS/S", "DROPS/S", "BUSY"], vertices);
    table(reasons, &["DROPPED", "ALL", "PER SECOND"], drops);
    frame.render_widget(Paragraph::new(recoveries), last);
    frame.render_widget(Paragraph::new("q ends this view; the chain goes on".dim()), foot);
}

fn head_lines(rates: &Rates, before: &Status, now: &Status) -> Vec<Line<'static>> {
    let recent = now.latency.since(&before.latency);
    let bound = |share| match recent.count() {
        0 => "-".to_owned(),
        _ => latency_text(recent.quantile_us(share)),
    };
    let bits = rates.of(before.bytes_in, now.bytes_in) * 8.0;
    let dropped = |status: &Status| status.drops.values().sum::<u64>();
    vec![
        Line::from(format!("{}  {}  {:.0} s", now.chain, now.phase, now.uptime_s)).bold(),
        Line::from(format!(
            "in {}/s, {}bit/s   out {}/s   dropped {}/s   lost at ingest {}/s   in flight {}   alerts {}",
            short(rates.of(before.packets_in, now.packets_in)),
            short(bits),
            short(rates.of(before.packets_out, now.packets_out)),
            short(rates.of(dropped(before), dropped(now))),
            short(rates.of(before.ingest_drops, now.ingest_drops)),
            now.in_flight,
            now.alerts,
        )),
        Line::from(format!(
            "latency p50 {}, p99 {}, longest {}   handovers {}   recovered {}",
            bound(0.5),
            bound(0.99),
            bound(1.0),
            now.handovers,
            now.recovered,
        )),
    ]
}

fn interface_rows(rates: &Rates, before: &Status, now: &Status) -> Vec<Row<'static>> {
    let row = |(at, interface): (usize, &crate::control::view::InterfaceStatus)| {
        let old = before.interfaces.get(at).unwrap_or(interface);
        let lost: u64 = interface.tx_lost.values().sum();
        Row::new([
            format!("{} {}", interface.side, interface.name),
            short(rates.of(old.rx, interface.rx)),
            short(rates.of(old.rx_bytes, interface.rx_bytes) * 8.0),
            interface.rx_overruns.to_string(),
            short(rates.of(old.tx, interface.tx)),
            short(rates.of(old.tx_bytes, interface.tx_bytes) * 8.0),
            lost.to_string(),
        ])
    };
    now.interfaces.iter().enumerate().map(row).collect()
}

fn instance_rows(rates: &Rates, before: &Status, now: &Status) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for vertex in &now.vertices {
        let old = before.vertices.iter().find(|old| old.name == vertex.name);
        for instance in &vertex.instances {
            let nothing = InstanceStatus::default();
            let of_it = |old: &'_ &InstanceStatus| old.index == instance.index;
            let old = old.and_then(|old| old.instances.iter().find(of_it)).unwrap_or(&nothing);
            let busy = if rates.seconds > 0.0 { (instance.busy_s - old.busy_s) / rates.seconds } else { 0.0 };
            rows.push(Row::new([
                format!("{}/{}", vertex.name, instance.index),
                instance.slots.to_string(),
                instance.generation.to_string(),
                instance.queue.to_string(),
                short(rates.of(old.packets, instance.packets)),
                short(rates.of(old.drops, instance.drops)),
                format!("{:.0} %", busy * 100.0),
            ]));
        }
    }
    rows
}

fn reason_rows(rates: &Rates, before: &Status, now: &Status) -> Vec<Row<'static>> {
    let row = |(reason, all): (&String, &u64)| {
        let old = before.drops.get(reason).copied().unwrap_or(0);
        Row::new([reason.clone(), all.to_string(), short(rates.of(old, *all))])
    };
    now.drops.iter().map(row).collect()
}

fn recovery_lines(now: &Status) -> Vec<Line<'static>> {
    let last = now.recoveries.iter().rev().take(RECOVERIES_SHOWN);
    let line = |recovery: &crate::chain::recoveries::Recovery| {
        Line::from(format!(
            "{} recovered from a {} in {} us, {} packets ran again",
            recovery.actor, recovery.kind, recovery.recovered_us, recovery.replayed
        ))
    };
    last.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::view::{InterfaceStatus, VertexStatus};
    use crate::latency::Latencies;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn status(seconds: f64, packets: u64) -> Status {
        let mut latency = Latencies::default();
        for _ in 0..packets {
            latency.record(Duration::from_micros(70));
        }
        let instance =
            InstanceStatus { index: 1, slots: 32, packets, busy_s: seconds / 4.0, ..Default::default() };
        Status {
            chain: "gateway".into(),
            phase: "up".into(),
            uptime_s: seconds,
            packets_in: packets,
            bytes_in: packets * 1000,
            drops: [("nat_filtered".to_owned(), packets / 10)].into(),
            vertices: vec![VertexStatus { name: "nat".into(), instances: vec![instance], instances_max: 2 }],
            interfaces: vec![InterfaceStatus {
                side: "inside".into(),
                name: "eth1".into(),
                rx: packets,
                ..Default::default()
            }],
            latency,
            ..Status::default()
        }
    }

    fn screen(before: &Status, now: &Status, size: (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, before, now)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let shown = screen(&status(10.0, 1_000), &status(12.0, 41_000), (120, 24));
        for expected in [
            "in 20.0 k/s, 160.0 Mbit/s",
            "dropped 2000/s",
            "latency p50 <= 100 us, p99 <= 100 us",
            "inside eth1",
            "nat/1",
            "25 %",
            "nat_filtered",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    #[test]
    fn a_first_look_and_a_small_terminal_are_drawn() {
        let first = status(10.0, 1_000);
        assert!(screen(&first, &first, (120, 24)).contains("in 0/s"));
        screen(&first, &status(11.0, 5_000), (20, 3));
        screen(&first, &Status::default(), (120, 24));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 9_999.4, 10_000.0, 2_345_678.0, 1.2e10].map(short),
            ["0", "9999", "10.0 k", "2.35 M", "12.0 G"]
        );
    }
}
