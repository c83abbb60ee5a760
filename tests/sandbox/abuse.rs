//! Given a program that attacks what is around it, when the engine runs it, then the attack is
//! stopped; and it succeeds once the layers that stop it are left out, so that no test passes by
//! accident. The numbers are those of the list of abuses in SECURITY.md.
//!
//! Only root can give jobs users of their own. Tests that are about that are ignored where somebody
//! else runs them; the attacks are then those that other layers stop.
use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::command::{bounded_command, command};
use crate::support::conditional::{Tests, can_change_users, tests};
use crate::support::engine::{Served, config, serve};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::folder::{open_folder, readable_file, subfolder};
use serde_json::{Value, json};
use session_adapter::engine::sandbox::Layer::{
    self, Landlock, Limits, Namespaces, OwnUsers, Seccomp,
};
use session_adapter::engine::sandbox::SandboxReport;
use session_adapter::engine::{EngineConfig, KernelSettings};
use tokio::time::timeout;

/// Number, name, the layers that stop it, and the program: it prints `done` when it has got what
/// it should not, and fails or prints something else when it has not.
type Attack = (u8, &'static str, &'static [Layer], &'static str);

const ATTACKS: &[Attack] = &[
    (1, "kill another process", &[OwnUsers, Landlock], "os.kill(VICTIM, 9); print('done')"),
    (2, "ptrace", &[OwnUsers, Seccomp, Landlock], "r = libc.ptrace(16, VICTIM, 0, 0); print('done' if r == 0 else r)"),
    (2, "ptrace of an own child", &[Seccomp], "
pid = os.fork()
if pid == 0: time.sleep(60)
r = libc.ptrace(0x4206, pid, 0, 0); os.kill(pid, 9); print('done' if r == 0 else r)"),
    (2, "another process's memory", &[OwnUsers, Landlock], "open('/proc/VICTIM/mem', 'rb'); print('done')"),
    (2, "reading another process's memory by call", &[OwnUsers, Seccomp, Landlock], "
class Part(ctypes.Structure): _fields_ = [('at', ctypes.c_void_p), ('length', ctypes.c_size_t)]
stack = next(l for l in open('/proc/VICTIM/maps') if '[stack]' in l)
to = ctypes.create_string_buffer(8)
mine, its = Part(ctypes.addressof(to), 8), Part(int(stack.split('-')[1].split()[0], 16) - 16, 8)
r = libc.process_vm_readv(VICTIM, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0)
print('done' if r == 8 else r)"),
    (3, "another process's descriptor", &[OwnUsers, Seccomp, Landlock], "
fd = libc.syscall(434, VICTIM, 0); print('done' if libc.syscall(438, fd, 1, 0) >= 0 else 'no')"),
    (4, "another process's environment", &[OwnUsers, Landlock], "
print('done' if b'HIDDEN' in open('/proc/VICTIM/environ', 'rb').read() else 'no')"),
    (6, "another process's descriptors", &[OwnUsers, Landlock], "os.readlink('/proc/VICTIM/fd/0'); print('done')"),
    (6, "how many descriptors another process has", &[OwnUsers], "os.listdir('/proc/VICTIM/fd'); print('done')"),
    (6, "another process's root", &[OwnUsers, Landlock], "os.readlink('/proc/VICTIM/root'); print('done')"),
    (6, "another process's working directory", &[OwnUsers, Landlock], "os.listdir('/proc/VICTIM/cwd'); print('done')"),
    (7, "TCP to the engine", &[Seccomp, Landlock], "socket.create_connection(('127.0.0.1', PORT), 5); print('done')"),
    (7, "/dev/tcp of bash", &[Seccomp, Landlock], "
print('done' if os.system('bash -c \"exec 3<>/dev/tcp/127.0.0.1/PORT\"') == 0 else 'no')"),
    // Done is here that the call was sent: who answers it is the cloud's business.
    (8, "the cloud's own address", &[Seccomp, Landlock], "
s = socket.socket(); s.setblocking(False)
print('done' if s.connect_ex(('169.254.169.254', 80)) == errno.EINPROGRESS else 'no')"),
    (9, "UDP", &[Seccomp], "socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print('done')"),
    (9, "UDP over IPv6", &[Seccomp], "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); print('done')"),
    (9, "TCP that is opened by sending", &[Seccomp], "
s = socket.socket(); s.sendto(b'x', 0x20000000, ('127.0.0.1', PORT)); print('done')"),
    (9, "TCP over several paths", &[Seccomp], "
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.connect(('127.0.0.1', PORT)); print('done')"),
    (10, "listen", &[Seccomp, Landlock], "
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('done')"),
    (10, "raw packets", &[OwnUsers, Seccomp], "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); print('done')"),
    (10, "raw ICMP", &[OwnUsers, Seccomp], "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print('done')"),
    (11, "netlink", &[Seccomp], "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); print('done')"),
    // Done is here that it was the kernel who refused, for want of such a family.
    (11, "sockets to the host", &[Seccomp], "
r = libc.socket(40, 1, 0); print('done' if r >= 0 or ctypes.get_errno() == NO_FAMILY else 'no')"),
    (11, "ciphers of the kernel", &[Seccomp], "
r = libc.socket(38, 5, 0); print('done' if r >= 0 or ctypes.get_errno() == NO_FAMILY else 'no')"),
    (12, "abstract sockets", &[Landlock], "
s = socket.socket(socket.AF_UNIX); s.connect('\\0ABSTRACT'); print('done')"),
    (13, "sockets by path", &[OwnUsers], "s = socket.socket(socket.AF_UNIX); s.connect('PRIVATE/socket'); print('done')"),
    (16, "/etc/shadow", &[OwnUsers], "open('/etc/shadow').read(); print('done')"),
    (16, "a secret of root's", &[OwnUsers, Landlock], "open('PRIVATE/secret').read(); print('done')"),
    (16, "a file that all may read, in a place that is nobody's business", &[Landlock], "open('PUBLIC/file').read(); print('done')"),
    (16, "names of other jobs", &[OwnUsers], "os.listdir('WORK'); print('done')"),
    (17, "change a program of the engine", &[OwnUsers, Landlock], "open('PUBLIC/program', 'r+'); print('done')"),
    (18, "many processes", &[Limits], "
for n in range(80):
    if os.fork() == 0: time.sleep(60); os._exit(0)
print('done')"),
    (18, "many threads", &[Limits], "
import threading
for n in range(200): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print('done', flush=True); os._exit(0)"),
    (21, "many descriptors", &[Limits], "fs = [open('/dev/null') for n in range(1000)]; print('done')"),
    (22, "one big file", &[Limits], "open('big', 'wb').write(b'x' * 3_000_000); print('done')"),
    (35, "become root", &[OwnUsers], "os.setuid(0); print('done')"),
    (35, "become somebody", &[OwnUsers], "os.setgroups([]); os.setgid(1); os.setuid(1); print('done')"),
    (35, "give a file away", &[OwnUsers], "open('x', 'w'); os.chown('x', 1, 1); print('done')"),
    (36, "raise a limit", &[OwnUsers], "
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard + 1)); print('done')"),
    (36, "be the last that is ended when memory runs out", &[OwnUsers, Landlock], "
open('/proc/self/oom_score_adj', 'w').write('0')
print('done' if open('/proc/self/oom_score_adj').read() == '0\\n' else 'no')"),
    (37, "limits of another process", &[OwnUsers, Seccomp], "resource.prlimit(VICTIM, resource.RLIMIT_CORE, (0, 0)); print('done')"),
    (37, "priority of another process", &[OwnUsers, Seccomp], "os.setpriority(os.PRIO_PROCESS, VICTIM, 5); print('done')"),
    (37, "processors of another process", &[OwnUsers], "os.sched_setaffinity(VICTIM, os.sched_getaffinity(0)); print('done')"),
    (38, "core dumps", &[Limits], "
soft, hard = resource.getrlimit(resource.RLIMIT_CORE); print('done' if hard != 0 else 'no')"),
    (39, "shared memory of System V", &[Seccomp], "
i = libc.shmget(0, 4096, 0o1600); print('done' if i >= 0 else 'no'); libc.shmctl(i, 0, 0)"),
    (39, "semaphores of System V", &[Seccomp], "
i = libc.semget(0, 1, 0o1600); print('done' if i >= 0 else 'no'); libc.semctl(i, 0, 0)"),
    (39, "messages of System V", &[Seccomp], "
i = libc.msgget(0, 0o1600); print('done' if i >= 0 else 'no'); libc.msgctl(i, 0, 0)"),
    (39, "POSIX queues", &[Seccomp], "
r = libc.syscall(240, b'', 0, 0, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (40, "keyrings", &[Seccomp], "
r = libc.syscall(248, b'user', b'x', b'y', 1, -2); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (41, "io_uring", &[Seccomp], "
r = libc.syscall(425, 1, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (41, "asynchronous input and output", &[Seccomp], "
context = ctypes.c_ulong()
print('done' if libc.syscall(206, 1, ctypes.byref(context)) == 0 else 'no')"),
    (41, "userfaultfd", &[Seccomp], "
r = libc.syscall(323, 1); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (41, "perf", &[Seccomp], "
r = libc.syscall(298, 0, 0, -1, -1, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (41, "bpf", &[OwnUsers, Seccomp], "
r = libc.syscall(321, 0, 0, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (42, "a user namespace", &[Seccomp], "print('done' if libc.unshare(0x10000000) == 0 else 'no')"),
    (42, "a user namespace by clone", &[Seccomp], "
pid = libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
print('done' if pid > 0 else 'no')"),
    (42, "a namespace by clone3", &[Seccomp], "
r = libc.syscall(435, 0, 0); print('done' if ctypes.get_errno() != errno.ENOSYS else 'no')"),
    (42, "mount", &[OwnUsers, Seccomp, Landlock], "
os.mkdir('m'); ok = libc.mount(b'none', b'm', b'tmpfs', 0, 0) == 0
print('done' if ok else 'no'); libc.umount(b'm')"),
    (42, "a mount with attributes", &[Seccomp], "
r = libc.syscall(467, -1, b'', 0, 0, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (42, "quotas of a mount", &[Seccomp], "
r = libc.syscall(443, -1, 0, 0, 0); print('done' if ctypes.get_errno() != errno.EPERM else 'no')"),
    (43, "typing into a terminal", &[Seccomp], "
libc.ioctl(-1, 0x5412, b'x'); print('done' if ctypes.get_errno() == errno.EBADF else 'no')"),
    (47, "calls of the x32 kind", &[Seccomp], "print('done' if libc.syscall(0x40000000 | 39) > 0 else 'no')"),
    // Done is here that the kernel looked at the time that was given, which is none.
    (49, "setting the clock", &[Seccomp], "
libc.syscall(227, 0, 0); print('done' if ctypes.get_errno() == errno.EFAULT else 'no')"),
    (49, "a better priority", &[OwnUsers], "os.nice(-1); print('done')"),
    (50, "settings of the kernel", &[OwnUsers, Landlock], "open('/proc/sys/kernel/core_pattern', 'r+'); print('done')"),
    (50, "control groups", &[OwnUsers, Landlock], "
import glob
found = [p for n in range(4) for p in glob.glob('/sys/fs/cgroup/' + '*/' * n + 'cgroup.procs')]
open(found[0], 'r+'); print('done')"),
];

/// What resource limits do not stop where jobs run as root, which the engine refuses by itself.
const UNLIMITED_FOR_ROOT: [&str; 2] = ["many processes", "many threads"];

/// What nothing stops, or is meant to, in the form of the attacks: SECURITY.md says that these are
/// open, and must be changed when they no longer are.
const OPEN: &[(u8, &str, &str)] = &[
    (5, "process ids and command lines of others", "
print('done' if 'VICTIM' in os.listdir('/proc') and
      b'sleep' in open('/proc/VICTIM/cmdline', 'rb').read() else 'no')"),
    // Its descriptors cannot be looked at, as it executes what it may not read.
    (20, "files in memory that are held by what cannot be inspected", "
import shutil
shutil.copy('/usr/bin/python3', 'python'); os.chmod('python', 0o111)
code = '\\n'.join([
    'import os, time',
    'for n in range(190): os.write(os.memfd_create(str(n)), bytes(1_000_000))',
    'time.sleep(0.5); print(\"done\")'])
os.execv('./python', ['/usr/bin/python3', '-c', code])"),
    (23, "files that are deleted and still open", "
fs = [open(str(n), 'wb', 0) for n in range(16)]
for n in range(16): os.unlink(str(n)); fs[n].write(b'x' * 1_000_000)
time.sleep(0.5); print('done')"),
    (44, "executing from memory", "
fd = os.memfd_create('x'); os.write(fd, open('/usr/bin/true', 'rb').read())
if os.fork() == 0: os.execv(f'/proc/self/fd/{fd}', ['x'])
print('done' if os.wait()[1] == 0 else 'no')"),
    (45, "watching what all may read", "
i = libc.inotify_init(); print('done' if libc.inotify_add_watch(i, b'/etc/passwd', 0x20) > 0 else 'no')"),
    (46, "locking what all may read", "
import fcntl
fcntl.flock(open('/etc/passwd'), fcntl.LOCK_EX); print('done')"),
];

/// What some machines do not have, so that it fails there without any layer.
const MAY_BE_ABSENT: [&str; 4] = [
    "calls of the x32 kind",
    "the cloud's own address",
    "TCP over several paths",
    "control groups",
];

/// What a job may do where it has a network of its own.
const HARMLESS_IN_NAMESPACES: [&str; 4] = ["UDP", "UDP over IPv6", "listen", "netlink"];

/// What nothing but Landlock stops where there are no namespaces; SECURITY.md says so.
const OPEN_WITHOUT_LANDLOCK: [&str; 3] = [
    "abstract sockets",
    "a file that all may read, in a place that is nobody's business",
    "be the last that is ended when memory runs out",
];

/// What every attack begins with.
const PRELUDE: &str = "import ctypes, errno, os, resource, socket, time
libc = ctypes.CDLL(None, use_errno=True)
NO_FAMILY = 97
";

/// How an attack ends that is wrong in itself, and so shows nothing.
const MISTAKES: [&str; 4] = ["AttributeError", "NameError", "SyntaxError", "TypeError"];

/// Small limits, so that reaching them is quick.
fn small() -> EngineConfig {
    EngineConfig {
        run_timeout: PATIENCE,
        max_processes: 64,
        max_open_files: 256,
        max_file_size: 1 << 20,
        memory_limit: 128 << 20,
        max_jobs: 3,
        queue: 1000,
        allow_weak_sandbox: true,
        ..config()
    }
}

/// A process that the attacks aim at; it goes when this does.
struct Victim(Child);

impl Victim {
    fn start() -> Self {
        let child = command("sleep").arg("600").env("HIDDEN", "x").spawn();
        Self(child.unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn attacks_are_stopped_and_succeed_without_the_layers_that_stop_them() {
    let places = Places::new();
    let mut engines: HashMap<Vec<String>, Served> = HashMap::new();
    let mut problems = Vec::new();
    for (number, name, layers, program) in ATTACKS {
        // Users are not there to be left out where nobody can give them.
        let layers: Vec<_> = layers
            .iter()
            .copied()
            .filter(|layer| *layer != OwnUsers || can_change_users())
            .collect();
        if layers.is_empty() {
            eprintln!("SKIPPED: {name}, for only users of their own for the jobs stop it");
            continue;
        }
        let Some(program) = places.fill_in(program) else {
            eprintln!("SKIPPED: {name}, for this user has no folder that is nobody's business");
            continue;
        };
        let all_layers = || (vec![], true);
        let without_namespaces = || (vec![Namespaces], true);
        let without_layers = ([&layers[..], &[Namespaces]].concat(), false);
        for ((without, is_contained), is_cell) in [
            (all_layers(), false),
            (all_layers(), true),
            (without_namespaces(), false),
            (without_namespaces(), true),
            (without_layers, false),
        ] {
            if !is_contained && !has_right_to(name) {
                eprintln!("SKIPPED: {name} without layers, for this user lacks the right");
                continue;
            }
            let key: Vec<_> = without.iter().map(|layer| format!("{layer:?}")).collect();
            if !engines.contains_key(&key) {
                let config = EngineConfig {
                    without: without.clone(),
                    memory_limit: 1 << 30,
                    kernels: KernelSettings {
                        max_kernels: 2,
                        memory_limit: 1 << 30,
                        ..KernelSettings::default()
                    },
                    ..small()
                };
                engines.insert(key.clone(), serve(config).await);
            }
            let served = &engines[&key];
            let victim = Victim::start();
            let work = served.engine.work_dir().to_string_lossy().into_owned();
            let program = program
                .replace("VICTIM", &victim.0.id().to_string())
                .replace("PORT", &served.address.port().to_string())
                .replace("WORK", &work);
            let program = format!("{PRELUDE}{program}");
            let run = match is_cell {
                true => served.run_cell(name, &program).await,
                false => served.run("python", &program).await,
            };
            let succeeded = run["stdout"] == "done\n";
            let stderr = run["stderr"].as_str().unwrap();
            if MISTAKES.iter().any(|mistake| stderr.contains(mistake)) {
                problems.push(format!("{number} {name} is mistaken: {run}"));
            }
            let why = if succeeded {
                why_open(name, served.engine.sandbox())
            } else {
                why_impossible(name)
            };
            match why {
                _ if succeeded != is_contained => {}
                Some(why) if succeeded => eprintln!("OPEN: {name}, for {why}"),
                Some(why) => eprintln!("SKIPPED: {name} without layers, for {why}"),
                None => problems.push(format!(
                    "{number} {name}, without {key:?}, cell: {is_cell}: {run}"
                )),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Why an attack may succeed with all layers that there are; SECURITY.md says so.
fn why_open(attack: &str, sandbox: &SandboxReport) -> Option<&'static str> {
    if sandbox.namespaces && HARMLESS_IN_NAMESPACES.contains(&attack) {
        Some("jobs have a network of their own")
    } else if sandbox.landlock.is_none() && OPEN_WITHOUT_LANDLOCK.contains(&attack) {
        Some("there is no Landlock here")
    } else if sandbox.as_root && UNLIMITED_FOR_ROOT.contains(&attack) {
        Some("no limit on processes binds root")
    } else {
        None
    }
}

/// Why an attack may fail although no layer of the engine's stops it.
fn why_impossible(attack: &str) -> Option<&'static str> {
    if MAY_BE_ABSENT.contains(&attack) {
        Some("this machine does not have it")
    } else if !can_change_users() {
        Some("this user may not do it")
    } else if is_contained() {
        Some("this container stops it, too")
    } else {
        None
    }
}

/// What the attacks aim at besides a process; all of it goes when this does.
struct Places {
    /// Not below /tmp, which jobs may read; not everybody can make it.
    folder: Option<tempfile::TempDir>,
    abstract_name: String,
    _sockets: Vec<std::os::unix::net::UnixListener>,
}

impl Places {
    fn new() -> Self {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};
        let abstract_name = format!("session-adapter-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let mut sockets = vec![UnixListener::bind_addr(&address).unwrap()];
        let folder = tempfile::tempdir_in("/var/lib").ok();
        if let Some(folder) = &folder {
            for (name, mode) in [(".", 0o755), ("private", 0o700), ("public", 0o755)] {
                let path = folder.path().join(name);
                std::fs::create_dir_all(&path).unwrap();
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            }
            for name in ["private/secret", "public/file", "public/program"] {
                readable_file(&folder.path().join(name), "");
            }
            sockets.push(UnixListener::bind(folder.path().join("private/socket")).unwrap());
        }
        Self {
            folder,
            abstract_name,
            _sockets: sockets,
        }
    }

    /// The attack with the names of what it aims at; `None` where that is not there.
    fn fill_in(&self, program: &str) -> Option<String> {
        let mut program = program.replace("ABSTRACT", &self.abstract_name);
        for (word, name) in [("PRIVATE", "private"), ("PUBLIC", "public")] {
            if program.contains(word) {
                let path = self.folder.as_ref()?.path().join(name);
                program = program.replace(word, path.to_str()?);
            }
        }
        Some(program)
    }
}

/// Whether something else contains these tests.
fn is_contained() -> bool {
    let is_filtered = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| {
            line.strip_prefix("Seccomp:")
                .is_some_and(|mode| mode.trim() != "0")
        });
    is_filtered
        || ["/run/.containerenv", "/.dockerenv"]
            .iter()
            .any(|path| Path::new(path).exists())
}

/// Whether this process has the right that an attack needs: in a container root mostly lacks these.
fn has_right_to(attack: &str) -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = match attack {
        "raise a limit" => CapabilitySet::SYS_RESOURCE,
        "mount" => CapabilitySet::SYS_ADMIN,
        "a better priority" => CapabilitySet::SYS_NICE,
        _ => CapabilitySet::empty(),
    };
    capabilities(None).unwrap().effective.contains(needed)
}

/// Rows 5, 20, 23, 44, 45 and 46.
async fn what_is_said_to_be_open_is_open() {
    let served = serve(EngineConfig {
        without: vec![Namespaces],
        max_file_size: 16 << 20,
        max_job_bytes: 12 << 20,
        ..small()
    })
    .await;
    let victim = Victim::start();
    for (number, name, program) in OPEN {
        let program = program.replace("VICTIM", &victim.0.id().to_string());
        let run = served.run("python", &format!("{PRELUDE}{program}")).await;
        assert_eq!(run["stdout"], "done\n", "{number} {name}: {run}");
    }
}

/// Rows 1, 2, 4, 6 and 16, with another job in the victim's place.
async fn jobs_do_not_reach_each_other() {
    const WAYS: [(u8, &str, &str); 6] = [
        (2, "memory", "open(f'/proc/{pid}/mem', 'rb')"),
        (
            4,
            "environment",
            "open(f'/proc/{pid}/environ', 'rb').read()",
        ),
        (6, "descriptors", "os.listdir(f'/proc/{pid}/fd')"),
        (6, "working directory", "os.listdir(f'/proc/{pid}/cwd')"),
        (16, "files", "open(there + '/main.py').read()"),
        // Last, for it is the end of the other job.
        (1, "life", "os.kill(pid, 9)"),
    ];
    let victim = "import os, time
with open('DATA/new', 'w') as f: f.write(f'{os.getpid()} {os.getcwd()}')
os.chmod('DATA/new', 0o644)
os.rename('DATA/new', 'DATA/told')
time.sleep(600)
";
    let attack = "import os
pid, there = open('DATA/told').read().split()
pid = int(pid)
ATTACK
print('done')
";
    // In namespaces others have no ids, see below.
    for without in [vec![Namespaces], vec![Namespaces, OwnUsers, Landlock]] {
        let apart = without.len() < 2;
        let served = serve(EngineConfig { without, ..small() }).await;
        let data = served.engine.data_dir().to_path_buf();
        let at = |program: &str| program.replace("DATA", data.to_str().unwrap());
        let body = json!({
            "language": "python", "version": "*",
            "files": [{"name": "main.py", "content": at(victim)}],
        });
        let json = [("Content-Type", "application/json")];
        let body = body.to_string();
        let _other = served
            .begin("POST", "/api/v2/execute", &json, body.as_bytes())
            .await;
        let told = data.join("told");
        eventually("the other job has started", async || told.exists()).await;
        for (number, name, program) in WAYS {
            let run = served
                .run("python", &at(attack).replace("ATTACK", program))
                .await;
            let succeeded = run["stdout"] == "done\n";
            assert_eq!(succeeded, !apart, "{number} {name}: {run}");
        }
    }
}

/// Row 5, and all those with another process in them.
async fn in_namespaces_a_job_sees_its_own_processes_alone() {
    let program = "import os, time
time.sleep(0.2)
names = [open(f'/proc/{pid}/comm').read().strip() for pid in os.listdir('/proc') if pid.isdigit()]
print(len(names), os.getpid() < 10, os.listdir('/jobs') == [os.getcwd().split('/')[2]])
";
    let served = serve(small()).await;
    if !served.engine.sandbox().namespaces {
        eprintln!("SKIPPED: there are no namespaces here");
        return;
    }
    let (one, other) = tokio::join!(served.run("python", program), served.run("python", program));
    for run in [one, other] {
        assert_eq!(run["stdout"], "3 True True\n", "{run}");
    }
}

/// Row 20. Each way of using memory passes the limit, and is fine below a higher one.
async fn memory_is_limited_however_it_is_used() {
    const WAYS: [(&str, &str); 3] = [
        ("private", "x = bytearray(300_000_000); print('done')"),
        (
            "shared and anonymous",
            "import mmap, time\nm = mmap.mmap(-1, 300_000_000)\nfor i in range(0, 300_000_000, 4096): m[i] = 1\ntime.sleep(0.3)\nprint('done')",
        ),
        (
            "many processes",
            "import os, time\nfor n in range(10):\n    if os.fork() == 0:\n        x = bytearray(30_000_000); time.sleep(1); os._exit(0)\nfor n in range(10): os.wait()\nprint('done')",
        ),
    ];
    let low = serve(small()).await;
    let high = serve(EngineConfig {
        memory_limit: 1 << 30,
        ..small()
    })
    .await;
    for (name, program) in WAYS {
        let run = low.run("python", program).await;
        assert_eq!(run["code"], 137, "{name}: {run}");
        assert_eq!(run["status"], "RE", "{name}: {run}");
        assert_eq!(run["outcome"], "memory_limit", "{name}: {run}");
        assert_eq!(run["memory"], 128 << 20, "{name}: {run}");
        let run = high.run("python", program).await;
        assert_eq!(run["stdout"], "done\n", "{name}: {run}");
    }
}

/// Rows 23 and 28.
async fn files_are_limited_in_number_size_and_depth() {
    const WAYS: [(&str, &str); 3] = [
        ("many", "for n in range(2000): open(str(n), 'w')\nwait()"),
        (
            "large",
            "for n in range(8): open(str(n), 'wb').write(b'x' * 1_000_000)\nwait()",
        ),
        (
            "deep",
            "import os\nfor n in range(15000):\n    os.mkdir('d'); os.chdir('d')\nwait()",
        ),
    ];
    // The measure is taken now and then; with room enough the program goes on at once.
    let wait = "import time\ndef wait():\n    time.sleep(WAIT)\n    print('done')\n";
    let low = serve(EngineConfig {
        max_job_files: 1000,
        max_job_bytes: 4 << 20,
        ..small()
    })
    .await;
    for (name, program) in WAYS {
        let program = format!("{}{program}", wait.replace("WAIT", "30"));
        let run = low.run("python", &program).await;
        assert_eq!(run["code"], 153, "{name}: {run}");
        assert_eq!(run["outcome"], "disk_limit", "{name}: {run}");
    }
    // What is too deep to be counted is so with every limit.
    let high = serve(small()).await;
    for (name, program) in &WAYS[..2] {
        let program = format!("{}{program}", wait.replace("WAIT", "0"));
        let run = high.run("python", &program).await;
        assert_eq!(run["stdout"], "done\n", "{name}: {run}");
    }
    low.settled().await;
}

/// Rows 19 and 31: neither a daemon nor what holds a pipe outlives its job.
async fn no_process_outlives_its_job() {
    let daemon = "import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(0.2)
";
    // Without the engine it does.
    let mut plain = bounded_command("python3")
        .args(["-c", daemon])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(plain.stdout.take().unwrap()),
        &mut pid,
    )
    .unwrap();
    plain.wait().unwrap();
    let process = Path::new("/proc").join(pid.trim());
    assert!(process.exists());
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();

    let served = serve(EngineConfig {
        // Within namespaces processes have other ids, and end with the first one.
        without: vec![Namespaces],
        ..small()
    })
    .await;
    let run = served.run("python", daemon).await;
    let pid = run["stdout"].as_str().unwrap().trim().to_owned();
    assert_eq!(run["code"], 0, "{run}");
    assert!(!Path::new("/proc").join(pid).exists());
}

/// Row 32. Nothing can be left out here to show what would be without: SIGKILL is no layer.
async fn a_program_that_ignores_signals_or_stops_is_ended() {
    let served = serve(EngineConfig {
        run_timeout: Duration::from_secs(1),
        ..small()
    })
    .await;
    for program in [
        "import signal\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\nwhile True: signal.pause()",
        "import os\nos.kill(os.getpid(), 19)",
        "import os\nos.kill(os.getppid(), 19)\nos.kill(os.getpid(), 19)",
    ] {
        let run = served.run("python", program).await;
        assert_eq!(run["status"], "TO", "{run}");
        assert_eq!(run["signal"], "SIGKILL", "{run}");
    }
}

/// Row 33. No process uses more than a tenth of the lower limit. How long that takes on the clock
/// depends on what else runs here, so that nothing is stopped by the clock.
async fn cpu_time_is_that_of_all_processes() {
    let program = "import os, time
for n in range(30):
    if os.fork() == 0:
        while time.process_time() < 0.1: pass
        os._exit(0)
    if n % 2: os.wait(); os.wait()
print('done')
";
    let served = serve(EngineConfig {
        run_timeout: PATIENCE,
        ..small()
    })
    .await;
    let body = |cpu: u32| json!({"language": "python", "version": "*", "files": [{"content": program}], "run_cpu_time": cpu});
    let run = served.execute(&body(1000)).await.json()["run"].take();
    assert_eq!(run["message"], "Time limit exceeded", "{run}");
    let run = served.execute(&body(60_000)).await.json()["run"].take();
    assert_eq!(run["stdout"], "done\n", "{run}");
}

/// Rows 14 and 15: what is left in shared folders is swept.
async fn shared_folders_are_swept_after_a_job() {
    for without in [vec![], vec![Namespaces], vec![Namespaces, Layer::Sweep]] {
        let swept = !without.contains(&Layer::Sweep);
        let served = serve(EngineConfig { without, ..small() }).await;
        let name = format!("session-adapter-test-{}", std::process::id());
        let paths = ["/tmp", "/var/tmp", "/dev/shm"].map(|folder| format!("{folder}/{name}"));
        let program = format!(
            "import os\nfor p in {paths:?}:\n    os.makedirs(p + '/a/b')\n    open(p + '/a/b/c', 'w')\n    os.chmod(p + '/a', 0)\nprint('done')"
        );
        let run = served.run("python", &program).await;
        assert_eq!(run["stdout"], "done\n", "{run}");
        served.settled().await;
        drop(served);
        for path in paths {
            assert_eq!(Path::new(&path).exists(), !swept, "{path}");
            if !swept {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }
}

/// Rows 24 to 27 and 29: whatever a job leaves in the data directory can be used by whom it is
/// given to, and nothing outside of it changes. It is no layer that stops these, but the way in
/// which the engine opens files, so that nothing can be left out.
async fn what_is_left_in_the_data_directory_is_handed_over() {
    let place = open_folder();
    let data = subfolder(place.path(), "data");
    let kept = place.path().join("kept");
    std::fs::write(&kept, "kept").unwrap();
    std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o644)).unwrap();
    let served = serve(EngineConfig {
        data_dir: Some(data.clone()),
        ..small()
    })
    .await;
    let program = "import os, socket
os.chdir('DATA')
os.symlink('KEPT', 'link')
os.symlink('/etc/shadow', 'shadow')
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
try: os.link('KEPT', 'hard')
except OSError: pass
open('plain', 'w').write('x'); os.chmod('plain', 0)
open('tool', 'w'); os.chmod('tool', 0o4755)
open(b'\\xff\\n', 'w')
open('n' * 255, 'w')
os.makedirs('deep/er'); open('deep/er/file', 'w'); os.chmod('deep/er', 0); os.chmod('deep', 0)
print('done')
";
    let program = program
        .replace("DATA", data.to_str().unwrap())
        .replace("KEPT", kept.to_str().unwrap());
    let run = served.run("python", &program).await;
    assert_eq!(run["stdout"], "done\n", "{run}");
    served.settled().await;
    let service = std::fs::metadata(data.join("plain")).unwrap();
    assert!(service.uid() >= 30_000);
    assert_eq!(service.mode() & 0o777, 0o660);
    assert_eq!(
        std::fs::metadata(data.join("tool")).unwrap().mode() & 0o7000,
        0
    );
    assert_eq!(
        std::fs::metadata(data.join("deep/er")).unwrap().mode() & 0o770,
        0o770
    );
    let kept = std::fs::metadata(&kept).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (0, 0o644));
    assert_eq!(std::fs::metadata("/etc/shadow").unwrap().uid(), 0);

    // What is nested too deep is deleted, and the slot stays in use.
    let deep =
        "import os\nos.chdir('DATA')\nfor n in range(1000):\n    os.mkdir('d'); os.chdir('d')\n";
    for _ in 0..15 {
        served
            .run("python", &deep.replace("DATA", data.to_str().unwrap()))
            .await;
        std::fs::remove_dir_all(data.join("d")).unwrap();
    }

    // The next job has another user, and can use it all the same.
    let next = "import os, shutil\nos.chdir('DATA')\nprint(open('plain').read())\nopen('plain', 'w').write('y')\nshutil.rmtree('deep')\nos.remove('fifo')\nprint(os.getuid())";
    let run = served
        .run("python", &next.replace("DATA", data.to_str().unwrap()))
        .await;
    assert!(run["stdout"].as_str().unwrap().starts_with("x\n"), "{run}");
}

/// Row 34: a program that belongs to root and would run as root does not.
async fn setuid_programs_gain_nothing() {
    let place = tempfile::tempdir_in("/usr/local").unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = place.path().join("id");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let plain = bounded_command(&program)
        .arg("-u")
        .uid(60_500)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), "0\n");
    let served = serve(small()).await;
    let run = served
        .run("bash", &format!("{} -u", program.display()))
        .await;
    assert_ne!(run["stdout"], "0\n", "{run}");
    assert_eq!(run["code"], 0, "{run}");
}

/// Row 47: system calls of other kinds than the machine's own.
#[cfg(target_arch = "x86_64")]
async fn calls_of_the_32_bit_kind_are_refused() {
    let program = "#include <stdio.h>
int main(void) {
    int pid = 20;
    __asm__ volatile(\"int $0x80\" : \"+a\"(pid));
    if (pid > 0) puts(\"done\");
    return 0;
}
";
    let served = serve(small()).await;
    let run = served.run("c", program).await;
    assert_eq!(run["code"], 128 + libc::SIGSYS, "{run}");
    let open = serve(EngineConfig {
        without: vec![Seccomp],
        ..small()
    })
    .await;
    let run = open.run("c", program).await;
    assert!(run["stdout"] == "done\n" || run["code"] == 139, "{run}");
}

/// Row 11, where jobs may use the network: C libraries ask for addresses and interfaces over netlink, and
/// nothing else may.
async fn netlink_is_for_addresses_and_routes_alone() {
    let sockets = "import errno, socket
opened = []
for protocol in range(32):
    for kind in socket.SOCK_RAW, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC:
        try: opened.append(socket.socket(socket.AF_NETLINK, kind, protocol).proto)
        except OSError as error: assert error.errno == errno.EPERM or not REFUSED, (protocol, error)
print(opened)
";
    let names = "import socket
assert socket.if_nameindex()
assert socket.getaddrinfo('localhost', 80, flags=socket.AI_ADDRCONFIG)
print('done')
";
    let config = EngineConfig {
        allow_network: true,
        ..small()
    };
    let served = serve(config.clone()).await;
    let run = served
        .run("python", &sockets.replace("REFUSED", "True"))
        .await;
    assert_eq!(run["stdout"], "[0, 0]\n", "{run}");
    let run = served.run("python", names).await;
    assert_eq!(run["stdout"], "done\n", "{run}");

    let open = serve(EngineConfig {
        without: vec![Seccomp],
        ..config
    })
    .await;
    let run = open
        .run("python", &sockets.replace("REFUSED", "False"))
        .await;
    let opened = run["stdout"].as_str().unwrap();
    assert!(opened.len() > "[0, 0]\n".len(), "{run}");
}

/// Row 48: nothing that the engine holds open reaches a job.
async fn a_job_has_three_descriptors() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let served = serve(small()).await;
    let program = "import os\nprint(sorted(os.listdir('/proc/self/fd')))";
    let run = served.run("python", program).await;
    // The fourth is the listing itself.
    assert_eq!(run["stdout"], "['0', '1', '2', '3']\n", "{run}");
    let plain = bounded_command("python3")
        .args(["-c", program])
        .output()
        .unwrap();
    assert!(String::from_utf8(plain.stdout).unwrap().len() > "['0', '1', '2', '3']\n".len());
    drop((read, write));
}

/// A program that can kill its keeper, as it can where it has no user of its own, ends itself: its
/// processes and its directory go, and the next job finds the engine well.
async fn what_a_killed_keeper_leaves_is_cleaned_up() {
    let served = serve(EngineConfig {
        without: vec![Namespaces, OwnUsers, Landlock],
        max_jobs: 1,
        ..small()
    })
    .await;
    let program = "import os, signal, time
parent = open(f'/proc/{os.getppid()}/stat').read().rsplit(')', 1)[1].split()[1]
if os.fork() == 0:
    os.setsid()
    with open('FILE.new', 'w') as f: f.write(str(os.getpid()))
    os.rename('FILE.new', 'FILE')
    time.sleep(600)
while not os.path.exists('FILE'): time.sleep(0.01)
os.kill(int(parent), signal.SIGKILL)
time.sleep(600)
";
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let file = place.path().join("pid");
    // More often than there are slots.
    for _ in 0..8 {
        let _ = std::fs::remove_file(&file);
        let body = json!({
            "language": "python", "version": "*",
            "files": [{"content": program.replace("FILE", file.to_str().unwrap())}],
        });
        assert_eq!(served.execute(&body).await.status, 500);
        served.settled().await;
        let pid: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let process = Path::new("/proc").join(pid.to_string());
        eventually("the process is gone", async || !process.exists()).await;
    }
    assert_eq!(served.run("python", "print(1)").await["stdout"], "1\n");
}

/// What a client that hangs up leaves is gone: the program, and its directory.
async fn a_client_that_hangs_up_ends_its_job() {
    let served = serve(small()).await;
    served.engine.runtimes().await;
    let body = json!({
        "language": "python", "version": "*",
        "files": [{"content": "import time\ntime.sleep(600)"}],
    });
    let json = [("Content-Type", "application/json")];
    let body = body.to_string();
    let stream = served
        .begin("POST", "/api/v2/execute", &json, body.as_bytes())
        .await;
    eventually("the job runs", async || {
        served.number("/jobs/running").await > 0
    })
    .await;
    drop(stream);
    served.settled().await;
    assert_eq!(served.run("python", "print(1)").await["stdout"], "1\n");
}

/// The end of the engine is the end of its jobs.
async fn dropping_the_engine_ends_its_jobs() {
    let place = open_folder();
    let served = serve(EngineConfig {
        work_dir: Some(place.path().to_owned()),
        ..small()
    })
    .await;
    served.engine.runtimes().await;
    let work = served.engine.work_dir().to_path_buf();
    let body = json!({
        "language": "python", "version": "*",
        "files": [{"content": "import time\ntime.sleep(600)"}],
    });
    let json = [("Content-Type", "application/json")];
    let body = body.to_string();
    let mut stream = served
        .begin("POST", "/api/v2/execute", &json, body.as_bytes())
        .await;
    eventually("the job runs", async || {
        served.number("/jobs/running").await > 0
    })
    .await;
    served.engine.kill_all();
    let mut response = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut response);
    let read = timeout(PATIENCE, reading).await;
    read.expect("a response in time").unwrap();
    assert!(
        String::from_utf8(response)
            .unwrap()
            .contains(r#""signal":"SIGKILL""#)
    );
    drop(served);
    eventually("the jobs' folder is gone", async || !work.exists()).await;
}

async fn the_report_says_what_is_on() {
    let served = serve(small()).await;
    served.engine.runtimes().await;
    let about: Value = served.send("GET", "/", &[], b"").await.json();
    assert_eq!(about["sandbox"]["seccomp"], true, "{about}");
    assert_eq!(about["sandbox"]["network"], false, "{about}");
    let weak = EngineConfig {
        without: vec![Seccomp],
        allow_weak_sandbox: false,
        ..small()
    };
    let error = session_adapter::engine::Engine::start(weak).unwrap_err();
    assert!(error.to_string().contains("seccomp"), "{error}");
}

/// Root that may not change users cannot contain anything, and the engine says so.
async fn root_without_its_rights_is_refused() {
    let weak = EngineConfig {
        without: vec![OwnUsers],
        allow_weak_sandbox: false,
        ..small()
    };
    let error = session_adapter::engine::Engine::start(weak).unwrap_err();
    let expected = "users of their own for jobs";
    assert!(error.to_string().contains(expected), "{error}");
}

pub fn tests() -> Tests {
    tests![
        Nothing => [
            attacks_are_stopped_and_succeed_without_the_layers_that_stop_them,
            what_is_said_to_be_open_is_open,
            in_namespaces_a_job_sees_its_own_processes_alone,
            memory_is_limited_however_it_is_used,
            files_are_limited_in_number_size_and_depth,
            no_process_outlives_its_job,
            a_program_that_ignores_signals_or_stops_is_ended,
            cpu_time_is_that_of_all_processes,
            calls_of_the_32_bit_kind_are_refused,
            netlink_is_for_addresses_and_routes_alone,
            a_job_has_three_descriptors,
            what_a_killed_keeper_leaves_is_cleaned_up,
            a_client_that_hangs_up_ends_its_job,
            dropping_the_engine_ends_its_jobs,
            the_report_says_what_is_on,
        ],
        OwnUsers => [
            jobs_do_not_reach_each_other,
            shared_folders_are_swept_after_a_job,
            what_is_left_in_the_data_directory_is_handed_over,
            setuid_programs_gain_nothing,
        ],
        Root => [
            root_without_its_rights_is_refused,
        ],
    ]
}
