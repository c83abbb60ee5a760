//! Times as Azure writes them.

use std::fmt;

use rustix::fs::Stat;

/// The last second of the year 9999: RFC 3339 has four digits for a year. A program can give its
/// files any time at all.
const LATEST: i64 = 253_402_300_799;

/// A point in time, written by RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    seconds: i64,
    millis: u32,
}

impl Timestamp {
    /// When a file was last written, from 1970 to 9999.
    pub fn modified(found: &Stat) -> Self {
        Self::at(found.st_mtime, found.st_mtime_nsec)
    }

    fn at(seconds: i64, nanos: impl TryInto<u32>) -> Self {
        Self {
            seconds: seconds.clamp(0, LATEST),
            millis: (nanos.try_into().unwrap_or(0) / 1_000_000).min(999),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, time) = (self.seconds / 86_400, self.seconds % 86_400);
        // Years that begin in March end with the leap day; an era of 400 of them has 146 097 days.
        // 719 468 days lie between 0000-03-01 and 1970-01-01.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (year, month) = match month {
            0..10 => (era * 400 + year, month + 3),
            _ => (era * 400 + year + 1, month - 9),
        };
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        let millis = self.millis;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_azure_does() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999_999_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_716_949_045, 902_456_400, "2024-05-29T02:17:25.902Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (LATEST, 0, "9999-12-31T23:59:59.000Z"),
            (i64::MAX, 0, "9999-12-31T23:59:59.000Z"),
            (-1, 0, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::at(seconds, nanos).to_string(), text);
        }
    }
}
