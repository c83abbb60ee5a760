//! The value of a Python program's last expression, which `python3 main.py` would throw away.
//!
//! A runner goes before the program as the file that is run. It tells the value behind the
//! program's own standard error, between two markers that are new for each execution. A program
//! that finds out the marker can forge its own value and nothing else.

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::piston::{ExecuteRequest, File};

const RUNNER: &str = include_str!("runner.py");
const RUNNER_FILE: &str = "session_runner.py";

/// What stands before and behind a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(String);

impl Marker {
    /// A new one.
    pub fn new() -> Self {
        Self(format!("session-value-{}:", Uuid::new_v4().simple()))
    }

    /// Puts the runner before the program. `most` is the longest value in characters of JSON.
    pub fn put_before(&self, request: &mut ExecuteRequest, most: usize) {
        let main = request.files.first().map_or("", |main| &main.name);
        let content = format!("{RUNNER}run(b\"{}\", \"{main}\", {most})\n", self.0);
        request.files.insert(0, File::text(RUNNER_FILE, content));
    }

    /// Takes the value, with its markers, out of `text`.
    pub fn take_from(&self, text: &mut String) -> Option<Box<RawValue>> {
        let begin = text.find(&self.0)?;
        let value = begin + self.0.len();
        let length = text[value..].find(&self.0)?;
        let json = serde_json::from_str(&text[value..value + length]).ok();
        text.replace_range(begin..value + length + self.0.len(), "");
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_out_whole_wherever_it_stands() {
        let marker = Marker::new();
        for json in [
            "2",
            "\"é\"",
            "[1,{\"a\":null}]",
            "123456789012345678901234567890",
        ] {
            let mut text = format!("before{0}{json}{0}after", marker.0);
            assert_eq!(marker.take_from(&mut text).unwrap().get(), json);
            assert_eq!(text, "beforeafter");
        }
    }

    #[test]
    fn what_is_no_value_is_left_or_dropped() {
        let marker = Marker::new();
        for text in ["", "session-value-0:2session-value-0:", &marker.0] {
            let mut left = text.to_owned();
            assert!(marker.take_from(&mut left).is_none());
            assert_eq!(left, text);
        }
        let mut forged = format!("{0}no json{0}", marker.0);
        assert!(marker.take_from(&mut forged).is_none());
        assert_eq!(forged, "");
    }
}
