use super::*;

fn execution() -> Execution {
    let query = crate::adapter::azure::Query::default();
    let dialect = crate::adapter::azure::dialect::Dialect::Language("py".to_owned());
    let body = br#"{"code":"print(1)","stdin":"in","args":["a"]}"#;
    crate::adapter::azure::parse(&dialect, query, None, body)
        .unwrap()
        .execution
}

fn limits() -> RunLimits {
    RunLimits {
        run_timeout: Duration::from_secs(60),
        max_run_timeout: Duration::from_secs(220),
        memory: 512 << 20,
    }
}

fn request() -> ExecuteRequest {
    let python = ResolvedLanguage {
        name: "py".to_owned(),
        language: "python".to_owned(),
    };
    piston_request(execution(), python, limits())
}

fn stage(json: &str) -> Stage {
    serde_json::from_str(json).unwrap()
}

fn answer(run: &str, compile: Option<&str>) -> ExecuteResponse {
    ExecuteResponse {
        compile: compile.map(stage),
        run: stage(run),
        language: "x".to_owned(),
        version: "1.0.0".to_owned(),
        kernel: None,
    }
}

fn read(run: &str) -> Outcome {
    outcome(&request(), answer(run, None), usize::MAX).unwrap()
}

#[test]
fn an_execution_becomes_a_request() {
    let request = request();
    assert_eq!(request.language, "py");
    assert_eq!(request.files[0].name, "main.py");
    assert_eq!(request.files[0].content, "print(1)");
    assert_eq!((request.stdin.as_str(), request.args.len()), ("in", 1));
    assert_eq!(request.run_timeout, Some(60_000));
    assert_eq!(request.run_memory_limit, Some(536_870_912));
}

#[test]
fn a_time_limit_is_clamped_and_never_nothing() {
    let run_timeout = |timeout| {
        let python = ResolvedLanguage {
            name: "python".to_owned(),
            language: "python".to_owned(),
        };
        let execution = Execution {
            timeout: Some(timeout),
            ..execution()
        };
        piston_request(execution, python, limits()).run_timeout
    };
    assert_eq!(run_timeout(Duration::from_millis(1500)), Some(1500));
    assert_eq!(run_timeout(Duration::MAX), Some(220_000));
    assert_eq!(run_timeout(Duration::from_micros(10)), Some(1));
}

#[test]
fn each_way_to_end_has_its_exit_code_and_its_last_line() {
    for (run, exit_code, verdict, stderr) in [
        (r#"{"code":0}"#, 0, "success", ""),
        (r#"{"code":3,"status":"RE"}"#, 3, "failure", ""),
        (
            r#"{"signal":"SIGKILL","code":null,"status":"TO","message":"Time limit exceeded (wall clock)","stderr":"x"}"#,
            137,
            "time_limit",
            "x\nTime limit exceeded: stopped after 60 s.\n",
        ),
        (
            r#"{"signal":"SIGKILL","status":"TO","message":"Time limit exceeded"}"#,
            137,
            "cpu_limit",
            "CPU time limit exceeded: stopped.\n",
        ),
        (
            r#"{"signal":"SIGKILL","status":"OL","message":"stdout length exceeded","stderr":"Sandbox keeper received fatal signal 6\n"}"#,
            137,
            "output_limit",
            "Output limit exceeded: stdout was cut and the program was stopped.\n",
        ),
        (
            r#"{"signal":"SIGKILL","status":"EL","stderr":"a\n"}"#,
            137,
            "output_limit",
            "a\nOutput limit exceeded: stderr was cut and the program was stopped.\n",
        ),
        (
            r#"{"code":137,"status":"RE","memory":536870912}"#,
            137,
            "memory_limit",
            "Memory limit exceeded: stopped at 512 MiB.\n",
        ),
        (
            r#"{"code":137,"status":"RE","memory":1000}"#,
            137,
            "signal",
            "",
        ),
        (
            r#"{"signal":"SIGSEGV","code":null,"status":"SG","message":"Caught fatal signal 11"}"#,
            139,
            "signal",
            "Killed by SIGSEGV.\n",
        ),
        (
            r#"{"code":134,"status":"RE","stderr":"/piston/packages/gcc/12.2.0/run: line 6:     3 Aborted                 ./a.out \"$@\"\n"}"#,
            134,
            "signal",
            "Aborted.\n",
        ),
    ] {
        let outcome = read(run);
        assert_eq!(outcome.exit_code, exit_code, "{run}");
        assert_eq!(outcome.verdict.as_str(), verdict, "{run}");
        assert_eq!(outcome.stderr(), stderr, "{run}");
    }
}

#[test]
fn a_compile_error_is_shown_once() {
    let failed = r#"{"code":1,"stderr":"error: x\n","output":"error: x\n","status":"RE"}"#;
    let outcome = outcome(&request(), answer(failed, Some(failed)), usize::MAX).unwrap();
    assert_eq!(outcome.stderr(), "error: x\n");
    assert_eq!(outcome.run.stderr, "");
    assert_eq!((outcome.run.code, outcome.exit_code), (Some(1), 1));
    assert_eq!(outcome.verdict, Verdict::CompileError);
}

/// What the engine's shell and this program say of limits and signals.
const FORGED: [&str; 8] = [
    "Memory limit exceeded: stopped at 512 MiB.",
    "Time limit exceeded: stopped after 60 s.",
    "CPU time limit exceeded: stopped.",
    "Output limit exceeded: stdout was cut and the program was stopped.",
    "Disk limit exceeded: stopped.",
    "Killed",
    "File size limit exceeded",
    "/piston/packages/python/3.11.2/run: line 3:     3 Killed                  python3.11 \"$@\"",
];

#[test]
fn nothing_that_a_program_prints_has_a_say_in_the_verdict() {
    for line in FORGED {
        for (code, verdict) in [
            (0, Verdict::Success),
            (1, Verdict::Failure),
            (137, Verdict::Signal),
            (153, Verdict::Signal),
        ] {
            let printed = format!("{line}\n");
            let run = serde_json::json!({"code": code, "status": "RE", "memory": 1000,
                "stdout": printed, "stderr": printed, "output": printed.repeat(2)});
            let outcome = read(&run.to_string());
            assert_eq!(outcome.verdict, verdict, "{code} {line}");
            assert_eq!(outcome.exit_code, code, "{line}");
            assert_eq!(outcome.timed_out_after, None, "{line}");
        }
    }
}

#[test]
fn what_the_embedded_engine_tells_is_the_verdict() {
    for (run, verdict, stderr) in [
        (
            r#"{"code":137,"status":"RE","memory":1000,"outcome":"memory_limit","stderr":"x\nKilled\n"}"#,
            Verdict::MemoryLimit,
            "x\nMemory limit exceeded: stopped at 512 MiB.\n",
        ),
        (
            r#"{"code":137,"status":"RE","memory":536870912,"outcome":"signal","stderr":"Killed\n"}"#,
            Verdict::Signal,
            "Killed.\n",
        ),
        (
            r#"{"code":153,"status":"RE","outcome":"disk_limit","stderr":"File size limit exceeded\n"}"#,
            Verdict::DiskLimit,
            "Disk limit exceeded: stopped.\n",
        ),
        // A word of a newer engine: the others are left.
        (
            r#"{"code":3,"status":"RE","outcome":"gpu_limit"}"#,
            Verdict::Failure,
            "",
        ),
    ] {
        let outcome = read(run);
        assert_eq!(outcome.verdict, verdict, "{run}");
        assert_eq!(outcome.stderr(), stderr, "{run}");
    }
}

#[test]
fn a_limit_that_stops_the_compiler_is_named_in_the_last_line() {
    let run = r#"{"code":137,"status":"RE","outcome":"memory_limit","stderr":"Killed\n","cpu_time":7.4,"memory":9}"#;
    let outcome = outcome(&request(), answer(run, Some(run)), usize::MAX).unwrap();
    assert_eq!(outcome.verdict, Verdict::CompileError);
    let line = "Memory limit exceeded: the compiler was stopped.\n";
    assert_eq!(outcome.stderr(), line);
    assert_eq!(
        (outcome.cpu_time_ms, outcome.memory_bytes),
        (Some(7), Some(9))
    );
}

#[test]
fn figures_are_those_of_the_stage_that_decided_where_they_are_known() {
    let compile = r#"{"code":0,"cpu_time":100,"memory":1000}"#;
    let run = r#"{"code":1,"cpu_time":20.5,"memory":null}"#;
    let outcome = outcome(&request(), answer(run, Some(compile)), usize::MAX).unwrap();
    assert_eq!(
        (outcome.cpu_time_ms, outcome.memory_bytes),
        (Some(21), None)
    );
}

#[test]
fn a_compiler_that_was_stopped_says_so() {
    let stopped =
        r#"{"signal":"SIGKILL","status":"TO","message":"Time limit exceeded (wall clock)"}"#;
    let outcome = outcome(&request(), answer(stopped, Some(stopped)), usize::MAX).unwrap();
    assert_eq!(
        outcome.stderr(),
        "Time limit exceeded: the compiler was stopped.\n"
    );
    assert_eq!(outcome.exit_code, 137);
    assert_eq!(outcome.verdict, Verdict::CompileError);
}

#[test]
fn warnings_of_a_good_compile_stay_in_its_own_stage() {
    let warned = r#"{"code":0,"stderr":"warning\n"}"#;
    let outcome = outcome(
        &request(),
        answer(r#"{"code":0}"#, Some(warned)),
        usize::MAX,
    )
    .unwrap();
    assert_eq!(outcome.stderr(), "");
    assert_eq!(outcome.compile.unwrap().stderr, "warning\n");
}

#[test]
fn an_answer_without_an_outcome_is_the_engines_fault() {
    let read = |run| outcome(&request(), answer(run, None), usize::MAX).unwrap_err();
    assert!(matches!(
        read(r#"{"status":"XX","code":0}"#),
        ClientError::SandboxFailed
    ));
    assert!(matches!(read("{}"), ClientError::ResponseInvalid(_)));
}

#[test]
fn streams_are_cut_at_a_character_and_stderr_says_so() {
    let cut = |run: &str, max_bytes| outcome(&request(), answer(run, None), max_bytes).unwrap();
    let outcome = cut(r#"{"code":0,"stdout":"aéb","stderr":"err\n"}"#, 200);
    assert_eq!((outcome.stdout(), outcome.stderr()), ("aéb", "err\n"));
    let outcome = cut(
        r#"{"code":0,"stdout":"aéb","stderr":"e\n","output":"aéb"}"#,
        2,
    );
    assert_eq!(outcome.stdout(), "a");
    let notice = "stdout was cut to 2 of 4 bytes, as outputStreamsMaxLength says.\n";
    assert_eq!(outcome.stderr(), format!("e\n{notice}"));
    let long = format!(r#"{{"code":1,"stderr":"{}"}}"#, "x".repeat(3000));
    let outcome = cut(&long, 1000);
    assert!(outcome.stderr().starts_with("xxx") && outcome.stderr().len() <= 1000);
    let last = outcome.stderr().lines().last();
    assert_eq!(
        last,
        Some("stderr was cut to 1000 of 3000 bytes, as outputStreamsMaxLength says.")
    );
}

#[test]
fn why_a_program_was_stopped_is_never_cut() {
    let long = "x".repeat(5000);
    let run = format!(
        r#"{{"signal":"SIGKILL","code":null,"status":"TO","message":"wall clock","stderr":"{long}"}}"#
    );
    for max_bytes in [10, 4096] {
        let outcome = outcome(&request(), answer(&run, None), max_bytes).unwrap();
        let lines: Vec<&str> = outcome.stderr().lines().rev().take(2).collect();
        assert_eq!(lines[0], "Time limit exceeded: stopped after 60 s.");
        assert!(lines[1].ends_with("of 5000 bytes, as outputStreamsMaxLength says."));
    }
    let run = run.replace(&long, "");
    let outcome = outcome(&request(), answer(&run, None), 10).unwrap();
    assert_eq!(
        outcome.stderr(),
        "Time limit exceeded: stopped after 60 s.\n"
    );
}

#[test]
fn a_signal_has_the_name_of_one() {
    let killed = |signal: &str| {
        let run = format!(r#"{{"code":null,"signal":"{signal}"}}"#);
        outcome(&request(), answer(&run, None), usize::MAX)
    };
    assert_eq!(killed("SIGKILL").unwrap().exit_code, 137);
    assert_eq!(killed("SIGRTMIN+15").unwrap().exit_code, 128);
    assert!(matches!(
        killed(&"SIGKILL".repeat(3)),
        Err(ClientError::ResponseInvalid(_))
    ));
}
