//! What an experiment prints: one line a result, for people or as JSON.

use serde_json::{Map, Value};

/// Figures of one kind, one a sample.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds the figure of a sample.
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// All of them, in the order they were taken.
    #[must_use]
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Least, median and greatest; zeros without samples. Of an even number the median is the mean of
    /// the two in the middle.
    #[must_use]
    pub fn spread(&self) -> [f64; 3] {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return [0.0; 3] };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        [*min, median, *max]
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.spread()[1]
    }

    /// The median of the ratios of samples taken one after the other, of each to its fellow in `other`: what slows the
    /// machine down for a while slows both.
    #[must_use]
    pub fn ratio(&self, other: &Self) -> f64 {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect()).median()
    }
}

/// One result.
#[derive(Clone, Debug)]
pub struct Line(Map<String, Value>);

impl Line {
    /// A result of `experiment`, measured in `unit`.
    #[must_use]
    pub fn new(experiment: &str, unit: &str) -> Self {
        let mut line = Map::new();
        line.insert("experiment".into(), experiment.into());
        line.insert("unit".into(), unit.into());
        Self(line)
    }

    /// Adds a key of the experiment, or a figure beside the main one.
    #[must_use]
    pub fn key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Adds a figure that goes beside the main one, rounded like it.
    #[must_use]
    pub fn figure(self, name: &str, value: f64) -> Self {
        self.key(name, rounded(value))
    }

    /// Adds `samples`, `min`, `median` and `max`.
    #[must_use]
    pub fn samples(self, samples: &Samples) -> Self {
        let [min, median, max] = samples.spread();
        self.key("samples", samples.len()).figure("min", min).figure("median", median).figure("max", max)
    }

    /// The line as JSON, or as `name=value` pairs.
    #[must_use]
    pub fn show(&self, as_json: bool) -> String {
        if as_json {
            return Value::Object(self.0.clone()).to_string();
        }
        let pair = |(name, value): (&String, &Value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        };
        self.0.iter().map(pair).collect::<Vec<_>>().join("  ")
    }
}

/// Four decimals: far finer than anything measured here, and short to read.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(figures: &[f64]) -> Samples {
        Samples(figures.to_vec())
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(samples(&[9.0, 1.0, 4.0]).spread(), [1.0, 4.0, 9.0]);
        assert_eq!(samples(&[9.0, 1.0, 4.0, 2.0]).spread(), [1.0, 3.0, 9.0]);
        assert_eq!(samples(&[]).spread(), [0.0; 3]);
    }

    #[test]
    fn a_ratio_is_of_samples_taken_together() {
        // The machine was half as fast when the second pair was taken.
        assert_eq!(samples(&[9.0, 4.5, 9.0]).ratio(&samples(&[10.0, 5.0, 10.0])), 0.9);
        assert_eq!(samples(&[]).ratio(&samples(&[])), 0.0);
    }

    #[test]
    fn a_line_has_what_every_line_must_have() {
        let line = Line::new("chain", "Mpps").key("mode", "bare").samples(&samples(&[1.0, 2.00004]));
        assert_eq!(
            line.show(true),
            r#"{"experiment":"chain","unit":"Mpps","mode":"bare","samples":2,"min":1.0,"median":1.5,"max":2.0}"#
        );
        assert!(line.show(false).starts_with("experiment=chain  unit=Mpps  mode=bare  samples=2"));
    }
}
