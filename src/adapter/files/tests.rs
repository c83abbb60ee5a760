use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, mkdirat, mknodat, openat};

use super::*;
use crate::data_dir::{DataDir, MARK, RESERVED};
use crate::tree::OPEN_DIR;

struct Place {
    temp: tempfile::TempDir,
    store: FileStore,
}

impl Place {
    fn new() -> Self {
        Self::with(FileLimits {
            bytes: 1 << 30,
            entries: 1000,
        })
    }

    fn with(limits: FileLimits) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        let store = FileStore::open(&data, limits).unwrap();
        Self { temp, store }
    }

    fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    fn at(&self, path: &str) -> FilePath {
        let names = self.store.names();
        names.nested_file(FolderPath::default(), path).unwrap()
    }

    fn upload(&self, path: &str, bytes: &[u8]) -> Result<PendingUpload, FileError> {
        let mut upload = self.store.begin_upload(self.at(path))?;
        upload.write(bytes)?;
        Ok(upload)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<Entry, FileError> {
        self.upload(path, bytes)?.stage()?.commit()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        Ok(rest(self.store.read(&self.at(path))?))
    }

    fn list(&self, path: &str, recursive: bool) -> Vec<String> {
        let folder = self.store.names().folder(path).unwrap();
        let entries = self.store.list(&folder, recursive).unwrap();
        entries.iter().map(Entry::path).collect()
    }

    /// Everything that is really there, uploads included.
    fn all(&self) -> usize {
        let reserved = fs::read_dir(self.data().join(RESERVED));
        let reserved = reserved.into_iter().flatten().flatten();
        let uploads = reserved.filter(|entry| entry.file_name() != MARK).count();
        let entries = fs::read_dir(self.data()).unwrap().flatten();
        entries
            .filter(|entry| entry.file_name() != RESERVED)
            .count()
            + uploads
    }
}

fn rest(mut content: Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    while content.left() > 0 {
        bytes.extend(content.read().unwrap());
    }
    assert!(content.read().unwrap().is_empty());
    bytes
}

#[test]
fn a_file_is_written_listed_read_replaced_and_deleted() {
    let place = Place::new();
    let entry = place.write("a/b/ü.txt", b"one").unwrap();
    assert_eq!((entry.name.as_str(), entry.size), ("ü.txt", 3));
    assert_eq!(place.list("", false), ["a"]);
    assert_eq!(place.list("", true), ["a", "a/b", "a/b/ü.txt"]);
    assert_eq!(place.list("/mnt/data/a", true), ["b", "b/ü.txt"]);
    assert_eq!(place.read("a/b/ü.txt").unwrap(), b"one");
    place.write("a/b/ü.txt", b"").unwrap();
    assert_eq!(place.read("a/b/ü.txt").unwrap(), b"");
    place.store.delete(&place.at("a/b/ü.txt")).unwrap();
    let gone = place.read("a/b/ü.txt");
    assert!(matches!(gone, Err(FileError::NotFound)));
    let gone = place.store.delete(&place.at("a/b/ü.txt"));
    assert!(matches!(gone, Err(FileError::NotFound)));
}

#[test]
fn the_programs_of_the_session_may_change_what_was_uploaded() {
    let place = Place::new();
    place.write("folder/file", b"x").unwrap();
    let mode = |path: &str| fs::metadata(place.data().join(path)).unwrap().mode() & 0o777;
    assert_eq!(mode("folder"), 0o775);
    assert_eq!(mode("folder/file"), 0o664);
}

#[test]
fn an_upload_that_is_not_complete_is_nowhere() {
    let place = Place::new();
    let upload = place.upload("x", b"half").unwrap();
    assert_eq!(place.all(), 1);
    assert!(place.list("", true).is_empty());
    drop(upload);
    assert_eq!(place.all(), 0);
    drop(place.upload("x", b"whole").unwrap().stage().unwrap());
    assert_eq!(place.all(), 0);
}

#[test]
fn another_store_over_the_same_directory_leaves_uploads_alone() {
    let place = Place::new();
    let upload = place.upload("x", b"bytes").unwrap();
    let limits = place.store.shared.limits;
    FileStore::open(&place.data(), limits).unwrap();
    upload.stage().unwrap().commit().unwrap();
    assert_eq!(place.read("x").unwrap(), b"bytes");
}

#[test]
fn an_upload_survives_programs_that_move_its_directory() {
    let place = Place::new();
    let reserved = place.data().join(RESERVED);
    let upload = place.upload("x", b"bytes").unwrap();
    fs::rename(&reserved, place.data().join("moved")).unwrap();
    fs::write(&reserved, "in its place").unwrap();
    let second = place.upload("y", b"more").unwrap();
    upload.stage().unwrap().commit().unwrap();
    second.stage().unwrap().commit().unwrap();
    assert_eq!(
        place.list("", true),
        ["moved", "x", "y", "moved/data-directory"]
    );
    assert_eq!(place.read("x").unwrap(), b"bytes");
}

#[test]
fn deleting_the_session_leaves_the_mark_and_lost_and_found() {
    let temp = tempfile::tempdir().unwrap();
    let lost_and_found = temp.path().join("lost+found/inode");
    fs::create_dir_all(&lost_and_found).unwrap();
    DataDir::open(temp.path(), true)
        .unwrap()
        .mark(None)
        .unwrap();
    let limits = FileLimits {
        bytes: 1 << 20,
        entries: 10,
    };
    let store = FileStore::open(temp.path(), limits).unwrap();
    fs::create_dir_all(temp.path().join("a/lost+found")).unwrap();
    fs::write(temp.path().join(RESERVED).join("upload"), "x").unwrap();
    store.clear().unwrap();
    let reserved = fs::read_dir(temp.path().join(RESERVED)).unwrap();
    assert_eq!(reserved.count(), 1);
    // The file system's own is root's; others only have its name.
    let is_roots = rustix::process::geteuid().is_root();
    assert_eq!(lost_and_found.exists(), is_roots);
    let left = fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(left, 1 + usize::from(is_roots));
}

#[test]
fn a_reader_keeps_the_bytes_of_the_file_that_is_replaced() {
    let place = Place::new();
    place.write("x", &[1; 100_000]).unwrap();
    let mut content = place.store.read(&place.at("x")).unwrap();
    let first = content.read().unwrap();
    place.write("x", b"new").unwrap();
    assert_eq!([&first[..], &rest(content)].concat(), [1; 100_000]);
    assert_eq!(place.read("x").unwrap(), b"new");
}

#[test]
fn a_file_that_shrinks_is_told_and_one_that_grows_is_cut() {
    let place = Place::new();
    place.write("x", &[1; 100]).unwrap();
    let mut content = place.store.read(&place.at("x")).unwrap();
    fs::write(place.data().join("x"), "").unwrap();
    assert_eq!(
        content.read().unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    let content = place
        .write("y", b"12")
        .and_then(|_| place.store.read(&place.at("y")));
    fs::write(place.data().join("y"), "123").unwrap();
    assert_eq!(rest(content.unwrap()), b"12");
}

#[test]
fn nothing_leads_out_of_the_data_directory() {
    let place = Place::new();
    let outside = place.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(outside.join("secret"), place.data().join("file")).unwrap();
    symlink(&outside, place.data().join("folder")).unwrap();
    symlink("/proc/self/root", place.data().join("root")).unwrap();
    for path in ["file", "folder/secret", "root/etc/passwd"] {
        assert!(
            matches!(place.read(path), Err(FileError::NotFound)),
            "{path}"
        );
        let entry = place.store.entry(&place.at(path));
        assert!(matches!(entry, Err(FileError::NotFound)), "{path}");
    }
    assert!(matches!(
        place.write("folder/new", b"x"),
        Err(FileError::Conflict)
    ));
    let folder = place.store.names().folder("folder").unwrap();
    assert!(place.store.list(&folder, true).is_err());
    assert!(place.list("", true).is_empty());
    // An upload takes the place of the link itself, and deleting deletes the link.
    place.write("file", b"mine").unwrap();
    place.store.delete(&place.at("folder")).unwrap();
    place.store.delete(&place.at("root")).unwrap();
    assert_eq!(place.list("", true), ["file"]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn only_regular_files_are_read_and_only_they_and_folders_listed() {
    let place = Place::new();
    mknodat(
        &place.store.shared.root,
        "fifo",
        FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    let socket = std::os::unix::net::UnixListener::bind(place.data().join("socket")).unwrap();
    fs::create_dir(place.data().join("folder")).unwrap();
    let bad = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(place.data().join(bad), "").unwrap();
    fs::create_dir(place.data().join("folder").join(bad)).unwrap();
    assert_eq!(place.list("", true), ["folder"]);
    for name in ["fifo", "socket", "folder"] {
        assert!(
            matches!(place.read(name), Err(FileError::NotFound)),
            "{name}"
        );
    }
    drop(socket);
}

#[test]
fn a_folder_is_not_taken_for_a_file_nor_a_file_for_a_folder() {
    let place = Place::new();
    place.write("folder/file", b"x").unwrap();
    for result in [
        place.write("folder", b"y").map(|_| ()),
        place.write("folder/file/z", b"y").map(|_| ()),
        place.store.delete(&place.at("folder")),
    ] {
        assert!(matches!(result, Err(FileError::Conflict)), "{result:?}");
    }
    let below = place.read("folder/file/z");
    assert!(matches!(below, Err(FileError::NotFound)));
    assert_eq!(place.list("", true), ["folder", "folder/file"]);
    assert_eq!(place.all(), 1);
}

#[test]
fn the_room_for_files_is_bounded() {
    let place = Place::with(FileLimits {
        bytes: 1 << 20,
        entries: 3,
    });
    place.write("a", &[1; 600_000]).unwrap();
    let full = place.write("b", &[1; 600_000]);
    assert!(matches!(full, Err(FileError::Full)));
    // Two that fit each, but not both.
    let mut one = place.upload("b", b"").unwrap();
    let mut other = place.upload("c", b"").unwrap();
    one.write(&[1; 300_000]).unwrap();
    other.write(&[1; 300_000]).unwrap();
    assert!(matches!(
        one.stage().unwrap().commit(),
        Err(FileError::Full)
    ));
    other.stage().unwrap().commit().unwrap();
    place.write("d", b"").unwrap();
    assert!(matches!(place.write("e", b""), Err(FileError::Full)));
    assert_eq!(place.all(), 3);
}

#[test]
fn what_a_program_closes_to_others_is_denied() {
    let place = Place::new();
    place.write("x", b"x").unwrap();
    fs::set_permissions(place.data().join("x"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads it all the same.
    if !rustix::process::geteuid().is_root() {
        assert!(matches!(place.read("x"), Err(FileError::Denied)));
    }
}

#[test]
fn files_with_several_names_are_refused_where_others_may_have_made_them() {
    let mut place = Place::new();
    place.write("x", b"x").unwrap();
    fs::hard_link(place.data().join("x"), place.data().join("y")).unwrap();
    let shared = Arc::get_mut(&mut place.store.shared).unwrap();
    shared.links_are_own = false;
    assert!(matches!(place.read("y"), Err(FileError::Denied)));
    assert!(place.store.for_execution(100).unwrap().is_empty());
    Arc::get_mut(&mut place.store.shared).unwrap().links_are_own = true;
    assert_eq!(place.read("y").unwrap(), b"x");
}

#[test]
fn a_list_is_bounded() {
    let place = Place::new();
    for n in 0..listing::MAX_ENTRIES + 10 {
        fs::write(place.data().join(format!("{n:05}")), "").unwrap();
    }
    let list = place.list("", false);
    assert_eq!(list.len(), listing::MAX_ENTRIES);
    assert_eq!((list[0].as_str(), list[9_999].as_str()), ("00000", "09999"));
}

#[test]
fn a_tree_without_end_is_listed_in_part_and_cleared() {
    let place = Place::new();
    let mut here = place.store.shared.root().unwrap();
    for _ in 0..1_000 {
        mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = openat(&here, "d", OPEN_DIR, Mode::empty()).unwrap();
    }
    fs::write(place.data().join("file"), "x").unwrap();
    assert!(place.list("", true).len() <= name::MAX_DEPTH + 2);
    assert!(matches!(place.write("x", b"x"), Err(FileError::Full)));
    place.store.clear().unwrap();
    assert_eq!(place.all(), 0);
    place.write("x", b"x").unwrap();
}

#[test]
fn files_are_gathered_for_an_engine_elsewhere() {
    let place = Place::new();
    place.write("b", b"22").unwrap();
    place.write("a/c", b"\x00\xff1").unwrap();
    symlink("/etc/passwd", place.data().join("link")).unwrap();
    let files = place.store.for_execution(5).unwrap();
    assert_eq!(
        files,
        [
            ("a/c".to_owned(), b"\x00\xff1".to_vec()),
            ("b".to_owned(), b"22".to_vec())
        ]
    );
    let too_much = place.store.for_execution(4);
    assert!(matches!(
        too_much,
        Err(FileError::TooMuch { bytes: 5, limit: 4 })
    ));
}
