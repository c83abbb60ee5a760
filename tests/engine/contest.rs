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
