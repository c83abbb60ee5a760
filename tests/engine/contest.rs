//! Given a contest's program, when the engine runs it, then the compiler optimizes it by the standard that
//! its language names, and a runtime knows the job's memory limit.
use serde_json::{Value, json};

use crate::support::engine::{Served, config, serve};

const CPP20: &str = "#include <iostream>
#include <ranges>
int main() { for (int i : std::views::iota(1, 4)) std::cout << i; }
";

async fn run(served: &Served, language: &str, code: &str, memory: u64) -> Value {
    let body = json!({
        "language": language, "version": "*", "files": [{"content": code}],
        "run_memory_limit": memory,
    });
    let response = served.execute(&body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

/// A program that prints what the compiler says of itself.
fn dialect(language: &str) -> String {
    let (header, version) = match language.starts_with("c++") {
        true => ("cstdio", "__cplusplus"),
        false => ("stdio.h", "__STDC_VERSION__"),
    };
    format!(
        "#include <{header}>\n#ifndef __OPTIMIZE__\n#error not optimized\n#endif\nint main(void) {{ printf(\"%ld\", (long){version}); }}\n"
    )
}

#[tokio::test]
async fn c_and_cpp_are_optimized_and_have_the_standard_that_the_language_names() {
    let served = serve(config()).await;
    let installed = served.languages().await;
    let expected = [
        ("c", "201112"),
        ("c11", "201112"),
        ("c17", "201710"),
        ("c++", "201703"),
        ("c++17", "201703"),
        ("c++20", "202002"),
    ];
    for (language, version) in expected {
        if !installed.contains(language) {
            eprintln!("SKIPPED: {language}");
            continue;
        }
        let ran = run(&served, language, &dialect(language), 256 << 20).await;
        assert_eq!(ran["run"]["stdout"], version, "{language}: {ran}");
        assert_eq!(ran["language"], language, "{ran}");
    }
    if installed.contains("c++20") {
        let ran = run(&served, "c++20", CPP20, 256 << 20).await;
        assert_eq!(ran["run"]["stdout"], "123", "{ran}");
    }
}

/// It keeps 200 MiB, and makes much more of what can be collected.
const JAVA_LIVE: &str = "import java.util.*;
public class Main {
    static byte[] junk;
    public static void main(String[] a) {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 200; i++) { byte[] b = new byte[1 << 20]; Arrays.fill(b, (byte) 1); kept.add(b); }
        long sum = 0;
        for (int i = 0; i < 60; i++) { junk = new byte[60 << 20]; Arrays.fill(junk, (byte) 2); sum += junk[i]; }
        System.out.println(sum + kept.size());
    }
}
";

#[tokio::test]
async fn a_heap_is_as_large_as_the_memory_limit_allows() {
    let served = serve(config()).await;
    let installed = served.languages().await;
    let java_hello = "public class Main { public static void main(String[] a) { System.out.println(\"fine\"); } }";
    // It makes 400 MB of garbage, of which little is alive at a time.
    let node_garbage = "let kept; for (let n = 0; n < 400; n++) kept = Array.from({length: 125000}, () => n); console.log('fine')";
    let node_too_much = "const kept = []; for (;;) kept.push(new Array(100000).fill(kept.length));";
    let cases = [
        ("java", java_hello, 96, "fine\n", ""),
        ("java", JAVA_LIVE, 512, "320\n", ""),
        ("javascript", node_garbage, 192, "fine\n", ""),
        ("javascript", node_too_much, 192, "", "heap out of memory"),
        (
            "go",
            "package main\nimport (\"fmt\"; \"os\")\nfunc main() { fmt.Println(os.Getenv(\"GOMEMLIMIT\")) }",
            200,
            "180MiB\n",
            "",
        ),
    ];
    for (language, code, memory, stdout, stderr) in cases {
        if !installed.contains(language) {
            eprintln!("SKIPPED: {language}");
            continue;
        }
        let ran = run(&served, language, code, memory << 20).await;
        assert_eq!(
            ran["run"]["stdout"], stdout,
            "{language}, {memory} MiB: {ran}"
        );
        let said = ran["run"]["stderr"].as_str().unwrap();
        assert!(said.contains(stderr), "{language}, {memory} MiB: {ran}");
    }
}

async fn run_for_a_second(served: &Served, limit: &str, code: &str, interrupt: bool) -> Value {
    let body = json!({
        "language": "python", "version": "*", "files": [{"content": code}],
        limit: 1000, "interrupt": interrupt,
    });
    let response = served.execute(&body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()["run"].take()
}

#[tokio::test]
async fn what_python_has_printed_before_a_time_limit_is_not_lost() {
    let served = serve(config()).await;
    let sleeping = "import time\nprint('step')\ntime.sleep(60)\nprint('never')";
    let busy = "print('step')\nwhile True: pass";
    let children = "import os, time\nprint('step', flush=True)\nfor n in range(3):\n    if os.fork() == 0: time.sleep(60)\ntime.sleep(60)";
    let deaf = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('step')\ntime.sleep(60)";
    let goes_on = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('caught', flush=True); time.sleep(60)";
    for (limit, code, interrupt, stdout) in [
        ("run_timeout", sleeping, true, "step\n"),
        ("run_timeout", sleeping, false, ""),
        ("run_timeout", children, true, "step\n"),
        ("run_timeout", deaf, true, ""),
        ("run_timeout", goes_on, true, "caught\n"),
        ("run_cpu_time", busy, true, "step\n"),
        ("run_cpu_time", busy, false, ""),
    ] {
        let run = run_for_a_second(&served, limit, code, interrupt).await;
        assert_eq!(run["stdout"], stdout, "{code}: {run}");
        let outcome = if limit == "run_timeout" {
            "time_limit"
        } else {
            "cpu_limit"
        };
        assert_eq!(run["outcome"], outcome, "{code}: {run}");
        assert_eq!(
            (&run["code"], &run["signal"]),
            (&Value::Null, &json!("SIGKILL")),
            "{run}"
        );
        let stderr = run["stderr"].as_str().unwrap();
        let has_traceback = interrupt && [sleeping, busy].contains(&code);
        assert_eq!(
            stderr.contains("KeyboardInterrupt"),
            has_traceback || code == children,
            "{run}"
        );
    }
}
