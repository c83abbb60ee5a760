//! When the machine lets the embedded engine down: the client is told, the log says why, and the
//! engine works again once the cause is gone, without a restart, or else ends so that it is started
//! anew. It is the program itself that runs here, with the engine's own processes.
//!
//! Most of these faults only root can bring about; where they cannot be, the test is ignored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::command::bounded_command;
use crate::support::conditional::{ProcessGroup, Tests, process_group, tests};
use crate::support::folder::{open_folder, subfolder};
use crate::support::processes::is_running;
use crate::support::raw::{self, Connection};
use crate::support::{Program, end_of_execution, eventually, form};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};
use tokio::time::sleep;

async fn python(program: &Program, code: &str) -> raw::Response {
    let body = json!({ "code": code }).to_string();
    raw::post(program.addr, "/python/execute", &body).await
}

async fn works(program: &Program) {
    let response = python(program, "print(6 * 7)").await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["stdout"], "42\n");
}

async fn works_again(program: &Program) {
    eventually("it works again", async || {
        python(program, "print(1)").await.status == 200
    })
    .await;
    works(program).await;
}

/// Has an execution accepted, and asks for it until it is over.
async fn later(program: &Program, id: &str, body: Value) -> Value {
    let headers = [("Content-Type", "application/json"), ("operation-id", id)];
    let request = raw::request("POST", "/executions", &headers, &body.to_string());
    let accepted = raw::exchange(program.addr, request).await;
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    end_of_execution(program.addr, &format!("/executions/{id}")).await
}

fn asynchronous(code: &str) -> Value {
    json!({"code": code, "executionType": "Asynchronous"})
}

/// An execution and an asynchronous one fail like this.
async fn fail_with(program: &Program, status: u16, code: &str, id: &str) {
    let response = python(program, "print(1)").await;
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.json()["error"]["code"], code);
    let resource = later(program, id, asynchronous("print(1)")).await;
    assert_eq!(resource["status"], "Failed", "{resource}");
    assert_eq!(resource["error"]["error"]["code"], code, "{resource}");
}

async fn upload(program: &Program, name: &str, bytes: usize) -> raw::Response {
    form::upload(program.addr, "/files", name, "x".repeat(bytes).as_bytes()).await
}

fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn spawner(program: &Program) -> i32 {
    children(program.pid())[0]
}

fn signal(pid: i32, signal: Signal) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Sets the soft limit of another process; returns the one that it had.
fn limit(pid: i32, resource: Resource, current: Option<u64>) -> Option<u64> {
    // The hard limit stays: it could not be raised again.
    let name = match resource {
        Resource::Nofile => "Max open files",
        _ => "Max address space",
    };
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let maximum = line.unwrap().split_whitespace().nth(1).unwrap();
    let maximum = maximum.parse().ok();
    let new = Rlimit { current, maximum };
    let before = rustix::process::prlimit(Pid::from_raw(pid), resource, new);
    before.unwrap().current
}

/// Root that lacks a right would otherwise fail at the first files, or the first job.
async fn root_without_a_right_that_it_needs_does_not_start_and_names_it() {
    use rustix::thread::CapabilitySet;
    for (right, name) in [
        (CapabilitySet::FOWNER, "CAP_FOWNER"),
        (CapabilitySet::CHOWN, "CAP_CHOWN"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
    ] {
        let folder = open_folder();
        let temp = folder.path().to_owned();
        // A thread of its own, for what it gives up is gone for it and for what it starts.
        let started = std::thread::spawn(move || {
            rustix::thread::remove_capability_from_bounding_set(right).unwrap();
            bounded_command(env!("CARGO_BIN_EXE_session-adapter"))
                .env("TMPDIR", &temp)
                .args([
                    "--listen",
                    "127.0.0.1:0",
                    "--piston-url",
                    "http://127.0.0.1:0",
                    "--data-dir",
                ])
                .arg(&temp)
                .output()
                .unwrap()
        });
        let output = started.join().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        let expected = format!(
            "session-adapter: jobs cannot be contained here, for want of: users of their own for \
             jobs ({name} missing); --allow-weak-sandbox runs them all the same, for code that you would run yourself\n"
        );
        assert_eq!(stderr, expected);
    }
}

/// A job whose keeper is killed, as by the kernel when memory runs out.
async fn a_job_whose_keeper_is_killed_is_told_and_its_slot_used_again() {
    let mut program = Program::start(&["--max-jobs", "1", "--warm", "0", "--kernel", "off"]).await;
    let spawner = spawner(&program);
    works(&program).await;
    // More often than there are slots.
    for number in 0..8 {
        let id = format!("id-{number}");
        let run = later(&program, &id, asynchronous("import time; time.sleep(600)"));
        let kill = async {
            let mut keeper = None;
            // Its own processes are there when it has begun; others have ended before.
            eventually("a keeper has started its job", async || {
                keeper = children(spawner)
                    .into_iter()
                    .find(|pid| !children(*pid).is_empty());
                keeper.is_some()
            })
            .await;
            signal(keeper.unwrap(), Signal::KILL);
        };
        let (resource, ()) = tokio::join!(run, kill);
        // It may have been a readiness check that was hit: then the execution goes on.
        assert_eq!(resource["status"], "Failed", "{resource}");
        assert_eq!(
            resource["error"]["error"]["code"], "EngineFailed",
            "{resource}"
        );
        let line = program.logged("an execution failed").await;
        assert_eq!(line["error"], "the sandbox ended unexpectedly");
        let line = program.logged_of("execution", &id).await;
        assert_eq!(
            line["cause"],
            "the engine failed with status 500 Internal Server Error"
        );
        works(&program).await;
    }
}

/// A spawner that hangs: no job starts, and those that were to start come to their end.
async fn a_spawner_that_hangs_is_waited_for_as_long_as_an_answer_may_take() {
    let arguments = [
        "--max-run-timeout",
        "10",
        "--compile-timeout",
        "1",
        "--warm",
        "0",
    ];
    let program = Program::start(&arguments).await;
    works(&program).await;
    let spawner = spawner(&program);
    signal(spawner, Signal::STOP);
    let (response, resource) = tokio::join!(
        python(&program, "print(1)"),
        later(&program, "async", asynchronous("print(1)")),
    );
    assert_eq!(response.status, 504, "{}", response.text());
    assert_eq!(
        resource["error"]["error"]["code"], "EngineTimeout",
        "{resource}"
    );
    signal(spawner, Signal::CONT);
    works_again(&program).await;
}

/// Files that nobody can delete, not even root, as on a disk with faults.
struct Undeletable(PathBuf);

impl Undeletable {
    fn make(path: PathBuf) -> Self {
        use rustix::fs::{IFlags, ioctl_setflags};
        let file = fs::File::open(&path).unwrap();
        ioctl_setflags(&file, IFlags::IMMUTABLE).unwrap();
        Self(path)
    }
}

impl Drop for Undeletable {
    fn drop(&mut self) {
        use rustix::fs::{IFlags, ioctl_setflags};
        let file = fs::File::open(&self.0).unwrap();
        ioctl_setflags(&file, IFlags::empty()).unwrap();
    }
}

/// Each such slot is given up with a word; when the last one is, the program ends.
async fn slots_that_cannot_be_cleaned_rest_and_the_last_one_ends_the_program() {
    let place = open_folder();
    let (data, temp) = (
        subfolder(place.path(), "data"),
        subfolder(place.path(), "temp"),
    );
    let shell = format!("export TMPDIR={}", temp.display());
    let data_dir = data.to_str().unwrap();
    let arguments = [
        "--max-jobs",
        "1",
        "--warm",
        "0",
        "--kernel",
        "off",
        "--data-dir",
        data_dir,
    ];
    let mut program = Program::start_after(&shell, &arguments).await;
    works(&program).await;
    let code = "import os, time
with open('new', 'w') as f: f.write(os.path.basename(os.path.dirname(os.environ['TMPDIR'])))
open(os.environ['TMPDIR'] + '/left', 'w').write('x')
os.rename('new', 'told')
while os.path.exists('told'): time.sleep(0.01)
print('done')
";
    let mut left = Vec::new();
    // Of a job at a time there are six slots.
    for number in 0..6 {
        let told = data.join("told");
        let plant = async {
            eventually("the program has said where its file is", async || {
                told.exists()
            })
            .await;
            let job = fs::read_to_string(&told).unwrap();
            let undeletable = Undeletable::make(jobs_dir(&temp).join(job).join("tmp/left"));
            fs::remove_file(&told).unwrap();
            undeletable
        };
        let (response, planted) = tokio::join!(python(&program, code), plant);
        left.push(planted);
        assert_eq!(response.json()["stdout"], "done\n", "{}", response.text());
        program.logged("failed to clean up after a job").await;
        let line = program.logged("job slot quarantined: cleanup failed").await;
        assert!(
            line["error"].as_str().unwrap().starts_with("slot "),
            "{line}"
        );
        if number < 5 {
            works(&program).await;
        }
    }
    let line = program.logged("sandbox spawner failed").await;
    assert_eq!(line["error"], "no job slot is left: none could be cleaned");
    program.logged("the engine has failed: going down").await;
    assert_eq!(program.ended().await, Some(1));
}

/// Where the jobs' directories are, if the engine's temporary files are here.
fn jobs_dir(temp: &Path) -> PathBuf {
    let is_work = |name: &std::ffi::OsStr| name.to_str().unwrap().starts_with("session-jobs-");
    let mut folders = fs::read_dir(temp).unwrap().flatten();
    let found = folders.find(|folder| is_work(&folder.file_name()));
    found.unwrap().path().join("jobs")
}

/// A file system of few bytes; gone with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        let mount = bounded_command("mount")
            .args(["-t", "tmpfs", "-o", "size=4m,mode=755", "none"])
            .arg(&path)
            .status();
        assert!(mount.unwrap().success());
        Self(path)
    }

    /// Writes until nothing goes in any more.
    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.0.join("filling")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filling")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = bounded_command("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.unwrap().success());
    }
}

async fn a_full_disk_is_told_and_works_again_when_there_is_room() {
    let place = open_folder();
    let data = SmallDisk::mount(subfolder(place.path(), "data"));
    let temp = SmallDisk::mount(subfolder(place.path(), "temp"));
    let shell = format!("export TMPDIR={}", temp.0.display());
    let arguments = ["--data-dir", data.0.to_str().unwrap(), "--warm", "0"];
    let mut program = Program::start_after(&shell, &arguments).await;
    works(&program).await;

    data.fill();
    for (name, bytes) in [("small", 1), ("large", 5 << 20)] {
        let response = upload(&program, name, bytes).await;
        assert_eq!(response.status, 507, "{}", response.text());
        assert_eq!(response.json()["error"]["code"], "InsufficientStorage");
    }
    let response = python(&program, "open('x', 'w').write('x' * 9999)").await;
    assert_eq!(response.status, 200);
    let stderr = response.json()["stderr"].take();
    assert!(
        stderr.as_str().unwrap().contains("No space left on device"),
        "{stderr}"
    );
    // What needs no room there works.
    works(&program).await;
    data.make_room();
    assert_eq!(upload(&program, "small", 1).await.status, 200);
    let listed = raw::get(program.addr, "/files").await.json();
    let names: Vec<_> = listed["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["name"])
        .collect();
    assert_eq!(names, ["small", "x"], "nothing is left of the others");

    temp.fill();
    // More often than there are slots.
    for number in 0..8 {
        fail_with(
            &program,
            507,
            "InsufficientStorage",
            &format!("full-{number}"),
        )
        .await;
    }
    let line = program.logged("an execution failed").await;
    assert_eq!(
        line["error"],
        "there is no room on the disk for a job's files"
    );
    let line = program.logged_of("execution", "full-0").await;
    assert_eq!(line["cause"], "the engine has no room on its disk");
    temp.make_room();
    works_again(&program).await;
    // Nothing was run, so that it may be sent again.
    let resource = later(&program, "full-0", asynchronous("print(1)")).await;
    assert_eq!(resource["status"], "Succeeded", "{resource}");
}

/// Bounds the processes of a program; gone with this.
struct FewProcesses(ProcessGroup);

impl FewProcesses {
    fn new(name: &str) -> Self {
        Self(process_group(name).unwrap())
    }

    fn allow(&self, most: &str) {
        fs::write(self.0.0.join("pids.max"), most).unwrap();
    }

    fn allow_no_more(&self) {
        let now = fs::read_to_string(self.0.0.join("pids.current")).unwrap();
        self.allow(now.trim());
    }
}

async fn without_processes_executions_fail_and_with_them_they_work_again() {
    let group = FewProcesses::new("later");
    let shell = format!("echo $$ > {}/cgroup.procs", group.0.0.display());
    let mut program = Program::start_after(
        &shell,
        &["--max-jobs", "1", "--warm", "0", "--kernel", "off"],
    )
    .await;
    works(&program).await;
    works_again(&program).await;
    // None at all, and then so few that a job gets only so far.
    let mut failed = 0;
    for more in [0, 1, 3] {
        sleep(Duration::from_millis(100)).await;
        group.allow_no_more();
        let now: u64 = fs::read_to_string(group.0.0.join("pids.max"))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        group.allow(&(now + more).to_string());
        for number in 0..8 {
            let response = python(&program, "print(1)").await;
            let code = response.json()["error"]["code"].take();
            match response.status {
                502 => assert_eq!(code, "EngineFailed"),
                // The processes were there, or those of the program itself were too few.
                status => assert_eq!(status, 200, "{}", response.text()),
            }
            failed += u32::from(response.status == 502);
            let id = format!("id-{more}-{number}");
            let resource = later(&program, &id, asynchronous("print(1)")).await;
            assert!(resource["status"] == "Failed" || resource["status"] == "Succeeded");
        }
        group.allow("max");
        works_again(&program).await;
    }
    assert!(failed >= 8, "{failed}");
    let line = program.logged("an execution failed").await;
    assert_eq!(line["level"], "ERROR");
    drop(program);
}

/// What could not be asked for at the start is asked for again.
async fn without_processes_at_the_start_the_languages_are_found_later() {
    let group = FewProcesses::new("start");
    // The program, its threads, the spawner, and one that tries out the sandbox: no job.
    group.allow("4");
    let shell = format!("echo $$ > {}/cgroup.procs", group.0.0.display());
    let mut program = Program::start_after(
        &shell,
        &["--max-jobs", "1", "--warm", "0", "--kernel", "off"],
    )
    .await;
    assert_eq!(program.started["runtimes"], "");
    let cause = program.logged("not ready").await["cause"].take();
    assert!(
        cause
            .as_str()
            .unwrap()
            .starts_with("the engine has none of python"),
        "{cause}"
    );
    let response = python(&program, "print(1)").await;
    assert_eq!(response.json()["error"]["code"], "RuntimeNotFound");
    group.allow("max");
    works_again(&program).await;
    let found = program.logged("ready: an execution has worked").await;
    assert_eq!(found["level"], "INFO");
    drop(program);
}

async fn a_spawner_without_descriptors_or_memory_works_again_when_it_has_them() {
    let mut program = Program::start(&["--max-jobs", "1", "--warm", "0", "--kernel", "off"]).await;
    works(&program).await;
    let spawner = spawner(&program);
    let descriptors = fs::read_dir(format!("/proc/{spawner}/fd"));
    let descriptors = descriptors.unwrap().count() as u64;
    for most in (descriptors.saturating_sub(4)..=descriptors).step_by(2) {
        let before = limit(spawner, Resource::Nofile, Some(most));
        // More often than there are slots.
        for number in 0..8 {
            let response = python(&program, "print(1)").await;
            assert!(
                matches!(response.status, 200 | 502),
                "{most}: {}",
                response.text()
            );
            let id = format!("fd-{most}-{number}");
            let resource = later(&program, &id, asynchronous("print(1)")).await;
            assert!(resource["status"] != "Canceled", "{resource}");
        }
        limit(spawner, Resource::Nofile, before);
        works_again(&program).await;
    }
    let line = program.logged("failed to start a keeper").await;
    assert_eq!(line["error"], "Too many open files (os error 24)");

    let before = limit(spawner, Resource::As, Some(1 << 20));
    // More often than there are slots. How far it gets depends on what is free of the spawner's own memory.
    for _ in 0..8 {
        let response = python(&program, "print(1)").await;
        let json = response.json();
        let is_told = match response.status {
            200 => json["exitCode"] == 126,
            status => status == 502 && json["error"]["code"] == "EngineFailed",
        };
        assert!(is_told, "{json}");
    }
    limit(spawner, Resource::As, before);
    works_again(&program).await;
}

fn address_space(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse().unwrap()
}

/// What cannot allocate ends, which whoever started it can see, and nothing of it is left.
async fn an_adapter_without_memory_ends_and_its_jobs_with_it() {
    let arguments = ["--max-jobs", "4", "--warm", "0", "--kernel", "off"];
    let usual = {
        let program = Program::start(&arguments).await;
        works(&program).await;
        address_space(program.pid())
    };
    // Room for a small execution, not for several large ones.
    let shell = format!("ulimit -c 0; ulimit -v {}", usual + (8 << 10));
    let mut program = Program::start_after(&shell, &arguments).await;
    works(&program).await;
    let spawner = spawner(&program);
    let body = json!({"code": format!("print(1)#{}", "x".repeat(12 << 20))}).to_string();
    let request = raw::request("POST", "/python/execute", &[], &body);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Connection::to(program.addr).await);
    }
    for client in &mut clients {
        // It may end while this is being sent.
        let _ = client.try_send(&request).await;
    }
    // A signal has no exit code.
    assert_eq!(program.ended().await, None);
    eventually("the spawner is gone", async || {
        !is_running(spawner.cast_unsigned())
    })
    .await;
}

/// An adapter that has no descriptor left takes connections again when clients have gone. With so few
/// it runs out of them before it runs out of places.
async fn an_adapter_without_descriptors_goes_on_when_clients_have_gone() {
    let mut program = Program::start_after(
        "ulimit -n 26",
        &["--max-jobs", "1", "--warm", "0", "--kernel", "off"],
    )
    .await;
    works(&program).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(Connection::to(program.addr).await);
    }
    let line = program.logged("cannot accept connections").await;
    assert_eq!(line["error"], "Too many open files (os error 24)");
    // Those that were accepted are served as far as that goes.
    let mut first = clients.remove(0);
    first.send(raw::request("GET", "/health", &[], "")).await;
    assert_eq!(first.read_response().await.status, 200);
    let body = json!({"code": "print(1)"}).to_string();
    first
        .send(raw::request("POST", "/python/execute", &[], &body))
        .await;
    let response = first.read_response().await;
    let error = response.json()["error"]["code"].take();
    assert!(
        response.status == 200 || error == "EngineUnavailable" || error == "EngineFailed",
        "{}",
        response.text()
    );
    drop(clients);
    drop(first);
    works_again(&program).await;
    let resource = later(&program, "after", asynchronous("print(1)")).await;
    assert_eq!(resource["status"], "Succeeded", "{resource}");
}

/// All programs are asked for their versions at once; what that takes too much of is asked for again.
async fn few_descriptors_at_the_start_cost_no_language() {
    let all = Program::start(&[]).await.started["runtimes"].take();
    let few = Program::start_after(
        "ulimit -n 26",
        &["--max-jobs", "1", "--warm", "0", "--kernel", "off"],
    )
    .await;
    assert_eq!(few.started["runtimes"], all);
    works(&few).await;
}

/// Shifts the time of day of a program by what is in a file, in seconds.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && result == 0) {
        char text[32] = "";
        FILE *file = fopen(getenv("CLOCK_SHIFT"), "r");
        if (file) { if (fgets(text, sizeof text, file)) time->tv_sec += atol(text); fclose(file); }
    }
    return result;
}
"#;

/// Nothing but what is told to people is taken from the time of day.
async fn a_clock_that_is_set_back_or_ahead_changes_no_limit() {
    let place = open_folder();
    let at = |name: &str| place.path().join(name);
    fs::write(at("clock.c"), CLOCK).unwrap();
    let compiled = bounded_command("gcc")
        .env("TMPDIR", place.path())
        .args(["-shared", "-fPIC", "-o"])
        .args([at("clock.so"), at("clock.c")])
        .status();
    assert!(compiled.unwrap().success());
    let shift = at("shift");
    fs::write(&shift, "0").unwrap();
    fs::set_permissions(&shift, PermissionsExt::from_mode(0o644)).unwrap();
    let shell = format!(
        "export LD_PRELOAD={} CLOCK_SHIFT={}",
        at("clock.so").display(),
        shift.display()
    );
    let data = subfolder(place.path(), "data");
    let arguments = ["--data-dir", data.to_str().unwrap(), "--max-jobs", "2"];
    let mut program = Program::start_after(&shell, &arguments).await;
    let first = later(&program, "first", asynchronous("print(1)")).await;
    assert_eq!(first["status"], "Succeeded");
    assert_eq!(upload(&program, "old", 10).await.status, 200);
    let day = 86_400_i64;
    // The kernel takes no time before 1970.
    for shifted in [-day, day, -20_000 * day, 20_000 * day] {
        fs::write(at("shift.new"), shifted.to_string()).unwrap();
        fs::set_permissions(at("shift.new"), PermissionsExt::from_mode(0o644)).unwrap();
        fs::rename(at("shift.new"), &shift).unwrap();
        works(&program).await;
        let line = program.logged("request").await;
        let total = line["total_ms"].as_f64().unwrap();
        assert!((0.0..60_000.0).contains(&total), "{line}");
        let endless = json!({"code": "while True: pass", "timeoutInSeconds": 1}).to_string();
        let response = raw::post(program.addr, "/python/execute", &endless)
            .await
            .json();
        assert_eq!(response["outcome"], "time_limit", "{response}");
        let id = format!("at{shifted}");
        let resource = later(&program, &id, asynchronous("print(1)")).await;
        assert_eq!(resource["status"], "Succeeded", "{resource}");
        let kept = raw::get(program.addr, "/executions/first").await;
        assert_eq!(
            kept.status,
            200,
            "it is remembered for an hour: {}",
            kept.text()
        );
        assert_eq!(upload(&program, "new", 10).await.status, 200);
        let listed = raw::get(program.addr, "/files").await;
        assert_eq!(
            listed.json()["value"].as_array().unwrap().len(),
            2,
            "{}",
            listed.text()
        );
        for path in ["/session", "/ready", "/metrics", "/listSessions"] {
            let response = raw::get(program.addr, path).await;
            assert_eq!(response.status, 200, "{path}: {}", response.text());
        }
    }
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
}

/// Files whose times are ahead of the clock, or before 1970, are files as others are.
async fn files_of_other_times_are_listed_and_used() {
    let program = Program::start(&[]).await;
    let code = "import os
for name, time in (('future', 2**33), ('past', -2**33), ('now', None)):
    open(name, 'w').write(name)
    if time: os.utime(name, (time, time))
";
    let response = python(&program, code).await;
    assert_eq!(response.json()["stderr"], "", "{}", response.text());
    let listed = raw::get(program.addr, "/files").await;
    assert_eq!(listed.status, 200);
    assert_eq!(
        listed.json()["value"].as_array().unwrap().len(),
        3,
        "{}",
        listed.text()
    );
    for name in ["future", "past", "now"] {
        let content = raw::get(program.addr, &format!("/files/{name}/content")).await;
        assert_eq!(content.text(), name);
        assert_eq!(upload(&program, name, 3).await.status, 200);
    }
}

pub fn tests() -> Tests {
    tests![
        OwnUsers => [
            root_without_a_right_that_it_needs_does_not_start_and_names_it,
        ],
        Nothing => [
            a_job_whose_keeper_is_killed_is_told_and_its_slot_used_again,
            a_spawner_that_hangs_is_waited_for_as_long_as_an_answer_may_take,
            an_adapter_without_memory_ends_and_its_jobs_with_it,
            an_adapter_without_descriptors_goes_on_when_clients_have_gone,
            few_descriptors_at_the_start_cost_no_language,
            a_clock_that_is_set_back_or_ahead_changes_no_limit,
            files_of_other_times_are_listed_and_used,
        ],
        Tracing => [a_spawner_without_descriptors_or_memory_works_again_when_it_has_them],
        ImmutableFiles => [
            slots_that_cannot_be_cleaned_rest_and_the_last_one_ends_the_program,
        ],
        Mounts => [
            a_full_disk_is_told_and_works_again_when_there_is_room,
        ],
        ProcessBounds => [
            without_processes_executions_fail_and_with_them_they_work_again,
            without_processes_at_the_start_the_languages_are_found_later,
        ],
    ]
}
