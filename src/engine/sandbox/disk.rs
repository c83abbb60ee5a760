//! What a job has on disk: measured while the job runs, deleted or handed over afterwards.
//!
//! Other jobs may be changing the same directories meanwhile. Entries are therefore handled by
//! descriptor, and the owner is checked on the descriptor that is acted on.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, chmod, chownat, fchmod, fchown,
    fstat, openat, openat2, removexattr, stat, unlinkat,
};
use rustix::process::{Gid, Uid};

use crate::data_dir::is_reserved;
use crate::tree::{
    MAX_DEPTH, Next, OPEN_DIR, Space, SpaceCounter, delete_own_tree, delete_tree, walk,
};

use super::files::SHARED_DIRS;
use super::slots::{Block, JobIds, UID_RANGE};

/// How many folders of others are searched for folders that a job may write to, in each shared directory.
const MAX_SEARCHED: usize = 10_000;
/// Minimum time between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);
/// How far the clock of file systems is behind, at most: they take the time of the last tick.
const FILE_CLOCK_LAG: Duration = Duration::from_millis(20);
/// Access control lists: of a file, and for what is made in a folder.
const ACCESS_LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OPEN_DIR, Mode::empty())?)
}

/// A time of the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileTime(i64, i64);

impl FileTime {
    /// Whatever changes from now on is not older.
    pub(super) fn now() -> Self {
        let now = SystemTime::now() - FILE_CLOCK_LAG;
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Self(seconds, since.subsec_nanos().into())
    }

    /// When an entry was last changed, moved or linked, which programs cannot forge.
    fn of_change(found: &Stat) -> Self {
        Self(found.st_ctime, found.st_ctime_nsec as i64)
    }
}

/// The shared directories, and the folders of others in them that everybody may write to.
///
/// They are searched for once and not for each job: a shared directory may hold large trees of others.
#[derive(Debug)]
pub(super) struct SharedPlaces {
    places: Vec<Place>,
    search_after: Instant,
}

/// A folder in which everybody may make something.
#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Place {
    /// Opens it. `None` if it is gone, or if a program has replaced a folder above it by a link.
    fn open(&self) -> Option<(OwnedFd, Stat)> {
        let flags = ResolveFlags::NO_SYMLINKS;
        let folder = openat2(CWD, &self.path, OPEN_DIR, Mode::empty(), flags).ok()?;
        let found = fstat(&folder).ok()?;
        (self.identity == (found.st_dev, found.st_ino)).then_some((folder, found))
    }
}

impl SharedPlaces {
    pub(super) fn search(data_dir: &Path) -> Self {
        let started = Instant::now();
        let data_dir = identity(data_dir);
        let mut places = Vec::new();
        for shared in SHARED_DIRS {
            // It may be a link itself.
            let Ok(shared) = std::fs::canonicalize(shared) else {
                continue;
            };
            if let (Ok(root), Some(identity)) = (open(&shared), identity(&shared)) {
                let path = shared.clone();
                places.push(Place { path, identity });
                search_open_folders(root, &shared, data_dir, &mut places);
            }
        }
        Self {
            places,
            // A hundredth of the time at most, whatever there is to be searched.
            search_after: Instant::now() + SEARCH_INTERVAL.max(started.elapsed() * 100),
        }
    }

    /// Searches again if the last search is old enough.
    pub(super) fn refresh(&mut self, data_dir: &Path) {
        if Instant::now() >= self.search_after {
            *self = Self::search(data_dir);
        }
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    let found = stat(folder).ok()?;
    Some((found.st_dev, found.st_ino))
}

/// Adds the folders below a shared directory, other than the data directory, that everybody may write to.
fn search_open_folders(
    root: OwnedFd,
    shared: &Path,
    data_dir: Option<(u64, u64)>,
    places: &mut Vec<Place>,
) {
    use std::os::unix::ffi::OsStrExt;
    let mut searched = 0;
    let mut parents: Vec<PathBuf> = vec![shared.to_owned()];
    let _ = walk(root, |_, name, found, depth| {
        let mode = Mode::from_raw_mode(found.st_mode);
        let is_folder = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let identity = (found.st_dev, found.st_ino);
        // What jobs have made is found by its owner, and may be replaced at any time.
        let is_of_others = data_dir != Some(identity) && !UID_RANGE.contains(&found.st_uid);
        if !is_folder || !is_of_others || !mode.contains(Mode::XOTH) || searched >= MAX_SEARCHED {
            return Ok(Next::Skip);
        }
        searched += 1;
        parents.truncate(depth + 1);
        let name = std::ffi::OsStr::from_bytes(name.to_bytes());
        let path = parents
            .last()
            .map_or(PathBuf::new(), |parent| parent.join(name));
        if mode.contains(Mode::WOTH) {
            let path = path.clone();
            places.push(Place { path, identity });
        }
        parents.push(path);
        Ok(Next::Enter)
    });
}

/// What one job leaves in the shared directories.
#[derive(Debug, Clone)]
pub(super) struct Leftovers {
    block: Block,
    ids: JobIds,
    places: Vec<Place>,
    /// When the job's keeper was started.
    started: FileTime,
    /// When the job itself began, if it has.
    since: Option<FileTime>,
}

impl Leftovers {
    pub(super) fn new(
        block: &Block,
        ids: JobIds,
        places: &SharedPlaces,
        started: FileTime,
        since: Option<FileTime>,
    ) -> Self {
        Self {
            block: block.clone(),
            ids,
            places: places.places.clone(),
            started,
            since,
        }
    }

    fn contains(&self, found: &Stat) -> bool {
        let changed = FileTime::of_change(found);
        let is_of_job =
            found.st_uid == self.ids.uid && (self.ids.is_sole_user || found.st_gid == self.ids.gid);
        // An interrupted sweep leaves what it has taken over with the slot's user.
        let is_taken_over = found.st_uid == self.ids.gid;
        if is_of_job || is_taken_over {
            return changed >= self.started;
        }
        // What is moved or linked here from the data directory keeps its owner and group. It is counted and
        // swept for whichever job could have done it.
        found.st_uid == self.block.session
            && !self.block.is_of_slot(found.st_gid)
            && self.since.is_some_and(|since| changed >= since)
    }

    /// The space that they take up.
    pub(super) fn space(&self) -> Space {
        let mut counter = SpaceCounter::default();
        let mut is_complete = true;
        self.for_each(|folder, name, found| {
            counter.add(found);
            let opened = openat(folder, name, OPEN_DIR, Mode::empty());
            if let Ok(opened) = opened {
                let walked = walk(opened, |_, _, found, _| {
                    counter.add(found);
                    Ok(Next::Enter)
                });
                is_complete &= walked.is_ok_and(|missed| !missed.too_deep);
            }
        });
        let mut space = counter.space();
        if !is_complete {
            space.entries = u64::MAX;
        }
        space
    }

    /// Deletes them.
    ///
    /// # Errors
    /// If something could not be deleted; the rest is deleted all the same.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let mut failed = None;
        self.for_each(|folder, name, found| {
            let deleted = delete(&self.block, self.ids.gid, folder, name, found);
            failed = deleted.err().or(failed.take());
        });
        failed.map_or(Ok(()), Err)
    }

    /// Visits them, but not what is in folders among them.
    fn for_each(&self, mut visit: impl FnMut(&OwnedFd, &CStr, &Stat)) {
        for place in &self.places {
            let Some((root, found)) = place.open() else {
                continue;
            };
            // Making, moving or linking something there would have changed it.
            if FileTime::of_change(&found) < self.started {
                continue;
            }
            let _ = walk(root, |folder, name, found, _| {
                if self.contains(found) {
                    visit(folder, name, found);
                }
                Ok(Next::Skip)
            });
        }
    }
}

/// Deletes what jobs with these ids have left in the shared directories when their engine was killed with
/// all its processes.
///
/// # Errors
/// If something could not be deleted; the rest is deleted all the same.
pub(super) fn sweep_abandoned(block: &Block) -> io::Result<()> {
    let mut failed = None;
    for shared in SHARED_DIRS {
        let Ok(root) = open(Path::new(shared)) else {
            continue;
        };
        let _ = walk(root, |folder, name, found, _| {
            let is_of_session = found.st_uid == block.session && block.is_of_slot(found.st_gid);
            if is_of_session || block.is_of_slot(found.st_uid) {
                let slot = match is_of_session {
                    true => found.st_gid,
                    false => found.st_uid,
                };
                let deleted = delete(block, slot, folder, name, found);
                failed = deleted.err().or(failed.take());
            }
            Ok(Next::Skip)
        });
    }
    failed.map_or(Ok(()), Err)
}

/// Deletes a leftover of the job in this slot, but nothing that is not a job's.
fn delete(block: &Block, slot: u32, folder: &OwnedFd, name: &CStr, found: &Stat) -> io::Result<()> {
    let is_own = |found: &Stat| found.st_uid == block.session || block.is_of_slot(found.st_uid);
    let deleted = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => delete_own_tree(folder, name, slot, &is_own).map(|_is_gone| ()),
        _ => unlinkat(folder, name, AtFlags::empty()).map_err(Into::into),
    };
    match deleted {
        // Another job has moved it, whose keeper finds it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn path_of(folder: &OwnedFd, name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Makes the data directory writable for the jobs' users through a common group. Without the sticky
/// bit, each of them can delete what another left. What an earlier engine's users own in it, which may
/// have been others, becomes the session's.
///
/// # Errors
/// If the directory does not exist or this process may not change it.
pub(super) fn open_to_group(data_dir: &Path, block: &Block) -> io::Result<()> {
    let folder = open(data_dir)?;
    let mode = Mode::from_raw_mode(fstat(&folder)?.st_mode);
    fchown(&folder, None, Some(Gid::from_raw(block.service)))?;
    fchmod(&folder, (mode | Mode::RWXG | Mode::SGID) - Mode::SVTX)?;
    hand_over_where(data_dir, block, |found| {
        found.st_uid != block.session && UID_RANGE.contains(&found.st_uid)
    })
}

/// Gives what a program has left in the data directory to the session, and opens it to the group of all
/// jobs: the next program may have another user, if others run meanwhile.
///
/// Other jobs may be using the directory: each entry is opened, its owner checked on the descriptor,
/// and only then changed. Directories nested too deeply to be entered are deleted.
///
/// # Errors
/// If the data directory cannot be opened, or an owner or mode cannot be changed.
pub(super) fn hand_over(
    data_dir: &Path,
    block: &Block,
    ids: JobIds,
    since: FileTime,
) -> io::Result<()> {
    let is_left = |found: &Stat| {
        found.st_uid == ids.uid && (ids.is_sole_user || FileTime::of_change(found) >= since)
    };
    match hand_over_where(data_dir, block, is_left) {
        // With the data directory its files are gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn hand_over_where(
    data_dir: &Path,
    block: &Block,
    is_left: impl Fn(&Stat) -> bool,
) -> io::Result<()> {
    walk(open(data_dir)?, |folder, name, found, depth| {
        // The server's, and not to be opened to programs, unless a program has put its own in its place.
        if depth == 0 && is_reserved(name) && !block.is_of_slot(found.st_uid) {
            return Ok(Next::Skip);
        }
        if !is_left(found) {
            return Ok(Next::Enter);
        }
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory && depth >= MAX_DEPTH {
            // Nobody could reach its contents. If another job moves it meanwhile, it stays.
            let _ = delete_tree(&path_of(folder, name));
            return Ok(Next::Skip);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(held) = openat(folder, name, flags, Mode::empty()) else {
            return Ok(Next::Skip);
        };
        let found = fstat(&held)?;
        if !is_left(&found) {
            return Ok(Next::Skip);
        }
        give_to_session(&held, &found, block)?;
        Ok(Next::Enter)
    })?;
    Ok(())
}

fn give_to_session(held: &OwnedFd, found: &Stat, block: &Block) -> io::Result<()> {
    if (found.st_uid, found.st_gid) != (block.session, block.service) {
        let owner = Uid::from_raw(block.session);
        let group = Gid::from_raw(block.service);
        let flags = AtFlags::EMPTY_PATH;
        chownat(held, c"", Some(owner), Some(group), flags)?;
    }
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Symlink {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    for list in ACCESS_LISTS {
        // Fails where there is none. What it denies would hold whatever the mode is.
        let _ = removexattr(&path, list);
    }
    let mode = shared_mode(Mode::from_raw_mode(found.st_mode), kind);
    if Mode::from_raw_mode(found.st_mode) != mode {
        chmod(&path, mode)?;
    }
    Ok(())
}

/// The mode of an entry that its owner can use, and its group in the same way.
fn shared_mode(mode: Mode, kind: FileType) -> Mode {
    let (owner, kept) = match kind {
        FileType::Directory => (Mode::RWXU, Mode::SGID),
        _ => (Mode::RUSR | Mode::WUSR, Mode::empty()),
    };
    let rights = mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO | kept) | owner;
    let group = Mode::from_raw_mode((rights & Mode::RWXU).bits() >> 3);
    match kind {
        FileType::Directory => rights | group | Mode::SGID,
        _ => rights | group,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_owner_may_do_the_group_may_too() {
        for (kind, mode, expected) in [
            (FileType::RegularFile, 0o000, 0o660),
            (FileType::RegularFile, 0o600, 0o660),
            (FileType::RegularFile, 0o755, 0o775),
            (FileType::RegularFile, 0o4700, 0o770),
            (FileType::Directory, 0o000, 0o2770),
            (FileType::Directory, 0o1755, 0o2775),
        ] {
            let shared = shared_mode(Mode::from_raw_mode(mode), kind);
            assert_eq!(shared, Mode::from_raw_mode(expected), "{mode:o}");
        }
    }
}
