//! A chain's counters for Prometheus: base units, labels by vertex, instance, side and reason, never by flow.

use super::view::Status;
use crate::latency::{BOUNDS_US, Latencies};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// The text Prometheus reads.
///
/// # Errors
/// None but the formatter's.
pub fn text(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("chc");
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Its type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Scrape(Status);

/// One value of a metric, with its labels.
type Sample<'a, N> = (Vec<(&'static str, &'a str)>, N);

/// The metrics of one name: one without labels, or several with.
fn family<N: Copy, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<&Unit>),
    metric: impl Fn(N) -> M,
    samples: Vec<Sample<'_, N>>,
) -> fmt::Result {
    let Some((_, first)) = samples.first() else { return Ok(()) };
    let kind = metric(*first).metric_type();
    let mut encoder = encoder.encode_descriptor(name, help, unit, kind)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            return metric(value).encode(encoder);
        }
        metric(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(status) = self;
        let numbers: Vec<String> = (0..=u16::MAX).take(INSTANCES_MAX).map(|n| n.to_string()).collect();
        let counter = ConstCounter::<u64>::new;
        let gauge = ConstGauge::<u64>::new;
        let plain = [
            ("packets_in", "Packets that came, those lost at ingest included", status.packets_in),
            ("packets_out", "Packets that left", status.packets_out),
            ("packets_extra", "Packets that network functions made", status.packets_extra),
            ("ingest_drops", "Packets lost before they had a clock", status.ingest_drops),
            ("alerts", "Alerts", status.alerts),
            ("handovers", "Changes of routing tables", status.handovers),
            ("slots_moved", "Slots that changed hands", status.slots_moved),
            ("recoveries", "Actors that died and were recovered", status.recovered),
        ];
        for (name, help, value) in plain {
            family(&mut encoder, (name, help, None), counter, vec![(Vec::new(), value)])?;
        }
        let bytes = ("received", "Bytes that came, on the wire", Some(&Unit::Bytes));
        family(&mut encoder, bytes, counter, vec![(Vec::new(), status.bytes_in)])?;
        let in_flight = ("clocks_in_flight", "Clocks above the chain's cut", None);
        family(&mut encoder, in_flight, gauge, vec![(Vec::new(), status.in_flight)])?;
        let up = ("up", "Whether the chain takes packets", None);
        family(&mut encoder, up, gauge, vec![(Vec::new(), u64::from(status.phase == "up"))])?;
        let uptime = ("uptime", "Time since the chain began", Some(&Unit::Seconds));
        family(&mut encoder, uptime, ConstGauge::<f64>::new, vec![(Vec::new(), status.uptime_s)])?;
        let latency = encoder.encode_descriptor(
            "latency",
            "How long packets that left were in the chain",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        encode_latency(latency, &status.latency)?;
        let by_reason = |all: &'_ std::collections::BTreeMap<String, u64>| {
            all.iter().map(|(reason, n)| (reason.clone(), *n)).collect::<Vec<_>>()
        };
        let drops = by_reason(&status.drops);
        let drops = drops.iter().map(|(reason, n)| (vec![("reason", reason.as_str())], *n)).collect();
        family(&mut encoder, ("drops", "Packets that ended in the chain", None), counter, drops)?;
        let router = by_reason(&status.router);
        let router = router.iter().map(|(reason, n)| (vec![("reason", reason.as_str())], *n)).collect();
        family(&mut encoder, ("router", "Frames that ended at the chain's router", None), counter, router)?;

        let instances = || {
            status.vertices.iter().flat_map(|vertex| {
                vertex.instances.iter().map(move |instance| (vertex.name.as_str(), instance))
            })
        };
        let labels = |vertex, index: u16| {
            vec![("vertex", vertex), ("instance", numbers.get(usize::from(index)).map_or("", String::as_str))]
        };
        let of = |value: fn(&super::view::InstanceStatus) -> u64| {
            instances().map(|(v, i)| (labels(v, i.index), value(i))).collect::<Vec<_>>()
        };
        family(
            &mut encoder,
            ("instance_packets", "Packets an instance took", None),
            counter,
            of(|i| i.packets),
        )?;
        family(
            &mut encoder,
            ("instance_drops", "Packets an instance dropped", None),
            counter,
            of(|i| i.drops),
        )?;
        family(
            &mut encoder,
            ("instance_queue", "Packets in an instance's mailbox", None),
            gauge,
            of(|i| i.queue),
        )?;
        family(&mut encoder, ("instance_slots", "Slots an instance owns", None), gauge, of(|i| i.slots))?;
        family(
            &mut encoder,
            ("instance_generation", "How often an instance was built", None),
            gauge,
            of(|i| i.generation),
        )?;
        let busy = ("instance_busy", "Time an instance was busy", Some(&Unit::Seconds));
        let times = instances().map(|(v, i)| (labels(v, i.index), i.busy_s)).collect();
        family(&mut encoder, busy, ConstCounter::<f64>::new, times)?;

        let of = |value: fn(&super::view::InterfaceStatus) -> u64| {
            let sample = |i| (vec![("side", side(i)), ("interface", name(i))], value(i));
            status.interfaces.iter().map(sample).collect::<Vec<_>>()
        };
        family(&mut encoder, ("rx_packets", "Frames received", None), counter, of(|i| i.rx))?;
        family(&mut encoder, ("tx_packets", "Frames sent", None), counter, of(|i| i.tx))?;
        family(&mut encoder, ("rx", "Bytes received", Some(&Unit::Bytes)), counter, of(|i| i.rx_bytes))?;
        family(&mut encoder, ("tx", "Bytes sent", Some(&Unit::Bytes)), counter, of(|i| i.tx_bytes))?;
        let lost = ("tx_lost", "Frames an interface did not take", None);
        family(&mut encoder, lost, counter, of(|i| i.tx_lost.values().sum()))?;
        let malformed = ("rx_malformed", "Frames received that were no frames of a wire", None);
        family(&mut encoder, malformed, counter, of(|i| i.rx_malformed))?;
        let kept = ("rx_zero_copy", "Frames that stay in the buffers they came in", None);
        family(&mut encoder, kept, counter, of(|i| i.rx_zero_copy))?;
        let lent = ("tx_zero_copy", "Frames sent from the buffers they came in", None);
        family(&mut encoder, lent, counter, of(|i| i.tx_zero_copy))?;
        family(
            &mut encoder,
            ("link_downs", "How often an interface went down", None),
            counter,
            of(|i| i.downs),
        )
    }
}

fn encode_latency(mut encoder: MetricEncoder<'_>, latency: &Latencies) -> fmt::Result {
    let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let count = |bucket: usize| latency.counts.get(bucket).copied().unwrap_or(0);
    let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(at, bound)| (bound, count(at))).collect();
    encoder.encode_histogram::<NoLabelSet>(latency.sum_s, latency.count(), &buckets, None)
}

/// Most instances of a vertex.
const INSTANCES_MAX: usize = crate::config::INSTANCES_MAX as usize;

fn side(interface: &super::view::InterfaceStatus) -> &str {
    &interface.side
}

fn name(interface: &super::view::InterfaceStatus) -> &str {
    &interface.name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::view::{InstanceStatus, InterfaceStatus, VertexStatus};

    #[test]
    fn counters_are_in_base_units_with_their_labels() {
        let instance = InstanceStatus { index: 1, packets: 7, busy_s: 0.5, ..InstanceStatus::default() };
        let interface =
            InterfaceStatus { side: "inside".into(), name: "eth0".into(), rx: 9, ..Default::default() };
        let vertex = VertexStatus { name: "nat".into(), instances: vec![instance], instances_max: 4 };
        let status = Status {
            phase: "up".into(),
            packets_in: 12,
            latency: Latencies { counts: vec![0, 3, 0, 4], sum_s: 0.25 },
            drops: [("no_mapping".to_owned(), 3)].into(),
            vertices: vec![vertex],
            interfaces: vec![interface],
            ..Status::default()
        };
        let text = text(status).expect("it is text");
        for line in [
            "chc_packets_in_total 12",
            "chc_up 1",
            "chc_latency_seconds_sum 0.25",
            "chc_latency_seconds_bucket{le=\"0.000002\"} 3",
            "chc_latency_seconds_bucket{le=\"0.00001\"} 7",
            "chc_latency_seconds_bucket{le=\"+Inf\"} 7",
            "chc_drops_total{reason=\"no_mapping\"} 3",
            "chc_instance_packets_total{vertex=\"nat\",instance=\"1\"} 7",
            "chc_instance_busy_seconds_total{vertex=\"nat\",instance=\"1\"} 0.5",
            "chc_rx_packets_total{side=\"inside\",interface=\"eth0\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
