//! Kernels: variables that last, and what becomes of them.

use std::time::Duration;

use crate::support::raw::{self, Connection, Response};
use crate::support::{Program, end_of_execution, eventually, run_python};
use serde_json::{Value, json};

const NEWEST: &str = "api-version=2025-10-02-preview";

async fn post(program: &Program, path: &str, body: &Value) -> Response {
    raw::post(program.addr, path, &body.to_string()).await
}

/// Runs a cell in the kernel of this identifier.
async fn cell_of(program: &Program, identifier: &str, body: &Value) -> Value {
    let path = format!("/execute?identifier={identifier}");
    let response = post(program, &path, body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let mut json = response.json();
    json["generation"] = response.header("kernel-generation").parse().unwrap();
    json
}

async fn cell(program: &Program, code: &str) -> Value {
    cell_of(program, "test", &json!({"code": code})).await
}

fn last_line(response: &Value) -> &str {
    let stderr = response["stderr"].as_str().unwrap();
    stderr.trim_end().lines().next_back().unwrap_or_default()
}

async fn result(program: &Program, code: &str) -> Value {
    let response = cell(program, code).await;
    assert_eq!(response["status"], "Success", "{response}");
    response["result"].clone()
}

#[tokio::test]
async fn variables_last_on_every_dialect_whose_clients_expect_it() {
    let program = Program::start(&[]).await;
    let of = |path: &str| format!("{path}?identifier=test&{NEWEST}");
    let code = json!({"properties": {"code": "x = 1"}});
    post(&program, "/code/execute?identifier=test", &code).await;
    let code = json!({"code": "x += 1; x"});
    let response = post(&program, &of("/executions"), &code).await.json();
    assert_eq!(response["result"]["executionResult"], 2, "{response}");
    let response = post(&program, &of("/execute"), &code).await.json();
    assert_eq!(response["executionResult"], 3, "{response}");
    let code = json!({"properties": {"pythonCode": "x += 1; x"}});
    let response = post(&program, &of("/python/execute"), &code).await.json();
    assert_eq!(response["properties"]["result"], 4, "{response}");
    let code = json!({"properties": {"code": "x += 1; x"}});
    let response = post(&program, &of("/code/execute"), &code).await.json();
    assert_eq!(response["properties"]["result"], 5, "{response}");
    let code = json!({"code": "x += 1; x", "executionType": "Asynchronous"});
    let accepted = post(&program, &of("/executions"), &code).await;
    let location = accepted.header("operation-location");
    let resource = end_of_execution(program.addr, location).await;
    assert_eq!(resource["result"]["executionResult"], 6, "{resource}");
    let code = json!({"code": "x += 1; x", "language": "Python3"});
    let response = post(&program, &of("/execute"), &code).await;
    assert_eq!(response.json()["result"], 7);
    assert_eq!(response.header("kernel-generation"), "1");
}

#[tokio::test]
async fn each_identifier_has_its_kernel_and_those_without_share_one() {
    let program = Program::start(&[]).await;
    for (identifier, value) in [("one-1", 1), ("two-2", 2)] {
        cell_of(
            &program,
            identifier,
            &json!({"code": format!("x = {value}")}),
        )
        .await;
    }
    let code = json!({"code": "x"});
    assert_eq!(cell_of(&program, "one-1", &code).await["result"], 1);
    assert_eq!(cell_of(&program, "two-2", &code).await["result"], 2);
    post(&program, "/execute", &json!({"code": "y = 3"})).await;
    let response = post(&program, "/code/execute", &json!({"code": "y"})).await;
    assert_eq!(response.json()["properties"]["result"], 3);
    let response = cell_of(&program, "one-1", &json!({"code": "y"})).await;
    assert_eq!(last_line(&response), "NameError: name 'y' is not defined");
}

#[tokio::test]
async fn everything_else_has_a_fresh_process() {
    let program = Program::start(&[]).await;
    cell(&program, "x = 1").await;
    let code = "print('x' in globals())";
    for (path, body) in [
        ("/executions", json!({"code": code, "useEmptyKernel": true})),
        ("/executions", json!({"code": code, "args": ["a"]})),
        ("/python/execute", json!({"code": code})),
        (
            "/execute",
            json!({"shellCommand": format!("python3 -c \"{code}\"")}),
        ),
    ] {
        let response = post(&program, &format!("{path}?identifier=test&{NEWEST}"), &body).await;
        let text = response.text();
        assert!(text.contains("\"stdout\":\"False\\n\""), "{path}: {text}");
        assert_eq!(response.header("kernel-generation"), "");
    }
    let body = json!({"code": "6*7", "useEmptyKernel": true});
    let fresh = post(&program, "/executions?identifier=test", &body);
    assert_eq!(fresh.await.json()["result"]["executionResult"], "");
    let off = Program::start(&["--kernel", "off"]).await;
    post(&off, "/execute", &json!({"code": "x = 1"})).await;
    let response = post(&off, "/execute", &json!({"code": code})).await;
    assert_eq!(response.json()["stdout"], "False\n");
    let about = raw::get(off.addr, "/").await.json();
    assert!(about["variables"].as_str().unwrap().starts_with("fresh"));
}

#[tokio::test]
async fn a_value_is_told_as_the_clients_read_it() {
    let program = Program::start(&[]).await;
    for (code, value) in [
        ("6*7", json!(42)),
        ("'text'", json!("text")),
        ("'42'", json!("42")),
        ("[1, 2]", json!([1, 2])),
        ("{'a': 1}", json!("{'a': 1}")),
        ("True", json!(true)),
        ("float('nan')", json!("nan")),
        ("x = 'é'\nx", json!("é")),
        ("{3}", json!("{3}")),
        ("None", json!("")),
        ("print(1)", json!("")),
        ("x = 1", json!("")),
        ("", json!("")),
        ("# comment\n", json!("")),
        ("'x' * 10\nimport sys; sys.exit(0)", json!("")),
        ("import os, sys\nos.close(2)\nos.close(1)\n7", json!(7)),
        ("import sys\nsys.stderr.close()\n8", json!(8)),
        ("print('shown')\n9", json!(9)),
        ("5;", json!("")),
        (
            "import asyncio\nawait asyncio.sleep(0, 'done')",
            json!("done"),
        ),
    ] {
        assert_eq!(result(&program, code).await, value, "{code}");
    }
    let long = result(&program, "list(range(10**5))").await;
    assert_eq!(&long.as_array().unwrap()[..2], [json!(0), json!(1)]);
    let text = result(&program, "'é' * 10**6").await;
    assert_eq!(text.as_str().unwrap().chars().count(), 1_000_000);
    let text = format!("/executions?identifier=test&{NEWEST}");
    let old = "/executions?identifier=test&api-version=2025-02-02-preview";
    let body = json!({"code": "6*7"});
    let response = post(&program, old, &body).await.json();
    assert_eq!(response["result"]["executionResult"], "42");
    for (code, value) in [("None", json!(null)), ("'nan'", json!("'nan'"))] {
        let body = json!({"code": code, "returnJupyterFormatExecutionResult": true});
        let response = post(&program, &text, &body).await.json();
        assert_eq!(response["result"]["executionResult"], value, "{code}");
    }
    let response = cell(&program, "6*7").await;
    assert_eq!(
        response["outputs"],
        json!([{"data": {"text/plain": "42"}, "metadata": {}}])
    );
}

#[tokio::test]
async fn a_limit_keeps_the_variables_where_the_code_can_be_interrupted() {
    let program = Program::start(&["--kernel-interrupt-grace", "1"]).await;
    cell(&program, "x = 1").await;
    let limited = |code: &str| json!({"code": code, "timeoutInSeconds": 0.5});
    for code in [
        "print('before')\nimport time\ntime.sleep(600)",
        "print('before')\nwhile True: pass",
        "print('before')\nimport os\nos.system('sleep 600')",
        "print('before')\nimport asyncio\nawait asyncio.sleep(600)",
        "print('before')\nimport threading\nthreading.Event().wait()",
        "print('before')\nimport asyncio, time\nasync def spin():\n  for _ in range(1000): time.sleep(0.01)\n\
         await asyncio.gather(spin(), spin())",
        "print('before')\nimport asyncio, time\n\
         asyncio.get_running_loop().call_soon(time.sleep, 600)\nawait asyncio.sleep(600)",
    ] {
        let response = cell_of(&program, "test", &limited(code)).await;
        assert_eq!(response["outcome"], "time_limit", "{response}");
        assert_eq!(response["stdout"], "before\n", "{response}");
        assert_eq!(
            last_line(&response),
            "Time limit exceeded: stopped after 0.5 s; variables were kept."
        );
        assert!(!response["stderr"].as_str().unwrap().contains("kernel.py"));
        assert_eq!(result(&program, "x").await, 1, "{code}");
    }
    let stubborn = "print('before')\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n\
                    import time\ntime.sleep(600)";
    let response = cell_of(&program, "test", &limited(stubborn)).await;
    assert_eq!(response["outcome"], "time_limit", "{response}");
    assert_eq!(response["stdout"], "before\n", "{response}");
    assert_eq!(
        last_line(&response),
        "Time limit exceeded: stopped after 0.5 s; the interpreter was restarted and its variables \
         are lost."
    );
    assert_eq!(response["generation"], 1);
    let response = cell(&program, "x").await;
    assert_eq!(last_line(&response), "NameError: name 'x' is not defined");
    assert_eq!(response["generation"], 2);
}

#[tokio::test]
async fn an_interpreter_that_ends_is_told_with_its_cause() {
    let program = Program::start(&["--kernel-memory-limit", "128MiB"]).await;
    let fork = "import os, time\nfor _ in range(3):\n  if os.fork() == 0:\n    \
                x = bytearray(b'x') * (90 << 20)\n    time.sleep(60)\ntime.sleep(60)";
    for (generation, (code, outcome, line)) in (1..).zip([
        (
            "import os; print('before', flush=True); os._exit(3)",
            "failure",
            "The interpreter ended with exit code 3",
        ),
        (
            "import os; print('before', flush=True); os.kill(os.getpid(), 11)",
            "signal",
            "Segmentation fault",
        ),
        (
            "import os; print('before', flush=True); os.kill(os.getpid(), 9)",
            "signal",
            "Killed",
        ),
        (
            &format!("print('before', flush=True)\n{fork}"),
            "memory_limit",
            "Memory limit exceeded: stopped at 128 MiB",
        ),
    ]) {
        let response = cell(&program, code).await;
        assert_eq!(response["outcome"], outcome, "{response}");
        assert_eq!(response["stdout"], "before\n", "{response}");
        let expected = format!("{line}; the interpreter was restarted and its variables are lost.");
        assert_eq!(last_line(&response), expected);
        assert_eq!(response["generation"], generation);
    }
    // Python's own error comes first, where it can.
    cell(&program, "x = 1").await;
    let response = cell(&program, "y = bytearray(1 << 30)").await;
    assert_eq!(last_line(&response), "MemoryError", "{response}");
    assert_eq!(result(&program, "x").await, 1);
    let metrics = raw::get(program.addr, "/metrics").await.text();
    for sample in [
        "kernel_losses_total{reason=\"crashed\"} 3",
        "kernel_losses_total{reason=\"memory_limit\"} 1",
    ] {
        assert!(metrics.contains(sample), "{metrics}");
    }
}

#[tokio::test]
async fn a_cell_ends_and_its_kernel_goes_on() {
    let program = Program::start(&["--output-limit", "100KiB"]).await;
    cell(&program, "x = 1").await;
    for (code, exit_code) in [
        ("import sys; sys.exit(3)", 3),
        ("exit()", 0),
        ("raise SystemExit('bye')", 1),
        ("1/0", 1),
        ("def f(): return f()\nf()", 1),
        ("x = ", 1),
        (
            "import os\nif os.fork() == 0: raise SystemExit(9)\nos.wait()",
            0,
        ),
        ("while True: print('y' * 1000)", 137),
    ] {
        let response = cell(&program, code).await;
        assert_eq!(response["exitCode"], exit_code, "{response}");
        assert_eq!(result(&program, "x").await, 1, "{code}");
    }
    let response = cell(&program, "while True: print('y' * 1000)").await;
    assert_eq!(response["outcome"], "output_limit");
    assert!(last_line(&response).ends_with("; variables were kept."));
}

#[tokio::test]
async fn a_client_that_goes_away_interrupts_its_cell_alone() {
    let program = Program::start(&[]).await;
    cell(&program, "x = 1").await;
    let body = json!({"code": "open('begun', 'w').close()\nimport time\ntime.sleep(600)\nx = 2"});
    let mut connection = Connection::to(program.addr).await;
    let headers = [("Content-Type", "application/json")];
    let request = raw::request(
        "POST",
        "/execute?identifier=test",
        &headers,
        &body.to_string(),
    );
    connection.send(&request).await;
    eventually("the cell has begun", async || {
        raw::get(program.addr, "/files/begun").await.status == 200
    })
    .await;
    // This one waits behind it, and gives up.
    let mut waiting = Connection::to(program.addr).await;
    let body = json!({"code": "x = 3"}).to_string();
    let request = raw::request("POST", "/execute?identifier=test", &headers, &body);
    waiting.send(&request).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(waiting);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(connection);
    let response = cell(&program, "x").await;
    assert_eq!(response["result"], 1, "{response}");
    assert_eq!(response["generation"], 1);
}

#[tokio::test]
async fn a_long_cell_delays_its_own_kernel_alone() {
    let program = Program::start(&["--max-jobs", "2"]).await;
    let body = json!({"executionType": "Asynchronous",
        "code": "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nx = [0]"});
    let path = format!("/executions?identifier=test&{NEWEST}");
    post(&program, &path, &body).await;
    let mut queued = Vec::new();
    for number in 1..=4 {
        let code = format!("x.append({number}); x");
        let body = json!({"executionType": "Asynchronous", "code": code});
        let accepted = post(&program, &path, &body).await;
        queued.push(accepted.header("operation-location").to_owned());
    }
    let other = cell_of(&program, "other", &json!({"code": "6*7"})).await;
    assert_eq!(other["result"], 42);
    assert_eq!(run_python(&program, "print(1)").await["stdout"], "1\n");
    assert_eq!(raw::get(program.addr, "/ready").await.status, 200);
    let upload = raw::post(
        program.addr,
        "/execute?identifier=other",
        r#"{"code":"open('go','w')"}"#,
    );
    assert_eq!(upload.await.status, 200);
    let mut last = Value::Null;
    for location in queued {
        last = end_of_execution(program.addr, &location).await["result"]["executionResult"].clone();
    }
    assert_eq!(last, json!([0, 1, 2, 3, 4]));
}

#[tokio::test]
async fn deletion_ends_the_kernels() {
    let program = Program::start(&[]).await;
    cell(
        &program,
        "import subprocess; p = subprocess.Popen(['sleep', '987654']); x = 1",
    )
    .await;
    let running = json!({"code": "import time; time.sleep(600)", "executionType": "Asynchronous"});
    post(&program, "/executions?identifier=other", &running).await;
    let deleted = raw::exchange(
        program.addr,
        raw::request("DELETE", "/session?identifier=test", &[], ""),
    )
    .await;
    assert!(deleted.status < 300, "{}", deleted.text());
    let response = cell(&program, "x").await;
    assert_eq!(last_line(&response), "NameError: name 'x' is not defined");
    // It is a new session's kernel, which has lost nothing.
    assert!(
        response["stderr"].as_str().unwrap().starts_with(['-', 'T']),
        "{response}"
    );
    let about = raw::get(program.addr, "/").await.json();
    assert_eq!(about["kernels"]["running"], 1, "{about}");
}

#[tokio::test]
async fn what_is_left_running_does_not_print_into_a_later_cell() {
    let program = Program::start(&[]).await;
    let process = "import os, subprocess\nos.mkfifo('go')\n\
                   p = subprocess.Popen(['sh', '-c', 'read x < go; echo late; touch printed'])\n\
                   print('first')";
    let response = cell(&program, process).await;
    assert_eq!(response["stdout"], "first\n", "{response}");
    let thread = "import threading\nevent, printed = threading.Event(), threading.Event()\n\
                  def late():\n    event.wait(); print('late'); printed.set()\n\
                  threading.Thread(target=late).start()";
    cell(&program, thread).await;
    let code =
        "open('go', 'w').write('x\\n'); event.set(); printed.wait(); p.wait()\nprint('mine')";
    let response = cell(&program, code).await;
    assert_eq!(response["stdout"], "mine\n", "{response}");
}

#[tokio::test]
async fn a_kernel_that_gives_way_to_another_is_told() {
    let program = Program::start(&["--max-kernels", "2"]).await;
    let code = json!({"code": "x = 1"});
    for identifier in ["one-1", "two-2", "three"] {
        cell_of(&program, identifier, &code).await;
    }
    let response = cell_of(&program, "three", &json!({"code": "x"})).await;
    assert_eq!(response["result"], 1);
    let response = cell_of(&program, "one-1", &json!({"code": "print(1)"})).await;
    assert_eq!(response["generation"], 2);
    assert_eq!(response["status"], "Success");
    assert_eq!(
        response["stderr"],
        "The interpreter was restarted because others needed its place: its variables are lost.\n"
    );
    let response = cell_of(&program, "one-1", &json!({"code": "print(1)"})).await;
    assert_eq!(response["stderr"], "");
    let idle = Program::start(&["--kernel-idle-timeout", "1"]).await;
    cell(&idle, "x = 1").await;
    eventually("the kernel has ended", async || {
        raw::get(idle.addr, "/").await.json()["kernels"]["running"] == 0
    })
    .await;
    let response = cell(&idle, "print(1)").await;
    assert_eq!(
        response["stderr"],
        "The interpreter was restarted because it had been idle for too long: its variables are lost.\n"
    );
}

#[tokio::test]
async fn what_a_cell_forges_harms_its_own_session_alone() {
    let program = Program::start(&[]).await;
    cell_of(&program, "other", &json!({"code": "x = 1"})).await;
    for forged in [
        "b'\\xff\\xff\\xff\\xff'",
        "b'\\x02\\0\\0\\0{}'",
        "b'\\x05\\0\\0\\0{]\\0ab'",
        "b'\\x10\\0\\0\\0{\"clear\":99999999'",
    ] {
        let code = format!("import os, time\nos.write(3, {forged})\ntime.sleep(600)");
        let response = cell(&program, &code).await;
        assert_eq!(response["status"], "Failure", "{response}");
        assert!(
            last_line(&response).ends_with("its variables are lost."),
            "{response}"
        );
        assert_eq!(result(&program, "6*7").await, 42);
    }
    let closed = cell(&program, "import os, time\nos.close(3)\ntime.sleep(0.1)").await;
    assert_eq!(closed["status"], "Failure", "{closed}");
    let response = cell_of(&program, "other", &json!({"code": "x"})).await;
    assert_eq!(
        (&response["result"], &response["generation"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn a_cell_reads_stdin_and_the_next_one_does_not() {
    let program = Program::start(&[]).await;
    let body = json!({"code": "a = input(); b = input(); (a, b)", "stdin": "1\n2\n3\n"});
    let response = cell_of(&program, "test", &body).await;
    assert_eq!(response["result"], "('1', '2')", "{response}");
    let response = cell(&program, "input()").await;
    assert_eq!(last_line(&response), "EOFError: EOF when reading a line");
}

#[tokio::test]
async fn files_of_a_cell_are_the_sessions() {
    let program = Program::start(&[]).await;
    let code = "import os\nos.makedirs('a/b', mode=0o700)\nopen('a/b/f', 'w').write('1')";
    cell(&program, code).await;
    let deleted = raw::exchange(
        program.addr,
        raw::request("DELETE", "/files/f?path=a/b", &[], ""),
    )
    .await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    cell(&program, "open('a/b/g', 'w').write('2')").await;
    let response = run_python(&program, "print(open('a/b/g').read())").await;
    assert_eq!(response["stdout"], "2\n", "{response}");
}

#[tokio::test]
async fn a_cell_that_tampers_with_the_loop_keeps_its_variables() {
    let program = Program::start(&[]).await;
    cell(&program, "x = 1\nimport asyncio").await;
    for code in [
        "for task in asyncio.all_tasks(): task.cancel()",
        "for task in asyncio.all_tasks(): task.cancel()\nawait asyncio.sleep(1)",
        "asyncio.get_running_loop().stop()",
        "asyncio.get_running_loop().close()",
        "asyncio.set_event_loop(None)",
        "import sys\nsys.stdout = sys.stderr = sys.stdin = None",
        "import os\nfor n in range(3): os.close(n)",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
        "import sys\nsys.settrace(lambda *_: None)",
    ] {
        cell(&program, code).await;
        assert_eq!(result(&program, "x").await, 1, "{code}");
    }
    // What the kernel itself cannot do without ends it, which is told.
    let response = cell(&program, "import json\ndel json.dumps").await;
    assert!(
        last_line(&response).ends_with("its variables are lost."),
        "{response}"
    );
    assert_eq!(result(&program, "6*7").await, 42);
}

/// A kernel that does not read what it is sent, or sends without end, is stopped like any other, and nobody
/// else waits for it.
#[tokio::test]
async fn a_kernel_that_does_not_listen_is_stopped_at_its_limit() {
    let program = Program::start(&["--max-jobs", "1", "--kernel-interrupt-grace", "1"]).await;
    let limited = |code: &str| json!({"code": code, "timeoutInSeconds": 1});
    let flood = "import os, json, struct, time, socket\n\
                 b = json.dumps({'clear': 1}).encode(); m = struct.pack('<I', len(b)) + b\n\
                 s = socket.socket(fileno=os.dup(3))\nfor i in range(3000): s.sendall(m)\ntime.sleep(600)";
    let response = cell_of(&program, "test", &limited(flood)).await;
    assert_eq!(response["status"], "Failure", "{response}");
    assert!(last_line(&response).ends_with("its variables are lost."));
    let deaf =
        "import asyncio, time\nasyncio.get_running_loop().call_later(0.1, time.sleep, 9999);";
    cell(&program, deaf).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let large = format!("#{}\n1", "x".repeat(1_000_000));
    let response = cell_of(&program, "test", &limited(&large)).await;
    assert_eq!(response["outcome"], "time_limit", "{response}");
    assert_eq!(run_python(&program, "print(1)").await["stdout"], "1\n");
    assert_eq!(result(&program, "6*7").await, 42);
}

#[tokio::test]
async fn an_error_beyond_the_shell_is_an_error_of_the_cell() {
    let program = Program::start(&[]).await;
    cell(&program, "x = 1").await;
    let sum = ["1"; 5000].join("+");
    for code in [
        "import sys\nsys.stderr.close()\n1/0",
        "import sys\nsys.stderr = object()\n1/0",
        "import sys\nsys.stderr.close()\nsys.exit('bye')",
        "class E(int):\n  def __and__(self, other): raise ValueError\nraise SystemExit(E(3))",
        &sum,
    ] {
        let response = cell(&program, code).await;
        assert_ne!(response["outcome"], "time_limit", "{response}");
        assert_eq!(result(&program, "x").await, 1, "{code}");
    }
}

/// What a process that lives on has used in earlier cells does not count again.
#[tokio::test]
async fn cpu_time_counts_for_each_cell() {
    let program = Program::start(&["--cpu-limit", "2"]).await;
    let worker = "open('worker.py', 'w').write('''import time
while True:
    input()
    until = time.process_time() + 0.8
    while time.process_time() < until: pass
    print(1, flush=True)
''')
import subprocess, sys
worker = subprocess.Popen([sys.executable, 'worker.py'], stdin=-1, stdout=-1, text=True)";
    cell(&program, worker).await;
    for _ in 0..4 {
        let code = "print('', file=worker.stdin, flush=True); worker.stdout.readline()";
        let response = cell(&program, code).await;
        assert_eq!(response["outcome"], "success", "{response}");
        let used = response["cpuTimeInMilliseconds"].as_u64().unwrap();
        assert!((500..2000).contains(&used), "{response}");
    }
}

#[tokio::test]
async fn the_notice_of_a_restart_is_not_cut() {
    let program = Program::start(&[]).await;
    let code = "import os, threading, time
def end():
    while not os.path.exists('end'): time.sleep(0.01)
    os._exit(1)
threading.Thread(target=end).start()";
    cell(&program, code).await;
    run_python(&program, "open('end', 'w')").await;
    eventually("the kernel has ended", async || {
        raw::get(program.addr, "/").await.json()["kernels"]["running"] == 0
    })
    .await;
    let body = json!({"code": "print('x' * 1000)", "outputStreamsMaxLength": 10});
    let response = cell_of(&program, "test", &body).await;
    let stderr = response["stderr"].as_str().unwrap();
    let notice =
        "The interpreter was restarted because it had ended by itself: its variables are lost.\n";
    assert!(stderr.starts_with(notice), "{stderr}");
}
