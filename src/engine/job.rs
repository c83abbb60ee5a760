//! One job from its files to Piston's response: a compile stage, if the language has one, and a run
//! stage, in a directory of their own.
//!
//! It decides commands, environment and limits, and moves the standard streams. It knows nothing of
//! HTTP, and leaves confinement to the sandbox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::config::EngineConfig;
use super::outcome::outcome;
use super::output::{Output, Stream};
use super::pool::{MAX_SOURCE_BYTES, Pool, PoolKey, PoolKeyRef, Prestarted};
use super::request::{Bounds, SourceFile, Submission, plain_path};
use super::runtimes::{Installed, TableEntry, with_memory};
use super::sandbox::{
    Ended, JobLink, JobPermit, JobUser, LinkError, PrestartOrder, SpawnerHandle, StageLimits,
    StageOrder, installed_with,
};
use super::stdio::{Streams, read, write};
use crate::limiter::Permit;
use crate::piston::{ExecuteResponse, Stage, User, WorkingDirectory};

/// How long to read output once every process of the job has ended. All of it is in the pipes by then;
/// only a descriptor that was passed out of the job could keep them open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The file below `HOME` in which a pre-started Python lists the modules that it could not import.
const FAILED_IMPORTS: &str = ".local/failed-imports";
/// How late the sandbox's report may be before the engine abandons the job.
const REPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// What the jobs of an engine share.
pub(super) struct JobContext<'a> {
    pub(super) config: &'a EngineConfig,
    pub(super) spawner: &'a SpawnerHandle,
    pub(super) pool: &'a Pool,
    /// Held by the one program that runs as the session's user.
    pub(super) session_turn: &'a Arc<Semaphore>,
    /// The directories of `PATH`.
    pub(super) path: &'a [PathBuf],
    /// Becomes true when all jobs must end.
    pub(super) stop: watch::Receiver<bool>,
}

/// Runs a submission. The permit is returned when no process of the job is left, which may be after
/// this future was dropped.
///
/// # Errors
/// If the sandbox fails, or a file name turns out to be unusable.
pub(super) async fn execute(
    context: &JobContext<'_>,
    runtime: &Installed,
    mut submission: Submission,
    permit: Permit,
) -> Result<ExecuteResponse, LinkError> {
    let entry = &runtime.entry;
    let layout = Layout::of(entry, std::mem::take(&mut submission.files));
    let turn = match submission.user {
        None => Arc::clone(context.session_turn).try_acquire_owned().ok(),
        Some(_) => None,
    };
    let user = match submission.user {
        Some(User::Session) => JobUser::Session,
        None if turn.is_some() => JobUser::Session,
        Some(User::Own) | None => JobUser::Own,
    };
    // What always runs as the session's user needs no files opened to the group.
    let is_program = submission.user != Some(User::Session);
    let key = layout.pool_key(runtime, &submission, user);
    let template = CommandTemplate::of(runtime, &layout.main, &layout.sources);
    // The pool is refilled when this job has ended.
    let _refill = key.map(|_| RefillOnDrop(context.pool));
    let mut permit = Some(JobPermit {
        _execution: permit,
        _session_turn: turn,
    });
    let prestarted = key.and_then(|key| context.pool.take(key));
    if let Some(Prestarted {
        mut link, streams, ..
    }) = prestarted
    {
        if let Some(permit) = permit.take() {
            link.attach_permit(permit);
        }
        match context
            .run(
                &mut link,
                runtime,
                &layout.files,
                &template,
                &submission,
                Some(streams),
            )
            .await
        {
            // It ended after the pool checked it. Nothing of the job was run, so it starts over.
            Err(LinkError::Stale) => permit = link.discard_prestarted(),
            other => return other,
        }
    }
    let spawner = context.spawner;
    let mut link = spawner.open(user, is_program, permit).await?;
    context
        .run(
            &mut link,
            runtime,
            &layout.files,
            &template,
            &submission,
            None,
        )
        .await
}

fn response(runtime: &Installed, compile: Option<Stage>, run: Stage) -> ExecuteResponse {
    ExecuteResponse {
        compile,
        run,
        language: runtime.entry.language.clone(),
        version: runtime.version.to_string(),
        kernel: None,
    }
}

/// The files as they are written, and which of them the commands name.
#[derive(Debug, PartialEq)]
struct Layout {
    files: Vec<(String, Vec<u8>)>,
    main: String,
    sources: Vec<String>,
}

impl Layout {
    fn of(entry: &TableEntry, files: Vec<SourceFile>) -> Self {
        let mut layout = Self {
            files: Vec::with_capacity(files.len()),
            main: String::new(),
            sources: Vec::new(),
        };
        for file in files {
            let is_main = file.is_text && layout.main.is_empty();
            let mut name = file.name;
            let is_source = |name: &str| {
                let ending = name.rsplit_once('.').map(|(_, ending)| ending);
                entry
                    .extensions
                    .iter()
                    .any(|one| Some(one.as_str()) == ending)
            };
            let may_change = file.is_text && (is_main || !file.is_named);
            if entry.rename
                && may_change
                && !is_source(&name)
                && let Some(ending) = entry.extensions.first()
            {
                name = format!("{name}.{ending}");
            }
            if is_main {
                layout.main.clone_from(&name);
            }
            if file.is_text && is_source(&name) {
                layout.sources.push(name.clone());
            }
            layout
                .files
                .push((plain_path(&name).unwrap_or(name), file.content));
        }
        layout
    }
}

impl Layout {
    /// The key of the pre-started interpreter that could run this, if one could.
    fn pool_key<'a>(
        &'a self,
        runtime: &'a Installed,
        submission: &Submission,
        user: JobUser,
    ) -> Option<PoolKeyRef<'a>> {
        let entry = &runtime.entry;
        let (file, source) = self.files.iter().find(|(name, _)| *name == self.main)?;
        let rereads = |word: &String| {
            let mut lines = source.split(|byte| matches!(byte, b'\n' | b'\r'));
            // A line may end with both, and so be followed by an empty one.
            let mut lines = lines.by_ref().take(4);
            lines.any(|line| line.windows(word.len()).any(|part| part == word.as_bytes()))
        };
        let fits = !entry.warm.is_empty()
            && (!entry.alone || self.files.len() == 1)
            && entry.compile.is_none()
            && submission.args.is_empty()
            && submission.user != Some(User::Session)
            && !file.contains('/')
            && source.len() <= MAX_SOURCE_BYTES
            && !entry.rereads.as_ref().is_some_and(rereads);
        fits.then_some(PoolKeyRef {
            runtime,
            file,
            working_directory: submission.working_directory,
            user,
        })
    }
}

/// A file's name for a program that starts in the job's directory, or else its path in `folder`,
/// which is the job's directory. No program takes it for an option.
fn as_argument(name: &str, folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => {
            let path = plain_path(name).unwrap_or_else(|| name.to_owned());
            folder.join(path).to_string_lossy().into_owned()
        }
        // An option, or for compilers a file of options.
        None if name.starts_with(['-', '@']) => format!("./{name}"),
        None => name.to_owned(),
    }
}

/// What stands for the placeholders of a command.
struct CommandTemplate<'a> {
    program: String,
    standard: &'a str,
    main: &'a str,
    sources: &'a [String],
}

impl<'a> CommandTemplate<'a> {
    fn of(runtime: &'a Installed, main: &'a str, sources: &'a [String]) -> Self {
        Self {
            standard: &runtime.entry.standard,
            program: runtime.program.to_string_lossy().into_owned(),
            main,
            sources,
        }
    }

    /// The command of the run stage.
    fn run(
        &self,
        runtime: &Installed,
        args: &[String],
        link: &JobLink,
        order: &StageOrder,
    ) -> Vec<String> {
        // What starts elsewhere does not find the job's files by their bare names.
        let folder = order.working_directory.map(|_| link.directory());
        let memory = order.limits.memory;
        self.fill(&runtime.entry.run, args, folder.as_deref(), memory)
    }

    /// The command for a stage that starts in the job's directory, or else elsewhere: then that
    /// directory is `folder`. `memory` is its limit in bytes.
    fn fill(
        &self,
        command: &[String],
        args: &[String],
        folder: Option<&Path>,
        memory: u64,
    ) -> Vec<String> {
        let mut filled = Vec::with_capacity(command.len() + args.len());
        for word in command {
            if word == "{files}" {
                filled.extend(self.sources.iter().map(|name| as_argument(name, folder)));
            } else if word == "{file}" {
                filled.push(as_argument(self.main, folder));
            } else {
                let word = word.replace("{standard}", self.standard);
                let word = with_memory(&word, memory);
                filled.push(word.replace("{program}", &self.program));
            }
        }
        // What the compile stage has made.
        if let (Some(folder), Some(program)) = (folder, filled.first_mut())
            && program.contains('/')
            && Path::new(program).is_relative()
        {
            *program = as_argument(program, Some(folder));
        }
        filled.extend(args.iter().cloned());
        filled
    }
}

impl JobContext<'_> {
    /// Runs a submission with this keeper, whose program may be there already.
    async fn run(
        &self,
        link: &mut JobLink,
        runtime: &Installed,
        files: &[(String, Vec<u8>)],
        template: &CommandTemplate<'_>,
        submission: &Submission,
        streams: Option<Streams>,
    ) -> Result<ExecuteResponse, LinkError> {
        link.files(files).await?;
        let mut compile = None;
        if let Some(command) = &runtime.entry.compile {
            let mut order = self.order(runtime, Vec::new(), submission.compile);
            order.command = template.fill(command, &[], None, order.limits.memory);
            let stage = self.stage(link, order, &submission.stdin, None).await?;
            if stage.code != Some(0) {
                return Ok(response(runtime, Some(stage.clone()), stage));
            }
            compile = Some(stage);
        }
        let mut order = self.order(runtime, Vec::new(), submission.run);
        order.is_interrupted_first = submission.interrupt && runtime.entry.interrupts;
        self.start_in(
            &mut order,
            runtime,
            template.main,
            submission.working_directory,
        );
        order.command = template.run(runtime, &submission.args, link, &order);
        let run = self.stage(link, order, &submission.stdin, streams).await?;
        Ok(response(runtime, compile, run))
    }

    pub(super) fn order(
        &self,
        runtime: &Installed,
        command: Vec<String>,
        bounds: Bounds,
    ) -> StageOrder {
        let mut environment = self.environment(&runtime.program);
        environment.push(("PISTON_LANGUAGE".to_owned(), runtime.entry.language.clone()));
        let limits = self.limits(bounds);
        let further = runtime.entry.environment.iter();
        environment
            .extend(further.map(|(name, value)| (name.clone(), with_memory(value, limits.memory))));
        StageOrder {
            command,
            environment,
            limits,
            readable: runtime.readable.clone(),
            working_directory: None,
            home: Vec::new(),
            is_kernel: false,
            is_interrupted_first: false,
        }
    }

    fn start_in(
        &self,
        order: &mut StageOrder,
        runtime: &Installed,
        main: &str,
        working_directory: Option<WorkingDirectory>,
    ) {
        order.home = customization(runtime, main, &[], self.modules_of(working_directory));
        order.working_directory = working_directory;
    }

    /// Where a program that starts there looks for modules, besides its own directory.
    fn modules_of(&self, working_directory: Option<WorkingDirectory>) -> Option<&Path> {
        working_directory.map(|WorkingDirectory::Data| self.spawner.data_dir.as_path())
    }

    /// What a job may know of this process's surroundings: where programs are, and no more.
    fn environment(&self, program: &std::path::Path) -> Vec<(String, String)> {
        let known = self.path.iter().map(PathBuf::as_path);
        let own = program
            .parent()
            .filter(|own| known.clone().all(|folder| folder != *own));
        let path: Vec<_> = own.into_iter().chain(known).collect();
        let path = path
            .iter()
            .map(|folder| folder.to_string_lossy())
            .collect::<Vec<_>>()
            .join(":");
        [
            ("PATH", path.as_str()),
            ("LANG", "C.UTF-8"),
            ("LC_CTYPE", "C.UTF-8"),
            // The job's user has no entry in the table of users.
            ("LOGNAME", "session"),
            ("USER", "session"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a memory bound is a positive whole number below 2^53, and the cast saturates"
    )]
    pub(super) fn limits(&self, bounds: Bounds) -> StageLimits {
        StageLimits {
            wall_ms: bounds.wall_ms,
            cpu_ms: bounds.cpu_ms,
            memory: bounds.memory as u64,
            processes: self.config.max_processes,
            open_files: self.config.max_open_files,
            file_size: self.config.max_file_size,
            job_bytes: self.config.max_job_bytes,
            job_files: self.config.max_job_files,
            data_bytes: self.config.max_data_bytes,
            data_files: self.config.max_data_files,
        }
    }

    /// Runs a program that prints its version. Returns its output if it exits with 0.
    ///
    /// # Errors
    /// If the job could not be run.
    pub(super) async fn version_output(
        &self,
        program: &std::path::Path,
        arguments: &[String],
    ) -> Result<Option<String>, LinkError> {
        let Some(name) = program.to_str() else {
            return Ok(None);
        };
        let mut command = vec![name.to_owned()];
        command.extend(arguments.iter().cloned());
        let order = StageOrder {
            command,
            environment: self.environment(program),
            limits: self.limits(self.config.version_bounds()),
            readable: installed_with(program),
            working_directory: None,
            home: Vec::new(),
            is_kernel: false,
            is_interrupted_first: false,
        };
        let mut link = self.spawner.open(JobUser::Own, false, None).await?;
        link.files(&[]).await?;
        let stage = self.stage(&mut link, order, &[], None).await?;
        Ok((stage.code == Some(0)).then_some(stage.output))
    }

    /// Starts an interpreter for a future job.
    ///
    /// # Errors
    /// If it does not get as far as waiting for its source.
    pub(super) async fn prestart(&self, key: &PoolKey) -> Result<Prestarted, LinkError> {
        let runtime = &key.runtime;
        let mut link = self.spawner.open(key.user, true, None).await?;
        let template = CommandTemplate::of(runtime, &key.file, &[]);
        let mut stage = self.order(runtime, Vec::new(), self.config.run_bounds());
        self.start_in(&mut stage, runtime, &key.file, key.working_directory);
        stage.command = template.run(runtime, &[], &link, &stage);
        let data_dir = self.modules_of(key.working_directory);
        let order = PrestartOrder {
            stage,
            file: key.file.clone(),
            home: customization(runtime, &key.file, &self.config.preload, data_dir),
            report: Some(FAILED_IMPORTS.to_owned()),
        };
        let (streams, theirs) = Streams::open()?;
        let report = link.prestart(order, theirs).await?;
        let modules = self.config.preload.iter();
        let failed = modules.filter(|module| report.lines().any(|line| line == *module));
        Ok(Prestarted {
            failed_imports: failed.cloned().collect(),
            link,
            streams,
        })
    }

    /// Runs one stage to its end. `streams` are those of a pre-started program.
    async fn stage(
        &self,
        link: &mut JobLink,
        order: StageOrder,
        stdin: &[u8],
        streams: Option<Streams>,
    ) -> Result<Stage, LinkError> {
        let limits = order.limits;
        let mut late =
            Instant::now() + Duration::from_secs_f64(limits.wall_ms / 1000.0) + REPORT_TIMEOUT;
        let (streams, theirs) = match streams {
            Some(streams) => (streams, None),
            None => Streams::open().map(|(ours, theirs)| (ours, Some(theirs)))?,
        };
        let mut stdin_end = Some(streams.stdin);
        let (mut stdout, mut stderr) = (Some(streams.stdout), Some(streams.stderr));
        link.start_stage(order, theirs).await?;
        let mut output = Output::new(self.config.output_limit);
        let mut ended: Option<Ended> = None;
        let mut killed = false;
        let mut stop = self.stop.clone();
        let mut fed = 0;
        let (mut out_buffer, mut err_buffer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        while ended.is_none() || stdout.is_some() || stderr.is_some() {
            tokio::select! {
                read = read(&mut stdout, &mut out_buffer), if stdout.is_some() => {
                    output.push(Stream::Stdout, out_buffer.get(..read).unwrap_or_default());
                    if read == 0 {
                        stdout = None;
                    }
                }
                read = read(&mut stderr, &mut err_buffer), if stderr.is_some() => {
                    // What is said of a program's death follows what it printed, also where both have
                    // arrived before this task got to run.
                    if let Some(Ok(waiting)) = stdout.as_ref().map(|pipe| pipe.try_read(&mut out_buffer)) {
                        output.push(Stream::Stdout, out_buffer.get(..waiting).unwrap_or_default());
                    }
                    output.push(Stream::Stderr, err_buffer.get(..read).unwrap_or_default());
                    if read == 0 {
                        stderr = None;
                    }
                }
                wrote = write(&mut stdin_end, stdin.get(fed..).unwrap_or_default()), if stdin_end.is_some() => {
                    fed += wrote;
                    if wrote == 0 || fed >= stdin.len() {
                        stdin_end = None;
                    }
                }
                report = link.report(), if ended.is_none() => {
                    ended = Some(report?);
                    stdin_end = None;
                    late = Instant::now() + DRAIN_TIMEOUT;
                }
                () = stopped(&mut stop), if !killed => {
                    killed = true;
                    if ended.is_none() {
                        link.kill().await?;
                    }
                }
                () = tokio::time::sleep_until(late) => {
                    if ended.is_none() {
                        return Err(LinkError::Failed("a job does not end".to_owned()));
                    }
                    break;
                }
            }
            if output.overflow().is_some() && ended.is_none() && !killed {
                killed = true;
                link.kill().await?;
            }
        }
        match ended {
            Some(ended) => Ok(outcome(&limits, ended, output, &link.private_directories())),
            None => Err(LinkError::Gone),
        }
    }
}

/// Waits until all jobs must end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the engine has been dropped, which ends its jobs too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// The files below `HOME` by which a Python imports modules before it opens the file `main`, and finds those
/// in `data_dir`.
fn customization(
    runtime: &Installed,
    main: &str,
    modules: &[String],
    data_dir: Option<&Path>,
) -> Vec<(String, String)> {
    if !runtime.entry.preloads || (modules.is_empty() && data_dir.is_none()) {
        return Vec::new();
    }
    let (major, minor) = (runtime.version.major(), runtime.version.minor());
    let path = format!(".local/lib/python{major}.{minor}/site-packages/usercustomize.py");
    // A list of strings is written alike in JSON and in Python.
    let names = serde_json::Value::from(modules);
    let main = as_argument(main, None);
    let data: Vec<_> = data_dir
        .map(|path| [main, path.to_string_lossy().into_owned()])
        .into_iter()
        .collect();
    let data = serde_json::json!(data);
    let content = include_str!("customize.py")
        .replace("in NAMES", &format!("in {names}"))
        .replace("if NAMES", &format!("if {names}"))
        .replace("in DATA", &format!("in {data}"))
        .replace("REPORT)", &format!("{FAILED_IMPORTS:?})"));
    let mut files = vec![(path, content)];
    if !modules.is_empty() {
        // All of them, unless Python runs the file, which it does not in a virtual environment.
        files.push((FAILED_IMPORTS.to_owned(), modules.join("\n")));
    }
    files
}

/// Requests a refill of the pool when it is dropped.
struct RefillOnDrop<'a>(&'a Pool);

impl Drop for RefillOnDrop<'_> {
    fn drop(&mut self) {
        self.0.request_refill();
    }
}
