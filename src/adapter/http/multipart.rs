//! A streaming parser of `multipart/form-data` (RFC 7578).
//!
//! What is buffered is one chunk of the body and at most the head of a part.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use crate::adapter::http::disposition::Disposition;

/// Largest head of a part.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Longest boundary; RFC 2046 has 70.
const MAX_BOUNDARY_BYTES: usize = 200;
/// Blanks that may follow a boundary on its line.
const MAX_PADDING: usize = 64;

/// What comes next in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum MultipartEvent {
    Part(Disposition),
    Data(Bytes),
    PartEnd,
    /// The closing boundary; nothing that follows means anything.
    End,
}

/// Why a body is not `multipart/form-data`, as the end of a sentence.
pub type Malformed = &'static str;

/// A body under way: push what comes, then take pieces until there are none.
#[derive(Debug)]
pub struct Multipart {
    /// The line break and the boundary that separate parts. Empty until it is known.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    state: ParserState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParserState {
    /// Ahead of the first boundary.
    Preamble,
    /// Behind a boundary; the line break that ends its line is still in the buffer.
    Head,
    Body,
    /// Behind the closing boundary.
    Over,
}

enum Found {
    /// A boundary begins here, and so many bytes are its line without the line break.
    Boundary { at: usize, line: usize },
    /// The closing boundary begins here.
    Closing { at: usize },
    /// Up to here there is none; what follows cannot be judged yet.
    Nothing { up_to: usize },
}

impl Multipart {
    /// A body with this boundary. Without one it is taken from the first line: some clients name
    /// another content type ahead of what is multipart all the same.
    ///
    /// # Errors
    /// Where the boundary cannot be one.
    pub fn new(boundary: Option<&[u8]>) -> Result<Self, Malformed> {
        let delimiter = match boundary {
            Some(boundary) => delimiter(boundary)?,
            None => Vec::new(),
        };
        Ok(Self {
            delimiter,
            // The first boundary has no line break ahead of it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            state: ParserState::Preamble,
        })
    }

    /// More of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next piece, or `None` where more of the body is needed.
    ///
    /// # Errors
    /// Where the body is malformed.
    pub fn next_event(&mut self) -> Result<Option<MultipartEvent>, Malformed> {
        if self.delimiter.is_empty() {
            match first_line(&self.buffer)? {
                Some(boundary) => self.delimiter = delimiter(boundary)?,
                None => return Ok(None),
            }
        }
        match self.state {
            ParserState::Preamble => self.preamble(),
            ParserState::Head => self.head(),
            ParserState::Body => Ok(self.body()),
            ParserState::Over => {
                self.buffer.clear();
                Ok(Some(MultipartEvent::End))
            }
        }
    }

    fn preamble(&mut self) -> Result<Option<MultipartEvent>, Malformed> {
        match self.find() {
            Found::Boundary { at, line } => {
                self.buffer.advance(at + line);
                self.state = ParserState::Head;
                self.head()
            }
            Found::Closing { .. } => {
                self.state = ParserState::Over;
                self.next_event()
            }
            Found::Nothing { up_to } => {
                self.buffer.advance(up_to);
                Ok(None)
            }
        }
    }

    fn head(&mut self) -> Result<Option<MultipartEvent>, Malformed> {
        let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") else {
            // All of the empty line but its last byte may be there.
            return match self.buffer.len() {
                len if len < MAX_HEAD_BYTES + 4 => Ok(None),
                _ => Err("the headers of a part are too large"),
            };
        };
        if end > MAX_HEAD_BYTES {
            return Err("the headers of a part are too large");
        }
        let head = self.buffer.split_to(end + 4);
        self.state = ParserState::Body;
        let lines = unfolded(&head[..end]);
        let disposition = lines.split(|byte| *byte == b'\n').find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            line[..colon]
                .trim_ascii()
                .eq_ignore_ascii_case(b"content-disposition")
                .then(|| Disposition::parse(line[colon + 1..].trim_ascii()))
        });
        Ok(Some(MultipartEvent::Part(disposition.unwrap_or_default())))
    }

    fn body(&mut self) -> Option<MultipartEvent> {
        let up_to = match self.find() {
            Found::Boundary { at: 0, line } => {
                self.buffer.advance(line);
                self.state = ParserState::Head;
                return Some(MultipartEvent::PartEnd);
            }
            Found::Closing { at: 0 } => {
                self.state = ParserState::Over;
                return Some(MultipartEvent::PartEnd);
            }
            Found::Boundary { at, .. } | Found::Closing { at } => at,
            Found::Nothing { up_to } => up_to,
        };
        (up_to > 0).then(|| MultipartEvent::Data(self.buffer.split_to(up_to).freeze()))
    }

    /// Finds the next boundary. Bytes that only begin like one are not: a boundary fills its line.
    fn find(&self) -> Found {
        let mut from = 0;
        while let Some(at) = memmem::find(&self.buffer[from..], &self.delimiter) {
            let at = from + at;
            let rest = &self.buffer[at + self.delimiter.len()..];
            let padding = rest
                .iter()
                .take(MAX_PADDING)
                .take_while(|byte| matches!(byte, b' ' | b'\t'))
                .count();
            match (rest, &rest[padding..]) {
                ([b'-', b'-', ..], _) => return Found::Closing { at },
                (_, [b'\r', b'\n', ..]) => {
                    let line = self.delimiter.len() + padding;
                    return Found::Boundary { at, line };
                }
                ([] | [b'-'], _) | (_, [] | [b'\r']) => return Found::Nothing { up_to: at },
                _ => from = at + 1,
            }
        }
        // The end may be the beginning of a boundary.
        let buffered = self.delimiter.len() - 1;
        let up_to = self.buffer.len().saturating_sub(buffered).max(from);
        Found::Nothing { up_to }
    }
}

fn delimiter(boundary: &[u8]) -> Result<Vec<u8>, Malformed> {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if boundary.is_empty()
        || boundary.len() > MAX_BOUNDARY_BYTES
        || !boundary.iter().all(is_text)
        || boundary.ends_with(b" ")
    {
        return Err("its boundary cannot be used");
    }
    Ok([b"\r\n--", boundary].concat())
}

/// The boundary on the first line of a buffer that begins with a line break.
fn first_line(buffer: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    const NO_BOUNDARY: Malformed = "it does not begin with a boundary";
    const LONGEST: usize = MAX_BOUNDARY_BYTES + MAX_PADDING;
    let line = &buffer[2..];
    if !line.starts_with(&b"--"[..line.len().min(2)]) {
        return Err(NO_BOUNDARY);
    }
    match memmem::find(line, b"\r\n") {
        Some(end) if end <= LONGEST => Ok(Some(line[2..end].trim_ascii_end())),
        // The line feed may still be on its way.
        None if line.len() <= LONGEST + 1 => Ok(None),
        _ => Err(NO_BOUNDARY),
    }
}

/// Lines that end in a line feed, with those that were folded joined again.
fn unfolded(head: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(head.len());
    let mut bytes = head.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {}
            b'\n' if matches!(bytes.peek(), Some(b' ' | b'\t')) => {}
            _ => lines.push(byte),
        }
    }
    lines
}

/// The `boundary` of a content type, if that is `multipart/form-data`.
///
/// The outer `None` is for another type, the inner one for a boundary that is not named.
pub fn boundary(content_type: &[u8]) -> Option<Option<Vec<u8>>> {
    let text = String::from_utf8_lossy(content_type);
    let mut parts = text.splitn(2, ';');
    let media = parts.next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let parameters = parts.next().unwrap_or_default().split(';');
    Some(parameters.into_iter().find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let value = value.trim();
        let value = value
            .strip_prefix('"')
            .map_or(value, |quoted| quoted.split('"').next().unwrap_or_default());
        (key.trim().eq_ignore_ascii_case("boundary") && !value.is_empty())
            .then(|| value.as_bytes().to_vec())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a body that comes in chunks of `size`: names, file names and data.
    fn parts(
        body: &[u8],
        boundary: Option<&[u8]>,
        size: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, Malformed> {
        let mut multipart = Multipart::new(boundary)?;
        let mut chunks = body.chunks(size);
        let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            match multipart.next_event()? {
                Some(MultipartEvent::Part(part)) => {
                    parts.push((part.filename.unwrap_or_default(), Vec::new()));
                }
                Some(MultipartEvent::Data(data)) => {
                    parts.last_mut().unwrap().1.extend_from_slice(&data)
                }
                Some(MultipartEvent::PartEnd) => {}
                Some(MultipartEvent::End) => return Ok(parts),
                None => multipart.push(chunks.next().ok_or("incomplete")?),
            }
        }
    }

    fn one(data: &[u8]) -> Vec<u8> {
        let head = "--B\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n";
        [head.as_bytes(), data, b"\r\n--B--\r\n"].concat()
    }

    #[test]
    fn a_body_is_the_same_whatever_its_chunks() {
        let games: [&[u8]; 10] = [
            b"",
            b"x",
            b"\r\n",
            b"\r\n--",
            b"\r\n--A",
            b"\r\n--BB\r\n",
            b"--B\r\n",
            b"\r\n--B \tx",
            b"\r\r\n\r\n--\r\n--B-\r\n-",
            b"\r\n--B \r",
        ];
        for data in games {
            let body = one(data);
            for size in 1..=body.len() {
                for boundary in [Some(&b"B"[..]), None] {
                    let parts = parts(&body, boundary, size).unwrap();
                    assert_eq!(
                        parts,
                        [("x".to_owned(), data.to_vec())],
                        "{data:?} by {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn parts_follow_each_other() {
        let body = b"preamble\r\n--B  \r\ncontent-disposition:form-data;\r\n name=a; filename=a\r\n\r\n1\r\n\
                     --B\r\n\r\n\r\n--B\r\nX: y\r\nContent-Disposition: form-data; filename=c\r\n\r\n3\r\n--B--epilogue";
        for size in [1, 7, 1000] {
            let parts = parts(body, Some(b"B"), size).unwrap();
            let expected = [("a", "1"), ("", ""), ("c", "3")];
            let found: Vec<_> = parts
                .iter()
                .map(|(name, data)| (name.as_str(), std::str::from_utf8(data).unwrap()))
                .collect();
            assert_eq!(found, expected);
        }
        assert_eq!(parts(b"--B--\r\n", Some(b"B"), 3).unwrap(), []);
    }

    #[test]
    fn bounds_do_not_depend_on_how_the_bytes_come() {
        for padding in [MAX_BOUNDARY_BYTES, MAX_BOUNDARY_BYTES + MAX_PADDING] {
            let line = format!("--x{}\r\n\r\n\r\n--x--", " ".repeat(padding));
            let whole = {
                let mut form = Multipart::new(None).unwrap();
                form.push(line.as_bytes());
                form.next_event().is_ok()
            };
            let mut form = Multipart::new(None).unwrap();
            let cut = line.bytes().all(|byte| {
                form.push(&[byte]);
                form.next_event().is_ok()
            });
            assert_eq!(whole, cut, "{padding}");
        }
        let mut form = Multipart::new(Some(b"x")).unwrap();
        let head = "x".repeat(MAX_HEAD_BYTES - 2);
        for piece in ["--x", "\r\n", &head, "\r", "\n", "\r"] {
            form.push(piece.as_bytes());
            assert_eq!(form.next_event(), Ok(None));
        }
        form.push(b"\n");
        assert!(matches!(
            form.next_event(),
            Ok(Some(MultipartEvent::Part(_)))
        ));
    }

    #[test]
    fn what_is_malformed_is_refused_and_bounded() {
        assert_eq!(parts(&one(b"x")[..50], Some(b"B"), 9), Err("incomplete"));
        assert_eq!(parts(b"", Some(b"B"), 1), Err("incomplete"));
        assert!(parts(b"{\"code\":1}", None, 3).is_err());
        assert!(parts(&[b'-'; 500], None, 10).is_err());
        let endless = [b"--B\r\n", &[b'a'; 20 << 10][..]].concat();
        assert!(parts(&endless, Some(b"B"), 1000).is_err());
        for boundary in [&b""[..], b"a\r\nb", b"a ", &[b'x'; 201]] {
            assert!(Multipart::new(Some(boundary)).is_err());
        }
    }

    #[test]
    fn little_is_held() {
        let mut multipart = Multipart::new(Some(b"B")).unwrap();
        let body = one(&[b'\r'; 100_000]);
        for chunk in body.chunks(1000) {
            multipart.push(chunk);
            while !matches!(
                multipart.next_event().unwrap(),
                None | Some(MultipartEvent::End)
            ) {}
            assert!(multipart.buffer.len() < 200);
        }
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        let read = |text: &str| boundary(text.as_bytes());
        let b = || Some(Some(b"B".to_vec()));
        assert_eq!(read("multipart/form-data; boundary=B"), b());
        assert_eq!(
            read("Multipart/Form-Data;charset=utf-8; Boundary=\"B\""),
            b()
        );
        assert_eq!(read("multipart/form-data"), Some(None));
        assert_eq!(read("application/json"), None);
    }
}
