//! Translates how a stage ended into Piston's terms. It decides nothing: the sandbox has judged the
//! limits already.

use super::output::{Output, Stream};
use super::sandbox::{Cause, Ended, StageLimits};
use crate::piston::{Signal, Stage, Status, Verdict};

/// Piston's words for what happened, as recorded: a limit is SIGKILL without a code; a program
/// that a signal ended is 128 + n without a signal; out of memory is like a program that was
/// killed, with the limit as its memory. What Piston's words leave open is in `outcome`.
pub(super) fn outcome(
    limits: &StageLimits,
    ended: Ended,
    output: Output,
    private: &[String],
) -> Stage {
    let overflow = output.overflow();
    let text = output.into_text(private);
    let mut stage = Stage {
        stdout: text.stdout,
        stderr: text.stderr,
        output: text.combined,
        stdout_base64: text.stdout_base64,
        stderr_base64: text.stderr_base64,
        memory: Some(whole(ended.memory as f64)),
        cpu_time: Some(whole(ended.cpu_ms)),
        wall_time: Some(whole(ended.wall_ms)),
        outcome: Some(verdict(overflow, ended.cause)),
        ..Stage::default()
    };
    let (end, status, message) = match (overflow, ended.cause) {
        (Some(Stream::Stdout), _) => (
            KILLED,
            Status::StdoutLimit,
            "stdout length exceeded".to_owned(),
        ),
        (Some(Stream::Stderr), _) => (
            KILLED,
            Status::StderrLimit,
            "stderr length exceeded".to_owned(),
        ),
        (None, Cause::Exit(0)) => {
            stage.code = Some(0);
            return stage;
        }
        (None, Cause::Exit(code)) => exited(code),
        (None, Cause::MemoryLimit) => {
            stage.memory = Some(limits.memory as f64);
            add_line(&mut stage, "Killed");
            exited(137)
        }
        // As the kernel does when one file is too long.
        (None, Cause::DiskLimit) => {
            add_line(&mut stage, "File size limit exceeded");
            exited(153)
        }
        (None, Cause::Signal(signal)) => caught(signal),
        (None, Cause::Killed) => caught(libc::SIGKILL),
        (None, Cause::WallLimit) => (
            KILLED,
            Status::Timeout,
            "Time limit exceeded (wall clock)".to_owned(),
        ),
        (None, Cause::CpuLimit) => (KILLED, Status::Timeout, "Time limit exceeded".to_owned()),
    };
    match end {
        End::Code(code) => stage.code = Some(code),
        End::Signal(signal) => {
            stage.signal = Signal::of_number(signal).map(|signal| signal.name.to_owned())
        }
    }
    stage.status = Some(status);
    stage.message = Some(message);
    stage
}

/// What ended the stage. Its text has no part in it.
fn verdict(overflow: Option<Stream>, cause: Cause) -> Verdict {
    match (overflow, cause) {
        (Some(_), _) => Verdict::OutputLimit,
        (None, Cause::Exit(code)) => Verdict::of_exit_code(code),
        (None, Cause::Signal(_) | Cause::Killed) => Verdict::Signal,
        (None, Cause::WallLimit) => Verdict::TimeLimit,
        (None, Cause::CpuLimit) => Verdict::CpuLimit,
        (None, Cause::MemoryLimit) => Verdict::MemoryLimit,
        (None, Cause::DiskLimit) => Verdict::DiskLimit,
    }
}

enum End {
    Code(i32),
    Signal(i32),
}

const KILLED: End = End::Signal(libc::SIGKILL);

fn exited(code: i32) -> (End, Status, String) {
    let message = format!("Exited with error status {code}");
    (End::Code(code), Status::RuntimeError, message)
}

fn caught(signal: i32) -> (End, Status, String) {
    let message = format!("Caught fatal signal {signal}");
    (End::Signal(signal), Status::Signal, message)
}

/// Piston's figures are whole numbers.
fn whole(number: f64) -> f64 {
    number.round()
}

/// Adds what a shell says of a killed program to standard error.
fn add_line(stage: &mut Stage, line: &str) {
    for text in [&mut stage.stderr, &mut stage.output] {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(cause: Cause) -> Stage {
        let limits = StageLimits {
            memory: 1000,
            ..StageLimits::for_probe()
        };
        let ended = Ended {
            cause,
            wall_ms: 1.4,
            cpu_ms: 0.6,
            memory: 500,
        };
        let mut output = Output::new(10);
        output.push(Stream::Stderr, b"x");
        outcome(&limits, ended, output, &[])
    }

    #[test]
    fn each_end_has_the_recorded_words() {
        let terms = |cause| {
            let stage = stage(cause);
            (stage.code, stage.signal, stage.status, stage.message)
        };
        let kill = || Some("SIGKILL".to_owned());
        let words = |text: &str| Some(text.to_owned());
        assert_eq!(terms(Cause::Exit(0)), (Some(0), None, None, None));
        assert_eq!(
            terms(Cause::Exit(139)),
            (
                Some(139),
                None,
                Some(Status::RuntimeError),
                words("Exited with error status 139")
            )
        );
        assert_eq!(
            terms(Cause::Signal(15)),
            (
                None,
                words("SIGTERM"),
                Some(Status::Signal),
                words("Caught fatal signal 15")
            )
        );
        assert_eq!(
            terms(Cause::WallLimit),
            (
                None,
                kill(),
                Some(Status::Timeout),
                words("Time limit exceeded (wall clock)")
            )
        );
        assert_eq!(
            terms(Cause::CpuLimit),
            (
                None,
                kill(),
                Some(Status::Timeout),
                words("Time limit exceeded")
            )
        );
    }

    #[test]
    fn what_ended_a_stage_is_told_whatever_it_printed() {
        for (cause, verdict) in [
            (Cause::Exit(0), Verdict::Success),
            (Cause::Exit(3), Verdict::Failure),
            (Cause::Exit(137), Verdict::Signal),
            (Cause::Signal(9), Verdict::Signal),
            (Cause::Killed, Verdict::Signal),
            (Cause::WallLimit, Verdict::TimeLimit),
            (Cause::CpuLimit, Verdict::CpuLimit),
            (Cause::MemoryLimit, Verdict::MemoryLimit),
            (Cause::DiskLimit, Verdict::DiskLimit),
        ] {
            assert_eq!(stage(cause).outcome, Some(verdict), "{cause:?}");
            for stream in [Stream::Stdout, Stream::Stderr] {
                let found = super::verdict(Some(stream), cause);
                assert_eq!(found, Verdict::OutputLimit, "{cause:?}");
            }
        }
    }

    #[test]
    fn out_of_memory_is_like_a_killed_program_that_held_all_it_may() {
        let stage = stage(Cause::MemoryLimit);
        assert_eq!((stage.code, stage.memory), (Some(137), Some(1000.0)));
        assert_eq!(stage.stderr, "x\nKilled\n");
    }
}
