//! Collects a program's output: two streams, each up to a limit, and both combined in order of arrival.
//!
//! It works on chunks as they are read from the pipes and does no I/O itself.

/// One of a program's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The output so far.
#[derive(Debug)]
pub(super) struct Output {
    limit: usize,
    lengths: [usize; 2],
    overflow: Option<Stream>,
    chunks: Vec<(Stream, Vec<u8>)>,
}

/// The output as text. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Both, in the order of arrival.
    pub(super) combined: String,
}

impl Output {
    /// Keeps up to `limit` bytes of each stream.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            lengths: [0, 0],
            overflow: None,
            chunks: Vec::new(),
        }
    }

    /// Appends a chunk. What exceeds the limit is dropped.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let [out, err] = &mut self.lengths;
        let length = match stream {
            Stream::Stdout => out,
            Stream::Stderr => err,
        };
        let room = self.limit - *length;
        let kept = bytes.get(..room).unwrap_or(bytes);
        *length += kept.len();
        if kept.len() < bytes.len() && self.overflow.is_none() {
            self.overflow = Some(stream);
        }
        match self.chunks.last_mut() {
            Some((last, chunk)) if *last == stream => chunk.extend_from_slice(kept),
            _ => self.chunks.push((stream, kept.to_vec())),
        }
    }

    /// Takes back all that was kept so far.
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.lengths = [0, 0];
    }

    /// The stream that exceeded the limit first.
    pub(super) fn overflow(&self) -> Option<Stream> {
        self.overflow
    }

    /// The text. The paths in `private` mean nothing to a client and are removed from standard error, so
    /// that a traceback names `main.py` without the job's directory.
    pub(super) fn into_text(mut self, private: &[String]) -> Text {
        if self.overflow.is_some() {
            self.drop_cut_characters();
        }
        let mut text = Text::default();
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        // A chunk may end within a character. The incomplete bytes are moved to the stream's next chunk,
        // or output of the other stream would end up in the middle of the character.
        let mut left = [Vec::new(), Vec::new()];
        let mut combined = Vec::new();
        for (stream, mut chunk) in self.chunks {
            let [left_out, left_err] = &mut left;
            let left = match stream {
                Stream::Stdout => {
                    stdout.extend_from_slice(&chunk);
                    left_out
                }
                Stream::Stderr => {
                    stderr.extend_from_slice(&chunk);
                    left_err
                }
            };
            let mut whole = std::mem::take(left);
            whole.append(&mut chunk);
            *left = whole.split_off(whole.len() - cut_character(&whole));
            if stream == Stream::Stderr {
                whole = without(&whole, private);
            }
            combined.append(&mut whole);
        }
        for mut rest in left {
            combined.append(&mut rest);
        }
        text.stdout = lossy(stdout);
        text.stderr = lossy(without(&stderr, private));
        text.combined = lossy(combined);
        text
    }

    fn drop_cut_characters(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let last = self.chunks.iter_mut().rfind(|(of, _)| *of == stream);
            if let Some((_, chunk)) = last {
                chunk.truncate(chunk.len() - cut_character(chunk));
            }
        }
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// How many bytes at the end are the beginning of an incomplete character.
fn cut_character(bytes: &[u8]) -> usize {
    for length in 1..=3.min(bytes.len()) {
        let tail = bytes.get(bytes.len() - length..).unwrap_or_default();
        match tail.first() {
            Some(0x80..=0xBF) => {}
            Some(0xC2..=0xF4) => {
                let cut = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
                return if cut { length } else { 0 };
            }
            _ => return 0,
        }
    }
    0
}

/// Removes all mentions of the directories.
fn without(bytes: &[u8], folders: &[String]) -> Vec<u8> {
    let mut kept = bytes.to_vec();
    for folder in folders {
        kept = without_folder(&kept, folder.as_bytes());
    }
    kept
}

/// Removes all mentions of a directory together with the slash after it. A mention of the directory
/// alone becomes `.`.
fn without_folder(bytes: &[u8], needle: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match rest.strip_prefix(needle).filter(|_| !needle.is_empty()) {
            Some(after) => match after.strip_prefix(b"/") {
                Some(after) => rest = after,
                None => {
                    kept.push(b'.');
                    rest = after;
                }
            },
            None => {
                kept.push(*first);
                rest = tail;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::Stream::{Stderr, Stdout};
    use super::*;

    #[test]
    fn a_character_split_over_two_reads_stays_whole() {
        let smile = "😀".as_bytes();
        let mut output = Output::new(100);
        output.push(Stdout, &smile[..2]);
        output.push(Stderr, b"x");
        output.push(Stdout, &smile[2..]);
        let text = output.into_text(&[]);
        assert_eq!(
            (text.stdout.as_str(), text.combined.as_str()),
            ("😀", "x😀")
        );
    }

    #[test]
    fn the_limit_itself_fits_and_one_byte_more_does_not() {
        let mut output = Output::new(4);
        output.push(Stdout, b"abcd");
        assert_eq!(output.overflow(), None);
        output.push(Stderr, "a€€".as_bytes());
        assert_eq!(output.overflow(), Some(Stderr));
        let text = output.into_text(&[]);
        assert_eq!((text.stdout.as_str(), text.stderr.as_str()), ("abcd", "a€"));
    }

    #[test]
    fn a_character_cut_by_the_limit_is_left_out() {
        let mut output = Output::new(5);
        output.push(Stdout, "€€".as_bytes());
        assert_eq!(output.into_text(&[]).stdout, "€");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut output = Output::new(100);
        output.push(Stdout, b"a\xff\xfeb\xc3\n");
        assert_eq!(output.into_text(&[]).stdout, "a\u{fffd}\u{fffd}b\u{fffd}\n");
    }

    #[test]
    fn the_jobs_directory_is_taken_out_of_standard_error_alone() {
        let mut output = Output::new(100);
        output.push(Stdout, b"/w/1/x");
        output.push(Stderr, b"File \"/w/1/main.py\" in /w/1, /w");
        let text = output.into_text(&["/w/1".to_owned()]);
        assert_eq!(text.stdout, "/w/1/x");
        assert_eq!(text.stderr, "File \"main.py\" in ., /w");
    }
}
