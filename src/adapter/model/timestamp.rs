//! Times as Azure writes them.

use std::fmt;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_millis;
use rustix::fs::Stat;
use serde::{Serialize, Serializer};

/// The last second of the year 9999: RFC 3339 has four digits for a year. A program can give its
/// files any time at all.
const LATEST: u64 = 253_402_300_799;

/// A point in time from 1970 to 9999, written by RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// When a file was last written.
    pub fn modified(found: &Stat) -> Self {
        Self::at(found.st_mtime, found.st_mtime_nsec)
    }

    fn at(seconds: i64, nanos: impl TryInto<u32>) -> Self {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let nanos = if seconds > LATEST {
            0
        } else {
            nanos.try_into().unwrap_or(0)
        };
        Self(SystemTime::UNIX_EPOCH + Duration::new(seconds.min(LATEST), nanos))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        format_rfc3339_millis(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_azure_does_whatever_a_program_has_set() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (1_716_949_045, 902_456_400, "2024-05-29T02:17:25.902Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000Z"),
            (i64::MAX, 5, "9999-12-31T23:59:59.000Z"),
            (-1, 0, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::at(seconds, nanos).to_string(), text);
        }
    }
}
