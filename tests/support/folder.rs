//! Folders of a test's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A temporary folder that every user may enter: jobs that have users of their own work below it.
pub fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    open_to_all(folder.path());
    folder
}

/// An empty folder of this name in another one, which every user may enter whatever the umask is.
pub fn subfolder(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    std::fs::create_dir(&path).unwrap();
    open_to_all(&path);
    path
}

/// A file that every user may read whatever the umask is.
pub fn readable_file(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}
