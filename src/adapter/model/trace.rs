//! The trace that a request belongs to: the header `traceparent` of W3C's Trace Context.
//!
//! It is logged, and goes nowhere else: the engine has nothing to say about it, and a response tells
//! a client nothing that the client has not told itself.

use std::fmt;

/// Version 00 has so many characters; later ones have as many or more.
const LENGTH: usize = 55;

/// Which trace a request is part of, and which step of it has sent the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The step that has sent the request.
    pub parent_id: ParentId,
}

/// 16 bytes, not all of them zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// 8 bytes, not all of them zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentId(u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ParentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TraceContext {
    /// Reads the values of all `traceparent` headers. An invalid or repeated one is ignored.
    pub fn of<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        match (values.next(), values.next()) {
            (Some(one), None) => Self::parse(one),
            _ => None,
        }
    }

    /// Reads `VERSION-TRACE_ID-PARENT_ID-FLAGS`. A later version than 00 may have more behind it.
    fn parse(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut fields = known.split(|byte| *byte == b'-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let parent_id = hex(fields.next()?, 16)?;
        hex(fields.next()?, 2)?;
        let ends_well = match version {
            0x00 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with(b"-"),
        };
        let is_valid = ends_well && fields.next().is_none() && trace_id != 0 && parent_id != 0;
        is_valid.then_some(Self {
            trace_id: TraceId(trace_id),
            parent_id: ParentId(u64::try_from(parent_id).ok()?),
        })
    }
}

/// The number that so many lower-case digits stand for.
fn hex(digits: &[u8], length: usize) -> Option<u128> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != length || !digits.iter().all(is_digit) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text.as_bytes())
    }

    #[test]
    fn a_valid_one_is_read_and_written_as_it_was() {
        for valid in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-00"),
            format!("00-{TRACE}-{PARENT}-ff"),
            // Later versions: what is known of them is read.
            format!("01-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-{PARENT}-01-"),
        ] {
            let read = parse(&valid).unwrap_or_else(|| panic!("{valid}"));
            assert_eq!(read.trace_id.to_string(), TRACE);
            assert_eq!(read.parent_id.to_string(), PARENT);
        }
        let small = parse("00-00000000000000000000000000000001-0000000000000001-00").unwrap();
        assert_eq!(small.trace_id.to_string(), format!("{:0>32}", 1));
        assert_eq!(small.parent_id.to_string(), format!("{:0>16}", 1));
    }

    #[test]
    fn an_invalid_one_is_nothing() {
        let (trace_zeros, parent_zeros) = ("0".repeat(32), "0".repeat(16));
        let long = "x".repeat(20_000);
        for invalid in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("ff-{TRACE}-{PARENT}-01-more"),
            format!("FF-{TRACE}-{PARENT}-01"),
            format!("0-{TRACE}-{PARENT}-01"),
            format!("000-{TRACE}-{PARENT}-1"),
            format!("0x-{TRACE}-{PARENT}-01"),
            format!("00-{trace_zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{parent_zeros}-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", PARENT.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-0A"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-011"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("01-{TRACE}-{PARENT}-01more"),
            format!("00_{TRACE}_{PARENT}_01"),
            format!("00-{}-{PARENT}-01", TRACE.replace('4', "g")),
            format!("00-+{}-{PARENT}-01", &TRACE[1..]),
            format!("00-{PARENT}-{TRACE}-01"),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!("00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-\u{660}"),
            format!("00-{long}-{PARENT}-01"),
            format!("00-{TRACE}\"\n{}-01", &PARENT[1..]),
        ] {
            assert_eq!(parse(&invalid), None, "{invalid:?}");
        }
    }

    #[test]
    fn two_of_them_are_none() {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".as_bytes();
        assert_eq!(TraceContext::of([].into_iter()), None);
        assert!(TraceContext::of([value].into_iter()).is_some());
        assert_eq!(TraceContext::of([value, value].into_iter()), None);
    }
}
