//! The text form that Prometheus reads (version 0.0.4).

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, GaugeValueEncoder, MetricEncoder, NoLabelSet,
    prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use super::{FAMILIES, Family, Kind, Sample, Value};

/// Of the text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What was gathered from one process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Group {
    /// The value of the label `volume`; `None` for what belongs to no volume.
    pub volume: Option<String>,
    pub samples: Vec<Sample>,
}

/// All samples, by metric. Those that are not in the table are left out: another version may have gathered them.
pub fn text(groups: Vec<Group>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Groups(groups)));
    let mut text = String::new();
    // Only the writer of a text can fail, and a string does not.
    if let Err(error) = prometheus_text::encode(&mut text, &registry) {
        debug_assert!(false, "{error}");
    }
    text
}

#[derive(Debug)]
struct Groups(Vec<Group>);

type Labels = Vec<(Cow<'static, str>, Cow<'static, str>)>;

impl Collector for Groups {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in FAMILIES {
            let of_family = |group: &Group| group.samples.iter().any(|s| s.name == family.name);
            if !self.0.iter().any(of_family) {
                continue;
            }
            let (name, kind) = match family.kind {
                // The encoder adds it again.
                Kind::Counter => {
                    (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter)
                }
                Kind::Gauge => (family.name, MetricType::Gauge),
                Kind::Histogram => (family.name, MetricType::Histogram),
            };
            let mut metric = encoder.encode_descriptor(name, family.meaning, None, kind)?;
            for group in &self.0 {
                let samples = group.samples.iter().filter(|s| s.name == family.name);
                for sample in samples {
                    encode(&mut metric, family, group, sample)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(
    metric: &mut MetricEncoder<'_>,
    family: &Family,
    group: &Group,
    sample: &Sample,
) -> Result<(), fmt::Error> {
    let mut labels: Labels = Vec::with_capacity(sample.labels.len() + 1);
    labels.extend(group.volume.iter().map(|name| ("volume".into(), name.clone().into())));
    labels.extend(sample.labels.iter().cloned());
    let mut metric = metric.encode_family(&labels)?;
    match (&sample.value, family.kind) {
        (Value::Histogram { bounds, counts, sum }, _) => {
            let all = counts.iter().sum();
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            metric.encode_histogram::<NoLabelSet>(*sum, all, &buckets, None)
        }
        (Value::Count(count), Kind::Counter) => {
            metric.encode_counter::<NoLabelSet, _, u64>(count, None)
        }
        (Value::Number(number), Kind::Counter) => {
            metric.encode_counter::<NoLabelSet, _, u64>(number, None)
        }
        (Value::Count(count), _) => metric.encode_gauge(&Number(*count as f64)),
        (Value::Number(number), _) => metric.encode_gauge(&Number(*number)),
    }
}

/// A whole number is written as one.
struct Number(f64);

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> Result<(), fmt::Error> {
        const EXACT: f64 = (1u64 << 53) as f64;
        match self.0.fract() == 0.0 && self.0.abs() < EXACT {
            true => (self.0 as i64).encode(encoder),
            false => self.0.encode(encoder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn samples_of_several_volumes_stand_below_one_head() {
        let times = Value::Histogram { bounds: vec![0.005, 1.0], counts: vec![1, 0, 2], sum: 2.5 };
        let group = |volume: &str| Group {
            volume: Some(volume.to_owned()),
            samples: vec![
                Sample::new(&names::FSYNC_SECONDS, times.clone()),
                Sample::count(&names::CONFLICTS, 3),
                Sample::count(&names::STATE, 1).with("state", "active"),
                Sample::number(&names::LEASE_LEFT, 1.5),
            ],
        };
        let said = text(vec![group("a"), group("b\"c")]);
        let lines: Vec<&str> = said.lines().collect();
        let has = |line: &str| assert!(lines.contains(&line), "{line}: {said}");
        has("# TYPE s3vol_conflicts_total counter");
        has(r#"s3vol_conflicts_total{volume="a"} 3"#);
        has(r#"s3vol_conflicts_total{volume="b\"c"} 3"#);
        has(r#"s3vol_state{volume="a",state="active"} 1"#);
        has(r#"s3vol_lease_remaining_seconds{volume="a"} 1.5"#);
        has(r#"s3vol_fsync_duration_seconds_bucket{volume="a",le="0.005"} 1"#);
        has(r#"s3vol_fsync_duration_seconds_bucket{volume="a",le="1"} 1"#);
        has(r#"s3vol_fsync_duration_seconds_bucket{volume="a",le="+Inf"} 3"#);
        has(r#"s3vol_fsync_duration_seconds_sum{volume="a"} 2.5"#);
        has(r#"s3vol_fsync_duration_seconds_count{volume="a"} 3"#);
        let heads = lines.iter().filter(|line| line.starts_with("# TYPE s3vol_conflicts")).count();
        assert_eq!(heads, 1, "{said}");
    }

    #[test]
    fn what_is_not_in_the_table_is_left_out() {
        let stray = Sample { name: "s3vol_later_total".into(), ..Sample::count(&names::UP, 1) };
        assert_eq!(text(vec![Group { volume: None, samples: vec![stray] }]), "");
    }
}
