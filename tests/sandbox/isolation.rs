//! Given more clients than executions run at a time, each execution with a tag of its own in all
//! that it is given, when they are answered, stopped at a limit or given up, then each response holds
//! the execution's own tag and no other, and no tag is where none belongs: in the log, in a file of
//! another, in a directory that a job left.
//!
//! `ISOLATION_SECONDS` says for how long (5 unless set); with `--nocapture` the counts are shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::conditional::{Tests, tests};
use crate::support::folder::{open_folder, subfolder};
use crate::support::form::{BOUNDARY, content_type, form, post_head, upload};
use crate::support::raw::{self, Connection, Response};
use crate::support::{Program, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;
use uuid::Uuid;

const CLIENTS: usize = 24;
const KINDS: usize = 9;
/// Each kind with each of the ten endings, however slow the machine is.
const FEWEST_CASES: usize = KINDS * 10;

/// Letters of a tag behind `tag`, and how many make one that was cut.
const LETTERS: usize = 32;
const FEWEST: usize = 8;

const SNOOP: &str = r#"import os, re
found = {'OWN', input()}

def look(text):
    found.update(re.findall('tag[0-9a-f]{8,}', text))

def read(path):
    try:
        look(open(path, errors='replace').read(1 << 20))
    except OSError:
        pass

for top in '/dev/shm', 'JOBS':
    for folder, _, names in os.walk(top):
        for name in names:
            read(os.path.join(folder, name))
for pid in range(1, 1 << 16):
    if os.path.exists(f'/proc/{pid}'):
        read(f'/proc/{pid}/environ')
        read(f'/proc/{pid}/maps')
print(*found, flush=True)
END
'OWN'"#;

/// Every tag in these bytes, whole or cut.
fn tags(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let text = String::from_utf8_lossy(bytes);
    for (at, _) in text.match_indices("tag") {
        let behind = text[at + 3..].bytes().take(LETTERS);
        let length = behind.take_while(u8::is_ascii_hexdigit).count();
        if length >= FEWEST {
            found.push(text[at..at + 3 + length].to_owned());
        }
    }
    found
}

/// How often `own` is in these bytes; another tag is a failure. Two tags differ within their first
/// letters; where an own one is cut, whatever text comes next may go on with letters of a tag.
fn only(own: &str, bytes: &[u8], what: &str) -> usize {
    let found = tags(bytes);
    for tag in &found {
        assert!(
            tag.starts_with(&own[..3 + FEWEST]),
            "{what} of {own} holds {tag}"
        );
    }
    found.iter().filter(|tag| *tag == own).count()
}

async fn a_tag_of_another_is_seen_even_if_it_was_cut() {
    let own = "tag00112233445566778899aabbccddeeff";
    assert_eq!(only(own, format!("a{own} {own}b").as_bytes(), ""), 2);
    assert_eq!(only(own, b"tag001122334 stage tags tag[0-9a-f]", ""), 0);
    assert_eq!(only(own, b"tag001122334error", ""), 0);
    for other in ["tagff112233445566778899aabbccddeeff", "x tagff112233"] {
        let text = format!("{own} {other}");
        assert!(std::panic::catch_unwind(|| only(own, text.as_bytes(), "")).is_err());
    }
}

/// How an execution ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    ByItself,
    AtALimit,
    GivenUp,
}

/// One execution.
struct Case {
    number: usize,
    tag: String,
    ending: Ending,
}

impl Case {
    fn new(number: usize) -> Self {
        Self {
            number,
            tag: format!("tag{}", Uuid::new_v4().simple()),
            ending: match number % 10 {
                3 => Ending::GivenUp,
                7 => Ending::AtALimit,
                _ => Ending::ByItself,
            },
        }
    }

    fn kind(&self) -> usize {
        self.number % KINDS
    }

    fn id(&self) -> String {
        format!("execution-{}", self.number)
    }

    fn identifier(&self) -> String {
        format!("client-{}", self.number % CLIENTS)
    }

    /// Where the execution can be asked for.
    fn location(&self) -> String {
        format!("/executions/{}?identifier={}", self.id(), self.identifier())
    }

    /// Whether it is the clock that stops the execution, not the limit of CPU time. There are few of
    /// these, for that limit is so wide that a loaded machine has told the tag by then.
    fn is_at_the_clocks_limit(&self) -> bool {
        self.ending == Ending::AtALimit && self.number % 120 == 7
    }

    /// What a Python program does when it has told its tag.
    fn python_end(&self) -> &'static str {
        match (self.ending, self.number / 10 % 4) {
            (Ending::ByItself, _) => "",
            (Ending::GivenUp, _) => "import time\ntime.sleep(0.3)",
            (Ending::AtALimit, 0) if self.is_at_the_clocks_limit() => {
                "import time\ntime.sleep(600)"
            }
            (Ending::AtALimit, 0) => "while True: pass",
            (Ending::AtALimit, 1) => "while True: print(own)",
            (Ending::AtALimit, 2) => "x = []\nwhile True: x.append(bytearray(1 << 24))",
            (Ending::AtALimit, _) => "os.kill(os.getpid(), 9)",
        }
    }

    fn python(&self) -> String {
        format!(
            "import os, sys\nown = '{}'\ngiven = input()\nos.environ['TAG'] = own\n\
             print('out', own, given, *sys.argv[1:], flush=True)\n\
             print('err', own, given, file=sys.stderr, flush=True)\n\
             print(os.popen('echo $TAG').read(), flush=True)\n{}\ngiven",
            self.tag,
            self.python_end()
        )
    }

    fn bash(&self) -> String {
        let end = match self.ending {
            Ending::ByItself => "exit 3",
            Ending::GivenUp => "sleep 0.3",
            Ending::AtALimit if self.is_at_the_clocks_limit() => "sleep 600",
            Ending::AtALimit if (self.number / 10).is_multiple_of(2) => "while :; do :; done",
            Ending::AtALimit => "kill -SEGV $$",
        };
        format!(
            "read given; export TAG={}; echo out $TAG $given \"$@\"; echo err $TAG >&2; \
             sh -c 'echo $TAG'; {end}",
            self.tag
        )
    }

    /// Tells every tag that it can find: among the files of jobs, in shared memory, of processes.
    fn snoop(&self, jobs: &Path) -> String {
        SNOOP
            .replace("OWN", &self.tag)
            .replace("JOBS", jobs.to_str().unwrap())
            .replace("END", self.python_end())
    }

    fn body(&self, code: &str) -> Value {
        json!({
            "code": code,
            "stdin": self.tag,
            "args": [self.tag],
            "timeoutInSeconds": if self.is_at_the_clocks_limit() { 15 } else { 60 },
        })
    }

    /// Without arguments, it runs in its identifier's kernel.
    fn cell(&self) -> Value {
        let mut body = self.body(&self.python());
        body.as_object_mut().unwrap().remove("args");
        body
    }

    /// Path and body of an execution that is answered when it is over.
    fn request(&self, jobs: Option<&Path>) -> (&'static str, Value) {
        let with = |mut body: Value, field: &str, value: &str| {
            body[field] = value.into();
            body
        };
        match self.kind() {
            0 => (
                "/python/execute",
                json!({"properties": self.body(&self.python())}),
            ),
            1 => ("/code/execute", json!({"properties": self.cell()})),
            2 => (
                "/execute",
                with(self.body(&self.bash()), "language", "bash"),
            ),
            3 => ("/executions", self.cell()),
            4 => (
                "/executions",
                with(self.body(&self.python()), "executionType", "Asynchronous"),
            ),
            5 => (
                "/shellExecute",
                with(self.body(""), "shellCommand", &self.bash()),
            ),
            6 => (
                "/api/v2/execute",
                json!({
                    "language": "python", "version": "*", "stdin": self.tag, "args": [self.tag],
                    "files": [{"content": self.python()}],
                    "run_timeout": if self.is_at_the_clocks_limit() { 15_000 } else { 60_000 },
                }),
            ),
            _ => {
                let code = jobs.map_or_else(|| self.python(), |jobs| self.snoop(jobs));
                ("/python/execute", self.body(&code))
            }
        }
    }
}

/// What all clients share.
struct Run {
    addr: SocketAddr,
    /// Where the jobs' files are, for programs that look for those of others, if any may.
    jobs: Option<PathBuf>,
    next: AtomicUsize,
    until: Instant,
    /// Ids that can be asked for when all is over, with their tags.
    ids: Mutex<Vec<(String, String)>>,
    counts: Mutex<BTreeMap<String, usize>>,
}

impl Run {
    async fn client(&self) {
        let mut connection = Connection::to(self.addr).await;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= FEWEST_CASES && Instant::now() >= self.until {
                return;
            }
            let case = Case::new(number);
            match case.kind() {
                8 => self.files(&case).await,
                _ => self.execution(&case, &mut connection).await,
            }
            let counted = format!("kind {} ending {:?}", case.kind(), case.ending);
            *self.counts.lock().unwrap().entry(counted).or_default() += 1;
        }
    }

    async fn execution(&self, case: &Case, connection: &mut Connection) {
        let (path, body) = case.request(self.jobs.as_deref());
        let body = body.to_string();
        let path = format!("{path}?identifier={}", case.identifier());
        let id = case.id();
        let has_id = matches!(case.kind(), 3 | 4);
        let headers: &[(&str, &str)] = match has_id {
            true => &[("Content-Type", "application/json"), ("operation-id", &id)],
            false => &[("Content-Type", "application/json")],
        };
        let request = raw::request("POST", &path, headers, &body);
        if case.ending == Ending::GivenUp {
            return self.give_up(case, &request).await;
        }
        connection.send(&request).await;
        let mut response = connection.read_response().await;
        // Piston's own path is given the longest run there may be, which leaves 5 s to wait for a turn.
        // Nothing has run then.
        if case.kind() == 6 {
            eventually("there is a turn for it", async || {
                if response.status == 429 {
                    assert_eq!(response.header("retry-after"), "1");
                    connection.send(&request).await;
                    response = connection.read_response().await;
                }
                response.status != 429
            })
            .await;
        }
        assert!(
            matches!(response.status, 200 | 202),
            "{}: {}",
            response.status,
            response.text()
        );
        if case.kind() == 4 {
            only(&case.tag, &response.body, "a state");
            response = self.ended(&case.location()).await.unwrap();
        }
        let count = only(&case.tag, &response.body, "a response");
        let is_cut = case.ending == Ending::AtALimit && case.number / 10 % 4 == 1;
        let fewest = if case.kind() == 7 { 1 } else { 4 };
        assert!(
            count >= fewest || is_cut,
            "{count} tags: {}",
            response.text()
        );
        if case.ending == Ending::ByItself {
            check_value(case, &response);
        }
        if has_id {
            self.ids
                .lock()
                .unwrap()
                .push((case.location(), case.tag.clone()));
        }
    }

    /// Hangs up half-way, and asks later where there is an id to ask for.
    async fn give_up(&self, case: &Case, request: &[u8]) {
        let is_whole = !(case.number / 10).is_multiple_of(4);
        let sent = if is_whole {
            request.len()
        } else {
            request.len() * 2 / 3
        };
        let mut connection = Connection::to(self.addr).await;
        connection.send(&request[..sent]).await;
        sleep(Duration::from_millis((case.number % 7 * 20) as u64)).await;
        if is_whole && matches!(case.kind(), 3 | 4) {
            // One that has not been read yet cannot be asked for.
            eventually("the execution is known", async || {
                raw::get(self.addr, &case.location()).await.status != 404
            })
            .await;
            drop(connection);
            let response = self.ended(&case.location()).await.unwrap();
            assert!(only(&case.tag, &response.body, "a later response") >= 4);
        }
    }

    /// The resource of an execution, once it has ended.
    async fn ended(&self, location: &str) -> Option<Response> {
        let mut resource = None;
        eventually("the execution has ended", async || {
            let response = raw::get(self.addr, location).await;
            match (response.status, response.json()["status"].as_str()) {
                (200, Some("Succeeded" | "Failed")) => resource = Some(response),
                (200, Some("NotStarted" | "Running")) => return false,
                (404, _) => {}
                other => panic!("{other:?}: {}", response.text()),
            }
            true
        })
        .await;
        resource
    }

    /// Uploads a file, lets a program make another one of it, and downloads both.
    async fn files(&self, case: &Case) {
        let tag = &case.tag;
        let (given, made) = (format!("{tag}.given"), format!("{tag}.made"));
        if case.ending == Ending::GivenUp {
            let disposition = format!("form-data; name=\"file\"; filename=\"{given}\"");
            let body = form(&[(&disposition, tag.repeat(1000).as_bytes())]);
            let mut connection = Connection::to(self.addr).await;
            connection
                .send(post_head("/files", &content_type(), body.len()))
                .await;
            return connection
                .send(&body[..body.len() - BOUNDARY.len() - 10])
                .await;
        }
        let path = ["/files", "/files/upload", "/python/uploadFile"][case.number / KINDS % 3];
        let uploaded = upload(self.addr, path, &given, tag.as_bytes()).await;
        assert_eq!(uploaded.status, 200, "{}", uploaded.text());
        assert!(only(tag, &uploaded.body, "an upload's response") >= 1);
        let code = format!(
            "import os\nown = open('{given}').read()\nopen('{made}', 'w').write(own + input())\n\
             print(own, flush=True)\n{}\nown",
            case.python_end()
        );
        let response = raw::post(self.addr, "/python/execute", &case.body(&code).to_string()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        only(tag, &response.body, "a response");
        for (name, content) in [(&given, tag.clone()), (&made, tag.repeat(2))] {
            let read = raw::get(self.addr, &format!("/files/{name}/content")).await;
            assert_eq!((read.status, read.text()), (200, content), "{name}");
        }
        if (case.number / KINDS).is_multiple_of(2) {
            let request = raw::request("DELETE", &format!("/files/{given}"), &[], "");
            assert_eq!(raw::exchange(self.addr, request).await.status, 204);
        }
    }
}

/// What an execution must say that ended by itself.
fn check_value(case: &Case, response: &Response) {
    let json = response.json();
    let value = match case.kind() {
        1 => &json["properties"]["result"],
        3 => &json["result"]["executionResult"],
        _ => return,
    };
    assert_eq!(value, &case.tag, "{json}");
}

/// Every file below `folder`, with its bytes, and every other thing with none.
fn everything_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(everything_below(&path)),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                found.push((path, bytes));
                continue;
            }
            _ => {}
        }
        found.push((path, Vec::new()));
    }
    found
}

/// Tags in names and files below `folder`.
fn tags_below(folder: &Path) -> Vec<String> {
    let found = everything_below(folder).into_iter();
    found
        .flat_map(|(path, bytes)| [tags(path.as_os_str().as_encoded_bytes()), tags(&bytes)])
        .flatten()
        .collect()
}

/// The data directory holds what was uploaded and written there, each with its own tag.
fn check_data(data: &Path) -> usize {
    let mut found = everything_below(data);
    found.retain(|(path, _)| !path.starts_with(data.join(".session-adapter")));
    for (path, bytes) in &found {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (tag, kind) = name.split_once('.').unwrap();
        let times = match kind {
            "given" => 1,
            "made" => 2,
            other => panic!("a file of kind {other}"),
        };
        assert_eq!(String::from_utf8_lossy(bytes), tag.repeat(times), "{name}");
    }
    found.len()
}

/// Programs that look for what is another's find nothing, for jobs that run at the same time have different groups or namespaces.
async fn no_execution_sees_anything_of_another() {
    run_clients(true).await;
}

/// The same without such programs, for any user: jobs that share a user can look at each other.
async fn no_execution_is_given_anything_of_another() {
    run_clients(false).await;
}

async fn run_clients(snoop: bool) {
    let seconds = std::env::var("ISOLATION_SECONDS").ok();
    let seconds = seconds.and_then(|n| n.parse().ok()).unwrap_or(5);
    let folder = open_folder();
    let [jobs, data] = ["jobs", "data"].map(|name| subfolder(folder.path(), name));
    let mut program = Program::start_within(
        &jobs,
        &[
            ["--max-jobs", "4"],
            ["--queue", "64"],
            ["--warm", "2"],
            ["--cpu-limit", "2"],
            ["--memory-limit", "64MiB"],
            ["--output-limit", "64KiB"],
            ["--data-dir", data.to_str().unwrap()],
        ]
        .concat(),
    )
    .await;
    let run = Arc::new(Run {
        addr: program.addr,
        jobs: snoop.then(|| jobs.clone()),
        next: AtomicUsize::new(0),
        until: Instant::now() + Duration::from_secs(seconds),
        ids: Mutex::default(),
        counts: Mutex::default(),
    });
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let run = Arc::clone(&run);
        clients.spawn_local_on(async move { run.client().await }, &local);
    }
    local.run_until(clients.join_all()).await;
    let total: usize = run.counts.lock().unwrap().values().sum();
    println!(
        "{total} executions in {seconds} s: {:#?}",
        run.counts.lock().unwrap()
    );

    let ids = run.ids.lock().unwrap().clone();
    let mut known = 0;
    for (location, tag) in &ids {
        if let Some(response) = run.ended(location).await {
            assert!(
                only(tag, &response.body, "a later response") >= 1,
                "{}",
                response.text()
            );
            known += 1;
        }
    }
    assert!(known > 0, "no execution could be asked for later");
    for path in [
        "/",
        "/metrics",
        "/metadata",
        "/listSessions",
        "/session?identifier=client-0",
    ] {
        let response = raw::get(program.addr, path).await;
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(tags(&response.body), [""; 0], "{path}");
    }
    eventually("no job's directory is left", async || {
        tags_below(&jobs).is_empty()
    })
    .await;

    program.signal(Signal::TERM);
    assert_eq!(program.ended().await, Some(0));
    let log = program.rest_of_log().await;
    assert!(log.len() >= total, "{} lines", log.len());
    for line in &log {
        assert_eq!(tags(line.as_bytes()), [""; 0], "{line}");
    }
    assert_eq!(everything_below(&jobs), []);
    let files = check_data(&data);
    println!(
        "{known} asked for later, {} lines of log, {files} files",
        log.len()
    );
    assert!(files > 0, "no file was kept");
}

pub fn tests() -> Tests {
    tests![
        Nothing => [
            a_tag_of_another_is_seen_even_if_it_was_cut,
            no_execution_is_given_anything_of_another,
        ],
        OwnUsers => [no_execution_sees_anything_of_another],
    ]
}
