//! The program as its user runs it: the command line, the embedded engine, real programs.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use crate::support::raw::{self, Connection};
use crate::support::{Program, eventually, run};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn execute(program: &Program, path: &str, body: &Value) -> Value {
    let response = raw::post(program.addr, path, &body.to_string()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

async fn python(program: &Program, code: &str) -> Value {
    execute(program, "/python/execute", &json!({"code": code})).await
}

#[tokio::test]
async fn the_first_request_of_the_readme_runs_python() {
    let program = Program::start(&[]).await;
    let body = json!({"properties": {"code": "print(input()[::-1])", "stdin": "olleh"}});
    let response = execute(&program, "/python/execute?identifier=demo-1", &body).await;
    assert_eq!(response["stdout"], "hello\n");
    assert_eq!(response["exitCode"], 0);
    assert_eq!(response["status"], "Success");
    assert_eq!(response["run"]["stdout"], "hello\n");
    assert_eq!(response["properties"]["stdout"], "hello\n");
    for level in [&response, &response["properties"]] {
        assert_eq!(level["outcome"], "success", "{response}");
        assert!(level["cpuTimeInMilliseconds"].is_u64(), "{response}");
        assert!(
            level["memoryInBytes"].as_u64() > Some(1_000_000),
            "{response}"
        );
    }
}

#[tokio::test]
async fn each_dialect_runs_real_programs() {
    let program = Program::start(&[]).await;
    let code = json!({"properties": {"code": "print(6*7)"}});
    let response = execute(&program, "/code/execute?identifier=demo-1", &code).await;
    assert_eq!(response["properties"]["stdout"], "42\n");
    let flat = json!({"code": "print(6*7)"});
    let response = execute(&program, "/executions?identifier=demo-1", &flat).await;
    assert_eq!(response["status"], "Succeeded");
    assert_eq!(response["identifier"], "demo-1");
    assert_eq!(response["result"]["stdout"], "42\n");
    let bash = json!({"language": "bash", "code": "echo $((6*7)) \"$@\"", "args": ["a b"]});
    let response = execute(&program, "/execute", &bash).await;
    assert_eq!(response["properties"]["stdout"], "42 a b\n");
    let shell = json!({"shellCommand": "read x; echo got $x; exit 3", "stdin": "this"});
    let response = execute(&program, "/shellExecute", &shell).await;
    assert_eq!(response["status"], "Failed");
    assert_eq!(response["exitCode"], 3);
    assert_eq!(response["result"]["stdout"], "got this\n");
    let piston = json!({"language": "py", "version": "3", "files": [{"content": "print(42)"}]});
    let response = execute(&program, "/api/v2/execute", &piston).await;
    assert_eq!(response["run"]["output"], "42\n");
}

#[tokio::test]
async fn a_compiled_language_has_its_compile_stage() {
    let program = Program::start(&[]).await;
    let good = json!({"code": "#include <stdio.h>\nint main(void){puts(\"hi\");return 5;}"});
    let response = execute(&program, "/c/execute", &good).await;
    assert_eq!(
        (&response["stdout"], &response["exitCode"]),
        (&json!("hi\n"), &json!(5))
    );
    assert_eq!(response["compile"]["code"], 0);
    let bad = json!({"code": "int main(void){return x;}"});
    let response = execute(&program, "/c/execute", &bad).await;
    let stderr = response["stderr"].as_str().unwrap();
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    assert_eq!(response["run"]["stderr"], "");
    assert_eq!(response["exitCode"], 1);
}

#[tokio::test]
async fn programs_end_as_they_do_by_themselves() {
    let program = Program::start(&[]).await;
    let response = python(&program, "import sys\nprint('out')\nsys.exit(3)").await;
    assert_eq!(
        (&response["exitCode"], &response["stdout"]),
        (&json!(3), &json!("out\n"))
    );
    assert_eq!(response["stderr"], "");
    let response = python(&program, "print('x'").await;
    let stderr = response["stderr"].as_str().unwrap();
    assert!(
        stderr.starts_with("  File \"main.py\", line 1\n"),
        "{stderr}"
    );
    assert_eq!(response["status"], "Failure");
    let response = python(&program, "import os; os.abort()").await;
    assert_eq!(
        (&response["exitCode"], &response["stderr"]),
        (&json!(134), &json!("Aborted.\n"))
    );
}

#[tokio::test]
async fn the_value_is_text_for_versions_whose_client_fails_on_a_number() {
    let program = Program::start(&[]).await;
    let body = json!({"code": "1+1"});
    for (version, value) in [
        ("2024-10-02-preview", json!("2")),
        ("2025-02-02-preview", json!("2")),
        ("2025-10-02-preview", json!(2)),
    ] {
        let path = format!("/executions?api-version={version}");
        let response = execute(&program, &path, &body).await;
        assert_eq!(response["result"]["executionResult"], value, "{version}");
    }
    let response = execute(
        &program,
        "/code/execute?api-version=2024-02-02-preview",
        &body,
    )
    .await;
    assert_eq!(response["properties"]["result"], json!(2));
}

#[tokio::test]
async fn a_program_sees_no_difference_from_being_run_by_itself() {
    let program = Program::start(&[]).await;
    let code = "import os, sys\nprint(__name__, __doc__, sys.argv, [n for n in os.listdir('.') if n != '.session-adapter'])\n\
                print(sys.modules['__main__'].__dict__ is globals(), os.path.basename(__file__))\n\
                print(sorted(globals()))\n\
                def f():\n    raise ValueError('x') from KeyError('y')\nf()";
    let body = json!({"code": code, "args": ["a"]});
    let response = execute(&program, "/python/execute", &body).await;
    assert_eq!(
        response["stdout"],
        "__main__ None ['main.py', 'a'] []\nTrue main.py\n['__annotations__', \
         '__builtins__', '__cached__', '__doc__', '__file__', '__loader__', '__name__', \
         '__package__', '__spec__', 'os', 'sys']\n"
    );
    assert_eq!(
        response["stderr"],
        "KeyError: 'y'\n\nThe above exception was the direct cause of the following \
         exception:\n\nTraceback (most recent call last):\n  File \"main.py\", line 7, in <module>\n    \
         f()\n  File \"main.py\", line 6, in f\n    raise ValueError('x') from KeyError('y')\n\
         ValueError: x\n"
    );
    assert_eq!(
        (&response["exitCode"], &response["result"]),
        (&json!(1), &json!(""))
    );
}

#[tokio::test]
async fn a_runaway_loop_is_stopped_and_keeps_what_it_printed() {
    let program = Program::start(&[]).await;
    let body = json!({"code": "print('on', flush=True)\nwhile True: pass", "timeoutInSeconds": 2});
    let response = execute(&program, "/python/execute", &body).await;
    assert_eq!(response["stdout"], "on\n");
    assert_eq!(response["exitCode"], 137);
    assert_eq!(
        response["stderr"],
        "Traceback (most recent call last):\n  File \"main.py\", line 2, in <module>\n    while True: pass\n\
         KeyboardInterrupt\nTime limit exceeded: stopped after 2 s.\n"
    );
}

#[tokio::test]
async fn large_output_is_kept_to_its_limit_and_whole_below_it() {
    let program = Program::start(&["--output-limit", "6MiB"]).await;
    let response = python(&program, "print('x' * 5_000_000)").await;
    assert_eq!(response["stdout"].as_str().unwrap().len(), 5_000_001);
    assert_eq!(response["exitCode"], 0);

    let program = Program::start(&[]).await;
    let response = python(&program, "print('x' * 5_000_000)").await;
    assert_eq!(response["stdout"].as_str().unwrap().len(), 1 << 20);
    let stderr = response["stderr"].as_str().unwrap();
    assert!(
        stderr.ends_with("stdout was cut and the program was stopped.\n"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_character_that_comes_in_two_halves_stays_whole() {
    let program = Program::start(&[]).await;
    let code = "import sys, time\nb = '😀'.encode()\nfor half in (b[:2], b[2:]):\n    \
                sys.stdout.buffer.write(half); sys.stdout.flush(); time.sleep(0.05)";
    assert_eq!(python(&program, code).await["stdout"], "😀");
    // And on the way in: the request's bytes arrive in two halves of a character.
    let body = json!({"code": "print('😀')"}).to_string();
    let request = raw::request("POST", "/python/execute", &[], &body);
    let middle = request.windows(2).position(|w| w == [0xF0, 0x9F]).unwrap() + 2;
    let mut connection = Connection::to(program.addr).await;
    connection.send(&request[..middle]).await;
    raw::get(program.addr, "/health").await;
    connection.send(&request[middle..]).await;
    assert_eq!(connection.read_response().await.json()["stdout"], "😀\n");
}

#[tokio::test]
async fn a_source_of_3_mb_runs() {
    let program = Program::start(&[]).await;
    let code = format!("#{}\nprint('end')", "x".repeat(3_000_000));
    assert_eq!(python(&program, &code).await["stdout"], "end\n");
}

#[tokio::test]
async fn memory_is_limited() {
    let program = Program::start(&["--memory-limit", "64MiB"]).await;
    let response = python(
        &program,
        "print('on', flush=True)\nx = bytearray(10**9)\nprint(x)",
    )
    .await;
    assert_eq!(response["stdout"], "on\n");
    assert_eq!(response["status"], "Failure");
}

/// Each way to end: outcome, exit code, last line of stderr, language, program.
const ENDS: [(&str, i64, &str, &str, &str); 10] = [
    ("success", 0, "", "python", "print(1)"),
    ("failure", 3, "", "python", "raise SystemExit(3)"),
    ("signal", 134, "Aborted.", "python", "import os; os.abort()"),
    // The process above the program, in Piston's place of a shell.
    (
        "signal",
        137,
        "Killed by SIGKILL.",
        "python",
        "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)",
    ),
    (
        "time_limit",
        137,
        "Time limit exceeded: stopped after 2 s.",
        "python",
        "import time; time.sleep(60)",
    ),
    (
        "cpu_limit",
        137,
        "CPU time limit exceeded: stopped.",
        "python",
        "while True: pass",
    ),
    (
        "memory_limit",
        137,
        "Memory limit exceeded: stopped at 64 MiB.",
        "python",
        "import time\nx = bytearray(100_000_000)\ntime.sleep(60)",
    ),
    (
        "output_limit",
        137,
        "Output limit exceeded: stderr was cut and the program was stopped.",
        "python",
        "import sys, time\nsys.stderr.write('x' * 200_000)\nsys.stderr.flush()\ntime.sleep(60)",
    ),
    (
        "disk_limit",
        153,
        "Disk limit exceeded: stopped.",
        "python",
        "import os, time\nopen(os.environ['TMPDIR'] + '/x', 'wb').write(bytes(20_000_000))\ntime.sleep(60)",
    ),
    (
        "compile_error",
        1,
        "compilation terminated.",
        "c",
        "#include <no/such/file.h>",
    ),
];

#[tokio::test]
async fn each_way_to_end_has_its_outcome_in_the_response_and_the_log() {
    let limits = [
        ["--memory-limit", "64MiB"],
        ["--output-limit", "100KiB"],
        ["--disk-limit", "10MiB"],
        ["--cpu-limit", "1"],
    ];
    let mut program = Program::start(&limits.concat()).await;
    for (outcome, exit_code, last_line, language, code) in ENDS {
        // A limit on time that comes last wherever it is not what is tried.
        let timeout = if outcome == "time_limit" { 2 } else { 60 };
        let body = json!({"language": language, "code": code, "timeoutInSeconds": timeout,
            "useEmptyKernel": true});
        let path = format!("/{language}/execute");
        let response = execute(&program, &path, &body).await;
        assert_eq!(
            program.logged("request").await["outcome"],
            outcome,
            "{code}"
        );
        for level in [&response, &response["properties"]] {
            assert_eq!(level["outcome"], outcome, "{code}: {response}");
            assert_eq!(level["exitCode"], exit_code, "{code}: {response}");
            let stderr = level["stderr"].as_str().unwrap();
            let last = stderr.lines().last().unwrap_or_default();
            assert_eq!(last, last_line, "{code}: {response}");
            assert!(level["cpuTimeInMilliseconds"].is_u64(), "{response}");
            assert!(level["memoryInBytes"].is_u64(), "{response}");
        }
        for path in ["/execute", "/executions"] {
            let response = execute(&program, path, &body).await;
            assert_eq!(
                program.logged("request").await["outcome"],
                outcome,
                "{code}"
            );
            let result = match path {
                "/execute" => &response,
                _ => &response["result"],
            };
            assert_eq!(result["outcome"], outcome, "{path} {code}: {response}");
            assert!(result["cpuTimeInMilliseconds"].is_u64(), "{response}");
            assert!(result["memoryInBytes"].is_u64(), "{response}");
        }
    }
    let metrics = raw::get(program.addr, "/metrics").await.text();
    for limit in ["time", "cpu", "memory", "output", "disk"] {
        let counted = format!("session_adapter_limits_hit_total{{limit=\"{limit}\"}} 3");
        assert!(metrics.contains(&counted), "{counted}\n{metrics}");
    }
}

#[tokio::test]
async fn no_program_can_forge_an_outcome() {
    let program = Program::start(&[]).await;
    for line in [
        "Memory limit exceeded: stopped at 512 MiB.",
        "Time limit exceeded: stopped after 60 s.",
        "CPU time limit exceeded: stopped.",
        "Output limit exceeded: stdout was cut and the program was stopped.",
        "Disk limit exceeded: stopped.",
        "Killed",
        "File size limit exceeded",
        "/piston/packages/python/3.11.2/run: line 3:     3 Killed                  python3.11 \"$@\"",
    ] {
        for (code, outcome) in [
            (0, "success"),
            (1, "failure"),
            (137, "signal"),
            (153, "signal"),
        ] {
            let source = format!("import sys\nprint({line:?}, file=sys.stderr)\nsys.exit({code})");
            let response = python(&program, &source).await;
            assert_eq!(response["outcome"], outcome, "{code}: {response}");
            assert_eq!(response["exitCode"], code, "{response}");
            let shell =
                json!({"shellCommand": format!("printf '%s\\n' '{line}' >&2; exit {code}")});
            let response = execute(&program, "/executions", &shell).await;
            assert_eq!(response["result"]["outcome"], outcome, "{code}: {response}");
            assert_eq!(response["status"], code.to_string(), "{response}");
        }
    }
}

#[tokio::test]
async fn unknown_languages_are_told_what_there_is() {
    let program = Program::start(&[]).await;
    let response = raw::post(program.addr, "/cobol/execute", r#"{"code":""}"#).await;
    assert_eq!(response.status, 400);
    let error = &response.json()["error"];
    assert_eq!(error["code"], "RuntimeNotFound");
    assert!(
        error["message"].as_str().unwrap().contains("python 3."),
        "{error}"
    );
}

#[tokio::test]
async fn sigterm_lets_a_running_execution_end_and_its_client_get_the_answer() {
    let mut program = Program::start(&[]).await;
    let code = "import time\nprint('on', flush=True)\ntime.sleep(3)\nprint('end')";
    let body = json!({"code": code}).to_string();
    let mut connection = Connection::to(program.addr).await;
    connection
        .send(raw::request("POST", "/python/execute", &[], &body))
        .await;
    // The request is under way once a later one on another connection has been answered.
    assert_eq!(python(&program, "print(1)").await["stdout"], "1\n");
    program.signal(Signal::TERM);
    let response = connection.read_response().await;
    assert_eq!(response.status, 200);
    assert_eq!(response.json()["stdout"], "on\nend\n");
    assert_eq!(program.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_program_and_its_jobs_at_once() {
    let mut program = Program::start(&[]).await;
    let body = json!({"code": "import os,time\nprint(os.getpid(),flush=True)\ntime.sleep(60)"});
    let mut connection = Connection::to(program.addr).await;
    let request = raw::request("POST", "/python/execute", &[], &body.to_string());
    connection.send(request).await;
    assert_eq!(python(&program, "print(1)").await["stdout"], "1\n");
    let descendants = descendants(program.pid());
    assert!(
        descendants.len() >= 2,
        "a spawner and a job: {descendants:?}"
    );
    program.signal(Signal::INT);
    program.logged("draining").await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(128 + Signal::TERM.as_raw()));
    for pid in descendants {
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_program_whose_spawner_is_gone_says_so_and_ends_when_what_runs_has_ended() {
    let mut program = Program::start(&[]).await;
    let spawner = descendants(program.pid())[0];
    let code = "import time\nprint('on', flush=True)\ntime.sleep(3)\nprint('end')";
    let body = json!({"code": code}).to_string();
    let mut connection = Connection::to(program.addr).await;
    let request = raw::request("POST", "/python/execute", &[], &body);
    connection.send(request).await;
    // The request is under way once a later one on another connection has been answered.
    assert_eq!(python(&program, "print(1)").await["stdout"], "1\n");
    let spawner = rustix::process::Pid::from_raw(spawner).unwrap();
    rustix::process::kill_process(spawner, Signal::KILL).unwrap();
    let line = program.logged("the engine has failed: going down").await;
    assert_eq!(line["level"], "ERROR");
    assert_eq!(
        line["error"],
        "the engine's spawner ended unexpectedly: signal: 9 (SIGKILL)"
    );
    assert_eq!(
        connection.read_response().await.json()["stdout"],
        "on\nend\n"
    );
    assert_eq!(program.ended().await, Some(1));
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let temp = crate::support::folder::open_folder();
    let mut program = Program::start_without_data_dir(temp.path(), &[]).await;
    let data_dir = std::path::PathBuf::from(program.started["data_dir"].as_str().unwrap());
    assert_eq!(program.started["data_dir_is_temporary"], true);
    let code = format!("open('{}/kept', 'w').write('x')", data_dir.display());
    assert_eq!(python(&program, &code).await["stderr"], "");
    assert!(data_dir.exists());
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
    eventually("the data directory is gone", async || !data_dir.exists()).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_job() {
    let program = Program::start(&["--max-jobs", "1", "--queue", "0"]).await;
    let body = json!({"code": "while True: pass"}).to_string();
    let mut connection = Connection::to(program.addr).await;
    connection
        .send(raw::request("POST", "/python/execute", &[], &body))
        .await;
    let becomes = async |status| {
        eventually("the next execution is refused, or works", async || {
            let response = raw::post(program.addr, "/execute", r#"{"code":""}"#).await;
            response.status == status
        })
        .await;
    };
    becomes(429).await;
    drop(connection);
    // The place of the job that nobody waits for.
    becomes(200).await;
}

#[tokio::test]
async fn a_request_has_one_log_line_without_anything_of_the_program() {
    let mut program = Program::start(&[]).await;
    assert!(
        program.started["runtimes"]
            .as_str()
            .unwrap()
            .contains("python 3.")
    );
    assert_eq!(program.started["max_run_timeout_s"], 220.0);
    assert_eq!(program.started["process_limit"], 256);
    assert_eq!(program.started["allow_network"], false);
    let body = json!({"code": "print('SECRET' + input())", "stdin": "SECRET"}).to_string();
    let headers = [
        ("Content-Type", "application/json"),
        ("operation-id", "op-1"),
    ];
    let path = "/python/execute?identifier=demo-1";
    raw::exchange(program.addr, raw::request("POST", path, &headers, &body)).await;
    let line = program.logged("request").await;
    assert!(!line.to_string().contains("SECRET"), "{line}");
    for (field, value) in [
        ("operation_id", json!("op-1")),
        ("identifier", json!("demo-1")),
        ("route", json!("{language}/execute")),
        ("language", json!("python")),
        ("status", json!(200)),
        ("outcome", json!("success")),
        ("bytes_in", json!(body.len())),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["queue_ms"].is_number(), "{line}");
    for field in ["engine_ms", "total_ms", "bytes_out"] {
        assert!(
            line[field].as_f64().is_some_and(|n| n > 0.0),
            "{field}: {line}"
        );
    }
}

#[tokio::test]
async fn every_dialect_starts_in_the_data_directory_and_piston_in_the_jobs() {
    let data = tempfile::tempdir().unwrap();
    let program = Program::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    let code = "import os; print(os.getcwd()); open('left.txt', 'a').write('x')";
    let body = json!({ "code": code }).to_string();
    let here = format!("{}\n", data.path().canonicalize().unwrap().display());
    for (path, pointer) in [
        ("/python/execute", "/stdout"),
        ("/code/execute", "/properties/stdout"),
        ("/execute", "/stdout"),
        ("/executions", "/result/stdout"),
    ] {
        let response = raw::post(program.addr, path, &body).await.json();
        assert_eq!(response.pointer(pointer), Some(&json!(here)), "{path}");
    }
    let shell = json!({"shellCommand": "ls; cat left.txt"}).to_string();
    let response = raw::post(program.addr, "/executions", &shell).await.json();
    assert_eq!(response["result"]["stdout"], "left.txt\nxxxx");
    let passed = json!({"language": "python", "version": "*", "files": [{"content": code}]});
    let response = raw::post(program.addr, "/api/v2/execute", &passed.to_string()).await;
    assert_ne!(response.json()["run"]["stdout"], here);
    assert_eq!(
        std::fs::read(data.path().join("left.txt")).unwrap(),
        b"xxxx"
    );
}

#[tokio::test]
async fn deleting_the_session_leaves_no_process_of_it() {
    let data = tempfile::tempdir().unwrap();
    let program = Program::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    let code = "import time\nwhile True: open('beat', 'a').write('x'); time.sleep(0.01)";
    let body = json!({"code": code, "executionType": "Asynchronous"}).to_string();
    raw::post(program.addr, "/executions?identifier=demo-1", &body).await;
    let beat = data.path().join("beat");
    eventually("the program writes", async || beat.exists()).await;
    let stop = raw::post(
        program.addr,
        "/.management/stopSession?identifier=demo-1",
        "",
    )
    .await;
    assert_eq!(stop.status, 200, "{}", stop.text());
    assert_eq!(stop.json(), "Session demo-1 stopped.");
    let gone = raw::get(program.addr, "/session?identifier=demo-1").await;
    assert_eq!(gone.json()["error"]["code"], "NoSessionFoundError");
    let _ = std::fs::remove_file(&beat);
    let body = json!({"code": "import time; time.sleep(0.2)"}).to_string();
    raw::post(program.addr, "/python/execute", &body).await;
    assert!(!beat.exists(), "somebody still writes");
}

#[tokio::test]
async fn the_metadata_lists_real_runtimes_and_packages() {
    let program = Program::start(&[]).await;
    let metadata = raw::get(program.addr, "/metadata?api-version=2025-02-02-preview").await;
    assert_eq!(metadata.status, 200, "{}", metadata.text());
    let metadata = metadata.json();
    let runtimes = metadata["runtimes"].as_array().unwrap();
    assert!(runtimes.iter().any(|runtime| runtime["name"] == "python"));
    let code = "import importlib.metadata as m\nprint(len({d.metadata['Name'] for d in m.distributions() if d.metadata['Name']}))";
    let body = json!({ "code": code }).to_string();
    let counted = raw::post(program.addr, "/python/execute", &body)
        .await
        .json();
    let packages = metadata["preInstalledPackages"].as_array().unwrap();
    assert_eq!(counted["stdout"], format!("{}\n", packages.len()));
}

#[tokio::test]
async fn a_healthcheck_tells_by_its_exit_code() {
    let program = Program::start(&[]).await;
    let url = format!("http://{}", program.addr);
    eventually("the program is ready", async || {
        raw::get(program.addr, "/ready").await.status == 200
    })
    .await;
    assert_eq!(
        run(&["healthcheck", "--url", &url]).await.status.code(),
        Some(0)
    );
    drop(program);
    assert_eq!(
        run(&["healthcheck", "--url", &url]).await.status.code(),
        Some(1)
    );
}

#[tokio::test]
async fn the_runtimes_are_shown_as_a_table() {
    let data = tempfile::tempdir().unwrap();
    let output = run(&["runtimes", "--data-dir", data.path().to_str().unwrap()]).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("LANGUAGE"), "{table}");
    assert!(table.contains("\npython "), "{table}");
}

#[tokio::test]
async fn misuse_ends_with_64_and_says_what_is_allowed() {
    for (arguments, said) in [
        (
            &["--run-timeout", "soon"][..],
            "session-adapter: invalid value 'soon' for --run-timeout: expected a number",
        ),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["engine", "--piston-url", "http://10.0.0.1:1"], "loopback"),
    ] {
        let output = run(arguments).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let help = run(&["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .contains("RUN_TIMEOUT_SECONDS")
    );
}

/// Every process below `pid`, from what each process says of its parent.
fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let processes: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| Some((pid, parent(pid)?)))
        .collect();
    let mut at = 0;
    while at < found.len() {
        let children = processes.iter().filter(|(_, parent)| *parent == found[at]);
        found.extend(children.map(|(pid, _)| *pid).collect::<Vec<_>>());
        at += 1;
    }
    found.split_off(1)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    match after_name.next()? {
        "Z" => None,
        _ => after_name.next()?.parse().ok(),
    }
}

async fn gone(pid: i32) {
    eventually("the process is gone", async || parent(pid).is_none()).await;
}

#[tokio::test]
async fn standard_input_is_as_it_was_given() {
    let program = Program::start(&[]).await;
    let absent = execute(
        &program,
        "/python/execute",
        &json!({"code": "try:\n    input()\nexcept EOFError:\n    print('end')"}),
    )
    .await;
    assert_eq!(absent["stdout"], "end\n", "{absent}");
    let read = "import sys; print(repr(sys.stdin.buffer.read()))";
    for stdin in ["", "x", "x\n", "\n", "a\nb"] {
        let response = execute(
            &program,
            "/python/execute",
            &json!({"code": read, "stdin": stdin}),
        )
        .await;
        let expected = format!("b'{}'\n", stdin.replace('\n', "\\n"));
        assert_eq!(response["stdout"], expected, "{stdin:?}: {response}");
    }
    let count = json!({"shellCommand": "cat | wc -c"});
    let counted = execute(&program, "/shellExecute", &count).await;
    assert_eq!(counted["result"]["stdout"], "0\n", "{counted}");
    // Piston's own API adds its newline.
    let piston =
        json!({"language": "python", "version": "*", "files": [{"content": read}], "stdin": "x"});
    let passed = execute(&program, "/api/v2/execute", &piston).await;
    assert_eq!(passed["run"]["stdout"], "b'x\\n'\n", "{passed}");
}

#[tokio::test]
async fn a_shell_command_runs_in_the_shell_that_is_asked_for() {
    let program = Program::start(&["--run-timeout", "2"]).await;
    let which = "ps -o comm= -p $$ || cat /proc/$$/comm; exit 3";
    for (body, path, shell) in [
        (json!({"shellCommand": which}), "/shellExecute", "bash\n"),
        (
            json!({"shellCommand": which, "shellType": "Bash"}),
            "/shellExecute",
            "bash\n",
        ),
        (
            json!({"shellCommand": which, "shellType": "sh"}),
            "/shellExecute",
            "sh\n",
        ),
        (
            json!({"properties": {"shellCommand": which, "shellType": "sh"}}),
            "/shellExecute",
            "sh\n",
        ),
    ] {
        let response = execute(&program, path, &body).await;
        assert_eq!(response["status"], "Failed", "{response}");
        assert_eq!(response["exitCode"], 3, "{response}");
        let stdout = response["result"]["stdout"].as_str().unwrap();
        assert!(stdout.ends_with(shell), "{body}: {response}");
    }
    let resource = execute(
        &program,
        "/executions",
        &json!({"shellCommand": "exit 3", "shellType": "sh"}),
    )
    .await;
    assert_eq!(resource["status"], "3", "{resource}");
    let stopped = execute(
        &program,
        "/shellExecute",
        &json!({"shellCommand": "sleep 60"}),
    )
    .await;
    assert_eq!(stopped["errorName"], "time_limit", "{stopped}");
    assert_eq!(
        stopped["errorMessage"], "Time limit exceeded: stopped after 2 s.",
        "{stopped}"
    );
    assert_eq!(stopped["exitCode"], 137, "{stopped}");
    let refused = raw::post(
        program.addr,
        "/shellExecute",
        r#"{"shellCommand":"ls","shellType":"cmd"}"#,
    )
    .await;
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .text()
            .contains("must be one of bash, sh, not 'cmd'"),
        "{}",
        refused.text()
    );
    let headers = [
        ("content-type", "application/json"),
        ("x-shell-type", "powershell"),
    ];
    let refused = raw::request(
        "POST",
        "/shellExecute",
        &headers,
        r#"{"shellCommand":"ls"}"#,
    );
    let refused = raw::exchange(program.addr, refused).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["target"].as_str()),
        (400, Some("X-Shell-Type"))
    );
}

#[tokio::test]
async fn the_api_is_also_below_the_pools_path_and_below_pistons_old_one() {
    let program = Program::start(&[]).await;
    let pool = "/subscriptions/0-1/resourceGroups/group/sessionPools/pool";
    let code = json!({"properties": {"code": "print(42)"}});
    let response = execute(
        &program,
        &format!("{pool}/python/execute?identifier=demo-1"),
        &code,
    )
    .await;
    assert_eq!(response["stdout"], "42\n", "{response}");
    assert_eq!(
        raw::get(program.addr, &format!("{pool}/files"))
            .await
            .status,
        200
    );
    assert_eq!(
        raw::get(program.addr, &format!("{pool}/nothing"))
            .await
            .status,
        404
    );
    let packages = raw::get(program.addr, "/api/v2/piston/packages")
        .await
        .json();
    let python = packages
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["language"] == "python");
    assert_eq!(python.unwrap()["installed"], true, "{packages}");
    let piston = json!({"language": "python", "version": "*", "files": [{"content": "print(43)"}]});
    let passed = execute(&program, "/api/v2/piston/execute", &piston).await;
    assert_eq!(passed["run"]["stdout"], "43\n", "{passed}");
}

/// Addresses by which `localhost` or a wildcard leads past the program's listeners, with their ports.
fn uncovered_addresses(program: &Program) -> Vec<SocketAddr> {
    let started = &program.started;
    let engine = started["piston_url"].as_str().unwrap();
    let engine: SocketAddr = engine.strip_prefix("http://").unwrap().parse().unwrap();
    let metrics: SocketAddr = started["metrics"].as_str().unwrap().parse().unwrap();
    assert!(program.addr.is_ipv4() && engine.is_ipv4() && metrics.is_ipv6());
    [
        (&["::1", "::"], program.addr),
        (&["::1", "::"], engine),
        (&["127.0.0.1", "0.0.0.0"], metrics),
    ]
    .iter()
    .flat_map(|(ips, listener)| ips.map(|ip| (ip.parse::<IpAddr>().unwrap(), listener.port())))
    .map(Into::into)
    .collect()
}

#[tokio::test]
async fn with_a_network_nobody_else_can_listen_where_localhost_may_lead_too() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        eprintln!("SKIPPED: ports in the other address family, for there is no IPv6: {error}");
        return;
    }
    let metrics = ["--metrics", "[::1]:0"];
    let program = Program::start(&[&metrics[..], &["--allow-network"]].concat()).await;
    for address in uncovered_addresses(&program) {
        let refused = TcpListener::bind(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse, "{address}");
    }
    let code = format!(
        "import socket\nsocket.socket(socket.AF_INET6).bind(('::1', {}))",
        program.addr.port()
    );
    let response = python(&program, &code).await;
    let stderr = response["stderr"].as_str().unwrap();
    assert!(stderr.contains("Address already in use"), "{response}");

    let program = Program::start(&metrics).await;
    for address in uncovered_addresses(&program) {
        // A wildcard of IPv6 stands for IPv4 as well, where the program listens.
        if address.ip() != Ipv6Addr::UNSPECIFIED {
            TcpListener::bind(address).unwrap();
        }
    }
}

#[tokio::test]
async fn a_port_that_cannot_be_reserved_is_warned_about() {
    let other = match TcpListener::bind("[::1]:0") {
        Ok(other) => other,
        Err(error) => {
            eprintln!("SKIPPED: a port taken in IPv6, for there is none: {error}");
            return;
        }
    };
    // It ends for this directory's sake, once it has listened.
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("document"), "x").unwrap();
    let listen = format!("127.0.0.1:{}", other.local_addr().unwrap().port());
    let arguments = [
        ["--listen", &listen],
        ["--piston-url", "http://127.0.0.1:0"],
        ["--data-dir", foreign.path().to_str().unwrap()],
    ]
    .concat();
    let warning = "cannot reserve the port";
    for (network, warnings) in [(&["--allow-network"][..], 1), (&[], 0)] {
        let ended = run(&[&arguments[..], network].concat()).await;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("is not empty"), "{said}");
        assert_eq!(said.matches(warning).count(), warnings, "{said}");
    }
}
