//! What the program does to directories: to those it was given, and to those it was not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::conditional::{Tests, tests};
use crate::support::folder::{open_folder, readable_file, subfolder};
use crate::support::{Program, eventually, form, raw, run, run_python};
use rustix::process::Signal;
use tempfile::TempDir;

pub fn tests() -> Tests {
    tests! {
        Nothing => [
            a_directory_with_files_of_somebody_is_refused_and_left_as_it_was,
            an_adopted_directory_is_the_sessions,
            a_directory_may_be_used_again_with_the_files_of_the_session,
            looking_at_the_runtimes_leaves_a_running_session_as_it_is,
            a_second_adapter_is_refused_and_the_first_goes_on,
            an_adapter_whose_address_is_taken_touches_no_directory,
            a_directory_that_was_not_given_is_temporary_and_goes_with_the_program,
            what_a_killed_adapter_left_is_deleted_at_the_next_start,
            no_request_reaches_the_reserved_directory,
            a_directory_stays_its_own_whatever_a_program_makes_of_the_mark,
            what_a_killed_adapter_with_the_other_engine_left_is_deleted_too,
            a_relative_directory_works_as_an_absolute_one,
        ],
        OwnUsers => [what_cannot_be_deleted_is_named],
        Mounts => [a_directory_where_the_image_has_its_own_is_left_alone],
    }
}

/// Mode, group, content and times of a directory and everything in it.
fn snapshot(path: &Path) -> Vec<(PathBuf, String, Vec<u8>)> {
    let found = path.symlink_metadata().unwrap();
    let facts = format!(
        "{:o} {}:{} {} {}",
        found.mode(),
        found.uid(),
        found.gid(),
        found.mtime_nsec(),
        found.ctime_nsec()
    );
    let mut all = vec![(path.to_owned(), facts, Vec::new())];
    if found.is_dir() {
        let mut inner: Vec<_> = fs::read_dir(path).unwrap().flatten().collect();
        inner.sort_by_key(fs::DirEntry::file_name);
        all.extend(inner.iter().flat_map(|entry| snapshot(&entry.path())));
    } else {
        all[0].2 = fs::read(path).unwrap();
    }
    all
}

/// A directory that holds a document of somebody.
fn somebodys_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    readable_file(&directory.path().join("thesis.odt"), "ten years of work");
    directory
}

fn path_of(directory: &TempDir) -> &str {
    directory.path().to_str().unwrap()
}

async fn upload(program: &Program, name: &str) -> u16 {
    form::upload(program.addr, "/files", name, b"bytes")
        .await
        .status
}

async fn send(program: &Program, method: &str, path: &str) -> raw::Response {
    raw::exchange(program.addr, raw::request(method, path, &[], "")).await
}

async fn a_directory_with_files_of_somebody_is_refused_and_left_as_it_was() {
    let directory = somebodys_directory();
    let before = snapshot(directory.path());
    for engine in ["embedded", "piston"] {
        let refused = run(&[
            "--listen",
            "127.0.0.1:0",
            "--engine",
            engine,
            "--piston-url",
            "http://127.0.0.1:0",
            "--data-dir",
            path_of(&directory),
        ])
        .await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("thesis.odt"), "{said}");
        assert!(said.contains("--adopt-data-dir"), "{said}");
        assert_eq!(snapshot(directory.path()), before, "{engine}");
    }
}

async fn an_adopted_directory_is_the_sessions() {
    let directory = somebodys_directory();
    let adopted = ["--data-dir", path_of(&directory), "--adopt-data-dir"];
    let program = Program::start(&adopted).await;
    let read = run_python(&program, "print(open('thesis.odt').read())").await;
    assert_eq!(read["stdout"], "ten years of work\n", "{read}");
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert!(!directory.path().join("thesis.odt").exists());
}

async fn a_directory_may_be_used_again_with_the_files_of_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", path_of(&directory)];
    let mut first = Program::start(&arguments).await;
    run_python(&first, "open('kept', 'w').write('1')").await;
    first.signal(Signal::TERM);
    assert_eq!(first.ended().await, Some(0));
    let second = Program::start(&arguments).await;
    let read = run_python(&second, "print(open('kept').read())").await;
    assert_eq!(read["stdout"], "1\n", "{read}");
    let list = raw::get(second.addr, "/files?recursive=true").await.json();
    assert_eq!(list["value"].as_array().unwrap().len(), 1, "{list}");
}

async fn looking_at_the_runtimes_leaves_a_running_session_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", path_of(&directory)];
    let program = Program::start(&arguments).await;
    let before = snapshot(directory.path());
    let shown = run(&["runtimes", "--data-dir", path_of(&directory)]).await;
    assert!(shown.status.success(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("python"));
    assert_eq!(snapshot(directory.path()), before);
    let written = run_python(
        &program,
        "open('new', 'w').write('1'); print(open('new').read())",
    );
    assert_eq!(written.await["stdout"], "1\n");
    assert_eq!(upload(&program, "uploaded").await, 200);
}

async fn a_second_adapter_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let data = path_of(&directory);
    let program = Program::start(&["--data-dir", data]).await;
    // An upload of the first is under way.
    let bytes = [b'x'; 100_000];
    let disposition = "form-data; name=\"file\"; filename=\"slow\"";
    let body = form::form(&[(disposition, bytes.as_slice())]);
    let head = form::post_head("/files", &form::content_type(), body.len());
    let (begun, rest) = body.split_at(body.len() / 2);
    let mut slow = raw::Connection::to(program.addr).await;
    slow.send([&head, begun].concat()).await;
    let reserved = directory.path().join(".session-adapter");
    eventually("the upload is under way", async || {
        fs::read_dir(&reserved).unwrap().count() == 2
    })
    .await;
    for engine in ["embedded", "piston"] {
        let refused = run(&[
            "--listen",
            "127.0.0.1:0",
            "--engine",
            engine,
            "--piston-url",
            "http://127.0.0.1:0",
            "--data-dir",
            data,
            "--adopt-data-dir",
        ])
        .await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("in use by another"), "{said}");
    }
    slow.send(rest).await;
    assert_eq!(slow.read_response().await.status, 200);
    assert_eq!(
        fs::metadata(directory.path().join("slow")).unwrap().len(),
        100_000
    );
    run_python(&program, "open('slow', 'a').write('y')").await;
}

async fn an_adapter_whose_address_is_taken_touches_no_directory() {
    let first = Program::start(&[]).await;
    let engine = first.started["piston_url"].as_str().unwrap().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let before = snapshot(directory.path());
    let taken = first.addr.to_string();
    for (listen, piston_url) in [
        (taken.as_str(), "http://127.0.0.1:0"),
        ("127.0.0.1:0", engine.as_str()),
    ] {
        let refused = run(&[
            "--listen",
            listen,
            "--piston-url",
            piston_url,
            "--data-dir",
            path_of(&directory),
        ])
        .await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("in use"), "{said}");
        assert_eq!(snapshot(directory.path()), before);
    }
}

async fn a_directory_that_was_not_given_is_temporary_and_goes_with_the_program() {
    let temp = open_folder();
    for engine in ["embedded", "piston"] {
        let mut program = Program::start_without_data_dir(temp.path(), &["--engine", engine]).await;
        assert_eq!(program.started["data_dir_is_temporary"], true);
        let data = PathBuf::from(program.started["data_dir"].as_str().unwrap());
        assert!(data.starts_with(temp.path()), "{data:?}");
        assert_eq!(upload(&program, "uploaded").await, 200);
        assert!(data.join("uploaded").exists());
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await, Some(0));
        eventually("nothing is left", async || {
            fs::read_dir(temp.path()).unwrap().count() == 0
        })
        .await;
    }
}

async fn what_a_killed_adapter_left_is_deleted_at_the_next_start() {
    let temp = open_folder();
    let other = temp.path().join("session-adapter-data-of-somebody");
    fs::create_dir(&other).unwrap();
    let piston = ["--engine", "piston"];
    let mut killed = Program::start_without_data_dir(temp.path(), &piston).await;
    let left = PathBuf::from(killed.started["data_dir"].as_str().unwrap());
    killed.signal(Signal::KILL);
    killed.ended().await;
    assert!(left.exists());
    let running = Program::start_without_data_dir(temp.path(), &piston).await;
    let second = Program::start_without_data_dir(temp.path(), &piston).await;
    assert!(!left.exists() && other.exists());
    for program in [&running, &second] {
        assert_eq!(upload(program, "uploaded").await, 200);
    }
}

async fn no_request_reaches_the_reserved_directory() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(&["--data-dir", path_of(&directory)]).await;
    let mark = directory.path().join(".session-adapter/data-directory");
    let text = fs::read(&mark).unwrap();
    for (method, path) in [
        ("GET", "/files/.session-adapter"),
        ("DELETE", "/files/.session-adapter"),
        ("GET", "/files?path=.session-adapter"),
        ("GET", "/files/data-directory/content?path=.session-adapter"),
        ("DELETE", "/files/data-directory?path=.session-adapter"),
        (
            "DELETE",
            "/files/data-directory?path=/mnt/data//.session-adapter/",
        ),
        ("GET", "/files/content/.session-adapter/data-directory"),
        (
            "GET",
            "/python/downloadFile?filename=.session-adapter/data-directory",
        ),
    ] {
        let refused = send(&program, method, path).await;
        assert_eq!(refused.status, 400, "{method} {path}: {}", refused.text());
    }
    for name in [
        ".session-adapter",
        ".session-adapter/x",
        "/mnt/data/.session-adapter/y",
    ] {
        assert_eq!(upload(&program, name).await, 400, "{name}");
    }
    let list = raw::get(program.addr, "/files?recursive=true").await.json();
    assert_eq!(list["value"].as_array().unwrap().len(), 0, "{list}");
    run_python(&program, "1").await;
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(fs::read(&mark).unwrap(), text);
}

async fn what_cannot_be_deleted_is_named() {
    let directory = open_folder();
    let others = subfolder(directory.path(), "others");
    for number in 0..12 {
        fs::write(others.join(number.to_string()), "x").unwrap();
    }
    let adopted = ["--data-dir", path_of(&directory), "--adopt-data-dir"];
    let program = Program::start(&adopted).await;
    run_python(&program, "open('own', 'w').write('x')").await;
    // The session is an ordinary user there, and the directory is root's.
    let refused = send(&program, "DELETE", "/session").await;
    assert_eq!(refused.status, 500);
    let error = refused.json()["error"].clone();
    assert_eq!(error["code"], "DeletionFailed");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("'others/"), "{message}");
    assert!(message.contains("and 2 more"), "{message}");
    assert!(!directory.path().join("own").exists());
    assert_eq!(fs::read_dir(&others).unwrap().count(), 12);
    fs::remove_dir_all(&others).unwrap();
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
}

async fn a_directory_where_the_image_has_its_own_is_left_alone() {
    // In a mount namespace of its own, whose /mnt/data is writable and holds a document.
    let program = Program::start_in_mount_namespace(
        "mount -t tmpfs none /mnt && mkdir -m 0777 /mnt/data && echo x > /mnt/data/document \
         && touch -d @1 /mnt/data/document /mnt/data",
    )
    .await;
    let data = format!("/proc/{}/root/mnt/data", program.pid());
    let before = snapshot(Path::new(&data));
    assert_eq!(before.len(), 2);
    assert_eq!(program.started["data_dir_is_temporary"], true);
    assert_eq!(upload(&program, "uploaded").await, 200);
    run_python(&program, "open('written', 'w').write('x')").await;
    let list = raw::get(program.addr, "/files").await.json();
    assert_eq!(list["value"].as_array().unwrap().len(), 2, "{list}");
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(snapshot(Path::new(&data)), before);
}

async fn a_directory_stays_its_own_whatever_a_program_makes_of_the_mark() {
    let directory = open_folder();
    let arguments = ["--data-dir", path_of(&directory)];
    for code in [
        "import os; os.rename('.session-adapter', 'x')",
        "import os; os.rename('.session-adapter', 'y'); open('.session-adapter', 'w')",
        "import os; os.rename('.session-adapter', 'z'); os.mkdir('.session-adapter', 0)",
    ] {
        let mut program = Program::start(&arguments).await;
        run_python(&program, code).await;
        assert_eq!(upload(&program, "uploaded").await, 200, "{code}");
        run_python(&program, code).await;
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await, Some(0), "{code}");
    }
    let program = Program::start(&arguments).await;
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 404, "{}", deleted.text());
    run_python(&program, "1").await;
    let deleted = send(&program, "DELETE", "/session").await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

async fn what_a_killed_adapter_with_the_other_engine_left_is_deleted_too() {
    let temp = open_folder();
    let piston = ["--engine", "piston"];
    let mut killed = Program::start_without_data_dir(temp.path(), &piston).await;
    let left = PathBuf::from(killed.started["data_dir"].as_str().unwrap());
    killed.signal(Signal::KILL);
    killed.ended().await;
    assert!(left.exists());
    let _running = Program::start_without_data_dir(temp.path(), &[]).await;
    assert!(!left.exists());
}

async fn a_relative_directory_works_as_an_absolute_one() {
    let folder = open_folder();
    let shell = format!("cd {} && mkdir -m 0755 data", path_of(&folder));
    let program = Program::start_after(&shell, &["--data-dir", "data"]).await;
    let written = run_python(&program, "open('new', 'w').write('x')").await;
    assert_eq!(written["outcome"], "success", "{written}");
    assert!(folder.path().join("data/new").exists());
}
