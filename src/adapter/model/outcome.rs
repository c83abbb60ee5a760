//! The outcome of an execution.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::piston::{Json, KernelLoss, Verdict};

/// How an execution ended, and what it printed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The program's exit code, or 128 + the number of the signal that ended it.
    pub exit_code: i32,
    /// The run stage; empty but for its code where the compile stage failed.
    pub run: StageOutput,
    /// The compile stage, where there was one.
    pub compile: Option<StageOutput>,
    /// The value of a cell's last expression, as JSON; `None` where it has none.
    pub value: Option<Box<RawValue>>,
    /// The rich output of a cell, as Jupyter's MIME bundles.
    pub outputs: Vec<Json>,
    /// The kernel that ran it, if one did.
    pub kernel: Option<KernelFate>,
    /// Wall-clock time in milliseconds of the stage that decided.
    pub time_ms: u64,
    /// The wall-clock limit, where it was reached.
    pub timed_out_after: Option<Duration>,
    /// What ended it. Nothing that a program prints has a say in it.
    pub verdict: Verdict,
    /// CPU time in milliseconds of the stage that decided, where the engine tells it.
    pub cpu_time_ms: Option<u64>,
    /// Peak memory in bytes of the stage that decided, where the engine tells it.
    pub memory_bytes: Option<u64>,
}

/// What became of the variables of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFate {
    /// How often the kernel has been started.
    pub generation: u64,
    /// Why variables were lost before this execution, or with it.
    pub lost: Option<KernelLoss>,
}

/// A stage in the words that existing back ends read.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageOutput {
    /// Standard output, byte for byte as the engine has it.
    pub stdout: String,
    /// Standard error without the engine's own lines and paths; its last line says what ended
    /// the program, where it was not the program itself.
    pub stderr: String,
    /// Both streams in the order in which they arrived.
    pub output: String,
    pub code: Option<i32>,
    pub signal: Option<String>,
    /// The bytes of a stream that are not UTF-8, in base64. Dialects have them beside the text.
    #[serde(skip)]
    pub stdout_base64: Option<String>,
    #[serde(skip)]
    pub stderr_base64: Option<String>,
}

impl Outcome {
    /// The standard output of the stage that decided.
    pub fn stdout(&self) -> &str {
        &self.decisive().stdout
    }

    /// The standard error of the stage that decided.
    pub fn stderr(&self) -> &str {
        &self.decisive().stderr
    }

    /// The bytes of [`Self::stdout`] in base64, if they are not UTF-8.
    pub fn stdout_base64(&self) -> Option<&str> {
        self.decisive().stdout_base64.as_deref()
    }

    /// The bytes of [`Self::stderr`] in base64, if they are not UTF-8.
    pub fn stderr_base64(&self) -> Option<&str> {
        self.decisive().stderr_base64.as_deref()
    }

    /// Bytes of what the program has told.
    pub fn size(&self) -> usize {
        let stages = self.compile.iter().chain([&self.run]);
        let streams = stages.map(|stage| {
            let base64 = [&stage.stdout_base64, &stage.stderr_base64];
            let base64 = base64.into_iter().flatten().map(String::len).sum::<usize>();
            stage.stdout.len() + stage.stderr.len() + stage.output.len() + base64
        });
        let shown = self.outputs.iter().map(|bundle| bundle.0.get().len());
        let value = self.value.as_ref().map_or(0, |value| value.get().len());
        streams.sum::<usize>() + shown.sum::<usize>() + value
    }

    fn decisive(&self) -> &StageOutput {
        match &self.compile {
            Some(compile) if compile.code != Some(0) => compile,
            _ => &self.run,
        }
    }
}

impl StageOutput {
    /// Cuts each stream to `max_bytes` bytes, and notes in stderr what was cut and what ended the
    /// stage.
    pub fn finish(&mut self, max_bytes: usize, ending: Option<String>) {
        let streams = [("stdout", &self.stdout), ("stderr", &self.stderr)];
        let notices: Vec<String> = streams
            .into_iter()
            .filter(|(_, text)| text.len() > max_bytes)
            .map(|(name, text)| {
                format!(
                    "{name} was cut to {max_bytes} of {} bytes, as outputStreamsMaxLength says.",
                    text.len()
                )
            })
            .chain(ending)
            .collect();
        for text in [&mut self.stdout, &mut self.stderr, &mut self.output] {
            cut_text(text, max_bytes);
        }
        for base64 in [&mut self.stdout_base64, &mut self.stderr_base64] {
            cut_base64(base64, max_bytes);
        }
        if notices.is_empty() {
            return;
        }
        let notice = notices.join("\n");
        for text in [&mut self.stderr, &mut self.output] {
            // The notice is part of what was asked for, unless nothing else would be left.
            if let Some(left) = max_bytes.checked_sub(notice.len() + 2) {
                cut_text(text, left);
            }
            append_line(text, &notice);
        }
    }
}

/// Cuts at the last boundary of characters that leaves no more than `max_bytes` bytes.
fn cut_text(text: &mut String, max_bytes: usize) {
    let boundary = (0..=max_bytes.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(boundary.unwrap_or(0));
}

/// Cuts to `max_bytes` of the bytes that it stands for.
fn cut_base64(base64: &mut Option<String>, max_bytes: usize) {
    let bytes = base64
        .as_ref()
        .and_then(|text| BASE64_STANDARD.decode(text).ok());
    if let Some(bytes) = bytes.filter(|bytes| bytes.len() > max_bytes) {
        let kept = bytes.get(..max_bytes).unwrap_or_default();
        *base64 = Some(BASE64_STANDARD.encode(kept));
    }
}

fn append_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}
