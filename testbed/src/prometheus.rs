//! What `/stats/prometheus` says, as samples that can be looked up by name and labels.

use std::collections::BTreeMap;

/// One line of the exposition: a name, labels and a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

// === impl Samples ===

impl Samples {
    /// Reads the text exposition format. Comments and lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The value of the one sample with this name and at least these labels; `None` when there is none, or several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.0.iter().filter(|sample| sample.name == name && sample.has(labels));
        found.next().filter(|_| found.next().is_none()).map(|sample| sample.value)
    }

    /// The samples whose name starts with `prefix`; for messages and for sums.
    pub fn named(&self, prefix: &str) -> Vec<&Sample> {
        self.0.iter().filter(|sample| sample.name.starts_with(prefix)).collect()
    }
}

// === impl Sample ===

impl Sample {
    /// Whether it carries all these labels.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|seen| seen == value))
    }
}

/// `name{label="value",…} 1` as a sample. Envoy escapes nothing that the filter's names can contain.
fn sample(line: &str) -> Option<Sample> {
    let (metric, value) = line.rsplit_once(' ')?;
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\""));
    let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let samples = Samples::parse(
            "# TYPE bluegreen_requests_total counter\n\
             bluegreen_requests_total{deployment=\"iris\",colour=\"blue\"} 7\n\
             bluegreen_requests_total{deployment=\"iris\",colour=\"green\"} 0\n\
             bluegreen_plain{} 1\n",
        );
        let blue = [("colour", "blue"), ("deployment", "iris")];
        assert_eq!(samples.value("bluegreen_requests_total", &blue), Some(7.0), "{samples:?}");
        assert_eq!(samples.value("bluegreen_plain", &[]), Some(1.0), "{samples:?}");
        assert_eq!(samples.value("bluegreen_requests_total", &[]), None, "two samples have that name");
    }
}
