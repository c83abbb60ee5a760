//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

/// What all names begin with.
const PREFIX: &str = "session_adapter_";

/// What the values of a family are.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page on its way.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {PREFIX}{name} {help}\n"));
        self.put(format_args!("# TYPE {PREFIX}{name} {kind}\n"));
    }

    /// A value of a family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.put(format_args!("{PREFIX}{name}"));
        for (number, (label, text)) in labels.iter().enumerate() {
            let open = if number == 0 { '{' } else { ',' };
            self.put(format_args!("{open}{label}=\"{}\"", escaped(text)));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{close} {value}\n"));
    }

    /// A family of one value without labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family of times: `buckets` has the count for each bound, and one for what is above all.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        buckets: &[u64],
        sum: Duration,
    ) {
        self.family(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        let mut so_far = 0;
        let mut bounds = bounds.iter();
        for count in buckets {
            so_far += count;
            let bound = bounds.next().map_or("+Inf".to_owned(), ToString::to_string);
            self.sample(&bucket, &[("le", &bound)], so_far);
        }
        self.sample(&format!("{name}_sum"), &[], sum.as_secs_f64());
        self.sample(&format!("{name}_count"), &[], so_far);
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A string takes whatever is written to it.
        let _ = self.0.write_fmt(text);
    }
}

/// As the value of a label must be written.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_lines_of_help_type_and_samples() {
        let mut page = Page::default();
        page.single("up", Kind::Gauge, "Help.", 1);
        page.sample("up", &[("a", "x\"\\\ny"), ("b", "")], 0.5);
        let times = Duration::from_millis(1500);
        page.histogram("wait", "Times.", &[0.5, 10.0], &[1, 2, 3], times);
        assert_eq!(
            page.into_text(),
            "# HELP session_adapter_up Help.\n\
             # TYPE session_adapter_up gauge\n\
             session_adapter_up 1\n\
             session_adapter_up{a=\"x\\\"\\\\\\ny\",b=\"\"} 0.5\n\
             # HELP session_adapter_wait Times.\n\
             # TYPE session_adapter_wait histogram\n\
             session_adapter_wait_bucket{le=\"0.5\"} 1\n\
             session_adapter_wait_bucket{le=\"10\"} 3\n\
             session_adapter_wait_bucket{le=\"+Inf\"} 6\n\
             session_adapter_wait_sum 1.5\n\
             session_adapter_wait_count 6\n"
        );
    }
}
