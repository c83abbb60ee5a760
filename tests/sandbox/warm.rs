//! Given interpreters that were started ahead of their jobs, when a job gets one, then it finds what
//! it would find in a fresh one, and its bounds are its own; and when there is none, or another is
//! needed, then the job runs all the same.
use std::collections::HashSet;
use std::time::Duration;

use crate::support::conditional::{Tests, tests};
use crate::support::engine::{Served, config, serve};
use crate::support::eventually::{PATIENCE, eventually};
use crate::support::folder::{open_folder, subfolder};
use crate::support::processes::{is_running, parent_of};
use crate::support::{Program, run_python};
use serde_json::{Value, json};
use session_adapter::engine::EngineConfig;
use session_adapter::engine::sandbox::Layer;
use tokio::time::timeout;

async fn serve_warm(warm: usize) -> Served {
    serve(EngineConfig { warm, ..config() }).await
}

fn request(language: &str, name: &str, code: &str) -> Value {
    json!({
        "language": language, "version": "*", "working_directory": "data",
        "files": [{"name": name, "content": code}],
    })
}

async fn run(served: &Served, request: &Value) -> Value {
    let response = served.execute(request).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["run"].take()
}

/// Runs a request in an interpreter that was started ahead, as the engine says itself.
async fn run_ahead(served: &Served, request: &Value) -> Value {
    let mut done = Value::Null;
    // It may not be a habit yet, or the pool not full.
    eventually(
        "an interpreter that was started ahead is used",
        async || {
            let used = served.number("/warm/used").await;
            done = run(served, request).await;
            served.number("/warm/used").await > used
        },
    )
    .await;
    done
}

/// Prints all that a program can see of its interpreter and its surroundings, but for what differs
/// between any two of them.
const SURROUNDINGS: &str = r#"
here = sorted(globals())
import sys
modules = sorted(sys.modules)
import os, resource, signal, site, threading
hooks = [getattr(hook, '__name__', type(hook).__name__) for hook in sys.meta_path]
print(here, __name__, __doc__, __package__, __spec__, __loader__.__class__, __builtins__)
print(modules)
print(sys.argv, sys.orig_argv, sys.executable, sys.flags, sys.path[1:], hooks)
print(sorted(os.path.basename(p) for p in sys.path_importer_cache))
print(os.path.basename(__file__), os.path.basename(sys.path[0]), os.path.dirname(__file__) == sys.path[0])
print(open('/proc/self/cmdline').read().split('\0')[0])
box = os.path.dirname(os.path.realpath(__file__))
home = os.path.join(os.path.dirname(box), 'tmp')
print({k: v.replace(home, 'HOME') for k, v in sorted(os.environ.items())})
print(open('/proc/self/environ').read().replace(home, 'HOME'))
print(os.listdir(home), os.listdir(box), os.listdir('.'), os.getcwd() == os.environ['PWD'])
print([os.stat(p).st_mode for p in (__file__, home, box)], oct(os.umask(0)))
for s in (sys.stdin, sys.stdout, sys.stderr):
    print(s, s.isatty(), s.line_buffering, s.fileno(), s.buffer.__class__, oct(os.fstat(s.fileno()).st_mode))
print(sorted(os.listdir('/proc/self/fd')))
print({n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT') and n != 'RLIMIT_NPROC'})
print({s: signal.getsignal(s) for s in signal.valid_signals() if s not in (32, 33)})
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(sys.getrecursionlimit(), threading.active_count(), threading.stack_size(), sys.getswitchinterval())
print(os.getpgid(0) == os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0), site.ENABLE_USER_SITE)
print([l for l in open('/proc/self/status') if l.split(':')[0] in ('Name', 'NoNewPrivs', 'Seccomp', 'Threads', 'CapEff', 'SigIgn', 'SigCgt', 'Umask')])
print(open('/proc/self/oom_score_adj').read(), repr(sys.stdin.read()))
import inspect
def f(): pass
print(inspect.getsource(f))
"#;

async fn a_program_finds_what_it_would_find_in_a_fresh_interpreter() {
    let (cold, warm) = (serve_warm(0).await, serve_warm(1).await);
    for name in ["main.py", "-x y.py", "file0.code"] {
        for place in [json!("data"), Value::Null] {
            let mut asked = request("python", name, SURROUNDINGS);
            asked["working_directory"] = place;
            asked["stdin"] = json!("some\nlines");
            let mut fresh = run(&cold, &asked).await;
            let mut waited = run_ahead(&warm, &asked).await;
            assert_eq!(fresh["code"], 0, "{fresh}");
            for (served, run) in [(&cold, &mut fresh), (&warm, &mut waited)] {
                // What differs between any two engines.
                let text = run["stdout"].as_str().unwrap();
                let text = text.replace(served.engine.data_dir().to_str().unwrap(), "DATA");
                let text: String = text
                    .split(&served.jobs_dir())
                    .map(|part| {
                        part.get(17..)
                            .filter(|_| part.starts_with('/'))
                            .unwrap_or(part)
                    })
                    .collect();
                run["stdout"] = text.into();
            }
            assert_eq!(fresh["stdout"], waited["stdout"]);
            assert_eq!(fresh["stderr"], waited["stderr"]);
        }
    }
}

async fn errors_and_ends_are_those_of_a_fresh_interpreter() {
    let (cold, warm) = (serve_warm(0).await, serve_warm(1).await);
    for code in [
        "",
        "x = 1\r\nx.y\r\n",
        "print('a'",
        "\u{feff}print('a\u{e9}')",
        "def f():\n  return g(1,\n    2)\nf()",
        "print('x' * 100000)",
        "import sys; sys.exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "raise KeyboardInterrupt",
        "def f(): f()\nf()",
        "import warnings; warnings.warn('w')\nassert 1 == 2, 'no'",
        "# coding: latin-1\nprint('\u{e9}')",
        "#!/usr/bin/python3\n# -*- coding: utf-8 -*-\nprint('\u{e9}')",
        "# coding: nonsense\nprint(1)",
        "print(1)\n# a line with a NUL \0 in it",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), 1 / 0)).start()",
        "if __name__ == '__main__':\n    import multiprocessing as m\n    m.set_start_method('spawn')\n    p = m.Process(target=print, args=('child',)); p.start(); p.join(); print(p.exitcode)",
        "import runpy, pdb, traceback\ntry: 1 / 0\nexcept Exception: traceback.print_exc()",
    ] {
        let asked = request("python", "main.py", code);
        let fresh = run(&cold, &asked).await;
        let waited = match code.starts_with("# coding") || code.contains("-*- coding") {
            true => run(&warm, &asked).await,
            false => run_ahead(&warm, &asked).await,
        };
        for field in ["stdout", "stderr", "code", "signal", "status", "message"] {
            let (fresh, waited) = (&fresh[field], &waited[field]);
            // A thread's name has its number, and the engine's folder differs.
            assert_eq!(fresh, waited, "{code:?}");
        }
    }
}

async fn node_finds_what_it_would_find_in_a_fresh_one() {
    let (cold, warm) = (serve_warm(0).await, serve_warm(1).await);
    let surroundings = r#"
const path = require('path'), fs = require('fs');
console.log(process.argv.map(p => path.basename(p)), process.execArgv, process.title);
console.log(require.main === module, module.children, Object.keys(require.cache).length, module.paths.length);
console.log(path.basename(__filename), path.basename(__dirname), process.cwd() === process.env.PWD);
console.log(Object.keys(process.env).sort(), fs.readdirSync('/proc/self/fd').length);
console.log(Object.getOwnPropertyNames(globalThis).sort().join(), process.stdout.isTTY);
console.log(fs.readFileSync(0).toString(), fs.readFileSync(__filename).length);
process.on('exit', () => console.log('exit', process.exitCode));
null.x;
"#;
    let esm =
        "import fs from 'fs';\nconsole.log(import.meta.url.length > 0, await 5, typeof require);";
    for (name, code) in [
        ("main.js", surroundings),
        (
            "main.js",
            "setTimeout(() => { throw new Error('late'); }, 10)",
        ),
        ("main.js", "syntax error"),
        ("main.mjs", esm),
    ] {
        let mut asked = request("javascript", name, code);
        asked["stdin"] = json!("some\nlines");
        let (fresh, waited) = (run(&cold, &asked).await, run_ahead(&warm, &asked).await);
        for field in ["stdout", "stderr", "code", "signal", "status"] {
            assert_eq!(fresh[field], waited[field], "{code}");
        }
    }
}

async fn each_job_has_an_interpreter_of_its_own() {
    let served = serve_warm(2).await;
    let code = "
import os, random, sys, uuid
print(hash('x'), id(sys), random.random(), uuid.uuid4())
print('left' in globals(), os.path.exists(os.environ['HOME'] + '/left'))
left = 1
open(os.environ['HOME'] + '/left', 'w')
";
    let asked = request("python", "main.py", code);
    let mut seen = HashSet::new();
    for _ in 0..8 {
        let told = run_ahead(&served, &asked).await["stdout"].take();
        let (first, second) = told.as_str().unwrap().split_once('\n').unwrap();
        for word in first.split(' ') {
            assert!(seen.insert(word.to_owned()), "{word} came twice");
        }
        assert_eq!(second, "False False\n");
    }
}

async fn bounds_count_from_the_jobs_own_start() {
    let served = serve(EngineConfig {
        warm: 1,
        run_timeout: Duration::from_secs(10),
        memory_limit: 256 << 20,
        ..config()
    })
    .await;
    served.until_warm(1).await;
    // The interpreter is older than the request by all of this.
    let age = 2000.0;
    let sleep = format!("sleep {}", age / 1000.0);
    run(&served, &request("bash", "main.sh", &sleep)).await;
    let asked = request(
        "python",
        "main.py",
        "import time; print(time.process_time() * 1000)",
    );
    let done = run_ahead(&served, &asked).await;
    assert!(done["wall_time"].as_f64().unwrap() < age, "{done}");
    // The interpreter counts its start, the job does not.
    let counted: f64 = done["stdout"].as_str().unwrap().trim().parse().unwrap();
    assert!(done["cpu_time"].as_f64().unwrap() < counted, "{done}");

    // Lower bounds than those with which the interpreter was started.
    for (field, value, code, word) in [
        ("run_timeout", json!(300), "while True: pass", json!("TO")),
        ("run_cpu_time", json!(300), "while True: pass", json!("TO")),
        (
            "run_memory_limit",
            json!(64 << 20),
            "x = bytearray(100 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(5)",
            json!("RE"),
        ),
        (
            "run_memory_limit",
            json!(64 << 20),
            "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[1] == 320 << 20)",
            Value::Null,
        ),
    ] {
        let mut asked = request("python", "main.py", code);
        asked[field] = value;
        let ended = run_ahead(&served, &asked).await;
        assert_eq!(ended["status"], word, "{field}: {ended}");
        if word.is_null() {
            assert_eq!(ended["stdout"], "True\n");
        }
    }
}

async fn other_files_come_along() {
    let served = serve_warm(1).await;
    let asked = json!({
        "language": "python", "version": "*", "working_directory": "data",
        "files": [
            {"name": "main.py", "content": "import helper, sub.other"},
            {"name": "helper.py", "content": "print(42)"},
            {"name": "sub/other.py", "content": "print(43)"},
        ],
    });
    assert_eq!(run_ahead(&served, &asked).await["stdout"], "42\n43\n");
}

async fn what_no_interpreter_waits_for_runs_all_the_same() {
    let served = serve_warm(1).await;
    served.until_warm(1).await;
    let long = format!("print(42)\n#{}", "x".repeat(200_000));
    for asked in [
        request("python", "other.py", "print(42)"),
        request("python", "main.py", &long),
        json!({"language": "python", "version": "*", "args": ["x"], "working_directory": "data",
            "files": [{"name": "main.py", "content": "import sys; print(40 + len(sys.argv))"}]}),
        json!({"language": "python", "version": "*", "working_directory": "data",
            "files": [{"name": "main.py", "content": "import helper"}, {"name": "helper.py", "content": "print(42)"}]}),
        json!({"language": "python", "version": "*", "files": [{"name": "main.py", "content": "print(42)"}]}),
        request("bash", "main.sh", "echo 42"),
    ] {
        assert_eq!(run(&served, &asked).await["stdout"], "42\n");
    }
    // More at once than wait.
    let asked = request("python", "main.py", "print(42)");
    let answers = futures(8, &served, &asked).await;
    assert!(answers.iter().all(|run| run["stdout"] == "42\n"));
}

async fn futures(count: usize, served: &Served, asked: &Value) -> Vec<Value> {
    let body = asked.to_string();
    let json = [("Content-Type", "application/json")];
    let mut streams = Vec::new();
    for _ in 0..count {
        let sent = served.begin("POST", "/api/v2/execute", &json, body.as_bytes());
        streams.push(sent.await);
    }
    let mut runs = Vec::new();
    for mut stream in streams {
        let mut text = String::new();
        let reading = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text);
        let read = timeout(PATIENCE, reading).await;
        read.expect("a response in time").unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        runs.push(serde_json::from_str::<Value>(body).unwrap()["run"].take());
    }
    runs
}

async fn an_interpreter_that_dies_is_replaced() {
    let served = serve(EngineConfig {
        warm: 2,
        // In namespaces nothing of a process tells from outside whose it is.
        without: vec![Layer::Namespaces],
        ..config()
    })
    .await;
    served.until_warm(2).await;
    let work = served.engine.work_dir().to_str().unwrap().to_owned();
    let killed = kill_those_with(&work);
    assert!(killed.len() >= 2, "{killed:?}");
    // A job that comes while they die may still get one of them.
    eventually("they and what started them are gone", async || {
        !killed
            .iter()
            .any(|(pid, parent)| is_running(*pid) || is_running(*parent))
    })
    .await;
    let asked = request("python", "main.py", "print(42)");
    for _ in 0..3 {
        let done = run(&served, &asked).await;
        assert_eq!(
            (&done["stdout"], &done["stderr"]),
            (&json!("42\n"), &json!(""))
        );
    }
    served.until_warm(2).await;
}

/// Where the data directory is another one by now, an interpreter in the old one is of no use.
async fn a_job_starts_in_the_data_directory_that_is_there_now() {
    let place = open_folder();
    let data = subfolder(place.path(), "data");
    let served = serve(EngineConfig {
        warm: 1,
        data_dir: Some(data.clone()),
        ..config()
    })
    .await;
    served.until_warm(1).await;
    std::fs::rename(&data, place.path().join("old")).unwrap();
    subfolder(place.path(), "data");
    std::fs::write(data.join("new"), "").unwrap();
    let asked = request("python", "main.py", "import os; print(os.listdir('.'))");
    assert_eq!(run(&served, &asked).await["stdout"], "['new']\n");
}

/// Kills the processes that have this in their command line; returns their ids and those of their
/// parents.
fn kill_those_with(text: &str) -> Vec<(u32, u32)> {
    let mut killed = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let pid = process.file_name().into_string().unwrap().parse::<u32>();
        if let Ok(pid) = pid
            && String::from_utf8_lossy(&line).contains(text)
            && let Some(parent) = parent_of(pid)
        {
            let target = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(target, rustix::process::Signal::KILL).unwrap();
            killed.push((pid, parent));
        }
    }
    killed
}

async fn interpreters_that_wait_end_with_the_engine() {
    let place = open_folder();
    let served = serve(EngineConfig {
        warm: 2,
        work_dir: Some(place.path().to_owned()),
        ..config()
    })
    .await;
    served.until_warm(2).await;
    let work = served.engine.work_dir().to_path_buf();
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 2);
    drop(served);
    eventually("the interpreters' folder is gone", async || !work.exists()).await;
}

async fn named_modules_are_there_before_the_job() {
    let served = serve(EngineConfig {
        warm: 1,
        preload: ["json", "xml.dom", "no_such_module", "this"]
            .map(str::to_owned)
            .into(),
        ..config()
    })
    .await;
    let code = "import sys
names = ['json', 'xml.dom', 'this', 'no_such_module', 'usercustomize']
print([name in sys.modules for name in names])
import os, site
print(site.getusersitepackages() in sys.path, site.getusersitepackages() in sys.path_importer_cache)
print(os.listdir(os.environ['HOME']), sorted(os.listdir('/proc/self/fd')))
";
    let done = run_ahead(&served, &request("python", "main.py", code)).await;
    assert_eq!(
        done["stdout"], "[True, True, True, False, False]\nFalse False\n[] ['0', '1', '2', '3']\n",
        "{done}"
    );
    assert_eq!(done["stderr"], "");
}

async fn a_module_that_cannot_be_imported_is_named_once() {
    let modules = ["--preload", "json,no_such_module", "--warm", "2"];
    let mut program = Program::start(&modules).await;
    let message = "module of --preload cannot be imported";
    let warning = program.logged(message).await;
    assert_eq!(
        (&warning["module"], &warning["language"]),
        (&json!("no_such_module"), &json!("python"))
    );
    let ran = run_python(&program, "import sys; print('json' in sys.modules)").await;
    assert_eq!(ran["stdout"], "True\n");
    program.signal(rustix::process::Signal::TERM);
    let rest = program.rest_of_log().await;
    assert!(!rest.iter().any(|line| line.contains(message)), "{rest:?}");
}

async fn none_is_started_where_none_is_wanted() {
    let served = serve_warm(0).await;
    for _ in 0..3 {
        run(&served, &request("python", "main.py", "print(42)")).await;
    }
    for number in ["/warm/waiting", "/warm/used", "/warm/missed"] {
        assert_eq!(served.number(number).await, 0);
    }
}

pub fn tests() -> Tests {
    tests![
        SeparateJobs => [
            a_program_finds_what_it_would_find_in_a_fresh_interpreter,
            errors_and_ends_are_those_of_a_fresh_interpreter,
            each_job_has_an_interpreter_of_its_own,
            bounds_count_from_the_jobs_own_start,
            other_files_come_along,
            what_no_interpreter_waits_for_runs_all_the_same,
            a_job_starts_in_the_data_directory_that_is_there_now,
            interpreters_that_wait_end_with_the_engine,
            named_modules_are_there_before_the_job,
            a_module_that_cannot_be_imported_is_named_once,
        ],
        SeparateJobsAndNode => [
            node_finds_what_it_would_find_in_a_fresh_one,
        ],
        OwnUsers => [an_interpreter_that_dies_is_replaced],
        Nothing => [
            none_is_started_where_none_is_wanted,
        ],
    ]
}
