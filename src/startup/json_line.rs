//! Lines of the log as JSON, each put together whole: tracing-subscriber's own formatter checks and
//! copies every piece of a line for itself, which took a seventh of a request's time.

use std::fmt;
use std::time::SystemTime;

use humantime::format_rfc3339_micros;
use serde::Serializer as _;
use serde::ser::SerializeMap;
use serde_json::Serializer;
use tracing::{Event, Subscriber};
use tracing_serde::{AsSerde, SerdeMapVisitor};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What most lines fit into.
const USUAL_BYTES: usize = 512;

/// Writes an event's time, its level and its fields as one object.
pub struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = line(event, SystemTime::now()).map_err(|_| fmt::Error)?;
        writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

fn line(event: &Event<'_>, now: SystemTime) -> serde_json::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(USUAL_BYTES);
    let mut json = Serializer::new(&mut line);
    let mut fields = json.serialize_map(None)?;
    let timestamp = format_args!("{}", format_rfc3339_micros(now));
    fields.serialize_entry("timestamp", &timestamp)?;
    fields.serialize_entry("level", &event.metadata().level().as_serde())?;
    let mut visitor = SerdeMapVisitor::new(fields);
    event.record(&mut visitor);
    visitor.finish()?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_object_with_fields_of_every_kind() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(JsonLine)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let none: Option<&str> = None;
            tracing::warn!(
                text = "a \"word\"\nü\0",
                count = 3_u64,
                ms = 0.25,
                is_it = true,
                shown = %"as it is",
                told = ?Some(1),
                none,
                "what happened"
            );
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(timestamp).is_ok(), "{timestamp}");
        let expected = serde_json::json!({
            "timestamp": timestamp, "level": "WARN", "message": "what happened",
            "text": "a \"word\"\nü\0", "count": 3, "ms": 0.25, "is_it": true, "shown": "as it is",
            "told": "Some(1)",
        });
        assert_eq!(line, expected);
    }
}
