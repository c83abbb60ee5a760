//! Azure ↔ Piston. Pure functions: an execution becomes a request to the engine, and the engine's
//! answer becomes an outcome.

use std::time::Duration;

use crate::piston::{
    ClientError, ExecuteRequest, ExecuteResponse, File, KernelLoss, KernelReport, Signal, Stage,
    Status, Verdict,
};

use crate::adapter::backend::{cell, stderr};
use crate::adapter::model::execution::Execution;
use crate::adapter::model::outcome::{KernelFate, Outcome, StageOutput};

/// Longest name of a signal in bytes; the longest real one is `SIGRTMIN+15`.
const LONGEST_SIGNAL_NAME: usize = 16;

/// The limits of every execution.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Wall-clock limit of an execution that names none.
    pub run_timeout: Duration,
    pub max_run_timeout: Duration,
    /// Memory in bytes.
    pub memory: u64,
}

/// A language as the engine knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedLanguage {
    /// What the engine is asked for: the language or one of its aliases.
    pub name: String,
    /// The language's own name, which decides what its source file is called.
    pub language: String,
}

/// The request that makes the engine run `execution`.
///
/// The time limit is clamped, never passed on to be refused; 0, which Piston takes for no limit,
/// is never sent.
pub fn piston_request(
    execution: Execution,
    language: ResolvedLanguage,
    limits: RunLimits,
) -> ExecuteRequest {
    let timeout = execution
        .timeout
        .unwrap_or(limits.run_timeout)
        .min(limits.max_run_timeout);
    ExecuteRequest {
        files: vec![File::text(main_file(&language.language), execution.code)],
        language: language.name,
        version: execution.version,
        stdin: execution.stdin,
        raw_stdin: false,
        interrupt: false,
        args: execution.args,
        run_timeout: Some((timeout.as_millis() as u64).max(1)),
        run_memory_limit: Some(limits.memory),
        working_directory: None,
        user: None,
        kernel: None,
    }
}

/// What the source file of a language is called.
fn main_file(language: &str) -> &'static str {
    match language {
        "python" => "main.py",
        "javascript" => "main.js",
        "typescript" => "main.ts",
        "bash" => "main.sh",
        "c" => "main.c",
        "c++" => "main.cpp",
        "java" => "Main.java",
        "go" => "main.go",
        "rust" => "main.rs",
        "ruby" => "main.rb",
        "perl" => "main.pl",
        "php" => "main.php",
        "lua" => "main.lua",
        "r" | "rscript" => "main.r",
        _ => "main",
    }
}

/// Reads the engine's response to `request`, and keeps `max_bytes` bytes of each stream.
///
/// After a compile error Piston repeats the compile stage as the run stage; it is shown once.
///
/// # Errors
/// [`ClientError`] where the sandbox itself failed, or the response says neither code nor signal, or
/// one that is none.
pub fn outcome(
    request: &ExecuteRequest,
    response: ExecuteResponse,
    max_bytes: usize,
) -> Result<Outcome, ClientError> {
    let compile = response
        .compile
        .map(|stage| read_stage(stage, StageLimits::Compile, max_bytes))
        .transpose()?;
    if let Some(compile) = compile {
        if compile.exit_code == 0 {
            let run = read_stage(response.run, StageLimits::Run(request), max_bytes)?;
            return Ok(run.into_outcome(Some(compile.output)));
        }
        let run = StageOutput {
            code: compile.output.code,
            signal: compile.output.signal.clone(),
            ..StageOutput::default()
        };
        return Ok(Outcome {
            exit_code: compile.exit_code,
            run,
            time_ms: compile.time_ms,
            timed_out_after: None,
            value: None,
            outputs: Vec::new(),
            kernel: None,
            // Whatever stopped the compiler, the program did not run. The last line of stderr tells.
            verdict: Verdict::CompileError,
            cpu_time_ms: compile.cpu_time_ms,
            memory_bytes: compile.memory_bytes,
            compile: Some(compile.output),
        });
    }
    Ok(read_stage(response.run, StageLimits::Run(request), max_bytes)?.into_outcome(None))
}

/// Reads the engine's response to a cell, which ran in a kernel. With `jupyter_format` its value is told as
/// Jupyter shows it.
///
/// # Errors
/// As [`outcome`].
pub fn cell_outcome(
    request: &ExecuteRequest,
    run: Stage,
    kernel: KernelReport,
    max_bytes: usize,
    jupyter_format: bool,
) -> Result<Outcome, ClientError> {
    let run = read_stage(run, StageLimits::Cell(request, &kernel), max_bytes)?;
    let value = match run.exit_code {
        0 => cell::result(&kernel.value, jupyter_format),
        _ => None,
    };
    Ok(Outcome {
        value,
        outputs: kernel.value.outputs,
        kernel: Some(KernelFate {
            generation: kernel.generation,
            lost: kernel.lost.or(kernel.restarted),
        }),
        ..run.into_outcome(None)
    })
}

/// The limits that a stage was held to.
#[derive(Clone, Copy)]
enum StageLimits<'a> {
    Compile,
    Run(&'a ExecuteRequest),
    Cell(&'a ExecuteRequest, &'a KernelReport),
}

impl StageLimits<'_> {
    /// The wall-clock limit; that of the compile stage is chosen by the engine.
    fn timeout(self) -> Option<Duration> {
        match self {
            Self::Compile => None,
            Self::Run(request) | Self::Cell(request, _) => {
                request.run_timeout.map(Duration::from_millis)
            }
        }
    }

    /// The memory limit in bytes; that of the compile stage is chosen by the engine.
    fn memory(self) -> Option<u64> {
        match self {
            Self::Compile => None,
            Self::Run(request) => request.run_memory_limit,
            // Kernels have a limit of their own, which the engine knows.
            Self::Cell(..) => None,
        }
    }

    /// What became of the variables, if the execution ran in a kernel.
    fn variables(self) -> Option<Variables> {
        match self {
            Self::Cell(_, kernel) if kernel.lost.is_some() => Some(Variables::Lost),
            Self::Cell(..) => Some(Variables::Kept),
            Self::Compile | Self::Run(_) => None,
        }
    }
}

/// What became of a kernel's variables.
#[derive(Clone, Copy, PartialEq)]
enum Variables {
    Kept,
    Lost,
}

struct StageRead {
    exit_code: i32,
    output: StageOutput,
    verdict: Verdict,
    time_ms: u64,
    timed_out_after: Option<Duration>,
    cpu_time_ms: Option<u64>,
    memory_bytes: Option<u64>,
}

impl StageRead {
    fn into_outcome(self, compile: Option<StageOutput>) -> Outcome {
        Outcome {
            exit_code: self.exit_code,
            run: self.output,
            compile,
            value: None,
            outputs: Vec::new(),
            kernel: None,
            time_ms: self.time_ms,
            timed_out_after: self.timed_out_after,
            verdict: self.verdict,
            cpu_time_ms: self.cpu_time_ms,
            memory_bytes: self.memory_bytes,
        }
    }
}

/// What ended a stage. The embedded engine knows it; Piston's other words are what is left with a
/// real one. What the program printed is never looked at: it can print anything.
fn verdict(stage: &Stage, limits: StageLimits<'_>) -> Verdict {
    if let Some(verdict) = stage.outcome {
        return verdict;
    }
    let is_out_of_memory = |limit: u64| {
        stage.code == Some(137) && stage.memory.is_some_and(|used| used >= limit as f64)
    };
    match (stage.status, stage.code) {
        (Some(Status::Timeout), _) => match stage.message.as_deref() {
            Some(message) if message.contains("wall") => Verdict::TimeLimit,
            _ => Verdict::CpuLimit,
        },
        (Some(Status::StdoutLimit | Status::StderrLimit), _) => Verdict::OutputLimit,
        _ if limits.memory().is_some_and(is_out_of_memory) => Verdict::MemoryLimit,
        (_, Some(code)) if stage.signal.is_none() => Verdict::of_exit_code(code),
        _ => Verdict::Signal,
    }
}

/// The last line of stderr, because that is all that most clients show: what ended the program,
/// where it was not the program itself. `died` is how the engine's shell described a signal.
fn last_line(
    verdict: Verdict,
    stage: &Stage,
    limits: StageLimits<'_>,
    died: Option<&str>,
) -> Option<String> {
    let variables = limits.variables();
    // The engine reports a kernel's own limit as what it used.
    let kernel_memory = variables.and(stage.memory).map(whole);
    let line = match verdict {
        Verdict::Success | Verdict::Failure | Verdict::CompileError
            if variables != Some(Variables::Lost) =>
        {
            return None;
        }
        Verdict::Success | Verdict::Failure | Verdict::CompileError => {
            let code = stage.code.unwrap_or_default();
            format!("The interpreter ended with exit code {code}.")
        }
        Verdict::TimeLimit => match limits.timeout() {
            Some(limit) => format!(
                "Time limit exceeded: stopped after {} s.",
                limit.as_secs_f64()
            ),
            None => "Time limit exceeded: the compiler was stopped.".to_owned(),
        },
        Verdict::CpuLimit => "CPU time limit exceeded: stopped.".to_owned(),
        Verdict::OutputLimit => {
            let stream = match stage.status {
                Some(Status::StderrLimit) => "stderr",
                _ => "stdout",
            };
            format!("Output limit exceeded: {stream} was cut and the program was stopped.")
        }
        Verdict::MemoryLimit => match limits.memory().or(kernel_memory) {
            Some(limit) if limit % (1 << 20) == 0 => {
                format!("Memory limit exceeded: stopped at {} MiB.", limit >> 20)
            }
            Some(limit) => format!("Memory limit exceeded: stopped at {limit} bytes."),
            None if variables.is_some() => "Memory limit exceeded: stopped.".to_owned(),
            None => "Memory limit exceeded: the compiler was stopped.".to_owned(),
        },
        Verdict::DiskLimit => "Disk limit exceeded: stopped.".to_owned(),
        Verdict::Signal => match (&stage.signal, died) {
            (Some(name), _) => format!("Killed by {name}."),
            (None, Some(description)) => format!("{description}."),
            (None, None) if variables == Some(Variables::Lost) => {
                let signal = Signal::of_number(stage.code? - 128)?;
                format!("{}.", signal.description)
            }
            (None, None) => return None,
        },
    };
    Some(match variables {
        None => line,
        Some(Variables::Kept) => format!("{}; variables were kept.", line.trim_end_matches('.')),
        Some(Variables::Lost) => format!(
            "{}; the interpreter was restarted and its variables are lost.",
            line.trim_end_matches('.')
        ),
    })
}

/// What precedes a cell's own words where variables were lost between it and the one before.
fn restart_notice(limits: StageLimits<'_>) -> Option<String> {
    let StageLimits::Cell(_, kernel) = limits else {
        return None;
    };
    let reason = match kernel.restarted? {
        KernelLoss::Crashed => "it had ended by itself",
        KernelLoss::TimeLimit => "it had run into the time limit",
        KernelLoss::CpuLimit => "it had run into the limit on CPU time",
        KernelLoss::MemoryLimit => "it had run out of memory",
        KernelLoss::OutputLimit => "it had run into the output limit",
        KernelLoss::DiskLimit => "it had run into the disk limit",
        KernelLoss::Canceled => "an execution was canceled and did not end",
        KernelLoss::Deleted => "the session was deleted",
        KernelLoss::Evicted => "others needed its place",
        KernelLoss::IdleTimeout => "it had been idle for too long",
    };
    Some(format!(
        "The interpreter was restarted because {reason}: its variables are lost.\n"
    ))
}

fn read_stage(
    stage: Stage,
    limits: StageLimits<'_>,
    max_bytes: usize,
) -> Result<StageRead, ClientError> {
    if stage.status == Some(Status::SandboxError) {
        return Err(ClientError::SandboxFailed);
    }
    if stage
        .signal
        .as_ref()
        .is_some_and(|name| name.len() > LONGEST_SIGNAL_NAME)
    {
        return Err(ClientError::ResponseInvalid(
            "a signal without end".to_owned(),
        ));
    }
    let exit_code = match (stage.code, &stage.signal) {
        (Some(code), _) => code,
        (None, Some(name)) => 128 + Signal::of_name(name).map_or(0, |signal| signal.number),
        (None, None) => {
            return Err(ClientError::ResponseInvalid(
                "neither code nor signal".to_owned(),
            ));
        }
    };
    let verdict = verdict(&stage, limits);
    let cleaned = stderr::clean(&stage.stderr, stage.code);
    let last_line = last_line(verdict, &stage, limits, cleaned.died);
    let timed_out_after = match verdict {
        Verdict::TimeLimit => limits.timeout(),
        _ => None,
    };
    let notice = restart_notice(limits).unwrap_or_default();
    let mut output = StageOutput {
        output: stderr::clean_output(&stage.output, cleaned.died).into_owned(),
        stderr: cleaned.text.into_owned(),
        stdout: stage.stdout,
        stdout_base64: stage.stdout_base64,
        stderr_base64: stage.stderr_base64,
        code: stage.code,
        signal: stage.signal,
    };
    output.finish(max_bytes, last_line);
    // Nothing that is asked for cuts it.
    output.stderr.insert_str(0, &notice);
    output.output.insert_str(0, &notice);
    Ok(StageRead {
        exit_code,
        output,
        verdict,
        time_ms: whole(stage.wall_time.unwrap_or_default()),
        timed_out_after,
        cpu_time_ms: stage.cpu_time.map(whole),
        memory_bytes: stage.memory.map(whole),
    })
}

/// A figure of Piston's, which is never negative by right.
fn whole(figure: f64) -> u64 {
    figure.max(0.0).round() as u64
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
