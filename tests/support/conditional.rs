//! Tests that need what not every machine or user has. Where it is missing they are reported as
//! ignored, with the reason, and not as passed: the standard harness can decide that only when a test
//! is compiled.
//!
//! A binary with such tests has `harness = false` in `Cargo.toml`; each of its modules lists all its tests
//! in a function `tests`. One that is forgotten there is unused code, which the compiler reports.

use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::thread::{CapabilitySet, capabilities};
use session_adapter::engine::Engine;

use super::command::{bounded_command, installed};
use super::engine::config;

/// A test's function.
pub type Start = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// The tests of a module.
pub type Tests = Vec<(&'static str, Needs, Start)>;

/// What a test needs besides python3 and gcc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Root, with or without its rights.
    Root,
    /// Root that can give jobs users of their own.
    OwnUsers,
    /// The same, and to make files that not even root can delete.
    ImmutableFiles,
    /// The same, and to mount file systems.
    Mounts,
    /// The same, and a control group that bounds the number of processes.
    ProcessBounds,
    /// Root that may look into processes which nobody else may.
    Tracing,
    /// Users or namespaces of their own for jobs.
    SeparateJobs,
    /// The same, and Node.js.
    SeparateJobsAndNode,
}

impl Needs {
    /// What of it this machine lacks.
    fn missing(self) -> Option<&'static str> {
        let lacks = |is_there: bool, what| (!is_there).then_some(what);
        match self {
            Self::Nothing => None,
            Self::Root => lacks(rustix::process::geteuid().is_root(), "root"),
            Self::OwnUsers => lacks(can_change_users(), "root's capabilities"),
            Self::ImmutableFiles => Self::OwnUsers
                .missing()
                .or_else(|| lacks(can_make_immutable(), "immutable files")),
            Self::Mounts => Self::OwnUsers
                .missing()
                .or_else(|| lacks(can_mount(), "mounts")),
            Self::ProcessBounds => Self::OwnUsers
                .missing()
                .or_else(|| lacks(process_group("probe").is_some(), "a pids control group")),
            Self::Tracing => lacks(has(CapabilitySet::SYS_PTRACE), "CAP_SYS_PTRACE"),
            Self::SeparateJobs => lacks(can_separate_jobs(), "root's capabilities, or namespaces"),
            Self::SeparateJobsAndNode => Self::SeparateJobs
                .missing()
                .or_else(|| lacks(is_installed("node") || is_installed("nodejs"), "Node.js")),
        }
    }
}

/// Whether the engine can give jobs users of their own here.
pub fn can_change_users() -> bool {
    let needed = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER;
    rustix::process::geteuid().is_root() && has(needed)
}

/// Whether the engine can keep jobs from each other here.
pub fn can_separate_jobs() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        Engine::start(config()).is_ok_and(|engine| engine.sandbox().separates_jobs())
    })
}

fn has(needed: CapabilitySet) -> bool {
    capabilities(None).unwrap().effective.contains(needed)
}

fn is_installed(program: &str) -> bool {
    installed(program).is_some()
}

fn can_make_immutable() -> bool {
    use rustix::fs::{IFlags, ioctl_setflags};
    let file = tempfile::NamedTempFile::new().unwrap();
    let made = ioctl_setflags(&file, IFlags::IMMUTABLE);
    let _ = ioctl_setflags(&file, IFlags::empty());
    made.is_ok()
}

fn can_mount() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mounted = bounded_command("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(folder.path())
        .output()
        .unwrap();
    if mounted.status.success() {
        let unmounted = bounded_command("umount").arg(folder.path()).status();
        assert!(unmounted.unwrap().success());
    }
    mounted.status.success()
}

/// A control group that bounds the number of its processes; removed when this is dropped.
pub struct ProcessGroup(pub std::path::PathBuf);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + super::eventually::PATIENCE;
        while std::fs::remove_dir(&self.0).is_err() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Makes a control group for this test process, if that is possible here.
pub fn process_group(name: &str) -> Option<ProcessGroup> {
    let name = format!("session-adapter-test-{name}-{}", std::process::id());
    for parent in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
        let path = Path::new(parent).join(&name);
        if std::fs::create_dir(&path).is_err() {
            continue;
        }
        let group = ProcessGroup(path);
        if group.0.join("pids.max").exists() {
            return Some(group);
        }
    }
    None
}

/// The tests of a module by what they need.
macro_rules! tests {
    ($($needs:ident => [$($test:ident),+ $(,)?]),+ $(,)?) => {{
        use $crate::support::conditional::{Needs, Start};
        vec![$($((stringify!($test), Needs::$needs, (|| Box::pin($test())) as Start)),+),+]
    }};
}
pub(crate) use tests;

/// Runs those of the modules' tests that the command line asks for and the machine allows.
pub fn run(modules: Vec<(&'static str, Tests)>) -> ExitCode {
    let trials = modules.into_iter().flat_map(|(module, tests)| {
        tests.into_iter().map(move |(name, needs, start)| {
            let trial = Trial::test(format!("{module}::{name}"), move || run_one(start));
            match needs.missing() {
                None => trial,
                Some(what) => trial
                    .with_kind(format!("needs {what}"))
                    .with_ignored_flag(true),
            }
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

#[expect(clippy::unnecessary_wraps, reason = "the harness wants a result")]
fn run_one(start: Start) -> Result<(), Failed> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(start());
    Ok(())
}
