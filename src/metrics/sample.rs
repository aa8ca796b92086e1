//! One value of one metric at one moment, as processes hand it to each other.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Family;

/// A value with its labels, but without that of the volume, which whoever asked knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub name: Cow<'static, str>,
    /// Names and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// A whole number.
    Count(u64),
    Number(f64),
    /// `counts` has one more than `bounds`, and each counts by itself. `sum` in the unit of the bounds.
    Histogram {
        bounds: Vec<f64>,
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Sample {
    pub fn new(family: &Family, value: Value) -> Self {
        Sample { name: Cow::Borrowed(family.name), labels: Vec::new(), value }
    }

    pub fn count(family: &Family, value: u64) -> Self {
        Sample::new(family, Value::Count(value))
    }

    pub fn number(family: &Family, value: f64) -> Self {
        Sample::new(family, Value::Number(value))
    }

    /// With one more label.
    #[must_use]
    pub fn with(mut self, label: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.labels.push((Cow::Borrowed(label), value.into()));
        self
    }

    /// One sample for each of `all`: 1 for the one that is, 0 for the others.
    pub fn one_of(
        family: &Family,
        label: &'static str,
        all: &[&'static str],
        is: &str,
    ) -> impl Iterator<Item = Sample> {
        let is = |name: &&'static str| u64::from(**name == *is);
        all.iter()
            .map(|name| Sample::count(family, is(name)).with(label, *name))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Of a histogram, how much was counted; of others, the number.
    pub fn total(&self) -> f64 {
        match &self.value {
            Value::Count(count) => *count as f64,
            Value::Number(number) => *number,
            Value::Histogram { counts, .. } => counts.iter().sum::<u64>() as f64,
        }
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_ref())
    }
}
