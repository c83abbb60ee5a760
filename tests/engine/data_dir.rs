//! Given a request that wants its program to start in the data directory, when the engine runs it,
//! then it does, finds the session's files there, and is still the program that was sent, whatever
//! earlier jobs have left there. And when a job is given up, then it counts as running for as long
//! as any process of it can write.
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::support::engine::{Response, Served, config, serve};
use crate::support::eventually::eventually;
use crate::support::folder::{open_folder, readable_file, subfolder};
use serde_json::{Value, json};
use session_adapter::engine::EngineConfig;
use session_adapter::engine::sandbox::Layer;

/// A data directory that the jobs' users can reach.
fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let place = open_folder();
    let data = subfolder(place.path(), "data");
    (place, data)
}

async fn serve_at(data: &Path) -> Served {
    serve(EngineConfig {
        data_dir: Some(data.to_owned()),
        ..config()
    })
    .await
}

async fn start_in(served: &Served, place: Value, language: &str, code: &str) -> Response {
    let body = json!({
        "language": language, "version": "*", "working_directory": place,
        "files": [{"content": code}],
    });
    served.execute(&body).await
}

async fn in_data(served: &Served, language: &str, code: &str) -> Value {
    let response = start_in(served, json!("data"), language, code).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["run"].take()
}

/// Language, and a program that writes its name to the file `made` and prints where it is, then
/// what it finds in `upload`.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "python",
        "import os\nopen('made', 'w').write('python')\nprint(os.getcwd())\nassert os.environ['PWD'] == os.getcwd()\nprint(open('upload').read())",
    ),
    (
        "javascript",
        "const fs = require('fs');\nfs.writeFileSync('made', 'javascript');\nconsole.log(process.cwd());\nif (process.env.PWD !== process.cwd()) throw 1;\nconsole.log(fs.readFileSync('upload').toString());",
    ),
    (
        "bash",
        "printf bash > made; echo \"$PWD\"; [ \"$PWD\" = \"$(pwd -P)\" ] && cat upload && echo",
    ),
    (
        "perl",
        "use Cwd; open(F, '>', 'made'); print F 'perl'; close F; print getcwd(), \"\\n\"; open(F, 'upload'); print <F>, \"\\n\";",
    ),
    (
        "ruby",
        "File.write('made', 'ruby'); puts Dir.pwd; puts File.read('upload')",
    ),
    (
        "c",
        "#include <stdio.h>\n#include <unistd.h>\nint main(void){char b[4096];FILE*f=fopen(\"made\",\"w\");fputs(\"c\",f);fclose(f);puts(getcwd(b,sizeof b));f=fopen(\"upload\",\"r\");puts(fgets(b,sizeof b,f));}",
    ),
    (
        "c++",
        "#include <fstream>\n#include <iostream>\n#include <unistd.h>\nint main(){std::ofstream(\"made\")<<\"c++\";char b[4096];std::cout<<getcwd(b,sizeof b)<<'\\n'<<std::ifstream(\"upload\").rdbuf()<<'\\n';}",
    ),
    (
        "java",
        "import java.nio.file.*;\npublic class Main { public static void main(String[] a) throws Exception {\nFiles.writeString(Path.of(\"made\"), \"java\"); System.out.println(System.getProperty(\"user.dir\")); System.out.println(Files.readString(Path.of(\"upload\"))); } }",
    ),
    (
        "go",
        "package main\nimport (\"fmt\"; \"os\")\nfunc main() { os.WriteFile(\"made\", []byte(\"go\"), 0644); d, _ := os.Getwd(); fmt.Println(d); u, _ := os.ReadFile(\"upload\"); fmt.Println(string(u)) }",
    ),
    (
        "rust",
        "use std::{env, fs};\nfn main() { fs::write(\"made\", \"rust\").unwrap(); println!(\"{}\", env::current_dir().unwrap().display()); println!(\"{}\", fs::read_to_string(\"upload\").unwrap()); }",
    ),
];

#[tokio::test]
async fn programs_of_every_language_start_in_the_data_directory() {
    let (_place, data) = data_dir();
    let served = serve_at(&data).await;
    readable_file(&data.join("upload"), "up");
    let installed = served.languages().await;
    for (language, program) in PROGRAMS {
        if !installed.contains(*language) {
            eprintln!("SKIPPED: {language} is not installed");
            continue;
        }
        let run = in_data(&served, language, program).await;
        assert_eq!(
            run["stdout"],
            format!("{}\nup\n", data.display()),
            "{language}: {run}"
        );
        let made = data.join("made");
        assert_eq!(std::fs::read_to_string(&made).unwrap(), *language);
        std::fs::remove_file(made).unwrap();
    }
    // What was sent or compiled lay elsewhere all the time.
    let left = std::fs::read_dir(&data).unwrap().flatten();
    let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, [".session-adapter", "upload"]);
}

#[tokio::test]
async fn errors_name_the_file_as_it_was_sent() {
    let (_place, data) = data_dir();
    let served = serve_at(&data).await;
    let installed = served.languages().await;
    for (language, name, program, told) in [
        (
            "python",
            "main.py",
            "x = 1\nx.y",
            "File \"main.py\", line 2, in <module>",
        ),
        ("python", "main.py", "x = (", "File \"main.py\", line 1\n"),
        (
            "bash",
            "main.sh",
            "no-such-program",
            "main.sh: line 1: no-such-program: command not found",
        ),
        (
            "javascript",
            "main.js",
            "\nthrow new Error('x')",
            "main.js:2\n",
        ),
        (
            "c",
            "main.c",
            "#include <assert.h>\nint main(void){assert(0);}",
            "a.out: main.c:2:",
        ),
    ] {
        if !installed.contains(language) {
            eprintln!("SKIPPED: {language} is not installed");
            continue;
        }
        let body = json!({
            "language": language, "version": "*", "working_directory": "data",
            "files": [{"name": name, "content": program}],
        });
        let run = served.execute(&body).await.json()["run"].take();
        let stderr = run["stderr"].as_str().unwrap();
        assert!(stderr.contains(told), "{language}: {run}");
        let work = served.engine.work_dir().to_str().unwrap();
        assert!(!stderr.contains(work), "{language}: {run}");
    }
}

#[tokio::test]
async fn arguments_and_other_files_are_where_they_were() {
    let (_place, data) = data_dir();
    let served = serve_at(&data).await;
    let body = json!({
        "language": "python", "version": "*", "working_directory": "data",
        "args": ["a", "./b"], "stdin": "in",
        "files": [
            {"name": "src/../-main.py", "content": "import sys, helper\nprint(sys.argv[1:], input(), helper.x)"},
            {"name": "helper.py", "content": "x = 5"},
        ],
    });
    let run = served.execute(&body).await.json()["run"].take();
    assert_eq!(run["stdout"], "['a', './b'] in 5\n", "{run}");
}

#[tokio::test]
async fn a_program_can_delete_what_another_left_where_the_data_directory_was_sticky() {
    // As a `--tmpfs` of a container is.
    let (_place, data) = data_dir();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o1777)).unwrap();
    let served = serve_at(&data).await;
    let run = in_data(&served, "bash", "echo kept > kept").await;
    assert_eq!(run["code"], 0, "{run}");
    let run = in_data(&served, "bash", "rm -f kept || exit 1").await;
    assert_eq!(run["code"], 0, "{run}");
    assert!(!data.join("kept").exists());
}

#[tokio::test]
async fn without_being_asked_programs_start_in_the_jobs_directory() {
    let (_place, data) = data_dir();
    let served = serve_at(&data).await;
    for place in [Value::Null, json!("absent")] {
        let mut body = json!({
            "language": "bash", "version": "*", "working_directory": place,
            "files": [{"name": "main.sh", "content": "ls; basename \"$PWD\"; echo $0"}],
        });
        if place == "absent" {
            body.as_object_mut().unwrap().remove("working_directory");
        }
        let run = served.execute(&body).await.json()["run"].take();
        assert_eq!(run["stdout"], "main.sh\nbox\nmain.sh\n", "{run}");
    }
}

#[tokio::test]
async fn another_place_is_refused() {
    let served = serve(config()).await;
    for place in [json!("job"), json!("/etc"), json!(1), json!(["data"])] {
        let response = start_in(&served, place, "bash", "echo").await;
        assert_eq!(response.status, 400);
        assert_eq!(
            response.json()["message"],
            "If specified, working_directory must be \"data\""
        );
    }
}

/// Whatever names an earlier job has left in the data directory, it is the program that was sent
/// that runs, with the modules of its language.
#[tokio::test]
async fn what_lies_in_the_data_directory_is_not_taken_for_the_program() {
    let (_place, data) = data_dir();
    let served = serve_at(&data).await;
    let installed = served.languages().await;
    let trap = "#!/bin/sh\necho trapped\n";
    for name in [
        "main.py",
        "main.sh",
        "main.js",
        "a.out",
        "python3",
        "bash",
        "node",
        "gcc",
        "file0.code",
        "random.py",
        "sitecustomize.py",
        "package.json",
        "fs.js",
    ] {
        std::fs::write(data.join(name), trap).unwrap();
        std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::create_dir(data.join("node_modules")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", data.join("box")).unwrap();
    for (language, name, program) in [
        (
            "python",
            "main.py",
            "import random; print('sent' if random.random() < 1 else '')",
        ),
        ("bash", "main.sh", "echo sent"),
        (
            "javascript",
            "main.js",
            "require('fs'); console.log('sent')",
        ),
        (
            "c",
            "main.c",
            "#include <stdio.h>\nint main(void){puts(\"sent\");}",
        ),
    ] {
        if !installed.contains(language) {
            eprintln!("SKIPPED: {language} is not installed");
            continue;
        }
        let body = json!({
            "language": language, "version": "*", "working_directory": "data",
            "files": [{"name": name, "content": program}],
        });
        let run = served.execute(&body).await.json()["run"].take();
        assert_eq!(run["stdout"], "sent\n", "{language}: {run}");
    }
}

/// How many jobs run and wait, as `GET /` says.
async fn jobs(served: &Served) -> (u64, u64) {
    (
        served.number("/jobs/running").await,
        served.number("/jobs/waiting").await,
    )
}

/// A program with processes that write to the data directory until they are killed.
const WRITERS: &str = "
import os, time
for n in range(20):
    if os.fork() == 0:
        os.setsid()
        open(f'pid.{os.getpid()}', 'w')
        i = 0
        while True:
            i += 1
            open(f'{n}.{i % 100}', 'w').write('x')
while len([name for name in os.listdir('.') if name.startswith('pid.')]) < 20: time.sleep(0.01)
open('ready', 'w')
time.sleep(600)
";

#[tokio::test]
async fn a_job_that_is_given_up_runs_until_its_last_process_is_gone() {
    for _ in 0..5 {
        let (_place, data) = data_dir();
        let served = serve(EngineConfig {
            data_dir: Some(data.clone()),
            max_jobs: 1,
            // Within namespaces processes have other ids.
            without: vec![Layer::Namespaces],
            allow_weak_sandbox: true,
            ..config()
        })
        .await;
        served.engine.runtimes().await;
        assert_eq!(jobs(&served).await, (0, 0));
        let body = json!({
            "language": "python", "version": "*", "working_directory": "data",
            "files": [{"content": WRITERS}],
        });
        let json = [("Content-Type", "application/json")];
        let body = body.to_string();
        let stream = served
            .begin("POST", "/api/v2/execute", &json, body.as_bytes())
            .await;
        eventually("the program writes", async || data.join("ready").exists()).await;
        // The next one waits for its place.
        let second = json!({
            "language": "bash", "version": "*", "working_directory": "data",
            "files": [{"content": "for p in pid.*; do kill -0 ${p#pid.} && echo alive; done; echo end"}],
        });
        let second = second.to_string();
        let next = served
            .begin("POST", "/api/v2/execute", &json, second.as_bytes())
            .await;
        eventually("the next job waits", async || jobs(&served).await == (1, 1)).await;
        drop(next);
        eventually("the next job is given up", async || {
            jobs(&served).await == (1, 0)
        })
        .await;
        drop(stream);
        eventually("the job is given up", async || {
            jobs(&served).await == (0, 0)
        })
        .await;
        let own_users = served.engine.sandbox().own_users;
        let owner = std::fs::metadata(data.join("ready")).unwrap().uid();
        for entry in std::fs::read_dir(&data).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() == session_adapter::data_dir::RESERVED {
                continue;
            }
            // Every file is the session's, and no process is there that could write more.
            assert_eq!(entry.metadata().unwrap().uid(), owner);
            assert_eq!(own_users, owner != rustix::process::geteuid().as_raw());
            let name = entry.file_name().into_string().unwrap();
            if let Some(pid) = name.strip_prefix("pid.") {
                assert!(!Path::new("/proc").join(pid).exists(), "{pid} lives");
            }
        }
        // That there is one place means that it can be taken.
        let run = served.run("python", "print(42)").await;
        assert_eq!(run["stdout"], "42\n", "{run}");
    }
}

/// Whoever cleans up: what a keeper that was killed leaves is gone, too, when its job is said to be.
#[tokio::test]
async fn a_job_whose_keeper_was_killed_runs_until_its_last_process_is_gone() {
    let (_place, data) = data_dir();
    let served = serve(EngineConfig {
        data_dir: Some(data.clone()),
        max_jobs: 1,
        without: vec![Layer::Namespaces, Layer::OwnUsers, Layer::Landlock],
        allow_weak_sandbox: true,
        ..config()
    })
    .await;
    let end = "keeper = open(f'/proc/{os.getppid()}/stat').read().rsplit(')', 1)[1].split()[1]
os.kill(int(keeper), 9)
time.sleep(600)
";
    let program = WRITERS.replace("time.sleep(600)\n", end);
    let response = start_in(&served, json!("data"), "python", &program).await;
    assert_eq!(response.status, 500, "{}", response.body);
    assert_eq!(jobs(&served).await, (0, 0));
    for entry in std::fs::read_dir(&data).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(pid) = name.strip_prefix("pid.") {
            assert!(!Path::new("/proc").join(pid).exists(), "{pid} lives");
        }
    }
}
