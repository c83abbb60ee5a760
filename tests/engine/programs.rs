//! Given an ordinary program, when it runs in the sandbox, then it finds what it needs there.
use crate::support::engine::{config, serve};
use serde_json::json;

/// Language, what it uses, the program; each prints `fine`.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("bash", "the names of its own streams", "echo fine > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin > /dev/null"),
    ("bash", "process substitution", "cat <(echo fine)"),
    ("bash", "a here-document and pipes", "cat <<END | tr F f\nFine\nEND"),
    ("bash", "temporary files", "f=$(mktemp); echo fine > $f; cat $f; [[ $f == $TMPDIR/* && $TMPDIR == $HOME ]]"),
    ("bash", "background jobs", "for n in 1 2 3; do (exit 0) & done; wait; echo fine"),
    ("python", "the processor when nobody else wants it", "
import os
assert os.getpriority(os.PRIO_PROCESS, 0) == 19
print('fine')"),
    ("python", "processes and shared locks", "
import multiprocessing as m
def square(x): return x * x
if __name__ == '__main__':
    m.set_start_method('fork')
    with m.Pool(3) as pool: assert pool.map(square, range(10))[9] == 81
    lock = m.Lock()
    with lock: print('fine')"),
    ("python", "shared memory by name", "
from multiprocessing import shared_memory as s
m = s.SharedMemory(create=True, size=100); m.buf[0] = 1; m.close(); m.unlink(); print('fine')"),
    ("python", "other programs", "
import subprocess
print(subprocess.run(['bash', '-c', 'echo fine'], capture_output=True, text=True).stdout, end='')"),
    ("python", "asyncio and its own processes", "
import asyncio
async def main():
    p = await asyncio.create_subprocess_exec('true')
    assert await p.wait() == 0
    print('fine')
asyncio.run(main())"),
    ("python", "a database in a file", "
import sqlite3
c = sqlite3.connect('x.db'); c.execute('create table t(x)'); c.commit(); print('fine')"),
    ("python", "a terminal", "
import os, pty
pid, fd = pty.fork()
if pid == 0: os._exit(0)
os.waitpid(pid, 0); print('fine')"),
    ("python", "its own /proc", "
import os
os.listdir('/proc/self/fd'); open('/proc/meminfo').read(); open('/proc/cpuinfo').read()
os.cpu_count(); open('/proc/self/maps').read(); print('fine')"),
    ("python", "time zones, users, temporary folders", "
import getpass, os, tempfile, time
time.localtime(); os.path.expanduser('~'); tempfile.mkdtemp(); open('/tmp/x-%d' % os.getpid(), 'w'); print('fine')"),
    ("python", "deep recursion", "
import sys
sys.setrecursionlimit(20000)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
print('fine' if f(15000) == 15000 else '')"),
    ("python", "a unix socket of its own", "
import socket
s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen()
c = socket.socket(socket.AF_UNIX); c.connect('s'); print('fine')"),
    ("c", "threads", "#include <pthread.h>\n#include <stdio.h>\nvoid*f(void*x){return x;}\nint main(void){pthread_t t;return pthread_create(&t,0,f,0)||pthread_join(t,0)||puts(\"fine\")<0;}"),
    ("c++", "a deep stack", "#include <cstdio>\nint f(int n){volatile char x[1000];x[0]=1;return n?x[0]+f(n-1):0;}\nint main(){if(f(30000)==30000)puts(\"fine\");}"),
    ("javascript", "files, timers, other programs", "
const fs = require('fs'), cp = require('child_process');
fs.writeFileSync('x', 'fine');
setTimeout(() => console.log(cp.execSync('cat x').toString()), 1);"),
    ("javascript", "worker threads", "
const { Worker } = require('worker_threads');
new Worker('', { eval: true }).on('exit', () => console.log('fine'));"),
    ("java", "threads and files", "
import java.nio.file.*;
public class Main { public static void main(String[] a) throws Exception {
  Thread t = new Thread(() -> {}); t.start(); t.join();
  Files.writeString(Path.of(\"x\"), \"fine\"); System.out.println(Files.readString(Path.of(\"x\"))); } }"),
    ("perl", "itself", "print \"fine\\n\";"),
];

/// What jobs do not reach where they have neither users nor namespaces of their own.
const SHARED: [&str; 4] = [
    "processes and shared locks",
    "shared memory by name",
    "a terminal",
    "time zones, users, temporary folders",
];

#[tokio::test]
async fn ordinary_programs_find_what_they_need() {
    let served = serve(config()).await;
    let reaches_shared = served.engine.sandbox().separates_jobs();
    let installed = served.languages().await;
    let mut problems = Vec::new();
    for (language, what, program) in PROGRAMS {
        if !installed.contains(*language) || (!reaches_shared && SHARED.contains(what)) {
            eprintln!("SKIPPED: {language}: {what}");
            continue;
        }
        let run = served.run(language, program).await;
        if run["stdout"].as_str().map(str::trim_end) != Some("fine") || run["code"] != 0 {
            problems.push(format!("{language}: {what}: {run}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// One program of each language of the table; each prints `fine`.
const SMALLEST: [(&str, &str); 14] = [
    ("python", "print('fine')"),
    ("bash", "echo fine"),
    ("javascript", "console.log('fine')"),
    (
        "typescript",
        "const word: string = 'fine';\nconsole.log(word)",
    ),
    ("c", "#include <stdio.h>\nint main(void){puts(\"fine\");}"),
    (
        "c++",
        "#include <iostream>\nint main(){std::cout<<\"fine\\n\";}",
    ),
    (
        "java",
        "public class Main { public static void main(String[] a) { System.out.println(\"fine\"); } }",
    ),
    (
        "go",
        "package main\nimport \"fmt\"\nfunc main() { fmt.Println(\"fine\") }",
    ),
    ("rust", "fn main() { println!(\"fine\"); }"),
    ("ruby", "puts 'fine'"),
    ("perl", "print \"fine\\n\";"),
    ("php", "<?php echo \"fine\\n\";"),
    ("lua", "print('fine')"),
    ("rscript", "cat('fine\\n')"),
];

/// Names that the go command takes for no file's, wherever the file is.
const REFUSED_BY_GO: [&str; 2] = ["@x", "-x"];

/// A name is the caller's business: compilers must not take it for options, or derive from it what it
/// cannot be.
#[tokio::test]
async fn a_program_runs_whatever_its_file_is_called() {
    let served = serve(config()).await;
    let installed = served.languages().await;
    let known: Vec<_> = SMALLEST.iter().map(|(language, _)| *language).collect();
    let is_standard = |name: &str| {
        name.len() > 1 && name.starts_with('c') && name.ends_with(|c: char| c.is_ascii_digit())
    };
    let unknown = installed
        .iter()
        .find(|language| !known.contains(&language.as_str()) && !is_standard(language));
    assert_eq!(unknown, None, "a language without a program here");
    let mut problems = Vec::new();
    for (language, program) in SMALLEST.iter().filter(|(one, _)| installed.contains(*one)) {
        for name in [
            None,
            Some("main"),
            Some("1 two.words-v2"),
            Some("@x"),
            Some("-x"),
            Some("ü/ü"),
        ] {
            let mut file = json!({"content": program});
            if let Some(name) = name {
                file["name"] = json!(name);
            }
            let body = json!({"language": language, "version": "*", "files": [file]});
            let response = served.execute(&body).await;
            let run = response.json()["run"].take();
            let is_refused = name.is_some_and(|name| REFUSED_BY_GO.contains(&name));
            let is_right = match *language == "go" && is_refused {
                true => run["stderr"]
                    .as_str()
                    .unwrap()
                    .contains("invalid input file name"),
                false => run["stdout"] == "fine\n",
            };
            if !is_right {
                problems.push(format!("{language}, {name:?}: {}", response.body));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn headers_subfolders_and_encodings_come_along() {
    let served = serve(config()).await;
    let installed = served.languages().await;
    for (language, ending, header) in [("c", "c", "stdio.h"), ("c++", "cpp", "cstdio")] {
        if !installed.contains(language) {
            eprintln!("SKIPPED: {language} is not installed");
            continue;
        }
        let main = format!(
            "#include \"../include/f.h\"\n#include <{header}>\nint main(int c, char**v){{printf(\"%d %s\", f(), v[2]);}}"
        );
        let main_ending = if language == "c++" { "cc" } else { ending };
        let body = json!({
            "language": language, "version": "*", "args": ["-x", "two words"],
            "files": [
                {"name": format!("src/main.{main_ending}"), "content": main},
                {"name": "include/f.h", "content": "int f();"},
                {"name": format!("src/f.{ending}"), "content": "aW50IGYoKXtyZXR1cm4gNzt9", "encoding": "base64"},
                {"name": format!("src/g.{ending}"), "content": "int f(){return 8;}"},
            ],
        });
        let response = served.execute(&body).await.json();
        assert_eq!(response["run"]["stdout"], "8 two words", "{response}");
    }
}

#[tokio::test]
async fn a_message_of_the_program_names_its_files_as_the_caller_did() {
    let served = serve(config()).await;
    let body = json!({
        "language": "python", "version": "*",
        "files": [{"name": "main.py", "content": "import pkg.m"}, {"name": "pkg/m.py", "content": "1/0"}],
    });
    let run = served.execute(&body).await.json()["run"].take();
    let stderr = run["stderr"].as_str().unwrap();
    assert!(stderr.contains("File \"main.py\", line 1"), "{stderr}");
    assert!(stderr.contains("File \"pkg/m.py\", line 1"), "{stderr}");
    assert!(
        !run["output"].as_str().unwrap().contains("session-jobs"),
        "{run}"
    );
}

#[tokio::test]
async fn nothing_of_the_engines_environment_reaches_a_job() {
    let served = serve(config()).await;
    let program = "import os\nprint(sorted(os.environ))";
    let run = served.run("python", program).await;
    let names = "['HOME', 'LANG', 'LC_CTYPE', 'LOGNAME', 'PATH', 'PISTON_LANGUAGE', 'PWD', 'TMPDIR', \
                 'USER']\n";
    assert_eq!(run["stdout"], names, "{run}");
}

#[tokio::test]
async fn figures_are_of_the_job_alone() {
    let served = serve(config()).await;
    let run = served.run("bash", "exit 0").await;
    let memory = run["memory"].as_u64().unwrap();
    assert!((500_000..20_000_000).contains(&memory), "{run}");
    assert!(run["cpu_time"].as_u64().unwrap() < 5_000, "{run}");
    let run = served.run("python", "x = bytearray(100_000_000)").await;
    let memory = run["memory"].as_u64().unwrap();
    assert!((100_000_000..150_000_000).contains(&memory), "{run}");
}
