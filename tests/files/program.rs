//! The session's files with the program itself: shared with the code that runs, and large ones in
//! little memory.

use std::fmt::Write;

use crate::support::form::{content_type, form, post_head, upload};
use crate::support::raw::{self, Connection};
use crate::support::{Program, eventually, run_python};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What a large file may add to the memory of the adapter.
const MOST_MEMORY: u64 = 16 << 20;

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The most memory that the process has had, in bytes.
fn peak_memory(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[tokio::test]
async fn files_are_shared_with_the_code_at_once() {
    let program = Program::start(&[]).await;
    let data = program.started["data_dir"].as_str().unwrap().to_owned();
    let uploaded = upload(program.addr, "/files?path=in", "ü.txt", b"one").await;
    assert_eq!(uploaded.status, 200, "{}", uploaded.text());
    let code = format!(
        "import os\nos.chdir({data:?})\n\
         print(open('in/ü.txt').read())\n\
         open('in/ü.txt', 'a').write(' two')\n\
         os.makedirs('out/deep')\n\
         open('out/deep/plot.png', 'wb').write(bytes(range(256)))\n\
         os.chmod('out/deep/plot.png', 0o600)\n\
         os.symlink('/etc/passwd', 'out/link')\n"
    );
    let response = run_python(&program, &code).await;
    assert_eq!(
        (&response["stdout"], &response["stderr"]),
        (&json!("one\n"), &json!(""))
    );
    let list = raw::get(program.addr, "/files?recursive=true").await.json();
    let names: Vec<_> = list["value"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["properties"]["filename"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["in", "out", "in/ü.txt", "out/deep", "out/deep/plot.png"]
    );
    let read = raw::get(program.addr, "/files/content/in/%C3%BC.txt").await;
    assert_eq!(read.text(), "one two");
    let plot = raw::get(program.addr, "/files/content/out/deep/plot.png").await;
    assert_eq!(plot.body, (0..=255).collect::<Vec<u8>>());
    // What the code wrote can be replaced and deleted, and what was uploaded can by the code.
    let replaced = upload(program.addr, "/files?path=out/deep", "plot.png", b"new").await;
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    let code = format!(
        "import os\nos.chdir({data:?})\n\
         print(open('out/deep/plot.png').read())\n\
         os.remove('out/deep/plot.png')\nos.remove('in/ü.txt')\nos.rmdir('in')\n\
         open('out/deep/last', 'w')\n"
    );
    let response = run_python(&program, &code).await;
    assert_eq!(
        (&response["stdout"], &response["stderr"]),
        (&json!("new\n"), &json!(""))
    );
    let delete = raw::request("DELETE", "/files/last?path=out/deep", &[], "");
    assert_eq!(raw::exchange(program.addr, delete).await.status, 204);
    let list = raw::get(program.addr, "/files?path=out/deep").await.json();
    assert_eq!(list["value"], json!([]));
}

#[tokio::test]
async fn a_file_that_a_running_program_writes_is_seen_at_once() {
    let program = Program::start(&[]).await;
    let data = program.started["data_dir"].as_str().unwrap().to_owned();
    let code = format!(
        "import os, time\nos.chdir({data:?})\nopen('made', 'w').write('x')\n\
         while not os.path.exists('go'): time.sleep(0.01)\nprint(open('go').read())"
    );
    let seen = async {
        eventually("the file is there", async || {
            raw::get(program.addr, "/files/made").await.status == 200
        })
        .await;
        let made = raw::get(program.addr, "/files/made/content").await;
        assert_eq!(made.status, 200);
        let made = upload(program.addr, "/files", "go", b"went").await;
        assert_eq!(made.status, 200);
    };
    let (response, ()) = tokio::join!(run_python(&program, &code), seen);
    assert_eq!(response["stdout"], "went\n", "{response}");
}

#[tokio::test]
async fn a_file_of_128_mib_goes_in_and_out_through_little_memory() {
    const SIZE: usize = 128 << 20;
    let mut program = Program::start(&[]).await;
    assert_eq!(raw::get(program.addr, "/files").await.status, 200);
    program.logged("request").await;
    let before = peak_memory(&program);

    let body = form(&[("form-data; name=\"file\"; filename=\"large\"", b"")]);
    let data_at = body
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let mut connection = Connection::to(program.addr).await;
    let head = post_head("/files", &content_type(), body.len() + SIZE);
    connection.send(head).await;
    connection.send(&body[..data_at]).await;
    let mut sent = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    let mut state = 1_u32;
    for _ in 0..SIZE >> 20 {
        for byte in &mut chunk {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        sent.update(&chunk);
        connection.send(&chunk).await;
    }
    connection.send(&body[data_at..]).await;
    let response = connection.read_response().await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["sizeInBytes"], SIZE);
    let log = program.logged("request").await;
    assert!(log["bytes_in"].as_u64().unwrap() > SIZE as u64, "{log}");

    connection
        .send(raw::request("GET", "/files/large/content", &[], ""))
        .await;
    let content = connection.read_response().await;
    assert_eq!(content.header("content-length"), SIZE.to_string());
    assert_eq!(
        hex(Sha256::digest(&content.body)),
        hex(sent.finalize()),
        "of {} bytes",
        content.body.len()
    );
    let log = program.logged("request").await;
    assert_eq!(
        (&log["bytes_out"], &log["outcome"]),
        (&json!(SIZE), &json!("ok"))
    );
    let grown = peak_memory(&program) - before;
    println!("memory: {before} bytes before, {grown} more");
    assert!(grown <= MOST_MEMORY, "{before} and {grown} more");
}

#[tokio::test]
async fn a_download_that_is_cut_off_is_logged_with_what_was_sent() {
    let mut program = Program::start(&[]).await;
    let large = vec![1; 32 << 20];
    assert_eq!(
        upload(program.addr, "/files", "x", &large).await.status,
        200
    );
    program.logged("request").await;
    let mut connection = Connection::to(program.addr).await;
    connection
        .send(raw::request("GET", "/files/x/content", &[], ""))
        .await;
    // More than a head.
    connection.receive(4 << 10).await;
    drop(connection);
    let log = program.logged("request").await;
    assert_eq!(log["route"], "files/{name}/content");
    assert_eq!(
        (&log["status"], &log["outcome"]),
        (&json!(200), &json!("client_gone"))
    );
    let sent = log["bytes_out"].as_u64().unwrap();
    assert!((1..32 << 20).contains(&sent), "{log}");
}

#[tokio::test]
async fn the_adapter_of_a_piston_elsewhere_keeps_files_of_its_own() {
    let piston = crate::support::StandIn::script().start().await;
    let url = piston.url();
    let data = tempfile::tempdir().unwrap();
    let arguments = ["--engine", "piston", "--data-dir"];
    let arguments = [&arguments[..], &[data.path().to_str().unwrap()]].concat();
    let program = Program::start_with_engine(&arguments, &url).await;
    assert_eq!(upload(program.addr, "/files", "x", b"1").await.status, 200);
    assert_eq!(std::fs::read(data.path().join("x")).unwrap(), b"1");
}
