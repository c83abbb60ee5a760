//! Collects a program's output: two streams, each up to a limit, and both combined in order of arrival.
//!
//! It works on chunks as they are read from the pipes and does no I/O itself.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;

/// One of a program's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// The stream of a run, by its position: runs alternate, and stdout's is the first.
    fn of_run(index: usize) -> Self {
        match index % 2 {
            0 => Self::Stdout,
            _ => Self::Stderr,
        }
    }
}

/// The output so far.
///
/// A program chooses how its output is split into chunks, so the order of arrival is kept in at most one
/// byte for each byte of output.
#[derive(Debug)]
pub(super) struct Output {
    limit: usize,
    overflow: Option<Stream>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// How many bytes arrived without a change of stream, in turn for stdout and stderr. An empty run
    /// continues the one before it.
    runs: Vec<u8>,
}

/// The output as text. Bytes that are not UTF-8 are replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Both, in the order of arrival.
    pub(super) combined: String,
    /// The bytes of a stream in which bytes were replaced.
    pub(super) stdout_base64: Option<String>,
    pub(super) stderr_base64: Option<String>,
}

impl Output {
    /// Keeps up to `limit` bytes of each stream.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            overflow: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Appends a chunk. What exceeds the limit is dropped.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let collected = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let room = self.limit - collected.len();
        let kept = bytes.get(..room).unwrap_or(bytes);
        collected.extend_from_slice(kept);
        if kept.len() < bytes.len() && self.overflow.is_none() {
            self.overflow = Some(stream);
        }
        self.extend_runs(stream, kept.len());
    }

    fn extend_runs(&mut self, stream: Stream, mut length: usize) {
        while length > 0 {
            let is_next = Stream::of_run(self.runs.len()) == stream;
            match self.runs.last_mut() {
                Some(last) if !is_next && *last < u8::MAX => {
                    let added = u8::try_from(length).unwrap_or(u8::MAX).min(u8::MAX - *last);
                    *last += added;
                    length -= usize::from(added);
                }
                _ => self.runs.push(0),
            }
        }
    }

    /// Takes back all that was kept so far.
    pub(super) fn clear(&mut self) {
        self.stdout.clear();
        self.stderr.clear();
        self.runs.clear();
    }

    /// The stream that exceeded the limit first.
    pub(super) fn overflow(&self) -> Option<Stream> {
        self.overflow
    }

    /// The text. The paths in `private` mean nothing to a client and are removed from standard error, so
    /// that a traceback names `main.py` without the job's directory.
    pub(super) fn into_text(mut self, private: &[String]) -> Text {
        if self.overflow.is_some() {
            for collected in [&mut self.stdout, &mut self.stderr] {
                collected.truncate(collected.len() - cut_character(collected));
            }
        }
        let combined = lossy(self.combined(private));
        let stderr = without(&self.stderr, private).into_owned();
        Text {
            combined,
            stdout_base64: as_base64(&self.stdout),
            stderr_base64: as_base64(&stderr),
            stdout: lossy(self.stdout),
            stderr: lossy(stderr),
        }
    }

    fn combined(&self, private: &[String]) -> Vec<u8> {
        let mut combined = Vec::with_capacity(self.stdout.len() + self.stderr.len());
        let mut out = Position::default();
        let mut err = Position::default();
        for (index, run) in self.runs.iter().enumerate() {
            let stream = Stream::of_run(index);
            let (position, collected) = match stream {
                Stream::Stdout => (&mut out, &self.stdout),
                Stream::Stderr => (&mut err, &self.stderr),
            };
            position.arrived += usize::from(*run);
            // A path in a run that is continued must be looked for in the whole of it.
            if self.runs.get(index + 1) == Some(&0) {
                continue;
            }
            let part = position.advance(collected);
            match stream {
                Stream::Stdout => combined.extend_from_slice(part),
                Stream::Stderr => combined.extend_from_slice(&without(part, private)),
            }
        }
        for (position, collected) in [(out, &self.stdout), (err, &self.stderr)] {
            combined.extend_from_slice(collected.get(position.written..).unwrap_or_default());
        }
        combined
    }
}

/// How far one stream has got in the combined output.
#[derive(Debug, Default)]
struct Position {
    arrived: usize,
    written: usize,
}

impl Position {
    /// What has arrived and was not written yet, without a character that is incomplete. The latter waits
    /// for the stream's next run, or output of the other stream would end up in the middle of it.
    fn advance<'a>(&mut self, collected: &'a [u8]) -> &'a [u8] {
        let arrived = collected.get(..self.arrived).unwrap_or(collected);
        let part = arrived.get(self.written..).unwrap_or_default();
        let (whole, _) = part.split_at(part.len() - cut_character(part));
        self.written += whole.len();
        whole
    }
}

/// What is not text, as it is.
fn as_base64(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes)
        .is_err()
        .then(|| BASE64_STANDARD.encode(bytes))
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
fn without<'a>(bytes: &'a [u8], folders: &[String]) -> Cow<'a, [u8]> {
    let mut kept = Cow::Borrowed(bytes);
    for folder in folders {
        if memmem::find(&kept, folder.as_bytes()).is_some() {
            kept = Cow::Owned(without_folder(&kept, folder.as_bytes()));
        }
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
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    const LIMIT: usize = 700;

    /// Byte by byte, without a thought for memory.
    fn reference(chunks: &[(Stream, Vec<u8>)], private: &[String]) -> (Option<Stream>, Text) {
        let mut overflow = None;
        let mut arrived: Vec<(Stream, u8)> = Vec::new();
        let mut room = [LIMIT, LIMIT];
        for (stream, bytes) in chunks {
            let room = &mut room[usize::from(*stream == Stderr)];
            for byte in bytes {
                if *room > 0 {
                    *room -= 1;
                    arrived.push((*stream, *byte));
                } else {
                    overflow = overflow.or(Some(*stream));
                }
            }
        }
        let of = |arrived: &[(Stream, u8)], stream| -> Vec<u8> {
            let of_it = arrived.iter().filter(|(of, _)| *of == stream);
            of_it.map(|(_, byte)| *byte).collect()
        };
        if overflow.is_some() {
            for stream in [Stdout, Stderr] {
                for _ in 0..cut_character(&of(&arrived, stream)) {
                    let last = arrived.iter().rposition(|(of, _)| *of == stream).unwrap();
                    arrived.remove(last);
                }
            }
        }
        let mut combined = Vec::new();
        let mut left = [Vec::new(), Vec::new()];
        for run in arrived.chunk_by(|(one, _), (other, _)| one == other) {
            let stream = run[0].0;
            let left = &mut left[usize::from(stream == Stderr)];
            left.extend(of(run, stream));
            let rest = left.split_off(left.len() - cut_character(left));
            let whole = std::mem::replace(left, rest);
            match stream {
                Stdout => combined.extend(whole),
                Stderr => combined.extend_from_slice(&without(&whole, private)),
            }
        }
        combined.extend(left.concat());
        let text = Text {
            stdout_base64: as_base64(&of(&arrived, Stdout)),
            stderr_base64: as_base64(&without(&of(&arrived, Stderr), private)),
            stdout: lossy(of(&arrived, Stdout)),
            stderr: lossy(without(&of(&arrived, Stderr), private).into_owned()),
            combined: lossy(combined),
        };
        (overflow, text)
    }

    fn chunk() -> impl Strategy<Value = Vec<u8>> {
        let characters = "a€😀é".as_bytes();
        prop_oneof![
            (0..characters.len(), 0..5_usize).prop_map(|(from, length)| {
                let part = characters.iter().skip(from).take(length);
                part.copied().collect()
            }),
            Just(b"/w/1/main.py in /w/1".to_vec()),
            Just(b"/w".to_vec()),
            Just(b"/1/x".to_vec()),
            Just(vec![0xff]),
            (250..520_usize).prop_map(|length| vec![b'x'; length]),
        ]
    }

    fn config() -> ProptestConfig {
        ProptestConfig {
            rng_seed: RngSeed::Fixed(20_240_202),
            failure_persistence: None,
            ..ProptestConfig::with_cases(512)
        }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_text_is_that_of_the_chunks_in_their_order(
            chunks in proptest::collection::vec(
                (prop_oneof![Just(Stdout), Just(Stderr)], chunk()),
                0..40,
            ),
        ) {
            let private = ["/w/1".to_owned(), "/w".to_owned()];
            let mut output = Output::new(LIMIT);
            output.push(Stderr, b"taken back");
            output.clear();
            for (stream, bytes) in &chunks {
                output.push(*stream, bytes);
            }
            let (overflow, text) = reference(&chunks, &private);
            prop_assert_eq!(output.overflow(), overflow);
            prop_assert_eq!(output.into_text(&private), text);
        }
    }

    #[test]
    fn alternating_bytes_take_no_more_memory_than_a_few_times_their_number() {
        let mut output = Output::new(1_000_000);
        for _ in 0..1_000_000 {
            output.push(Stdout, b"o");
            output.push(Stderr, b"e");
        }
        let held = output.stdout.capacity() + output.stderr.capacity() + output.runs.capacity();
        assert!(held <= 3 * 2_000_000, "{held}");
        assert_eq!(output.runs.len(), 2_000_000);
        assert_eq!(output.into_text(&[]).combined, "oe".repeat(1_000_000));
    }

    #[test]
    fn output_of_one_stream_hardly_needs_anything_for_its_order() {
        let mut output = Output::new(1_000_000);
        for _ in 0..1_000 {
            output.push(Stderr, &[b'x'; 1_000]);
        }
        assert!(output.runs.len() < 8_000, "{}", output.runs.len());
        assert_eq!(output.into_text(&[]).combined.len(), 1_000_000);
    }

    #[test]
    fn a_path_in_a_long_run_is_found_wherever_it_is() {
        for before in 240..270 {
            let mut output = Output::new(1_000);
            output.push(Stderr, &vec![b'x'; before]);
            output.push(Stderr, b"/w/1/main.py");
            let text = output.into_text(&["/w/1".to_owned()]);
            assert_eq!(text.combined, format!("{}main.py", "x".repeat(before)));
        }
    }

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
