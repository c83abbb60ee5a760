//! What a job's processes hold by descriptors alone: buffers of sockets and pipes, files in memory, and
//! terminals.
//!
//! None of this is in the figures of a process. Counting it takes a look at every descriptor, for which a
//! child has to become the job's user: without `CAP_SYS_PTRACE` nobody else may look. So it is only done
//! where what is cheap to know does not rule out that it matters.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::confine::become_user;
use super::policy::Policy;
use super::probe::run_in_child;
use super::process_tree::{Process, Usage, descriptors_of, oldest_line, share_of_memory};
use super::slots::JobIds;
use super::sys::{self, SingleThreaded};

/// What a socket can hold in bytes in one direction: the kernel's default, which jobs cannot raise
/// (`net.core.wmem_default`).
const BUFFER_BYTES: u64 = 212_992;
/// What a pipe can hold in bytes, see pipe(7). Jobs cannot raise it.
const PIPE_BYTES: u64 = 65_536;
/// Terminals that a job may have. All users of a machine share a few thousand.
const MAX_TERMINALS: u64 = 64;
/// Minimum time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What there is besides a job when it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    /// The machine's shared memory in bytes: files in memory, and shared anonymous pages.
    shared_memory: u64,
    /// The machine's pseudo-terminals.
    terminals: u64,
}

impl Surroundings {
    pub(super) fn measure() -> Self {
        Self {
            shared_memory: shared_memory(),
            terminals: terminals(),
        }
    }
}

/// Watches what the processes of one job hold.
#[derive(Debug)]
pub(super) struct HeldWatch {
    before: Surroundings,
    held: Held,
    /// What one socket can hold.
    socket_bytes: u64,
    /// The last look at what processes share.
    shares: Option<Shares>,
    has_own_network: bool,
    processes_above_program: usize,
    next_look: Instant,
}

/// What the processes had when pages that they share were counted once.
#[derive(Debug, Clone, Copy)]
struct Shares {
    /// By the figures of each process.
    all: u64,
    once: u64,
    /// When to look again: looking takes no more time than not looking.
    next_look: Instant,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    /// Bytes.
    memory: u64,
    terminals: u64,
    sockets: u64,
}

impl HeldWatch {
    pub(super) fn new(before: Surroundings, policy: &Policy) -> Self {
        // A Unix socket holds what it has sent, others also what they have received.
        let directions = if policy.has_network() { 2 } else { 1 };
        Self {
            before,
            held: Held::default(),
            shares: None,
            socket_bytes: BUFFER_BYTES * directions,
            has_own_network: policy.has_own_network(),
            processes_above_program: policy.processes_above_program(),
            next_look: Instant::now(),
        }
    }

    /// Number of sockets in the job's network namespace, as the kernel counts them: connections that nobody has
    /// accepted included. 0 if the job has no network namespace.
    fn sockets(&self, init: Pid) -> u64 {
        if !self.has_own_network {
            return 0;
        }
        let path = format!("/proc/{}/net/sockstat", init.as_raw_nonzero());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let used = text
            .lines()
            .find_map(|line| line.strip_prefix("sockets: used "));
        used.map_or(0, |used| used.trim().parse().unwrap_or(0))
    }

    /// Adds to the memory of `usage` what the processes hold, if it could exceed `limit` with it. `init` and
    /// others above the program cannot be inspected, and hold nothing.
    pub(super) fn add_to(
        &mut self,
        usage: &mut Usage,
        limit: u64,
        init: Pid,
        proof: SingleThreaded,
        ids: Option<JobIds>,
    ) {
        if usage.memory > limit {
            self.count_shared_once(usage, limit, proof, ids);
        }
        let sockets = self.sockets(init);
        let buffers = usage
            .descriptors
            .max(sockets)
            .saturating_mul(self.socket_bytes);
        let files = shared_memory().saturating_sub(self.before.shared_memory);
        let upper_bound = usage.memory.saturating_add(buffers).saturating_add(files);
        let new_terminals = terminals().saturating_sub(self.before.terminals);
        if upper_bound <= limit && new_terminals <= MAX_TERMINALS {
            self.held = Held::default();
        } else if Instant::now() >= self.next_look {
            // Used if the look fails, which the job may have caused.
            let worst = Held {
                memory: upper_bound.saturating_sub(usage.memory),
                terminals: new_terminals,
                sockets,
            };
            let mut processes = usage.processes.clone();
            let above = oldest_line(init.as_raw_nonzero().get(), self.processes_above_program);
            processes.retain(|process| !above.contains(&process.pid));
            let mut held = look(&processes, self.socket_bytes, proof, ids).unwrap_or(worst);
            let unaccepted = sockets.saturating_sub(held.sockets);
            let buffers = unaccepted.saturating_mul(self.socket_bytes);
            held.memory = held.memory.saturating_add(buffers);
            self.held = held;
            self.next_look = Instant::now() + LOOK_INTERVAL;
        }
        usage.memory = usage.memory.saturating_add(self.held.memory);
    }

    /// Takes what processes share from the memory of `usage`, such as what forked children have of their parent.
    /// Adding up the figures of each counts it several times, but takes much less time.
    fn count_shared_once(
        &mut self,
        usage: &mut Usage,
        limit: u64,
        proof: SingleThreaded,
        ids: Option<JobIds>,
    ) {
        let all = usage.memory;
        let start = Instant::now();
        // What has been added since the last look is nobody else's, as far as this knows. A process that writes
        // to what it shares adds nothing to the figures, so the estimate is good for a moment only.
        let estimate = self.shares.filter(|shares| start < shares.next_look);
        let estimate = estimate.map(|shares| {
            let added = all.saturating_sub(shares.all);
            shares.once.saturating_add(added)
        });
        let once = estimate.filter(|once| *once <= limit).or_else(|| {
            let once = look_at_shares(&usage.processes, proof, ids)?;
            self.shares = Some(Shares {
                all,
                once,
                next_look: Instant::now() + start.elapsed(),
            });
            Some(once)
        });
        usage.memory = once.map_or(all, |once| once.min(all));
    }

    /// Whether the job has more terminals than it may.
    pub(super) fn has_too_many_terminals(&self) -> bool {
        self.held.terminals > MAX_TERMINALS
    }
}

/// The memory of these processes, with what they share counted once.
fn look_at_shares(
    processes: &[Process],
    proof: SingleThreaded,
    ids: Option<JobIds>,
) -> Option<u64> {
    let memory = inspect(proof, ids, || {
        let shares = processes.iter().map(|process| share_of_memory(process.pid));
        shares.fold(0, u64::saturating_add).to_string()
    });
    memory?.parse().ok()
}

/// Looks at the descriptors of these processes.
fn look(
    processes: &[Process],
    socket_bytes: u64,
    proof: SingleThreaded,
    ids: Option<JobIds>,
) -> Option<Held> {
    let figures = inspect(proof, ids, || {
        let held = held_by(processes, socket_bytes);
        format!("{} {} {}", held.memory, held.terminals, held.sockets)
    })?;
    let mut figures = figures.split(' ').map(|figure| figure.parse().ok());
    Some(Held {
        memory: figures.next()??,
        terminals: figures.next()??,
        sockets: figures.next()??,
    })
}

/// Inspects processes in a child that has changed to their user, and returns what it found.
fn inspect(
    proof: SingleThreaded,
    ids: Option<JobIds>,
    find: impl FnOnce() -> String,
) -> Option<String> {
    let act = |pipe: &OwnedFd| {
        if let Some(ids) = ids {
            become_user(ids, None)?;
        }
        std::fs::File::from(pipe.try_clone()?).write_all(find().as_bytes())
    };
    let output = run_in_child(|| sys::fork(proof), act);
    String::from_utf8(output.ok()?).ok()
}

fn held_by(processes: &[Process], socket_bytes: u64) -> Held {
    let mut held = Held::default();
    let mut seen = HashSet::new();
    for Process { pid, .. } in processes {
        let folder = format!("/proc/{pid}/fd");
        let Ok(descriptors) = std::fs::read_dir(&folder) else {
            // It has ended, or does not let itself be inspected: then each may be a full socket.
            let sockets = descriptors_of(*pid).saturating_mul(socket_bytes);
            held.memory = held.memory.saturating_add(sockets);
            continue;
        };
        for descriptor in descriptors.flatten() {
            let path = descriptor.path();
            let Ok(target) = std::fs::read_link(&path) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let (bytes, name) = if target.starts_with("socket:") {
                (socket_bytes, target)
            } else if target.starts_with("pipe:") {
                (PIPE_BYTES, target)
            } else if target.starts_with("/memfd:") {
                let Ok(file) = std::fs::metadata(&path) else {
                    continue;
                };
                let name = format!("memfd:[{}]", file.ino());
                (file.blocks().saturating_mul(512), name)
            } else if target.ends_with("/ptmx") {
                let number = path.file_name().unwrap_or_default();
                let info = Path::new("/proc").join(pid.to_string()).join("fdinfo");
                let info = std::fs::read_to_string(info.join(number)).unwrap_or_default();
                let index = info.lines().find(|line| line.starts_with("tty-index:"));
                let is_new = seen.insert(index.unwrap_or(&target).to_owned());
                held.terminals += u64::from(is_new);
                continue;
            } else {
                continue;
            };
            // Processes share descriptors.
            let is_socket = name.starts_with("socket:");
            if seen.insert(name) {
                held.sockets += u64::from(is_socket);
                held.memory = held.memory.saturating_add(bytes);
            }
        }
    }
    held
}

fn shared_memory() -> u64 {
    let found = rustix::system::sysinfo();
    found.sharedram.saturating_mul(u64::from(found.mem_unit))
}

fn terminals() -> u64 {
    let number = std::fs::read_to_string("/proc/sys/kernel/pty/nr");
    number.map_or(0, |number| number.trim().parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sandbox::process_tree::running_below;
    use std::io::{self, BufRead};
    use std::process::{Command, Stdio};

    fn held_by_python(program: &str) -> Held {
        let mut child = Command::new("python3")
            .args(["-c", &format!("{program}\nprint(flush=True)\ninput()")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        io::BufReader::new(stdout).read_line(&mut line).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = running_below(me, &[]);
        let found: Vec<_> = found.into_iter().filter(|one| one.pid == pid).collect();
        let held = held_by(&found, BUFFER_BYTES);
        child.kill().unwrap();
        child.wait().unwrap();
        held
    }

    #[test]
    fn sockets_pipes_files_in_memory_and_terminals_are_counted_once() {
        let before = held_by_python("");
        let after = held_by_python(
            "import os, pty, socket\n\
             a = socket.socketpair(); b = os.pipe(); c = os.memfd_create('x'); d = pty.openpty()\n\
             os.write(c, b'x' * 1_000_000); os.dup(c); os.dup(a[0].fileno()); os.dup(d[0])",
        );
        let more = after.memory - before.memory;
        let buffers = 2 * BUFFER_BYTES + PIPE_BYTES;
        assert!(
            (buffers + 1_000_000..buffers + 1_100_000).contains(&more),
            "{more}"
        );
        assert_eq!((before.terminals, after.terminals), (0, 1));
    }
}
