//! What `fuzz/` feeds to libFuzzer's targets, on a stable compiler: each file of the corpus, and
//! random changes of it from a fixed seed.
//!
//! `FUZZ_SECONDS=600 cargo test --test repository --release fuzz_corpus::` tries changes for as long, from a
//! seed of the moment, which it prints.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use session_adapter::{adapter, engine};

type Target = (&'static str, fn(&[u8]));

/// The targets, by the names of their folders.
const TARGETS: [Target; 7] = [
    ("target", adapter::fuzzing::target),
    ("execution", adapter::fuzzing::execution),
    ("operation_id", adapter::fuzzing::operation_id),
    ("form", adapter::fuzzing::form),
    ("answer", adapter::fuzzing::answer),
    ("request", engine::fuzzing::request),
    ("runtimes", engine::fuzzing::runtimes),
];
/// Changes of each target in an ordinary run.
const CHANGES: usize = 3000;
/// Longest input in bytes.
const LONGEST: usize = 4096;

fn fuzz() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(fuzz().join("corpus").join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn every_target_has_a_corpus_that_it_survives() {
    for (name, target) in TARGETS {
        assert!(fuzz().join(format!("fuzz_targets/{name}.rs")).is_file());
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name}");
        for bytes in &corpus {
            target(bytes);
            for end in 0..bytes.len() {
                target(&bytes[..end]);
            }
        }
    }
}

#[test]
fn every_target_survives_what_becomes_of_its_corpus() {
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let limit = seconds.map(|text| Duration::from_secs(text.parse().unwrap()));
    let seed = match limit {
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        None => 1,
    };
    let mut random = Random(seed | 1);
    let start = Instant::now();
    let mut tried = 0_usize;
    loop {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            for _ in 0..CHANGES {
                let bytes = random.change(&corpus);
                tried += 1;
                let survived = std::panic::catch_unwind(|| target(&bytes));
                assert!(
                    survived.is_ok(),
                    "{name}, seed {seed}: {}",
                    bytes.escape_ascii()
                );
            }
        }
        if limit.is_none_or(|limit| start.elapsed() > limit) {
            break;
        }
    }
    println!("{tried} inputs from seed {seed} in {:?}", start.elapsed());
}

/// xorshift64*: nothing here needs better.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// One of the corpus after a few changes.
    fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 24] = [
            b"\"",
            b"\\",
            b"{",
            b"}",
            b"[",
            b"]",
            b"\r\n",
            b"\r\n--",
            b"--",
            b"%",
            b"%00",
            b"../",
            b"/",
            b"\0",
            b"null",
            b"1e999",
            b"-1",
            b"\\ud83d",
            b"\xff",
            "é".as_bytes(),
            "\u{feff}".as_bytes(),
            b"\"code\":",
            b"Killed\n",
            b"/piston/packages/",
        ];
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(16)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                1 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let copy = bytes[at..end].repeat(1 + self.below(20));
                    bytes.splice(at..at, copy);
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(64)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
                _ => bytes.truncate(at.max(bytes.len() / 2)),
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}
