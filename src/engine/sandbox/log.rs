//! Log lines of the spawner and the keepers, in the format of the program's other log lines.
//!
//! They are processes of their own, without the subscriber that the HTTP side logs to.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

/// Whether lines are JSON. Forked processes inherit it from the spawner.
static JSON: AtomicBool = AtomicBool::new(true);

/// Sets the format to JSON or to text.
pub(super) fn set_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Logs an error. `error` is the field of that name: the cause, or what the message is about.
pub(super) fn error(message: &str, error: &dyn Display) {
    log("ERROR", message, error);
}

/// Logs a warning, with its cause.
pub(super) fn warn(message: &str, cause: &dyn Display) {
    log("WARN", message, cause);
}

fn log(level: &str, message: &str, error: &dyn Display) {
    let line = write(SystemTime::now(), level, message, &error.to_string());
    // In one piece, because other processes write to the same stderr. A failure cannot be reported
    // anywhere.
    let _ = io::stderr().write_all(line.as_bytes());
}

fn write(time: SystemTime, level: &str, message: &str, error: &str) -> String {
    let time = humantime::format_rfc3339_micros(time);
    if JSON.load(Ordering::Relaxed) {
        let text = |text: &str| serde_json::Value::from(text);
        let (message, error) = (text(message), text(error));
        format!(
            "{{\"timestamp\":\"{time}\",\"level\":\"{level}\",\"message\":{message},\"error\":{error}}}\n"
        )
    } else {
        format!("{time} {level} {message} error={error}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_as_the_others_or_text() {
        let time = SystemTime::UNIX_EPOCH;
        assert_eq!(
            write(time, "ERROR", "it failed", "no \"room\"\n"),
            "{\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"ERROR\",\
             \"message\":\"it failed\",\"error\":\"no \\\"room\\\"\\n\"}\n"
        );
        set_json(false);
        assert_eq!(
            write(time, "WARN", "it failed", "no room"),
            "1970-01-01T00:00:00.000000Z WARN it failed error=no room\n"
        );
        set_json(true);
    }
}
