//! Given an engine that an ordinary user has started, when a job tries to reach what belongs to that user, then
//! it fails, with namespaces or with Landlock and seccomp alone, except for what SECURITY.md lists; and it
//! succeeds once these layers are left out.
//!
//! The engine runs in a process of its own, which gives up root first if the tests are run by root.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use session_adapter::engine::sandbox::Layer::{self, Landlock, Namespaces, Seccomp};
use session_adapter::engine::{EngineConfig, KernelSettings};

use crate::support::command::{PATH, command, installed};
use crate::support::conditional::{Tests, tests};
use crate::support::engine::{Client, config, serve};
use crate::support::eventually::eventually;
use crate::support::folder::{open_folder, subfolder};

/// What makes this program the process of an engine, before its settings.
const AS_AN_ORDINARY_USER: &str = "--engine-of-an-ordinary-user";
/// A uid without an account, which no engine gives to a job.
const USER: u32 = 60_321;
/// What no job may find.
const SECRET: &str = "secret-of-the-user";

/// Name and program: it prints `done` when it has got what it should not.
type Attack = (&'static str, &'static str);

const ATTACKS: &[Attack] = &[
    ("list the user's files", "print('done' if 'notes' in os.listdir('HOME/temp') else 'no')"),
    ("read a terminal", "open('TERMINAL'); print('done')"),
    ("write to a terminal", "os.write(os.open('TERMINAL', os.O_WRONLY | os.O_NOCTTY), b'x'); print('done')"),
    ("read the user's file in /tmp", "print('done' if 'SECRET' in open('/tmp/FILE').read() else 'no')"),
    ("read the user's file in /var/tmp", "print('done' if 'SECRET' in open('/var/tmp/FILE').read() else 'no')"),
    ("read the user's file in /dev/shm", "print('done' if 'SECRET' in open('/dev/shm/FILE').read() else 'no')"),
    ("change the user's file in /tmp", "open('/tmp/FILE', 'r+').write('x'); print('done')"),
    ("change the user's file in /dev/shm", "open('/dev/shm/FILE', 'r+').write('x'); print('done')"),
    ("rename the user's file in /var/tmp", "os.rename('/var/tmp/FILE', '/var/tmp/FILE-'); print('done')"),
    ("delete the user's file in /tmp", "os.remove('/tmp/FILE'); print('done')"),
    ("delete the user's file in /dev/shm", "os.remove('/dev/shm/FILE'); print('done')"),
    ("read another job's files", "
import glob
print('done' if any('SECRET' in open(name).read() for name in glob.glob('WORK/*/box/main.py')) else 'no')"),
    ("change another job's files", "
import glob
print('done' if [open(name, 'a') for name in glob.glob('WORK/*/box/main.py')] else 'no')"),
    ("read beside a program in ~/.local/bin", "open('HOME/.local/share/keyrings/login.keyring'); print('done')"),
    ("read another program in ~/.local/bin", "open('HOME/.local/bin/other'); print('done')"),
    ("read beside a program in ~/.cargo/bin", "open('HOME/.cargo/credentials.toml'); print('done')"),
    ("read a key", "open('HOME/.ssh/id_ed25519'); print('done')"),
    ("find the secret anywhere", "
def names(folder):
    try: return os.listdir(folder)
    except OSError: return []
def found(folder):
    for name in names(folder):
        path = os.path.join(folder, name)
        if path in ('/proc', '/sys', '/usr', os.getcwd()): continue
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                if found(path): return True
            elif os.path.isfile(path) and os.path.getsize(path) < 10000:
                if 'SECRET' in open(path, errors='replace').read(): return True
        except OSError: pass
print('done' if any(map(found, ['/etc', '/home', '/root', '/tmp', '/var', '/mnt', '/run', '/srv', 'HOME'])) else 'no')"),
    (
        "change the attributes of the user's file",
        "os.setxattr('HOME/.ssh/id_ed25519', 'user.x', b'x'); print('done')",
    ),
    ("fill /tmp", "fill('/tmp')"),
    ("fill /var/tmp", "fill('/var/tmp')"),
    ("fill /dev/shm", "fill('/dev/shm')"),
];

/// What Landlock does not stop, and seccomp cannot.
const OPEN_WITHOUT_NAMESPACES: &[Attack] = &[
    (
        "change the mode of the user's file",
        "os.chmod('HOME/.ssh/id_ed25519', 0o644); print('done')",
    ),
    (
        "change the times of the user's file",
        "os.utime('HOME/.ssh/id_ed25519'); print('done')",
    ),
];

/// What every attack begins with. The secret is put together, or the program would find itself.
const PRELUDE: &str = "import os
def fill(folder):
    with open(folder + '/FILE' + folder.replace('/', '-'), 'wb') as file:
        for n in range(12): file.write(b'x' * 1_000_000)
    print('done')
";

/// The settings of an engine in a process of its own.
#[derive(Serialize, Deserialize)]
struct Settings {
    program: PathBuf,
    folder: PathBuf,
    without: Vec<Layer>,
    /// Whether it starts with a capability, and passes it on.
    has_capability: bool,
}

/// An engine that an ordinary user has started; it ends when this is dropped.
struct OrdinaryEngine {
    client: Client,
    work: PathBuf,
    report: Value,
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Drop for OrdinaryEngine {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.process.wait();
    }
}

impl OrdinaryEngine {
    async fn start(user: &User, without: &[Layer]) -> Self {
        Self::start_with(user, without, false).await
    }

    async fn start_with(user: &User, without: &[Layer], has_capability: bool) -> Self {
        let settings = Settings {
            program: user.program.clone(),
            folder: user.home.clone(),
            without: without.to_vec(),
            has_capability,
        };
        let path = format!("{0}/.local/bin:{0}/.cargo/bin:{PATH}", user.home.display());
        let mut process = command(std::env::current_exe().unwrap())
            .arg(AS_AN_ORDINARY_USER)
            .arg(serde_json::to_string(&settings).unwrap())
            .env("PATH", path)
            .env("TMPDIR", user.temp())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (port, work) = line
            .trim()
            .split_once(' ')
            .expect("an engine that has started");
        let client = Client {
            address: ([127, 0, 0, 1], port.parse().unwrap()).into(),
        };
        let about = client.send("GET", "/", &[], b"").await.json();
        Self {
            client,
            work: PathBuf::from(work),
            report: about["sandbox"].clone(),
            process,
            stdin: Some(stdin),
        }
    }

    fn has_namespaces(&self) -> bool {
        self.report["namespaces"] == true
    }
}

/// Whether this process is such an engine's: then it has done its part.
pub fn is_process_of_its_own() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, first, settings] = arguments.as_slice() else {
        return false;
    };
    if first != AS_AN_ORDINARY_USER {
        return false;
    }
    let settings: Settings = serde_json::from_str(settings).unwrap();
    become_ordinary(settings.has_capability);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(serve_until_end_of_input(settings));
    true
}

/// Gives up root, if this process has it. There is no other thread yet.
fn become_ordinary(keeps_capability: bool) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let capability = CapabilitySet::MKNOD;
    set_keep_capabilities(keeps_capability).unwrap();
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
    if keeps_capability {
        let mut sets = capabilities(None).unwrap();
        sets.effective = capability;
        sets.permitted = capability;
        sets.inheritable = capability;
        set_capabilities(None, sets).unwrap();
        configure_capability_in_ambient_set(capability, true).unwrap();
    }
}

async fn serve_until_end_of_input(settings: Settings) {
    let served = serve(EngineConfig {
        program: settings.program,
        work_dir: Some(settings.folder),
        without: settings.without,
        allow_weak_sandbox: true,
        max_jobs: 2,
        max_job_bytes: 4 << 20,
        memory_limit: 256 << 20,
        kernels: KernelSettings {
            max_kernels: 2,
            ..KernelSettings::default()
        },
        ..config()
    })
    .await;
    let work = served.engine.work_dir().display().to_string();
    println!("{} {work}", served.address.port());
    std::io::stdout().flush().unwrap();
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    end.await.unwrap().unwrap();
    served.engine.kill_all();
    drop(served);
    let work = Path::new(&work);
    eventually("the jobs' folder is gone", async || !work.exists()).await;
}

/// What belongs to the user; all of it goes when this does.
struct User {
    _folder: tempfile::TempDir,
    home: PathBuf,
    program: PathBuf,
    /// The name of files in shared folders.
    file: String,
    terminal: PathBuf,
    _terminal: std::os::fd::OwnedFd,
}

impl Drop for User {
    fn drop(&mut self) {
        for path in self.shared_files() {
            let large = format!(
                "{}{}",
                path.display(),
                path.parent()
                    .unwrap()
                    .display()
                    .to_string()
                    .replace('/', "-")
            );
            let renamed = format!("{}-", path.display());
            for path in [path, large.into(), renamed.into()] {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl User {
    fn new(name: &str) -> Self {
        let folder = open_folder();
        let home = subfolder(folder.path(), "home");
        let program = folder.path().join("session-adapter");
        std::fs::copy(env!("CARGO_BIN_EXE_session-adapter"), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        for name in [
            ".local/bin",
            ".local/share/keyrings",
            ".cargo/bin",
            ".ssh",
            "temp",
        ] {
            std::fs::create_dir_all(home.join(name)).unwrap();
        }
        let python = std::fs::canonicalize(installed("python3").unwrap()).unwrap();
        symlink(&python, home.join(".local/bin/python3")).unwrap();
        std::fs::copy(installed("bash").unwrap(), home.join(".cargo/bin/bash")).unwrap();
        let terminal =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
                .unwrap();
        rustix::pty::unlockpt(&terminal).unwrap();
        let path = rustix::pty::ptsname(&terminal, Vec::new()).unwrap();
        let path = PathBuf::from(path.to_str().unwrap());
        let this = Self {
            file: format!("session-adapter-test-{}-{name}", std::process::id()),
            terminal: path,
            _terminal: terminal,
            home,
            program,
            _folder: folder,
        };
        this.write_secrets();
        if rustix::process::geteuid().is_root() {
            give_to_user(&this.home);
            for path in this.shared_files() {
                chown(path, Some(USER), Some(USER)).unwrap();
            }
            chown(&this.terminal, Some(USER), Some(USER)).unwrap();
        }
        this
    }

    fn write_secrets(&self) {
        let names = [
            ".local/bin/other",
            ".local/share/keyrings/login.keyring",
            ".cargo/credentials.toml",
            ".ssh/id_ed25519",
            "temp/notes",
        ];
        let own = names.iter().map(|name| self.home.join(name));
        for path in own.chain(self.shared_files()) {
            std::fs::write(&path, SECRET).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        }
    }

    fn temp(&self) -> PathBuf {
        self.home.join("temp")
    }

    fn shared_files(&self) -> [PathBuf; 3] {
        ["/tmp", "/var/tmp", "/dev/shm"].map(|folder| Path::new(folder).join(&self.file))
    }

    /// An attack with the names of what it aims at.
    fn fill_in(&self, program: &str, engine: &OrdinaryEngine) -> String {
        let (start, end) = SECRET.split_at(5);
        format!("{PRELUDE}{program}")
            .replace("'SECRET'", &format!("'{start}' + '{end}'"))
            .replace("FILE", &self.file)
            .replace("HOME", self.home.to_str().unwrap())
            .replace("TERMINAL", self.terminal.to_str().unwrap())
            .replace("WORK", engine.work.to_str().unwrap())
    }
}

fn give_to_user(folder: &Path) {
    chown(folder, Some(USER), Some(USER)).unwrap();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            give_to_user(&entry.path());
        } else if kind.is_file() {
            chown(entry.path(), Some(USER), Some(USER)).unwrap();
        }
    }
}

/// Starts a job that has the secret in its folder and goes on.
async fn start_other_job(engine: &OrdinaryEngine) -> tokio::net::TcpStream {
    let code = format!("# {SECRET}\nimport time\ntime.sleep(600)\n");
    let body = json!({
        "language": "python", "version": "*", "files": [{"name": "main.py", "content": code}],
    });
    let json = [("Content-Type", "application/json")];
    let stream = engine
        .client
        .begin(
            "POST",
            "/api/v2/execute",
            &json,
            body.to_string().as_bytes(),
        )
        .await;
    eventually("the other job runs", async || {
        engine.client.number("/jobs/running").await == 1
    })
    .await;
    stream
}

/// Whether the attack got what it should not, and how it ended.
async fn attack(
    user: &User,
    engine: &OrdinaryEngine,
    program: &str,
    is_cell: bool,
) -> (bool, Value) {
    user.write_secrets();
    let program = user.fill_in(program, engine);
    let run = match is_cell {
        true => engine.client.run_cell("attacks", &program).await,
        false => engine.client.run("python", &program).await,
    };
    let stderr = run["stderr"].as_str().unwrap_or_default();
    assert!(
        !stderr.contains("SyntaxError") && !stderr.contains("NameError"),
        "{run}"
    );
    (
        run["stdout"] == "done\n" && run["outcome"] == "success",
        run,
    )
}

async fn a_job_cannot_reach_what_belongs_to_its_user() {
    let user = User::new("a");
    let mut problems = Vec::new();
    for without in [vec![], vec![Namespaces]] {
        let engine = OrdinaryEngine::start(&user, &without).await;
        assert_eq!(engine.report["own_users"], false, "{}", engine.report);
        let _other = start_other_job(&engine).await;
        let attacks = ATTACKS.iter();
        let stronger = OPEN_WITHOUT_NAMESPACES
            .iter()
            .filter(|_| engine.has_namespaces());
        for (name, program) in attacks.chain(stronger) {
            for is_cell in [false, true] {
                let (has_succeeded, run) = attack(&user, &engine, program, is_cell).await;
                if has_succeeded {
                    problems.push(format!(
                        "{name}, without {without:?}, cell {is_cell}: {run}"
                    ));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Shows that the attacks work, or the test above would prove nothing.
async fn a_job_reaches_what_belongs_to_its_user_without_the_layers_that_stop_it() {
    let user = User::new("b");
    let engine = OrdinaryEngine::start(&user, &[Namespaces, Landlock, Seccomp]).await;
    let _other = start_other_job(&engine).await;
    for (name, program) in ATTACKS.iter().chain(OPEN_WITHOUT_NAMESPACES) {
        let (has_succeeded, run) = attack(&user, &engine, program, false).await;
        assert!(has_succeeded, "{name}: {run}");
    }
}

/// A capability that the engine was started with is none of a job's.
async fn a_job_has_none_of_its_engines_capabilities() {
    let user = User::new("c");
    let program = "import os, stat
print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')][:3])
os.mknod('device', 0o600 | stat.S_IFCHR, os.makedev(1, 3))
print('done')
";
    for without in [vec![], vec![Namespaces]] {
        let engine = OrdinaryEngine::start_with(&user, &without, true).await;
        for run in [
            engine.client.run("python", program).await,
            engine.client.run_cell("capabilities", program).await,
        ] {
            let none = "0".repeat(16);
            let stdout = format!("['{none}', '{none}', '{none}']\n");
            assert_eq!(run["stdout"], stdout, "{run}");
            assert!(
                run["stderr"].as_str().unwrap().contains("PermissionError"),
                "{run}"
            );
        }
    }
}

async fn renaming_the_jobs_folder_stops_no_other_job() {
    let user = User::new("d");
    let program = "
for path in ('WORK', os.path.dirname('WORK'), os.path.dirname(os.getcwd()), '/jobs'):
    try: os.rename(path, path + '-gone')
    except OSError as error: print(type(error).__name__)
    else: print('renamed', path)
";
    for without in [vec![], vec![Namespaces]] {
        let engine = OrdinaryEngine::start(&user, &without).await;
        let (_, run) = attack(&user, &engine, program, false).await;
        // In namespaces a job may rename folders of its own root only.
        let has_renamed = run["stdout"].as_str().unwrap().contains("renamed");
        assert!(engine.has_namespaces() || !has_renamed, "{run}");
        assert!(engine.work.exists());
        let run = engine.client.run("python", "print(42)").await;
        assert_eq!(run["stdout"], "42\n", "{run}");
    }
}

async fn a_folder_that_is_closed_to_its_owner_hides_nothing() {
    let user = User::new("f");
    let program = "import os
os.mkdir('closed', 0o300)
for n in range(12): open(f'closed/{n}', 'wb').write(bytes(1_000_000))
print('done')
";
    for without in [vec![], vec![Namespaces]] {
        let engine = OrdinaryEngine::start(&user, &without).await;
        let run = engine.client.run("python", program).await;
        assert_eq!(run["outcome"], "disk_limit", "{without:?}: {run}");
        let harmless = "import os\nos.mkdir('closed', 0o300)\nopen('closed/x', 'w')\nprint('done')";
        let run = engine.client.run("python", harmless).await;
        // Without namespaces nobody can look.
        let expected = if engine.has_namespaces() {
            "success"
        } else {
            "disk_limit"
        };
        assert_eq!(run["outcome"], expected, "{without:?}: {run}");
    }
}

async fn in_namespaces_a_job_has_what_programs_expect() {
    let user = User::new("e");
    let engine = OrdinaryEngine::start(&user, &[]).await;
    if !engine.has_namespaces() {
        eprintln!("SKIPPED: {}", engine.report["no_namespaces"]);
        return;
    }
    let program = r#"import multiprocessing, os, pty, socket, threading, urllib.request
from http.server import HTTPServer, SimpleHTTPRequestHandler
def fails(act, *args):
    try: act(*args)
    except OSError as error: return type(error).__name__
    return 'works'
class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
server = HTTPServer(('localhost', 8000), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen('http://localhost:8000/').status)
print(multiprocessing.Pool(2).map(abs, [-1, 2]))
open('/tmp/a', 'w').write('a'); open('/mnt/data/b', 'w').write('b'); open('/dev/shm/c', 'w')
print(open('/tmp/a').read(), open('b').read(), os.listdir(os.environ['HOME']))
print(sorted(os.listdir('/dev')))
print(open('/dev/null').read() == '', len(open('/dev/urandom', 'rb').read(4)), fails(open, '/dev/tty'))
print(len(pty.openpty()), os.listdir('/dev/pts'))
print([name for name in os.listdir('/proc') if name.isdigit()][:1], os.cpu_count() > 0)
print([fails(open, path, 'w') for path in ('/usr/x', '/etc/x', '/x', '/dev/x', '/var/x', '/jobs/x')])
print(fails(socket.create_connection, ('192.0.2.1', 80), 5))
"#;
    let body = json!({
        "language": "python", "version": "*", "files": [{"content": program}], "working_directory": "data",
    });
    let run = engine.client.execute(&body).await.json()["run"].take();
    let expected = "200
[1, 2]
a b []
['fd', 'full', 'null', 'ptmx', 'pts', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'urandom', 'zero']
True 4 FileNotFoundError
2 ['0', 'ptmx']
['1'] True
['OSError', 'OSError', 'OSError', 'OSError', 'OSError', 'OSError']
OSError
";
    assert_eq!(run["stdout"], expected, "{run}");
}

pub fn tests() -> Tests {
    tests![
        Nothing => [
            a_job_cannot_reach_what_belongs_to_its_user,
            a_job_reaches_what_belongs_to_its_user_without_the_layers_that_stop_it,
            renaming_the_jobs_folder_stops_no_other_job,
            a_folder_that_is_closed_to_its_owner_hides_nothing,
            in_namespaces_a_job_has_what_programs_expect,
        ],
        OwnUsers => [a_job_has_none_of_its_engines_capabilities],
    ]
}
